/**
 * The links of one VM, by number, on hooks of KVM's and of its NICs. Anyone who changes something holds the VM's turn (see
 * VmService).
 */
import { withoutUndefined } from '../../core/defined.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { wireFailure } from '../../wire/errors.ts';
import { linkOptionsProblem, sameOptions } from '../../wire/link-options.ts';
import type { EndedLink, HookStats, LinkInfo, Params, Result } from '../../wire/schema.ts';
import type { EndedLink as KernelEnd } from '../device.ts';
import { HOOK_TABLE } from '../hooks.ts';
import type { HookName } from '../hooks.ts';
import type { WithoutDaemon } from '../packets/chain-pins.ts';
import { quotaError } from './admit.ts';
import type { Budget } from './budget.ts';
import type { Admitted, VmSettings } from './admit.ts';
import type { Kept, KeptLink, KeptPrograms, KeptState } from './kept.ts';
import { leftOffBeside, leftOffOf, leftPlaces, noLongerHeld } from './takeover.ts';
import type { KnownNic } from './takeover.ts';
import type { Failures, HookBackend } from './hook-backend.ts';
import type { KvmBackend } from './kvm-backend.ts';
import type { PacketBackend } from './packet-backend.ts';
import { entryOf } from './packet-backend.ts';
import { programOf, successor } from './programs.ts';

export interface LinksOptions {
  kvm: KvmBackend;
  packets: PacketBackend;
  settings: () => VmSettings;
  /** Objects that are loaded, by name. */
  objects: ReadonlyMap<string, Admitted>;
  /** Left out: nothing outlives this process. */
  kept?: KeptPrograms | undefined;
  withoutDaemon?: (() => WithoutDaemon) | undefined;
}

/** Nothing is linked to a hook so soon after the kernel has ended a link of it: overruns are counted for a minute. */
const AFTER_END_MS = 60_000;

export class VmLinks {
  readonly #options: LinksOptions;
  readonly #links = new Map<number, LinkInfo>();
  /** By hook; until another link or version takes its place. */
  readonly #ended = new Map<string, EndedLink>();
  /** Until the same hook of the same NIC has the object's program again. */
  #leftOff: EndedLink[] = [];
  /** By hook, on the clock of performance.now(). */
  readonly #closedUntil = new Map<string, number>();
  #next = 1;

  constructor(options: LinksOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#links.size;
  }

  list(): LinkInfo[] {
    return [...this.#links.values()];
  }

  of(object: string): LinkInfo[] {
    return this.list().filter((l) => l.object === object);
  }

  get ended(): readonly EndedLink[] {
    return [...this.#ended.values()];
  }

  get leftOff(): readonly EndedLink[] {
    return this.#leftOff;
  }

  /** Throws HT_NOT_FOUND, HT_QUOTA, HOOK_BUSY (HT_BUSY), REFUSED, HT_USAGE. */
  async link(of: Admitted, params: Params<'link'>): Promise<Result<'link'>> {
    const { quotas } = this.#options.settings();
    const hook = this.#allowed(params.hook);
    const backend = this.#backend(hook);
    const place = backend.place(hook, params);
    const { options } = params;
    const problem = linkOptionsProblem(hook, options);
    if (problem !== undefined) throw new HyperturtleError('HT_USAGE', problem);
    if (options !== undefined && 'hz' in options && options.hz > quotas.sampleHz)
      throw quotaError('sampleHz', quotas.sampleHz, `${options.hz} Hz asked for`);
    const program = programOf(of.object, hook, params.program);
    const there = this.#same({ object: params.object, program: program.name, hook, target: place.target });
    if (there) {
      const link = withoutUndefined({ ...there, order: params.order ?? there.order, options });
      return { link: await this.#changed(there, link, of), existed: true };
    }
    if (this.#links.size >= quotas.links) throw quotaError('links', quotas.links);
    this.#assertNotJustEnded(hook);
    const made = { id: this.#next, object: params.object, program: program.name, hook };
    const link = withoutUndefined({ ...made, ...place, options, since: new Date().toISOString() });
    await backend.link(link, of, program);
    this.#next++;
    await this.#keepNew(link);
    this.#ended.delete(hook);
    return { link, existed: false };
  }

  /** The same program in another order, or asked for something else. When it throws, it is as before. */
  async #changed(there: LinkInfo, link: LinkInfo, of: Admitted): Promise<LinkInfo> {
    if (link.order === there.order && sameOptions(there.options, link.options)) return there;
    const backend = this.#backend(there.hook);
    const program = programOf(of.object, there.hook, there.program);
    await backend.replace(link, of, program);
    this.#links.set(link.id, link);
    try {
      this.#save();
    } catch (e) {
      this.#links.set(link.id, there);
      const undone = backend.replace(there, of, program);
      await undone.catch((f: unknown) => {
        this.#links.set(link.id, link);
        throw new AggregateError([e, f], `link ${link.id} could not be as it was`);
      });
      throw e;
    }
    return link;
  }

  /** A link that the next daemon would not find is not made. */
  async #keepNew(link: LinkInfo): Promise<void> {
    const before = this.#leftOff;
    this.#links.set(link.id, link);
    this.#leftOff = leftOffBeside(before, link);
    try {
      if (this.#outlives(link)) this.#save();
    } catch (e) {
      this.#leftOff = before;
      await this.#end(link);
      throw e;
    }
  }

  /**
   * The links of an object get the programs of its new version, each without a gap; `commit` makes that one the loaded
   * one. When it throws, all run the old one again, or the error says that one could not.
   */
  async swap(old: Admitted, next: Admitted, commit: () => void, undo: () => void): Promise<void> {
    const swapped: LinkInfo[] = [];
    try {
      for (const link of this.of(old.info.name)) {
        const program = successor(next.object, link);
        await this.#backend(link.hook).replace(link, next, program);
        swapped.push(link);
        this.#links.set(link.id, { ...link, program: program.name });
      }
      commit();
      this.#save();
    } catch (e) {
      undo();
      const failures: unknown[] = [];
      for (const link of swapped.reverse()) {
        this.#links.set(link.id, link);
        const program = programOf(old.object, link.hook, link.program);
        await this.#backend(link.hook)
          .replace(link, old, program)
          .catch((f: unknown) => failures.push(f));
      }
      if (failures.length === 0) throw e;
      throw new AggregateError([e, ...failures], `not all links of '${old.info.name}' could be undone`);
    }
    this.forgetEnds(old.info.name);
  }

  /** Throws HT_NOT_FOUND. No run of the program is under way when it settles. */
  async unlink(id: number): Promise<LinkInfo> {
    const link = this.#links.get(id);
    if (!link)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `there is no link ${id}; there are: ${[...this.#links.keys()].join(', ') || 'none'}`,
      );
    if (this.#outlives(link)) this.#saveQuietly([link]);
    await this.#end(link);
    return link;
  }

  async #end(link: LinkInfo): Promise<void> {
    await this.#backend(link.hook).unlink(link);
    this.#links.delete(link.id);
  }

  /** Ends the links to a NIC that goes; they are returned. */
  async dropNic(nic: string): Promise<LinkInfo[]> {
    const ended = this.list().filter((l) => l.target === nic);
    this.#leftOff = this.#leftOff.filter(({ link }) => link.target !== nic);
    this.#saveQuietly(ended);
    await this.#options.packets.links.drop(nic);
    for (const { id } of ended) this.#links.delete(id);
    return ended;
  }

  /** The kernel has ended a link. It is returned, or undefined when something else has taken its place. */
  overran(end: KernelEnd, reason: string): LinkInfo | undefined {
    this.#closedUntil.set(end.hook, performance.now() + AFTER_END_MS);
    const link = this.list().find((l) => l.hook === end.hook);
    if (!link) return undefined;
    const object = this.#options.objects.get(link.object);
    const program = object?.info.programs.find((p) => p.name === link.program);
    // the same program may have been linked again in between
    if (program?.id !== end.programId || this.#options.kvm.linked(end.hook)) return undefined;
    this.#links.delete(link.id);
    this.#ended.set(link.hook, { link, reason, at: new Date().toISOString() });
    return link;
  }

  /**
   * One run of the program that is linked to the hook `call`, when `budget` has one. It changes nothing that others do, so it
   * takes no turn. Throws HT_NOT_FOUND when it is not linked, HT_USAGE for a number that is none of its link's, what
   * VmHooks.call throws, and the signal's reason.
   */
  async call(
    { object, program, number, words = [] }: Params<'call'>,
    budget: Budget,
    signal: AbortSignal,
  ): Promise<Result<'call'>> {
    await budget.take(1, signal);
    const link = this.of(object).find((l) => l.hook === 'call' && (program ?? l.program) === l.program);
    const programs = this.#options.objects.get(object)?.info.programs;
    const id = programs?.find((p) => p.name === link?.program)?.id;
    if (!link || id === undefined)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `no program of '${object}' is linked to hook call: link it first (hyperturtle link ${object} --hook call --option numbers=...)`,
      );
    const numbers = link.options !== undefined && 'numbers' in link.options ? link.options.numbers : [];
    const [only, other] = numbers;
    const called = number ?? (other === undefined ? only : undefined);
    if (called === undefined || !numbers.includes(called))
      throw new HyperturtleError(
        'HT_USAGE',
        `link ${link.id} has the numbers ${numbers.map((n) => `0x${n.toString(16)}`).join(', ')}: say one of them`,
      );
    const answer = this.#options.kvm.call({ programId: id, number: called, words: words.map(BigInt) });
    return { ...answer, results: answer.results.map((r) => `0x${r.toString(16)}`) };
  }

  forgetEnds(object: string): void {
    for (const [hook, { link }] of this.#ended) if (link.object === object) this.#ended.delete(hook);
  }

  /** Ends all, whatever fails on the way; failures are told to `failures`. The links that have ended. */
  async clear(failures: Failures): Promise<LinkInfo[]> {
    const ended: LinkInfo[] = [];
    this.#leftOff = [];
    this.#saveQuietly(this.list());
    for (const link of this.list()) if (await failures.during(() => this.#end(link))) ended.push(link);
    await failures.during(() => this.#options.packets.links.endHeld());
    this.#links.clear();
    this.#ended.clear();
    return ended;
  }

  /** Gives up all for the next daemon: what outlives this one stays. The links that have ended. */
  async release(failures: Failures): Promise<LinkInfo[]> {
    const ended: LinkInfo[] = [];
    for (const backend of this.#backends) {
      const links = this.list().filter((l) => this.#backend(l.hook) === backend);
      ended.push(...(await backend.release(links, failures)));
    }
    this.#links.clear();
    return ended;
  }

  /**
   * Takes over what an earlier daemon left, before anything else; its objects are loaded. `nics`: those that the VM had
   * then. The links that could not be, with the reason.
   */
  async adopt(kept: Kept, nics: readonly KnownNic[]): Promise<EndedLink[]> {
    const { packets, withoutDaemon, objects } = this.#options;
    this.#next = kept.nextLink;
    const places = leftPlaces(kept, nics, (link) => {
      const programs = objects.get(link.object)?.object.programs;
      const program = programs?.find((p) => p.hook === link.hook && p.name === link.program);
      return program && entryOf(link, program);
    });
    const fresh: EndedLink[] = [];
    for (const place of places) {
      const links = place.links.map((l) => l.info);
      const adopted = await packets.links.adopt(place);
      fresh.push(...leftOffOf(links, adopted, withoutDaemon?.()));
      if ('problem' in adopted) continue;
      for (const link of links) if (adopted.ids.includes(link.id)) this.#links.set(link.id, link);
    }
    await packets.links.discardOthers(nics);
    this.#leftOff = [...kept.leftOff, ...fresh];
    this.#saveQuietly();
    return fresh;
  }

  /** What becomes of frames without the daemon has changed. Throws what saving throws. */
  async keepOtherwise(): Promise<void> {
    await this.#options.packets.links.refresh();
    if (this.#options.withoutDaemon?.() === 'open') this.#leftOff = this.#leftOff.map(noLongerHeld);
    this.#save();
  }

  stats(): HookStats[] {
    return this.#allowedHooks().flatMap((hook) =>
      this.#backend(hook).stats(
        hook,
        this.list().filter((l) => l.hook === hook),
      ),
    );
  }

  get #backends(): readonly HookBackend[] {
    return [this.#options.kvm, this.#options.packets];
  }

  #backend(hook: string): HookBackend {
    const found = this.#backends.find((b) => b.hooks.some((h) => h === hook));
    if (!found) throw new RangeError(`no backend has the hook ${hook}`);
    return found;
  }

  #allowedHooks(): HookName[] {
    const { hooks } = this.#options.settings().policy;
    return HOOK_TABLE.map((h) => h.name).filter((name) => !hooks || hooks.includes(name));
  }

  #allowed(name: string): HookName {
    const allowed = this.#allowedHooks();
    const hook = allowed.find((h) => h === name);
    if (hook !== undefined) return hook;
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `there is no hook '${name}' for this VM; there are: ${allowed.join(', ') || 'none'}`,
    );
  }

  /** The link that is there, or undefined. Throws HOOK_BUSY when a hook with room for one has another. */
  #same(wanted: Pick<LinkInfo, 'object' | 'program' | 'hook' | 'target'>): LinkInfo | undefined {
    const { hook, target } = wanted;
    const others = this.list().filter((l) => l.hook === hook && l.target === target);
    const same = others.find((l) => l.object === wanted.object && l.program === wanted.program);
    const [other] = others;
    if (same || !other || target !== null) return same;
    throw wireFailure(
      'HOOK_BUSY',
      `hook ${hook} has program '${other.program}' of object '${other.object}' (link ${other.id}): unlink it first`,
    );
  }

  /** Throws HT_BUSY: L1 could otherwise have as many overruns as it makes links. */
  #assertNotJustEnded(hook: string): void {
    const leftMs = (this.#closedUntil.get(hook) ?? 0) - performance.now();
    if (leftMs <= 0) return;
    throw new HyperturtleError(
      'HT_BUSY',
      `hook ${hook} takes no program for ${Math.ceil(leftMs / 1000)} s: runs of the last one took too long`,
      { detail: { retryAfterMs: Math.ceil(leftMs) } },
    );
  }

  #outlives(link: LinkInfo): boolean {
    return this.#keptOf(link) !== undefined;
  }

  #keptOf(link: LinkInfo): KeptLink | undefined {
    return this.#backend(link.hook).kept(link);
  }

  /** The next daemon is not to look for what is about to end. When that cannot be written, it says that it was left off. */
  #saveQuietly(but: readonly LinkInfo[] = []): void {
    this.#options.kept?.save(this.#stateWithout(but), { ending: true });
  }

  /** Throws what KeptPrograms.save throws. */
  #save(): void {
    this.#options.kept?.save(this.#stateWithout([]));
  }

  #stateWithout(but: readonly LinkInfo[]): KeptState {
    const left = this.list().filter((l) => !but.some((b) => b.id === l.id));
    return {
      objects: this.#options.objects.values(),
      links: left.flatMap((l) => this.#keptOf(l) ?? []),
      nextLink: this.#next,
      leftOff: this.#leftOff,
    };
  }
}
