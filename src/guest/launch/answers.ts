/**
 * What becomes of each call that a VMM under `hyperturtle vmm` is asked about. What is not taken, or fails, the kernel does
 * as it would have done without us: the VMM then runs, and what was not accelerated is told.
 */
import { fstatSync, statSync, statfsSync } from 'node:fs';
import koffi from 'koffi';
import type { OwnedFd } from '../../bpf/fds.ts';
import { replaceMmap } from '../../bpf/ptrace.ts';
import type { MmapCall } from '../../bpf/ptrace.ts';
import { answerCall, giveFd, letThrough, stillAsked } from '../../bpf/seccomp.ts';
import type { AskedCall } from '../../bpf/seccomp.ts';
import { kernelError, pidfdGetfd, pidfdOpen } from '../../bpf/sys.ts';
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { errnoName } from '../../kernel/errno.ts';
import {
  ASKED,
  F_ADD_SEALS,
  MADV_FREE,
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_LOCKED,
  MAP_NONBLOCK,
  MAP_POPULATE,
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
const PUNCH_HOLE_KEEP_SIZE = 3;
const EEXIST = 17;

const PAGE = 4096;
const TMPFS_MAGIC = 0x0102_1994;
/** What of the VMM's flags stays: where, and what is to be done at once. */
const KEPT_FLAGS = BigInt(MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_POPULATE | MAP_NONBLOCK | MAP_LOCKED);
const MAP_TYPE = 0xfn;
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
        return this.#fcntl(call, pid);
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
    const kind: RamKind = (flags & MAP_TYPE) === BigInt(MAP_SHARED) ? 'shared' : 'private';
    if (kind === 'private' && !this.#mayFree)
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        'only root can free what a VMM gives back (CAP_CHECKPOINT_RESTORE), so its private memory stays where it is',
      );
    const file = makeRamFile(this.#o.dir, Number(length), kind);
    let fd: number;
    try {
      // the one for the memory before stayed, as nothing may be closed there: it becomes this one's
      const at = fdsOf(pid).find((n) => this.#isSpent(pid, n));
      fd = giveFd(this.#o.listener, call, file.fd, { at, cloexec: true });
    } finally {
      file.close();
    }
    const other = { flags: BigInt(MAP_SHARED) | (flags & KEPT_FLAGS), fd };
    const replaced = this.#replace(call.tid, { addr, length: asked, prot, flags }, other);
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

  #isSpent(pid: number, fd: number): boolean {
    const kind = ramKindAt(pid, fd, this.#device);
    return kind === 'private' || kind === 'shared';
  }

  /** Without suspended seccomp only a VMM that has no filter of its own: it might be killed for the other call. */
  #replace(
    tid: number,
    asked: MmapCall,
    other: { flags: bigint; fd: number },
  ): ReturnType<typeof replaceMmap> {
    const { filters } = this.#o;
    const now = filterCount(tid);
    if (!this.#suspend && (filters === undefined || now === undefined || now > filters))
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        'a seccomp filter of its own may not allow another mmap(), and only root can have it not asked (CAP_SYS_ADMIN)',
      );
    const replaced = replaceMmap(tid, asked, { ...other, suspend: this.#suspend });
    if (replaced.kind === 'unsuspended') this.#suspend = false;
    return replaced;
  }

  /** A memfd that gets the size of a guest's RAM becomes a file of turtlefs, under the same number. */
  #ftruncate(call: AskedCall, pid: number): Verdict {
    const [number = 0n, length = 0n] = call.args;
    const fd = Number(BigInt.asUintN(32, number));
    if (!linkOf(pid, fd)?.startsWith('/memfd:') || !this.#isVmm(pid)) return 'let';
    using process = pidfdOpen(pid);
    using memfd = pidfdGetfd(process, fd, `memfd ${fd} of process ${pid}`);
    if (statfsSync(`/proc/self/fd/${memfd.fd}`).type !== TMPFS_MAGIC) return 'let'; // huge pages were asked for
    if (fstatSync(memfd.fd).size > 0 || hasElsewhere(pid, fd)) {
      this.#say('a memfd that is in use already grows: it stays where it is');
      return 'let';
    }
    const cloexec = closesOnExec(pid, fd);
    using file = makeRamFile(this.#o.dir, Number(length), 'memfd');
    giveFd(this.#o.listener, call, file.fd, { at: fd, cloexec });
    this.#taken += Number(length);
    answerCall(this.#o.listener, call, 0n);
    return 'done';
  }

  /** Seals are what a memfd has: kept for the VMM, which asks for them, and not enforced. */
  #fcntl(call: AskedCall, pid: number): Verdict {
    const [number = 0n, command = 0n, seals = 0n] = call.args;
    const fd = Number(BigInt.asUintN(32, number));
    if (ramKindAt(pid, fd, this.#device) !== 'memfd') return 'let';
    const { ino } = statSync(`/proc/${pid}/fd/${fd}`);
    const had = this.#seals.get(ino) ?? 0n;
    const add = Number(BigInt.asUintN(32, command)) === F_ADD_SEALS;
    if (add) this.#seals.set(ino, had | seals);
    answerCall(this.#o.listener, call, add ? 0n : had);
    return 'done';
  }

  /** Private memory that is given back is freed and reads as zeros; a shared file's would stay. */
  #madvise(call: AskedCall, pid: number): Verdict {
    const [from = 0n, length = 0n, advice = 0n] = call.args;
    const range = { start: Number(from), end: Number(from + ((length + PAGE_MASK) & ~PAGE_MASK)) };
    if (!this.#privateOf(pid).some((m) => overlap(m, range))) return 'let';
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
