/** `hyperturtle bench exit`: what an exit costs that L1 answers, and the same answered in L0. */
import type { Command } from 'commander';
import { inLab, labOptions } from './bench-lab.ts';
import type { LabOptions } from './bench-lab.ts';
import { integer } from './values.ts';

interface ExitOptions extends LabOptions {
  rounds: number;
  exits: number;
}

const ARENA_MIB = 16;

export function registerExitBench(bench: Command, version: string): void {
  labOptions(
    bench
      .command('exit')
      .description('CPUID and RDMSR of an L2: vanilla, answered in L0, and as L1 itself has them'),
  )
    .option('--rounds <number>', 'variants take turns in each', integer('--rounds', 1, 100), 5)
    .option('--exits <number>', 'of one loop', integer('--exits', 1, 1_000_000), 2000)
    .action((o: ExitOptions) => measure(o, version));
}

async function measure(o: ExitOptions, version: string): Promise<void> {
  const [{ runExitBench }, { exitTable }] = await Promise.all([
    import('../bench/exit.ts'),
    import('../report/exit.ts'),
  ]);
  const { rounds, exits } = o;
  const report = await inLab(o, ({ lab, progress, signal }) =>
    runExitBench(lab, { rounds, exits, arenaMib: ARENA_MIB, version, progress, signal }),
  );
  process.stdout.write(`${exitTable(report)}\n`);
}
