/**
 * `hyperturtle demo`: what a new user runs first. A short form of `bench all` in one lab, which counts instructions in place of
 * time: in real time a slow laptop spends so much of itself on three kernels' ticks that a vanilla L2 does not boot in minutes.
 */
import type { Command } from 'commander';
import { ARENA_MIB, runAndReport } from './command.ts';
import { kernelOption } from '../shared/kernel-option.ts';

/** Fewer pages than a benchmark, but every one of them a real first touch, and two interleaved rounds. */
const TOUCH_MIB = 8;
const ROUNDS = 2;
/** The demo promises to be over in five minutes where it was set up before. */
const BUDGET_MS = 230_000;

export function register(program: Command, version: string): void {
  program
    .command('demo')
    .description(
      'build a small nested cloud, measure it without and with the hyperupcall, show the difference',
    )
    .addOption(kernelOption('kernel of all levels'))
    .option('--report <file>', 'where to write the report', 'report.html')
    .option('--json <file>', 'write the result with all raw samples')
    .action((o: { kernel: string; report: string; json?: string }) => demo(o, version));
}

async function demo(o: { kernel: string; report: string; json?: string }, version: string): Promise<void> {
  const { l2MemoryFor } = await import('../../bench/first-touch/touch.ts');
  await runAndReport(
    {
      benchmark: 'demo',
      touchMib: TOUCH_MIB,
      rounds: ROUNDS,
      variants: ['l1', 'l2-vanilla', 'l2-thp', 'l2-group1', 'l2-default'],
      patterns: ['seq', 'scattered'],
      notNested: true,
      bootOnly: false,
      l2MemoryMib: l2MemoryFor(TOUCH_MIB),
      arenaMib: ARENA_MIB,
      largeFrames: 0,
      machine: 'pc',
      budgetMs: BUDGET_MS,
    },
    { ...o, accel: 'tcg', clock: 'instructions', l1Memory: 2048, l1Cpus: 1 },
    version,
  );
}
