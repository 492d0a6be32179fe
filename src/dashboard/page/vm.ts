/** One L1: what L0 does for it, what it has loaded, and what it says of itself. */
import type { Detail, L2, State, Traffic, Vm } from '../model.ts';
import { meter, spark } from './charts.ts';
import { keyOf, keyOfTotal } from './counted.ts';
import { h, stranger } from './dom.ts';
import type { Child } from './dom.ts';
import { eventsSection } from './events.ts';
import type { Flame } from './flame.ts';
import { bytes, count, plural, rate, share } from './format.ts';
import type { History } from './history.ts';
import {
  ANSWERED,
  ENTERED,
  THERE,
  exitsSection,
  hooksSection,
  rateSection,
  reasonsSection,
} from './hooks.ts';
import { badge, empty, note, section, table, tiles } from './parts.ts';
import type { Tile } from './parts.ts';
import { hashOf } from './routes.ts';
import { stateOf } from './tree.ts';

export interface Showing {
  state: State;
  history: History;
  intervalS: number;
  refusalsOnly: boolean;
  /** By `l2Key`. */
  flames: ReadonlyMap<string, Flame>;
  /** Key of the box that is as wide as the picture; empty: all. */
  zoom: string;
}

export function vmView(vm: Vm, { state, history, intervalS, refusalsOnly }: Showing): Child {
  const detail = state.detail?.name === vm.name ? state.detail : null;
  const purposes = new Map(detail?.hooks.map((x) => [x.name, x.purpose]));
  return [
    head(vm),
    problems(vm),
    summary(vm, history),
    rateSection(vm, history, intervalS),
    hooksSection(vm, purposes, history),
    exitsSection(vm, history),
    reasonsSection(vm, history),
    l2Section(vm, history),
    poolSection(vm),
    nicSection(vm, detail?.traffic ?? [], history),
    objectSection(vm, detail),
    quotaSection(vm, detail),
    eventsSection(state.events, { ofAll: false, refusalsOnly }),
  ];
}

function head(vm: Vm): Child {
  const { text, cls } = stateOf(vm);
  const agent = vm.agent.hello;
  const facts = [
    vm.pid === null ? null : `QEMU process ${vm.pid}`,
    `arena ${bytes(vm.arena.bytes)} ${vm.arena.state}`,
    agent
      ? `agent ${agent.version} on Linux ${agent.kernel}`
      : vm.agent.connected
        ? 'port open, no agent yet'
        : 'no agent',
  ].filter((f) => f !== null);
  return h(
    'header',
    { class: 'head' },
    h('h1', { tabindex: -1 }, h('span', { class: 'tag' }, 'L1'), stranger(vm.name), ' ', badge(text, cls)),
    h('p', { class: 'facts' }, h('bdi', {}, facts.join(' · '))),
  );
}

function problems(vm: Vm): Child {
  const all = [vm.problem, vm.qmp.problem].filter((p) => p !== null);
  if (all.length === 0) return null;
  return h(
    'div',
    { class: 'problem' },
    all.map((p) => h('p', {}, stranger(p, 'said'))),
  );
}

/** What reached L1 over all is the figure to watch: what was there already needed nobody. */
export function totalTiles({ events, inL0, there, toL1 }: Vm['totals']): Tile[] {
  return [
    { name: ENTERED, value: share(toL1, events), under: `${count(toL1)} of ${count(events)} events` },
    {
      name: ANSWERED,
      value: share(inL0, events),
      under: `${count(inL0)} events; ${count(there)} ${THERE.toLowerCase()}`,
    },
  ];
}

function summary(vm: Vm, history: History): HTMLElement {
  return tiles([
    ...totalTiles(vm.totals),
    {
      name: 'Answered a second',
      value: rate(history.rate(keyOfTotal(vm, 'inL0'))),
      under: `${rate(history.rate(keyOfTotal(vm, 'toL1')))} reached L1`,
    },
    {
      name: 'Nested guests',
      value: vm.l1 ? count(vm.l1.l2Count) : '–',
      under: vm.l1 ? 'registered' : 'not told',
    },
    {
      name: 'Programs linked',
      value: count(vm.links.length),
      under: plural(vm.used?.objects ?? 0, 'object'),
    },
  ]);
}

function told(vm: Vm): Child {
  if (!vm.l1) return null;
  return note(
    'As the agent in L1 told it at ',
    h('time', { datetime: vm.l1.at }, new Date(vm.l1.at).toLocaleTimeString('en-GB')),
    '.',
  );
}

export const l2Key = (vm: Vm, l2: L2): string => [vm.name, 'l2', l2.pid, l2.since].join('\u0000');
const PAGE_BYTES = 4096;

function l2Section(vm: Vm, history: History): HTMLElement {
  const l2s = vm.l1?.l2s ?? [];
  return section(
    'l2s',
    'Nested guests',
    l2s.length === 0
      ? empty(
          vm.l1
            ? 'No nested guest is registered: their RAM must be files on turtlefs.'
            : 'L1’s agent has not reported any.',
        )
      : [
          table(
            'Nested guests of this L1',
            [
              { head: 'L2' },
              { head: 'Faults/s', number: true },
              { head: '', cls: 'chart' },
              { head: 'Faults', number: true },
              { head: ENTERED, number: true },
              { head: 'Frames', number: true },
              { head: 'of RAM', number: true },
              { head: '', cls: 'chart' },
            ],
            l2s.map((l2) => {
              const key = l2Key(vm, l2);
              return {
                key,
                cells: [
                  [
                    h('a', { href: hashOf({ at: 'l2', vm: vm.name, pid: l2.pid }) }, stranger(l2.name)),
                    l2.noIndex !== undefined && badge('no index', 'wait'),
                  ],
                  rate(history.rate(key)),
                  spark(history.rates(key), 'Faults'),
                  count(l2.faults),
                  count(l2.passes),
                  bytes(l2.framesTaken * PAGE_BYTES),
                  bytes(l2.pages * PAGE_BYTES),
                  meter(l2.framesTaken, l2.pages),
                ],
              };
            }),
          ),
          (vm.l1?.l2Count ?? 0) > l2s.length &&
            note(`${plural((vm.l1?.l2Count ?? 0) - l2s.length, 'more nested guest')} not shown.`),
          told(vm),
        ],
  );
}

function poolSection(vm: Vm): HTMLElement {
  const pool = vm.l1?.pool;
  return section(
    'pool',
    'Pool of L1',
    !pool
      ? empty(
          vm.l1 ? 'L1 has no guest module, or no arena is bound.' : 'L1’s agent has not reported its pool.',
        )
      : [
          tiles([
            { name: 'Frames ready', value: count(pool.level), under: meter(pool.level, pool.high) },
            {
              name: 'Kept between',
              value: `${count(pool.low)} – ${count(pool.high)}`,
              under: bytes(pool.high * PAGE_BYTES),
            },
            { name: 'Refills', value: count(pool.refills), under: `${count(pool.shrunk)} given back to L1` },
            {
              name: 'Page index',
              value: share(pool.indexUsed, pool.indexWords),
              under: `of ${plural(pool.indexWords, 'page')}`,
            },
          ]),
          !pool.enabled &&
            h('p', { class: 'problem' }, 'Programs are switched off in L1 (hyperturtle guest set).'),
          told(vm),
        ],
  );
}

function nicSection(vm: Vm, traffic: readonly Traffic[], history: History): HTMLElement | null {
  if (vm.nics.length === 0 && vm.nicMachine === null) return null;
  const programs = vm.stats.filter((r) => r.target !== undefined);
  return section(
    'nics',
    'NICs',
    vm.nics.length === 0
      ? empty('None given yet.')
      : table(
          'NICs that this L1 was given',
          [
            { head: 'NIC' },
            { head: 'Network' },
            { head: 'Device in L0' },
            { head: 'MAC' },
            { head: 'MTU', number: true },
          ],
          vm.nics.map((n) => ({
            key: n.id,
            cells: [stranger(n.id), n.network, h('code', {}, n.ifname), h('code', {}, n.mac), String(n.mtu)],
          })),
        ),
    programs.length > 0 &&
      table(
        'Programs on NICs',
        [
          { head: 'Program' },
          { head: 'NIC' },
          { head: 'Hook' },
          { head: 'Frames/s', number: true },
          { head: '', cls: 'chart' },
          { head: 'Frames', number: true },
          { head: 'Dropped', number: true },
        ],
        programs.map((r) => {
          const key = keyOf(vm, r);
          return {
            key,
            cells: [
              stranger(r.object ?? '?'),
              stranger(r.target ?? ''),
              r.hook,
              rate(history.rate(`${key} runs`)),
              spark(history.rates(`${key} runs`), 'Frames'),
              count(r.runs),
              count(r.handled),
            ],
          };
        }),
      ),
    traffic.map((t) => flows(t)),
    vm.nics.length > 0 &&
      traffic.length === 0 &&
      note('Flows are shown where L1 runs tcptop on a NIC: hyperturtle enable tcptop --nic NIC.'),
  );
}

function flows(t: Traffic): Child {
  const title = h('h3', {}, 'Flows of ', stranger(t.nic));
  if (t.problem !== null) return [title, empty('Not readable: ', stranger(t.problem, 'said'))];
  if (t.flows.length === 0) return [title, empty('No flows yet.')];
  const side = (address: string, port: number): Child =>
    h('code', {}, address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`);
  return [
    title,
    table(
      `Flows of NIC ${t.nic}`,
      [
        { head: 'Nested guest' },
        { head: 'Remote' },
        { head: 'Protocol' },
        { head: 'Out', number: true },
        { head: 'In', number: true },
        { head: 'Packets out', number: true },
        { head: 'Packets in', number: true },
      ],
      t.flows.map((f) => ({
        key: [f.protocol, f.local, f.localPort, f.remote, f.remotePort, f.firstNs].join(' '),
        cells: [
          side(f.local, f.localPort),
          side(f.remote, f.remotePort),
          f.protocol.toUpperCase(),
          bytes(f.outBytes),
          bytes(f.inBytes),
          count(f.outPackets),
          count(f.inPackets),
        ],
      })),
    ),
    t.count > t.flows.length && note(`The ${t.flows.length} busiest of ${count(t.count)}.`),
  ];
}

function objectSection(vm: Vm, detail: Detail | null): HTMLElement {
  const objects = detail?.objects ?? [];
  return section(
    'objects',
    'Objects and programs',
    objects.length === 0
      ? empty('Nothing is loaded. In L1: hyperturtle load FILE --link.')
      : table(
          'Loaded objects with their programs',
          [
            { head: 'Object' },
            { head: 'Program' },
            { head: 'Hook' },
            { head: 'Linked' },
            { head: 'Verified instructions', number: true },
            { head: 'Maps', number: true },
            { head: 'Signed by' },
            { head: 'SHA-256' },
          ],
          objects.flatMap((o) =>
            o.programs.map((p) => ({
              key: `${o.name} ${p.name} ${p.id}`,
              cells: [
                stranger(o.name),
                stranger(p.name),
                p.hook,
                vm.links.some((l) => l.object === o.name && l.program === p.name)
                  ? 'yes'
                  : h('span', { class: 'off' }, 'no'),
                count(p.verifiedInstructions),
                count(o.maps.length),
                o.signedBy ?? h('span', { class: 'off' }, 'nobody'),
                h('code', { title: o.sha256 }, `${o.sha256.slice(0, 12)}…`),
              ],
            })),
          ),
        ),
  );
}

function quotaSection(vm: Vm, detail: Detail | null): HTMLElement | null {
  const { used } = vm;
  if (!detail || !used) return null;
  const rows: [string, number, number, (n: number) => string][] = [
    ['Objects', used.objects, detail.limits.objects, count],
    ['Programs', used.programs, detail.limits.programs, count],
    ['Links', used.links, detail.limits.links, count],
    ['Maps', used.maps, detail.limits.maps, count],
    ['Memory of maps', used.mapBytes, detail.limits.mapBytes, bytes],
    ['Watches', used.watches, detail.limits.watches, count],
    ['NICs', used.nics, detail.limits.nics, count],
  ];
  return section(
    'quotas',
    'Quotas',
    table(
      'Use of quotas',
      [
        { head: 'Quota' },
        { head: 'Used', number: true },
        { head: 'of', number: true },
        { head: '', cls: 'chart' },
      ],
      rows.map(([name, part, of, f]) => ({ key: name, cells: [name, f(part), f(of), meter(part, of)] })),
    ),
    note(
      `Signatures: ${detail.signature}. One program may have ${count(detail.limits.instructions)} verified instructions.`,
    ),
  );
}
