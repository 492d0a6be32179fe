/** `bench call` as a table. */
import { timeOf } from '../bench/call/run.ts';
import type { CallResult, CallVariant } from '../bench/call/run.ts';
import { formatTable } from './table.ts';

const ROWS: readonly [CallVariant, what: string, against: CallVariant][] = [
  ['l1-plain', 'L1, answered by KVM', 'l1-plain'],
  ['l1-call', 'L1, answered by its program', 'l1-plain'],
  ['channel', 'L1 by the channel', 'l1-plain'],
  ['guest-plain', 'a guest as an L1, answered by KVM', 'guest-plain'],
  ['l2-plain', 'L2, answered by L1', 'guest-plain'],
  ['l2-call', 'L2, answered by the program', 'guest-plain'],
];

export function callTable(r: CallResult): string {
  const { rounds, calls } = r.parameters;
  return formatTable({
    title: `Calls: ns of L1's clock or ticks of the guest's TSC for one, median of ${rounds} rounds of ${calls}, L1's of ten times as many`,
    head: ['hypercall of', 'one', 'unit', 'of a plain one', 'L1 entered'],
    rows: ROWS.flatMap(([variant, what, against]) => {
      const time = timeOf(r, variant);
      if (time === undefined) return [];
      const entered = variant === 'l2-plain' || variant === 'l2-call' ? String(r.reflected[variant]) : '-';
      const plain = timeOf(r, against) ?? time;
      const unit = against === 'l1-plain' ? 'ns' : 'ticks';
      return [[what, time.toFixed(0), unit, `${(time / plain).toFixed(2)}x`, entered]];
    }),
  });
}
