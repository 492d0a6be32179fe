/** `bench huge` as a table. */
import { HUGE_VARIANTS, hugeRatio } from '../bench/huge/run.ts';
import type { HugeResult } from '../bench/huge/run.ts';
import { formatTable } from './table.ts';

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
