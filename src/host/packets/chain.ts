/**
 * The hyperupcalls on one hook of one network device, in their order. Each change makes a new program for the whole
 * chain and swaps it for the running one: a frame sees the old chain or the new one, never a part. Owns what it attaches.
 */
import type { Caller } from '../../bpf/calls.ts';
import { OwnedFd } from '../../bpf/fds.ts';
import { failureOf, libbpf, takePrinted } from '../../bpf/libbpf.ts';
import { MapAccess } from '../../bpf/map-ops.ts';
import {
  addClsact,
  linkTcx,
  linkXdp,
  loadCode,
  removeClsact,
  removeFilter,
  setFilter,
  updateLink,
} from '../../bpf/net.ts';
import type { Direction } from '../../bpf/net.ts';
import { closeBy, kernelError, waitForReaders } from '../../bpf/sys.ts';
import { BPF_MAP_CREATE_OPTS, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PROG_ARRAY } from '../../kernel/bpf.ts';
import { u32, viewOf } from '../../kernel/struct.ts';
import type { PacketHook } from '../hooks.ts';
import { ANSWERS, COUNTS_BYTES, COUNT_BYTES, MAX_CHAIN, chainCode, firstCounts } from './chain-code.ts';

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

/** Something attached to a device. */
interface Attachment {
  replace(program: OwnedFd): Promise<void>;
  close(): Promise<void>;
}

/** What runs now. */
interface Running {
  readonly entries: readonly ChainEntry[];
  /** The kernel empties it when the last descriptor goes, also by the death of this process. */
  readonly programs: OwnedFd;
  readonly counts: OwnedFd;
}

/** One change at a time: whoever makes one waits for the one before. */
export class PacketChain {
  readonly #call: Caller;
  readonly #ifindex: number;
  readonly #hook: PacketHook;
  readonly #tcx: boolean;
  readonly #before = new Map<number, ChainCounts>();
  #running: Running | undefined;
  #attachment: Attachment | undefined;

  /** By `call` what waits is called. `tcx: false` leaves out what kernels before 6.6 lack. */
  constructor(call: Caller, ifindex: number, hook: PacketHook, options: { tcx?: boolean } = {}) {
    this.#call = call;
    this.#ifindex = ifindex;
    this.#hook = hook;
    this.#tcx = options.tcx ?? true;
  }

  get entries(): readonly ChainEntry[] {
    return this.#running?.entries ?? [];
  }

  /** Throws HT_BUSY when something else is attached, HT_NOT_FOUND without the device; then all is as before. */
  async set(entries: readonly ChainEntry[]): Promise<void> {
    if (entries.length > MAX_CHAIN) throw new RangeError(`at most ${MAX_CHAIN} programs in a chain`);
    const sorted = [...entries].sort((a, b) => a.order - b.order || a.id - b.id);
    if (sorted.length === 0) return this.#detach();
    const { program, running } = this.#build(sorted);
    try {
      if (this.#attachment) await this.#attachment.replace(program);
      else this.#attachment = await attach(this.#call, this.#hook, this.#ifindex, program, this.#tcx);
    } catch (e) {
      running.programs.close();
      running.counts.close();
      throw e;
    } finally {
      program.close(); // what is attached holds it
    }
    await this.#take(running);
  }

  counts(id: number): ChainCounts {
    const total = { ...(this.#before.get(id) ?? { runs: 0, dropped: 0 }) };
    const at = this.#running?.entries.findIndex((e) => e.id === id) ?? -1;
    if (!this.#running || at < 0) return total;
    const now = readCounts(this.#running.counts, at);
    return { runs: total.runs + now.runs, dropped: total.dropped + now.dropped };
  }

  /** Ends all; also when the device has gone already. */
  close(): Promise<void> {
    return this.#detach();
  }

  async #detach(): Promise<void> {
    const attachment = this.#attachment;
    this.#attachment = undefined;
    try {
      await attachment?.close();
    } finally {
      await this.#take(undefined);
    }
  }

  /** What the old chain counted is kept for those that are in the new one as well. */
  async #take(running: Running | undefined): Promise<void> {
    const old = this.#running;
    const kept = new Map((running?.entries ?? []).map((e) => [e.id, this.counts(e.id)]));
    this.#before.clear();
    for (const [id, counts] of kept) this.#before.set(id, counts);
    this.#running = running;
    // a frame may still be in the old chain, and would pass it once the array is emptied by its closing
    if (!old) return;
    try {
      await waitForReaders(this.#call);
    } finally {
      old.programs.close();
      old.counts.close();
    }
  }

  #build(entries: readonly ChainEntry[]): { program: OwnedFd; running: Running } {
    const programs = createMap(BPF_MAP_TYPE_PROG_ARRAY, 'ht_chain', 4, entries.length);
    try {
      const counts = createMap(BPF_MAP_TYPE_PERCPU_ARRAY, 'ht_counts', COUNTS_BYTES, 1);
      try {
        new MapAccess(counts).set(new Uint8Array(4), firstCounts(this.#hook));
        const fds = { programs: programs.fd, counts: counts.fd };
        const { code, types } = chainCode(this.#hook, entries.length, fds);
        const program = loadCode(ANSWERS[this.#hook].programType, 'ht_chain', code, types);
        try {
          // after the program: the kernel then knows of what type the array's programs must be
          entries.forEach((e, i) => setProgram(programs, i, e.program));
        } catch (e) {
          program.close();
          throw e;
        }
        return { program, running: { entries, programs, counts } };
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

/** Removes what a daemon that was killed left on this device. Links have ended with it, filters of clsact have not. */
export async function removeLeftovers(call: Caller, ifindex: number): Promise<void> {
  await removeFilter(call, ifindex, 'ingress');
  await removeFilter(call, ifindex, 'egress');
}

async function attach(
  call: Caller,
  hook: PacketHook,
  ifindex: number,
  program: OwnedFd,
  tcx: boolean,
): Promise<Attachment> {
  if (hook === 'xdp') return linkAttachment(call, await linkXdp(call, program, ifindex));
  const direction: Direction = hook === 'tc-ingress' ? 'ingress' : 'egress';
  const link = tcx ? await linkTcx(call, program, ifindex, direction) : undefined;
  return link ? linkAttachment(call, link) : await filterAttachment(call, program, ifindex, direction);
}

function linkAttachment(call: Caller, link: OwnedFd): Attachment {
  return {
    replace: (program) => updateLink(call, link, program),
    close: () => closeBy(call, link),
  };
}

/** How many filters of ours need the qdisc that we made, by device. */
const qdiscs = new Map<number, number>();

async function filterAttachment(
  call: Caller,
  program: OwnedFd,
  ifindex: number,
  direction: Direction,
): Promise<Attachment> {
  const users = qdiscs.get(ifindex);
  if (await addClsact(call, ifindex)) qdiscs.set(ifindex, 1);
  else if (users !== undefined) qdiscs.set(ifindex, users + 1);
  const release = async (): Promise<void> => {
    const left = qdiscs.get(ifindex);
    if (left === undefined) return; // somebody else made it
    if (left > 1) qdiscs.set(ifindex, left - 1);
    else {
      qdiscs.delete(ifindex);
      await removeClsact(call, ifindex);
    }
  };
  try {
    await setFilter(call, program, ifindex, direction);
  } catch (e) {
    await release();
    throw e;
  }
  return {
    replace: (next) => setFilter(call, next, ifindex, direction),
    async close() {
      try {
        await removeFilter(call, ifindex, direction);
      } finally {
        await release();
      }
    },
  };
}

function createMap(type: number, name: string, valueBytes: number, entries: number): OwnedFd {
  const opts = BPF_MAP_CREATE_OPTS.encode({ sz: BPF_MAP_CREATE_OPTS.size });
  // SAFETY: `opts` begins with its own size, which libbpf honours.
  const fd = libbpf.map_create(type, name, 4, valueBytes, entries, opts);
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
  const r = libbpf.map_update(programs.fd, key, value, 0);
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
