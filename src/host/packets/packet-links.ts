/** The links of one VM's programs to hooks of its NICs: a chain for each hook of each NIC that has any. */
import type { Caller } from '../../bpf/calls.ts';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import type { PacketHook } from '../hooks.ts';
import { PacketChain } from './chain.ts';
import type { ChainCounts, ChainEntry } from './chain.ts';
import { MAX_CHAIN } from './chain-code.ts';
import { chainDirectory, chainsIn } from './chain-pins.ts';
import type { WithoutDaemon } from './chain-pins.ts';

/** A NIC as far as linking needs it: its network device in L0, and which hooks that has. */
export interface HookedNic {
  readonly id: string;
  readonly ifindex: number;
  readonly hooks: readonly string[];
}

export interface PacketLinksOptions {
  /** By it what waits is called. */
  call: Caller;
  /** NICs of this VM only: nobody else's can be named. */
  nics: () => readonly HookedNic[];
  /** False: filters of clsact also where the kernel has tcx. */
  tcx?: boolean;
  /** Directory in a bpffs, this VM's and root's alone; left out: nothing outlives this process. */
  pins?: string;
  withoutDaemon?: () => WithoutDaemon;
}

/** What an earlier daemon had on a hook of a NIC. */
export interface LeftPlace {
  readonly nic: string;
  readonly hook: PacketHook;
  readonly ifindex: number;
  readonly links: readonly LeftLink[];
}

export interface LeftLink {
  readonly id: number;
  /** Entry of the chain, or why there is none. */
  readonly entry: ChainEntry | string;
  readonly before: ChainCounts;
}

/**
 * The links that were taken over; those of the others that nobody knows had been ended. Or why none could be: then frames
 * meet what they met before (`held`) until a program is linked there, or pass.
 */
export type Adopted =
  | { readonly ids: readonly number[] }
  | { readonly problem: string; readonly held: boolean; readonly ids: readonly number[] | undefined };

interface Place {
  nic: string;
  hook: PacketHook;
  chain: PacketChain;
}

/** One change at a time: anyone who makes one waits for the one before. */
export class PacketLinks {
  readonly #options: PacketLinksOptions;
  #places: Place[] = [];

  constructor(options: PacketLinksOptions) {
    this.#options = options;
  }

  /** Throws HT_NOT_FOUND without such a NIC or hook, HT_QUOTA when the chain is full, HT_BUSY. */
  async link(nicId: string, hook: PacketHook, entry: ChainEntry): Promise<void> {
    const nics = this.#options.nics();
    const nic = nics.find((n) => n.id === nicId);
    if (!nic)
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `there is no NIC '${nicId}'; there are: ${nics.map((n) => n.id).join(', ') || 'none'}`,
      );
    if (!nic.hooks.includes(hook))
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `NIC '${nicId}' has no hook ${hook}; it has: ${nic.hooks.join(', ') || 'none'}`,
      );
    let place = this.#places.find((p) => p.nic === nicId && p.hook === hook);
    if (place && place.chain.ifindex !== nic.ifindex) {
      // held for an earlier NIC of this name
      await this.#end(place);
      place = undefined;
    }
    const entries = place?.chain.entries ?? [];
    if (entries.length >= MAX_CHAIN)
      throw new HyperturtleError('HT_QUOTA', `at most ${MAX_CHAIN} programs on one hook of a NIC`);
    place ??= { nic: nicId, hook, chain: this.#chain(nicId, hook, nic.ifindex) };
    await place.chain.set([...entries, entry]);
    if (!this.#places.includes(place)) this.#places.push(place);
  }

  /** No frame sees the program any more that comes after it returns. Fine when there is no such link. */
  async unlink(id: number): Promise<void> {
    const place = this.#placeOf(id);
    if (!place) return;
    const left = place.chain.entries.filter((e) => e.id !== id);
    if (left.length === 0) await this.#end(place);
    else await place.chain.set(left);
  }

  async #end(place: Place): Promise<void> {
    this.#places = this.#places.filter((p) => p !== place);
    await place.chain.close();
  }

  /** The link gets another program or order at once. */
  async change(id: number, change: Partial<Pick<ChainEntry, 'program' | 'order'>>): Promise<void> {
    const place = this.#placeOf(id);
    if (!place) throw new HyperturtleError('HT_NOT_FOUND', `there is no link ${id}`);
    await place.chain.set(place.chain.entries.map((e) => (e.id === id ? { ...e, ...change } : e)));
  }

  /** Before the NIC goes, or after it has gone: the numbers of the links that end. */
  async drop(nicId: string): Promise<number[]> {
    const gone = this.#places.filter((p) => p.nic === nicId);
    const ids = gone.flatMap((p) => p.chain.entries.map((e) => e.id));
    this.#places = this.#places.filter((p) => p.nic !== nicId);
    for (const { chain } of gone) await chain.close();
    return ids;
  }

  /** Takes over what an earlier daemon attached there. */
  async adopt({ nic, hook, ifindex, links }: LeftPlace): Promise<Adopted> {
    const chain = this.#chain(nic, hook, ifindex);
    let ids: readonly number[] | undefined;
    try {
      if (!(await chain.hold())) {
        await chain.discard();
        return { problem: whyNot(links) ?? 'it was not attached any more', held: false, ids };
      }
      ids = chain.ids;
      // a link that is not in the version that runs had been ended, whatever the record says
      const left = links.filter((l) => ids?.includes(l.id) ?? true);
      const problem = ids === undefined ? 'what runs there is not pinned any more' : whyNot(left);
      if (problem !== undefined) throw new HyperturtleError('HT_NOT_FOUND', problem);
      await chain.adopt(left.map((l) => l.entry).filter(isEntry), new Map(left.map((l) => [l.id, l.before])));
      if (left.length > 0) this.#places.push({ nic, hook, chain });
      return { ids: left.map((l) => l.id) };
    } catch (e) {
      const problem = messageOf(e);
      // what cannot be looked at may be there
      if (this.#options.withoutDaemon?.() !== 'open' && (await chain.hold().catch(() => true))) {
        this.#places.push({ nic, hook, chain });
        return { problem, held: true, ids };
      }
      const more = await chain.discard().then(
        () => '',
        (f: unknown) => `; ${messageOf(f)}`,
      );
      return { problem: problem + more, held: false, ids };
    }
  }

  /** Ends what is held of an earlier daemon's. Failures are thrown together. */
  async endHeld(): Promise<void> {
    const held = this.#places.filter((p) => p.chain.entries.length === 0);
    const ended = await Promise.allSettled(held.map((p) => this.#end(p)));
    const failures = ended.flatMap((r) => (r.status === 'rejected' ? [r.reason as unknown] : []));
    if (failures.length > 0) throw new AggregateError(failures, 'not all that was held could be ended');
  }

  /** Ends what an earlier daemon had begun and nobody has taken over. `nics`: those that are there. */
  async discardOthers(nics: readonly { id: string; ifindex: number }[]): Promise<void> {
    const { pins } = this.#options;
    if (pins === undefined) return;
    for (const { nic, hook } of chainsIn(pins)) {
      if (this.#places.some((p) => p.nic === nic && p.hook === hook)) continue;
      await this.#chain(nic, hook, nics.find((n) => n.id === nic)?.ifindex ?? 0)
        .discard()
        // its pins are gone, and the rest goes with the device
        .catch(() => {});
    }
  }

  /** Hooks of a NIC on which there is something of this VM. */
  hooksOf(nic: string): PacketHook[] {
    return this.#places.filter((p) => p.nic === nic).map((p) => p.hook);
  }

  /** What becomes of frames without the daemon has changed. */
  async refresh(): Promise<void> {
    if (this.#options.withoutDaemon?.() === 'open') await this.endHeld();
    for (const { chain } of this.#places) if (chain.entries.length > 0) await chain.set(chain.entries);
  }

  /** This process gives up all: what is to act on frames without it stays for the next daemon, the rest ends. */
  async release(): Promise<void> {
    const places = this.#places;
    this.#places = [];
    const { pins, withoutDaemon } = this.#options;
    const stays = pins !== undefined && withoutDaemon?.() !== 'open';
    for (const { chain } of places) await (stays ? chain.release() : chain.close());
  }

  ifindexOf(id: number): number | undefined {
    return this.#placeOf(id)?.chain.ifindex;
  }

  /** Counts that are not in the pinned counters. */
  before(id: number): ChainCounts {
    return this.#placeOf(id)?.chain.before(id) ?? { runs: 0, dropped: 0 };
  }

  #chain(nic: string, hook: PacketHook, ifindex: number): PacketChain {
    const { tcx, call, pins, withoutDaemon } = this.#options;
    return new PacketChain(call, ifindex, hook, {
      ...(tcx === undefined ? {} : { tcx }),
      ...(pins === undefined ? {} : { pins: chainDirectory(pins, nic, hook) }),
      ...(withoutDaemon ? { withoutDaemon } : {}),
    });
  }

  counts(id: number): ChainCounts {
    return this.#placeOf(id)?.chain.counts(id) ?? { runs: 0, dropped: 0 };
  }

  #placeOf(id: number): Place | undefined {
    return this.#places.find((p) => p.chain.entries.some((e) => e.id === id));
  }
}

const isEntry = (entry: ChainEntry | string): entry is ChainEntry => typeof entry !== 'string';

const whyNot = (links: readonly LeftLink[]): string | undefined =>
  links.map((l) => l.entry).find((e) => typeof e === 'string');
