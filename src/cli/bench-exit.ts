/** `hyperturtle bench exit`: what an exit costs that L1 answers, and the same answered in L0. */
import type { Command } from 'commander';
import { ticksPerExit } from '../bench/exit.ts';
import type { ExitResult, ExitVariant } from '../bench/exit.ts';
import { formatTable } from '../report/table.ts';
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
  const { runExitBench } = await import('../bench/exit.ts');
  const { rounds, exits } = o;
  const report = await inLab(o, ({ lab, progress, signal }) =>
    runExitBench(lab, { rounds, exits, arenaMib: ARENA_MIB, version, progress, signal }),
  );
  process.stdout.write(`${exitTable(report)}\n`);
}

export function exitTable(r: ExitResult): string {
  const { rounds, exits } = r.parameters;
  return formatTable({
    title: `Exits answered: ticks of the guest's TSC for one, median of ${rounds} rounds of ${exits}`,
    head: ['', 'vanilla', 'accelerated', 'L1 itself', 'faster', 'L1 entered: vanilla', 'accelerated'],
    rows: (['cpuid', 'rdmsr'] as const).map((instruction) => {
      const t = (v: ExitVariant): number => ticksPerExit(r, v, instruction);
      const cause = instruction === 'cpuid' ? 'cpuid' : 'msr';
      return [
        instruction.toUpperCase(),
        ...[t('vanilla'), t('accelerated'), t('l1')].map((x) => x.toFixed(0)),
        `${(t('vanilla') / t('accelerated')).toFixed(1)}x`,
        String(r.reflected.vanilla[cause] ?? 0),
        String(r.reflected.accelerated[cause] ?? 0),
      ];
    }),
  });
}
