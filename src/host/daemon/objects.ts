/**
 * What one VM has loaded and linked, since its boot. Owns the descriptors of programs and maps and the links in the
 * kernel; `clear` gives all back. Whoever changes something holds the VM's turn (see VmService).
 */
import type { OwnedFd } from '../../bpf/fds.ts';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { wireFailure } from '../../wire/errors.ts';
import type { EndedLink, HookStats, LinkInfo, Params, Result } from '../../wire/schema.ts';
import { linkOptionsProblem, sameOptions } from '../../wire/link-options.ts';
import type { LinkOptions } from '../../wire/link-options.ts';
import type { HookName as KvmHook } from '../../kernel/host.ts';
import type { EndedLink as KernelEnd } from '../device.ts';
import { HOOK_TABLE, isPacketHook } from '../hooks.ts';
import type { HookName, PacketHook } from '../hooks.ts';
import type { LoadedObject, LoadedProgram } from '../loader/loader.ts';
import type { ChainEntry } from '../packets/chain.ts';
import type { WithoutDaemon } from '../packets/chain-pins.ts';
import type { PacketLinks } from '../packets/packet-links.ts';
import { admit, candidate, quotaError } from './admit.ts';
import type { AdmissionDeps, Admitted, ElfParams, ObjectsUsed } from './admit.ts';
import type { VmSpec } from './config.ts';
import type { VmHooks } from './kernel.ts';
import type { Kept, KeptLink, KeptPrograms } from './kept.ts';
import { DEFAULT_ORDER, leftOffOf, leftPlaces, noLongerHeld, sameWork } from './takeover.ts';
import type { KnownNic } from './takeover.ts';

export interface ObjectsOptions extends AdmissionDeps {
  hooks: VmHooks;
  packets: PacketLinks;
  /** Left out: nothing outlives this process. */
  kept?: KeptPrograms | undefined;
  withoutDaemon?: (() => WithoutDaemon) | undefined;
}

interface Linked {
  readonly info: LinkInfo;
  readonly hook: HookName;
}

/** Nothing is linked to a hook so soon after the kernel has ended a link of it: overruns are counted for a minute. */
const AFTER_END_MS = 60_000;

export class VmObjects {
  readonly #options: ObjectsOptions;
  readonly #objects = new Map<string, Admitted>();
  readonly #links = new Map<number, Linked>();
  /** By hook; until another link or version takes its place. */
  readonly #ended = new Map<HookName, EndedLink>();
  /** Until the same hook of the same NIC has the object's program again. */
  #leftOff: EndedLink[] = [];
  /** By hook, on the clock of performance.now(). */
  readonly #closedUntil = new Map<HookName, number>();
  #nextLink = 1;

  constructor(options: ObjectsOptions) {
    this.#options = options;
  }

  /** Throws HT_EXISTS, HT_QUOTA, HT_SIGNATURE, HT_REFUSED, HT_VERIFIER_REJECTED, or what the loader throws. */
  async load(params: ElfParams, signal: AbortSignal): Promise<Result<'load'>> {
    const { quotas } = this.#options.settings();
    const wanted = candidate(params, quotas);
    const there = this.#objects.get(params.name);
    if (there?.identity === wanted.identity) return { object: there.info, existed: true };
    if (there)
      throw new HyperturtleError(
        'HT_EXISTS',
        `object '${params.name}' is loaded with other content: replace it, or unload it first`,
      );
    if (this.#objects.size >= quotas.objects) throw quotaError('objects', quotas.objects);
    const loaded = await admit(this.#options, wanted, { used: this.used(), signal });
    this.#objects.set(params.name, loaded);
    return { object: loaded.info, existed: false };
  }

  /** Ended links are returned. Throws HT_NOT_FOUND, HT_IN_USE. */
  async unload(name: string, force: boolean): Promise<LinkInfo[]> {
    const loaded = this.#object(name);
    const links = this.#linksOf(name);
    if (links.length > 0 && !force)
      throw new HyperturtleError(
        'HT_IN_USE',
        `object '${name}' is linked (${links.map((l) => `link ${l.info.id} on ${l.info.hook}`).join(', ')}): unlink it first, or force`,
      );
    for (const link of links) await this.unlink(link.info.id);
    this.#forgetEnds(name);
    this.#objects.delete(name);
    loaded.object.close();
    return links.map((l) => l.info);
  }

  /** Swaps an object for a new version, its links without a gap. When it throws, all is as before. */
  async replace(params: ElfParams, signal: AbortSignal): Promise<Result<'replace'>> {
    const old = this.#object(params.name);
    const wanted = candidate(params, this.#options.settings().quotas);
    const own = (maps: readonly { name: string; arena: boolean }[]): string[] =>
      maps.filter((m) => !m.arena).map((m) => m.name);
    if (wanted.identity === old.identity) return { object: old.info, kept: own(old.info.maps), created: [] };

    const used = this.#usedWithout(old);
    const loaded = await admit(this.#options, wanted, { used, old: old.object, signal });
    const swapped: { link: Linked; before: LoadedProgram }[] = [];
    try {
      for (const link of this.#linksOf(params.name)) {
        const before = programOf(old.object, link.hook, link.info.program);
        const after = successor(loaded.object, link);
        await this.#swap(link, loaded, after);
        swapped.push({ link, before });
      }
      for (const { link } of swapped) {
        const { name } = successor(loaded.object, link);
        this.#links.set(link.info.id, { ...link, info: { ...link.info, program: name } });
      }
      this.#objects.set(params.name, loaded);
      this.#save();
    } catch (e) {
      this.#objects.set(params.name, old);
      for (const { link } of swapped) this.#links.set(link.info.id, link);
      await this.#swapBack(swapped, old, loaded, e);
      throw e;
    }
    this.#forgetEnds(params.name);
    old.object.close();
    const kept = loaded.object.maps.filter((m) => m.reused).map((m) => m.name);
    return {
      object: loaded.info,
      kept: own(loaded.info.maps).filter((name) => kept.includes(name)),
      created: own(loaded.info.maps).filter((name) => !kept.includes(name)),
    };
  }

  /** Throws HT_NOT_FOUND, HT_QUOTA, HOOK_BUSY (HT_BUSY), HT_USAGE. */
  async link(params: Params<'link'>): Promise<Result<'link'>> {
    const { quotas, policy } = this.#options.settings();
    const loaded = this.#object(params.object);
    const hook = HOOK_TABLE.find((h) => h.name === params.hook)?.name;
    if (hook === undefined || (policy.hooks && !policy.hooks.includes(hook)))
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `there is no hook '${params.hook}' for this VM; there are: ${allowedHooks(policy).join(', ') || 'none'}`,
      );
    const target = targetOf(params, hook);
    const { options } = params;
    const problem = linkOptionsProblem(hook, options);
    if (problem !== undefined) throw new HyperturtleError('HT_USAGE', problem);
    if (options !== undefined && 'hz' in options && options.hz > quotas.sampleHz)
      throw quotaError('sampleHz', quotas.sampleHz, `${options.hz} Hz asked for`);
    const program = programOf(loaded.object, hook, params.program);
    const there = this.#sameLink(params.object, program.name, hook, target);
    if (there && !sameOptions(there.info.options, options))
      await this.#reoptioned(there, loaded, program, options);
    if (there) {
      const link = await this.#reordered(this.#links.get(there.info.id) ?? there, params.order);
      return { link, existed: true };
    }
    if (this.#links.size >= quotas.links) throw quotaError('links', quotas.links);
    this.#assertNotJustEnded(hook);
    const id = this.#nextLink;
    const order = params.order ?? DEFAULT_ORDER;
    if (isPacketHook(hook))
      await this.#options.packets.link(target ?? '', hook, { id, order, program: fileOf(program) });
    else await this.#kernelLink(hook, loaded, program, { replace: false, options });
    this.#nextLink++;
    const info: LinkInfo = {
      id,
      object: params.object,
      program: program.name,
      hook,
      target,
      ...(target === null ? {} : { order }),
      ...(options === undefined ? {} : { options }),
      since: new Date().toISOString(),
    };
    this.#links.set(info.id, { info, hook });
    if (isPacketHook(hook)) await this.#keepNew(info);
    this.#ended.delete(hook);
    return { link: info, existed: false };
  }

  /** A link that the next daemon would not find is not made. */
  async #keepNew(info: LinkInfo): Promise<void> {
    const before = this.#leftOff;
    this.#leftOff = before.filter(({ link }) => !sameWork(link, info));
    try {
      this.#save();
    } catch (e) {
      this.#leftOff = before;
      this.#links.delete(info.id);
      await this.#options.packets.unlink(info.id);
      throw e;
    }
  }

  /** Ends the links to a NIC that goes; they are returned. */
  async dropNic(nic: string): Promise<LinkInfo[]> {
    const ended = [...this.#links.values()].filter((l) => l.info.target === nic).map((l) => l.info);
    this.#leftOff = this.#leftOff.filter(({ link }) => link.target !== nic);
    this.#saveQuietly(ended);
    await this.#options.packets.drop(nic);
    for (const { id } of ended) this.#links.delete(id);
    return ended;
  }

  /** Throws HT_NOT_FOUND. No run of the program is under way when it settles. */
  async unlink(id: number): Promise<LinkInfo> {
    const link = this.#links.get(id);
    if (!link)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `there is no link ${id}; there are: ${[...this.#links.keys()].join(', ') || 'none'}`,
      );
    if (isPacketHook(link.hook)) this.#saveQuietly([link.info]);
    await this.#end(link);
    return link.info;
  }

  async #end({ info, hook }: Linked): Promise<void> {
    if (isPacketHook(hook)) await this.#options.packets.unlink(info.id);
    else await this.#kernelUnlink(hook);
    this.#links.delete(info.id);
  }

  /** The kernel has ended a link. It is returned, or undefined when something else has taken its place. */
  overran(end: KernelEnd, reason: string): LinkInfo | undefined {
    this.#closedUntil.set(end.hook, performance.now() + AFTER_END_MS);
    const link = Array.from(this.#links.values()).find((l) => l.hook === end.hook);
    if (!link) return undefined;
    const { info } = this.#object(link.info.object);
    const program = info.programs.find((p) => p.name === link.info.program);
    // the same program may have been linked again in between
    if (program?.id !== end.programId || this.#options.hooks.stats(end.hook).linked) return undefined;
    this.#links.delete(link.info.id);
    this.#ended.set(link.hook, { link: link.info, reason, at: new Date().toISOString() });
    return link.info;
  }

  /** Unlinks and unloads all, whatever fails on the way; failures are thrown together at the end. */
  async clear(): Promise<LinkInfo[]> {
    const failures: unknown[] = [];
    const ended: LinkInfo[] = [];
    const attempt = async (work: () => unknown): Promise<void> => {
      try {
        await work();
      } catch (e) {
        failures.push(e);
      }
    };
    this.#leftOff = [];
    this.#saveQuietly(Array.from(this.#links.values(), (l) => l.info));
    for (const link of [...this.#links.values()])
      await attempt(async () => {
        await this.#end(link);
        ended.push(link.info);
      });
    await attempt(() => this.#options.packets.endHeld());
    this.#links.clear();
    this.#ended.clear();
    for (const { object } of this.#objects.values()) await attempt(() => object.close());
    this.#objects.clear();
    if (failures.length > 0) throw new AggregateError(failures, 'not all could be unlinked and unloaded');
    return ended;
  }

  /**
   * Gives up all for the next daemon: what acts on frames stays, the rest is unlinked. Failures are thrown together. The
   * links that have ended.
   */
  async release(): Promise<LinkInfo[]> {
    const failures: unknown[] = [];
    const ended: LinkInfo[] = [];
    for (const link of [...this.#links.values()])
      if (!isPacketHook(link.hook))
        await this.#end(link).then(
          () => ended.push(link.info),
          (e: unknown) => failures.push(e),
        );
    await this.#options.packets.release().catch((e: unknown) => failures.push(e));
    for (const { object } of this.#objects.values()) object.close();
    this.#objects.clear();
    this.#links.clear();
    if (failures.length > 0) throw new AggregateError(failures, 'not all could be given up');
    return ended;
  }

  /**
   * Takes over what an earlier daemon left, before anything else. `nics`: those that the VM had then. The links that could
   * not be, with the reason.
   */
  async adopt(kept: Kept, nics: readonly KnownNic[]): Promise<EndedLink[]> {
    const { packets, withoutDaemon } = this.#options;
    for (const o of kept.objects) this.#objects.set(o.info.name, o);
    this.#nextLink = kept.nextLink;
    const programOf = (link: LinkInfo): ChainEntry['program'] | undefined => {
      const there = this.#objects.get(link.object)?.object.programs;
      const program = there?.find((p) => p.hook === link.hook && p.name === link.program);
      return program && fileOf(program);
    };
    const fresh: EndedLink[] = [];
    for (const place of leftPlaces(kept, nics, programOf)) {
      const { nic, hook } = place;
      const links = kept.links.map((l) => l.info).filter((l) => l.target === nic && l.hook === hook);
      const adopted = await packets.adopt(place);
      fresh.push(...leftOffOf(links, adopted, withoutDaemon?.()));
      if ('problem' in adopted) continue;
      for (const info of links) if (adopted.ids.includes(info.id)) this.#links.set(info.id, { info, hook });
    }
    await packets.discardOthers(nics);
    this.#leftOff = [...kept.leftOff, ...fresh];
    this.#saveQuietly();
    return fresh;
  }

  /** What becomes of frames without the daemon has changed. */
  async keepOtherwise(): Promise<void> {
    await this.#options.packets.refresh();
    if (this.#options.withoutDaemon?.() === 'open') this.#leftOff = this.#leftOff.map(noLongerHeld);
    this.#save();
  }

  get leftOff(): readonly EndedLink[] {
    return this.#leftOff;
  }

  /** The next daemon is not to look for what is about to end. When that cannot be written, it says that it was left off. */
  #saveQuietly(but: readonly LinkInfo[] = []): void {
    try {
      this.#save(but);
    } catch {
      // the old record stands, which tells of more than there is
    }
  }

  /** Throws what KeptPrograms.save throws. */
  #save(but: readonly LinkInfo[] = []): void {
    const { packets, kept } = this.#options;
    if (!kept) return;
    const links = Array.from(this.#links.values()).flatMap(({ info, hook }): KeptLink[] => {
      const ifindex = packets.ifindexOf(info.id);
      if (!isPacketHook(hook) || ifindex === undefined || but.some((b) => b.id === info.id)) return [];
      return [{ info, ifindex, before: packets.before(info.id) }];
    });
    const [objects, nextLink, leftOff] = [this.#objects.values(), this.#nextLink, this.#leftOff];
    kept.save({ objects, links, nextLink, leftOff });
  }

  list(): Pick<Result<'list'>, 'objects' | 'links' | 'ended'> {
    return {
      ...(this.#ended.size > 0 ? { ended: [...this.#ended.values()] } : {}),
      objects: Array.from(this.#objects.values(), (o) => o.info),
      links: Array.from(this.#links.values(), (l) => l.info),
    };
  }

  used(): ObjectsUsed {
    return this.#usedWithout(undefined);
  }

  stats(): Result<'stats'> {
    const hooks = allowedHooks(this.#options.settings().policy).flatMap((hook) =>
      isPacketHook(hook) ? this.#packetStats(hook) : [this.#kvmStats(hook)],
    );
    return { hooks };
  }

  #kvmStats(hook: KvmHook): HookStats {
    const { linked, runs, handled, entries, learned, passed, reasons, overruns, maxNs, exits, samples } =
      this.#options.hooks.stats(hook);
    const counts = {
      ...{ hook, linked, runs, handled, entries, learned, passed, reasons, overruns, maxNs },
      ...(exits ? { exits } : {}),
      ...(samples ? { samples } : {}),
    };
    const link = Array.from(this.#links.values()).find((l) => l.hook === hook)?.info;
    return { ...counts, ...(link ? { object: link.object, program: link.program } : {}) };
  }

  #packetStats(hook: PacketHook): HookStats[] {
    const links = Array.from(this.#links.values()).filter((l) => l.hook === hook);
    return links.map(({ info }) => {
      const { runs, dropped } = this.#options.packets.counts(info.id);
      return {
        hook,
        linked: true,
        object: info.object,
        program: info.program,
        target: info.target ?? '',
        link: info.id,
        runs,
        handled: dropped,
        entries: 0,
        learned: 0,
        passed: runs - dropped,
        reasons: {},
      };
    });
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

  /** Throws HT_BUSY: L1 could otherwise have as many overruns as it makes links. */
  #assertNotJustEnded(hook: HookName): void {
    const leftMs = (this.#closedUntil.get(hook) ?? 0) - performance.now();
    if (leftMs <= 0) return;
    throw new HyperturtleError(
      'HT_BUSY',
      `hook ${hook} takes no program for ${Math.ceil(leftMs / 1000)} s: runs of the last one took too long`,
      { detail: { retryAfterMs: Math.ceil(leftMs) } },
    );
  }

  #forgetEnds(object: string): void {
    for (const [hook, { link }] of this.#ended) if (link.object === object) this.#ended.delete(hook);
  }

  async #kernelUnlink(hook: KvmHook): Promise<void> {
    try {
      await this.#options.hooks.unlink(hook);
    } catch (e) {
      // the kernel has just ended it
      if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
    }
  }

  #object(name: string): Admitted {
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

  /** The link that is there, or undefined. Throws HOOK_BUSY when a hook with room for one has another. */
  #sameLink(object: string, program: string, hook: HookName, target: string | null): Linked | undefined {
    for (const link of this.#links.values()) {
      const { info } = link;
      if (info.hook !== hook || info.target !== target) continue;
      if (info.object === object && info.program === program) return link;
      if (target !== null) continue;
      throw wireFailure(
        'HOOK_BUSY',
        `hook ${hook} has program '${info.program}' of object '${info.object}' (link ${info.id}): unlink it first`,
      );
    }
    return undefined;
  }

  async #reordered(link: Linked, order: number | undefined): Promise<LinkInfo> {
    if (order === undefined || order === link.info.order) return link.info;
    await this.#options.packets.change(link.info.id, { order });
    const info = { ...link.info, order };
    this.#links.set(info.id, { ...link, info });
    try {
      this.#save();
    } catch (e) {
      this.#links.set(info.id, link);
      await this.#options.packets.change(info.id, { order: link.info.order ?? DEFAULT_ORDER });
      throw e;
    }
    return info;
  }

  /** The same program, asked for something else, with no event in between that sees neither. */
  async #reoptioned(
    link: Linked,
    of: Pick<Admitted, 'object' | 'info'>,
    program: LoadedProgram,
    options: LinkOptions | undefined,
  ): Promise<void> {
    if (isPacketHook(link.hook)) return;
    await this.#kernelLink(link.hook, of, program, { replace: true, options });
    const info = { ...link.info, ...(options === undefined ? {} : { options }) };
    this.#links.set(info.id, { ...link, info });
  }

  /**
   * Links get the programs of the old version again, the last one first. One of which that fails runs the new version,
   * which the kernel holds by itself; the error that began it says so.
   */
  async #swapBack(
    swapped: { link: Linked; before: LoadedProgram }[],
    old: Admitted,
    loaded: Admitted,
    why: unknown,
  ): Promise<void> {
    const failures: unknown[] = [];
    for (const { link, before } of swapped.reverse())
      await this.#swap(link, old, before).catch((e: unknown) => failures.push(e));
    loaded.object.close();
    if (failures.length > 0)
      throw new AggregateError([why, ...failures], `not all links of '${old.info.name}' could be undone`);
  }

  /** The link's program becomes this one, with no event in between that sees neither. */
  async #swap(link: Linked, of: Pick<Admitted, 'object' | 'info'>, program: LoadedProgram): Promise<void> {
    if (isPacketHook(link.hook))
      await this.#options.packets.change(link.info.id, { program: fileOf(program) });
    else await this.#kernelLink(link.hook, of, program, { replace: true, options: link.info.options });
  }

  async #kernelLink(
    hook: KvmHook,
    { object, info }: Pick<Admitted, 'object' | 'info'>,
    program: LoadedProgram,
    how: { replace: boolean; options: LinkOptions | undefined },
  ): Promise<void> {
    const file = fileOf(program);
    const arena = info.maps.some((m) => m.arena) ? this.#options.arena.map : undefined;
    try {
      await this.#options.hooks.link(hook, file, arena, how);
    } catch (e) {
      if (isHyperturtleError(e, 'HT_BPF'))
        throw wireFailure('REFUSED', `object '${object.name}': ${e.message}`, {
          rule: 'hook',
          program: program.name,
        });
      if (isHyperturtleError(e, 'HT_BUSY')) throw wireFailure('HOOK_BUSY', e.message);
      throw e;
    }
  }

  #usedWithout(left: Admitted | undefined): ObjectsUsed {
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
}

const fileOf = (program: LoadedProgram): { fd: number; name: string } => ({
  fd: program.file.fd,
  name: program.name,
});

/** The NIC for hooks of NICs, null for others. Throws HT_USAGE. */
function targetOf(params: Params<'link'>, hook: HookName): string | null {
  const { target, order } = params;
  if (isPacketHook(hook)) {
    if (target !== undefined) return target;
    throw new HyperturtleError('HT_USAGE', `hook ${hook} is a NIC's: say which as the target`);
  }
  if (target === undefined && order === undefined) return null;
  throw new HyperturtleError(
    'HT_USAGE',
    `hook ${hook} has no targets and one program: leave target and order out`,
  );
}

function allowedHooks(policy: VmSpec['policy']): HookName[] {
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
