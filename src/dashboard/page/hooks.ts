/** What the hooks of a VM did: whatever hooks the daemon reports, in its words. */
import type { HookRow, Vm } from '../model.ts';
import { bands, meter, spark } from './charts.ts';
import { h, stranger } from './dom.ts';
import type { Child } from './dom.ts';
import { count, duration, rate, share } from './format.ts';
import { keyOf, keyOfTotal } from './counted.ts';
import type { History } from './history.ts';
import { empty, legend, note, section, table } from './parts.ts';

export const ANSWERED = 'Answered in L0';
export const THERE = 'Already there';
export const ENTERED = 'Reached L1';

const ofVcpu = (vm: Vm): HookRow[] => vm.stats.filter((r) => r.target === undefined);
export function rateSection(vm: Vm, history: History, intervalS: number): HTMLElement {
  return section(
    'rates',
    'Events of nested guests, per second',
    bands(
      [
        // at the bottom, where little is seen best
        { name: ENTERED, cls: 'l1', values: history.rates(keyOfTotal(vm, 'toL1')) },
        { name: ANSWERED, cls: 'l0', values: history.rates(keyOfTotal(vm, 'inL0')) },
      ],
      intervalS,
    ),
    legend([
      { name: `${ANSWERED}, without entering L1`, cls: 'l0' },
      { name: ENTERED, cls: 'l1' },
    ]),
  );
}

export function hooksSection(vm: Vm, purposes: ReadonlyMap<string, string>, history: History): HTMLElement {
  const rows = ofVcpu(vm);
  return section(
    'hooks',
    'Hooks',
    rows.length === 0
      ? empty('No hook reports anything: the VM is not attached.')
      : table(
          'Hooks of exits and what they did',
          [
            { head: 'Hook' },
            { head: 'Program' },
            { head: 'Events/s', number: true },
            { head: '', cls: 'chart' },
            { head: 'Events', number: true },
            { head: ANSWERED, number: true },
            { head: THERE, number: true },
            { head: ENTERED, number: true },
            { head: '', cls: 'chart' },
            { head: 'Entries written', number: true },
          ],
          rows.map((r) => {
            const key = keyOf(vm, r);
            return {
              key,
              cells: [
                h('span', { title: purposes.get(r.hook) ?? null }, r.hook),
                program(r),
                rate(history.rate(`${key} runs`)),
                spark(history.rates(`${key} runs`), `Events of ${r.hook}`),
                count(r.runs),
                r.answersForL1 ? share(r.handled, r.runs) : '–',
                r.hook === 'npf' ? share(r.there, r.runs) : '–',
                r.answersForL1 ? share(r.toL1, r.runs) : '–',
                r.answersForL1 ? meter(r.toL1, r.runs, 'l1') : null,
                count(r.entries),
              ],
            };
          }),
        ),
  );
}

function program(r: HookRow): Child {
  if (!r.linked) return h('span', { class: 'off' }, 'none linked');
  return r.object === undefined
    ? 'linked'
    : [stranger(r.object), h('span', { class: 'said' }, ` ${r.program ?? ''}`)];
}

/** Where the hook tells them apart: what a nested guest exited for, and who had it for how long. */
export function exitsSection(vm: Vm, history: History): HTMLElement | null {
  const rows = ofVcpu(vm).flatMap((r) =>
    Object.entries(r.exits ?? {}).map(([kind, c]) => ({ kind, c, key: `${keyOf(vm, r)} exit ${kind}` })),
  );
  if (rows.length === 0) return null;
  rows.sort((a, b) => b.c.seen - a.c.seen);
  return section(
    'exits',
    'Exits by cause',
    table(
      'Exits of nested guests by cause',
      [
        { head: 'Exit' },
        { head: 'Per second', number: true },
        { head: '', cls: 'chart' },
        { head: 'In all', number: true },
        { head: ANSWERED, number: true },
        { head: '', cls: 'chart' },
        { head: 'Mean in L0', number: true },
        { head: 'Mean in L1', number: true },
      ],
      rows.map(({ kind, c, key }) => ({
        key,
        cells: [
          h('code', {}, kind),
          rate(history.rate(key)),
          spark(history.rates(key), `Exits by ${kind}`),
          count(c.seen),
          share(c.handled, c.seen),
          meter(c.handled, c.seen),
          mean(c.l0Ns, c.handled),
          mean(c.l1Ns, c.returned),
        ],
      })),
    ),
    note(
      'Mean in L0: of those answered there. Mean in L1: from entering L1 until it resumed the nested guest.',
    ),
  );
}

function mean(ns: number, of: number): string {
  return of > 0 ? duration(ns / of) : '–';
}

/** In words for people; reasons that are not here are shown by their names alone. */
const MEANING: ReadonlyMap<string, string> = new Map(
  Object.entries({
    POOL_EMPTY: 'the pool had no frame: raise it with guest set --pool-high',
    NO_TEMPLATE: 'first faults of a nested guest: flags are not learned yet',
    NO_L2: 'no registered nested guest runs on this vCPU',
    L2_OFF: 'a nested guest that is off: slots that KVM logs, or changing ones',
    NO_SLOT: 'not RAM of the nested guest: devices, firmware',
    NO_TABLE: 'L1 has to make a table page first: one fault in 512',
    OTHER_ROOT: 'a guest of another hypervisor in L1 than KVM',
    SMALL: 'no 2 MiB page there: L1 has to make a table page first',
    LARGE_LEAF: 'L1 uses a large page there',
    DISABLED: 'switched off in L1',
    LIMIT: 'the nested guest has as many frames as it may',
    LOST: 'L1 was quicker',
    RACE: 'others changed the word again and again',
    NO_ARENA: 'no arena is bound',
    CLOSED: 'the nested guest is being unregistered',
    MISS: 'the program has no answer for this one',
    COUNTED: 'the program only counts these',
    NOT_OURS: 'not of a kind that the program answers',
    EVENT: 'an event for the nested guest was under way',
    STRING_IO: 'string input or output',
    DEBUG: 'the nested guest is being debugged',
  }),
);

/** Why events went to L1, for each hook that says so. */
export function reasonsSection(vm: Vm, history: History): HTMLElement | null {
  const rows = ofVcpu(vm).flatMap((r) =>
    r.why.map(([name, n]) => ({ r, name, n, key: `${keyOf(vm, r)} why ${name}` })),
  );
  if (rows.length === 0) return null;
  rows.sort((a, b) => a.r.hook.localeCompare(b.r.hook) || b.n - a.n);
  const most = Math.max(...rows.map((x) => x.n));
  return section(
    'reasons',
    'Why L1 was entered',
    table(
      'Reasons by hook',
      [
        { head: 'Reason' },
        { head: 'Hook' },
        { head: 'Per second', number: true },
        { head: 'In all', number: true },
        { head: '', cls: 'chart' },
        { head: 'What it means', cls: 'wide' },
      ],
      rows.map(({ r, name, n, key }) => ({
        key,
        cells: [
          h('code', {}, name),
          r.hook,
          rate(history.rate(key)),
          count(n),
          meter(n, most, 'l1'),
          h('span', { class: 'said' }, MEANING.get(name) ?? ''),
        ],
      })),
    ),
    note(
      `Why a program was not asked or did not answer, as the hook counts it. Faults that were ${THERE.toLowerCase()} are not among them: L1’s table had the entry, and L0 went on alone.`,
    ),
  );
}
