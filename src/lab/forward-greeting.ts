/** How the two ends of `lab forward` find each other: in a pipe that may still hold what others sent. */
import type { Duplex } from 'node:stream';
import { withDeadline } from '../core/wait.ts';

/** What the relay says on its output when it has the port. */
export const READY = 'ready\n';

/** How long each end waits for the other, by its own clock: Node starts in it, under an emulator. */
export const GREETING_MS = 60_000;

/** Reads up to and with `word`; what is behind it stays to be read. Throws HT_TIMEOUT. */
export async function untilWord(
  stream: Duplex,
  word: string,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<void> {
  let seen = Buffer.alloc(0);
  const found = new Promise<void>((resolve, reject) => {
    const look = (chunk: Buffer): void => {
      seen = Buffer.concat([seen, chunk]);
      const at = seen.indexOf(word);
      if (at < 0) {
        seen = seen.subarray(Math.max(0, seen.length - word.length));
        return;
      }
      stream.off('data', look).off('close', closed);
      stream.pause();
      const rest = seen.subarray(at + word.length);
      if (rest.length > 0) stream.unshift(rest);
      resolve();
    };
    const closed = (): void => reject(new Error('the port was closed'));
    stream.on('data', look).on('close', closed);
  });
  await withDeadline('the other end of the port', found, timeoutMs, signal);
}
