/** Mirror of c/include/hyperturtle/call.h: calls of guests to programs of their L1 in L0. */
import { array, reserved, struct, u32, u64 } from './struct.ts';

/** Who calls; bits of a link's `from`, which has no channel. */
export const HT_CALL_L1 = 1;
export const HT_CALL_L2 = 2;
export const HT_CALL_CHANNEL = 4;

export const HT_CALL_PASS = 0;
export const HT_CALL_HANDLED = 1;

/** Names of the reasons by number: 1..15 are the module's, 16..31 the programs'. */
export const CALL_REASON = {
  NONE: 0,
  USER: 1,
  EVENT: 2,
  DEBUG: 3,
  NOT_SKIPPED: 4,
  BAD_ANSWER: 5,
  PROGRAM: 16,
  DISABLED: 17,
  NO_L2: 18,
  NOT_OURS: 19,
} as const;
const NAME_BY_NUMBER = new Map<number, string>(Object.entries(CALL_REASON).map(([k, v]) => [v, k]));

/** `USER`, or `REASON_30` for a number that this version does not know. */
export function callReasonName(reason: number): string {
  return NAME_BY_NUMBER.get(reason) ?? `REASON_${reason}`;
}

/** Places in ht_hook_stats.counts. */
export const CALL_COUNT = { L1: 0, L2: 1, CHANNEL: 2 } as const;

/** Calls that were answered, by who called. */
export interface CallCounts {
  l1: number;
  l2: number;
  channel: number;
}

export function callCounts(counts: readonly number[]): CallCounts {
  const of = (i: number): number => counts[i] ?? 0;
  return { l1: of(CALL_COUNT.L1), l2: of(CALL_COUNT.L2), channel: of(CALL_COUNT.CHANNEL) };
}

export const HT_CALL_NUMBERS = 28;
/** Lower numbers are those of hypervisors. */
export const HT_CALL_NUMBER_MIN = 256;
/** Calls of user space are wanted too. */
export const HT_CALL_F_USER = 1;

export const HT_CALL_ARGS = struct('struct ht_call_args', {
  from: u32,
  flags: u32,
  number_count: u32,
  reserved: u32,
  numbers: array(u32, HT_CALL_NUMBERS),
});

export const HT_CALL_WORDS = 6;
export const HT_CALL_RESULTS = 4;
export const HT_CALL_NO_VCPU = 0xffff_ffff;

export const HT_CALL_CTX = struct('struct ht_call_ctx', {
  number: u32,
  from: u32,
  cpl: u32,
  bits: u32,
  vcpu: u32,
  reserved_in: u32,
  root: u64,
  words: array(u64, HT_CALL_WORDS),
  results: array(u64, HT_CALL_RESULTS),
  action: u32,
  reason: u32,
  reserved: reserved(2),
  scratch: u64,
});
