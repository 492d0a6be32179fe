/** `bench exit` as a table. */
import { ticksPerExit } from '../bench/exits/run.ts';
import type { ExitResult, ExitVariant } from '../bench/exits/run.ts';
import { formatTable } from './table.ts';

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
