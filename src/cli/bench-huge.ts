/** `hyperturtle bench huge`: 2 MiB pages in L1, vanilla and accelerated. */
import type { Command } from 'commander';
import { HUGE_VARIANTS, hugeRatio } from '../bench/huge.ts';
import type { HugeResult } from '../bench/huge.ts';
import { formatTable } from '../report/table.ts';
import { inLab, labOptions } from './bench-lab.ts';
import type { LabOptions } from './bench-lab.ts';
import { integer } from './values.ts';

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
  const { runHugeBench } = await import('../bench/huge.ts');
  const { rounds, mib, l2Mem: l2MemoryMib } = o;
  const report = await inLab(o, ({ lab, progress, signal }) =>
    runHugeBench(lab, { rounds, mib, l2MemoryMib, arenaMib: ARENA_MIB, version, progress, signal }),
  );
  process.stdout.write(`${hugeTable(report)}\n`);
}

export function hugeTable(r: HugeResult): string {
  const all = (of: (s: HugeResult['samples'][number]) => string): string[] =>
    HUGE_VARIANTS.map((v) =>
      r.samples
        .filter((s) => s.variant === v)
        .map(of)
        .join(', '),
    );
  const times = (n: number): string => `${n.toFixed(2)}x`;
  return formatTable({
    title: `2 MiB pages: ${r.parameters.pages} pages touched once each, boots of ${r.parameters.l2MemoryMib} MiB; all rounds, ratio of medians`,
    head: ['', ...HUGE_VARIANTS, 'vanilla / accelerated'],
    rows: [
      ['touches, ms', ...all((s) => (s.touchNs / 1e6).toFixed(1)), times(hugeRatio(r, (s) => s.touchNs))],
      ['faults of L2', ...all((s) => String(s.touchFaults)), ''],
      ['of these to L1', ...all((s) => String(s.touchFaultsToL1)), ''],
      ['boot, s', ...all((s) => (s.bootMs / 1000).toFixed(2)), times(hugeRatio(r, (s) => s.bootMs))],
      ['faults of L2', ...all((s) => String(s.bootFaults)), ''],
      ['of these to L1', ...all((s) => String(s.bootFaultsToL1)), ''],
    ],
  });
}
