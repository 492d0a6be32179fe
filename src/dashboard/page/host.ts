/** The host as a whole: its daemon, all L1s, what is wrong. */
import type { State, Vm } from '../model.ts';
import { meter, spark } from './charts.ts';
import { h, stranger } from './dom.ts';
import type { Child } from './dom.ts';
import { eventsSection } from './events.ts';
import { bytes, count, plural, rate, share, since } from './format.ts';
import { keyOfTotal } from './counted.ts';
import { ANSWERED, ENTERED } from './hooks.ts';
import { badge, empty, section, table, tiles } from './parts.ts';
import { hashOf } from './routes.ts';
import { stateOf } from './tree.ts';
import { totalTiles } from './vm.ts';
import type { Showing } from './vm.ts';

export function hostView({ state, history, refusalsOnly }: Showing): Child {
  const { daemon, host, vms } = state;
  if (!daemon) return null;
  const total = (of: keyof Vm['totals']): number => vms.reduce((n, v) => n + v.totals[of], 0);
  const perSecond = sumOf(vms.map((v) => history.rate(keyOfTotal(v, 'inL0'))));
  const entered = sumOf(vms.map((v) => history.rate(keyOfTotal(v, 'toL1'))));
  const l2s = vms.reduce((n, v) => n + (v.l1?.l2Count ?? 0), 0);
  return [
    h(
      'header',
      { class: 'head' },
      h('h1', { tabindex: -1 }, h('span', { class: 'tag' }, 'L0'), stranger(host.name)),
      h(
        'p',
        { class: 'facts' },
        `Linux ${host.kernel} · daemon ${daemon.version}, process ${daemon.pid}, up ${since(daemon.startedAt, Date.now())}, ${bytes(daemon.memoryBytes)}`,
      ),
    ),
    vms.length > 0 &&
      tiles([
        ...totalTiles({
          events: total('events'),
          inL0: total('inL0'),
          there: total('there'),
          toL1: total('toL1'),
        }),
        { name: 'Answered a second', value: rate(perSecond), under: `${rate(entered)} reached L1` },
        {
          name: 'Guest hypervisors',
          value: `${count(daemon.attached)} of ${count(daemon.vms)}`,
          under: 'attached',
        },
        { name: 'Nested guests', value: count(l2s), under: 'registered' },
      ]),
    vmSection(vms, history),
    findings(state),
    vms.length > 0 && eventsSection(state.events, { ofAll: true, refusalsOnly }),
    section(
      'loader',
      'Loader',
      tiles([
        {
          name: 'Objects loaded',
          value: count(daemon.loader.loads),
          under: `${plural(daemon.loader.workers, 'worker')}, ${count(daemon.loader.busy)} busy`,
        },
        { name: 'Waiting', value: count(daemon.loader.waiting) },
        { name: 'Ended for time', value: count(daemon.loader.killed) },
        { name: 'Crashed', value: count(daemon.loader.crashed) },
      ]),
    ),
  ];
}

function sumOf(rates: readonly (number | undefined)[]): number | undefined {
  return rates.every((r) => r === undefined) ? undefined : rates.reduce<number>((n, r) => n + (r ?? 0), 0);
}

function vmSection(vms: readonly Vm[], history: Showing['history']): HTMLElement {
  return section(
    'vms',
    'Guest hypervisors',
    vms.length === 0
      ? empty(
          'No VMs yet. Write some into the daemon’s configuration, or add one that runs: ',
          h('code', {}, 'hyperturtle host vm add NAME --qmp SOCKET'),
        )
      : table(
          'Guest hypervisors',
          [
            { head: 'L1' },
            { head: 'State' },
            { head: 'L2s', number: true },
            { head: 'Links', number: true },
            { head: 'Answered/s', number: true },
            { head: '', cls: 'chart' },
            { head: `${ENTERED}/s`, number: true },
            { head: ENTERED, number: true },
            { head: '', cls: 'chart' },
          ],
          vms.map((vm) => {
            const { events, toL1 } = vm.totals;
            const { text, cls } = stateOf(vm);
            return {
              key: vm.name,
              cells: [
                h('a', { href: hashOf({ at: 'vm', vm: vm.name }) }, stranger(vm.name)),
                badge(text, cls),
                vm.l1 ? count(vm.l1.l2Count) : '–',
                count(vm.links.length),
                rate(history.rate(keyOfTotal(vm, 'inL0'))),
                spark(history.rates(keyOfTotal(vm, 'inL0')), ANSWERED),
                rate(history.rate(keyOfTotal(vm, 'toL1'))),
                share(toL1, events),
                meter(toL1, events, 'l1'),
              ],
            };
          }),
        ),
  );
}

function findings({ findings: all }: State): HTMLElement {
  const wrong = all.filter((f) => f.level !== 'ok');
  return section(
    'doctor',
    'Doctor',
    wrong.length === 0
      ? empty(all.length === 0 ? 'Nothing looked at yet.' : `${plural(all.length, 'check')}, nothing wrong.`)
      : h(
          'ul',
          { class: 'findings' },
          wrong.map((f) =>
            h(
              'li',
              { 'data-key': f.what },
              badge(f.level === 'fail' ? 'failed' : 'warning', f.level === 'fail' ? 'bad' : 'wait'),
              h(
                'div',
                {},
                h('p', {}, stranger(f.what, 'said')),
                f.mend !== undefined && h('p', { class: 'fix' }, stranger(f.mend, 'said')),
              ),
            ),
          ),
        ),
  );
}
