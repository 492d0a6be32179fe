/** `hyperturtle bench huge`: 2 MiB pages in L1, vanilla and accelerated. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { inLab, labOptions } from '../shared/in-lab.ts';
import type { LabOptions } from '../shared/in-lab.ts';
import { integer } from '../shared/values.ts';

interface HugeOptions extends LabOptions {
  rounds: number;
  mib: number;
  l2Mem: number;
}

const ARENA_MIB = 16;

export function registerHugeBench(bench: Command, version: string): void {
  labOptions(
    bench
      .command('huge')
      .description('2 MiB pages in L1: first touches and boots of L2, on hugetlbfs and accelerated'),
  )
    .option('--rounds <number>', 'variants take turns in each', integer('--rounds', 1, 100), 3)
    .option('--mib <number>', 'memory to touch', integer('--mib', 4, 256), 64)
    .option('--l2-mem <MiB>', 'memory of the L2 that boots', integer('--l2-mem', 64, 448), 128)
    .action((o: HugeOptions) => measure(o, version));
}

async function measure(o: HugeOptions, version: string): Promise<void> {
  const [{ runHugeBench }, { hugeTable }] = await Promise.all([
    import('../../bench/huge/run.ts'),
    import('../../report/huge.ts'),
  ]);
  const { rounds, mib, l2Mem: l2MemoryMib } = o;
  const report = await inLab(o, ({ lab, progress, signal }) =>
    runHugeBench(lab, { rounds, mib, l2MemoryMib, arenaMib: ARENA_MIB, version, progress, signal }),
  );
  writeOut(`${hugeTable(report)}\n`);
}
