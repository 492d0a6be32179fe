/**
 * What becomes of each call that a VMM under `hyperturtle vmm` is asked about. What is not taken, or fails, the kernel does
 * as it would have done without us: the VMM then runs, and what was not accelerated is told.
 */
import { closeSync, fstatSync, openSync, readlinkSync, statSync, statfsSync } from 'node:fs';
import koffi from 'koffi';
import { OwnedFd } from '../../bpf/fds.ts';
import { replaceMmap } from '../../bpf/ptrace.ts';
import type { MmapCall } from '../../bpf/ptrace.ts';
import { answerCall, giveFd, letThrough, refuseCall, stillAsked } from '../../bpf/seccomp.ts';
import type { AskedCall } from '../../bpf/seccomp.ts';
import { kernelError } from '../../bpf/sys.ts';
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { errnoName } from '../../kernel/errno.ts';
import {
  ASKED,
  F_ADD_SEALS,
  F_GET_SEALS,
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_WRITE,
  MADV_DONTNEED_LOCKED,
  MADV_FREE,
  MAP_32BIT,
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_LOCKED,
  MAP_NONBLOCK,
  MAP_NORESERVE,
  MAP_POPULATE,
  MAP_PRIVATE,
  MAP_SHARED,
} from '../../kernel/seccomp.ts';
import { makeRamFile, ramKindAt } from './ram-file.ts';
import type { RamKind } from './ram-file.ts';
import {
  closesOnExec,
  fdsOf,
  filterCount,
  hasElsewhere,
  linkOf,
  lockedIn,
  mayOpenMappings,
  openMapping,
  privateRam,
  processOf,
  usesKvm,
} from './target.ts';
import type { Mapping } from './target.ts';
import type { SupervisorTask } from './messages.ts';

const fallocate = koffi
  .load('libc.so.6')
  .func('int fallocate(int fd, int mode, int64_t off, int64_t len)') as (
  fd: number,
  mode: number,
  offset: number,
  length: number,
) => number;
const fcntl = koffi.load('libc.so.6').func('int fcntl(int fd, int command, long arg)') as (
  fd: number,
  command: number,
  arg: number,
) => number;
const PUNCH_HOLE_KEEP_SIZE = 3;
const EPERM = 1;
const EEXIST = 17;
const O_RDWR = 2;

const PAGE = 4096;
const TMPFS_MAGIC = 0x0102_1994;
/** What of the VMM's flags stays: where, and what is to be done at once. */
const KEPT_FLAGS = BigInt(
  MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_32BIT | MAP_POPULATE | MAP_NONBLOCK | MAP_LOCKED,
);
/** How a guest's private RAM is asked for, and no block of malloc(). */
const OF_GUESTS = BigInt(MAP_NORESERVE | MAP_FIXED | MAP_FIXED_NOREPLACE);
const MAP_TYPE = 0xfn;
const TYPES: ReadonlyMap<bigint, RamKind> = new Map([
  [BigInt(MAP_SHARED), 'shared'],
  [BigInt(MAP_PRIVATE), 'private'],
]);
const PAGE_MASK = BigInt(PAGE - 1);

/** `let`: the kernel does it; `done`: has been answered, or is asked again. */
type Verdict = 'let' | 'done';

export interface AnswersOptions extends Pick<SupervisorTask, 'dir' | 'pid' | 'program' | 'filters'> {
  /** That of `dir`, as st_dev. */
  device: number;
  listener: OwnedFd;
  /** Told once each. */
  say: (text: string) => void;
}

export class Answers {
  readonly #o: AnswersOptions;
  readonly #device: number;
  readonly #said = new Set<string>();
  /** Mappings for private memory, by process; none: has been looked for. */
  readonly #private = new Map<number, Mapping[]>();
  readonly #seals = new Map<number, bigint>();
  /** Threads whose other mmap() failed: the same call comes again. */
  readonly #failed = new Map<number, string>();
  readonly #mayFree = mayOpenMappings();
  #taken = 0;
  #suspend = true;

  constructor(o: AnswersOptions) {
    this.#o = o;
    this.#device = o.device;
  }

  /** Bytes of memory that came from turtlefs. */
  get taken(): number {
    return this.#taken;
  }

  answer(call: AskedCall): void {
    let verdict: Verdict = 'let';
    try {
      verdict = this.#decide(call);
    } catch (e) {
      // gone meanwhile: the call, its process or its descriptor
      if (!isHyperturtleError(e, 'HT_NOT_FOUND')) this.#say(messageOf(e));
    }
    if (verdict === 'let') letThrough(this.#o.listener, call);
  }

  #decide(call: AskedCall): Verdict {
    const pid = processOf(call.tid);
    if (pid === undefined || !stillAsked(this.#o.listener, call)) return 'let';
    switch (call.nr) {
      case ASKED.mmap:
        return this.#mmap(call, pid);
      case ASKED.ftruncate:
        return this.#ftruncate(call, pid);
      case ASKED.fcntl:
        return this.#fcntl(call);
      case ASKED.madvise:
        return this.#madvise(call, pid);
      case ASKED.userfaultfd:
        if (this.#taken > 0)
          this.#say(
            'it uses userfaultfd, which its memory on turtlefs does not support: what needs it fails',
          );
        return 'let';
      default:
        return 'let';
    }
  }

  /** The VMM itself, or what it has started and has a VM: other programs may rely on what private memory is. */
  #isVmm(pid: number): boolean {
    return pid === this.#o.pid || usesKvm(pid);
  }

  #mmap(call: AskedCall, pid: number): Verdict {
    const [addr = 0n, asked = 0n, prot = 0n, flags = 0n] = call.args;
    const key = call.args.join();
    const failed = this.#failed.get(call.tid);
    this.#failed.delete(call.tid);
    if (failed === key || !this.#isVmm(pid)) return 'let';
    const length = (asked + PAGE_MASK) & ~PAGE_MASK;
    const kind = TYPES.get(flags & MAP_TYPE);
    if (kind === undefined) return 'let'; // the kernel refuses it
    if (kind === 'private' && (flags & OF_GUESTS) === 0n && !usesKvm(pid)) return 'let';
    if (kind === 'private' && !this.#mayFree)
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        'only root can free what a VMM gives back (CAP_CHECKPOINT_RESTORE), so its private memory stays where it is',
      );
    using file = makeRamFile(this.#o.dir, Number(length), kind);
    const replaced = this.#replace(call.tid, { addr, length: asked, prot, flags }, () => {
      // the one for the memory before stayed, as nothing may be closed there: it becomes this one's
      const at = fdsOf(call.tid).find((n) => this.#isSpent(call.tid, n));
      return giveFd(this.#o.listener, call, file.fd, { at, cloexec: true });
    });
    if (replaced.kind === 'failed') {
      this.#failed.set(call.tid, key);
      // that of a place which is taken the VMM has brought about itself
      if (replaced.errno !== EEXIST) this.#say(`mapping turtlefs: ${errnoName(replaced.errno)}`);
    }
    if (replaced.kind !== 'mapped') return 'done';
    this.#taken += Number(length);
    if (kind === 'private') this.#private.delete(pid);
    return 'done';
  }

  #isSpent(tid: number, fd: number): boolean {
    const kind = ramKindAt(tid, fd, this.#device);
    return kind === 'private' || kind === 'shared';
  }

  /** Without suspended seccomp only a VMM that has no filter of its own: it might be killed for the other call. */
  #replace(tid: number, asked: MmapCall, give: () => number): ReturnType<typeof replaceMmap> {
    const { filters } = this.#o;
    const now = filterCount(tid);
    if (!this.#suspend && (filters === undefined || now === undefined || now > filters))
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        'a seccomp filter of its own may not allow another mmap(), and only root can have it not asked (CAP_SYS_ADMIN)',
      );
    const flags = BigInt(MAP_SHARED) | (asked.flags & KEPT_FLAGS);
    const replaced = replaceMmap(tid, asked, { flags, giveFd: give, suspend: this.#suspend });
    if (replaced.kind === 'unsuspended') this.#suspend = false;
    return replaced;
  }

  /** A memfd that gets the size of a guest's RAM becomes a file of turtlefs, under the same number. */
  #ftruncate(call: AskedCall, pid: number): Verdict {
    const [number = 0n, length = 0n] = call.args;
    const { tid } = call; // which may have descriptors of its own
    const fd = Number(BigInt.asUintN(32, number));
    if (!linkOf(tid, fd)?.startsWith('/memfd:') || !this.#isVmm(pid)) return 'let';
    using memfd = openMemfd(tid, fd);
    if (memfd === undefined) return 'let';
    const seals = fcntl(memfd.fd, F_GET_SEALS, 0);
    if (seals < 0 || (seals & (F_SEAL_GROW | F_SEAL_WRITE)) !== 0) return 'let'; // the kernel refuses it
    if (fstatSync(memfd.fd).size > 0 || hasElsewhere(tid, fd)) {
      this.#say('a memfd that is in use already grows: it stays where it is');
      return 'let';
    }
    const cloexec = closesOnExec(tid, fd);
    using file = makeRamFile(this.#o.dir, Number(length), 'memfd');
    giveFd(this.#o.listener, call, file.fd, { at: fd, cloexec });
    this.#seals.set(fstatSync(file.fd).ino, BigInt(seals));
    this.#taken += Number(length);
    answerCall(this.#o.listener, call, 0n);
    return 'done';
  }

  /** Seals are what a memfd has: kept for the VMM, which asks for them, and not enforced. */
  #fcntl(call: AskedCall): Verdict {
    const [number = 0n, command = 0n, seals = 0n] = call.args;
    const fd = Number(BigInt.asUintN(32, number));
    if (ramKindAt(call.tid, fd, this.#device) !== 'memfd') return 'let';
    const { ino } = statSync(`/proc/${call.tid}/fd/${fd}`);
    const had = this.#seals.get(ino) ?? 0n;
    const add = Number(BigInt.asUintN(32, command)) === F_ADD_SEALS;
    if (add && (had & BigInt(F_SEAL_SEAL)) !== 0n) {
      refuseCall(this.#o.listener, call, EPERM);
      return 'done';
    }
    if (add) this.#seals.set(ino, had | seals);
    answerCall(this.#o.listener, call, add ? 0n : had);
    return 'done';
  }

  /** Private memory that is given back is freed and reads as zeros; a shared file's would stay. */
  #madvise(call: AskedCall, pid: number): Verdict {
    const [from = 0n, length = 0n, advice = 0n] = call.args;
    const range = { start: Number(from), end: Number(from + ((length + PAGE_MASK) & ~PAGE_MASK)) };
    if ((from & PAGE_MASK) !== 0n) return 'let'; // the kernel refuses it
    // what is not all known may have been moved
    if (!covered(range, this.#privateOf(pid))) this.#private.delete(pid);
    if (!this.#privateOf(pid).some((m) => overlap(m, range))) return 'let';
    const unlocks = Number(BigInt.asUintN(32, advice)) === MADV_DONTNEED_LOCKED;
    if (!unlocks && lockedIn(pid, range)) return 'let'; // so it does here
    if (!this.#punch(pid, range)) {
      // its mappings are others now, by what the VMM did with some of them
      this.#private.delete(pid);
      if (!this.#punch(pid, range)) return 'let';
    }
    if (Number(BigInt.asUintN(32, advice)) !== MADV_FREE) return 'let'; // page tables go as well
    answerCall(this.#o.listener, call, 0n);
    return 'done';
  }

  #privateOf(pid: number): readonly Mapping[] {
    const known = this.#private.get(pid) ?? privateRam(pid, this.#device);
    this.#private.set(pid, known);
    return known;
  }

  /** False: one of the mappings is not there any more. */
  #punch(pid: number, range: { start: number; end: number }): boolean {
    for (const m of this.#privateOf(pid).filter((m) => overlap(m, range))) {
      using file = openMapping(pid, m, this.#device);
      if (file === undefined) return false;
      const start = Math.max(m.start, range.start);
      const length = Math.min(m.end, range.end) - start;
      if (fallocate(file.fd, PUNCH_HOLE_KEEP_SIZE, m.offset + start - m.start, length) < 0)
        throw kernelError('giving memory back', koffi.errno());
    }
    return true;
  }

  #say(text: string): void {
    if (this.#said.has(text)) return;
    this.#said.add(text);
    this.#o.say(`${this.#o.program}: not all of its memory is on turtlefs: ${text}`);
  }
}

const overlap = (a: { start: number; end: number }, b: { start: number; end: number }): boolean =>
  a.start < b.end && b.start < a.end;

/** Whether all of the range is in them; they do not overlap each other. */
function covered(range: { start: number; end: number }, all: readonly Mapping[]): boolean {
  const bytes = all
    .filter((m) => overlap(m, range))
    .reduce((n, m) => n + Math.min(m.end, range.end) - Math.max(m.start, range.start), 0);
  return bytes === range.end - range.start;
}

/** Opened again, by the thread's descriptor; undefined: it is none any more, or huge pages were asked for. */
function openMemfd(tid: number, fd: number): OwnedFd | undefined {
  const opened = openSync(`/proc/${tid}/fd/${fd}`, O_RDWR);
  const self = `/proc/self/fd/${opened}`;
  if (readlinkSync(self).startsWith('/memfd:') && statfsSync(self).type === TMPFS_MAGIC)
    return new OwnedFd(opened, `memfd ${fd} of thread ${tid}`);
  closeSync(opened);
  return undefined;
}
