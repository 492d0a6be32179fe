/** Pure arithmetic over samples. Nothing here knows what was measured. */

/** Arithmetic mean; undefined of nothing, so that a missing measurement never turns into a number. */
export function mean(values: readonly number[]): number | undefined {
  return values.length === 0 ? undefined : values.reduce((a, b) => a + b, 0) / values.length;
}

export function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

/** a / b; undefined if either is missing or b is 0. */
export function ratio(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined || b === 0 ? undefined : a / b;
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
