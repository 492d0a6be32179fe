import { describe, expect, it } from 'vitest';
import { problemsOf } from '../../../../src/bench/churn/run.ts';
import type { ChurnReport } from '../../../../src/bench/churn/run.ts';
import { integrityProblems } from '../../../../src/bench/integrity/run.ts';
import type { IntegrityReport } from '../../../../src/bench/integrity/run.ts';

const churn = (change: Partial<ChurnReport> = {}): Omit<ChurnReport, 'problems'> => ({
  cycles: 10,
  parallel: 4,
  passed: 8,
  killed: 2,
  framesAllocated: 5000,
  framesFreed: 5000,
  handledInL0: 900,
  left: { frames: 0, indexWords: 0, registrations: 0, descriptors: 0, processes: 0, files: 0 },
  leftInL0: { qemu: 0, attach: 0 },
  kernelTroubles: [],
  durationSeconds: 60,
  ...change,
});

describe('churn', () => {
  it('has no problem when nothing is left', () => {
    expect(problemsOf(churn())).toEqual([]);
  });
  it('names each thing that is left, and where', () => {
    const left = { ...churn().left, frames: 3, processes: 1 };
    expect(problemsOf(churn({ left, leftInL0: { qemu: 2, attach: -1 } }))).toEqual([
      'left in L1: 3 frames',
      'left in L1: 1 processes',
      'left in L0: 2 descriptors of qemu',
    ]);
  });
  it('is no proof when L0 answered nothing, a cycle is missing, or a kernel complained', () => {
    expect(problemsOf(churn({ handledInL0: 0 }))[0]).toMatch(/nothing was accelerated/);
    expect(problemsOf(churn({ passed: 7 }))[0]).toMatch(/of 10 cycles/);
    expect(problemsOf(churn({ kernelTroubles: ['L1: BUG'] }))[0]).toMatch(/kernel logs/);
  });
});

const integrity = (change: Partial<IntegrityReport> = {}): Omit<IntegrityReport, 'problems'> => ({
  racedPages: 120_000,
  sharedTouches: 150_000,
  ownChecks: 1_000_000,
  mismatches: 0,
  complaints: [],
  passes: 1,
  framesAllocated: 10,
  framesFreed: 5,
  framesLeft: 0,
  kernelTroubles: [],
  durationSeconds: 60,
  ...change,
});

describe('integrity', () => {
  it('holds when enough pages were raced and none changed', () => {
    expect(integrityProblems(integrity(), { pages: 100_000 })).toEqual([]);
  });
  it('fails by one changed page, by too few raced pages, and by frames that never came back', () => {
    const of = (change: Partial<IntegrityReport>): string[] =>
      integrityProblems(integrity(change), { pages: 100_000 });
    expect(of({ mismatches: 1 })).toEqual(['1 pages changed under their owner']);
    expect(of({ racedPages: 99_999 })).toEqual(['only 99999 of 100000 pages were raced']);
    expect(of({ framesLeft: 100 })).toEqual(['100 frames were not given back']);
    expect(of({ ownChecks: 0 })[0]).toMatch(/no page of its own/);
  });
});
