/** What admission says about an object: what is in it, and each rule that it breaks. */
import { HyperturtleError } from '../../core/errors.ts';
import type { HookSpec } from '../hooks.ts';

/** Names of the rules: stable, in docs/admission.md, and `data.rule` of a refusal on the wire. */
export const RULES = [
  'elf',
  'section',
  'symbol',
  'relocation',
  'extern',
  'btf',
  'core-relocation',
  'program',
  'program-count',
  'hook',
  'instructions',
  'opcode',
  'raw-reference',
  'helper',
  'call',
  'kernel-function',
  'callback',
  'global-function',
  'pointer-leak',
  'license',
  'map-definition',
  'map-type',
  'map-flags',
  'map-count',
  'map-bytes',
  'pinning',
  'arena',
  'elf-bytes',
  'run-time',
  // after loading was tried: libbpf or the kernel refused without a word of the verifier
  'kernel',
  'verified-instructions',
] as const;

export type Rule = (typeof RULES)[number];

export interface Refusal {
  rule: Rule;
  program?: string;
  /** Number of the instruction in its program, from 0. */
  instruction?: number;
  /** What was expected and what was found; one line. */
  message: string;
  /** What to do about it; one line. */
  mend: string;
}

export interface CheckedProgram {
  name: string;
  section: string;
  hook: HookSpec['name'];
  /** As compiled; a 64-bit constant counts two. Without the functions that it calls. */
  instructions: number;
  /** Left out when another rule was broken: it would mean nothing. */
  run?: RunTime;
}

/** What one run may take on a slow core (cost/prices.ts), in nanoseconds. */
export interface RunTime {
  /** Without loops whose code does not say how often they go round. */
  ns: number;
  /** What those take for each instruction that the verifier walks, at most; 0: there are none. */
  nsPerInstruction: number;
  /** The instruction that takes most of it, all its rounds together. */
  dearest: Dearest;
}

export interface Dearest {
  /** The program or function that it is in. */
  program: string;
  /** From the begin of that, or of the section. */
  instruction: number;
  why: string;
  /** How often a run may come there. */
  times: number;
  ns: number;
}

export interface CheckedMap {
  name: string;
  /** `array`, `hash`, ... */
  type: string;
  keyBytes: number;
  valueBytes: number;
  maxEntries: number;
  flags: number;
  /** Kernel memory that it will take, estimated; 0 for the arena, which exists already. */
  bytes: number;
  /** It is the VM's arena and must be given one when loaded. */
  arena: boolean;
  /** It holds global variables (.rodata, .data, .bss). */
  variables: boolean;
}

export interface Verdict {
  ok: boolean;
  programs: CheckedProgram[];
  maps: CheckedMap[];
  /** Names of the constants (`const volatile` of .rodata) that may be set when loading. */
  constants: string[];
  refusals: Refusal[];
}

/** Limits that one object must keep; a daemon passes what the VM's quotas leave. */
export interface ObjectLimits {
  elfBytes: number;
  programs: number;
  maps: number;
  /** All maps together, without the arena. */
  mapBytes: number;
  /** All programs and functions together, as compiled. */
  instructions: number;
}

export const DEFAULT_OBJECT_LIMITS: ObjectLimits = {
  elfBytes: 1 << 20,
  programs: 8,
  maps: 16,
  mapBytes: 16 << 20,
  instructions: 65_536,
};

export interface AdmissionPolicy {
  /** Hooks that this VM may use, by name; all when left out. */
  hooks?: readonly string[];
  /** Possible CPUs of the host: per-CPU maps take that many values each. */
  cpus: number;
}

/** HT_REFUSED with the first refusal's words and all of them as detail.refusals; HT_QUOTA for rules about amounts. */
export function refusalError(objectName: string, refusals: readonly Refusal[]): HyperturtleError {
  const first = refusals[0];
  if (first === undefined) return new HyperturtleError('HT_REFUSED', `object '${objectName}' was refused`);
  const where =
    (first.program === undefined ? '' : ` in program '${first.program}'`) +
    (first.instruction === undefined ? '' : ` at instruction ${first.instruction}`);
  const more = refusals.length > 1 ? ` (and ${refusals.length - 1} more)` : '';
  return new HyperturtleError(
    AMOUNTS.has(first.rule) ? 'HT_QUOTA' : 'HT_REFUSED',
    `object '${objectName}' is refused by rule '${first.rule}'${where}: ${first.message}; ${first.mend}${more}`,
    {
      detail: {
        rule: first.rule,
        ...(first.program === undefined ? {} : { program: first.program }),
        ...(first.instruction === undefined ? {} : { instruction: first.instruction }),
        refusals: [...refusals],
      },
    },
  );
}

const AMOUNTS: ReadonlySet<Rule> = new Set([
  'elf-bytes',
  'program-count',
  'map-count',
  'map-bytes',
  'instructions',
]);
