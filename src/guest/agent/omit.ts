/** Objects without some of their keys. */

export function omit<T extends object, K extends keyof T>(from: T, ...keys: K[]): Omit<T, K> {
  const left = new Set<PropertyKey>(keys);
  return Object.fromEntries(Object.entries(from).filter(([key]) => !left.has(key))) as Omit<T, K>;
}

type Defined<T> = { [K in keyof T]: Exclude<T[K], undefined> };

/** Without keys whose value is undefined, which exact optional types do not take. */
export function withoutUndefined<T extends object>(from: T): Defined<T> {
  return Object.fromEntries(Object.entries(from).filter(([, value]) => value !== undefined)) as Defined<T>;
}
