/**
 * The rules that an object must keep before libbpf or the kernel see a byte of it. Pure: the same answer in the
 * daemon and in `hyperturtle check`, on any machine. Each rule with its reason: docs/admission.md.
 */
import { SHT_NOBITS, STT_OBJECT, parseElf, sectionBytes } from '../../bpf/elf.ts';
import type { Elf } from '../../bpf/elf.ts';
import { CALL_HELPER, INSN_BYTES, OP_CALL } from '../../kernel/bpf-insn.ts';
import { HOOK_TABLE } from '../hooks.ts';
import type { HelperSpec, HookSpec } from '../hooks.ts';
import { checkAddresses } from './addresses.ts';
import { checkCode } from './code.ts';
import { runTimeRefusal, runTimes } from './cost/run-time.ts';
import type { RunTimeContext } from './cost/run-time.ts';
import { Findings, REBUILD } from './findings.ts';
import { C_NAME, checkLayout } from './layout.ts';
import type { Layout } from './layout.ts';
import { checkMaps } from './maps.ts';
import { checkTypes } from './types.ts';
import { DEFAULT_OBJECT_LIMITS } from './verdict.ts';
import type { AdmissionPolicy, CheckedMap, CheckedProgram, ObjectLimits, Verdict } from './verdict.ts';

export interface CheckOptions {
  policy: AdmissionPolicy;
  hooks?: readonly HookSpec[];
  limits?: ObjectLimits;
}

const MAP_UPDATE = 2;
const MAP_DELETE = 3;

/** What the kernel takes for compatible (include/linux/license.h). */
const GPL = ['GPL', 'GPL v2', 'GPL and additional rights', 'Dual BSD/GPL', 'Dual MIT/GPL', 'Dual MPL/GPL'];

/** Never throws for what is in `elf`: each fault found is a refusal. `ok` is true when there is none. */
export function checkObject(elf: Uint8Array, options: CheckOptions): Verdict {
  const f = new Findings();
  const limits = options.limits ?? DEFAULT_OBJECT_LIMITS;
  const { policy, hooks: all = HOOK_TABLE } = options;
  const hooks = all.filter((h) => policy.hooks === undefined || policy.hooks.includes(h.name));
  const verdict: Verdict = { ok: false, programs: [], maps: [], constants: [], refusals: f.refusals };
  if (elf.length > limits.elfBytes) {
    f.refuse(
      'elf-bytes',
      `at most ${limits.elfBytes} bytes expected, ${elf.length} found`,
      'strip it: llvm-strip -g',
    );
    return verdict;
  }
  const parsed = f.attempt('elf', REBUILD, () => parseElf(elf));
  if (!parsed) return verdict;
  const layout = checkLayout(parsed, hooks, f);
  const btf = checkTypes(elf, parsed, layout, f);
  const c = { bytes: elf, elf: parsed, layout, f };
  const { used, instructions } = checkCode(c);
  checkLicense(elf, layout, used, f);
  verdict.maps = checkMaps(parsed, layout, btf, policy.cpus, f);
  verdict.programs = programsOf(layout);
  verdict.constants = constantsOf(parsed);
  checkAmounts(layout, verdict.programs, verdict.maps, limits, f);
  // last, as it takes longest and relies on the others
  if (f.refusals.length === 0) {
    const facts = checkAddresses(c, instructions, verdict.maps);
    if (f.refusals.length === 0)
      checkRunTimes({ layout, instructions, facts, maps: verdict.maps, cpus: policy.cpus }, verdict, f);
  }
  verdict.ok = f.refusals.length === 0;
  return verdict;
}

/** The arena is as large as the host made it, whatever the object says: no helper copies it. */
function checkRunTimes(c: RunTimeContext, verdict: Verdict, f: Findings): void {
  const arena = verdict.maps.find((m) => m.arena);
  for (const [code, insns] of c.instructions)
    insns.forEach((i, at) => {
      if (
        !arena ||
        i.op !== OP_CALL ||
        i.src !== CALL_HELPER ||
        (i.imm !== MAP_UPDATE && i.imm !== MAP_DELETE)
      )
        return;
      const map = c.facts.get(code)?.mapOf(at) ?? null;
      if (map === null || map === arena.name)
        f.refuse('arena', 'it updates or deletes the arena as a whole', 'look it up, and write to it', {
          program:
            code.functions.find((fn) => fn.from <= at * INSN_BYTES && at * INSN_BYTES < fn.to)?.name ?? '',
          instruction: at,
        });
    });
  const runs = runTimes(c);
  for (const p of verdict.programs) {
    const run = runs.get(p.name);
    if (run) p.run = run;
    const limit = c.layout.code.find((s) => s.section.name === p.section)?.hook?.runNs ?? 0;
    const refusal = runTimeRefusal(p.name, run, limit);
    if (refusal)
      f.refuse(refusal.rule, refusal.message, refusal.mend, {
        program: p.name,
        ...(refusal.instruction === undefined ? {} : { instruction: refusal.instruction }),
      });
  }
}

function programsOf(layout: Layout): CheckedProgram[] {
  return layout.code.flatMap(({ hook, section, functions }) =>
    hook
      ? functions.map((fn) => ({
          name: fn.name,
          section: section.name,
          hook: hook.name,
          instructions: (fn.to - fn.from) / INSN_BYTES,
        }))
      : [],
  );
}

function constantsOf(elf: Elf): string[] {
  const section = elf.sections.findIndex((s) => s.name === '.rodata' && s.type !== SHT_NOBITS);
  return elf.symbols
    .filter(
      (s) =>
        s.section === section &&
        s.type === STT_OBJECT &&
        [1, 2, 4, 8].includes(s.size) &&
        // a variable; the compiler's own tables, such as `switch.table.fn`, are none
        C_NAME.test(s.name),
    )
    .map((s) => s.name);
}

function checkLicense(bytes: Uint8Array, layout: Layout, used: ReadonlySet<HelperSpec>, f: Findings): void {
  const needs = Array.from(used).find((h) => h.gpl);
  const section = layout.license;
  const raw = section ? sectionBytes(bytes, section) : new Uint8Array();
  if (section && (raw.length > 64 || raw.indexOf(0) !== raw.length - 1))
    f.refuse('license', 'section license is no text', 'char LICENSE[] SEC("license") = "GPL";');
  const text = Buffer.from(raw).toString('latin1').replace(/\0.*$/s, '');
  if (needs && !GPL.includes(text))
    f.refuse(
      'license',
      `helper ${needs.name} is for GPL-compatible programs, the license is '${text || 'none'}'`,
      `one of: ${GPL.join(', ')}`,
    );
}

function checkAmounts(
  layout: Layout,
  programs: readonly CheckedProgram[],
  maps: readonly CheckedMap[],
  limits: ObjectLimits,
  f: Findings,
): void {
  if (programs.length > limits.programs)
    f.refuse(
      'program-count',
      `at most ${limits.programs} programs expected, ${programs.length} found`,
      'split it, or ask for more',
    );
  const own = maps.filter((m) => !m.arena);
  if (own.length > limits.maps)
    f.refuse(
      'map-count',
      `at most ${limits.maps} maps expected, ${own.length} found`,
      'join some, or ask for more',
    );
  const bytes = own.reduce((n, m) => n + m.bytes, 0);
  if (!(bytes <= limits.mapBytes)) {
    const largest = own.reduce((a, b) => (b.bytes > a.bytes ? b : a));
    f.refuse(
      'map-bytes',
      `at most ${limits.mapBytes} bytes of maps expected, about ${bytes} needed, ${largest.bytes} by map '${largest.name}'`,
      'fewer entries or smaller values, or ask for more',
    );
  }
  for (const p of programs) {
    const most = layout.code.find((c) => c.section.name === p.section)?.hook?.instructions ?? 0;
    if (p.instructions > most)
      f.refuse('instructions', `at most ${most} expected, ${p.instructions} found`, 'make it smaller', {
        program: p.name,
      });
  }
  const all = layout.code.reduce((n, c) => n + c.section.size / INSN_BYTES, 0);
  if (all > limits.instructions)
    f.refuse(
      'instructions',
      `at most ${limits.instructions} in all expected, ${all} found`,
      'make it smaller',
    );
}
