/** Token bucket that may go into debt: what came has come; the debt says how long to read nothing. */
export class TokenBucket {
  #perSecond: number;
  #burst: number;
  #tokens: number;
  #at: number;

  /** `perSecond` 0: no limit. */
  constructor(perSecond: number, burst: number, now = performance.now()) {
    this.#perSecond = perSecond;
    this.#burst = burst;
    this.#tokens = burst;
    this.#at = now;
  }

  setRate(perSecond: number, burst: number): void {
    this.#perSecond = perSecond;
    this.#burst = burst;
    this.#tokens = Math.min(this.#tokens, burst);
  }

  take(tokens: number): void {
    if (this.#perSecond > 0) this.#tokens -= tokens;
  }

  /** Milliseconds until there is a token again; 0: now. */
  waitMs(now = performance.now()): number {
    if (this.#perSecond === 0) return 0;
    this.#tokens = Math.min(this.#burst, this.#tokens + ((now - this.#at) / 1000) * this.#perSecond);
    this.#at = now;
    return this.#tokens > 0 ? 0 : Math.ceil((1000 * (1 - this.#tokens)) / this.#perSecond);
  }
}
