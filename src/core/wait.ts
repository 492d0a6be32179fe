/** Waiting with a deadline. Every wait in this project ends: by result, by deadline, or by an AbortSignal. */
import { HyperturtleError } from './errors.ts';
import { patient } from './patience.ts';

export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortReason(signal));
    const done = (): void => {
      signal?.removeEventListener('abort', stop);
      resolve();
    };
    const timer = setTimeout(done, ms);
    const stop = (): void => {
      clearTimeout(timer);
      reject(abortReason(signal!));
    };
    signal?.addEventListener('abort', stop, { once: true });
  });
}

/**
 * Calls `probe` every `intervalMs`, which may depend on the time that has passed, until it returns other than undefined.
 * Throws HT_TIMEOUT naming `what`.
 */
export async function waitFor<T>(
  what: string,
  probe: () => T | undefined | Promise<T | undefined>,
  options: {
    timeoutMs: number;
    intervalMs?: number | ((elapsedMs: number) => number);
    signal?: AbortSignal | undefined;
  },
): Promise<T> {
  const { intervalMs = 50 } = options;
  const timeoutMs = patient(options.timeoutMs);
  const begin = performance.now();
  const end = begin + timeoutMs;
  for (;;) {
    const r = await probe();
    if (r !== undefined) return r;
    if (performance.now() >= end)
      throw new HyperturtleError('HT_TIMEOUT', `${what}: not within ${timeoutMs / 1000} s`);
    const ms = typeof intervalMs === 'number' ? intervalMs : intervalMs(performance.now() - begin);
    await sleep(ms, options.signal);
  }
}

/** Settles with `promise`, or throws HT_TIMEOUT or the abort reason, whichever is first. */
export async function withDeadline<T>(
  what: string,
  promise: Promise<T>,
  deadlineMs: number,
  signal?: AbortSignal,
): Promise<T> {
  const timeoutMs = patient(deadlineMs);
  let timer: NodeJS.Timeout | undefined;
  let stop: (() => void) | undefined;
  try {
    return await Promise.race([
      promise,
      new Promise<never>((_, reject) => {
        timer = setTimeout(
          () => reject(new HyperturtleError('HT_TIMEOUT', `${what}: not within ${timeoutMs / 1000} s`)),
          timeoutMs,
        );
        if (signal) {
          stop = () => reject(abortReason(signal));
          if (signal.aborted) stop();
          else signal.addEventListener('abort', stop, { once: true });
        }
      }),
    ]);
  } finally {
    clearTimeout(timer);
    if (stop) signal?.removeEventListener('abort', stop);
  }
}

/** Why it was aborted, as an error to throw. */
export function abortReason(signal: AbortSignal): Error {
  return signal.reason instanceof Error
    ? signal.reason
    : new HyperturtleError('HT_INTERRUPTED', 'interrupted');
}
