/**
 * The paper's evaluation beside ours, as data: what it measured and reached (Ben Zur et al., "Accelerating Nested Virtualization with
 * HyperTurtle", USENIX ATC 2025), and which of our benches measures the same. `bench paper` runs the benches and reads their
 * results; docs/reproduction.md names every row.
 */
import { averageNs, bootMs, selectTouches, switchesPerPage } from './summary.ts';
import { resultSchema } from './schema.ts';
import { mean } from './statistics.ts';

/** Three ways of running the same thing. `direct`: not nested, or with the NIC given to the nested guest. */
export interface Values {
  nested: number;
  accelerated?: number | undefined;
  direct?: number | undefined;
}

export interface PaperFigure {
  id: string;
  /** What is measured. */
  what: string;
  unit: string;
  /** More is better; else less is. */
  more?: true;
  /** Undefined: the paper gives only a change. */
  paper?: Values;
  /** Where it gives only that: accelerated / nested. */
  paperRatio?: number;
  /** How ours differs, whatever the machine. */
  differs: string;
  /** Our bench, by its name in PAPER_BENCHES; undefined: we have none yet. */
  bench?: string;
}

export const PAPER_FIGURES: readonly PaperFigure[] = [
  {
    id: 'fault',
    what: 'EPT fault, average',
    unit: 'µs',
    paper: { nested: 28.39, accelerated: 5.39, direct: 5.58 },
    bench: 'all',
    differs:
      'first touch as L2 sees it, sequential, with its own page fault in it; AMD NPT; groups of up to 64 pages for one exit',
  },
  {
    id: 'fault-one',
    what: 'EPT fault, average, one page for each',
    unit: 'µs',
    paper: { nested: 28.39, accelerated: 5.39, direct: 5.58 },
    bench: 'all',
    differs: 'the same with groups of one page, which is what the prototype does',
  },
  {
    id: 'fault-p99',
    what: 'EPT fault, 99th percentile',
    unit: 'µs',
    paper: { nested: 49.13, accelerated: 10.32, direct: 9.35 },
    bench: 'all',
    differs: 'as above; an emulated machine that shares its CPUs has long tails of its own',
  },
  {
    id: 'switches',
    what: 'world switches a fault',
    unit: '',
    paper: { nested: 6, accelerated: 2, direct: 2 },
    bench: 'all',
    differs: 'counted by L0’s KVM, for each page touched; groups make it less than two',
  },
  {
    id: 'start',
    what: 'start of a Kata container, 4 KiB pages',
    unit: 's',
    paper: { nested: 1.5, accelerated: 1.1, direct: 0.7 },
    bench: 'all',
    differs: 'a microVM under QEMU from start to its first line of userspace, no container runtime',
  },
  {
    id: 'start-huge',
    what: 'the same, 2 MiB pages',
    unit: 's',
    paperRatio: 0.92,
    differs: 'not measured: programs answer faults of 4 KiB pages',
  },
  {
    id: 'snapshot',
    what: 'start of Redis with a snapshot of 1 GiB',
    unit: 's',
    paperRatio: 0.45,
    differs: 'a snapshot of 256 MiB, which the lab bears',
  },
  {
    id: 'text-service',
    what: 'start of DeathStarBench TextService',
    unit: 's',
    paperRatio: 0.65,
    differs: 'not measured: it is no Debian package',
  },
  {
    id: 'udp',
    what: 'UDP round trip of one byte, average',
    unit: 'µs',
    paper: { nested: 90.2, accelerated: 55.0, direct: 54.5 },
    differs: 'a tap of L0 behind VFIO in L1, not a vDPA device; program pass',
  },
  {
    id: 'throughput',
    what: 'TCP throughput',
    unit: 'Gb/s',
    more: true,
    paper: { nested: 12.1, accelerated: 17.3, direct: 17.4 },
    differs: 'the same',
  },
  {
    id: 'memcached',
    what: 'memcached within 500 µs',
    unit: 'K requests/s',
    more: true,
    paper: { nested: 29, accelerated: 50 },
    differs: 'no service level under emulation',
  },
  {
    id: 'nginx',
    what: 'nginx',
    unit: 'requests/s',
    more: true,
    paperRatio: 1.45,
    differs: 'as for memcached',
  },
  {
    id: 'redis',
    what: 'Redis, at most',
    unit: 'requests/s',
    more: true,
    paperRatio: 1.65,
    differs: 'as for memcached',
  },
  {
    id: 'sample',
    what: 'one profile sample',
    unit: 'µs',
    paper: { nested: 60.68, accelerated: 8.5, direct: 5.66 },
    differs: 'a timer in L0 where the emulated PMU has no overflow',
  },
  {
    id: 'cpuid',
    what: 'CPUID exit from L2',
    unit: 'µs',
    paper: { nested: 2.77, direct: 0.78 },
    differs: 'the paper gives what the exit costs and has no hook for it; ours answers it in L0',
  },
];

export interface PaperBench {
  /** Name below `hyperturtle bench`. */
  name: string;
  /** Its arguments but for --json. */
  args: readonly string[];
  /** Instead, to see that all of it works: minutes, and figures that mean little. */
  quickArgs: readonly string[];
  /** Where it writes an HTML report of its own. */
  report?: true;
  /** Our values by figure, from its JSON. Throws when it does not read. */
  figures(json: unknown): Partial<Record<string, Values>>;
  /** Where and how it was measured, in one line. */
  about(json: unknown): string;
}

/** One bench a row: a new one is added here and in docs/reproduction.md. */
export const PAPER_BENCHES: readonly PaperBench[] = [
  {
    name: 'all',
    args: ['--mib', '32', '--rounds', '3'],
    quickArgs: ['--mib', '4', '--rounds', '1', '--patterns', 'seq'],
    report: true,
    figures: faultFigures,
    about: (json) => {
      const { environment: e, parameters: p } = resultSchema.parse(json);
      return `${e.startedAt}, ${Math.round(e.durationSeconds)} s; ${e.accelerator}, ${e.hostCpus} CPUs (${e.hostCpuModel}); L0 ${e.l0Kernel}, L1 ${e.l1Kernel}, L2 ${e.l2Kernel}, QEMU ${e.l0Qemu}; ${p.touchMib} MiB a phase, ${p.rounds} rounds, L1 ${p.l1MemoryMib} MiB and ${p.l1Cpus} CPU`;
    },
  },
];

function faultFigures(json: unknown): Partial<Record<string, Values>> {
  const r = resultSchema.parse(json);
  const us = (ns: number | undefined): number | undefined => (ns === undefined ? undefined : ns / 1000);
  const p99 = (v: 'l1' | 'l2-vanilla' | 'l2-default'): number | undefined =>
    us(mean(selectTouches(r, v, 'seq').map((s) => s.touch.p99Ns)));
  const seconds = (ms: number | undefined): number | undefined => (ms === undefined ? undefined : ms / 1000);
  const direct = us(averageNs(r, 'l1', 'seq'));
  const nested = us(averageNs(r, 'l2-vanilla', 'seq'));
  return whole({
    fault: [nested, us(averageNs(r, 'l2-default', 'seq')), direct],
    'fault-one': [nested, us(averageNs(r, 'l2-group1', 'seq')), direct],
    'fault-p99': [p99('l2-vanilla'), p99('l2-default'), p99('l1')],
    switches: [
      switchesPerPage(selectTouches(r, 'l2-vanilla', 'seq')),
      switchesPerPage(selectTouches(r, 'l2-default', 'seq')),
      undefined,
    ],
    start: [
      seconds(bootMs(r, 'vanilla')),
      seconds(bootMs(r, 'accelerated')),
      seconds(bootMs(r, 'not-nested')),
    ],
  });
}

/** Nested, accelerated, direct; without one of the first two there is nothing to compare. */
export function whole(
  all: Readonly<Record<string, readonly [number | undefined, number | undefined, number | undefined]>>,
): Partial<Record<string, Values>> {
  return Object.fromEntries(
    Object.entries(all).flatMap(([id, [nested, accelerated, direct]]) =>
      nested === undefined || accelerated === undefined
        ? []
        : [[id, { nested, accelerated, direct }] as const],
    ),
  );
}

/** What one bench gave, or why it did not. */
export interface PaperRun {
  bench: string;
  command: string;
  seconds: number;
  about: string | null;
  problem: string | null;
  values: Partial<Record<string, Values>>;
}

/** Accelerated against nested, as a factor that is above 1 when it is better. */
export function gain(figure: Pick<PaperFigure, 'more'>, v: Values | undefined): number | undefined {
  if (!v || v.accelerated === undefined || !(v.nested > 0) || !(v.accelerated > 0)) return undefined;
  return figure.more ? v.accelerated / v.nested : v.nested / v.accelerated;
}

export function paperGain(figure: PaperFigure): number | undefined {
  if (figure.paperRatio !== undefined) return figure.more ? figure.paperRatio : 1 / figure.paperRatio;
  return gain(figure, figure.paper);
}
