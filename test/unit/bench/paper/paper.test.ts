/** The paper's figures beside ours: the table is whole, its document agrees, and a report says what was not measured. */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { PAPER_BENCHES } from '../../../../src/bench/paper/benches.ts';
import { PAPER_FIGURES, gain, paperGain } from '../../../../src/bench/paper/figures.ts';
import type { PaperRun } from '../../../../src/bench/paper/benches.ts';
import { register } from '../../../../src/cli/bench/command.ts';
import { paperReport, paperRows } from '../../../../src/report/paper.ts';
import { exampleResult } from '../../../support/bench-samples.ts';

const doc = readFileSync('docs/reproduction.md', 'utf8');
const [all] = PAPER_BENCHES;

const run = (values: PaperRun['values'], problem: string | null = null): PaperRun => ({
  bench: 'all',
  command: 'hyperturtle bench all',
  seconds: 1,
  about: 'here',
  problem,
  values,
});

describe('the table', () => {
  it('has each figure once, and each bench is a command that takes its arguments', () => {
    expect(new Set(PAPER_FIGURES.map((f) => f.id)).size).toBe(PAPER_FIGURES.length);
    const program = new Command();
    register(program, '0');
    const benches = program.commands.find((c) => c.name() === 'bench')?.commands ?? [];
    for (const bench of PAPER_BENCHES) {
      const command = benches.find((c) => c.name() === bench.name);
      const options = command?.options.map((o) => o.long) ?? [];
      for (const word of [...bench.args, ...bench.quickArgs, '--json'].filter((a) => a.startsWith('--')))
        expect(options).toContain(word);
      if (bench.report) expect(options).toContain('--report');
    }
    for (const f of PAPER_FIGURES)
      if (f.bench !== undefined) expect(PAPER_BENCHES.map((b) => b.name)).toContain(f.bench);
  });

  it('is what docs/reproduction.md says, with the paper’s numbers', () => {
    for (const f of PAPER_FIGURES) {
      const row = doc.split('\n').find((l) => l.startsWith(`| \`${f.id}\``));
      expect(row, f.id).toBeDefined();
      for (const n of Object.values(f.paper ?? {}))
        expect(row, f.id).toMatch(new RegExp(`\\b${String(n).replace('.', '\\.')}`));
      if (f.bench !== undefined) expect(row, f.id).toMatch(/`bench |the same/);
    }
  });

  it('gives the paper’s own factors', () => {
    const of = (id: string): number => paperGain(PAPER_FIGURES.find((f) => f.id === id)!) ?? 0;
    expect(of('fault')).toBeCloseTo(28.39 / 5.39);
    expect(of('throughput')).toBeCloseTo(17.3 / 12.1);
    expect(of('snapshot')).toBeCloseTo(1 / 0.45);
    expect(paperGain(PAPER_FIGURES.find((f) => f.id === 'cpuid')!)).toBeUndefined();
  });
});

describe('our figures', () => {
  it('are read from the result of a bench', () => {
    const result = exampleResult();
    const values = all?.figures(JSON.parse(JSON.stringify(result))) ?? {};
    const fault = PAPER_FIGURES.find((f) => f.id === 'fault')!;
    expect(gain(fault, values['fault'])).toBeCloseTo(result.summary.firstTouchSpeedup ?? 0);
    expect(values['switches']?.nested).toBeCloseTo(result.summary.switchesPerPageVanilla ?? 0);
    expect(() => all?.figures({ schema: 99 })).toThrow();
  });

  it('of packets, samples and exits are read from their benches, and what was not measured is left out', () => {
    const of = (name: string) => PAPER_BENCHES.find((b) => b.name === name)!;
    const environment = exampleResult().environment;
    const counters = { exits: 1, nestedRuns: 1, l2ExitsByCause: {}, reflectedByCause: {} };
    const sampled = (profiler: string, hz: number, workNs: number) => ({
      profiler,
      hz,
      workNs,
      round: 0,
      emulatorCpuSeconds: 1,
      samples: hz === 0 ? 0 : 10,
      hookNs: null,
      counters,
    });
    const profile = {
      benchmark: 'profile',
      environment,
      parameters: { rates: [99, 999], rounds: 1, workRounds: 5, profilers: ['l0', 'l1'] },
      samples: [sampled('none', 0, 1e9), sampled('l0', 999, 1.001e9), sampled('l1', 999, 1.01e9)],
    };
    expect(of('profile').figures(profile)['sample']).toMatchObject({ nested: 1000, accelerated: 100 });
    expect(of('profile').about(profile)).toContain('99, 999 Hz');

    const loop = (variant: string, ticks: number) => ({
      variant,
      instruction: 'cpuid',
      round: 0,
      ticks,
    });
    const exit = {
      benchmark: 'exit',
      environment,
      reflected: { vanilla: {}, accelerated: {} },
      parameters: { rounds: 1, exits: 10, l1MemoryMib: 2048, l1Cpus: 1 },
      samples: [loop('vanilla', 50_000), loop('accelerated', 10_000)],
    };
    expect(of('exit').figures(exit)['cpuid']).toEqual({ nested: 5, accelerated: 1, direct: undefined });
    expect(of('exit').figures({ ...exit, samples: exit.samples.slice(0, 1) })).toEqual({});
    const boot = (variant: string, bootMs: number) => ({
      variant,
      bootMs,
      round: 0,
      touchNs: 1,
      touchFaults: 1,
      touchFaultsToL1: 1,
      bootFaults: 1,
      bootFaultsToL1: 1,
    });
    const huge = {
      benchmark: 'huge',
      environment,
      parameters: {
        rounds: 1,
        pages: 512,
        frames: 8,
        l1MemoryMib: 2048,
        l1Cpus: 1,
        l2MemoryMib: 128,
        l2KernelArguments: '',
      },
      samples: [boot('vanilla', 4000), boot('accelerated', 2000)],
    };
    expect(of('huge').figures(huge)).toEqual({
      'start-huge': { nested: 4, accelerated: 2, direct: undefined },
    });
    for (const name of ['net', 'start', 'profile', 'exit', 'huge'])
      expect(() => of(name).figures({ schema: 99 })).toThrow();
  });

  it('stand beside the paper’s in one report, in which nothing is invented', () => {
    const html = paperReport(
      [run({ fault: { nested: 100, accelerated: 5, direct: 4 } })],
      '2026-11-24T00:00:00Z',
    );
    expect(html).toContain('1 of ');
    expect(html).toContain('ours 20×');
    expect(html).toContain('ours: not measured');
    expect(html).not.toMatch(/NaN|undefined|https?:/);
    expect(paperRows([]).every((r) => r.gain === undefined)).toBe(true);
  });

  it('of a bench that failed are its problem, as text', () => {
    const html = paperReport([run({}, '<b>no lab</b>')], 'now');
    expect(html).toContain('&lt;b&gt;no lab&lt;/b&gt;');
    expect(html).toContain('0 of ');
  });
});
