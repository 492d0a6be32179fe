/** Not more than so much: what keeps the work of one VM in bounds. */
import { sleep } from '../../core/wait.ts';

/** A token bucket that makes its users wait: work on the daemon's one thread that a tenant can ask for. */
export class Budget {
  readonly #perSecond: number;
  readonly #burst: number;
  readonly #now: () => number;
  #tokens: number;
  #at: number;

  /** `now` gives milliseconds. */
  constructor(perSecond: number, burst: number, now: () => number = () => performance.now()) {
    this.#perSecond = perSecond;
    this.#burst = burst;
    this.#now = now;
    this.#tokens = burst;
    this.#at = now();
  }

  /** Up to `wanted` of what is there now; none is owed. */
  takeSome(wanted: number): number {
    this.#refill();
    const n = Math.max(0, Math.min(wanted, Math.floor(this.#tokens)));
    this.#tokens -= n;
    return n;
  }

  /** Takes `n` (more than the burst is fine) and waits until they are earned. Throws the signal's reason. */
  async take(n: number, signal?: AbortSignal): Promise<void> {
    this.#refill();
    this.#tokens -= n;
    if (this.#tokens < 0) await sleep((-this.#tokens / this.#perSecond) * 1000, signal);
  }

  #refill(): void {
    const now = this.#now();
    this.#tokens = Math.min(this.#burst, this.#tokens + ((now - this.#at) * this.#perSecond) / 1000);
    this.#at = now;
  }
}

/** Runs of a program on the daemon's thread that one VM may ask for, each of at most what its hook allows. */
export const callBudget = (): Budget => new Budget(500, 500);
