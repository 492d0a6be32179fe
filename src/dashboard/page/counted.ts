/** Which counters of a VM are remembered from look to look, and when they are others. */
import type { HookRow, Vm } from '../model.ts';
import type { History } from './history.ts';

/** Counters begin at 0 with the VM's process, and whenever a daemon attaches it: then they are others. */
const keyOfVm = (vm: Vm): string => [vm.name, vm.pid ?? 0, vm.countedSince ?? ''].join('\u0000');
export const keyOfTotal = (vm: Vm, what: 'inL0' | 'toL1'): string => `${keyOfVm(vm)} ${what}`;
/** Counters of one row, over looks. A link has its own. */
export const keyOf = (vm: Vm, row: HookRow): string =>
  [keyOfVm(vm), row.hook, row.target ?? '', row.link ?? ''].join('\u0000');

export function remember(history: History, atMs: number, vms: readonly Vm[]): void {
  for (const vm of vms) {
    for (const row of vm.stats) {
      const key = keyOf(vm, row);
      for (const field of ['runs', 'handled', 'entries'] as const)
        history.add(`${key} ${field}`, atMs, row[field]);
      for (const [name, n] of row.why) history.add(`${key} why ${name}`, atMs, n);
      for (const [kind, c] of Object.entries(row.exits ?? {}))
        history.add(`${key} exit ${kind}`, atMs, c.seen);
    }
    for (const what of ['inL0', 'toL1'] as const) history.add(keyOfTotal(vm, what), atMs, vm.totals[what]);
  }
}
