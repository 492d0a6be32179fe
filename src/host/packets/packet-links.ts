/** The links of one VM's programs to hooks of its NICs: a chain for each hook of each NIC that has any. */
import type { Caller } from '../../bpf/calls.ts';
import { HyperturtleError } from '../../core/errors.ts';
import type { PacketHook } from '../hooks.ts';
import { PacketChain } from './chain.ts';
import type { ChainCounts, ChainEntry } from './chain.ts';
import { MAX_CHAIN } from './chain-code.ts';

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
}

interface Place {
  nic: string;
  hook: PacketHook;
  chain: PacketChain;
}

/** One change at a time: whoever makes one waits for the one before. */
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
    const entries = place?.chain.entries ?? [];
    if (entries.length >= MAX_CHAIN)
      throw new HyperturtleError('HT_QUOTA', `at most ${MAX_CHAIN} programs on one hook of a NIC`);
    if (!place) {
      const { tcx, call } = this.#options;
      const chain = new PacketChain(call, nic.ifindex, hook, tcx === undefined ? {} : { tcx });
      place = { nic: nicId, hook, chain };
    }
    await place.chain.set([...entries, entry]);
    if (!this.#places.includes(place)) this.#places.push(place);
  }

  /** No frame sees the program any more that comes after it returns. Fine when there is no such link. */
  async unlink(id: number): Promise<void> {
    const place = this.#placeOf(id);
    if (!place) return;
    const left = place.chain.entries.filter((e) => e.id !== id);
    if (left.length === 0) this.#places = this.#places.filter((p) => p !== place);
    await place.chain.set(left);
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

  counts(id: number): ChainCounts {
    return this.#placeOf(id)?.chain.counts(id) ?? { runs: 0, dropped: 0 };
  }

  #placeOf(id: number): Place | undefined {
    return this.#places.find((p) => p.chain.entries.some((e) => e.id === id));
  }
}
