import { describe, expect, test } from 'vitest';
import { startTurns } from '../../../../src/bench/start/run.ts';
import { startResultSchema } from '../../../../src/bench/start/schema.ts';
import type { StartResult, StartSample, StartVariant } from '../../../../src/bench/start/schema.ts';
import { faultSwitches, joinStarts, summarizeStarts } from '../../../../src/bench/start/summary.ts';
import { startReport, startTables } from '../../../../src/report/start.ts';

function sample(image: string, variant: StartVariant, answeredMs: number, round = 0): StartSample {
  const accelerated = variant === 'accelerated';
  return {
    image,
    variant,
    round,
    l2MemoryMib: 128,
    upMs: answeredMs / 4,
    openMs: answeredMs / 2,
    answeredMs,
    counters: {
      exits: 1000,
      nestedRuns: 100,
      l2ExitsByCause: { npf: accelerated ? 60 : 200, hlt: 5 },
      reflectedByCause: accelerated ? { hlt: 5 } : { npf: 100, hlt: 5 },
    },
    fallbacks: accelerated ? { PRESENT: 10 } : null,
    handled: accelerated ? 50 : null,
    entries: accelerated ? 500 : null,
    pages: accelerated ? { held: 100, unused: 8 } : null,
    emulatorCpuSeconds: answeredMs / 1000,
  };
}

const samples = [
  sample('bash', 'vanilla', 1000),
  sample('bash', 'accelerated', 600),
  sample('bash', 'vanilla', 3000, 1),
  sample('bash', 'accelerated', 1000, 1),
  sample('node', 'vanilla', 1000),
  sample('node', 'accelerated', 900),
  sample('redis-snapshot', 'vanilla', 10_000),
  sample('redis-snapshot', 'accelerated', 4000),
];
const exact = [
  { image: 'bash', held: 100, unused: 10 },
  { image: 'node', held: 110, unused: 0 },
];

describe('the summary of starts', () => {
  const s = summarizeStarts(samples, exact);

  test('compares the means over the rounds, image by image', () => {
    const rounded = Object.entries(s.answered).map(([image, r]) => [image, Math.round(r * 1000)]);
    expect(Object.fromEntries(rounded)).toEqual({ bash: 600, node: 100, 'redis-snapshot': 600 });
  });

  test('keeps the Redis snapshot out of the mean over the images', () => {
    expect(s.meanReduction).toBeCloseTo(0.35);
    expect(s.redisSnapshotReduction).toBeCloseTo(0.6);
  });

  test('counts switches of faults, and what groups took in vain against what was touched', () => {
    expect(faultSwitches([samples[0]!])).toBe(600);
    expect(s.faultSwitches['bash']).toBeCloseTo(0.2);
    expect(s.unusedShare).toBeCloseTo(10 / 200);
  });

  test('says nothing of what was not measured', () => {
    expect(summarizeStarts([sample('bash', 'vanilla', 1)], [])).toEqual({
      answered: {},
      open: {},
      emulatorCpu: {},
      faultSwitches: { bash: 0 },
    });
  });
});

test('both variants of an image follow each other, and who is first changes by round', () => {
  const turns = startTurns({ images: ['a', 'b'], rounds: 2, variants: ['vanilla', 'accelerated'] }).map(
    (t) => `${t.image} ${t.variant} ${t.round}`,
  );
  expect(turns).toEqual([
    ...['a vanilla 0', 'a accelerated 0', 'b vanilla 0', 'b accelerated 0'],
    ...['a accelerated 1', 'a vanilla 1', 'b accelerated 1', 'b vanilla 1'],
  ]);
});

test('only the variants that are wanted take turns', () => {
  const turns = startTurns({ images: ['a'], rounds: 1, variants: ['thp', 'hugetlb', 'accelerated'] });
  expect(turns.map((t) => t.variant)).toEqual(['thp', 'hugetlb', 'accelerated']);
});

describe('the report of starts', () => {
  const result: StartResult = {
    schema: 1,
    benchmark: 'start',
    samples,
    exact,
    summary: summarizeStarts(samples, exact),
    environment: {
      hyperturtleVersion: '0',
      startedAt: '2026-01-01',
      durationSeconds: 1,
      accelerator: 'tcg',
      hostCpus: 1,
      hostCpuModel: 'x',
      hostMemoryMib: 1,
      hostKernel: 'x',
      nodeVersion: 'v',
      l0Kernel: 'k',
      l1Kernel: 'k',
      l2Kernel: 'k',
      l0Qemu: '7.2',
      outerQemu: '7.2',
    },
    parameters: {
      images: ['bash'],
      rounds: 2,
      l1MemoryMib: 4096,
      l1Cpus: 1,
      groupDefault: 64,
      poolHigh: 9,
      l2KernelArguments: '',
    },
  };

  test('has the other memories beside vanilla where they were started, and a start that is longer as that', () => {
    const more = [...samples, sample('bash', 'hugetlb', 400), sample('bash', 'thp', 1600)];
    const summary = summarizeStarts(more, exact);
    expect(summary.answeredOverHugetlb?.['bash']).toBeCloseTo(-1);
    expect(summary.answeredOverThp?.['bash']).toBeCloseTo(0.5);
    const all = startTables({ ...result, samples: more, summary });
    expect(all[0]?.rows.map((r) => r[0])).toContain('bash, hugetlbfs');
    expect(all[0]?.rows.map((r) => r[0])).not.toContain('node, hugetlbfs');
    const others = all.find((t) => t.title.includes('memory of'));
    expect(others?.rows[0]).toEqual(['bash', '50%', '-100%']);
    expect(startTables(result).some((t) => t.title.includes('memory of'))).toBe(false);
  });

  test('tells what exits that entered L1 were about, where it was counted', () => {
    const counted = samples.map((s) => ({ ...s, explained: { 'wrmsr 0x80b': 30, npf: 100 } }));
    const found = startTables({ ...result, samples: counted }).find((t) => t.title.includes("L1's own KVM"));
    expect(found?.rows[1]?.slice(0, 2)).toEqual(['wrmsr 0x80b (end of interrupt)', '30']);
    expect(found?.head.slice(0, 3)).toEqual(['', 'vanilla', 'accelerated']);
    expect(startTables(result).some((t) => t.title.includes("L1's own KVM"))).toBe(false);
  });

  test('is of the schema, and tells each bar and whether it was met', () => {
    expect(startResultSchema().parse(result)).toEqual(result);
    const bars = startTables(result).at(-1)!;
    expect(bars.rows.map((r) => r.at(-1))).toEqual(['met', 'met', 'met']);
    const worse = { ...result, summary: { ...result.summary, meanReduction: 0.2, unusedShare: 0.06 } };
    expect(
      startTables(worse)
        .at(-1)!
        .rows.map((r) => r.at(-1)),
    ).toEqual(['NOT MET', 'met', 'NOT MET']);
  });

  test('is of several runs as of one', () => {
    const part = (image: string): StartResult => {
      const [own, pages] = [samples.filter((s) => s.image === image), exact.filter((e) => e.image === image)];
      return {
        ...result,
        samples: own,
        exact: pages,
        summary: summarizeStarts(own, pages),
        parameters: { ...result.parameters, images: [image], rounds: image === 'bash' ? 2 : 1 },
      };
    };
    const parts = ['bash', 'node', 'redis-snapshot'].map(part);
    const joined = joinStarts(parts);
    expect(joined.summary).toEqual(result.summary);
    expect(joined.parameters).toMatchObject({ images: ['bash', 'node', 'redis-snapshot'], rounds: 1 });
    const again = joinStarts([parts[0]!, parts[1]!, parts[1]!]);
    expect(again.parameters.rounds).toBe(2);
    expect(again.samples.filter((s) => s.image === 'node').map((s) => s.round)).toEqual([0, 0, 1, 1]);
    const other = { ...parts[1]!, environment: { ...result.environment, l0Kernel: 'other' } };
    expect(() => joinStarts([parts[0]!, other])).toThrow(/on one machine expected/);
  });

  test('is one page without external assets', () => {
    const html = startReport(result);
    expect(html).toMatch(/^<!doctype html>/);
    expect(html).toContain('redis-snapshot');
    expect(html).not.toMatch(/src=|href=/);
  });
});
