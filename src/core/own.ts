/**
 * Look-ups by names of somebody's choice. A plain object finds `toString` and `constructor` in Object.prototype, and sets
 * nothing when it is given `__proto__`; these are ordinary names of objects, VMs and networks. ESLint asks for these
 * functions, a Map or Object.fromEntries() (hyperturtle/own-keys).
 */

/** What the record itself has under the name. */
export function own<V>(record: Readonly<Record<string, V>>, name: string): V | undefined {
  return Object.hasOwn(record, name) ? record[name] : undefined;
}

/** Sets the record's own property, whatever it is called. */
export function setOwn<V>(record: Record<string, V>, name: string, value: V): void {
  Object.defineProperty(record, name, { value, enumerable: true, configurable: true, writable: true });
}

/** Counts by name. */
export function addOwn(counts: Record<string, number>, name: string, n: number): void {
  setOwn(counts, name, (own(counts, name) ?? 0) + n);
}
