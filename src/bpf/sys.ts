/**
 * System calls that Node does not have, through libc. errno is read here and nowhere else, at once after the call:
 * any other call in between may overwrite it.
 */
import koffi from 'koffi';
import { openSync, readFileSync } from 'node:fs';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import type { ErrorCode } from '../core/errors.ts';
import { errnoName, errnoText } from '../kernel/errno.ts';
import type { IoctlRequest } from '../kernel/ioctl.ts';
import type { Caller } from './calls.ts';
import { OwnedFd } from './fds.ts';
import { own } from '../core/own.ts';

const libc = koffi.load('libc.so.6');
const cIoctl = libc.func('int ioctl(int fd, unsigned long request, void *arg)') as (
  fd: number,
  request: number,
  arg: Uint8Array | null,
) => number;
const cClose = libc.func('int close(int fd)') as (fd: number) => number;
const cSyscall = libc.func('long syscall(long number, long a, long b, long c, long d)') as (
  ...args: [number, number, number, number, number]
) => number;
const cMmap = libc.func(
  'void *mmap(void *at, size_t length, int prot, int flags, int fd, int64_t offset)',
) as (at: null, length: number, prot: number, flags: number, fd: number, offset: number) => bigint | null;
const cMunmap = libc.func('int munmap(void *at, size_t length)') as (at: bigint, length: number) => number;

const cEpollCreate = libc.func('int epoll_create1(int flags)') as (flags: number) => number;
const cEpollCtl = libc.func('int epoll_ctl(int ep, int op, int fd, void *event)') as (
  ep: number,
  op: number,
  fd: number,
  event: Uint8Array,
) => number;

// x86-64 and arm64 agree on these, as on all calls younger than Linux 5.1
const SYS_MEMBARRIER = process.arch === 'arm64' ? 283 : 324;
const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_GETFD = 438;

/** What an errno means for one call: the code and a text that says what to do. */
export type Explain = Readonly<Partial<Record<string, readonly [code: ErrorCode, text: string]>>>;

export function kernelError(what: string, errno: number, explain: Explain = {}): HyperturtleError {
  const name = errnoName(errno);
  const known = own(explain, name);
  const detail = { errno, errnoName: name };
  if (known) return new HyperturtleError(known[0], `${what}: ${known[1]} (${name})`, { detail });
  return new HyperturtleError('HT_KERNEL', `${what}: ${errnoText(errno)}`, { detail });
}

/**
 * `arg` must be exactly as long as the request's struct; the kernel may write into it. Returns what the call
 * returns (often a new descriptor). Throws HT_KERNEL, or what `explain` says for the errno.
 */
export function ioctl(file: OwnedFd, request: IoctlRequest, arg: Uint8Array, explain: Explain = {}): number {
  if (arg.length !== request.size)
    throw new RangeError(`${request.name}: argument of ${request.size} bytes expected, ${arg.length} given`);
  // SAFETY: the kernel copies at most request.size bytes, the size in the number, and `arg` has that many; koffi
  // passes a typed array's own memory, which the call does not outlive.
  const r = cIoctl(file.fd, request.code, arg);
  if (r < 0) throw kernelError(`${request.name} on ${file.what}`, koffi.errno(), explain);
  return r;
}

/** The same by `call`, which need not hold this thread up. `file` must stay open until it settles. */
export async function ioctlBy(
  call: Caller,
  file: OwnedFd,
  request: IoctlRequest,
  arg: Uint8Array,
  explain: Explain = {},
): Promise<number> {
  if (arg.length !== request.size)
    throw new RangeError(`${request.name}: argument of ${request.size} bytes expected, ${arg.length} given`);
  // SAFETY: as in ioctl; koffi holds `arg` until the call is over.
  const { result, errno } = await call(cIoctl, file.fd, request.code, arg);
  if (result < 0) throw kernelError(`${request.name} on ${file.what}`, errno, explain);
  return result;
}

const cWrite = libc.func('long write(int fd, const void *bytes, size_t length)') as (
  fd: number,
  bytes: Uint8Array,
  length: number,
) => number;

/** Writes to a file of /proc or /sys by `call`, as a whole. Throws HT_KERNEL, or what `explain` says for the errno. */
export async function writeBy(call: Caller, file: OwnedFd, text: string, explain?: Explain): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  // SAFETY: the kernel reads `length` bytes, which `bytes` has; koffi holds it until the call is over.
  const { result, errno } = await call(cWrite, file.fd, bytes, bytes.length);
  if (result < 0) throw kernelError(`writing to ${file.what}`, errno, explain);
}

/** Closes by `call`: what the kernel undoes then may wait for a grace period. Closing twice is fine. */
export async function closeBy(call: Caller, file: OwnedFd): Promise<void> {
  // the number is nobody's from here on and is not given again before it is closed
  if (!file.closed) await call(cClose, file.release());
}

/** An ioctl whose argument is a number, which is 0. */
export function ioctlWithout(file: OwnedFd, request: IoctlRequest): number {
  if (request.size !== 0) throw new RangeError(`${request.name}: takes an argument`);
  // SAFETY: the kernel takes the argument as a number and reads no memory.
  const r = cIoctl(file.fd, request.code, null);
  if (r < 0) throw kernelError(`${request.name} on ${file.what}`, koffi.errno());
  return r;
}

/** An ioctl that makes something: the descriptor that owns it. */
export function ioctlFd(
  file: OwnedFd,
  request: IoctlRequest,
  arg: Uint8Array,
  what: string,
  explain?: Explain,
): OwnedFd {
  return new OwnedFd(ioctl(file, request, arg, explain), what);
}

const cSocket = libc.func('int socket(int domain, int type, int protocol)') as (
  domain: number,
  type: number,
  protocol: number,
) => number;

/** A socket that is never connected: ioctls about network devices of this network namespace go through it. */
export function deviceSocket(): OwnedFd {
  const AF_UNIX = 1;
  const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
  const fd = cSocket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0);
  if (fd < 0) throw kernelError('socket', koffi.errno());
  return new OwnedFd(fd, 'socket for network devices');
}

/** Closes a descriptor that nothing else knows of, allocating nothing. */
export function closeNow(fd: number): void {
  cClose(fd);
}

/** Opens a device read-write (close-on-exec, as Node does). `missing` says what to do when it is not there. */
export function openDevice(devicePath: string, missing: string): OwnedFd {
  try {
    return new OwnedFd(openSync(devicePath, 'r+'), devicePath);
  } catch (e) {
    const errno = errnoCode(e);
    if (errno === 'ENOENT' || errno === 'ENXIO' || errno === 'ENODEV')
      throw new HyperturtleError('HT_NOT_FOUND', `${devicePath} is not there: ${missing}`, { cause: e });
    if (errno === 'EACCES' || errno === 'EPERM')
      throw new HyperturtleError('HT_KERNEL', `${devicePath}: no permission: run as root`, { cause: e });
    throw e;
  }
}

/**
 * Settles when no CPU is any more in the middle of what it was doing in the kernel under RCU, such as running an eBPF
 * program for a frame (MEMBARRIER_CMD_GLOBAL is synchronize_rcu(), kernel/sched/membarrier.c; Linux 4.3). Takes some
 * ten milliseconds.
 */
export async function waitForReaders(call: Caller): Promise<void> {
  const MEMBARRIER_CMD_GLOBAL = 1;
  const { result, errno } = await call(cSyscall, SYS_MEMBARRIER, MEMBARRIER_CMD_GLOBAL, 0, 0, 0);
  if (result < 0) throw kernelError('membarrier', errno);
}

/** A descriptor for process `pid` that stays with this process even when the number is used again. */
export function pidfdOpen(pid: number): OwnedFd {
  const fd = cSyscall(SYS_PIDFD_OPEN, pid, 0, 0, 0);
  if (fd < 0)
    throw kernelError(`process ${pid}`, koffi.errno(), { ESRCH: ['HT_NOT_FOUND', 'no such process'] });
  return new OwnedFd(fd, `pidfd of process ${pid}`);
}

/** A copy of descriptor `remoteFd` of that process: both refer to the same open file. Needs ptrace rights. */
export function pidfdGetfd(pidfd: OwnedFd, remoteFd: number, what: string): OwnedFd {
  const fd = cSyscall(SYS_PIDFD_GETFD, pidfd.fd, remoteFd, 0, 0);
  if (fd < 0)
    throw kernelError(`${what} (pidfd_getfd)`, koffi.errno(), {
      EPERM: ['HT_KERNEL', 'not permitted: run as root (CAP_SYS_PTRACE)'],
      EBADF: ['HT_NOT_FOUND', 'the process has closed it'],
      ESRCH: ['HT_NOT_FOUND', 'the process has ended'],
    });
  return new OwnedFd(fd, what);
}

/** Whether the process behind `pidfd` still runs. */
export function pidfdAlive(pidfd: OwnedFd): boolean {
  return cSyscall(SYS_PIDFD_SEND_SIGNAL, pidfd.fd, 0, 0, 0) === 0;
}

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;

/** Whether the kernel can wait for this file at all; not for plain files, nor devices without a poll operation. */
export function isPollable(file: OwnedFd): boolean {
  const made = cEpollCreate(EPOLL_CLOEXEC);
  if (made < 0) throw kernelError('epoll_create1', koffi.errno());
  const ep = new OwnedFd(made, 'epoll');
  try {
    // SAFETY: the kernel reads one struct epoll_event, 12 bytes on x86-64 and 16 elsewhere.
    return cEpollCtl(ep.fd, EPOLL_CTL_ADD, file.fd, new Uint8Array(16)) === 0;
  } finally {
    ep.close();
  }
}

const cMount = libc.func(
  'int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data)',
) as (source: string, target: string, type: string, flags: number, data: null) => number;
const cPrctl = libc.func(
  'int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)',
) as (...args: [number, number, number, number, number]) => number;
const cSetrlimit = libc.func('int setrlimit(int resource, const void *limit)') as (
  resource: number,
  limit: Uint8Array,
) => number;
const cCapset = libc.func('int capset(const void *header, const void *data)') as (
  header: Uint8Array,
  data: Uint8Array,
) => number;

/** Mounts a file system without options (nosuid, nodev, noexec). */
export function mount(source: string, target: string, type: string): void {
  const MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8;
  // SAFETY: NUL-ended strings; the kernel reads no data.
  if (cMount(source, target, type, MS_NOSUID_NODEV_NOEXEC, null) < 0)
    throw kernelError(`mounting ${type} at ${target}`, koffi.errno(), {
      EPERM: ['HT_KERNEL', 'not permitted: run as root (CAP_SYS_ADMIN)'],
    });
}

/** This process gets SIGKILL when the thread that started it ends. Check the parent's pid after it. */
export function dieWithParent(): void {
  const PR_SET_PDEATHSIG = 1;
  const SIGKILL = 9;
  if (cPrctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) throw kernelError('PR_SET_PDEATHSIG', koffi.errno());
}

/** Most bytes of private writable memory of this process (RLIMIT_DATA, counts mappings since Linux 4.7). */
export function limitMemory(bytes: number): void {
  const RLIMIT_DATA = 2;
  const limit = new Uint8Array(16);
  new BigUint64Array(limit.buffer).fill(BigInt(bytes));
  // SAFETY: the kernel reads one struct rlimit, 16 bytes.
  if (cSetrlimit(RLIMIT_DATA, limit) < 0) throw kernelError('setrlimit(RLIMIT_DATA)', koffi.errno());
}

/**
 * Keeps only the given capabilities (numbers of <linux/capability.h>) of those that the calling thread has, and lets
 * no program that it executes gain any.
 */
export function keepCapabilities(keep: readonly number[]): void {
  const PR_SET_NO_NEW_PRIVS = 38;
  if (cPrctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) throw kernelError('PR_SET_NO_NEW_PRIVS', koffi.errno());
  const mask = keep.reduce((m, c) => m | (1n << BigInt(c)), 0n);
  const have = BigInt(
    `0x${/^CapPrm:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/thread-self/status', 'utf8'))?.[1] ?? '0'}`,
  );
  const bits = mask & have;
  const header = new Uint8Array(8);
  const data = new Uint8Array(24);
  const LINUX_CAPABILITY_VERSION_3 = 0x2008_0522;
  new Uint32Array(header.buffer).set([LINUX_CAPABILITY_VERSION_3, 0]);
  const low = Number(bits & 0xffff_ffffn);
  const high = Number(bits >> 32n);
  new Uint32Array(data.buffer).set([low, low, 0, high, high, 0]);
  // SAFETY: version 3 reads a header of 8 bytes and two structs of 12.
  if (cCapset(header, data) < 0) throw kernelError('capset', koffi.errno());
}

const PROT_READ = 1;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;

/**
 * Memory shared with the kernel or another process. Reads and writes go through methods that check bounds, and
 * never hand out a view: one that outlived munmap would crash the process.
 */
export class SharedMemory implements Disposable {
  readonly bytes: number;
  readonly #readOnly: boolean;
  #address: bigint;
  #words: BigUint64Array<ArrayBuffer>;

  constructor(file: OwnedFd, bytes: number, options: { offset?: number; readOnly?: boolean } = {}) {
    if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes % 8 !== 0)
      throw new RangeError(`a mapping of ${bytes} bytes: a positive multiple of 8 expected`);
    // SAFETY: the kernel chooses the address; a failure is MAP_FAILED (-1), checked below before any use.
    const prot = options.readOnly ? PROT_READ : PROT_READ_WRITE;
    const at = cMmap(null, bytes, prot, MAP_SHARED, file.fd, options.offset ?? 0);
    if (at === null || at === 0xffff_ffff_ffff_ffffn || at === -1n)
      throw kernelError(`mapping ${bytes} bytes of ${file.what}`, koffi.errno());
    this.bytes = bytes;
    this.#readOnly = options.readOnly ?? false;
    this.#address = at;
    // SAFETY: the view covers exactly the mapping and is dropped in close() before munmap.
    this.#words = new BigUint64Array(koffi.view(at, bytes));
  }

  /** The word at byte offset `at`, a multiple of 8. */
  load(at: number): bigint {
    return Atomics.load(this.#words, this.#index(at));
  }

  store(at: number, value: bigint): void {
    this.#checkWritable();
    Atomics.store(this.#words, this.#index(at), value);
  }

  /** Sets the word to `next` if it is `expected`; returns what was there. */
  compareExchange(at: number, expected: bigint, next: bigint): bigint {
    this.#checkWritable();
    return Atomics.compareExchange(this.#words, this.#index(at), expected, next);
  }

  /** A copy of `length` bytes from `at`. */
  read(at: number, length: number): Uint8Array {
    this.#check(at, length);
    return new Uint8Array(this.#words.buffer, at, length).slice();
  }

  write(at: number, bytes: Uint8Array): void {
    this.#checkWritable();
    this.#check(at, bytes.length);
    new Uint8Array(this.#words.buffer, at, bytes.length).set(bytes);
  }

  close(): void {
    if (this.#address === 0n) return;
    const at = this.#address;
    this.#address = 0n;
    this.#words = new BigUint64Array(0);
    // SAFETY: the only view is gone; `at` and `bytes` are those of the mapping made in the constructor.
    cMunmap(at, this.bytes);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** A write into read-only pages would end the process. */
  #checkWritable(): void {
    if (this.#readOnly) throw new HyperturtleError('HT_KERNEL', 'this memory is mapped for reading only');
  }

  #check(at: number, length: number): void {
    if (this.#address === 0n)
      throw new HyperturtleError('HT_KERNEL', 'shared memory used after it was closed');
    if (!Number.isInteger(at) || at < 0 || length < 0 || at + length > this.bytes)
      throw new RangeError(`offset ${at}, ${length} bytes: outside the mapping of ${this.bytes} bytes`);
  }

  #index(at: number): number {
    this.#check(at, 8);
    if (at % 8 !== 0) throw new RangeError(`offset ${at} is not a multiple of 8`);
    return at / 8;
  }
}
