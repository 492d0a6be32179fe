/**
 * The dearest way through a function: the longest path through each loop's body, times the rounds that its code allows,
 * inner loops first. What cannot be bounded so is left as a price per instruction that the verifier walks: each step of
 * a run is one that the verifier has walked, and no two are the same.
 */
import { OP_CALL, OP_EXIT } from '../../../kernel/bpf-insn.ts';
import { LINE, State, lineOf, step, walk } from './flow.ts';
import type { Access, Code, Flow } from './flow.ts';
import { substitute } from './forms.ts';
import type { Form } from './forms.ts';
import type { Region } from './graph.ts';
import { PRICES, priceOf } from './prices.ts';
import { changeOf, roundsOf, stepsOf } from './trips.ts';
import type { Steps } from './trips.ts';

/** Time, and what takes most of it. */
export interface Cost {
  ns: number;
  /** The instruction with the largest part, in all rounds together. */
  top: { ns: number; at: number; why: string; times: number };
}

/** A loop whose code does not say how often it goes round. */
export interface OpenLoop {
  /** Where it begins. */
  at: number;
  /** Most for each instruction of a round. */
  nsPerInstruction: number;
  top: Cost['top'];
}

export interface Pricing {
  call: (at: number) => { ns: number; why: string };
  spend: (work: number) => void;
  /** More rounds than the verifier would walk are no bound. */
  mostSteps: number;
}

const NOTHING: Cost = { ns: 0, top: { ns: 0, at: 0, why: '', times: 1 } };

function plus(a: Cost, b: Cost): Cost {
  return { ns: a.ns + b.ns, top: b.top.ns > a.top.ns ? b.top : a.top };
}

function by(n: number, c: Cost): Cost {
  return { ns: n * c.ns, top: { ...c.top, ns: n * c.top.ns, times: n * c.top.times } };
}

const dearer = (a: Cost, b: Cost): Cost => (b.ns > a.ns ? b : a);

/** What a loop is to what is around it. */
interface Collapsed {
  cost: Cost;
  /** Accesses that are the same in each round, as sums of what was there when it began: they are paid for once. */
  once: { access: Access; at: number }[];
}

export class Worst {
  readonly open: OpenLoop[] = [];
  readonly #code: Code;
  readonly #p: Pricing;

  constructor(code: Code, pricing: Pricing) {
    this.#code = code;
    this.#p = pricing;
  }

  /** A function. */
  of(region: Region): Cost {
    if (region.tangled) return this.#tangled(region).cost;
    const flow = walk(this.#code, region, this.#p.spend);
    const { ends } = this.#longest(region, flow, undefined, new Map());
    return ends;
  }

  /** A loop: `around` says what registers hold when it begins, in the terms of the region around it. */
  #loop(region: Region, around: (name: string) => Form | undefined): Collapsed {
    if (region.tangled) return this.#tangled(region);
    const flow = walk(this.#code, region, this.#p.spend);
    const steps = stepsOf(region, flow, this.#code);
    const once = new Map<string, { access: Access; at: number }>();
    const { rounds: round, ends } = this.#longest(region, flow, steps, once);
    const rounds = roundsOf(region, flow, this.#code, steps, around, this.#p.spend);
    const at = this.#code.blocks[region.header!]!.insns[0]!;
    const isBounded = rounds !== undefined && rounds * round.steps <= this.#p.mostSteps;
    if (!isBounded) this.open.push({ at, nsPerInstruction: round.ratio, top: round.cost.top });
    return {
      cost: isBounded ? plus(by(rounds, round.cost), ends) : ends,
      once: Array.from(once.values(), ({ access, at }) => ({
        access: { ...access, address: access.address && substitute(access.address, around) },
        at,
      })),
    };
  }

  #tangled(region: Region): Collapsed {
    let worst = NOTHING;
    for (const b of region.blocks)
      for (const at of this.#code.blocks[b]!.insns) {
        const i = this.#code.insns[at]!;
        const ns = PRICES.far + (i.op === OP_CALL ? this.#p.call(at).ns : priceOf(i));
        worst = dearer(worst, { ns, top: { ns, at, why: 'a loop with more than one entry', times: 1 } });
      }
    this.open.push({ at: worst.top.at, nsPerInstruction: worst.ns, top: worst.top });
    return { cost: NOTHING, once: [] };
  }

  /** The dearest full round, and the dearest way from the begin to any end. */
  #longest(
    region: Region,
    flow: Flow,
    steps: Steps | undefined,
    once: Map<string, { access: Access; at: number }>,
  ): { rounds: { cost: Cost; steps: number; ratio: number }; ends: Cost } {
    const nodes = region.order.map((node) => this.#node(node, region, flow, steps, once));
    const path = (value: (c: Node) => number): Paths => this.#paths(region, nodes, value);
    const plain = path((n) => n.cost.ns);
    const rounds = { cost: plain.round ?? NOTHING, steps: plain.shortest, ratio: 0 };
    // the largest cost per instruction of any round: each pass finds a round with a larger one, or none
    let best = plain.roundSteps > 0 ? rounds.cost.ns / plain.roundSteps : 0;
    for (let n = 0; n < 16 && plain.round; n++) {
      const { round, roundSteps } = path((c) => c.cost.ns - best * c.steps);
      const ratio = round && roundSteps > 0 ? round.ns / roundSteps : 0;
      if (ratio <= best) break;
      if (n === 15) best = rounds.cost.ns / Math.max(1, plain.shortest);
      else best = ratio;
    }
    rounds.ratio = best;
    return { rounds, ends: plain.end };
  }

  #node(
    node: number | Region,
    region: Region,
    flow: Flow,
    steps: Steps | undefined,
    once: Map<string, { access: Access; at: number }>,
  ): Node {
    if (typeof node === 'number') {
      const s = new State(flow.before.get(node));
      let cost = NOTHING;
      const { insns, next } = this.#code.blocks[node]!;
      for (const at of insns) cost = plus(cost, this.#instruction(at, s, steps, once));
      const isEnd = next.length === 0 || this.#code.insns[insns.at(-1)!]!.op === OP_EXIT;
      return { blocks: new Set([node]), entry: node, next, cost, steps: insns.length, isEnd };
    }
    const entry = node.header ?? node.blocks.values().next().value ?? 0;
    const begin = this.#beginOf(node, region, flow);
    const inner = this.#loop(node, (name) => begin?.named(name) ?? undefined);
    let { cost } = inner;
    for (const { access, at } of inner.once)
      cost = plus(cost, this.#far(access, at, begin ?? new State(), steps, once));
    const next = Array.from(node.blocks).flatMap((b) =>
      this.#code.blocks[b]!.next.filter((n) => !node.blocks.has(n)),
    );
    const isEnd = Array.from(node.blocks).some((b) => this.#code.blocks[b]!.next.length === 0);
    return { blocks: node.blocks, entry, next, cost, steps: 1, isEnd };
  }

  /** What is known where an inner loop is entered, not where it goes round. */
  #beginOf(inner: Region, region: Region, flow: Flow): State | undefined {
    const { header } = inner;
    if (header === undefined) return undefined;
    if (header === (region.header ?? 0) && region.header === undefined) return new State();
    let begin: State | undefined;
    for (const [b, s] of flow.after) {
      if (inner.blocks.has(b) || !region.blocks.has(b) || !this.#code.blocks[b]!.next.includes(header))
        continue;
      if (begin) begin.join(s, -1 - header);
      else begin = new State(s);
    }
    return begin;
  }

  #instruction(
    at: number,
    s: State,
    steps: Steps | undefined,
    once: Map<string, { access: Access; at: number }>,
  ): Cost {
    const i = this.#code.insns[at]!;
    if (i.op === OP_CALL) {
      const { ns, why } = this.#p.call(at);
      step(this.#code, at, s);
      return { ns, top: { ns, at, why, times: 1 } };
    }
    const ns = priceOf(i);
    const plain: Cost = { ns, top: { ns, at, why: 'an instruction', times: 1 } };
    const access = step(this.#code, at, s);
    return access ? plus(plain, this.#far(access, at, s, steps, once)) : plain;
  }

  /** What it takes on top when the memory is not at hand. */
  #far(
    access: Access,
    at: number,
    s: State,
    steps: Steps | undefined,
    once: Map<string, { access: Access; at: number }>,
  ): Cost {
    const of = (ns: number): Cost => ({ ns, top: { ns, at, why: 'memory that is not at hand', times: 1 } });
    const line = lineOf(access);
    if (line === undefined || !access.address) return of(PRICES.far);
    if (s.touched.has(line)) return NOTHING;
    if (steps) {
      const change = changeOf(access.address, steps);
      if (change === 0) {
        once.set(line, { access, at });
        return NOTHING;
      }
      if (change !== undefined && Math.abs(change) < LINE) {
        // piece after piece, and one more where it begins
        once.set(`${line} moves`, { access: { ...access, address: undefined }, at });
        return of((PRICES.far * Math.abs(change)) / LINE);
      }
    }
    s.touched.add(line);
    return of(PRICES.far);
  }

  #paths(region: Region, nodes: readonly Node[], value: (n: Node) => number): Paths {
    const out: Paths = { round: undefined, roundSteps: 0, shortest: Infinity, end: NOTHING };
    const at = new Map<number, Best>();
    at.set(region.header ?? 0, { value: 0, cost: NOTHING, steps: 0, least: 0 });
    let bestRound = -Infinity;
    let bestEnd = -Infinity;
    for (const n of nodes) {
      this.#p.spend(4);
      const before = at.get(n.entry);
      if (!before) continue;
      const here: Best = {
        value: before.value + value(n),
        cost: plus(before.cost, n.cost),
        steps: before.steps + n.steps,
        least: before.least + n.steps,
      };
      const leaves = n.isEnd || n.next.some((to) => !region.blocks.has(to));
      if ((leaves || region.header === undefined) && here.value > bestEnd) {
        bestEnd = here.value;
        out.end = here.cost;
      }
      for (const to of n.next) {
        if (region.header !== undefined && to === region.header) {
          out.shortest = Math.min(out.shortest, here.least);
          if (here.value > bestRound) {
            bestRound = here.value;
            out.round = here.cost;
            out.roundSteps = here.steps;
          }
        } else if (region.blocks.has(to)) {
          const known = at.get(to);
          const least = Math.min(known?.least ?? Infinity, here.least);
          at.set(to, !known || here.value > known.value ? { ...here, least } : { ...known, least });
        }
      }
    }
    return out;
  }
}

interface Node {
  blocks: ReadonlySet<number>;
  entry: number;
  next: readonly number[];
  cost: Cost;
  steps: number;
  isEnd: boolean;
}

interface Best {
  value: number;
  cost: Cost;
  steps: number;
  /** Instructions of the shortest way here. */
  least: number;
}

interface Paths {
  round: Cost | undefined;
  roundSteps: number;
  shortest: number;
  end: Cost;
}
