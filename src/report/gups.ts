/** `bench gups` as a table. */
import { GUPS_VARIANTS, fillTime, updateRate } from '../bench/gups/run.ts';
import type { GupsResult, GupsVariant } from '../bench/gups/run.ts';
import { formatTable } from './table.ts';

const NAMES: Readonly<Record<GupsVariant, string>> = {
  l1: 'L1',
  vanilla: 'L2, vanilla',
  accelerated: 'L2, accelerated',
};

export function gupsTable(r: GupsResult): string {
  const { rounds, mib, updates } = r.parameters;
  const vanilla = updateRate(r, 'vanilla');
  return formatTable({
    title: `Random updates of ${mib} MiB, median of ${rounds} rounds of twice ${updates}; filling it is its first touches`,
    head: ['where', 'M updates/s', 'of vanilla', 'fill, ms'],
    rows: GUPS_VARIANTS.flatMap((variant) => {
      const rate = updateRate(r, variant);
      const fill = fillTime(r, variant);
      if (rate === undefined || fill === undefined) return [];
      const factor = vanilla === undefined ? '-' : `${(rate / vanilla).toFixed(2)}x`;
      return [[NAMES[variant], rate.toFixed(2), factor, fill.toFixed(0)]];
    }),
  });
}
