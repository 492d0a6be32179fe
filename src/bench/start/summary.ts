/** What a run of `bench start` comes to. Every number is a pure function of its samples. */
import { mean, ratio, sum } from '../shared/statistics.ts';
import { HyperturtleError } from '../../core/errors.ts';
import type { StartResult, StartSample, StartSummary, StartVariant } from './schema.ts';
import { NESTED_FAULT } from '../first-touch/summary.ts';
import { setOwn } from '../../core/own.ts';

export const SNAPSHOT_IMAGE = 'redis-snapshot';

/** What the issue asks for. */
export const START_BARS = [
  { key: 'meanReduction', atLeast: 0.27, text: 'time to the first answer shorter by, mean over the images' },
  { key: 'redisSnapshotReduction', atLeast: 0.5, text: 'the same, Redis loading a snapshot' },
  { key: 'unusedShare', atMost: 0.05, text: 'pages taken by groups and never touched, of those touched' },
] as const satisfies readonly { key: keyof StartSummary; atLeast?: number; atMost?: number; text: string }[];

export function startsOf(
  samples: readonly StartSample[],
  image: string,
  variant: StartVariant,
): StartSample[] {
  return samples.filter((s) => s.image === image && s.variant === variant);
}

/** In the order in which they were first measured. */
export function imagesOf(samples: readonly StartSample[]): string[] {
  return [...new Set(samples.map((s) => s.image))];
}

/** As in summary.ts: two switches for each fault that leaves L2, two more for each that L1 is entered for. */
export function faultSwitches(samples: readonly StartSample[]): number {
  return sum(
    samples.map(
      ({ counters: c }) =>
        2 * ((c.l2ExitsByCause[NESTED_FAULT] ?? 0) + (c.reflectedByCause[NESTED_FAULT] ?? 0)),
    ),
  );
}

export function summarizeStarts(
  samples: readonly StartSample[],
  exact: readonly { held: number; unused: number }[],
): StartSummary {
  const byImage = (
    of: (v: StartSample[], a: StartSample[]) => number | undefined,
    against: StartVariant = 'vanilla',
  ): Record<string, number> => {
    const found: Record<string, number> = {};
    for (const image of imagesOf(samples)) {
      const value = of(startsOf(samples, image, against), startsOf(samples, image, 'accelerated'));
      if (value !== undefined) setOwn(found, image, value);
    }
    return found;
  };
  const reduction = (of: (s: StartSample) => number, against?: StartVariant) =>
    byImage((v, a) => {
      const r = ratio(mean(a.map(of)), mean(v.map(of)));
      return r === undefined ? undefined : 1 - r;
    }, against);
  const measured = (variant: StartVariant): boolean => samples.some((s) => s.variant === variant);
  const answered = reduction((s) => s.answeredMs);
  const others = Object.entries(answered).filter(([image]) => image !== SNAPSHOT_IMAGE);
  const meanReduction = mean(others.map(([, r]) => r));
  const unused = sum(exact.map((e) => e.unused));
  const unusedShare = ratio(unused, sum(exact.map((e) => e.held)) - unused);
  const snapshot = answered[SNAPSHOT_IMAGE];
  return {
    answered,
    open: reduction((s) => s.openMs),
    emulatorCpu: reduction((s) => s.emulatorCpuSeconds),
    ...(measured('thp') ? { answeredOverThp: reduction((s) => s.answeredMs, 'thp') } : {}),
    ...(measured('hugetlb') ? { answeredOverHugetlb: reduction((s) => s.answeredMs, 'hugetlb') } : {}),
    faultSwitches: byImage((v, a) => ratio(faultSwitches(a), faultSwitches(v))),
    ...(meanReduction === undefined ? {} : { meanReduction }),
    ...(snapshot === undefined ? {} : { redisSnapshotReduction: snapshot }),
    ...(unusedShare === undefined ? {} : { unusedShare }),
  };
}

/** What passed the time in results that do not say it. */
const clockBefore = (accelerator: string): string => (accelerator === 'bochs' ? 'instructions' : 'real');

/** Several runs as one: measured in pieces. Rounds of the same image are counted on. Throws HT_USAGE where they do not fit together. */
export function joinStarts(results: readonly StartResult[]): StartResult {
  const [first] = results;
  if (first === undefined) throw new HyperturtleError('HT_USAGE', 'no result of bench start');
  const shape = ({ environment: e, parameters: p }: StartResult): string =>
    JSON.stringify([
      ...[
        e.accelerator,
        e.clock ?? clockBefore(e.accelerator),
        e.hostCpus,
        e.hostCpuModel,
        e.l0Kernel,
        e.l1Kernel,
        e.l2Kernel,
        e.l0Qemu,
      ],
      ...[p.l1MemoryMib, p.l1Cpus, p.groupDefault],
    ]);
  const rounds = new Map<string, number>();
  const samples: StartSample[] = [];
  for (const r of results) {
    if (shape(r) !== shape(first))
      throw new HyperturtleError(
        'HT_USAGE',
        `results of bench start on one machine expected, found ${shape(first)} and ${shape(r)}`,
      );
    const before = new Map(rounds);
    for (const s of r.samples) {
      const round = (before.get(s.image) ?? 0) + s.round;
      rounds.set(s.image, Math.max(rounds.get(s.image) ?? 0, round + 1));
      samples.push({ ...s, round });
    }
  }
  const exact = results.flatMap((r) => r.exact);
  return {
    ...first,
    environment: {
      ...first.environment,
      durationSeconds: sum(results.map((r) => r.environment.durationSeconds)),
    },
    parameters: { ...first.parameters, images: [...rounds.keys()], rounds: Math.min(...rounds.values()) },
    samples,
    exact,
    summary: summarizeStarts(samples, exact),
  };
}
