/** One at a time: changes that must each see the result of the one before. */
import { abortReason } from './wait.ts';

/** Runs functions one after the other, in the order in which they came. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** Throws the signal's reason when that aborts while others have their turn; `work` is then never begun. */
  async take<T>(work: () => T | Promise<T>, signal?: AbortSignal): Promise<T> {
    const before = this.#last;
    let done!: () => void;
    const mine = new Promise<void>((resolve) => (done = resolve));
    this.#last = before.then(() => mine);
    try {
      await (signal ? abortable(before, signal) : before);
      signal?.throwIfAborted();
      return await work();
    } finally {
      done();
    }
  }
}

function abortable(promise: Promise<unknown>, signal: AbortSignal): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const stop = (): void => reject(abortReason(signal));
    if (signal.aborted) return stop();
    signal.addEventListener('abort', stop, { once: true });
    void promise.then(() => {
      signal.removeEventListener('abort', stop);
      resolve(undefined);
    });
  });
}
