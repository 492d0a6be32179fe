/** Statistics of one hook of one VM, as users and programs see them. */
import type { KvmHook, HtStats } from '../kernel/host.ts';
import { callCounts, callReasonName } from '../kernel/call.ts';
import type { CallCounts } from '../kernel/call.ts';
import { exitCounts, exitReasonName } from '../kernel/exit.ts';
import type { ExitCounts, ExitKind } from '../kernel/exit.ts';
import { countsByReason, fillCounts, npfReasonName } from '../kernel/npf.ts';
import type { FillCounts } from '../kernel/npf.ts';
import { sampleCounts, sampleReasonName } from '../kernel/sample.ts';
import type { SampleCounts } from '../kernel/sample.ts';
import { figuresOf, reasonsToL1, shareOf } from '../wire/figures.ts';

/** Each hook has reasons of its own. */
const REASON_NAMES: Readonly<Record<KvmHook, (reason: number) => string>> = {
  npf: npfReasonName,
  exit: exitReasonName,
  sample: sampleReasonName,
  call: callReasonName,
};

export interface HookStats {
  hook: KvmHook;
  /** Process that runs the VM. */
  pid: number;
  linked: boolean;
  /** BPF id of the linked program, 0 without one. */
  programId: number;
  /** Events that the hook saw. */
  runs: number;
  /** Answered without L1. */
  handled: number;
  /** Entries written into L1's tables; more than `handled` when neighbours are mapped ahead. */
  entries: number;
  learned: number;
  /** Runs of programs that took longer than `limitNs`. */
  overruns: number;
  /** Longest run of the program that is or was last linked, without the interrupts that came in it. */
  maxNs: number;
  /** At the third longer run within a minute the module ends a link. */
  limitNs: number;
  /** Events that L1 had to handle. */
  passed: number;
  /** Why, by name; only what occurred. */
  reasons: Record<string, number>;
  /** Counts of the npf hook: the rest of groups, filled in at once. */
  fills?: FillCounts;
  /** Counts of the exit hook, by kind. */
  exits?: Partial<Record<ExitKind, ExitCounts>>;
  /** Counts of the sample hook. */
  samples?: SampleCounts;
  /** Counts of the call hook. */
  calls?: CallCounts;
}

export function hookStats(hook: KvmHook, raw: HtStats): HookStats {
  const { s } = raw;
  return {
    hook,
    pid: raw.pid,
    linked: raw.linked !== 0,
    programId: raw.prog_id,
    runs: s.runs,
    handled: s.handled,
    entries: s.entries,
    learned: s.learned,
    overruns: s.overruns,
    maxNs: s.max_ns,
    limitNs: s.limit_ns,
    passed: s.runs - s.handled,
    reasons: countsByReason(s.reasons, REASON_NAMES[hook]),
    ...(hook === 'npf' ? { fills: fillCounts(s.counts) } : {}),
    ...(hook === 'exit' ? { exits: exitCounts(s.counts) } : {}),
    ...(hook === 'sample' ? { samples: sampleCounts(s.counts) } : {}),
    ...(hook === 'call' ? { calls: callCounts(s.counts) } : {}),
  };
}

/** For people: one line of totals, then the reasons, most frequent first. */
export function formatStats(stats: HookStats): string {
  const f = figuresOf(stats);
  const there = stats.hook === 'npf' ? `, ${f.there} already there` : '';
  const program = stats.linked ? `program ${stats.programId} linked` : 'no program linked';
  const lines = [
    `${stats.hook} of process ${stats.pid}: ${program}`,
    `  ${f.events} events: ${f.inL0} answered in L0 (${shareOf(f.inL0, f.events)})${there}, ${f.toL1} reached L1 (${shareOf(f.toL1, f.events)})`,
    `  ${stats.entries} entries written, ${stats.learned} learned`,
    `  longest run ${(stats.maxNs / 1000).toFixed(1)} us, ${stats.overruns} above the limit of ${stats.limitNs / 1000} us`,
  ];
  if (stats.fills) lines.push(fillsLine(stats.fills));
  if (stats.calls) {
    const { l1, l2, channel } = stats.calls;
    lines.push(`  answered: ${l1} calls of L1, ${l2} of its nested guests, ${channel} by the channel`);
  }
  for (const [name, n] of reasonsToL1(stats)) lines.push(`  ${String(n).padStart(10)} ${name}`);
  return lines.join('\n');
}

function fillsLine(f: FillCounts): string {
  if (f.limitNs === 0) return '  groups are not filled in at once: fill_us of the module is 0';
  const us = (ns: number): string => (ns / 1000).toFixed(1);
  const short = `${f.budget} out of time, ${f.pending} as somebody waited, ${f.failed} not mapped`;
  return `  ${f.done} fills of up to 8 pages besides; cut short: ${short}; left out: ${f.absent} not in memory; longest ${us(f.maxNs)} us, none begins after ${f.limitNs / 1000} us`;
}
