/** Seccomp filters whose calls another process answers: made on one side, answered on the other. */
import koffi from 'koffi';
import { HyperturtleError } from '../core/errors.ts';
import {
  SECCOMP_FILTER_FLAG_NEW_LISTENER,
  SECCOMP_GET_ACTION_AVAIL,
  SECCOMP_IOCTL_NOTIF_ADDFD,
  SECCOMP_IOCTL_NOTIF_ID_VALID,
  SECCOMP_IOCTL_NOTIF_RECV,
  SECCOMP_IOCTL_NOTIF_SEND,
  SECCOMP_ADDFD_FLAG_SETFD,
  SECCOMP_NOTIF,
  SECCOMP_NOTIF_ADDFD,
  SECCOMP_NOTIF_RESP,
  SECCOMP_RET_USER_NOTIF,
  SECCOMP_SET_MODE_FILTER,
  SECCOMP_USER_NOTIF_FLAG_CONTINUE,
} from '../kernel/seccomp.ts';
import { u32, u64, viewOf } from '../kernel/struct.ts';
import type { OwnedFd } from './fds.ts';
import { ioctl, kernelError } from './sys.ts';

const libc = koffi.load('libc.so.6');
const cSeccomp = libc.func('long syscall(long number, long operation, long flags, void *arg)') as (
  number: number,
  operation: number,
  flags: number,
  arg: Uint8Array,
) => number;
const SYS_SECCOMP = 317;

/** Throws HT_UNSUPPORTED on kernels without user notification. */
export function requireUserNotification(): void {
  const action = new Uint8Array(4);
  u32.write(viewOf(action), 0, SECCOMP_RET_USER_NOTIF);
  // SAFETY: the kernel reads one u32.
  if (process.arch === 'x64' && cSeccomp(SYS_SECCOMP, SECCOMP_GET_ACTION_AVAIL, 0, action) === 0) return;
  throw new HyperturtleError(
    'HT_UNSUPPORTED',
    'this kernel has no user notification of seccomp (x86-64, Linux 5.9 or newer with CONFIG_SECCOMP_FILTER)',
  );
}

/**
 * What puts the filter on the calling thread, and so on what it executes: gives the descriptor by which its calls are
 * answered, or the negative error number, and allocates nothing. From then on a call of this thread that the filter asks about
 * waits until it is answered. Its memory stays until the process ends or becomes another program.
 */
export function readyFilter(filter: Uint8Array): () => number {
  const program = koffi.alloc('uint8_t', filter.length) as bigint;
  // SAFETY: the view covers exactly the allocation.
  new Uint8Array(koffi.view(program, filter.length)).set(filter);
  const fprog = new Uint8Array(16);
  const view = viewOf(fprog);
  view.setUint16(0, filter.length / 8, true);
  u64.write(view, 8, program);
  return () => {
    // SAFETY: the kernel reads one struct sock_fprog and the filter behind it, and keeps a copy.
    const fd = cSeccomp(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, fprog);
    return fd < 0 ? -koffi.errno() : fd;
  };
}

/** What a negative answer of readyFilter() means. */
export const filterError = (errno: number): HyperturtleError =>
  kernelError('seccomp', errno, {
    EBUSY: [
      'HT_UNSUPPORTED',
      'this process has a filter with a listener already, as by another such launcher: the kernel allows one',
    ],
    EACCES: ['HT_UNSUPPORTED', 'neither CAP_SYS_ADMIN nor no_new_privs'],
  });

/** A call that waits for its answer. */
export interface AskedCall {
  id: bigint;
  /** Number of the thread. */
  tid: number;
  nr: number;
  args: readonly bigint[];
}

/** The next call, when the listener is readable; undefined when it has been given up meanwhile. */
export function nextCall(listener: OwnedFd): AskedCall | undefined {
  const arg = new Uint8Array(SECCOMP_NOTIF.size);
  if (!unlessGone(() => ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, arg, GONE))) return undefined;
  const n = SECCOMP_NOTIF.decode(arg);
  return { id: n.id, tid: n.pid, nr: n['data.nr'], args: n['data.args'] };
}

/** Whether the call still waits: what was read about its thread by number was about that thread. */
export function stillAsked(listener: OwnedFd, call: AskedCall): boolean {
  const arg = new Uint8Array(8);
  u64.write(viewOf(arg), 0, call.id);
  return unlessGone(() => ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, arg, GONE));
}

/** Has the kernel do what was asked, as without a filter. */
export function letThrough(listener: OwnedFd, call: AskedCall): void {
  const arg = SECCOMP_NOTIF_RESP.encode({ id: call.id, flags: SECCOMP_USER_NOTIF_FLAG_CONTINUE });
  unlessGone(() => ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, arg, GONE));
}

/** Answers in the kernel's place. */
export function answerCall(listener: OwnedFd, call: AskedCall, value: bigint): void {
  const arg = SECCOMP_NOTIF_RESP.encode({ id: call.id, val: BigInt.asUintN(64, value) });
  unlessGone(() => ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, arg, GONE));
}

/** Has the call fail. */
export function refuseCall(listener: OwnedFd, call: AskedCall, errno: number): void {
  const arg = SECCOMP_NOTIF_RESP.encode({ id: call.id, error: -errno });
  unlessGone(() => ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, arg, GONE));
}

/**
 * Gives the process that asks a descriptor for `fd`, closed by exec or not: of number `at`, or the next free one. Returns
 * the number; throws HT_NOT_FOUND when the call has been given up.
 */
export function giveFd(
  listener: OwnedFd,
  call: AskedCall,
  fd: number,
  o: { at?: number | undefined; cloexec: boolean },
): number {
  const O_CLOEXEC = 0o2000000;
  const arg = SECCOMP_NOTIF_ADDFD.encode({
    id: call.id,
    flags: o.at === undefined ? 0 : SECCOMP_ADDFD_FLAG_SETFD,
    srcfd: fd,
    newfd: o.at ?? 0,
    newfd_flags: o.cloexec ? O_CLOEXEC : 0,
  });
  return ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, arg, GONE);
}

const GONE = {
  ENOENT: ['HT_NOT_FOUND', 'the call has been given up'],
  EINPROGRESS: ['HT_NOT_FOUND', 'the call has been answered'],
} as const;

function unlessGone(f: () => unknown): boolean {
  try {
    f();
    return true;
  } catch (e) {
    if (e instanceof HyperturtleError && e.code === 'HT_NOT_FOUND') return false;
    throw e;
  }
}
