/**
 * What one VM has loaded and linked, since its boot. Owns the descriptors of programs and maps and the links in the
 * kernel; `clear` gives all back. Whoever changes something holds the VM's turn (see VmService).
 */
import { createHash } from 'node:crypto';
import type { OwnedFd } from '../../bpf/fds.ts';
import { possibleCpus } from '../../bpf/map-ops.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { wireFailure } from '../../wire/errors.ts';
import type { LinkInfo, ObjectInfo, Params, Result, Used } from '../../wire/schema.ts';
import type { CheckOptions } from '../admission/check.ts';
import { refusalError } from '../admission/verdict.ts';
import type { Verdict } from '../admission/verdict.ts';
import { HOOK_TABLE } from '../hooks.ts';
import type { HookSpec } from '../hooks.ts';
import type { LoadRequest, LoadedMap, LoadedObject, LoadedProgram } from '../loader/loader.ts';
import type { VmArena } from './arena.ts';
import type { Quotas, VmSpec } from './config.ts';
import type { VmHooks } from './kernel.ts';

/** What of a VM's configuration can change while it runs. */
export interface VmSettings {
  quotas: Quotas;
  policy: VmSpec['policy'];
  signature: VmSpec['signature'];
  /** The id of the key by which the object is signed. Throws HT_SIGNATURE. */
  verify(elf: Uint8Array, signature: { keyId: string; value: string }): string;
}

export interface ObjectsOptions {
  vm: string;
  hooks: VmHooks;
  arena: VmArena;
  load: (request: LoadRequest) => Promise<LoadedObject>;
  loadTimeoutMs: number;
  check: (elf: Uint8Array, options: CheckOptions) => Verdict;
  settings: () => VmSettings;
}

interface Loaded {
  readonly object: LoadedObject;
  readonly info: ObjectInfo;
  /** Of content and constants: the same identity is the same object. */
  readonly identity: string;
}

interface Linked {
  readonly info: LinkInfo;
  readonly hook: HookSpec['name'];
}

type ElfParams = Params<'load'>;

export class VmObjects {
  readonly #options: ObjectsOptions;
  readonly #objects = new Map<string, Loaded>();
  readonly #links = new Map<number, Linked>();
  #nextLink = 1;

  constructor(options: ObjectsOptions) {
    this.#options = options;
  }

  /** Throws HT_EXISTS, HT_QUOTA, HT_SIGNATURE, HT_REFUSED, HT_VERIFIER_REJECTED, or what the loader throws. */
  async load(params: ElfParams, signal: AbortSignal): Promise<Result<'load'>> {
    const elf = this.#decode(params);
    const identity = identityOf(elf, params.constants);
    const there = this.#objects.get(params.name);
    if (there?.identity === identity) return { object: there.info, existed: true };
    if (there)
      throw new HyperturtleError(
        'HT_EXISTS',
        `object '${params.name}' is loaded with other content: replace it, or unload it first`,
      );
    const { quotas } = this.#options.settings();
    if (this.#objects.size >= quotas.objects) throw quotaError('objects', quotas.objects);
    const loaded = await this.#admit(params, elf, identity, { signal });
    this.#objects.set(params.name, loaded);
    return { object: loaded.info, existed: false };
  }

  /** Ended links are returned. Throws HT_NOT_FOUND, HT_IN_USE. */
  unload(name: string, force: boolean): LinkInfo[] {
    const loaded = this.#object(name);
    const links = this.#linksOf(name);
    if (links.length > 0 && !force)
      throw new HyperturtleError(
        'HT_IN_USE',
        `object '${name}' is linked (${links.map((l) => `link ${l.info.id} on ${l.info.hook}`).join(', ')}): unlink it first, or force`,
      );
    for (const link of links) this.unlink(link.info.id);
    this.#objects.delete(name);
    loaded.object.close();
    return links.map((l) => l.info);
  }

  /** Swaps an object for a new version, its links without a gap. When it throws, all is as before. */
  async replace(params: ElfParams, signal: AbortSignal): Promise<Result<'replace'>> {
    const old = this.#object(params.name);
    const elf = this.#decode(params);
    const identity = identityOf(elf, params.constants);
    const own = (maps: readonly { name: string; arena: boolean }[]): string[] =>
      maps.filter((m) => !m.arena).map((m) => m.name);
    if (identity === old.identity) return { object: old.info, kept: own(old.info.maps), created: [] };

    const loaded = await this.#admit(params, elf, identity, { signal, old });
    const swapped: { link: Linked; before: LoadedProgram }[] = [];
    try {
      for (const link of this.#linksOf(params.name)) {
        const before = programOf(old.object, link.hook, link.info.program);
        const after = successor(loaded.object, link);
        this.#kernelLink(link.hook, after, true);
        swapped.push({ link, before });
      }
    } catch (e) {
      for (const { link, before } of swapped.reverse()) this.#kernelLink(link.hook, before, true);
      loaded.object.close();
      throw e;
    }
    for (const { link } of swapped) {
      const { name } = successor(loaded.object, link);
      this.#links.set(link.info.id, { ...link, info: { ...link.info, program: name } });
    }
    this.#objects.set(params.name, loaded);
    old.object.close();
    const kept = loaded.object.maps.filter((m) => m.reused).map((m) => m.name);
    return {
      object: loaded.info,
      kept: own(loaded.info.maps).filter((name) => kept.includes(name)),
      created: own(loaded.info.maps).filter((name) => !kept.includes(name)),
    };
  }

  /** Throws HT_NOT_FOUND, HT_QUOTA, HOOK_BUSY (HT_BUSY), HT_USAGE. */
  link(params: Params<'link'>): Result<'link'> {
    const { quotas, policy } = this.#options.settings();
    const { object } = this.#object(params.object);
    const hook = HOOK_TABLE.find((h) => h.name === params.hook)?.name;
    if (hook === undefined || (policy.hooks && !policy.hooks.includes(hook)))
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `there is no hook '${params.hook}' for this VM; there are: ${allowedHooks(policy).join(', ') || 'none'}`,
      );
    if (params.target !== undefined)
      throw new HyperturtleError('HT_USAGE', `hook ${hook} has no targets: leave the target out`);
    const program = programOf(object, hook, params.program);
    for (const { info } of this.#links.values()) {
      if (info.hook !== hook) continue;
      if (info.object === params.object && info.program === program.name)
        return { link: info, existed: true };
      throw wireFailure(
        'HOOK_BUSY',
        `hook ${hook} has program '${info.program}' of object '${info.object}' (link ${info.id}): unlink it first`,
      );
    }
    if (this.#links.size >= quotas.links) throw quotaError('links', quotas.links);
    this.#kernelLink(hook, program, false);
    const info: LinkInfo = {
      id: this.#nextLink++,
      object: params.object,
      program: program.name,
      hook,
      target: null,
      since: new Date().toISOString(),
    };
    this.#links.set(info.id, { info, hook });
    return { link: info, existed: false };
  }

  /** Throws HT_NOT_FOUND. No run of the program is under way when it returns. */
  unlink(id: number): LinkInfo {
    const link = this.#links.get(id);
    if (!link)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `there is no link ${id}; there are: ${[...this.#links.keys()].join(', ') || 'none'}`,
      );
    this.#options.hooks.unlink(link.hook);
    this.#links.delete(id);
    return link.info;
  }

  /** Unlinks and unloads all, whatever fails on the way; failures are thrown together at the end. */
  clear(): LinkInfo[] {
    const failures: unknown[] = [];
    const ended: LinkInfo[] = [];
    const attempt = (work: () => void): void => {
      try {
        work();
      } catch (e) {
        failures.push(e);
      }
    };
    for (const id of [...this.#links.keys()]) attempt(() => ended.push(this.unlink(id)));
    this.#links.clear();
    for (const { object } of this.#objects.values()) attempt(() => object.close());
    this.#objects.clear();
    if (failures.length > 0) throw new AggregateError(failures, 'not all could be unlinked and unloaded');
    return ended;
  }

  list(): Pick<Result<'list'>, 'objects' | 'links'> {
    return {
      objects: Array.from(this.#objects.values(), (o) => o.info),
      links: Array.from(this.#links.values(), (l) => l.info),
    };
  }

  used(): Omit<Used, 'watches'> {
    return this.#usedWithout(undefined);
  }

  stats(): Result<'stats'> {
    const hooks = allowedHooks(this.#options.settings().policy).map((hook) => {
      const { linked, runs, handled, entries, learned, passed, reasons } = this.#options.hooks.stats(hook);
      const counts = { hook, linked, runs, handled, entries, learned, passed, reasons };
      const link = Array.from(this.#links.values()).find((l) => l.hook === hook)?.info;
      return { ...counts, ...(link ? { object: link.object, program: link.program } : {}) };
    });
    return { hooks };
  }

  /** Throws HT_NOT_FOUND. Valid until the object is unloaded or replaced: look it up for each use. */
  map(objectName: string, mapName: string): { file: OwnedFd; arena: boolean } {
    const { object, info } = this.#object(objectName);
    const map = object.maps.find((m) => m.name === mapName);
    if (!map)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `object '${objectName}' has no map '${mapName}'; it has: ${object.maps.map((m) => m.name).join(', ') || 'none'}`,
      );
    return { file: map.file, arena: info.maps.some((m) => m.name === mapName && m.arena) };
  }

  #object(name: string): Loaded {
    const found = this.#objects.get(name);
    if (found) return found;
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `no object '${name}' is loaded; there are: ${[...this.#objects.keys()].join(', ') || 'none'}`,
    );
  }

  #linksOf(object: string): Linked[] {
    return [...this.#links.values()].filter((l) => l.info.object === object);
  }

  #kernelLink(hook: HookSpec['name'], program: LoadedProgram, replace: boolean): void {
    const file = { fd: program.file.fd, name: program.name };
    this.#options.hooks.link(hook, file, this.#options.arena.map, { replace });
  }

  #decode(params: ElfParams): Uint8Array {
    const { elfBytes } = this.#options.settings().quotas;
    const elf = Buffer.from(params.elf, 'base64');
    if (elf.length > elfBytes) throw quotaError('elfBytes', elfBytes, `${elf.length} bytes given`);
    return elf;
  }

  #usedWithout(left: Loaded | undefined): Omit<Used, 'watches'> {
    let programs = 0;
    let maps = 0;
    let mapBytes = 0;
    let objects = 0;
    for (const loaded of this.#objects.values()) {
      if (loaded === left) continue;
      objects++;
      programs += loaded.info.programs.length;
      for (const map of loaded.info.maps) {
        if (map.arena) continue;
        maps++;
        mapBytes += map.bytes;
      }
    }
    return { objects, programs, links: this.#links.size, maps, mapBytes };
  }

  /** Signature, rules, verifier, budgets; in this order. With `old`, its maps of the same shape are used again. */
  async #admit(
    params: ElfParams,
    elf: Uint8Array,
    identity: string,
    how: { signal: AbortSignal; old?: Loaded },
  ): Promise<Loaded> {
    const { arena, loadTimeoutMs, vm } = this.#options;
    const { quotas, policy, signature } = this.#options.settings();
    const { name } = params;
    const signedBy = this.#signer(params, elf, signature);

    const used = this.#usedWithout(how.old);
    const left = {
      elfBytes: quotas.elfBytes,
      programs: quotas.programs - used.programs,
      maps: quotas.maps - used.maps,
      mapBytes: quotas.mapBytes - used.mapBytes,
      instructions: quotas.instructions,
    };
    const hooks = HOOK_TABLE.map((h) => ({
      ...h,
      helpers: h.helpers.filter((helper) => !policy.forbiddenHelpers.includes(helper.name)),
    }));
    const verdict = this.#options.check(elf, {
      policy: { cpus: possibleCpus(), ...(policy.hooks ? { hooks: policy.hooks } : {}) },
      hooks,
      limits: left,
    });
    if (!verdict.ok) throw refusalError(name, verdict.refusals);

    const reuse: Record<string, OwnedFd> = {};
    for (const map of verdict.maps) {
      const same = how.old && sameShape(map, how.old.object);
      if (map.arena) reuse[map.name] = arena.map.file;
      else if (same) reuse[map.name] = same.file;
    }
    const object = await this.#options.load({
      vm,
      name,
      elf,
      constants: constantsOf(params, verdict, arena.bytes),
      reuse,
      signal: how.signal,
      timeoutMs: loadTimeoutMs,
    });
    try {
      how.signal.throwIfAborted();
      const info = objectInfo(params, elf, signedBy, verdict, object);
      checkBudgets(info, quotas, left);
      return { object, info, identity };
    } catch (e) {
      object.close();
      throw e;
    }
  }

  #signer(params: ElfParams, elf: Uint8Array, policy: VmSettings['signature']): string | null {
    if (policy === 'none') return null;
    if (params.signature) return this.#options.settings().verify(elf, params.signature);
    if (policy === 'optional') return null;
    throw new HyperturtleError(
      'HT_SIGNATURE',
      `object '${params.name}' is not signed, and this VM may load signed objects only: sign it ('hyperturtle sign')`,
    );
  }
}

export function quotaError(quota: keyof Quotas, limit: number, found = 'all are used'): HyperturtleError {
  return new HyperturtleError('HT_QUOTA', `${quota}: at most ${limit} allowed to this VM, ${found}`, {
    detail: { quota, limit },
  });
}

function allowedHooks(policy: VmSpec['policy']): HookSpec['name'][] {
  return HOOK_TABLE.map((h) => h.name).filter((name) => !policy.hooks || policy.hooks.includes(name));
}

/** The program of that name, or the only one for the hook. */
function programOf(object: LoadedObject, hook: string, name: string | undefined): LoadedProgram {
  const fitting = object.programs.filter((p) => p.hook === hook);
  const have = object.programs.map((p) => `${p.name} (${p.hook})`).join(', ') || 'none';
  if (name !== undefined) {
    const found = fitting.find((p) => p.name === name);
    if (found) return found;
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `object '${object.name}' has no program '${name}' for hook ${hook}; it has: ${have}`,
    );
  }
  const [only, other] = fitting;
  if (only && !other) return only;
  throw new HyperturtleError(
    only ? 'HT_USAGE' : 'HT_NOT_FOUND',
    only
      ? `object '${object.name}' has several programs for hook ${hook}: say which of ${fitting.map((p) => p.name).join(', ')}`
      : `object '${object.name}' has no program for hook ${hook}; it has: ${have}`,
  );
}

/** Of the new version, the program that takes a link over: of the same name, or the only one for the hook. */
function successor(object: LoadedObject, link: Linked): LoadedProgram {
  return programOf(
    object,
    link.hook,
    object.programs.some((p) => p.hook === link.hook && p.name === link.info.program)
      ? link.info.program
      : undefined,
  );
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
    out[name] = BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`);
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
function checkBudgets(info: ObjectInfo, quotas: Quotas, left: { mapBytes: number }): void {
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
  }
}
