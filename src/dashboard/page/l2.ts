/** One L2, as its L1 tells it. */
import type { Vm } from '../model.ts';
import { bands, meter } from './charts.ts';
import { h, stranger } from './dom.ts';
import type { Child } from './dom.ts';
import { flameSection } from './flame.ts';
import { bytes, count, rate, share, since } from './format.ts';
import { empty, note, section, table, tiles } from './parts.ts';
import { hashOf } from './routes.ts';
import { l2Key } from './vm.ts';
import type { Showing } from './vm.ts';

const PAGE_BYTES = 4096;

type L2 = NonNullable<Vm['l1']>['l2s'][number];

export function l2View(vm: Vm, pid: number, { history, intervalS, flames, zoom }: Showing): Child {
  const l2 = vm.l1?.l2s.find((l) => l.pid === pid);
  const back = h('a', { href: hashOf({ at: 'vm', vm: vm.name }) }, stranger(vm.name));
  if (!l2 || !vm.l1)
    return [header(`process ${pid}`), empty('This nested guest is not there any more. Its L1: ', back, '.')];
  const key = l2Key(vm, l2);
  return [
    header(
      stranger(l2.name),
      h(
        'p',
        { class: 'facts' },
        'nested guest of ',
        back,
        ` · process ${l2.pid} in L1 · registered for ${since(l2.since, Date.parse(vm.l1.at))}`,
      ),
    ),
    l2.noIndex !== undefined && h('div', { class: 'problem' }, h('p', {}, stranger(l2.noIndex, 'said'))),
    figureTiles(l2, history.rate(key)),
    section(
      'rates',
      'Faults, per second',
      bands([{ name: 'Faults', cls: 'l0', values: history.rates(key) }], intervalS),
    ),
    flameSection(l2, flames.get(key), zoom),
    mappedSection(l2, vm.l1.at),
  ];
}

function header(name: Child, ...facts: Child[]): Child {
  return h(
    'header',
    { class: 'head' },
    h('h1', { tabindex: -1 }, h('span', { class: 'tag' }, 'L2'), name),
    ...facts,
  );
}

function figureTiles(l2: L2, faultsPerS: number | undefined): Child {
  return tiles([
    {
      name: 'Faults answered in L0',
      value: share(l2.faults - l2.passes, l2.faults),
      under: `${count(l2.passes)} of ${count(l2.faults)} reached L1`,
    },
    { name: 'Faults a second', value: rate(faultsPerS), under: 'asked of the program' },
    {
      name: 'Frames from programs',
      value: bytes(l2.framesTaken * PAGE_BYTES),
      under: meter(l2.framesTaken, l2.pages),
    },
    { name: 'RAM', value: bytes(l2.pages * PAGE_BYTES), under: `${count(l2.pages)} pages` },
  ]);
}

/** `at`: when the agent in L1 told it. */
function mappedSection(l2: L2, at: string): Child {
  const mapped = l2.mappedNew + l2.mappedExisting + l2.mappedAhead;
  const ways = [
    ['New frame from the pool', l2.mappedNew],
    ['Frame that was there already', l2.mappedExisting],
    ['Ahead of the fault, with its group', l2.mappedAhead],
  ] as const;
  return section(
    'pages',
    'Pages mapped',
    table(
      'Pages mapped by the program',
      [
        { head: 'How' },
        { head: 'Pages', number: true },
        { head: 'Share', number: true },
        { head: '', cls: 'chart' },
      ],
      ways.map(([name, n]) => ({ key: name, cells: [name, count(n), share(n, mapped), meter(n, mapped)] })),
    ),
    note(
      'As the agent in L1 told it at ',
      new Date(at).toLocaleTimeString('en-GB'),
      '. Nothing in L0 is decided by it.',
    ),
  );
}
