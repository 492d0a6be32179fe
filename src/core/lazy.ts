/**
 * Values made when they are first asked for. All schemas are: to build every one that a command's modules mention takes longer
 * than most commands do (docs/testing.md), and each start needs few.
 */
import type { z } from 'zod';

/** A function that makes the value at its first call and gives the same one ever after. */
export function lazy<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}

/** What a schema that is made on first use gives. */
export type Output<S extends () => z.ZodType> = z.output<ReturnType<S>>;
