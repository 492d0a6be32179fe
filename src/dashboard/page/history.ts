/**
 * What counters did over the last looks. A series begins again when its counter falls, which means that what it counted is another
 * thing now: a new boot, another program, another daemon.
 */

export const KEPT = 90;
/** Looks further apart than this are not joined: the page slept. */
const GAP_MS = 15_000;

interface Series {
  atMs: number;
  value: number;
  rates: number[];
  seen: number;
}

export class History {
  readonly #series = new Map<string, Series>();
  #look = 0;

  /** Once for each look, before its counters. */
  begin(): void {
    this.#look++;
  }

  /** After each look: forgets what was not in it. */
  end(): void {
    for (const [key, s] of this.#series) if (s.seen !== this.#look) this.#series.delete(key);
  }

  add(key: string, atMs: number, value: number): void {
    const s = this.#series.get(key);
    if (!s || value < s.value || atMs - s.atMs > GAP_MS || atMs < s.atMs) {
      this.#series.set(key, { atMs, value, rates: [], seen: this.#look });
      return;
    }
    // the same look once more
    if (atMs > s.atMs) {
      s.rates.push(((value - s.value) / (atMs - s.atMs)) * 1000);
      if (s.rates.length > KEPT) s.rates.shift();
    }
    s.atMs = atMs;
    s.value = value;
    s.seen = this.#look;
  }

  /** Per second, oldest first. */
  rates(key: string): readonly number[] {
    return this.#series.get(key)?.rates ?? [];
  }

  /** Undefined before the second look. */
  rate(key: string): number | undefined {
    return this.#series.get(key)?.rates.at(-1);
  }
}
