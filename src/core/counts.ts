/** Arithmetic on counts that are kept by name. */
import { addOwn, own, setOwn } from './own.ts';

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
