/** `bench start` as tables and as a report. */
import { mean } from '../bench/shared/statistics.ts';
import { sumCounts } from '../core/counts.ts';
import type { StartResult, StartSample } from '../bench/start/schema.ts';
import { START_VARIANTS } from '../bench/start/schema.ts';
import type { StartVariant } from '../bench/start/schema.ts';
import { START_BARS, faultSwitches, imagesOf, startsOf } from '../bench/start/summary.ts';
import { NESTED_FAULT } from '../bench/first-touch/summary.ts';
import { barChart } from './charts.ts';
import type { Bar } from './charts.ts';
import { explainTable } from './explain.ts';
import { duration, maybe, number, percent } from './format.ts';
import { htmlTable, page, parametersSection, section } from './html.ts';
import { caveat } from './sentences.ts';
import type { Table } from './table.ts';
import { own } from '../core/own.ts';

const seconds = (samples: readonly StartSample[], of: (s: StartSample) => number): string =>
  maybe(mean(samples.map(of)), (ms) => duration(ms * 1e6));
const count = (samples: readonly StartSample[], of: (s: StartSample) => number): string =>
  maybe(mean(samples.map(of)), (n) => Math.round(n).toLocaleString('en-US'));

const NAMES: Readonly<Record<StartVariant, string>> = {
  vanilla: 'vanilla',
  anonymous: 'anonymous, 4 KiB',
  thp: 'anonymous, THP',
  hugetlb: 'hugetlbfs',
  accelerated: 'accelerated',
};

/** Those that were started. */
const variantsOf = (samples: readonly StartSample[], image: string): StartVariant[] =>
  START_VARIANTS.filter((v) => startsOf(samples, image, v).length > 0);

function timeTable({ samples, summary, parameters }: StartResult): Table {
  return {
    title: `From the VMM's start command, ${parameters.rounds === 1 ? 'one round' : `mean of ${parameters.rounds} rounds`}`,
    head: ['', 'userspace', 'port open', 'first answer', 'shorter by', 'each round', 'host CPU'],
    rows: imagesOf(samples).flatMap((image) =>
      variantsOf(samples, image).map((variant) => {
        const s = startsOf(samples, image, variant);
        return [
          `${image}, ${NAMES[variant]}`,
          ...[seconds(s, (x) => x.upMs), seconds(s, (x) => x.openMs), seconds(s, (x) => x.answeredMs)],
          variant === 'accelerated' ? maybe(own(summary.answered, image), percent) : '',
          s.map((x) => duration(x.answeredMs * 1e6)).join(', '),
          maybe(mean(s.map((x) => x.emulatorCpuSeconds)), (v) => `${number(v)} s`),
        ];
      }),
    ),
  };
}

function countTable({ samples }: StartResult): Table {
  const total = (c: Record<string, number>): number => Object.values(c).reduce((a, b) => a + b, 0);
  return {
    title: "Each start, counted by L0's KVM",
    head: ['', 'fault exits', 'of them to L1', 'their switches', 'all exits of L2', 'to L1', 'of L1 and L2'],
    rows: imagesOf(samples).flatMap((image) =>
      variantsOf(samples, image).map((variant) => {
        const s = startsOf(samples, image, variant);
        return [
          `${image}, ${NAMES[variant]}`,
          count(s, (x) => x.counters.l2ExitsByCause[NESTED_FAULT] ?? 0),
          count(s, (x) => x.counters.reflectedByCause[NESTED_FAULT] ?? 0),
          count(s, (x) => faultSwitches([x])),
          count(s, (x) => total(x.counters.l2ExitsByCause)),
          count(s, (x) => total(x.counters.reflectedByCause)),
          count(s, (x) => x.counters.exits),
        ];
      }),
    ),
  };
}

/** Where the exits that are left come from, over all images. */
function causeTable({ samples }: StartResult): Table {
  const of = (variant: 'vanilla' | 'accelerated', which: 'l2ExitsByCause' | 'reflectedByCause') =>
    sumCounts(samples.filter((s) => s.variant === variant).map((s) => s.counters[which]));
  const [v, a] = [of('vanilla', 'l2ExitsByCause'), of('accelerated', 'l2ExitsByCause')];
  const [vr, ar] = [of('vanilla', 'reflectedByCause'), of('accelerated', 'reflectedByCause')];
  const causes = [...new Set([...Object.keys(v), ...Object.keys(a)])].sort(
    (x, y) => (own(v, y) ?? 0) - (own(v, x) ?? 0),
  );
  const show = (n: number | undefined): string => (n ?? 0).toLocaleString('en-US');
  return {
    title: 'Exits of L2 by cause, all images and rounds together',
    head: ['', 'vanilla', 'of them to L1', 'accelerated', 'of them to L1'],
    rows: causes.map((c) => [c, ...[v, vr, a, ar].map((counts) => show(own(counts, c)))]),
  };
}

function reasonTable({ samples }: StartResult): Table {
  const linked = samples.filter((s) => s.fallbacks !== null);
  const reasons = Object.entries(sumCounts(linked.map((s) => s.fallbacks!))).sort((x, y) => y[1] - x[1]);
  const handled = linked.reduce((n, s) => n + (s.handled ?? 0), 0);
  return {
    title: 'Faults of the accelerated starts, by what became of them',
    head: ['', 'faults'],
    rows: [
      ['answered in L0', handled.toLocaleString('en-US')],
      ...reasons.map(([name, n]) => [
        name === 'PRESENT' ? "PRESENT: L1's entry was there, L0 went on alone" : `${name}: passed to L1`,
        n.toLocaleString('en-US'),
      ]),
    ],
  };
}

/** What groups took and the guest had not used when its service answered. */
function pagesTable({ samples, exact }: StartResult): Table {
  const share = (p: { held: number; unused: number } | undefined): string =>
    p === undefined
      ? '–'
      : `${p.unused.toLocaleString('en-US')} of ${p.held.toLocaleString('en-US')} (${percent(p.unused / Math.max(1, p.held - p.unused))})`;
  return {
    title: 'Pages taken ahead and never touched, of those held (in brackets: of those touched)',
    head: ['', 'exact', 'as status shows it, last round'],
    rows: exact.map((e) => [
      e.image,
      share(e),
      share(samples.findLast((s) => s.image === e.image && s.pages !== null)?.pages ?? undefined),
    ]),
  };
}

/** What exits that entered L1 were about, where it was counted. */
function explainedTable({ samples }: StartResult): Table {
  const columns = START_VARIANTS.map((variant) => {
    const counted = samples.filter((s) => s.variant === variant && s.explained !== undefined);
    return {
      name: NAMES[variant],
      counts: sumCounts(counted.map((s) => s.explained!)),
      of: counted.length,
    };
  });
  return explainTable('one start, mean over the images', columns);
}

/** Against the memories that other VMMs give their guests. */
function othersTable({ summary, samples }: StartResult): Table {
  const over: readonly (readonly [string, Readonly<Record<string, number>> | undefined])[] = [
    ['anonymous, THP', summary.answeredOverThp],
    ['hugetlbfs', summary.answeredOverHugetlb],
  ];
  const counted = over.flatMap(([name, by]) => (by === undefined ? [] : [{ name, by }]));
  return {
    title: 'First answer, accelerated: shorter by (negative: longer) than with memory of',
    head: ['', ...counted.map((c) => c.name)],
    rows:
      counted.length === 0
        ? []
        : imagesOf(samples).map((image) => [
            image,
            ...counted.map(({ by }) => maybe(own(by, image), percent)),
          ]),
  };
}

function startBarTable({ summary }: StartResult): Table {
  return {
    title: 'Against what was asked for',
    head: ['', 'measured', 'bar', ''],
    rows: START_BARS.flatMap((b) => {
      const v = summary[b.key];
      if (v === undefined) return [];
      const met = 'atLeast' in b ? v >= b.atLeast : v <= b.atMost;
      const bar = 'atLeast' in b ? `≥ ${percent(b.atLeast)}` : `≤ ${percent(b.atMost)}`;
      return [[b.text, percent(v), bar, met ? 'met' : 'NOT MET']];
    }),
  };
}

export function startTables(r: StartResult): Table[] {
  return [
    timeTable(r),
    othersTable(r),
    countTable(r),
    causeTable(r),
    explainedTable(r),
    reasonTable(r),
    pagesTable(r),
    startBarTable(r),
  ].filter((t) => t.rows.length > 0);
}

function chart({ samples }: StartResult): string {
  const bars = imagesOf(samples).flatMap((image) =>
    variantsOf(samples, image).flatMap((variant): Bar[] => {
      const ms = mean(startsOf(samples, image, variant).map((s) => s.answeredMs));
      if (ms === undefined) return [];
      const cls = variant === 'accelerated' ? 's-l2-default' : 's-l2-vanilla';
      return [{ group: image, name: NAMES[variant], value: ms / 1000, label: duration(ms * 1e6), cls }];
    }),
  );
  return barChart({
    id: 'start',
    title: 'Start of services in nested guests',
    unit: 'seconds from the start to the first answer',
    bars,
    tick: number,
  });
}

export function startReport(r: StartResult): string {
  const { meanReduction, redisSnapshotReduction } = r.summary;
  const parts = [
    ...(meanReduction === undefined ? [] : [`services answered in ${percent(meanReduction)} less time`]),
    ...(redisSnapshotReduction === undefined
      ? []
      : [`Redis loaded its snapshot in ${percent(redisSnapshotReduction)} less`]),
  ];
  return page({
    title: `HyperTurtle: start of ${r.environment.startedAt}`,
    lead: parts.length === 0 ? 'Nothing was compared.' : `With the npf hyperupcall ${parts.join(', ')}.`,
    notes: [caveat(r.environment)].filter((n) => n !== undefined),
    sections: [
      section(
        'How long until a service answers',
        'From the VMM’s start command, in guests started by <code>hyperturtle run</code>. All variants take turns in one lab.',
        `<figure>${chart(r)}</figure>${htmlTable(timeTable(r))}${htmlTable(othersTable(r))}`,
      ),
      section(
        'What it costs',
        'Exits are counted by KVM in L0. A fault that leaves L2 is two world switches, one that L0 passes to L1 two more.',
        [countTable(r), causeTable(r), explainedTable(r), reasonTable(r), pagesTable(r)]
          .map(htmlTable)
          .join(''),
      ),
      section('Against what was asked for', '', htmlTable(startBarTable(r))),
      parametersSection(r),
    ],
  });
}
