/**
 * What a register holds as a sum: a constant and multiples of things that are not known, such as `r6 + 8 * r7 + 16`.
 * Names of things: registers and words of the stack as they were at the region's begin (`r6`, `s-8`), what an
 * instruction gave (`v12`), what came together at a block (`p3.r6`), and places that never move (`@name`).
 */
export interface Form {
  constant: number;
  terms: ReadonlyMap<string, number>;
  /**
   * 64: the sum itself, modulo 2^64. 32: its lower half. 0: computed from lower halves, so it is the sum but for jumps
   * when one of them begins from 0 again.
   */
  width: 64 | 32 | 0;
}

const NO_TERMS: ReadonlyMap<string, number> = new Map();
const MOST_TERMS = 4;

export const constant = (n: number): Form => ({ constant: n, terms: NO_TERMS, width: 64 });
export const symbol = (name: string): Form => ({ constant: 0, terms: new Map([[name, 1]]), width: 64 });
export const isConstant = (f: Form | undefined): f is Form => f?.terms.size === 0;

const cache = new WeakMap<ReadonlyMap<string, number>, string>();
/** The same for two sums that differ by their constants only. */
export function keyOf(f: Form): string {
  let key = cache.get(f.terms);
  if (key === undefined) {
    key = Array.from(f.terms, ([name, n]) => `${name}*${n}`)
      .sort()
      .join('+');
    cache.set(f.terms, key);
  }
  return key;
}

export function same(a: Form | undefined, b: Form | undefined): boolean {
  if (a === b) return true;
  return (
    a !== undefined &&
    b !== undefined &&
    a.constant === b.constant &&
    a.width === b.width &&
    keyOf(a) === keyOf(b)
  );
}

/** a + n * b; undefined when that is not exact or has too many terms. */
export function add(a: Form, b: Form, n = 1): Form | undefined {
  const sum = a.constant + n * b.constant;
  if (!Number.isSafeInteger(sum)) return undefined;
  const width = (a.width === 64 || a.terms.size === 0) && (b.width === 64 || b.terms.size === 0) ? 64 : 0;
  if (b.terms.size === 0) return { constant: sum, terms: a.terms, width };
  const terms = new Map(a.terms);
  for (const [name, factor] of b.terms) {
    const f = (terms.get(name) ?? 0) + n * factor;
    if (!Number.isSafeInteger(f)) return undefined;
    if (f === 0) terms.delete(name);
    else terms.set(name, f);
  }
  return terms.size > MOST_TERMS ? undefined : { constant: sum, terms, width };
}

/** n * f */
export function times(f: Form, n: number): Form | undefined {
  return n === 1 ? f : add(constant(0), f, n);
}

/** What is left of it in a register of 32 bits. */
export function lowerHalf(f: Form): Form {
  if (f.terms.size === 0) return constant(Number(BigInt.asUintN(32, BigInt(f.constant))));
  return f.width === 32 ? f : { ...f, width: 32 };
}

/** Each term replaced by what `value` says; undefined when it does not know one. */
export function substitute(f: Form, value: (name: string) => Form | undefined): Form | undefined {
  let sum: Form | undefined = { constant: f.constant, terms: NO_TERMS, width: 64 };
  for (const [name, n] of f.terms) {
    const v = value(name);
    sum = sum && v && add(sum, v, n);
  }
  return sum && { ...sum, width: f.width === 64 ? sum.width : f.width };
}
