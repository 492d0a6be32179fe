/**
 * How much longer than usual deadlines are: 1, or what HYPERTURTLE_PATIENCE says, for machines that are slow for a known
 * reason (a kernel with sanitizers under an emulator). Only deadlines: nothing waits longer than it must.
 */
import { variable } from './environment.ts';

const MAX_TIMER_MS = 2 ** 31 - 1;

let factor = fromEnvironment(variable('HYPERTURTLE_PATIENCE'));

/** What of the environment is no number from 1 to 100 counts as 1. */
export function fromEnvironment(text: string | undefined): number {
  const n = Number(text);
  return n >= 1 && n <= 100 ? n : 1;
}

/** For the rest of this process; never less than before. */
export function bePatient(atLeast: number): void {
  factor = Math.max(factor, atLeast);
}

/** A deadline of `ms` as it is to be kept. */
export function patient(ms: number): number {
  return Math.min(ms * factor, Math.max(ms, MAX_TIMER_MS));
}
