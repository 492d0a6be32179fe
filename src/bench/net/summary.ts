/** The figures of `bench net` from its blocks. */
import { percentile } from '../control/summary.ts';
import { NET_APPS, NET_VARIANTS } from './schema.ts';
import type { NetBlock, NetLoad, NetSummary, NetVariant, NetVariantSummary, Spread } from './schema.ts';
import { mean, sum } from '../shared/statistics.ts';
import { sumCounts } from '../../core/counts.ts';

export interface NetBar {
  key: string;
  text: string;
  /** What is compared, in which load: `of` against `to`. */
  load: NetLoad;
  of: NetVariant;
  to: NetVariant;
  /** Times as fast, or times as long. */
  as: 'fast' | 'long';
  atLeast?: number;
  atMost?: number;
}

export const NET_BARS: readonly NetBar[] = [
  ...bar('roundTripPass', 'round trip, direct + pass: times as fast as nested virtio', 'round-trip', 'pass', {
    atLeast: 1.64,
  }),
  ...bar('roundTripDirect', 'round trip, direct: times as fast as nested virtio', 'round-trip', 'direct', {}),
  {
    key: 'roundTripPassCost',
    text: 'round trip, direct + pass: time against direct',
    load: 'round-trip',
    of: 'pass',
    to: 'direct',
    as: 'long',
    atMost: 1.02,
  },
  {
    key: 'roundTripFirewallCost',
    text: 'round trip, direct + firewall: time against direct',
    load: 'round-trip',
    of: 'firewall',
    to: 'direct',
    as: 'long',
    atMost: 1.05,
  },
  ...bar(
    'packetsFirewall',
    'packets, direct + firewall: rate against nested virtio',
    'packets',
    'firewall',
    {},
  ),
  ...bar('upFirewall', 'TCP from L2, direct + firewall: rate against nested virtio', 'tcp-up', 'firewall', {
    atLeast: 1.41,
  }),
  ...bar('downFirewall', 'TCP to L2, direct + firewall: rate against nested virtio', 'tcp-down', 'firewall', {
    atLeast: 1.41,
  }),
  ...NET_APPS.flatMap((app) =>
    (['pass', 'firewall'] as const).flatMap((of) =>
      bar(
        `${app}${of === 'pass' ? 'Pass' : 'Firewall'}`,
        `${app}, direct + ${of}: requests against nested virtio`,
        app,
        of,
        of === 'pass' ? { atLeast: { memcached: 1.72, redis: 1.65, nginx: 1.45 }[app] } : {},
      ),
    ),
  ),
];

/** Against nested virtio as QEMU does it by default, which has the bar, and with vhost in L1. */
function bar(
  key: string,
  text: string,
  load: NetLoad,
  of: NetVariant,
  bounds: { atLeast?: number },
): NetBar[] {
  const common = { load, of, as: 'fast' } as const;
  return [
    { key: `${key}VsNested`, text, ...common, to: 'nested', ...bounds },
    { key: `${key}VsVhost`, text: `${text} with vhost in L1`, ...common, to: 'nested-vhost' },
  ];
}

const median = (values: readonly number[]): number => percentile(values, 0.5);

/** Time of one unit of a block: the median round trip, or the time of all by their number. */
function unitNs(b: NetBlock): number {
  return b.load === 'round-trip' ? median(b.ns) : b.totalNs / b.units;
}

/**
 * Blocks of one turn follow one another within seconds, so what else the machine did was much the same for them: their
 * ratio is taken turn by turn. Undefined when no turn has both.
 */
export function pairedRatio(
  blocks: readonly NetBlock[],
  b: Pick<NetBar, 'load' | 'of' | 'to' | 'as'>,
): Spread | undefined {
  const find = (variant: NetVariant, like: NetBlock): NetBlock | undefined =>
    blocks.find(
      (x) => x.variant === variant && x.load === b.load && x.round === like.round && x.turn === like.turn,
    );
  const rounds = new Map<number, number[]>();
  for (const one of blocks.filter((x) => x.variant === b.of && x.load === b.load)) {
    const other = find(b.to, one);
    if (!other || one.units === 0 || other.units === 0) continue;
    const longer = unitNs(one) / unitNs(other);
    const all = rounds.get(one.round) ?? [];
    rounds.set(one.round, [...all, b.as === 'long' ? longer : 1 / longer]);
  }
  if (rounds.size === 0) return undefined;
  const medians = [...rounds.values()].map(median);
  return {
    median: median([...rounds.values()].flat()),
    least: Math.min(...medians),
    greatest: Math.max(...medians),
  };
}

export function summarizeNet(blocks: readonly NetBlock[]): NetSummary {
  const variants = NET_VARIANTS.filter((v) => blocks.some((b) => b.variant === v));
  const ratios = NET_BARS.flatMap((b) => {
    const r = pairedRatio(blocks, b);
    return r === undefined ? [] : [[b.key, r] as const];
  });
  const idle = blocks.filter((b) => b.load === 'idle');
  const idlePerSecond =
    (sum(idle.map((b) => b.counters.exits)) / Math.max(1, sum(idle.map((b) => b.totalNs)))) * 1e9;
  return {
    variants: variants.map((v) => summarizeVariant(v, blocks, idlePerSecond)),
    idleExitsPerSecond: idlePerSecond,
    ratios: Object.fromEntries(ratios),
  };
}

function summarizeVariant(
  variant: NetVariant,
  all: readonly NetBlock[],
  idlePerSecond: number,
): NetVariantSummary {
  const of = (load: NetLoad): NetBlock[] => all.filter((b) => b.variant === variant && b.load === load);
  const trips = of('round-trip');
  const packets = of('packets');
  const ns = trips.flatMap((b) => b.ns);
  const perSecond = (load: NetLoad): number => median(of(load).map((b) => (b.units / b.totalNs) * 1e9));
  const total = (c: Readonly<Record<string, number>>): number => sum(Object.values(c));
  const per = (blocks: readonly NetBlock[], f: (b: NetBlock) => number): number =>
    sum(blocks.map(f)) / sum(blocks.map((b) => b.units));
  const l2 = (b: NetBlock): number => total(b.counters.l2ExitsByCause);
  const reflected = (b: NetBlock): number => total(b.counters.reflectedByCause);
  return {
    variant,
    roundTripAvgNs: mean(ns) ?? NaN,
    roundTripP50Ns: percentile(ns, 0.5),
    roundTripP99Ns: percentile(ns, 0.99),
    roundTrips: ns.length,
    lost: sum([...trips, ...packets].map((b) => b.lost)),
    packetsPerSecond: 2 * perSecond('packets'),
    upBytesPerSecond: perSecond('tcp-up'),
    downBytesPerSecond: perSecond('tcp-down'),
    apps: Object.fromEntries(
      NET_APPS.filter((app) => of(app).length > 0).map((app) => [
        app,
        { requestsPerSecond: perSecond(app), exitsPerRequest: per(of(app), (b) => b.counters.exits) },
      ]),
    ),
    l2ExitsPerRoundTrip: per(trips, l2),
    reflectedPerRoundTrip: per(trips, reflected),
    exitsPerRoundTrip: per(trips, (b) => b.counters.exits),
    exitsPerRoundTripAlone: per(trips, (b) => b.counters.exits - (idlePerSecond * b.totalNs) / 1e9),
    emulatorCpuMsPerRoundTrip: per(trips, (b) => b.emulatorCpuSeconds * 1000),
    l2ExitsPerPacket: per(packets, l2) / 2,
    reflectedPerPacket: per(packets, reflected) / 2,
    exitsPerPacket: per(packets, (b) => b.counters.exits) / 2,
    l2ExitsByCause: sumCounts(trips.map((b) => b.counters.l2ExitsByCause)),
    reflectedByCause: sumCounts(trips.map((b) => b.counters.reflectedByCause)),
  };
}
