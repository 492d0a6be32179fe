/** Waiting for what another process makes: a socket that appears, a connection that comes back. */
import { watch } from 'node:fs';
import type { FSWatcher } from 'node:fs';
import path from 'node:path';
import { ChildAbort } from './lifecycle.ts';
import { sleep } from './wait.ts';

/** 0.1 s, 0.2 s ... 5 s. */
export class Backoff {
  readonly #firstMs: number;
  readonly #mostMs: number;
  readonly #spread: number;
  #nextMs: number;

  constructor(firstMs = 100, mostMs = 5000, spread = 1 / 4) {
    this.#firstMs = firstMs;
    this.#mostMs = mostMs;
    this.#spread = spread;
    this.#nextMs = firstMs;
  }

  /** How long to wait before the next try, less up to `spread` of it, so that many do not try at once. */
  nextMs(): number {
    const ms = this.#nextMs;
    this.#nextMs = Math.min(this.#mostMs, 2 * ms);
    return ms * (1 - Math.random() * this.#spread);
  }

  reset(): void {
    this.#nextMs = this.#firstMs;
  }
}

/**
 * Resolves when something changes in the directory of `file`, or after `timeoutMs`, or when the signal aborts:
 * anyone who waits looks for itself. Never throws.
 */
export async function changeNear(file: string, timeoutMs: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const name = path.basename(file);
  using done = new ChildAbort(signal);
  let watcher: FSWatcher | undefined;
  try {
    watcher = watch(path.dirname(file), (_, changed) => {
      if (changed === name) done.abort();
    });
    watcher.on('error', () => {}); // the timeout is left
  } catch {
    // the directory is not there yet, or no inotify is left: the timeout is
  }
  try {
    await sleep(timeoutMs, done.signal);
  } catch {
    // a change, or the caller's signal
  } finally {
    watcher?.close();
  }
}
