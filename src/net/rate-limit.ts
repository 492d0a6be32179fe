/** Client of the rate limiter: limits for each direction, set at once, and what was passed and dropped. */
import { z } from 'zod';
import { HyperturtleError } from '../core/errors.ts';
import {
  GENERATION,
  HT_NET_DIRECTIONS,
  HT_RATE_COST_SHIFT,
  HT_RATE_TIME_SHIFT,
  RATE_COUNT,
  RATE_LIMIT,
  RATE_STATE,
} from '../kernel/net.ts';
import { DIRECTIONS } from './firewall-rules.ts';
import type { Direction } from './firewall-rules.ts';
import { entry, index, one } from './maps.ts';
import type { MapAccess } from './maps.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

const RATE_MIN = { bytesPerSecond: 1000, packetsPerSecond: 1 } as const;
const RATE_MAX = 1e12;
/** A bucket that is this long full when none is asked for. */
const DEFAULT_BURST_S = 0.05;
const LEAST_BURST = { bytes: 65_536, packets: 64 } as const;
/** Longer ones could not be told from a bucket in debt. */
const BURST_MAX_S = 3600;

/** Left out: no limit; a burst left out is what passes in 50 ms, at least 64 KiB or 64 packets. */
export const LimitInput = lazy(() =>
  z.strictObject({
    bytesPerSecond: z.number().min(RATE_MIN.bytesPerSecond).max(RATE_MAX).optional(),
    burstBytes: z
      .number()
      .min(1)
      .max(2 ** 40)
      .optional(),
    packetsPerSecond: z.number().min(RATE_MIN.packetsPerSecond).max(RATE_MAX).optional(),
    burstPackets: z
      .number()
      .min(1)
      .max(2 ** 40)
      .optional(),
  }),
);
export type LimitInput = Output<typeof LimitInput>;
/** Limits by direction of the nested guest: `out` is what it sends. */
export const RateLimitInput = lazy(() =>
  z.strictObject({ out: LimitInput().optional(), in: LimitInput().optional() }),
);
export type RateLimitInput = Output<typeof RateLimitInput>;

export interface RateCounts {
  passedPackets: number;
  passedBytes: number;
  droppedPackets: number;
  droppedBytes: number;
  /** Dropped because other CPUs took from the bucket at the same moment, every time. */
  contended: number;
}

const SECOND = 1e9 * 2 ** (HT_RATE_TIME_SHIFT + HT_RATE_COST_SHIFT);

function bucket(
  what: string,
  rate: number | undefined,
  burst: number | undefined,
  least: number,
): { cost: bigint; burst: bigint } {
  if (rate === undefined) {
    if (burst !== undefined)
      throw new HyperturtleError('HT_USAGE', `a burst of ${what} without a rate: give the rate as well`);
    return { cost: 0n, burst: 0n };
  }
  const cost = BigInt(Math.max(1, Math.round(SECOND / rate)));
  const units = burst ?? Math.max(least, rate * DEFAULT_BURST_S);
  if (units / rate > BURST_MAX_S)
    throw new HyperturtleError(
      'HT_USAGE',
      `a burst of ${units} ${what} takes ${Math.round(units / rate)} s to fill at ${rate} a second: at most ${BURST_MAX_S} s`,
    );
  return { cost, burst: (BigInt(Math.round(units)) * cost) >> BigInt(HT_RATE_COST_SHIFT) };
}

/** As the program takes them, for each direction. Throws HT_USAGE. */
export function limitsOf(input: RateLimitInput): Uint8Array[] {
  return DIRECTIONS.map((d) => {
    const l = input[d] ?? {};
    const b = bucket('bytes', l.bytesPerSecond, l.burstBytes, LEAST_BURST.bytes);
    const p = bucket('packets', l.packetsPerSecond, l.burstPackets, LEAST_BURST.packets);
    return RATE_LIMIT.encode({
      byte_cost: b.cost,
      byte_burst: b.burst,
      packet_cost: p.cost,
      packet_burst: p.burst,
    });
  });
}

const slotOf = (generation: bigint, direction: number): number =>
  Number(generation & 1n) * HT_NET_DIRECTIONS + direction;

/** Sets the limits of both directions at once and fills the buckets. Throws HT_USAGE. For one writer at a time. */
export async function applyRateLimit(maps: MapAccess, input: RateLimitInput): Promise<void> {
  const values = limitsOf(input);
  const next = GENERATION.decode(await one(maps, 'control', 0)).number + 1n;
  for (const [d, value] of values.entries()) {
    const at = index(slotOf(next, d));
    await maps.set('limits', at, value);
    await maps.set('state', at, new Uint8Array(RATE_STATE.size));
  }
  await maps.set('control', index(0), GENERATION.encode({ number: next }));
}

/** Whether these very limits are in force. */
export async function hasRateLimit(maps: MapAccess, input: RateLimitInput): Promise<boolean> {
  const { number } = GENERATION.decode(await one(maps, 'control', 0));
  for (const [d, value] of limitsOf(input).entries())
    if (Buffer.compare(await one(maps, 'limits', slotOf(number, d)), value) !== 0) return false;
  return true;
}

/** The limits in force, to within the precision of their encoding. */
export async function readRateLimit(maps: MapAccess): Promise<RateLimitInput> {
  const { number } = GENERATION.decode(await one(maps, 'control', 0));
  const of = async (d: number): Promise<LimitInput> => {
    const l = RATE_LIMIT.decode(await one(maps, 'limits', slotOf(number, d)));
    const rate = (cost: bigint): number => Number((SECOND / Number(cost)).toPrecision(6));
    const burst = (time: bigint, cost: bigint): number =>
      Number(((Number(time) * 2 ** HT_RATE_COST_SHIFT) / Number(cost)).toPrecision(6));
    return {
      ...(l.byte_cost > 0n
        ? { bytesPerSecond: rate(l.byte_cost), burstBytes: burst(l.byte_burst, l.byte_cost) }
        : {}),
      ...(l.packet_cost > 0n
        ? { packetsPerSecond: rate(l.packet_cost), burstPackets: burst(l.packet_burst, l.packet_cost) }
        : {}),
    };
  };
  return { out: await of(0), in: await of(1) };
}

/** Over all CPUs, since the program was loaded. */
export async function rateCounts(maps: MapAccess): Promise<Record<Direction, RateCounts>> {
  const of = async (d: number): Promise<RateCounts> => {
    const each = (await entry(maps, 'counts', d)).map((v) => RATE_COUNT.decode(v));
    const sum = (f: (c: (typeof each)[number]) => number): number => each.reduce((n, c) => n + f(c), 0);
    return {
      passedPackets: sum((c) => c.passed_packets),
      passedBytes: sum((c) => c.passed_bytes),
      droppedPackets: sum((c) => c.dropped_packets),
      droppedBytes: sum((c) => c.dropped_bytes),
      contended: sum((c) => c.contended),
    };
  };
  return { out: await of(0), in: await of(1) };
}
