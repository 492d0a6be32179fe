/**
 * How an object gets in: size, signature, rules, verifier in a worker, budgets; in this order, and nothing is left of
 * one that does not.
 */
import { createHash } from 'node:crypto';
import type { OwnedFd } from '../../bpf/fds.ts';
import { possibleCpus } from '../../bpf/map-ops.ts';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { wireFailure } from '../../wire/errors.ts';
import type { ObjectInfo, Params, Used } from '../../wire/schema.ts';
import type { CheckOptions } from '../admission/check.ts';
import { runTimeRefusal } from '../admission/cost/run-time.ts';
import { refusalError } from '../admission/verdict.ts';
import type { Rule, Verdict } from '../admission/verdict.ts';
import { HOOK_TABLE } from '../hooks.ts';
import type { LoadRequest, LoadedMap, LoadedObject } from '../loader/loader.ts';
import type { VmArena } from './arena.ts';
import { runNsOf } from '../config.ts';
import type { Quotas, VmSpec } from '../config.ts';
import { setOwn } from '../../core/own.ts';

/** What of a VM's configuration can change while it runs. */
export interface VmSettings {
  quotas: Quotas;
  policy: VmSpec['policy'];
  signature: VmSpec['signature'];
  /** The id of the key by which the object is signed. Throws HT_SIGNATURE. */
  verify(elf: Uint8Array, signature: { keyId: string; value: string }): string;
}

export interface AdmissionDeps {
  vm: string;
  arena: Pick<VmArena, 'map' | 'bytes'>;
  load: (request: LoadRequest) => Promise<LoadedObject>;
  loadTimeoutMs: number;
  check: (elf: Uint8Array, options: CheckOptions, signal: AbortSignal) => Promise<Verdict>;
  settings: () => VmSettings;
}

export type ElfParams = Params<'load'>;

/** What objects and links count for, of all that quotas limit. */
export type ObjectsUsed = Omit<Used, 'watches' | 'nics'>;

/** An object as it was asked for, decoded. */
export interface Candidate {
  readonly params: ElfParams;
  readonly elf: Uint8Array;
  /** Identity of content and constants: the same identity is the same object. */
  readonly identity: string;
}

export interface Admitted {
  readonly object: LoadedObject;
  readonly info: ObjectInfo;
  readonly identity: string;
}

/** Throws HT_QUOTA. */
export function candidate(params: ElfParams, quotas: Quotas): Candidate {
  const elf = Buffer.from(params.elf, 'base64');
  if (elf.length > quotas.elfBytes)
    throw quotaError('elfBytes', quotas.elfBytes, `${elf.length} bytes given`);
  return { params, elf, identity: identityOf(elf, params.constants) };
}

/**
 * The caller owns the object that it gets. `used`: what the VM has without it; maps of `old` of the same shape are
 * used again. Throws HT_SIGNATURE, HT_REFUSED, HT_QUOTA, HT_VERIFIER_REJECTED, what the loader throws, or the signal's
 * reason.
 */
export async function admit(
  deps: AdmissionDeps,
  { params, elf, identity }: Candidate,
  how: { used: ObjectsUsed; old?: LoadedObject; signal: AbortSignal },
): Promise<Admitted> {
  const settings = deps.settings();
  const { quotas, policy } = settings;
  const signedBy = signer(params, elf, settings);
  const left = {
    elfBytes: quotas.elfBytes,
    programs: quotas.programs - how.used.programs,
    maps: quotas.maps - how.used.maps,
    mapBytes: quotas.mapBytes - how.used.mapBytes,
    instructions: quotas.instructions,
  };
  const hooks = HOOK_TABLE.map((h) => ({
    ...h,
    runNs: runNsOf(h, quotas),
    helpers: h.helpers.filter((helper) => !policy.forbiddenHelpers.includes(helper.name)),
  }));
  const policyHere = { cpus: possibleCpus(), ...(policy.hooks ? { hooks: policy.hooks } : {}) };
  const verdict = await deps.check(elf, { policy: policyHere, hooks, limits: left }, how.signal);
  how.signal.throwIfAborted();
  if (!verdict.ok) throw refusalError(params.name, verdict.refusals);

  const reuse: Record<string, OwnedFd> = {};
  for (const map of verdict.maps) {
    const same = how.old && sameShape(map, how.old);
    if (map.arena) setOwn(reuse, map.name, deps.arena.map.file);
    else if (same) setOwn(reuse, map.name, same.file);
  }
  const object = await deps
    .load({
      vm: deps.vm,
      name: params.name,
      elf,
      constants: constantsOf(params, verdict, deps.arena.bytes),
      reuse,
      signal: how.signal,
      timeoutMs: deps.loadTimeoutMs,
    })
    .catch((e: unknown) => {
      throw ofTheObject(e);
    });
  try {
    how.signal.throwIfAborted();
    const info = objectInfo(params, elf, signedBy, verdict, object);
    checkBudgets(info, quotas, left, verdict);
    return { object, info, identity };
  } catch (e) {
    object.close();
    throw e;
  }
}

/** What libbpf or the kernel does not take without a word of the verifier is the object's fault as well. */
function ofTheObject(e: unknown): unknown {
  if (isHyperturtleError(e, 'HT_BPF'))
    return wireFailure('REFUSED', e.message, { rule: 'kernel' satisfies Rule });
  if (isHyperturtleError(e, 'HT_NO_MEMORY')) return wireFailure('QUOTA', e.message);
  return e;
}

function signer(params: ElfParams, elf: Uint8Array, settings: VmSettings): string | null {
  if (settings.signature === 'none') return null;
  if (params.signature) return settings.verify(elf, params.signature);
  if (settings.signature === 'optional') return null;
  throw new HyperturtleError(
    'HT_SIGNATURE',
    `object '${params.name}' is not signed, and this VM may load signed objects only: sign it ('hyperturtle sign')`,
  );
}

/** `found`: what was asked for, where the quota is no number of things that are used one by one. */
export function quotaError(quota: keyof Quotas, limit: number, found?: string): HyperturtleError {
  const state = found === undefined ? `${limit} of ${limit} used` : `at most ${limit}, ${found}`;
  return new HyperturtleError('HT_QUOTA', `quota exceeded: ${quota} (${state})`, {
    detail: { quota, limit },
  });
}

/** Variables (.rodata, .data, .bss) are never kept: the new version begins with its own. */
function sameShape(map: Verdict['maps'][number], old: LoadedObject): LoadedMap | undefined {
  if (map.variables) return undefined;
  return old.maps.find(
    (m) =>
      m.name === map.name &&
      m.info.typeName === map.type &&
      m.info.keyBytes === map.keyBytes &&
      m.info.valueBytes === map.valueBytes &&
      m.info.maxEntries === map.maxEntries &&
      m.info.flags === map.flags,
  );
}

function identityOf(elf: Uint8Array, constants: ElfParams['constants']): string {
  const sorted = Object.entries(constants ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
  return `${sha256(elf)} ${JSON.stringify(sorted)}`;
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** The bytes of each variable, little-endian, as numbers; and the arena's size for programs that ask for it. */
function constantsOf(params: ElfParams, verdict: Verdict, arenaBytes: number): Record<string, bigint> {
  const out: Record<string, bigint> = {};
  if (verdict.constants.includes('arena_bytes')) out['arena_bytes'] = BigInt(arenaBytes);
  for (const [name, value] of Object.entries(params.constants ?? {})) {
    const bytes = Buffer.from(value, 'base64');
    if (![1, 2, 4, 8].includes(bytes.length))
      throw new HyperturtleError(
        'HT_USAGE',
        `constant '${name}': 1, 2, 4 or 8 bytes expected, ${bytes.length} given`,
      );
    setOwn(out, name, BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`));
  }
  return out;
}

function objectInfo(
  params: ElfParams,
  elf: Uint8Array,
  signedBy: string | null,
  verdict: Verdict,
  object: LoadedObject,
): ObjectInfo {
  return {
    name: params.name,
    sha256: sha256(elf),
    loadedAt: new Date().toISOString(),
    signedBy,
    programs: object.programs.map((p) => ({
      name: p.name,
      section: p.section,
      hook: p.hook,
      type: HOOK_TABLE.find((h) => h.name === p.hook)?.programType.name ?? String(p.info.type),
      id: p.info.id,
      instructions: verdict.programs.find((v) => v.name === p.name)?.instructions ?? 0,
      verifiedInstructions: p.info.verifiedInstructions,
      jitedBytes: p.info.jitedBytes,
    })),
    maps: object.maps.map((m) => {
      const arena = verdict.maps.some((v) => v.name === m.name && v.arena);
      return {
        name: m.name,
        type: m.info.typeName,
        keyBytes: m.info.keyBytes,
        valueBytes: m.info.valueBytes,
        maxEntries: m.info.maxEntries,
        bytes: arena ? 0 : m.bytes,
        arena,
      };
    }),
  };
}

/** After loading: what the kernel really took and walked. */
function checkBudgets(info: ObjectInfo, quotas: Quotas, left: { mapBytes: number }, verdict: Verdict): void {
  const mapBytes = info.maps.reduce((sum, m) => sum + m.bytes, 0);
  if (mapBytes > left.mapBytes)
    throw quotaError('mapBytes', quotas.mapBytes, `${mapBytes} needed, ${left.mapBytes} left`);
  for (const p of info.programs) {
    const hook = HOOK_TABLE.find((h) => h.name === p.hook);
    const most = Math.min(quotas.instructions, hook?.verifiedInstructions ?? quotas.instructions);
    if (p.verifiedInstructions > most)
      throw new HyperturtleError(
        'HT_REFUSED',
        `program '${p.name}': the verifier walked ${p.verifiedInstructions} instructions, at most ${most} allowed: make it shorter or its loops bounded`,
        { detail: { rule: 'verified-instructions', program: p.name } },
      );
    const { run } = verdict.programs.find((v) => v.name === p.name) ?? {};
    const refusal = runTimeRefusal(p.name, run, hook ? runNsOf(hook, quotas) : 0, p.verifiedInstructions);
    if (refusal) throw refusalError(info.name, [refusal]);
  }
}
