/** Pure arithmetic over samples. Nothing here knows what was measured. */
import { addOwn, own, setOwn } from '../core/own.ts';

/** Arithmetic mean; undefined of nothing, so that a missing measurement never turns into a number. */
export function mean(values: readonly number[]): number | undefined {
  return values.length === 0 ? undefined : values.reduce((a, b) => a + b, 0) / values.length;
}

/** The one in the middle, or halfway between the two there; NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

/** a / b; undefined if either is missing or b is 0. */
export function ratio(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined || b === 0 ? undefined : a / b;
}

/** Adds up counts by key. */
export function sumCounts(records: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const total: Record<string, number> = {};
  for (const r of records) for (const [k, n] of Object.entries(r)) addOwn(total, k, n);
  return total;
}

/** after - before by key; keys that did not change are left out. Counters that fell throw: somebody reset them. */
export function subtractCounts(
  after: Readonly<Record<string, number>>,
  before: Readonly<Record<string, number>>,
): Record<string, number> {
  const difference: Record<string, number> = {};
  for (const key of new Set([...Object.keys(after), ...Object.keys(before)])) {
    const d = (own(after, key) ?? 0) - (own(before, key) ?? 0);
    if (d < 0) throw new RangeError(`counter '${key}' fell by ${-d} while it was measured`);
    if (d > 0) setOwn(difference, key, d);
  }
  return difference;
}

export type Histogram = readonly (readonly [lowerNs: number, count: number])[];

/** Adds up histograms that share their bucket bounds, ascending. */
export function mergeHistograms(histograms: readonly Histogram[]): [number, number][] {
  const total = new Map<number, number>();
  for (const h of histograms) for (const [lower, n] of h) total.set(lower, (total.get(lower) ?? 0) + n);
  return [...total].sort((a, b) => a[0] - b[0]);
}

/** Upper bound of a bucket that begins at `lowerNs`: four buckets an octave (c/l2/first_touch). */
export function bucketUpperNs(lowerNs: number): number {
  return Math.max(1, lowerNs) * 2 ** 0.25;
}

/** Points of the cumulative distribution: share of all touches that took less than `ns`. */
export function cumulative(histogram: Histogram): { ns: number; share: number }[] {
  const total = sum(histogram.map(([, n]) => n));
  let seen = 0;
  const points: { ns: number; share: number }[] = [];
  for (const [lower, n] of histogram) {
    if (seen === 0) points.push({ ns: Math.max(1, lower), share: 0 });
    seen += n;
    points.push({ ns: bucketUpperNs(lower), share: seen / total });
  }
  return points;
}
