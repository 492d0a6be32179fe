/**
 * Has a thread that waits in mmap() for an answer of seccomp's make another mmap() instead, by a short ptrace: seized,
 * interrupted, registers changed, one call run, registers as they were, let go.
 *
 * If this process dies at any point of it, the kernel detaches it and the thread runs on with the registers of that
 * moment. Before they are changed, that is the call as it was made, which then asks again. After that it is the other
 * mmap(), whose result is what the caller is to get; its registers r8 to r10 are then the other call's, which the ABI of
 * functions lets a callee change, as every libc's mmap() is one.
 */
import koffi from 'koffi';
import { HyperturtleError } from '../core/errors.ts';
import {
  PTRACE_DETACH,
  PTRACE_EVENT_STOP,
  PTRACE_GETREGS,
  PTRACE_GET_SYSCALL_INFO,
  PTRACE_INTERRUPT,
  PTRACE_O_SUSPEND_SECCOMP,
  PTRACE_O_TRACESYSGOOD,
  PTRACE_SEIZE,
  PTRACE_SETOPTIONS,
  PTRACE_SETREGS,
  PTRACE_SYSCALL,
  PTRACE_SYSCALL_INFO,
  PTRACE_SYSCALL_INFO_ENTRY,
  USER_REGS,
} from '../kernel/ptrace.ts';
import { AUDIT_ARCH_X86_64 } from '../kernel/seccomp.ts';
import { viewOf } from '../kernel/struct.ts';
import { kernelError } from './sys.ts';

const libc = koffi.load('libc.so.6');
const cPtrace = libc.func('long ptrace(long request, long pid, intptr_t addr, intptr_t data)') as (
  request: number,
  pid: number,
  addr: number,
  data: number,
) => number;
const cPtraceAt = libc.func('long ptrace(long request, long pid, intptr_t addr, void *data)') as (
  request: number,
  pid: number,
  addr: number,
  data: Uint8Array,
) => number;
const cWaitpid = libc.func('int waitpid(int pid, void *status, int options)') as (
  pid: number,
  status: Uint8Array,
  options: number,
) => number;

const ESRCH = 3;
const SIGTRAP = 5;
const WNOHANG = 1;
const WALL = 0x4000_0000;
const SYS_MMAP = 9n;
const ERESTARTSYS = 512n;
const MAX_ERRNO = 4095n;
/** Length of the instruction `syscall`. */
const SYSCALL_BYTES = 2n;
/** A thread that waits interruptibly stops at once, and one that begins a call does; one that is being killed goes. */
const STOP_MS = 10_000;

type Regs = ReturnType<typeof USER_REGS.decode>;

export interface MmapCall {
  addr: bigint;
  length: bigint;
  prot: bigint;
  flags: bigint;
}

/**
 * `again`: the thread makes its call once more, or is gone; `failed`: so it does, as the other call gave that errno;
 * `unsuspended`: so it does, as its seccomp cannot be suspended.
 */
export type Replaced =
  | { kind: 'mapped'; address: bigint }
  | { kind: 'again' | 'unsuspended' }
  | { kind: 'failed'; errno: number };

class Over extends Error {}

/**
 * `asked` is what the thread waits in; `giveFd` gives it a descriptor, which is left to it, once it is known to be traced.
 * Throws HT_UNSUPPORTED when it may not be. `suspend`: a filter of the VMM's own is not asked about the other call; only
 * root can have that.
 */
export function replaceMmap(
  tid: number,
  asked: MmapCall,
  other: { flags: bigint; giveFd: () => number; suspend: boolean },
): Replaced {
  if (cPtrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD) < 0) {
    const errno = koffi.errno();
    if (errno === ESRCH) return { kind: 'again' };
    throw kernelError(`tracing thread ${tid}`, errno, {
      EPERM: ['HT_UNSUPPORTED', 'not permitted: it is being traced already, or this is not root'],
    });
  }
  const thread = new Traced(tid);
  let fd: number;
  try {
    fd = other.giveFd(); // the thread still waits
  } catch (e) {
    pauseIfThere(thread);
    throw e;
  }
  try {
    return thread.replace(asked, { ...other, fd });
  } catch (e) {
    if (e instanceof Over) return { kind: 'again' };
    thread.letGo(0);
    throw e;
  }
}

class Traced {
  readonly #tid: number;

  constructor(tid: number) {
    this.#tid = tid;
  }

  replace(asked: MmapCall, other: { flags: bigint; fd: number; suspend: boolean }): Replaced {
    this.#request(PTRACE_INTERRUPT, 0);
    const stop = this.#stop();
    const was = this.#regs();
    const waits = was.orig_rax === SYS_MMAP && was.rax === BigInt.asUintN(64, -ERESTARTSYS);
    const same =
      was.rdi === asked.addr && was.rsi === asked.length && was.rdx === asked.prot && was.r10 === asked.flags;
    if (!waits || !same) return this.#again(stop.signal);
    const once: Regs = {
      ...was,
      rip: was.rip - SYSCALL_BYTES,
      rax: SYS_MMAP,
      orig_rax: BigInt.asUintN(64, -1n),
    };
    // a signal comes first: its handler runs, and mmap() is called again after it
    if (stop.kind !== 'interrupted') return this.#again(stop.signal, once);
    if (other.suspend && !this.#setSuspended(true)) {
      this.#again(0, once);
      return { kind: 'unsuspended' };
    }
    this.#setSuspended(false);
    const set: Regs = { ...once, r10: other.flags, r8: BigInt(other.fd), r9: 0n };
    this.#setRegs(set);
    this.#request(PTRACE_SYSCALL, 0);
    const entry = this.#stop();
    if (entry.kind !== 'call') return this.#again(entry.signal, once);
    this.#expectCall(set, was.rip);
    // after this stop comes seccomp, and then the call
    if (other.suspend) this.#setSuspended(true);
    this.#request(PTRACE_SYSCALL, 0);
    // for as long as the kernel needs to make all of it present (MAP_POPULATE, MAP_LOCKED)
    if (this.#stop(Infinity).kind !== 'call')
      throw new HyperturtleError('HT_KERNEL', `thread ${this.#tid}: no end of mmap()`);
    const { rax } = this.#regs();
    const errno = BigInt.asUintN(64, -rax);
    if (errno <= MAX_ERRNO) {
      this.#again(0, once);
      return { kind: 'failed', errno: Number(errno) };
    }
    this.#setRegs({ ...was, rax, orig_rax: BigInt.asUintN(64, -1n) });
    this.letGo(0);
    return { kind: 'mapped', address: rax };
  }

  /**
   * Only for a thread that is stopped: one that ran would make other calls too without its filter. The one in question has
   * let the call through that is replaced.
   */
  #setSuspended(on: boolean): boolean {
    const options = PTRACE_O_TRACESYSGOOD | (on ? PTRACE_O_SUSPEND_SECCOMP : 0);
    if (cPtrace(PTRACE_SETOPTIONS, this.#tid, 0, options) === 0) return true;
    if (koffi.errno() === ESRCH) throw new Over();
    return false;
  }

  /**
   * The thread is about to make the call that it was set up for. Another thread of a hostile VMM may have written another
   * instruction where `syscall` was, as `int 0x80`, by which the same number is another call: the kernel itself says which
   * ABI's it is. What it leads to is not done without the VMM's own filter.
   */
  #expectCall(set: Regs, rip: bigint): void {
    const now = this.#regs();
    const call = this.#callInfo();
    const args = [set.rdi, set.rsi, set.rdx, set.r10, set.r8, set.r9];
    const same =
      call.op === PTRACE_SYSCALL_INFO_ENTRY &&
      call.arch === AUDIT_ARCH_X86_64 &&
      call['entry.nr'] === SYS_MMAP &&
      args.every((arg, i) => call['entry.args'][i] === arg);
    if (same && now.orig_rax === SYS_MMAP && now.rip === rip) return;
    this.#setRegs({ ...now, orig_rax: BigInt.asUintN(64, -1n) }); // no call at all
    throw new HyperturtleError('HT_KERNEL', `thread ${this.#tid} makes another call than the one it was in`);
  }

  #callInfo(): ReturnType<typeof PTRACE_SYSCALL_INFO.decode> {
    const bytes = new Uint8Array(PTRACE_SYSCALL_INFO.size);
    // SAFETY: the kernel writes no more than the size that it is told.
    if (cPtraceAt(PTRACE_GET_SYSCALL_INFO, this.#tid, bytes.length, bytes) < 0)
      this.#failed('PTRACE_GET_SYSCALL_INFO');
    return PTRACE_SYSCALL_INFO.decode(bytes);
  }

  /** Stops and goes on, which ends what it waits in by ERESTARTSYS; one that does not wait stops when its call ends. */
  pause(): void {
    this.#request(PTRACE_INTERRUPT, 0);
    this.letGo(this.#stop(Infinity).signal);
  }

  letGo(signal: number): void {
    cPtrace(PTRACE_DETACH, this.#tid, 0, signal); // one that has gone meanwhile needs none
  }

  #again(signal: number, regs?: Regs): Replaced {
    if (regs) this.#setRegs(regs);
    this.letGo(signal);
    return { kind: 'again' };
  }

  #request(request: number, data: number): void {
    if (cPtrace(request, this.#tid, 0, data) < 0) this.#failed('ptrace');
  }

  #regs(): Regs {
    const bytes = new Uint8Array(USER_REGS.size);
    // SAFETY: the kernel writes one struct user_regs_struct.
    if (cPtraceAt(PTRACE_GETREGS, this.#tid, 0, bytes) < 0) this.#failed('PTRACE_GETREGS');
    return USER_REGS.decode(bytes);
  }

  #setRegs(regs: Regs): void {
    // SAFETY: the kernel reads one struct user_regs_struct.
    if (cPtraceAt(PTRACE_SETREGS, this.#tid, 0, USER_REGS.encode(regs)) < 0) this.#failed('PTRACE_SETREGS');
  }

  /** ESRCH: it has been killed, or another thread of it has executed a program. */
  #failed(what: string): never {
    const errno = koffi.errno();
    if (errno === ESRCH) throw new Over();
    throw kernelError(`${what} of thread ${this.#tid}`, errno);
  }

  /**
   * `signal`: to be delivered to it, or 0. A thread that does not stop in time can neither be let go nor stay traced: this
   * process ends, by which the kernel detaches it, and what comes after it goes on.
   */
  #stop(timeoutMs = STOP_MS): { kind: 'interrupted' | 'call' | 'signal' | 'group'; signal: number } {
    const status = new Uint8Array(4);
    const nap = new Int32Array(new SharedArrayBuffer(4));
    const start = performance.now();
    for (;;) {
      // SAFETY: the kernel writes one int.
      const got = cWaitpid(this.#tid, status, WALL | WNOHANG);
      if (got < 0) throw new Over();
      if (got > 0) break;
      const waited = performance.now() - start;
      if (waited > timeoutMs) process.kill(process.pid, 'SIGKILL');
      Atomics.wait(nap, 0, 0, waited < 20 ? 0.05 : 5);
    }
    const word = viewOf(status).getUint32(0, true);
    if ((word & 0xff) !== 0x7f) throw new Over();
    const signal = (word >> 8) & 0xff;
    if (signal === (SIGTRAP | 0x80)) return { kind: 'call', signal: 0 };
    if (word >> 16 === PTRACE_EVENT_STOP)
      return { kind: signal === SIGTRAP ? 'interrupted' : 'group', signal: 0 };
    return { kind: 'signal', signal };
  }
}

/** Has a thread that waits in a call make it once more, if it can be traced. */
export function nudge(tid: number): void {
  if (cPtrace(PTRACE_SEIZE, tid, 0, 0) === 0) pauseIfThere(new Traced(tid));
}

function pauseIfThere(thread: Traced): void {
  try {
    thread.pause();
  } catch (e) {
    if (!(e instanceof Over)) throw e;
  }
}
