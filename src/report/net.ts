/** Tables and HTML of `bench net`. */
import type { NetResult, NetVariantSummary, Spread } from '../bench/net/schema.ts';
import { NET_BARS } from '../bench/net/summary.ts';
import { barChart } from './charts.ts';
import { sumCounts } from '../core/counts.ts';
import { explainTable } from './explain.ts';
import { duration, number } from './format.ts';
import { htmlTable, page, parametersSection, section } from './html.ts';
import { caveat } from './sentences.ts';
import { formatTable } from './table.ts';
import type { Table } from './table.ts';
import { own } from '../core/own.ts';

const NAMES: Readonly<Record<NetVariantSummary['variant'], string>> = {
  nested: 'nested virtio',
  'nested-vhost': 'nested virtio, vhost in L1',
  direct: 'direct',
  pass: 'direct + pass',
  firewall: 'direct + firewall',
  'rate-limiter': 'direct + rate limiter',
  tcptop: 'direct + tcptop',
};

const rate = (bytes: number): string => `${number(bytes / 1e6)} MB/s`;

function netTables(r: NetResult): Table[] {
  const rows = (f: (v: NetVariantSummary) => string[]): string[][] =>
    r.summary.variants.map((v) => [NAMES[v.variant], ...f(v)]);
  return [
    {
      title: `Round trip of 1 byte by UDP, and rates (${r.parameters.rounds} rounds of ${r.parameters.turns} turns)`,
      head: ['', 'avg', 'p50', 'p99', 'packets/s', 'from L2', 'to L2', 'lost'],
      rows: rows((v) => [
        ...[v.roundTripAvgNs, v.roundTripP50Ns, v.roundTripP99Ns].map(duration),
        number(v.packetsPerSecond),
        ...[v.upBytesPerSecond, v.downBytesPerSecond].map(rate),
        String(v.lost),
      ]),
    },
    {
      title: "A round trip, counted by L0's KVM",
      head: ['', 'exits of L2', 'to L1', 'all exits of L1 and L2', 'without ticks', 'switches', 'host CPU'],
      rows: rows((v) => [
        ...[v.l2ExitsPerRoundTrip, v.reflectedPerRoundTrip, v.exitsPerRoundTrip].map(number),
        number(v.exitsPerRoundTripAlone),
        number(2 * v.exitsPerRoundTrip),
        `${number(v.emulatorCpuMsPerRoundTrip)} ms`,
      ]),
    },
    {
      title: `A packet, ${r.parameters.window} under way`,
      head: ['', 'exits of L2', 'of them to L1', 'all exits of L1 and L2', 'world switches'],
      rows: rows((v) => [
        ...[v.l2ExitsPerPacket, v.reflectedPerPacket, v.exitsPerPacket].map(number),
        number(2 * v.exitsPerPacket),
      ]),
    },
    ...(r.summary.variants.some((v) => Object.keys(v.apps).length > 0) ? [appTable(r)] : []),
    {
      title: 'Exits of L2 that entered L1, for a round trip, by cause',
      head: ['', 'causes'],
      rows: rows((v) => [
        Object.entries(v.reflectedByCause)
          .sort((a, b) => b[1] - a[1])
          .slice(0, 6)
          .map(([cause, n]) => `${cause} ${number(n / v.roundTrips)}`)
          .join(', '),
      ]),
    },
    ...[explainedTable(r)].filter((t) => t.rows.length > 0),
    netBarTable(r),
  ];
}

/** What exits of single round trips that entered L1 were about, where it was counted. */
function explainedTable(r: NetResult): Table {
  const columns = r.summary.variants.map(({ variant }) => {
    const counted = r.blocks.filter(
      (b) => b.variant === variant && b.load === 'round-trip' && b.explained !== undefined,
    );
    return {
      name: NAMES[variant],
      counts: sumCounts(counted.map((b) => b.explained!)),
      of: counted.reduce((n, b) => n + b.units, 0),
    };
  });
  return explainTable('a round trip', columns);
}

function appTable(r: NetResult): Table {
  const asked = r.summary.variants.filter((v) => Object.keys(v.apps).length > 0);
  const apps = Object.keys(asked[0]?.apps ?? {});
  return {
    title: `Services in L2, ${r.parameters.clients} requests under way: requests/s (all exits of L1 and L2 for one)`,
    head: ['', ...apps],
    rows: asked.map((v) => [
      NAMES[v.variant],
      ...apps.map((a) => {
        const x = own(v.apps, a);
        return x === undefined ? '' : `${number(x.requestsPerSecond)} (${number(x.exitsPerRequest)})`;
      }),
    ]),
  };
}

export function netBarTable(r: NetResult): Table {
  const shown = (s: Spread): string => `${number(s.median)} (${number(s.least)}–${number(s.greatest)})`;
  return {
    title: 'Against what was asked for: median of neighbouring blocks (least and greatest median of a round)',
    head: ['', 'measured', 'bar', ''],
    rows: NET_BARS.flatMap((b) => {
      const s = own(r.summary.ratios, b.key);
      if (s === undefined) return [];
      const met =
        (b.atLeast === undefined || s.median >= b.atLeast) &&
        (b.atMost === undefined || s.median <= b.atMost);
      const barText =
        b.atLeast !== undefined ? `≥ ${b.atLeast}` : b.atMost !== undefined ? `≤ ${b.atMost}` : '';
      return [[b.text, shown(s), barText, barText === '' ? '' : met ? 'met' : 'NOT MET']];
    }),
  };
}

export function netTerminal(r: NetResult, report: string | undefined): string {
  const tables = netTables(r).map(formatTable).join('\n\n');
  return `${tables}\n${report === undefined ? '' : `\nreport: ${report}\n`}`;
}

export function netHtml(r: NetResult): string {
  const tables = netTables(r).map(htmlTable);
  const [times, trip, packet] = tables;
  const asked = r.summary.variants.some((v) => Object.keys(v.apps).length > 0);
  const apps = asked ? tables[3]! : '';
  const causes = tables.slice(asked ? 4 : 3, -1).join('');
  const bars = tables.at(-1);
  const cls = (v: NetVariantSummary): string =>
    v.variant.startsWith('nested') ? 's-l2-vanilla' : v.variant === 'direct' ? 's-l1' : 's-l2-default';
  const chart = (id: string, title: string, unit: string, of: (v: NetVariantSummary) => number): string =>
    `<figure>${barChart({
      id,
      title,
      unit,
      tick: number,
      bars: r.summary.variants.map((v) => ({
        group: '',
        name: NAMES[v.variant],
        value: of(v),
        label: number(of(v)),
        cls: cls(v),
      })),
    })}</figure>`;
  return page({
    title: `HyperTurtle: net of ${r.environment.startedAt}`,
    lead: 'Packets between a nested guest and its host: through L1, and past it with L1’s own programs running in L0.',
    notes: [caveat(r.environment)].filter((n) => n !== undefined),
    sections: [
      section(
        'Times',
        'One L2 has all these NICs at once; blocks of packets over them take turns.',
        `${chart('rtt', 'Round trip of 1 byte', 'ms, median', (v) => v.roundTripP50Ns / 1e6)}${times ?? ''}`,
      ),
      section(
        'World switches',
        'An exit is two world switches, out and back. Exits of L2 that L0 passes to L1 cost L1’s own exits as well. Counted by KVM in L0, timer ticks included.',
        `${chart('exits', 'All exits of L1 and L2 for a round trip', 'exits', (v) => v.exitsPerRoundTrip)}${trip ?? ''}${packet ?? ''}${causes}`,
      ),
      ...(apps === ''
        ? []
        : [section('Services', 'Asked from L0 by the generators that go with them.', apps)]),
      section('Against what was asked for', '', bars ?? ''),
      parametersSection(r),
    ],
  });
}
