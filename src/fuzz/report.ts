/** What a run of the fuzzer found, and what of it should not be. Pure. */
import type { LabClock } from '../lab/machine.ts';
import { kernelTroubles } from '../lab/kernel-log.ts';
import type { AttackCounts, Restart } from './attacker.ts';
import type { FaultTimes } from './watched.ts';
import { addOwn } from '../core/own.ts';

export interface HookTotals {
  runs: number;
  handled: number;
  /** Runs while a hostile program was linked: each is an answer that L0 had to judge. */
  hostileRuns: number;
  /** The longest of them, as the host's module measured it. */
  longestHostileUs: number;
}

export interface FuzzReport {
  seed: number;
  kernel: string;
  clock: LabClock;
  batch: number;
  slow: boolean;
  seconds: number;
  /** All of them; by kind in `attack`, answers of hostile programs in `hooks`. */
  operations: number;
  attack: AttackCounts;
  hooks: { npf: HookTotals; exit: HookTotals };
  /** Why L0 left faults to the hostile L1, or did not take an answer. */
  reasons: Record<string, number>;
  /** The hostile L1 broke, and was started again. */
  restarts: Restart[];
  watched: {
    checked: number;
    mismatches: number;
    quiet: FaultTimes;
    attack: FaultTimes;
    /** p99 in the attack, by that in the quiet turns of the same run. */
    p99Ratio: number;
    /** Faults answered in L0, of each page that was touched. */
    handledShare: { quiet: number; attack: number };
  };
  /** Reports in L0's kernel log. */
  reports: string[];
  /** Lines of L0's kernel about a guest that is broken, with numbers taken out, and how often: stock KVM's own. */
  complaints: Record<string, number>;
  problems: string[];
}

const P99_LIMIT = 1.5;

/** Everything that should not be, in words. `atLeast`: operations that were asked for. */
export function fuzzProblems(r: Omit<FuzzReport, 'problems'>, atLeast: number): string[] {
  const problems: string[] = [];
  if (r.reports.length > 0)
    problems.push(`${r.reports.length} reports of L0's kernel: ${r.reports[0]?.split('\n')[0]}`);
  if (r.watched.mismatches > 0) problems.push(`${r.watched.mismatches} wrong pages in the other L1`);
  if (r.watched.checked === 0) problems.push('no page of the other L1 was checked');
  if (r.watched.p99Ratio >= P99_LIMIT)
    problems.push(
      `p99 of faults in the other L1 is ${r.watched.p99Ratio} times that of quiet turns, ${P99_LIMIT} is the limit`,
    );
  if (r.hooks.npf.runs === 0) problems.push('no fault of the hostile L1 came to its program');
  if (r.operations < atLeast) problems.push(`${r.operations} operations instead of ${atLeast}`);
  return problems;
}

export function sumOperations(attack: AttackCounts, hooks: FuzzReport['hooks']): number {
  const asked = Object.values(attack.operations).reduce((a, b) => a + b, 0);
  return asked + hooks.npf.hostileRuns + hooks.exit.hostileRuns;
}

/** New lines of a kernel log since `before`, which may have lost its first lines meanwhile. */
export function newLines(before: string, now: string): string {
  const last = before.trimEnd().split('\n').at(-1) ?? '';
  const at = last === '' ? -1 : now.lastIndexOf(`${last}\n`);
  return at < 0 ? now : now.slice(at + last.length + 1);
}

/** What a kernel log has to say: trouble, or lines of KVM about its guests. */
export function judgeLog(log: string): { reports: string[]; complaints: Record<string, number> } {
  const complaints: Record<string, number> = {};
  for (const line of log.split('\n')) {
    if (!/kvm|SVM|vcpu/i.test(line)) continue;
    const text = line
      .replace(/^\[ *[\d.]+\] */, '')
      .replace(/0x[0-9a-f]+/gi, 'N')
      .replace(/\b[0-9a-f]{8,}\b/gi, 'N')
      .replace(/\d+/g, 'N');
    addOwn(complaints, text, 1);
  }
  return { reports: kernelTroubles(log), complaints };
}
