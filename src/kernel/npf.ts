/** Mirror of c/include/hyperturtle/npf.h: the context of the npf hook and why faults go to L1. */
import { reserved, struct, u32, u64 } from './struct.ts';

export const HT_NPF_PASS = 0;
export const HT_NPF_MAP = 1;
export const HT_NPF_LEARN = 2;

export const HT_NPF_MAP_EXACT = 1;
export const HT_NPF_MAP_LARGE = 2;
export const HT_NPF_MAP_FILL = 4;

/** error_code: the access was a write. */
export const HT_NPF_ERR_WRITE = 2n;

export const HT_NPF_REASONS = 32;

/** Names of the reasons by number: 1..15 are the module's, 16..31 the programs'. */
export const NPF_REASON = {
  NONE: 0,
  LOW_GPA: 1,
  NO_TABLE: 2,
  LARGE_LEAF: 3,
  PRESENT: 4,
  SPECIAL: 5,
  READ_ERROR: 6,
  WRITE_ERROR: 7,
  LOST: 8,
  BAD_ANSWER: 9,
  NO_SIBLING: 10,
  NO_ARENA: 11,
  PROGRAM: 16,
  DISABLED: 17,
  NO_L2: 18,
  L2_OFF: 19,
  NO_SLOT: 20,
  CLOSED: 21,
  POOL_EMPTY: 22,
  LIMIT: 23,
  NO_TEMPLATE: 24,
  RACE: 25,
  LAYOUT: 26,
  SMALL: 27,
  OTHER_ROOT: 28,
} as const;

export type NpfReason = keyof typeof NPF_REASON;

const NAME_BY_NUMBER = new Map<number, string>(Object.entries(NPF_REASON).map(([k, v]) => [v, k]));

/** `POOL_EMPTY`, or `REASON_30` for a number that this version does not know. */
export function npfReasonName(reason: number): string {
  return NAME_BY_NUMBER.get(reason) ?? `REASON_${reason}`;
}

/** The reasons that were counted at all, by name. */
export function countsByReason(
  counts: readonly number[],
  nameOf: (reason: number) => string = npfReasonName,
): Record<string, number> {
  return Object.fromEntries(counts.flatMap((n, reason) => (n > 0 ? [[nameOf(reason), n]] : [])));
}

/** What the hook counts besides runs and reasons, in their order: the rest of groups, filled in at once. */
export const NPF_COUNT = {
  FILLS: 0,
  FILL_BUDGET: 1,
  FILL_PENDING: 2,
  FILL_FAILED: 3,
  FILL_ABSENT: 4,
  FILL_NS: 5,
  FILL_MAX_NS: 6,
  FILL_LIMIT_NS: 7,
} as const;

export interface FillCounts {
  /** Further faults of a group that KVM handled in the exit of the first one: up to eight pages each. */
  done: number;
  /** Exits in which the rest of a group was left out: no time left; somebody waited; KVM did not map a page. */
  budget: number;
  pending: number;
  failed: number;
  /** Pages left out with their neighbours, as the host has no memory of L1 mapped there. */
  absent: number;
  /** Time that all of it took. */
  ns: number;
  /** Longest time from the hook to the last fill of an exit. */
  maxNs: number;
  /** No fill begins later in an exit; 0: they are off. */
  limitNs: number;
}

export function fillCounts(counts: readonly number[]): FillCounts {
  const of = (i: number): number => counts[i] ?? 0;
  return {
    done: of(NPF_COUNT.FILLS),
    budget: of(NPF_COUNT.FILL_BUDGET),
    pending: of(NPF_COUNT.FILL_PENDING),
    failed: of(NPF_COUNT.FILL_FAILED),
    absent: of(NPF_COUNT.FILL_ABSENT),
    ns: of(NPF_COUNT.FILL_NS),
    maxNs: of(NPF_COUNT.FILL_MAX_NS),
    limitNs: of(NPF_COUNT.FILL_LIMIT_NS),
  };
}

export const HT_NPF_CTX = struct('struct ht_npf_ctx', {
  gpa: u64,
  error_code: u64,
  root: u64,
  entry: u64,
  sibling: u64,
  sibling_gfn: u64,
  vcpu: u32,
  root_level: u32,
  level: u64,
  action: u32,
  reason: u32,
  template: u64,
  words_off: u64,
  first_gfn: u64,
  count: u32,
  flags: u32,
  reserved: reserved(3),
});
