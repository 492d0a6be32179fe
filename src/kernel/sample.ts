/** Mirror of c/include/hyperturtle/sample.h: the sample hook and the maps of the profile program. */
import { array, count, reserved, struct, u32, u64 } from './struct.ts';

export const HT_SAMPLE_HZ_MAX = 10_000;
export const HT_SAMPLE_FRAMES = 64;

/** The vCPU thread's CPU clock, also where there is a cycle counter. */
export const HT_SAMPLE_F_CLOCK = 1;

export const HT_SAMPLE_ARGS = struct('struct ht_sample_args', {
  hz: u32,
  flags: u32,
  depth: u32,
  reserved: u32,
});

export const HT_SAMPLE_CYCLES = 1;
export const HT_SAMPLE_CLOCK = 2;

/** Why a stack has no further address. */
export const SAMPLE_END = { FRAME: 0, DEPTH: 1, MEMORY: 2, BUDGET: 3, MODE: 4 } as const;

/** Why an interrupt in an L2 became no sample: 1..15 are the module's, 16..31 the programs'. */
export const SAMPLE_REASON = {
  NONE: 0,
  THROTTLED: 1,
  STATE: 2,
  LATE: 3,
  OTHER_L2: 16,
  FULL: 17,
  LAYOUT: 18,
} as const;

const NAME_BY_NUMBER = new Map<number, string>(Object.entries(SAMPLE_REASON).map(([k, v]) => [v, k]));

/** `THROTTLED`, or `REASON_30` for a number that this version does not know. */
export function sampleReasonName(reason: number): string {
  return NAME_BY_NUMBER.get(reason) ?? `REASON_${reason}`;
}

/** What the hook counts besides runs and reasons, in their order. */
export const SAMPLE_COUNT = {
  CYCLES: 0,
  CLOCK: 1,
  KERNEL: 2,
  USER: 3,
  FRAMES: 4,
  NS: 5,
  OUTSIDE: 6,
  BROKEN: 7,
} as const;

export interface SampleCounts {
  /** Samples by the cycle counter, and by the CPU clock: which source the host chose. */
  cycles: number;
  clock: number;
  kernel: number;
  user: number;
  /** Addresses of all stacks. */
  frames: number;
  /** Time that taking them took. */
  ns: number;
  /** Interrupts while the thread ran the host or L1. */
  outside: number;
  /** Stacks that ended at memory that is not there. */
  broken: number;
}

export function sampleCounts(counts: readonly number[]): SampleCounts {
  const of = (i: number): number => counts[i] ?? 0;
  return {
    cycles: of(SAMPLE_COUNT.CYCLES),
    clock: of(SAMPLE_COUNT.CLOCK),
    kernel: of(SAMPLE_COUNT.KERNEL),
    user: of(SAMPLE_COUNT.USER),
    frames: of(SAMPLE_COUNT.FRAMES),
    ns: of(SAMPLE_COUNT.NS),
    outside: of(SAMPLE_COUNT.OUTSIDE),
    broken: of(SAMPLE_COUNT.BROKEN),
  };
}

export const HT_SAMPLE_CTX = struct('struct ht_sample_ctx', {
  ip: u64,
  cr3: u64,
  root: u64,
  now_ns: u64,
  vcpu: u32,
  cpl: u32,
  bits: u32,
  source: u32,
  hz: u32,
  count: u32,
  end: u32,
  reserved_in: u32,
  entry: u64,
  regs: array(u64, 16),
  ips: array(u64, HT_SAMPLE_FRAMES),
  reason: u32,
  reserved_out: u32,
  reserved: reserved(6),
});

export const HT_PROFILE_STACKS = 8192;
/** Entries of `kernels`: where L2's handler of page faults is, by number of the L2. */
export const HT_PROFILE_L2S = 256;

export const HT_PROFILE_STACK = struct('struct ht_profile_stack', {
  l2: u32,
  vcpu: u32,
  space: u64,
  cpl: u32,
  count: u32,
  ips: array(u64, HT_SAMPLE_FRAMES - 1),
  end: u64,
});

export const HT_PROFILE_F_NO_USER = 1;
export const HT_PROFILE_F_NO_KERNEL = 2;
export const HT_PROFILE_F_NO_SPACES = 4;
export const HT_PROFILE_CONTROL = struct('struct ht_profile_control', { l2: u32, flags: u32 });
export const HT_PROFILE_TOTALS = struct('struct ht_profile_totals', {
  samples: count,
  other: count,
  lost: count,
});
