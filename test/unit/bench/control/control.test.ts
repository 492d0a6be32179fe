import { describe, expect, it } from 'vitest';
import { controlSummarySchema } from '../../../../src/bench/control/schema.ts';
import type { PhaseSample } from '../../../../src/bench/control/schema.ts';
import { percentile, summarizeControl } from '../../../../src/bench/control/summary.ts';

const phase = (load: PhaseSample['load'], probeUs: number[], answeredPerSecond: number[]): PhaseSample => ({
  round: 0,
  load,
  seconds: 2,
  probeUs,
  answeredPerSecond,
  failures: load === 'garbage' ? 1 : 0,
  daemonCpuSeconds: 0.5,
});

describe('a percentile', () => {
  it('is the sample of the nearest rank', () => {
    const samples = [5, 1, 4, 2, 3];
    expect([0, 0.5, 0.99, 1].map((share) => percentile(samples, share))).toEqual([1, 3, 5, 5]);
    expect(() => percentile([], 0.5)).toThrow(RangeError);
  });
});

describe('the summary of the control plane', () => {
  it('takes each figure from the samples that it is about', () => {
    const memory = { rssKib: 9000, workersPrivateKib: 0 };
    const s = summarizeControl({
      roundTripsUs: { ping: [10, 20, 30], stats: [40], list: [50] },
      changes: [
        { pace: 'apart', loadMs: 200, linkMs: 1, unlinkMs: 1, unloadMs: 1 },
        { pace: 'apart', loadMs: 100, linkMs: 3, unlinkMs: 1, unloadMs: 1 },
        { pace: 'apart', loadMs: 300, linkMs: 2, unlinkMs: 1, unloadMs: 1 },
        { pace: 'next', loadMs: 900, linkMs: 9, unlinkMs: 1, unloadMs: 1 },
      ],
      phases: [
        phase('quiet', [100, 200], []),
        phase('requests', [300], [1000, 990]),
        phase('requests', [500], [1010]),
        phase('garbage', [700], [5]),
      ],
      memory: [
        { ...memory, when: 'warm', privateKib: 2048, openFiles: 30 },
        { ...memory, when: 'end', privateKib: 4096, openFiles: 31 },
      ],
    });
    expect(controlSummarySchema().parse(s)).toEqual({
      roundTripP50Us: { ping: 20, stats: 40, list: 50 },
      roundTripP99Us: { ping: 30, stats: 40, list: 50 },
      loadP50Ms: 200,
      linkP50Ms: 2,
      loadAndLinkP50Ms: 201,
      loadAndLinkMaxMs: 302,
      loadNextP50Ms: 900,
      sustainedPerSecondMin: 990,
      sustainedPerSecondMean: 1000,
      probeP50Us: { quiet: 100, requests: 300, garbage: 700 },
      probeP99Us: { quiet: 200, requests: 500, garbage: 700 },
      daemonCpuShare: { quiet: 0.25, requests: 0.25, garbage: 0.25 },
      daemonPrivateMib: 2,
      daemonPrivateMibAtEnd: 4,
      openFilesGrowth: 1,
      failures: 1,
    });
  });
});
