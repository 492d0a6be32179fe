/** Mirror of c/include/hyperturtle/exit.h: the context of the exit hook, what it counts, and what a link asks for. */
import { array, reserved, struct, u32, u64 } from './struct.ts';

/** What exited, the same for both vendors. */
export const EXIT_KIND = {
  cpuid: 0,
  rdmsr: 1,
  wrmsr: 2,
  io: 3,
  hypercall: 4,
  hlt: 5,
  pause: 6,
  other: 7,
} as const;
export type ExitKind = keyof typeof EXIT_KIND;
export const EXIT_KINDS = Object.keys(EXIT_KIND) as ExitKind[];
export const HT_EXIT_KINDS = 8;

export const HT_EXIT_BEFORE = 0;
export const HT_EXIT_AFTER = 1;
export const HT_EXIT_PASS = 0;
export const HT_EXIT_HANDLED = 1;
export const HT_EXIT_F_AFTER = 1;
export const HT_EXIT_F_USER = 2;

/** Names of the reasons by number: 1..15 are the module's, 16..31 the programs'. */
export const EXIT_REASON = {
  NONE: 0,
  OTHER: 1,
  STRING_IO: 2,
  EVENT: 3,
  DEBUG: 4,
  NOT_SKIPPED: 5,
  BAD_ANSWER: 6,
  USER: 7,
  PROGRAM: 16,
  DISABLED: 17,
  NO_L2: 18,
  MISS: 19,
  COUNTED: 20,
  NOT_OURS: 21,
  LAYOUT: 22,
} as const;
const NAME_BY_NUMBER = new Map<number, string>(Object.entries(EXIT_REASON).map(([k, v]) => [v, k]));

/** `MISS`, or `REASON_30` for a number that this version does not know. */
export function exitReasonName(reason: number): string {
  return NAME_BY_NUMBER.get(reason) ?? `REASON_${reason}`;
}

/** Places in a kind's part of ht_hook_stats.counts. */
export const HT_EXIT_C_SEEN = 0;
export const HT_EXIT_C_HANDLED = 1;
export const HT_EXIT_C_RETURNED = 2;
export const HT_EXIT_C_L1_NS = 3;
export const HT_EXIT_C_L0_NS = 4;
export const HT_EXIT_COUNTS = 8;

export const HT_EXIT_MSRS = 28;
export const HT_EXIT_ARGS = struct('struct ht_exit_args', {
  kinds: u64,
  flags: u32,
  msr_count: u32,
  msrs: array(u32, HT_EXIT_MSRS),
});

/** Number of a general register in `regs`. */
export const HT_RAX = 0;
export const HT_RCX = 1;
export const HT_RDX = 2;
export const HT_RBX = 3;
export const HT_EXIT_REGS = 16;

export const HT_EXIT_CTX = struct('struct ht_exit_ctx', {
  kind: u32,
  phase: u32,
  arg: u32,
  bytes: u32,
  write: u32,
  cpl: u32,
  bits: u32,
  vcpu: u32,
  code: u64,
  info1: u64,
  root: u64,
  rip: u64,
  now_ns: u64,
  l1_ns: u64,
  regs: array(u64, HT_EXIT_REGS),
  action: u32,
  reason: u32,
  reserved: reserved(1),
  scratch: u64,
});

/** What happened to one kind of exit. */
export interface ExitCounts {
  /** Exits that L1 asked KVM for, and its link the hook. */
  seen: number;
  /** Answered by the program. */
  handled: number;
  /** Exits that L1 handled and came back from; `l1Ns` is how long it had them, together. */
  returned: number;
  l1Ns: number;
  /** How long the answered ones took in the hook, together. */
  l0Ns: number;
}

/** By kind, of ht_hook_stats.counts; only kinds that occurred. */
export function exitCounts(counts: readonly number[]): Partial<Record<ExitKind, ExitCounts>> {
  const all: Partial<Record<ExitKind, ExitCounts>> = {};
  for (const kind of EXIT_KINDS) {
    const at = (i: number): number => counts[EXIT_KIND[kind] * HT_EXIT_COUNTS + i] ?? 0;
    if (at(HT_EXIT_C_SEEN) > 0)
      all[kind] = {
        seen: at(HT_EXIT_C_SEEN),
        handled: at(HT_EXIT_C_HANDLED),
        returned: at(HT_EXIT_C_RETURNED),
        l1Ns: at(HT_EXIT_C_L1_NS),
        l0Ns: at(HT_EXIT_C_L0_NS),
      };
  }
  return all;
}
