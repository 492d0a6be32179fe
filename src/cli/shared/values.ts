/** Reading option values, and the one-line JSON that long-running commands print for anyone who started them. */
import { writeJson } from '../../core/output.ts';
import { HyperturtleError } from '../../core/errors.ts';

/** A parser for a whole number from `min` to `max`, for commander's option(). */
export function integer(name: string, min: number, max: number): (text: string) => number {
  return (text) => {
    const n = Number(text);
    if (!/^\d+$/.test(text) || n < min || n > max)
      throw new HyperturtleError(
        'HT_USAGE',
        `${name}: a whole number from ${min} to ${max} expected, '${text}' found`,
      );
    return n;
  };
}

/** Words of a list that are separated by commas, each one of `all`; left out: all of them. Throws HT_USAGE. */
export function choose<T extends string>(option: string, all: readonly T[], list: string | undefined): T[] {
  if (list === undefined) return [...all];
  return list.split(',').map((word) => {
    const known = all.find((a) => a === word);
    if (known === undefined)
      throw new HyperturtleError('HT_USAGE', `${option}: some of ${all.join(',')} expected, '${word}' found`);
    return known;
  });
}

export function printJson(value: unknown): void {
  writeJson(JSON.stringify(value, (_, v: unknown) => (typeof v === 'bigint' ? `0x${v.toString(16)}` : v)));
}
