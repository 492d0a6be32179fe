/** Waiting in the event loop for a descriptor that Node has no class for. */
import koffi from 'koffi';
import { HyperturtleError } from '../core/errors.ts';
import type { OwnedFd } from './fds.ts';
import { isPollable } from './sys.ts';

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
