import { describe, expect, it } from 'vitest';
import {
  BARS,
  allExitsPerPage,
  handledInL0,
  summarize,
  switchesPerPage,
} from '../../../../src/bench/first-touch/summary.ts';
import type { TouchSample } from '../../../../src/bench/first-touch/schema.ts';
import { summarySchema } from '../../../../src/bench/first-touch/schema.ts';
import { bootSample, counters, touchSample } from '../../../support/bench-samples.ts';

describe('summary of a run', () => {
  it('compares averages of sequential first touches, averaged over the rounds', () => {
    const s = summarize({
      touches: [
        touchSample({ variant: 'l2-vanilla', avgNs: 3_000 }),
        touchSample({ variant: 'l2-vanilla', avgNs: 1_000, round: 1 }),
        touchSample({ variant: 'l2-vanilla', avgNs: 9e9, pattern: 'random' }),
        touchSample({ variant: 'l2-vanilla', avgNs: 9e9, pass: 2 }),
        touchSample({ variant: 'l2-default', avgNs: 100 }),
        touchSample({ variant: 'l2-group1', avgNs: 400 }),
        touchSample({ variant: 'l2-vanilla-prealloc', avgNs: 1_500 }),
        touchSample({ variant: 'l2-anonymous', avgNs: 700 }),
        touchSample({ variant: 'l2-thp', avgNs: 300 }),
        touchSample({ variant: 'l2-thp', avgNs: 900, pattern: 'random' }),
        touchSample({ variant: 'l2-default', avgNs: 450, pattern: 'random' }),
      ],
      boots: [],
    });
    expect(s.firstTouchSpeedup).toBe(20);
    expect(s.firstTouchSpeedupGroup1).toBe(5);
    expect(s.firstTouchSpeedupOverPrealloc).toBe(15);
    expect(s.firstTouchSpeedupOverAnonymous).toBe(7);
    expect(s.firstTouchSpeedupOverThp).toBe(3);
    expect(s.randomTouchSpeedupOverThp).toBe(2);
  });

  it('compares medians with those of L1', () => {
    const touches = [
      touchSample({ variant: 'l1', p50Ns: 10 }),
      touchSample({ variant: 'l2-default', p50Ns: 12 }),
    ];
    expect(summarize({ touches, boots: [] }).medianVsL1).toBeCloseTo(1.2);
  });

  it('counts two world switches for each fault exit, and two more for each that L1 had to handle', () => {
    const vanilla = touchSample({ pages: 100, counters: counters({ npf: 200, reflected: 100 }) });
    const hooked = touchSample({ pages: 100, counters: counters({ npf: 50 }) });
    expect(switchesPerPage([vanilla])).toBe(6);
    expect(switchesPerPage([hooked])).toBe(1);
    expect(switchesPerPage([vanilla, hooked])).toBe(3.5);
    expect(switchesPerPage([touchSample({ counters: null })])).toBeUndefined();
  });

  it('has all exits as well, whatever their cause', () => {
    expect(allExitsPerPage([touchSample({ pages: 100, counters: counters({ exits: 1200 }) })])).toBe(12);
  });

  it('takes scattered physical pages for random where they were measured', () => {
    const of = (pattern: 'random' | 'scattered', npf: number): TouchSample =>
      touchSample({ variant: 'l2-default', pattern, counters: counters({ npf }) });
    expect(summarize({ touches: [of('random', 10)], boots: [] }).switchesPerPageRandom).toBeCloseTo(0.2);
    const both = [of('random', 10), of('scattered', 110)];
    expect(summarize({ touches: both, boots: [] }).switchesPerPageRandom).toBeCloseTo(2.2);
  });

  it('says that a vanilla hypervisor handles nothing in L0 and a perfect hook everything', () => {
    const vanilla = counters({ npf: 2000, reflected: 1000 });
    const perfect = counters({ npf: 1000, reflected: 0 });
    expect(handledInL0([vanilla])).toBe(0);
    expect(handledInL0([perfect])).toBe(1);
    expect(handledInL0([counters({ npf: 1020, reflected: 20 })])).toBeCloseTo(0.98);
    expect(handledInL0([])).toBeUndefined();
  });

  it('gives the part by which a boot is shorter', () => {
    const boots = [
      bootSample('vanilla', 20_000),
      bootSample('vanilla', 30_000),
      bootSample('accelerated', 15_000),
      bootSample('not-nested', 4_000),
    ];
    expect(summarize({ touches: [], boots }).bootReduction).toBeCloseTo(0.4);
    const of = (held: number, vain: number) => ({
      ...{ round: 0, held, vain, seen: 1, kept: 1, back: 0, small: false },
    });
    const memory = [of(100, 0), of(300, 20)];
    expect(summarize({ touches: [], boots: [], memory }).vainShare).toBeCloseTo(0.05);
    expect(summarize({ touches: [], boots: [] })).not.toHaveProperty('vainShare');
  });

  it('leaves out what was not measured', () => {
    expect(summarize({ touches: [], boots: [] })).toEqual({});
  });

  it('has only finite numbers that its schema knows, and each bar names one of them', () => {
    const s = summarize({
      touches: [touchSample({ variant: 'l2-vanilla' }), touchSample({ variant: 'l2-default' })],
      boots: [bootSample('vanilla', 2), bootSample('accelerated', 1)],
    });
    expect(summarySchema().strict().parse(s)).toEqual(s);
    for (const v of Object.values(s)) expect(Number.isFinite(v)).toBe(true);
    for (const b of BARS) expect(Object.keys(summarySchema().shape)).toContain(b.key);
  });
});
