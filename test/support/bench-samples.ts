/** Samples of benchmarks for tests: small, complete, and with one thing changed at a time. */
import type {
  BenchResult,
  BootSample,
  BootVariant,
  Pattern,
  TouchSample,
  Variant,
} from '../../src/bench/first-touch/schema.ts';
import { VARIANTS } from '../../src/bench/first-touch/schema.ts';
import type { Counters } from '../../src/testbed/counters-schema.ts';
import { summarize } from '../../src/bench/first-touch/summary.ts';

export function counters(c: { exits?: number; npf?: number; reflected?: number } = {}): Counters {
  const npf = Math.round(c.npf ?? 100);
  return {
    exits: Math.round(c.exits ?? npf),
    nestedRuns: c.reflected ?? 0,
    l2ExitsByCause: { npf },
    reflectedByCause: { npf: c.reflected ?? 0 },
  };
}

export function touchSample(s: {
  variant?: Variant;
  pattern?: Pattern;
  pass?: 1 | 2;
  round?: number;
  pages?: number;
  avgNs?: number;
  p50Ns?: number;
  counters?: Counters | null;
}): TouchSample {
  const avgNs = s.avgNs ?? 1000;
  const p50Ns = s.p50Ns ?? avgNs;
  const pages = s.pages ?? 100;
  return {
    variant: s.variant ?? 'l2-default',
    round: s.round ?? 0,
    touch: {
      pattern: s.pattern ?? 'seq',
      pass: s.pass ?? 1,
      pages,
      avgNs,
      p50Ns,
      p90Ns: p50Ns * 2,
      p99Ns: p50Ns * 8,
      p999Ns: p50Ns * 40,
      maxNs: p50Ns * 90,
      totalNs: avgNs * pages,
      histogram: [
        [p50Ns * 0.8, pages - 10],
        [p50Ns * 8, 9],
        [p50Ns * 64, 1],
      ],
    },
    counters: s.counters === undefined ? counters() : s.counters,
    fallbacks: null,
    emulatorCpuSeconds: 1,
  };
}

export function bootSample(variant: BootVariant, bootMs: number, round = 0): BootSample {
  return { variant, round, bootMs, counters: null, fallbacks: null, emulatorCpuSeconds: bootMs / 1000 };
}

/** A whole run with numbers of about the size that a lab gives. */
export function exampleResult(): BenchResult {
  const touches: TouchSample[] = [];
  const boots: BootSample[] = [];
  const pages = 2048;
  for (const round of [0, 1, 2]) {
    for (const pattern of ['seq', 'stride', 'random', 'scattered'] as const) {
      const far = pattern === 'scattered';
      if (!far)
        touches.push(
          touchSample({ variant: 'l1', pattern, round, pages, avgNs: 50_000, p50Ns: 15_000, counters: null }),
        );
      touches.push(
        touchSample({
          variant: 'l2-vanilla',
          pattern,
          round,
          pages,
          avgNs: 3_100_000 + round * 90_000,
          p50Ns: 1_800_000,
          counters: counters({ exits: pages * 4, npf: pages * 2, reflected: pages }),
        }),
        touchSample({
          variant: 'l2-vanilla-prealloc',
          pattern,
          round,
          pages,
          avgNs: 1_700_000,
          p50Ns: 880_000,
          counters: counters({ exits: pages * 3, npf: pages * 2, reflected: pages }),
        }),
        touchSample({
          variant: 'l2-anonymous',
          pattern,
          round,
          pages,
          avgNs: 1_500_000,
          p50Ns: 900_000,
          counters: counters({ exits: pages * 4, npf: pages * 2, reflected: pages }),
        }),
        touchSample({
          variant: 'l2-thp',
          pattern,
          round,
          pages,
          avgNs: 350_000,
          p50Ns: 60_000,
          counters: counters({ exits: pages * 1.1, npf: pages, reflected: 4 }),
        }),
        touchSample({
          variant: 'l2-group1',
          pattern,
          round,
          pages,
          avgNs: 300_000,
          p50Ns: 110_000,
          counters: counters({ exits: pages * 1.05, npf: pages, reflected: 20 }),
        }),
        touchSample({
          variant: 'l2-default',
          pattern,
          round,
          pages,
          avgNs: far ? 280_000 : 143_000,
          p50Ns: far ? 105_000 : 17_000,
          counters: counters({
            exits: far ? pages * 1.05 : pages * 0.03,
            npf: far ? pages : pages * 0.02,
            reflected: 8,
          }),
        }),
      );
    }
    touches.push(
      touchSample({
        variant: 'l2-vanilla',
        pass: 2,
        round,
        pages,
        avgNs: 12_000,
        counters: counters({ exits: 40, npf: 2 }),
      }),
      touchSample({
        variant: 'l2-default',
        pass: 2,
        round,
        pages,
        avgNs: 12_100,
        counters: counters({ exits: 41, npf: 1 }),
      }),
    );
    boots.push(
      bootSample('not-nested', 4_100 + round * 40, round),
      bootSample('vanilla', 25_600 - round * 300, round),
      bootSample('thp', 19_000 - round * 100, round),
      bootSample('accelerated', 9_900 + round * 200, round),
    );
  }
  return {
    schema: 1,
    benchmark: 'demo',
    environment: {
      hyperturtleVersion: '0.1.0',
      startedAt: '2026-01-01T00:00:00.000Z',
      durationSeconds: 241,
      accelerator: 'tcg',
      hostCpus: 2,
      hostCpuModel: 'Example CPU',
      hostMemoryMib: 16_384,
      hostKernel: '6.1.0-1-cloud-amd64',
      nodeVersion: 'v20.19.0',
      l0Kernel: '6.1.0-1-cloud-amd64',
      l1Kernel: '6.1.0-1-cloud-amd64',
      l2Kernel: '6.1.0-1-cloud-amd64',
      l0Qemu: '7.2.0',
      outerQemu: '7.2.0',
    },
    parameters: {
      touchMib: 8,
      rounds: 3,
      variants: [...VARIANTS],
      patterns: ['seq', 'stride', 'random', 'scattered'],
      l2MemoryMib: 256,
      l1MemoryMib: 2048,
      l1Cpus: 1,
      groupDefault: 16,
      poolHigh: 8192,
      l2Machine: 'pc',
      l2KernelArguments: 'quiet',
    },
    touches,
    boots,
    summary: summarize({ touches, boots }),
  };
}
