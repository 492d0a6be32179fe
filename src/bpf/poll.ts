/** Waiting for a descriptor that Node has no class for, in the event loop or in place of it. */
import koffi from 'koffi';
import { HyperturtleError } from '../core/errors.ts';
import type { OwnedFd } from './fds.ts';
import { errnoName } from '../kernel/errno.ts';
import { viewOf } from '../kernel/struct.ts';
import { isPollable, kernelError } from './sys.ts';

/**
 * Resolves when `file` becomes readable or is hung up: a pidfd when its process ends, an L2's descriptor when the L2
 * is gone. Throws the signal's reason when that comes first. The descriptor must stay open until it settles.
 */
export function whenReadable(file: OwnedFd, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    if (!isPollable(file)) throw new HyperturtleError('HT_KERNEL', `${file.what} cannot be waited for`);
    // SAFETY: the descriptor is open and can be polled (libuv's refusal would end the process in koffi 3.3), and the handle is closed before this promise settles, so before its owner
    // closes the descriptor.
    const handle = koffi.node.poll(file.fd, { readable: true, disconnect: true }, () => {
      finish();
      resolve();
    });
    const onAbort = (): void => {
      finish();
      reject(
        signal.reason instanceof Error
          ? signal.reason
          : new HyperturtleError('HT_INTERRUPTED', 'interrupted'),
      );
    };
    const finish = (): void => {
      signal.removeEventListener('abort', onAbort);
      handle.close();
    };
    signal.addEventListener('abort', onAbort, { once: true });
  });
}

const cPoll = koffi.load('libc.so.6').func('int poll(void *fds, unsigned long n, int timeoutMs)') as (
  fds: Uint8Array,
  n: number,
  timeoutMs: number,
) => number;
const POLLIN = 1;
const POLLERR = 8;
const POLLHUP = 16;
const POLLNVAL = 32;

/** Whether it becomes readable, is hung up, or neither within that time; this thread waits. Throws HT_KERNEL. */
export function pollNow(file: OwnedFd, timeoutMs: number): 'readable' | 'over' | 'quiet' {
  const fds = new Uint8Array(8);
  const view = viewOf(fds);
  view.setInt32(0, file.fd, true);
  view.setInt16(4, POLLIN, true);
  const end = performance.now() + timeoutMs;
  // SAFETY: the kernel reads and writes one struct pollfd, 8 bytes.
  while (cPoll(fds, 1, Math.max(0, Math.ceil(end - performance.now()))) < 0)
    if (errnoName(koffi.errno()) !== 'EINTR') throw kernelError('poll', koffi.errno());
  const events = view.getInt16(6, true);
  if ((events & POLLIN) !== 0) return 'readable';
  if ((events & (POLLERR | POLLNVAL)) !== 0)
    throw new HyperturtleError('HT_KERNEL', `${file.what} cannot be waited for`);
  return (events & POLLHUP) !== 0 ? 'over' : 'quiet';
}
