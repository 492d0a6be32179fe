/** `hyperturtle bench gups`: random updates of memory, in L1 and in L2, vanilla and accelerated. */
import type { Command } from 'commander';
import { HyperturtleError } from '../../core/errors.ts';
import { writeOut } from '../../core/output.ts';
import { inLab, labOptions } from '../shared/in-lab.ts';
import type { LabOptions } from '../shared/in-lab.ts';
import { integer } from '../shared/values.ts';

interface GupsOptions extends LabOptions {
  rounds: number;
  mib: number;
  updates: number;
}

const ARENA_MIB = 16;

export function registerGupsBench(bench: Command, version: string): void {
  labOptions(
    bench.command('gups').description('random updates of memory (GUPS): L1, and L2 vanilla and accelerated'),
  )
    .option('--rounds <number>', 'variants take turns in each', integer('--rounds', 1, 100), 3)
    .option('--mib <number>', 'the table; a power of two', integer('--mib', 1, 1024), 64)
    .option('--updates <number>', 'updates that one pass makes', integer('--updates', 1, 1e9), 1_000_000)
    .action((o: GupsOptions) => measure(o, version));
}

async function measure(o: GupsOptions, version: string): Promise<void> {
  const [{ runGupsBench }, { gupsTable }] = await Promise.all([
    import('../../bench/gups/run.ts'),
    import('../../report/gups.ts'),
  ]);
  const { rounds, mib, updates } = o;
  if ((mib & (mib - 1)) !== 0)
    throw new HyperturtleError('HT_USAGE', `--mib: a power of two expected, ${mib} found`);
  const result = await inLab(o, ({ lab, progress, signal }) =>
    runGupsBench(lab, { rounds, mib, updates, arenaMib: ARENA_MIB, version, progress, signal }),
  );
  writeOut(`${gupsTable(result)}\n`);
}
