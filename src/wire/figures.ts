/** What the counters of a hook say, in figures that mean one thing each. */
import { own } from '../core/own.ts';

/** The reasons of the npf hook that are no fault for L1: its entry was there, and L0 went on alone. */
const THERE = 'PRESENT';

export interface Counted {
  hook: string;
  runs: number;
  handled: number;
  passed: number;
  reasons: Readonly<Record<string, number>>;
}

export interface Figures {
  events: number;
  /** Faults and exits answered by the program; frames that it dropped. */
  inL0: number;
  /** Faults whose entry L1 had made before: nothing was to be done, and L1 did not run. */
  there: number;
  /** What L1 had to do; frames that went on. */
  toL1: number;
}

/** `passed` of the wire has what was there and what reached L1 in one. */
export function figuresOf(s: Counted): Figures {
  const there = s.hook === 'npf' ? Math.min(own(s.reasons, THERE) ?? 0, s.passed) : 0;
  return { events: s.runs, inL0: s.handled, there, toL1: s.passed - there };
}

/** They only look: nothing is answered by them, and L1 does not run for them. */
const LOOKING = 'sample';

/** Whether L1 runs where the hook's program does not answer: hooks of exits, not those that only look, nor those of NICs. */
export function answersForL1(s: { hook: string; target?: string | undefined }): boolean {
  return s.hook !== LOOKING && s.target === undefined;
}

/** Totals of all hooks of exits together. */
export function totalsOf(all: readonly (Counted & { target?: string | undefined })[]): Figures {
  const figures = all.filter(answersForL1).map(figuresOf);
  const sum = (of: keyof Figures): number => figures.reduce((n, f) => n + f[of], 0);
  return { events: sum('events'), inL0: sum('inL0'), there: sum('there'), toL1: sum('toL1') };
}

/** Reasons for which L1 ran, most frequent first. */
export function reasonsToL1(s: Pick<Counted, 'hook' | 'reasons'>): [name: string, count: number][] {
  return Object.entries(s.reasons)
    .filter(([name]) => s.hook !== 'npf' || name !== THERE)
    .sort(([, a], [, b]) => b - a);
}

/** `8.9%`, or `-` of nothing. */
export const shareOf = (n: number, all: number): string =>
  all > 0 ? `${((100 * n) / all).toFixed(1)}%` : '-';
