/**
 * The summary of a run. Every number is a pure function of the raw samples of that run, so that anyone can
 * compute it again from the JSON file.
 */
import type { BenchResult, BootVariant, Pattern, Summary, TouchSample, Variant } from './schema.ts';
import type { Counters } from '../../testbed/counters-schema.ts';
import { mean, ratio, sum } from '../shared/statistics.ts';
import { sumCounts } from '../../core/counts.ts';

type Samples = Pick<BenchResult, 'touches' | 'boots' | 'memory'>;

/** Cause of a nested page fault as sampling names it: AMD NPF or Intel EPT violation. */
export const NESTED_FAULT = 'npf';

export function selectTouches(
  samples: Pick<Samples, 'touches'>,
  variant: Variant,
  pattern: Pattern,
  pass: 1 | 2 = 1,
): TouchSample[] {
  return samples.touches.filter(
    (s) => s.variant === variant && s.touch.pattern === pattern && s.touch.pass === pass,
  );
}

/** Mean over the rounds of each round's average latency. */
export function averageNs(
  samples: Samples,
  variant: Variant,
  pattern: Pattern,
  pass: 1 | 2 = 1,
): number | undefined {
  return mean(selectTouches(samples, variant, pattern, pass).map((s) => s.touch.avgNs));
}

/**
 * World switches per page that nested faults cause: each nested fault exit is two, out of L2 and back, and each of
 * those that KVM passed to L1 costs L1's VMRUN (or VMRESUME), another two. Vanilla has two fault exits and one entry to
 * L1 a page: six. Timer ticks are left out, as they depend on how long a phase lasts, and so are the exits that
 * L1 makes on its way (VMLOAD, STGI, ...), of which vanilla has more; `allExitsPerPage` has them all.
 */
export function switchesPerPage(samples: readonly TouchSample[]): number | undefined {
  const counted = samples.filter((s) => s.counters !== null);
  const exits = counted.map(
    (s) =>
      (s.counters!.l2ExitsByCause[NESTED_FAULT] ?? 0) + (s.counters!.reflectedByCause[NESTED_FAULT] ?? 0),
  );
  return ratio(2 * sum(exits), sum(counted.map((s) => s.touch.pages)));
}

/** Hardware exits of the whole VM per page, whatever their cause and whether L1 or L2 ran. */
export function allExitsPerPage(samples: readonly TouchSample[]): number | undefined {
  const counted = samples.filter((s) => s.counters !== null);
  return ratio(sum(counted.map((s) => s.counters!.exits)), sum(counted.map((s) => s.touch.pages)));
}

/**
 * Share of first-touch faults that were answered without entering L1. KVM counts nested fault exits (F) and those
 * of them it passed to L1 (R). A fault passed to L1 comes back once more, because L1 fills its own table and
 * not the one the processor walks: that second exit is no new fault. So there were F - R faults, of which R entered L1:
 * 1 - R / (F - R). A vanilla hypervisor has F = 2R, which gives 0.
 */
export function handledInL0(counters: readonly Counters[]): number | undefined {
  const faults = sumCounts(counters.map((c) => c.l2ExitsByCause))[NESTED_FAULT] ?? 0;
  const reflected = sumCounts(counters.map((c) => c.reflectedByCause))[NESTED_FAULT] ?? 0;
  const share = ratio(reflected, faults - reflected);
  return share === undefined ? undefined : Math.max(0, 1 - share);
}

export function bootMs(samples: Samples, variant: BootVariant): number | undefined {
  return mean(samples.boots.filter((b) => b.variant === variant).map((b) => b.bootMs));
}

/** The pattern that stands for "random": what a hypervisor sees as random where it was measured. */
function randomPattern(samples: Samples): Pattern {
  return selectTouches(samples, 'l2-default', 'scattered').length > 0 ? 'scattered' : 'random';
}

export function summarize(samples: Samples): Summary {
  const accelerated = (['seq', 'stride', 'random', 'scattered'] as const).flatMap((p) =>
    selectTouches(samples, 'l2-default', p),
  );
  const { memory = [] } = samples;
  const p50 = (v: Variant): number | undefined =>
    mean(selectTouches(samples, v, 'seq').map((s) => s.touch.p50Ns));
  const average = (v: Variant): number | undefined => averageNs(samples, v, 'seq');
  const cpu = (v: Variant): number | undefined =>
    mean(selectTouches(samples, v, 'seq').map((s) => s.emulatorCpuSeconds));
  const less = (part: number | undefined, whole: number | undefined): number | undefined => {
    const r = ratio(part, whole);
    return r === undefined ? undefined : 1 - r;
  };
  /** Average of a first touch by `v` / the same with the hyperupcall. */
  const speedupOver = (v: Variant, pattern: Pattern = 'seq'): number | undefined =>
    ratio(averageNs(samples, v, pattern), averageNs(samples, 'l2-default', pattern));
  const all: Record<keyof Summary, number | undefined> = {
    // average of a sequential first touch: L2 whose RAM nobody preallocated / the same with the hyperupcall
    firstTouchSpeedup: speedupOver('l2-vanilla'),
    // the same with one page for each fault
    firstTouchSpeedupGroup1: ratio(average('l2-vanilla'), average('l2-group1')),
    // against an L2 whose RAM L1's VMM had touched before the start
    firstTouchSpeedupOverPrealloc: speedupOver('l2-vanilla-prealloc'),
    // against an L2 in memory of its VMM's own, 4 KiB at a time, and 2 MiB at a time
    firstTouchSpeedupOverAnonymous: speedupOver('l2-anonymous'),
    firstTouchSpeedupOverThp: speedupOver('l2-thp'),
    randomTouchSpeedupOverThp: speedupOver('l2-thp', randomPattern(samples)),
    // median of a sequential first touch: L2 with the hyperupcall / L1 itself, not nested
    medianVsL1: ratio(p50('l2-default'), p50('l1')),
    // average of a sequential first touch: L2 with the hyperupcall / L1 itself; and / touching that memory again
    averageVsL1: ratio(average('l2-default'), average('l1')),
    firstVsSecondTouch: ratio(average('l2-default'), averageNs(samples, 'l2-default', 'seq', 2)),
    // average of touching memory again that L2 freed: with the hyperupcall / vanilla (1 = no slower)
    secondTouchVsVanilla: ratio(
      averageNs(samples, 'l2-default', 'seq', 2),
      averageNs(samples, 'l2-vanilla', 'seq', 2),
    ),
    switchesPerPageSequential: switchesPerPage(selectTouches(samples, 'l2-default', 'seq')),
    switchesPerPageRandom: switchesPerPage(selectTouches(samples, 'l2-default', randomPattern(samples))),
    switchesPerPageVanilla: switchesPerPage(selectTouches(samples, 'l2-vanilla', 'seq')),
    allExitsPerPageSequential: allExitsPerPage(selectTouches(samples, 'l2-default', 'seq')),
    allExitsPerPageVanilla: allExitsPerPage(selectTouches(samples, 'l2-vanilla', 'seq')),
    // part of the emulator's CPU time that a sequential first touch no longer needs
    emulatorCpuReduction: less(cpu('l2-default'), cpu('l2-vanilla')),
    // part by which L2's boot is shorter
    bootReduction: less(bootMs(samples, 'accelerated'), bootMs(samples, 'vanilla')),
    bootReductionOverThp: less(bootMs(samples, 'accelerated'), bootMs(samples, 'thp')),
    bootVsNotNested: ratio(bootMs(samples, 'accelerated'), bootMs(samples, 'not-nested')),
    // over all first touches with the default group, in every pattern
    handledInL0: handledInL0(accelerated.flatMap((s) => (s.counters ? [s.counters] : []))),
    // pages of 2 MiB frames that nobody used, of all pages that an L2 held when all of them had been looked at
    vainShare: ratio(sum(memory.map((m) => m.vain)), sum(memory.map((m) => m.held))),
  };
  return Object.fromEntries(Object.entries(all).filter(([, v]) => v !== undefined));
}

export interface Bar {
  key: keyof Summary;
  text: string;
  /** What every run must show, on every kernel of the lab and whatever else the machine does. */
  atLeast?: number;
  atMost?: number;
  /** What the project is after: the bar of docs/benchmarks.md. */
  goal?: { atLeast: number } | { atMost: number };
  /** The same where L1 keeps frames of 2 MiB. */
  largeGoal?: { atLeast: number } | { atMost: number };
}

export const BARS: readonly Bar[] = [
  {
    key: 'firstTouchSpeedup',
    atLeast: 15,
    goal: { atLeast: 40 },
    text: 'first touch, sequential: times faster than vanilla',
  },
  { key: 'firstTouchSpeedupGroup1', atLeast: 5, text: 'the same, one page a fault' },
  {
    key: 'firstTouchSpeedupOverThp',
    goal: { atLeast: 2.5 },
    text: "first touch, sequential: times faster than with the VMM's own memory in huge pages",
  },
  { key: 'randomTouchSpeedupOverThp', goal: { atLeast: 1.5 }, text: 'the same, random' },
  { key: 'averageVsL1', goal: { atMost: 0.5 }, text: 'first touch, sequential, times that of L1 itself' },
  { key: 'firstVsSecondTouch', goal: { atMost: 1.3 }, text: 'the same, times a second touch' },
  { key: 'medianVsL1', atMost: 1.5, text: 'median, times that of L1 itself' },
  { key: 'secondTouchVsVanilla', goal: { atMost: 1 }, text: 'second touch, times that of vanilla' },
  {
    key: 'switchesPerPageSequential',
    atMost: 0.1,
    goal: { atMost: 0.05 },
    largeGoal: { atMost: 0.01 },
    text: 'world switches per page, sequential',
  },
  { key: 'switchesPerPageRandom', atMost: 2.5, text: 'world switches per page, random' },
  {
    key: 'switchesPerPageVanilla',
    atLeast: 6,
    text: 'world switches per page, vanilla (what is to be saved)',
  },
  { key: 'bootReduction', atLeast: 0.5, goal: { atLeast: 0.75 }, text: 'part by which L2 boots faster' },
  {
    key: 'bootReductionOverThp',
    goal: { atLeast: 0 },
    text: "the same against the VMM's own memory in huge pages",
  },
  { key: 'bootVsNotNested', goal: { atMost: 1.5 }, text: 'boot, times that of a guest that is not nested' },
  { key: 'handledInL0', atLeast: 0.95, text: 'part of faults handled without entering L1' },
  { key: 'vainShare', atMost: 0.05, text: 'part of its memory that 2 MiB frames took in vain' },
];
