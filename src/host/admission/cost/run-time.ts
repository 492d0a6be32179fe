/** Rule `run-time`: what one run of each program may take, before the kernel is asked and after. */
import { CALL_FUNCTION, INSN_BYTES } from '../../../kernel/bpf-insn.ts';
import type { HelperSpec } from '../../hooks.ts';
import type { Instruction, Instructions } from '../code.ts';
import { functionAt } from '../layout.ts';
import type { CodeSection, Layout } from '../layout.ts';
import type { CheckedMap, Dearest, Refusal, RunTime } from '../verdict.ts';
import { Facts } from './facts.ts';
import { blocksFrom, regionOf } from './graph.ts';
import { PRICES, helperPrice } from './prices.ts';
import { Worst } from './worst.ts';
import type { Cost, OpenLoop } from './worst.ts';

/** Work for one program, and for all of an object: some tenths of a second. The largest shipped one fits three times. */
const BUDGET = 180_000;
const OBJECT_BUDGET = 4 * BUDGET;

class TooComplex extends Error {}

export interface RunTimeContext {
  layout: Layout;
  instructions: Instructions;
  facts: ReadonlyMap<CodeSection, Facts>;
  maps: readonly CheckedMap[];
  /** Possible CPUs of the host: some helpers touch a value of each. */
  cpus: number;
}

interface FunctionCost {
  cost: Cost;
  section: CodeSection;
  open: readonly OpenLoop[];
  /** Prices that are paid once a run, by key. */
  once: ReadonlyMap<string, number>;
  /** Functions that it calls, itself included. */
  all: ReadonlySet<FunctionCost>;
  /** Where the dearest instruction is. */
  top: Dearest;
}

/** By program's name; undefined for one that is too complex, or calls itself. */
export function runTimes(c: RunTimeContext): Map<string, RunTime | undefined> {
  const out = new Map<string, RunTime | undefined>();
  const all = new Costs(c);
  for (const code of c.layout.code)
    if (code.hook) for (const fn of code.functions) out.set(fn.name, all.program(code, fn.from / INSN_BYTES));
  return out;
}

class Costs {
  readonly #c: RunTimeContext;
  readonly #known = new Map<string, FunctionCost | undefined>();
  /** Left for this program, and for the object with it. */
  #left = 0;
  #leftInAll = OBJECT_BUDGET;
  #helpers: readonly HelperSpec[] = [];
  #mostSteps = 0;

  constructor(c: RunTimeContext) {
    this.#c = c;
  }

  program(code: CodeSection, start: number): RunTime | undefined {
    if (code.hook?.helpers !== this.#helpers) this.#known.clear();
    this.#helpers = code.hook?.helpers ?? [];
    this.#mostSteps = code.hook?.verifiedInstructions ?? 0;
    this.#left = Math.min(BUDGET, this.#leftInAll);
    const begun = this.#left;
    let f: FunctionCost;
    try {
      f = this.#function(code, start);
    } catch (e) {
      if (!(e instanceof TooComplex)) throw e;
      return undefined;
    } finally {
      this.#leftInAll -= begun - this.#left;
    }
    const once = new Map<string, number>();
    let open: { loop: OpenLoop; section: CodeSection } | undefined;
    for (const each of f.all) {
      for (const [key, ns] of each.once) once.set(key, ns);
      for (const loop of each.open)
        if (!open || loop.nsPerInstruction > open.loop.nsPerInstruction)
          open = { loop, section: each.section };
    }
    const extra = Array.from(once.values()).reduce((a, b) => a + b, 0);
    const inLoop = open && open.loop.top.ns > 0 ? dearest(open.section, open.loop.top) : undefined;
    return {
      ns: Math.ceil(f.cost.ns + extra),
      nsPerInstruction: open?.loop.nsPerInstruction ?? 0,
      dearest: inLoop
        ? { ...inLoop, why: `${inLoop.why} in a loop without a bound that can be seen` }
        : f.top,
    };
  }

  #function(section: CodeSection, start: number): FunctionCost {
    const key = `${section.index}.${start}`;
    if (this.#known.has(key)) {
      const known = this.#known.get(key);
      if (!known) throw new TooComplex(); // it calls itself
      return known;
    }
    this.#known.set(key, undefined);
    const insns = this.#c.instructions.get(section) ?? [];
    const facts = this.#c.facts.get(section) ?? new Facts();
    const blocks = insns[start] ? blocksFrom(insns, start) : [];
    const all = new Set<FunctionCost>();
    const once = new Map<string, number>();
    const called = new Map<number, FunctionCost>();
    const spend = (work: number): void => {
      if ((this.#left -= work) < 0) throw new TooComplex();
    };
    const worst = new Worst(
      { insns, facts, blocks },
      {
        mostSteps: this.#mostSteps,
        spend,
        call: (at) => this.#call(insns, at, facts, once, called, all),
      },
    );
    if (blocks.length === 0) throw new TooComplex();
    const cost = worst.of(regionOf(blocks, spend));
    const deeper = called.get(cost.top.at)?.top;
    const top = deeper
      ? { ...deeper, times: deeper.times * cost.top.times, ns: deeper.ns * cost.top.times }
      : dearest(section, cost.top);
    const f: FunctionCost = { cost, section, open: worst.open, once, all, top };
    all.add(f);
    this.#known.set(key, f);
    return f;
  }

  #call(
    insns: readonly Instruction[],
    at: number,
    facts: Facts,
    once: Map<string, number>,
    called: Map<number, FunctionCost>,
    all: Set<FunctionCost>,
  ): { ns: number; why: string } {
    const i = insns[at]!;
    if (i.src === CALL_FUNCTION) {
      const text = this.#c.layout.code.find((s) => s.hook === undefined);
      if (!text) throw new TooComplex();
      const target = (i.relocation ? i.relocation.symbol.value / INSN_BYTES : at) + i.imm + 1;
      const f = this.#function(text, target);
      called.set(at, f);
      for (const each of f.all) all.add(each);
      return { ns: PRICES.call + f.cost.ns, why: 'a function' };
    }
    const helper = this.#helpers.find((h) => h.number === i.imm);
    if (!helper) return { ns: 0, why: 'no path leads there' };
    const map = this.#c.maps.find((m) => m.name === facts.mapOf(at)) ?? null;
    const argument = (n: number): number | undefined => facts.argument(at, n);
    const price = helperPrice(helper.name, map, this.#c.maps, argument, this.#c.cpus);
    if (price.once) once.set(price.once.key, price.once.ns);
    return { ns: PRICES.call + price.ns, why: price.why };
  }
}

function dearest(section: CodeSection, top: Cost['top']): Dearest {
  const fn = functionAt(section, top.at * INSN_BYTES);
  return {
    program: fn?.name ?? section.section.name,
    instruction: top.at - (fn ? fn.from / INSN_BYTES : 0),
    why: top.why,
    times: Math.round(top.times),
    ns: Math.ceil(top.ns),
  };
}

/** At most so many nanoseconds, when the verifier has walked (or would walk) so many instructions. */
export const mostNs = (run: RunTime, verifiedInstructions: number): number =>
  Math.ceil(run.ns + run.nsPerInstruction * verifiedInstructions);

/** The refusal of a program that may run for longer than `limitNs`, if it may. `run` undefined: too complex. */
export function runTimeRefusal(
  program: string,
  run: RunTime | undefined,
  limitNs: number,
  verifiedInstructions = 0,
): Refusal | undefined {
  if (!run)
    return {
      rule: 'run-time',
      program,
      message: 'its loops and calls are too complex to say how long a run can take',
      mend: 'fewer loops within loops, no function that calls itself',
    };
  const ns = mostNs(run, verifiedInstructions);
  if (ns <= limitNs) return undefined;
  const { dearest: d } = run;
  const walked =
    run.nsPerInstruction > 0 ? ` (the verifier walked ${verifiedInstructions} instructions)` : '';
  const often = d.times > 1 ? `${d.times} times ` : '';
  return {
    rule: 'run-time',
    program,
    instruction: d.instruction,
    message: `a run may take ${micros(ns)} us on a slow core${walked}, at most ${micros(limitNs)} allowed; ${micros(d.ns)} of them: ${often}${d.why}${d.program === program ? '' : ` in ${d.program}`}`,
    mend:
      run.nsPerInstruction > 0
        ? 'give each loop a constant bound (for (i = 0; i < 64; i++)), and do less in it'
        : 'fewer rounds, smaller keys, values and records, less memory touched',
  };
}

/** 3123 is 3.2: never less than it is. */
export const micros = (ns: number): string => (Math.ceil(ns / 100) / 10).toFixed(1);
