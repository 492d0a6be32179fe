/**
 * How much of a race or of a repetition one run makes. `npm test` makes as much as a claim needs to be seen true or
 * false; `npm run test:soak` runs the same tests, with the same assertions, for as long as a rare fault may need.
 */

/** `npm run test:soak` sets it. */
export const SOAKS = process.env['HT_SOAK'] === '1';

/** What this run takes of the two. */
export function soak<T>(quick: T, long: T): T {
  return SOAKS ? long : quick;
}

/** The same for a number that a variable of docs/reference.md may say: `soakCount(process.env['HT_RACES'], 60, 200)`. */
export function soakCount(said: string | undefined, quick: number, long: number): number {
  return said === undefined ? soak(quick, long) : Number(said);
}
