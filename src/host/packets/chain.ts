/**
 * The hyperupcalls on one hook of one network device, in their order. Each change makes a new program for the whole
 * chain and swaps it for the running one: a frame sees the old chain or the new one, never a part. Owns what it attaches.
 */
import type { Caller } from '../../bpf/calls.ts';
import { OwnedFd } from '../../bpf/fds.ts';
import { failureOf, libbpf, takePrinted } from '../../bpf/libbpf.ts';
import { MapAccess } from '../../bpf/map-ops.ts';
import { loadCode, removeFilter } from '../../bpf/net.ts';
import { kernelError, waitForReaders } from '../../bpf/sys.ts';
import { BPF_MAP_CREATE_OPTS, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PROG_ARRAY } from '../../kernel/bpf.ts';
import { u32, viewOf } from '../../kernel/struct.ts';
import type { PacketHook } from '../hooks.ts';
import { attach, directionOf, leftFilter, linkAttachment } from './attachment.ts';
import type { Attachment } from './attachment.ts';
import { ANSWERS, COUNTS_BYTES, COUNT_BYTES, MAX_CHAIN, chainCode, firstCounts } from './chain-code.ts';
import { ChainPins } from './chain-pins.ts';
import type { PinnedVersion, WithoutDaemon } from './chain-pins.ts';
import { leftAttached } from './left.ts';

/** One program in the chain. */
export interface ChainEntry {
  /** Unique in the chain. */
  readonly id: number;
  /** Lower runs earlier; among equals the lower id. */
  readonly order: number;
  /** Stays the caller's, who keeps it open while it is in the chain. */
  readonly program: { readonly fd: number; readonly name: string };
}

export interface ChainCounts {
  /** Frames that the program saw, and those of them that it had dropped. */
  runs: number;
  dropped: number;
}

/** What runs now. */
interface Running {
  readonly entries: readonly ChainEntry[];
  /**
   * Ids of the links, in the order of their counters; for the version of an earlier daemon that is all that is known.
   */
  readonly ids: readonly number[];
  /** The kernel empties it when the last descriptor or pin goes, also by the death of this process. */
  readonly programs?: OwnedFd;
  readonly counts: OwnedFd;
  readonly pinned: PinnedVersion | undefined;
}

export interface ChainOptions {
  /** False leaves out what kernels before 6.6 lack. */
  tcx?: boolean;
  /** Where it is pinned, in a bpffs, a directory of its own; left out: nowhere, and all frames pass without the daemon. */
  pins?: string;
  /** Asked with each change. */
  withoutDaemon?: () => WithoutDaemon;
}

/** One change at a time: anyone who makes one waits for the one before. */
export class PacketChain {
  readonly #call: Caller;
  readonly #ifindex: number;
  readonly #hook: PacketHook;
  readonly #options: ChainOptions;
  readonly #pins: ChainPins | undefined;
  readonly #before = new Map<number, ChainCounts>();
  #running: Running | undefined;
  #attachment: Attachment | undefined;
  /** Something of an earlier daemon's may be attached, and could not be looked at. */
  #unknown = false;

  /** By `call` what waits is called. */
  constructor(call: Caller, ifindex: number, hook: PacketHook, options: ChainOptions = {}) {
    this.#call = call;
    this.#ifindex = ifindex;
    this.#hook = hook;
    this.#options = options;
    this.#pins = options.pins === undefined ? undefined : new ChainPins(options.pins);
  }

  get entries(): readonly ChainEntry[] {
    return this.#running?.entries ?? [];
  }

  get ifindex(): number {
    return this.#ifindex;
  }

  /** Throws HT_BUSY when something else is attached, HT_NOT_FOUND without the device; then all is as before. */
  async set(entries: readonly ChainEntry[]): Promise<void> {
    if (entries.length > MAX_CHAIN) throw new RangeError(`at most ${MAX_CHAIN} programs in a chain`);
    const sorted = [...entries].sort((a, b) => a.order - b.order || a.id - b.id);
    if (sorted.length === 0) return this.close();
    if (this.#unknown) await this.hold();
    const { program, running } = this.#build(sorted);
    const there = this.#attachment;
    try {
      if (there) {
        this.#pinLink(there, running);
        await there.replace(program);
      } else {
        const { tcx = true } = this.#options;
        const made = await attach(this.#call, this.#hook, this.#ifindex, program, tcx);
        this.#attachment = made;
        this.#pinLink(made, running);
      }
    } catch (e) {
      if (!there) await this.#end();
      running.programs?.close();
      running.counts.close();
      if (running.pinned) this.#pins?.remove(running.pinned);
      throw e;
    } finally {
      program.close(); // what is attached holds it
    }
    // a link that is to end with this process
    if (!running.pinned) this.#pins?.removeLink();
    await this.#take(running);
  }

  /**
   * Takes over what an earlier daemon attached to this device, as it is, until `set`: it has no entries until then. False
   * when there is nothing of it. When it throws, that is not known: `set` and `close` look again.
   */
  async hold(): Promise<boolean> {
    if (this.#attachment) return true;
    this.#unknown = true;
    const found = await this.#found();
    if (found) {
      this.#attachment = found.attachment;
      const pinned = this.#pins?.versionOf(found.programId);
      const counts = pinned && this.#pins?.counts(pinned);
      if (counts) this.#running = { entries: [], ids: pinned.ids, counts, pinned };
    }
    this.#unknown = false;
    return found !== undefined;
  }

  /** Ids of the links whose programs run, also of an earlier daemon's; undefined: unknown. */
  get ids(): readonly number[] | undefined {
    return this.#running?.ids;
  }

  /**
   * Has what is held run these programs, with no frame in between that sees neither. `before`: what they had counted
   * before the version that runs. When it throws all is held as before.
   */
  async adopt(entries: readonly ChainEntry[], before: ReadonlyMap<number, ChainCounts>): Promise<void> {
    for (const [id, counts] of before) this.#before.set(id, { ...counts });
    await this.set(entries);
  }

  counts(id: number): ChainCounts {
    const total = { ...(this.#before.get(id) ?? NOTHING) };
    const at = this.#running?.ids.indexOf(id) ?? -1;
    return !this.#running || at < 0 ? total : plus(total, readCounts(this.#running.counts, at));
  }

  /** What was counted before the version that runs: its own counters are pinned with it. */
  before(id: number): ChainCounts {
    return this.#before.get(id) ?? NOTHING;
  }

  /** Ends all; also when the device has gone already. A filter that cannot be looked at goes with its device. */
  async close(): Promise<void> {
    try {
      await this.#end();
    } finally {
      await this.#take(undefined);
    }
  }

  /** Ends what an earlier daemon left and nobody takes over. */
  async discard(): Promise<void> {
    this.#unknown = this.#attachment === undefined;
    await this.close();
  }

  /** Gives up what this process has of it: what is pinned stays for the next daemon, and does what was asked for. */
  async release(): Promise<void> {
    const attachment = this.#attachment;
    const running = this.#running;
    this.#attachment = undefined;
    this.#running = undefined;
    running?.programs?.close();
    running?.counts.close();
    await attachment?.release();
  }

  async #end(): Promise<void> {
    // a link ends with its pin, also one that cannot be looked at
    if (this.#unknown) await this.hold().catch(() => {});
    const attachment = this.#attachment;
    this.#attachment = undefined;
    this.#pins?.removeLink();
    await attachment?.close();
  }

  #pinLink({ link }: Attachment, running: Running): void {
    if (link && running.pinned) this.#pins?.addLink(link);
  }

  async #found(): Promise<{ attachment: Attachment; programId: number } | undefined> {
    const pins = this.#pins;
    const left = pins && (await leftAttached(this.#call, pins, this.#hook, () => [this.#ifindex]));
    if (!left) return undefined;
    const { link, programId } = left;
    if (left.ifindex !== this.#ifindex) {
      link?.close();
      return undefined;
    }
    if (link) return { attachment: linkAttachment(this.#call, link), programId };
    if (this.#hook === 'xdp') return undefined;
    return { attachment: leftFilter(this.#call, this.#ifindex, directionOf(this.#hook)), programId };
  }

  /** What the old chain counted is kept for those that are in the new one as well. */
  async #take(running: Running | undefined): Promise<void> {
    const old = this.#running;
    const gone = this.#pins?.versions().filter((v) => v.name !== running?.pinned?.name) ?? [];
    try {
      // a frame may still be in the old chain, whose array is emptied by its closing
      if (old || gone.length > 0) await waitForReaders(this.#call);
    } finally {
      const kept = (running?.ids ?? []).map((id) => [id, this.counts(id)] as const);
      this.#before.clear();
      for (const [id, counts] of kept) this.#before.set(id, counts);
      this.#running = running;
      old?.programs?.close();
      old?.counts.close();
      if (running) for (const version of gone) this.#pins?.remove(version);
      else this.#pins?.clear();
    }
  }

  #build(entries: readonly ChainEntry[]): { program: OwnedFd; running: Running } {
    const programs = createMap(BPF_MAP_TYPE_PROG_ARRAY, 'ht_chain', 4, entries.length);
    try {
      const counts = createMap(BPF_MAP_TYPE_PERCPU_ARRAY, 'ht_counts', COUNTS_BYTES, 1);
      try {
        const mode = this.#pins ? (this.#options.withoutDaemon?.() ?? 'keep') : 'open';
        const emptied = mode === 'open' ? 'pass' : 'drop';
        new MapAccess(counts).set(new Uint8Array(4), firstCounts(this.#hook, emptied));
        const fds = { programs: programs.fd, counts: counts.fd };
        const { code, types } = chainCode(this.#hook, entries.length, fds);
        const program = loadCode(ANSWERS[this.#hook].programType, 'ht_chain', code, types);
        try {
          // after the program: the kernel then knows of what type the array's programs must be
          entries.forEach((e, i) => setProgram(programs, i, e.program));
          const ids = entries.map((e) => e.id);
          const pinned =
            mode === 'open'
              ? undefined
              : this.#pins?.add(ids, { program, counts, programs: mode === 'keep' ? programs : undefined });
          return { program, running: { entries, ids, programs, counts, pinned } };
        } catch (e) {
          program.close();
          throw e;
        }
      } catch (e) {
        counts.close();
        throw e;
      }
    } catch (e) {
      programs.close();
      throw e;
    }
  }
}

/**
 * Removes filters of clsact that a daemon that was killed left on this device, but for the hooks `taken`, which have been
 * taken over. Links end with their pins.
 */
export async function removeLeftovers(
  call: Caller,
  ifindex: number,
  taken: readonly PacketHook[] = [],
): Promise<void> {
  for (const hook of ['tc-ingress', 'tc-egress'] as const)
    if (!taken.includes(hook)) await removeFilter(call, ifindex, directionOf(hook));
}

function createMap(type: number, name: string, valueBytes: number, entries: number): OwnedFd {
  const opts = BPF_MAP_CREATE_OPTS.encode({ sz: BPF_MAP_CREATE_OPTS.size });
  // SAFETY: `opts` begins with its own size, which libbpf honours.
  const fd = libbpf().map_create(type, name, 4, valueBytes, entries, opts);
  if (fd < 0) throw kernelError(`creating map '${name}'`, failureOf(fd));
  takePrinted();
  return new OwnedFd(fd, `map '${name}'`);
}

function setProgram(programs: OwnedFd, index: number, program: ChainEntry['program']): void {
  const key = new Uint8Array(4);
  const value = new Uint8Array(4);
  u32.write(viewOf(key), 0, index);
  u32.write(viewOf(value), 0, program.fd);
  // SAFETY: keys and values of a program array are 4 bytes.
  const r = libbpf().map_update(programs.fd, key, value, 0);
  if (r < 0)
    throw kernelError(`program '${program.name}' in its chain`, failureOf(r), {
      EINVAL: ['HT_BPF', 'it is of another type than the hook'],
    });
}

function readCounts(file: OwnedFd, index: number): ChainCounts {
  const values = new MapAccess(file).get(new Uint8Array(4)) ?? [];
  const sum = (at: number): number =>
    values.reduce((n, v) => n + Number(viewOf(v).getBigUint64(COUNT_BYTES * index + at, true)), 0);
  return { runs: sum(0), dropped: sum(8) };
}

const NOTHING: ChainCounts = { runs: 0, dropped: 0 };

const plus = (a: ChainCounts = NOTHING, b: ChainCounts): ChainCounts => ({
  runs: a.runs + b.runs,
  dropped: a.dropped + b.dropped,
});
