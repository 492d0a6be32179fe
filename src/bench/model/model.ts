/**
 * A model of what our counts would take on hardware. A thing that is counted leaves a guest `exits` times and has kernels
 * execute `instructions` meanwhile. Each exit takes what an exit with nothing to do takes there, a page that is cleared what that
 * takes; all other instructions take their cycles. Nothing is fitted: costs come from costs.ts, counts from counts.ts or from a result.
 */
import type { MachineCosts, Spread } from './costs.ts';

/** One thing that was counted, a page touched or an instruction that exits. */
export interface Counted {
  /** Out of a guest and back. */
  exits: number;
  /** All levels below the guest, tracepoints included. */
  instructions: number;
  /** Pages of 4 KiB that are cleared meanwhile. */
  cleared: number;
}

/** What is in counted instructions and has a cost of its own. */
export interface Basis {
  /** An exit with nothing to do: the way into KVM and out again, with its tracepoints. */
  exitInstructions: number;
  /** Clearing a page, by the function that the kernel chose for the emulated processor. */
  clearInstructions: number;
}

/** Half of the range on a log scale, as a relative error. */
const relative = ({ low, high }: Spread): number => Math.log(high / low) / 2;

/**
 * Microseconds. The range is that of independent errors: each cost moved to its least and greatest in turn, added in quadrature
 * (on a log scale).
 */
export function timeOf(c: Counted, basis: Basis, m: MachineCosts): Spread {
  const known = c.exits * basis.exitInstructions + c.cleared * basis.clearInstructions;
  const work = Math.max(0, c.instructions - known);
  const exitsUs = c.exits * m.exitUs.value;
  const clearUs = c.cleared * m.clearUs.value;
  const workUs = (work * m.cyclesPerInstruction.value) / m.ghz.value / 1000;
  const value = exitsUs + clearUs + workUs;
  if (!(value > 0)) return { value: 0, low: 0, high: 0 };
  const error = Math.hypot(
    exitsUs * relative(m.exitUs),
    clearUs * relative(m.clearUs),
    workUs * relative(m.cyclesPerInstruction),
    workUs * relative(m.ghz),
  );
  const factor = Math.exp(error / value);
  return { value, low: value / factor, high: value * factor };
}

/** A range wider than that would be met by anything. */
const WIDEST = 3;

export interface Check {
  id: string;
  what: string;
  /** us, measured on the machine of the model. */
  measured: number;
  model: Spread;
  /** The model may predict only if it holds. */
  required: boolean;
  reproduced: boolean;
}

export function check(row: Pick<Check, 'id' | 'what' | 'measured' | 'required'>, model: Spread): Check {
  const { low, high } = model;
  const reproduced = row.measured >= low && row.measured <= high && high <= WIDEST * low;
  return { ...row, model, reproduced };
}

/** Why nothing may be predicted; undefined: it may. */
export function refusal(checks: readonly Check[]): string | undefined {
  const failed = checks.filter((c) => c.required && !c.reproduced);
  if (!checks.some((c) => c.required)) return 'no row of the paper was compared';
  if (failed.length === 0) return undefined;
  return failed
    .map(({ what, measured, model: { low, high } }) => {
      const range = `${low.toFixed(2)} to ${high.toFixed(2)} us`;
      return high > WIDEST * low
        ? `${what}: ${range} says too little`
        : `${what}: ${measured} us measured, ${range} by the model`;
    })
    .join('; ');
}
