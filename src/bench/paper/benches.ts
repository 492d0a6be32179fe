/**
 * Which of our benches measures what the paper did, and how its result is read. `bench paper` runs them;
 * docs/reproduction.md names every row.
 */
import { z } from 'zod';
import { exitResultSchema, ticksPerExit } from '../exits/run.ts';
import { gupsResultSchema, updateRate } from '../gups/run.ts';
import { hugeResultSchema } from '../huge/run.ts';
import { netResultSchema } from '../net/schema.ts';
import { profileCosts } from '../profile/run.ts';
import { resultSchema } from '../first-touch/schema.ts';
import { environmentSchema } from '../shared/environment-schema.ts';
import { countersSchema } from '../../testbed/counters-schema.ts';
import type { Environment } from '../shared/environment-schema.ts';
import { startResultSchema } from '../start/schema.ts';
import type { StartVariant } from '../start/schema.ts';
import { SNAPSHOT_IMAGE, imagesOf, startsOf } from '../start/summary.ts';
import { median } from '../../core/median.ts';
import { mean } from '../shared/statistics.ts';
import { averageNs, selectTouches, switchesPerPage } from '../first-touch/summary.ts';
import { own } from '../../core/own.ts';
import type { Values } from './figures.ts';
import { lazy } from '../../core/lazy.ts';

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
    // of 4 KiB pages, as the paper's; `huge` has the others
    args: ['--large-frames', '0', '--mib', '32', '--rounds', '3'],
    quickArgs: ['--large-frames', '0', '--mib', '4', '--rounds', '1', '--patterns', 'seq'],
    report: true,
    figures: faultFigures,
    about: (json) => {
      const { environment: e, parameters: p } = resultSchema().parse(json);
      return `${whereOf(e)}; ${p.touchMib} MiB a phase, ${p.rounds} rounds, L1 ${p.l1MemoryMib} MiB and ${p.l1Cpus} CPU`;
    },
  },
  {
    name: 'start',
    args: ['--rounds', '3', '--variants', 'vanilla,accelerated'],
    quickArgs: ['--images', 'bash', '--rounds', '1', '--no-exact', '--variants', 'vanilla,accelerated'],
    report: true,
    figures: startFigures,
    about: (json) => {
      const { environment: e, parameters: p } = startResultSchema().parse(json);
      return `${whereOf(e)}; ${p.images.join(', ')}; ${p.rounds} rounds, L1 ${p.l1MemoryMib} MiB and ${p.l1Cpus} CPU`;
    },
  },
  {
    name: 'huge',
    args: ['--rounds', '3'],
    quickArgs: ['--rounds', '1', '--mib', '16'],
    figures: hugeFigures,
    about: (json) => {
      const { environment: e, parameters: p } = hugeResultSchema().parse(json);
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
      const { environment: e, parameters: p } = netResultSchema().parse(json);
      return `${whereOf(e)}; ${p.rounds} rounds of ${p.turns} turns, ${p.roundTrips} round trips and ${p.tcpBytes >> 10} KiB in each, L1 ${p.l1MemoryMib} MiB and ${p.l1Cpus} CPU`;
    },
  },
  {
    name: 'gups',
    args: ['--rounds', '3'],
    quickArgs: ['--rounds', '1', '--mib', '4', '--updates', '10000'],
    figures: gupsFigures,
    about: (json) => {
      const { environment: e, parameters: p } = gupsResultSchema().parse(json);
      return `${whereOf(e)}; ${p.rounds} rounds of twice ${p.updates} updates of ${p.mib} MiB, L1 ${p.l1MemoryMib} MiB and ${p.l1Cpus} CPU`;
    },
  },
  {
    name: 'profile',
    args: ['--rounds', '3'],
    quickArgs: ['--rates', '999', '--rounds', '1', '--work-rounds', '300'],
    figures: profileFigures,
    about: (json) => {
      const { environment: e, parameters: p } = profileSchema().parse(json);
      return `${whereOf(e)}; ${p.rates.join(', ')} Hz, ${p.rounds} rounds of ${p.workRounds}`;
    },
  },
  {
    name: 'exit',
    args: ['--rounds', '3', '--exits', '1000'],
    quickArgs: ['--rounds', '1', '--exits', '100'],
    figures: exitFigures,
    about: (json) => {
      const { environment: e, parameters: p } = exitResultSchema().parse(json);
      return `${whereOf(e)}; ${p.rounds} rounds of ${p.exits} exits, L1 ${p.l1MemoryMib} MiB and ${p.l1Cpus} CPU`;
    },
  },
];

function whereOf(e: Environment): string {
  return `${e.startedAt}, ${Math.round(e.durationSeconds)} s; ${e.accelerator}${e.clock === 'instructions' ? ' (time in instructions)' : ''}, ${e.hostCpus} CPUs (${e.hostCpuModel}); L0 ${e.l0Kernel}, L1 ${e.l1Kernel}, L2 ${e.l2Kernel}, QEMU ${e.l0Qemu}`;
}

function faultFigures(json: unknown): Partial<Record<string, Values>> {
  const r = resultSchema().parse(json);
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
  const { samples } = startResultSchema().parse(json);
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
  const { samples } = hugeResultSchema().parse(json);
  const seconds = (variant: 'vanilla' | 'accelerated'): number | undefined => {
    const all = samples.filter((s) => s.variant === variant).map((s) => s.bootMs / 1000);
    return all.length === 0 ? undefined : median(all);
  };
  return whole({ 'start-huge': [seconds('vanilla'), seconds('accelerated'), undefined] });
}

function gupsFigures(json: unknown): Partial<Record<string, Values>> {
  const r = gupsResultSchema().parse(json);
  return whole({ gups: [updateRate(r, 'vanilla'), updateRate(r, 'accelerated'), updateRate(r, 'l1')] });
}

function netFigures(json: unknown): Partial<Record<string, Values>> {
  const { variants } = netResultSchema().parse(json).summary;
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

const profileSchema = lazy(() =>
  z.object({
    benchmark: z.literal('profile'),
    environment: environmentSchema(),
    parameters: z.object({ rates: z.array(z.number()), rounds: z.number(), workRounds: z.number() }),
    samples: z.array(
      z.object({
        profiler: z.enum(['none', 'l0', 'perf', 'l1']),
        hz: z.number(),
        round: z.number(),
        workNs: z.number(),
        emulatorCpuSeconds: z.number(),
        samples: z.number(),
        hookNs: z.number().nullable(),
        counters: countersSchema(),
      }),
    ),
  }),
);

/** At the highest rate, where there are the most samples. */
function profileFigures(json: unknown): Partial<Record<string, Values>> {
  const r = profileSchema().parse(json);
  const hz = Math.max(...r.parameters.rates);
  const us = (profiler: 'l0' | 'perf' | 'l1'): number | undefined =>
    profileCosts(r).find((c) => c.profiler === profiler && c.hz === hz)?.usPerSample;
  return whole({ sample: [us('perf') ?? us('l1'), us('l0'), undefined] });
}

function exitFigures(json: unknown): Partial<Record<string, Values>> {
  const r = exitResultSchema().parse(json);
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
