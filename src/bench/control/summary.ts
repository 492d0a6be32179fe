/** The figures of the control plane from its raw samples. */
import { LOADS, ROUND_TRIPS } from './schema.ts';
import type { ControlResult, ControlSummary, Load } from './schema.ts';
import { mean, sum } from '../shared/statistics.ts';

/** The sample below or at which the share of all lies (nearest rank). Throws RangeError of nothing. */
export function percentile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const value = sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
  if (value === undefined) throw new RangeError('a percentile of no samples');
  return value;
}

type Samples = Pick<ControlResult, 'roundTripsUs' | 'changes' | 'phases' | 'memory'>;

export function summarizeControl(s: Samples): ControlSummary {
  const by = <K extends string>(keys: readonly K[], f: (key: K) => number): Record<K, number> =>
    Object.fromEntries(keys.map((k) => [k, f(k)])) as Record<K, number>;
  const phases = (load: Load) => s.phases.filter((p) => p.load === load);
  const probes = (load: Load): number[] => phases(load).flatMap((p) => p.probeUs);
  const perSecond = phases('requests').flatMap((p) => p.answeredPerSecond);
  const apart = s.changes.filter((c) => c.pace === 'apart');
  const together = apart.map((c) => c.loadMs + c.linkMs);
  const [first, last] = [s.memory[0], s.memory.at(-1)];
  if (!first || !last) throw new RangeError('no samples of memory');
  return {
    roundTripP50Us: by(ROUND_TRIPS, (m) => percentile(s.roundTripsUs[m], 0.5)),
    roundTripP99Us: by(ROUND_TRIPS, (m) => percentile(s.roundTripsUs[m], 0.99)),
    loadP50Ms: percentile(
      apart.map((c) => c.loadMs),
      0.5,
    ),
    linkP50Ms: percentile(
      apart.map((c) => c.linkMs),
      0.5,
    ),
    loadAndLinkP50Ms: percentile(together, 0.5),
    loadAndLinkMaxMs: Math.max(...together),
    loadNextP50Ms: percentile(
      s.changes.filter((c) => c.pace === 'next').map((c) => c.loadMs),
      0.5,
    ),
    sustainedPerSecondMin: Math.min(...perSecond),
    sustainedPerSecondMean: mean(perSecond) ?? 0,
    probeP50Us: by(LOADS, (l) => percentile(probes(l), 0.5)),
    probeP99Us: by(LOADS, (l) => percentile(probes(l), 0.99)),
    daemonCpuShare: by(
      LOADS,
      (l) => sum(phases(l).map((p) => p.daemonCpuSeconds)) / sum(phases(l).map((p) => p.seconds)),
    ),
    daemonPrivateMib: first.privateKib / 1024,
    daemonPrivateMibAtEnd: last.privateKib / 1024,
    openFilesGrowth: last.openFiles - first.openFiles,
    failures: sum(s.phases.map((p) => p.failures)),
  };
}

/** For people: one table. */
export function controlTable(r: ControlResult): string {
  const { summary: s } = r;
  const us = (n: number): string => (n < 10_000 ? `${Math.round(n)} µs` : `${(n / 1000).toFixed(1)} ms`);
  const rows: [string, string][] = [
    ...ROUND_TRIPS.map((m): [string, string] => [
      `round trip of ${m}, p50 / p99`,
      `${us(s.roundTripP50Us[m])} / ${us(s.roundTripP99Us[m])}`,
    ]),
    ['load, p50', `${s.loadP50Ms.toFixed(1)} ms`],
    ['load right after another, p50', `${s.loadNextP50Ms.toFixed(1)} ms`],
    ['link, p50', `${s.linkP50Ms.toFixed(2)} ms`],
    [
      'load and link, p50 / longest',
      `${s.loadAndLinkP50Ms.toFixed(1)} / ${s.loadAndLinkMaxMs.toFixed(1)} ms`,
    ],
    [
      'requests a second of one VM, mean / least second',
      `${s.sustainedPerSecondMean.toFixed(0)} / ${s.sustainedPerSecondMin}`,
    ],
    ...LOADS.map((l): [string, string] => [
      `the other VM's ping, p50 / p99, daemon's CPU: ${l}`,
      `${us(s.probeP50Us[l])} / ${us(s.probeP99Us[l])}, ${(100 * s.daemonCpuShare[l]).toFixed(0)}%`,
    ]),
    [
      "daemon's own memory, first / at the end",
      `${s.daemonPrivateMib.toFixed(1)} / ${s.daemonPrivateMibAtEnd.toFixed(1)} MiB`,
    ],
    ['open files gained', String(s.openFilesGrowth)],
    ['failed requests', String(s.failures)],
  ];
  const width = Math.max(...rows.map(([what]) => what.length));
  return `${rows.map(([what, value]) => `  ${what.padEnd(width)}  ${value}`).join('\n')}\n`;
}
