/** What the model is tried on, and what it then says of our counts: pure functions of costs and counts. */
import type { BenchResult, Variant } from '../first-touch/schema.ts';
import { VARIANTS } from '../first-touch/schema.ts';
import { allExitsPerPage, averageNs, selectTouches } from '../first-touch/summary.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { NS_PER_INSTRUCTION } from '../../lab/machine.ts';
import { sum } from '../shared/statistics.ts';
import { PUBLISHED_COSTS, amdMachine, paperMachine } from './costs.ts';
import type { MachineCosts, PublishedCost, Spread } from './costs.ts';
import { RECORDED } from './counts.ts';
import type { CountId } from './counts.ts';
import { check, refusal, timeOf } from './model.ts';
import type { Check, Counted } from './model.ts';

/** The paper's rows: what it measured, and which of our counts is the same thing. The first two decide. */
const PAPER_ROWS = [
  { id: 'vanilla', what: 'EPT fault, nested', measured: 28.39, count: 'vanilla', required: true },
  { id: 'accelerated', what: 'EPT fault, HyperTurtle', measured: 5.39, count: 'one-page', required: true },
  { id: 'direct', what: 'EPT fault, not nested', measured: 5.58, count: 'direct', required: false },
  { id: 'cpuid', what: 'CPUID exit, nested', measured: 2.77, count: 'nested-cpuid', required: false },
] as const satisfies readonly {
  id: string;
  what: string;
  measured: number;
  count: CountId;
  required: boolean;
}[];

interface Prediction {
  what: string;
  /** A page that is touched. */
  count: Counted;
  time: Spread;
  /** Machine of the costs; whether its model has been held against a measurement. */
  machine: string;
  checked: boolean;
}

export interface ModelResult {
  benchmark: 'model';
  costs: readonly PublishedCost[];
  machine: MachineCosts;
  /** What the recorded counts are of. */
  counted: string[];
  checks: Check[];
  /** Why there are no predictions. */
  refusal: string | null;
  predictions: Prediction[];
}

/** Counts of a result by variant: a page touched in order. */
export interface MoreCounts {
  vendor: 'amd' | 'intel';
  rows: { what: string; count: Counted }[];
}

/** What a VMM's memory of 4 KiB pages has to be cleared in the fault: in L1 where that answers, one page each. */
const CLEARED: Partial<Record<Variant, number>> = { 'l2-vanilla': 1, 'l2-anonymous': 1, 'l2-thp': 1 };

/**
 * Exits and instructions for a page, out of a result of `bench npf --count`, or of another one whose time was counted in
 * instructions, which then are all that L2's own kernel executes as well. Throws HT_CONFIG where it has neither.
 */
export function countsOf(r: BenchResult): MoreCounts {
  const rows = VARIANTS.filter((v) => v !== 'l1').flatMap((variant) => {
    const count = countedFaults(r, variant) ?? countedTouches(r, variant);
    return count === undefined ? [] : [{ what: variant, count }];
  });
  if (rows.length === 0)
    throw new HyperturtleError(
      'HT_CONFIG',
      "a result of 'bench npf --count', or of 'bench all --clock instructions' with touches in order, expected",
    );
  return { vendor: r.environment.accelerator === 'bochs' ? 'intel' : 'amd', rows };
}

function countedFaults(r: BenchResult, variant: Variant): Counted | undefined {
  const samples = selectTouches(r, variant, 'seq').filter((s) => s.faultCosts !== undefined);
  const costs = samples.flatMap((s) => s.faultCosts!);
  if (costs.length === 0) return undefined;
  const pages = sum(samples.map((s) => s.touch.pages));
  return {
    exits: sum(costs.map((c) => (c.faults * c.switches) / 2)) / pages,
    instructions: sum(costs.map((c) => c.instructions)) / pages,
    cleared: CLEARED[variant] ?? 0,
  };
}

function countedTouches(r: BenchResult, variant: Variant): Counted | undefined {
  const exits = allExitsPerPage(selectTouches(r, variant, 'seq'));
  const ns = averageNs(r, variant, 'seq');
  if (r.environment.clock !== 'instructions' || exits === undefined || ns === undefined) return undefined;
  return { exits, instructions: ns / NS_PER_INSTRUCTION, cleared: CLEARED[variant] ?? 0 };
}

export function modelOf(
  more?: MoreCounts,
  costs: readonly PublishedCost[] = PUBLISHED_COSTS,
  recorded: typeof RECORDED = RECORDED,
): ModelResult {
  const { intel } = recorded;
  const machine = paperMachine(costs);
  const checks = PAPER_ROWS.map(({ count, ...row }) =>
    check(row, timeOf(intel.counts[count], intel.basis, machine)),
  );
  const why = refusal(checks);
  const predict = (vendor: 'amd' | 'intel', what: string, count: Counted): Prediction => {
    const on = vendor === 'intel' ? machine : amdMachine(costs);
    return {
      what,
      count,
      time: timeOf(count, recorded[vendor].basis, on),
      machine: on.name,
      checked: vendor === 'intel',
    };
  };
  const own = (['intel', 'amd'] as const).flatMap((vendor) =>
    recorded[vendor].predicted.map(({ what, count }) => predict(vendor, what, count)),
  );
  const given = more?.rows.map(({ what, count }) => predict(more.vendor, what, count));
  return {
    benchmark: 'model',
    costs,
    machine,
    counted: [intel.run, recorded.amd.run],
    checks,
    refusal: why ?? null,
    predictions: why === undefined ? (given ?? own) : [],
  };
}
