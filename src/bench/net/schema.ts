/** The shape of the result of `bench net`: every block of packets as it was measured, and figures computed from them. */
import { z } from 'zod';
import { RESULT_SCHEMA_VERSION, environmentSchema } from '../shared/environment-schema.ts';
import { countersSchema } from '../../testbed/counters-schema.ts';
import { recordOf } from '../../core/record.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

/**
 * How L2's packets reach L0:
 *   nested        virtio-net of L2's QEMU, a tap and a bridge in L1, L1's own NIC
 *   nested-vhost  the same with L1's kernel moving the frames (vhost-net)
 *   direct        a NIC of L0 by VFIO; the rest is that with one of L1's programs on it in L0, both directions
 */
export const NET_VARIANTS = [
  'nested',
  'nested-vhost',
  'direct',
  'pass',
  'firewall',
  'rate-limiter',
  'tcptop',
] as const;
const netVariantSchema = lazy(() => z.enum(NET_VARIANTS));
export type NetVariant = Output<typeof netVariantSchema>;

/** Round trips one by one, round trips with several under way, and one TCP connection each way. */
export const NET_LOADS = ['round-trip', 'packets', 'tcp-up', 'tcp-down'] as const;
/** Services in L2, asked from L0 by the generators that go with them. */
export const NET_APPS = ['memcached', 'redis', 'nginx'] as const;
export type NetApp = (typeof NET_APPS)[number];
/** `idle`: nothing, so that what ticks cost is known. */
const netLoadSchema = lazy(() => z.enum([...NET_LOADS, ...NET_APPS, 'idle']));
export type NetLoad = Output<typeof netLoadSchema>;

const count = lazy(() => z.number().int().nonnegative());

/** What c/l2/net_load prints. */
export const loadLineSchema = lazy(() =>
  z.discriminatedUnion('kind', [
    z.object({
      kind: z.literal('rtt'),
      window: count(),
      count: count(),
      lost: count(),
      totalNs: count(),
      ns: z.array(count()),
    }),
    z.object({ kind: z.literal('tcp'), direction: z.enum(['up', 'down']), bytes: count(), totalNs: count() }),
  ]),
);

/** One block: all of one load over one variant, between two readings of KVM's counters in L0. */
const netBlockSchema = lazy(() =>
  z.object({
    variant: netVariantSchema(),
    load: netLoadSchema(),
    round: count(),
    /** In its round; blocks of the same round and turn follow one another at once. */
    turn: count(),
    totalNs: count(),
    /** Round trips that were answered, bytes, or requests. */
    units: count(),
    lost: count(),
    /** Time of each round trip; none for TCP and services. */
    ns: z.array(count()),
    counters: countersSchema(),
    emulatorCpuSeconds: z.number().nonnegative(),
    /** Exits that entered L1, by what they were about, by L1's own KVM; only with `--explain`. */
    explained: recordOf(z.string(), count()).optional(),
  }),
);
export type NetBlock = Output<typeof netBlockSchema>;

/** Median of the turns, and the least and the greatest median of a round. */
const spreadSchema = lazy(() => z.object({ median: z.number(), least: z.number(), greatest: z.number() }));
export type Spread = Output<typeof spreadSchema>;

const netVariantSummarySchema = lazy(() =>
  z.object({
    variant: netVariantSchema(),
    roundTripAvgNs: z.number(),
    roundTripP50Ns: z.number(),
    roundTripP99Ns: z.number(),
    roundTrips: count(),
    lost: count(),
    /** Both ways together, with several under way. */
    packetsPerSecond: z.number(),
    upBytesPerSecond: z.number(),
    downBytesPerSecond: z.number(),
    /** Requests a second, and all exits of L1's VM for each, of the services that were asked. */
    apps: recordOf(z.string(), z.object({ requestsPerSecond: z.number(), exitsPerRequest: z.number() })),
    /** Exits for a round trip, which is two packets: of L2, of L2 that entered L1, and all of L1's VM. */
    l2ExitsPerRoundTrip: z.number(),
    reflectedPerRoundTrip: z.number(),
    exitsPerRoundTrip: z.number(),
    /** The same without those that an idle L2 has in that time: ticks, which a slow machine has many of. */
    exitsPerRoundTripAlone: z.number(),
    emulatorCpuMsPerRoundTrip: z.number(),
    /** Exits for a packet, where several round trips are under way. */
    l2ExitsPerPacket: z.number(),
    reflectedPerPacket: z.number(),
    exitsPerPacket: z.number(),
    /** Exits of L2 and those that entered L1, by cause, over all its single round trips. */
    l2ExitsByCause: recordOf(z.string(), count()),
    reflectedByCause: recordOf(z.string(), count()),
  }),
);
export type NetVariantSummary = Output<typeof netVariantSummarySchema>;

const netSummarySchema = lazy(() =>
  z.object({
    variants: z.array(netVariantSummarySchema()),
    /** All exits of L1 and L2 while L2 does nothing. */
    idleExitsPerSecond: z.number(),
    /** Ratios of neighbouring blocks' medians; see NET_BARS. */
    ratios: recordOf(z.string(), spreadSchema()),
  }),
);
export type NetSummary = Output<typeof netSummarySchema>;

export const netResultSchema = lazy(() =>
  z.object({
    schema: z.literal(RESULT_SCHEMA_VERSION),
    benchmark: z.literal('net'),
    environment: environmentSchema(),
    parameters: z.object({
      rounds: count(),
      turns: count(),
      roundTrips: count(),
      packets: count(),
      window: count(),
      tcpBytes: count(),
      rules: count(),
      /** Requests in one block of a service, and how many are under way. */
      requests: count(),
      clients: count(),
      l2MemoryMib: count(),
      l1MemoryMib: count(),
      l1Cpus: count(),
      mtu: count(),
      l2KernelArguments: z.string(),
    }),
    blocks: z.array(netBlockSchema()),
    summary: netSummarySchema(),
  }),
);
export type NetResult = Output<typeof netResultSchema>;
