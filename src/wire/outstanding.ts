/** Own requests that have no answer yet: each ends by its answer, its deadline, its signal, or the connection. */
import { randomBytes } from 'node:crypto';
import { HyperturtleError } from '../core/errors.ts';
import { patient } from '../core/patience.ts';
import { abortReason } from '../core/wait.ts';
import type { Incoming, RpcId } from './message.ts';

type Answer = Extract<Incoming, { kind: 'result' | 'error' }>;

interface Waiting {
  take: (answer: Answer) => boolean;
  fail: (reason: Error) => void;
}

export class Outstanding {
  // ids of an earlier process on the same port are never taken for this one's
  readonly #prefix = randomBytes(6).toString('base64url');
  #last = 0;
  readonly #waiting = new Map<RpcId, Waiting>();

  get size(): number {
    return this.#waiting.size;
  }

  /**
   * Sends by `send(id)`, which may throw, and waits. `read` turns the answer into the result, or throws; undefined
   * says that this was not the answer. `cancel(id)` is called when the wait ends before the answer.
   */
  ask<T>(
    what: string,
    options: { timeoutMs: number; signal: AbortSignal | undefined },
    send: (id: RpcId) => void,
    read: (answer: Answer) => { value: T } | undefined,
    cancel: (id: RpcId) => void,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const { signal } = options;
      const timeoutMs = patient(options.timeoutMs);
      signal?.throwIfAborted();
      const id = `${this.#prefix}-${++this.#last}`;
      send(id);
      const settle = (): void => {
        this.#waiting.delete(id);
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      };
      const fail = (reason: Error): void => {
        settle();
        reject(reason);
      };
      const onAbort = (): void => {
        cancel(id);
        fail(abortReason(signal!));
      };
      const timer = setTimeout(() => {
        cancel(id);
        fail(new HyperturtleError('HT_TIMEOUT', `${what}: no answer within ${timeoutMs / 1000} s`));
      }, timeoutMs);
      signal?.addEventListener('abort', onAbort, { once: true });
      const take = (answer: Answer): boolean => {
        try {
          const result = read(answer);
          if (result === undefined) return false;
          settle();
          resolve(result.value);
        } catch (e) {
          fail(e as Error);
        }
        return true;
      };
      this.#waiting.set(id, { take, fail });
    });
  }

  /** False: nobody waits for this. */
  take(answer: Answer): boolean {
    return answer.id !== null && (this.#waiting.get(answer.id)?.take(answer) ?? false);
  }

  failAll(reason: Error): void {
    for (const waiting of [...this.#waiting.values()]) waiting.fail(reason);
  }
}
