/** The results as tables, for the terminal and for the HTML report alike. */
import { BOOT_VARIANTS, PATTERNS, VARIANTS } from '../bench/first-touch/schema.ts';
import type { BenchResult, Summary, TouchSample } from '../bench/first-touch/schema.ts';
import { mean } from '../bench/shared/statistics.ts';
import { sumCounts } from '../core/counts.ts';
import {
  BARS,
  NESTED_FAULT,
  allExitsPerPage,
  bootMs,
  selectTouches,
  switchesPerPage,
} from '../bench/first-touch/summary.ts';
import type { Bar } from '../bench/first-touch/summary.ts';
import { BOOT_NAMES, PATTERN_NAMES, duration, maybe, number, percent, variantName } from './format.ts';
import type { Table } from './table.ts';
import type { FaultCost } from '../testbed/fault-cost-schema.ts';
import { own } from '../core/own.ts';

type Result = Pick<BenchResult, 'touches' | 'boots' | 'summary' | 'parameters'>;

const average = (samples: readonly TouchSample[], of: (s: TouchSample) => number): string =>
  maybe(mean(samples.map(of)), duration);

/** Latency of touches by variant and order; each figure is the mean over the rounds. */
export function touchTable(r: Result): Table {
  const rows: string[][] = [];
  for (const pass of [1, 2] as const)
    for (const pattern of PATTERNS)
      for (const variant of VARIANTS) {
        const s = selectTouches(r, variant, pattern, pass);
        if (s.length === 0) continue;
        rows.push([
          variantName(variant, r.parameters),
          pass === 1 ? PATTERN_NAMES[pattern] : 'second touch',
          average(s, (x) => x.touch.avgNs),
          average(s, (x) => x.touch.p50Ns),
          average(s, (x) => x.touch.p99Ns),
          average(s, (x) => x.touch.p999Ns),
          average(s, (x) => x.touch.totalNs),
          maybe(mean(s.map((x) => x.emulatorCpuSeconds)), (v) => `${number(v)} s`),
        ]);
      }
  return {
    title: `First touch of ${r.parameters.touchMib} MiB by 4 KiB pages, ${r.parameters.rounds === 1 ? 'one round' : `mean of ${r.parameters.rounds} rounds`}`,
    head: ['', 'order', 'avg', 'p50', 'p99', 'p99.9', 'total', 'host CPU'],
    rows,
  };
}

/** Per page, from KVM's own counters in L0: what faults cost, and everything. */
export function switchTable(r: Result): Table {
  const rows: string[][] = [];
  for (const pattern of PATTERNS)
    for (const variant of VARIANTS) {
      const s = selectTouches(r, variant, pattern).filter((x) => x.counters !== null);
      if (s.length === 0) continue;
      const pages = s.reduce((n, x) => n + x.touch.pages, 0);
      const perPage = (of: (x: TouchSample) => number): string =>
        number(s.reduce((n, x) => n + of(x), 0) / pages);
      const total = (c: Record<string, number>): number => Object.values(c).reduce((a, b) => a + b, 0);
      rows.push([
        variantName(variant, r.parameters),
        PATTERN_NAMES[pattern],
        perPage((x) => x.counters!.l2ExitsByCause[NESTED_FAULT] ?? 0),
        perPage((x) => x.counters!.reflectedByCause[NESTED_FAULT] ?? 0),
        maybe(switchesPerPage(s), number),
        perPage((x) => total(x.counters!.l2ExitsByCause)),
        maybe(allExitsPerPage(s), number),
      ]);
    }
  return {
    title: "Per page, counted by L0's KVM",
    head: ['', 'order', 'fault exits', 'of them to L1', 'world switches', 'all exits of L2', 'of L1 and L2'],
    rows,
  };
}

/** What a fault takes of L0 and of L1, where instructions were counted. */
export function faultCostTable(r: Result): Table {
  const rows = PATTERNS.flatMap((pattern) =>
    VARIANTS.flatMap((variant) => {
      const samples = selectTouches(r, variant, pattern).filter((s) => s.faultCosts !== undefined);
      return (['L0', 'L1'] as const).flatMap((by) => {
        const costs = samples.map((s) => s.faultCosts!.find((c) => c.by === by));
        const found = costs.filter((c) => c !== undefined);
        if (found.length === 0) return [];
        const pages = samples.reduce((n, s) => n + s.touch.pages, 0);
        const each = (of: (c: FaultCost) => number): string =>
          Array.from(new Set(found.map((c) => Math.round(of(c)).toLocaleString('en-US')))).join(', ');
        return [
          [
            variantName(variant, r.parameters),
            PATTERN_NAMES[pattern],
            by,
            each((c) => c.faults),
            each((c) => c.switches),
            each((c) => c.l0Instructions),
            each((c) => c.l1Instructions),
            Math.round(found.reduce((n, c) => n + c.instructions, 0) / pages).toLocaleString('en-US'),
          ],
        ];
      });
    }),
  );
  return {
    title:
      'Instructions from a fault of L2 until it runs again: medians of each round, and all of them a page',
    head: ['', 'order', 'answered by', 'faults', 'switches', 'in L0', 'in L1', 'a page'],
    rows,
  };
}

export function bootTable(r: Result): Table {
  return {
    title: 'Boot of the same kernel, start to userspace',
    head: ['', 'mean', 'each round'],
    rows: BOOT_VARIANTS.flatMap((v) => {
      const all = r.boots.filter((b) => b.variant === v);
      if (all.length === 0) return [];
      return [
        [
          BOOT_NAMES[v],
          maybe(bootMs(r, v), (ms) => duration(ms * 1e6)),
          all.map((b) => duration(b.bootMs * 1e6)).join(', '),
        ],
      ];
    }),
  };
}

/** Reasons that do not mean that L1 was entered. */
const WITHOUT_L1: Readonly<Record<string, string>> = {
  PRESENT: "PRESENT: L1's entry was there, L0 went on alone",
};

/** Why the hyperupcall was not asked, or did not answer. */
export function fallbackTable(r: Result): Table {
  const linked = r.touches.filter((s) => s.variant === 'l2-default' && s.fallbacks !== null);
  const reasons = Object.entries(sumCounts(linked.map((s) => s.fallbacks!))).sort((a, b) => b[1] - a[1]);
  return {
    title: 'Faults that the hyperupcall did not answer, by reason (default groups, all touches)',
    head: ['reason', 'faults'],
    rows: reasons.map(([name, n]) => [
      own(WITHOUT_L1, name) ?? `${name}: passed to L1`,
      n.toLocaleString('en-US'),
    ]),
  };
}

const SHARES = new Set<keyof Summary>(['bootReduction', 'bootReductionOverThp', 'handledInL0']);

type Bound = Pick<Bar, 'atLeast' | 'atMost'>;

/** What was asked for, what was measured, and whether that is enough: bars must hold, goals are shown with where they stand. */
export function barTable(r: Result): Table {
  const large = (r.parameters.largeFrames ?? 0) !== 0;
  return {
    title:
      'Against what was asked for (a bar must hold on every kernel; a goal is what the project is after)',
    head: ['', 'measured', 'bar', '', 'goal', ''],
    rows: BARS.flatMap((b) => {
      const v = r.summary[b.key];
      if (v === undefined) return [];
      const show = SHARES.has(b.key) ? percent : number;
      const words = ({ atLeast, atMost }: Bound): string =>
        atLeast !== undefined ? `≥ ${show(atLeast)}` : atMost !== undefined ? `≤ ${show(atMost)}` : '';
      const holds = ({ atLeast, atMost }: Bound): boolean =>
        (atLeast === undefined || v >= atLeast) && (atMost === undefined || v <= atMost);
      const goal: Bound = (large ? b.largeGoal : undefined) ?? b.goal ?? {};
      const bar = words(b);
      return [
        [
          b.text,
          show(v),
          bar,
          bar === '' ? '' : holds(b) ? 'met' : 'NOT MET',
          words(goal),
          words(goal) === '' ? '' : holds(goal) ? 'reached' : 'not reached',
        ],
      ];
    }),
  };
}

export function allTables(r: Result): Table[] {
  return [
    touchTable(r),
    switchTable(r),
    faultCostTable(r),
    bootTable(r),
    fallbackTable(r),
    barTable(r),
  ].filter((t) => t.rows.length > 0);
}
