/**
 * The paper's evaluation beside ours, as data: what it measured and reached (Ben Zur et al., "Accelerating Nested Virtualization with
 * HyperTurtle", USENIX ATC 2025), and which of our benches measures the same. `bench paper` runs the benches and reads their
 * results; docs/reproduction.md names every row.
 */
import { z } from 'zod';
import { exitResultSchema, ticksPerExit } from './exit.ts';
import { hugeResultSchema } from './huge.ts';
import { netResultSchema } from './net-schema.ts';
import { profileCosts } from './profile.ts';
import { countersSchema, environmentSchema, resultSchema } from './schema.ts';
import type { Environment } from './schema.ts';
import { startResultSchema } from './start-schema.ts';
import type { StartVariant } from './start-schema.ts';
import { SNAPSHOT_IMAGE, imagesOf, startsOf } from './start-summary.ts';
import { mean, median } from './statistics.ts';
import { averageNs, selectTouches, switchesPerPage } from './summary.ts';
import { own } from '../core/own.ts';

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
    bench: 'start',
    differs:
      'a microVM under QEMU, from its first instruction to the first answer of a service, mean over the images; no container runtime',
  },
  {
    id: 'start-huge',
    what: 'the same, 2 MiB pages',
    unit: 's',
    paperRatio: 0.92,
    bench: 'huge',
    differs: 'a kernel and its first process, L2’s memory on hugetlbfs or from a pool of 2 MiB frames',
  },
  {
    id: 'snapshot',
    what: 'start of Redis with a snapshot of 1 GiB',
    unit: 's',
    paperRatio: 0.45,
    bench: 'start',
    differs: 'a snapshot of 256 MiB, which the lab bears; until Redis answers',
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
    bench: 'net',
    differs: 'a tap of L0 behind VFIO in L1, not a vDPA device; program pass',
  },
  {
    id: 'throughput',
    what: 'TCP throughput',
    unit: 'Gb/s',
    more: true,
    paper: { nested: 12.1, accelerated: 17.3, direct: 17.4 },
    bench: 'net',
    differs: 'the same; one TCP connection from L2',
  },
  {
    id: 'memcached',
    what: 'memcached within 500 µs',
    unit: 'K requests/s',
    more: true,
    paper: { nested: 29, accelerated: 50 },
    bench: 'net',
    differs: 'no service level under emulation: requests with eight under way, by memaslap',
  },
  {
    id: 'nginx',
    what: 'nginx',
    unit: 'requests/s',
    more: true,
    paperRatio: 1.45,
    bench: 'net',
    differs: 'eight requests under way, kept alive, by ab',
  },
  {
    id: 'redis',
    what: 'Redis, at most',
    unit: 'requests/s',
    more: true,
    paperRatio: 1.65,
    bench: 'net',
    differs: 'eight GETs under way, by redis-benchmark',
  },
  {
    id: 'sample',
    what: 'one profile sample',
    unit: 'µs',
    paper: { nested: 60.68, accelerated: 8.5, direct: 5.66 },
    bench: 'profile',
    differs: 'a timer in L0 where the emulated PMU has no overflow; nested: perf record in L1',
  },
  {
    id: 'cpuid',
    what: 'CPUID exit from L2',
    unit: 'µs; ours: k ticks',
    paper: { nested: 2.77, direct: 0.78 },
    bench: 'exit',
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
      return `${whereOf(e)}; ${p.touchMib} MiB a phase, ${p.rounds} rounds, L1 ${p.l1MemoryMib} MiB and ${p.l1Cpus} CPU`;
    },
  },
  {
    name: 'start',
    args: ['--rounds', '3'],
    quickArgs: ['--images', 'bash', '--rounds', '1', '--no-exact'],
    report: true,
    figures: startFigures,
    about: (json) => {
      const { environment: e, parameters: p } = startResultSchema.parse(json);
      return `${whereOf(e)}; ${p.images.join(', ')}; ${p.rounds} rounds, L1 ${p.l1MemoryMib} MiB and ${p.l1Cpus} CPU`;
    },
  },
  {
    name: 'huge',
    args: ['--rounds', '3'],
    quickArgs: ['--rounds', '1', '--mib', '16'],
    figures: hugeFigures,
    about: (json) => {
      const { environment: e, parameters: p } = hugeResultSchema.parse(json);
      return `${whereOf(e)}; ${p.rounds} rounds of ${p.pages} pages and a boot of ${p.l2MemoryMib} MiB, L1 ${p.l1MemoryMib} MiB and ${p.l1Cpus} CPU`;
    },
  },
  {
    name: 'net',
    args: ['--rounds', '3', '--apps', 'memcached,redis,nginx'],
    quickArgs: [
      ...['--rounds', '1', '--turns', '1', '--round-trips', '10'],
      ...['--packets', '20', '--window', '8', '--tcp-kib', '32'],
    ],
    report: true,
    figures: netFigures,
    about: (json) => {
      const { environment: e, parameters: p } = netResultSchema.parse(json);
      return `${whereOf(e)}; ${p.rounds} rounds of ${p.turns} turns, ${p.roundTrips} round trips and ${p.tcpBytes >> 10} KiB in each, L1 ${p.l1MemoryMib} MiB and ${p.l1Cpus} CPU`;
    },
  },
  {
    name: 'profile',
    args: ['--rounds', '3'],
    quickArgs: ['--rates', '999', '--rounds', '1', '--work-rounds', '300'],
    figures: profileFigures,
    about: (json) => {
      const { environment: e, parameters: p } = profileSchema.parse(json);
      return `${whereOf(e)}; ${p.rates.join(', ')} Hz, ${p.rounds} rounds of ${p.workRounds}`;
    },
  },
  {
    name: 'exit',
    args: ['--rounds', '3', '--exits', '1000'],
    quickArgs: ['--rounds', '1', '--exits', '100'],
    figures: exitFigures,
    about: (json) => {
      const { environment: e, parameters: p } = exitResultSchema.parse(json);
      return `${whereOf(e)}; ${p.rounds} rounds of ${p.exits} exits, L1 ${p.l1MemoryMib} MiB and ${p.l1Cpus} CPU`;
    },
  },
];

function whereOf(e: Environment): string {
  return `${e.startedAt}, ${Math.round(e.durationSeconds)} s; ${e.accelerator}, ${e.hostCpus} CPUs (${e.hostCpuModel}); L0 ${e.l0Kernel}, L1 ${e.l1Kernel}, L2 ${e.l2Kernel}, QEMU ${e.l0Qemu}`;
}

function faultFigures(json: unknown): Partial<Record<string, Values>> {
  const r = resultSchema.parse(json);
  const us = (ns: number | undefined): number | undefined => (ns === undefined ? undefined : ns / 1000);
  const p99 = (v: 'l1' | 'l2-vanilla' | 'l2-default'): number | undefined =>
    us(mean(selectTouches(r, v, 'seq').map((s) => s.touch.p99Ns)));
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
  });
}

/** Each image counts the same: means over its rounds first. */
function startFigures(json: unknown): Partial<Record<string, Values>> {
  const { samples } = startResultSchema.parse(json);
  const seconds = (image: string, variant: StartVariant): number | undefined => {
    const ms = mean(startsOf(samples, image, variant).map((s) => s.answeredMs));
    return ms === undefined ? undefined : ms / 1000;
  };
  const services = imagesOf(samples).filter((i) => i !== SNAPSHOT_IMAGE);
  const all = (variant: StartVariant): number | undefined =>
    mean(services.map((i) => seconds(i, variant)).filter((v) => v !== undefined));
  return whole({
    start: [all('vanilla'), all('accelerated'), undefined],
    snapshot: [seconds(SNAPSHOT_IMAGE, 'vanilla'), seconds(SNAPSHOT_IMAGE, 'accelerated'), undefined],
  });
}

/** Medians: boots are few and vary. */
function hugeFigures(json: unknown): Partial<Record<string, Values>> {
  const { samples } = hugeResultSchema.parse(json);
  const seconds = (variant: 'vanilla' | 'accelerated'): number | undefined => {
    const all = samples.filter((s) => s.variant === variant).map((s) => s.bootMs / 1000);
    return all.length === 0 ? undefined : median(all);
  };
  return whole({ 'start-huge': [seconds('vanilla'), seconds('accelerated'), undefined] });
}

function netFigures(json: unknown): Partial<Record<string, Values>> {
  const { variants } = netResultSchema.parse(json).summary;
  const of = (name: string): (typeof variants)[number] | undefined =>
    variants.find((v) => v.variant === name);
  const us = (name: string): number | undefined => some(of(name)?.roundTripAvgNs, (ns) => ns / 1000);
  const gbps = (name: string): number | undefined => some(of(name)?.upBytesPerSecond, (b) => (b * 8) / 1e9);
  const asked = (app: string, unit: number) => (name: string) =>
    some(own(of(name)?.apps ?? {}, app)?.requestsPerSecond, (n) => n / unit);
  const three = (f: (name: string) => number | undefined) => [f('nested'), f('pass'), f('direct')] as const;
  return whole({
    udp: three(us),
    throughput: three(gbps),
    memcached: three(asked('memcached', 1000)),
    nginx: three(asked('nginx', 1)),
    redis: three(asked('redis', 1)),
  });
}

const profileSchema = z.object({
  benchmark: z.literal('profile'),
  environment: environmentSchema,
  parameters: z.object({ rates: z.array(z.number()), rounds: z.number(), workRounds: z.number() }),
  samples: z.array(
    z.object({
      profiler: z.enum(['none', 'l0', 'perf', 'l1']),
      ...{ hz: z.number(), round: z.number(), workNs: z.number(), emulatorCpuSeconds: z.number() },
      ...{ samples: z.number(), hookNs: z.number().nullable(), counters: countersSchema },
    }),
  ),
});

/** At the highest rate, where there are the most samples. */
function profileFigures(json: unknown): Partial<Record<string, Values>> {
  const r = profileSchema.parse(json);
  const hz = Math.max(...r.parameters.rates);
  const us = (profiler: 'l0' | 'perf' | 'l1'): number | undefined =>
    profileCosts(r).find((c) => c.profiler === profiler && c.hz === hz)?.usPerSample;
  return whole({ sample: [us('perf') ?? us('l1'), us('l0'), undefined] });
}

function exitFigures(json: unknown): Partial<Record<string, Values>> {
  const r = exitResultSchema.parse(json);
  const ticks = (v: 'vanilla' | 'accelerated' | 'l1'): number | undefined => {
    const t = ticksPerExit(r, v, 'cpuid');
    return Number.isNaN(t) ? undefined : t / 1000;
  };
  return whole({ cpuid: [ticks('vanilla'), ticks('accelerated'), ticks('l1')] });
}

/** Zero is what a summary says where nothing was measured. */
function some(v: number | undefined, f: (v: number) => number): number | undefined {
  return v === undefined || !(v > 0) ? undefined : f(v);
}

/** Nested, accelerated, direct; without one of the first two there is nothing to compare. */
function whole(
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
