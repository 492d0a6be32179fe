/** Numbers from a seed, the same for the same seed. */
import { generator } from '../testbed/random.ts';

export class Random {
  readonly #next: () => number;

  constructor(seed: number) {
    this.#next = generator(seed);
  }

  /** A whole number from 0 to `n` - 1. */
  below(n: number): number {
    return Math.floor(this.#next() * n);
  }

  /** True once in `n` times. */
  once(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  bytes(n: number): Buffer {
    return Buffer.from(Array.from({ length: n }, () => this.below(256)));
  }
}

/** A seed of its own for each part and boot: what one draws changes nothing for another. */
export function seedFor(seed: number, ...parts: number[]): number {
  return parts.reduce((a, b) => Math.imul(a ^ (b + 0x9e3779b9), 0x85ebca6b) ^ (a >>> 13), seed) >>> 0;
}
