/**
 * How often a loop can go round, from its code alone: a test on each way round that compares what grows by the same
 * step each time with a constant. What cannot be seen so is bounded by what the verifier walks.
 */
import { CLASS_JMP, CLASS_MASK, OPERATION_MASK, SOURCE_REGISTER } from '../../../kernel/bpf-insn.ts';
import { State, walk } from './flow.ts';
import type { Code, Flow } from './flow.ts';
import { add, constant, isConstant, same, substitute } from './forms.ts';
import type { Form } from './forms.ts';
import type { Region } from './graph.ts';

/** By which each register or word of the stack changes from one round to the next; those that change otherwise are left out. */
export type Steps = (name: string) => { by: number; width: 64 | 32 } | undefined;

const OPPOSITE: Readonly<Record<number, number>> = {
  0x10: 0x50,
  0x50: 0x10,
  0x20: 0xb0,
  0xb0: 0x20,
  0x30: 0xa0,
  0xa0: 0x30,
  0x60: 0xd0,
  0xd0: 0x60,
  0x70: 0xc0,
  0xc0: 0x70,
};
const MIRROR: Readonly<Record<number, number>> = {
  0x10: 0x10,
  0x50: 0x50,
  0x20: 0xa0,
  0xa0: 0x20,
  0x30: 0xb0,
  0xb0: 0x30,
  0x60: 0xc0,
  0xc0: 0x60,
  0x70: 0xd0,
  0xd0: 0x70,
};
const EQ = 0x10;
const GT = 0x20;
const GE = 0x30;
const NE = 0x50;
const SGT = 0x60;
const SGE = 0x70;
const LT = 0xa0;
const LE = 0xb0;
const SLT = 0xc0;
const SLE = 0xd0;
const UNSIGNED: Readonly<Record<number, number>> = { [SGT]: GT, [SGE]: GE, [SLT]: LT, [SLE]: LE };
const MOST_TESTS = 32;
const MOST_ROUNDS = 1 << 24;

/** What changes by a constant in each round: the same at every end of one. */
export function stepsOf(region: Region, flow: Flow, code: Code): Steps {
  const ends = endsOf(region, flow, code);
  const cache = new Map<string, { by: number; width: 64 | 32 } | undefined>();
  const find = (name: string): { by: number; width: 64 | 32 } | undefined => {
    if (name.startsWith('@')) return { by: 0, width: 64 };
    let found: { by: number; width: 64 | 32 } | undefined;
    for (const s of ends) {
      const f = s.named(name);
      if (f?.terms.size !== 1 || f.terms.get(name) !== 1 || f.width === 0) return undefined;
      if (found && (found.by !== f.constant || found.width !== f.width)) return undefined;
      found = { by: f.constant, width: f.width };
    }
    return found && Math.abs(found.by) < 1 << 24 ? found : undefined;
  };
  return (name) => {
    if (!cache.has(name)) cache.set(name, find(name));
    return cache.get(name);
  };
}

function endsOf(region: Region, flow: Flow, code: Code): State[] {
  return Array.from(flow.after).flatMap(([b, s]) =>
    region.header !== undefined && code.blocks[b]!.next.includes(region.header) ? [s] : [],
  );
}

/** What is known where a second round begins, if any: what is the same number after each. */
function secondBegin(region: Region, flow: Flow, code: Code): State | undefined {
  const [first, ...others] = endsOf(region, flow, code);
  if (!first) return undefined;
  const begin = new State();
  let any = false;
  const always = (name: string): Form | undefined => {
    const f = first.named(name);
    return isConstant(f) && others.every((s) => same(s.named(name), f)) ? f : undefined;
  };
  begin.registers.forEach((_, n) => {
    const f = always(`r${n}`);
    if (f) begin.registers[n] = f;
    any ||= f !== undefined;
  });
  for (const word of first.stack.keys()) {
    const f = always(word);
    if (f) begin.stack.set(word, f);
    any ||= f !== undefined;
  }
  return any ? begin : undefined;
}

/** A flag that the first round sets, and with which no second one comes to its end. */
function endsByFlag(region: Region, flow: Flow, code: Code, spend: (work: number) => void): boolean {
  const begin = secondBegin(region, flow, code);
  if (!begin) return false;
  const second = walk(code, region, spend, begin);
  return testsOf(region, second, code).some(({ block, value, other, stays }) => {
    if (!isConstant(value) || !isConstant(other) || (stays !== EQ && stays !== NE)) return false;
    // small and not negative: the same in registers of either size
    if (Math.min(value.constant, other.constant) < 0 || Math.max(value.constant, other.constant) > 1e9)
      return false;
    return (value.constant === other.constant) !== (stays === EQ) && isOnEachWay(region, block, code, spend);
  });
}

interface Test {
  block: number;
  value: Form | undefined;
  other: Form | undefined;
  /** The comparison with which the loop goes on. */
  stays: number;
  wide: boolean;
}

/** Conditional jumps by which the loop may be left. */
function testsOf(region: Region, flow: Flow, code: Code): Test[] {
  const tests: Test[] = [];
  for (const b of region.order) {
    if (typeof b !== 'number' || tests.length === MOST_TESTS) continue;
    const { insns, next } = code.blocks[b]!;
    const [on, away] = next;
    if (on === undefined || away === undefined || on === away) continue;
    const leaves = [on, away].map((n) => !region.blocks.has(n));
    if (leaves[0] === leaves[1]) continue;
    const i = code.insns[insns.at(-1)!]!;
    const state = flow.after.get(b);
    const stays = leaves[1] ? OPPOSITE[i.op & OPERATION_MASK] : i.op & OPERATION_MASK;
    if (!state || stays === undefined) continue;
    const other = i.op & SOURCE_REGISTER ? state.registers[i.src] : constant(i.imm);
    const wide = (i.op & CLASS_MASK) === CLASS_JMP;
    tests.push({ block: b, value: state.registers[i.dst], other, stays, wide });
  }
  return tests;
}

/** How much a sum changes in each round; undefined when that is not always the same. */
export function changeOf(f: Form, steps: Steps): number | undefined {
  let sum = 0;
  for (const [name, n] of f.terms) {
    const s = steps(name);
    if (!s) return undefined;
    sum += n * s.by;
  }
  return Number.isSafeInteger(sum) ? sum : undefined;
}

/**
 * Most times that the loop goes round, or undefined. `entry(name)`: what a register or word of the stack holds when the
 * loop begins, as a sum of what is around it.
 */
export function roundsOf(
  region: Region,
  flow: Flow,
  code: Code,
  steps: Steps,
  entry: (name: string) => Form | undefined,
  spend: (work: number) => void,
): number | undefined {
  let best: number | undefined;
  for (const { block, value, other, stays, wide } of testsOf(region, flow, code)) {
    const rounds = roundsOfTest(value, other, stays, wide, steps, entry);
    if (rounds === undefined || rounds >= (best ?? MOST_ROUNDS)) continue;
    if (isOnEachWay(region, block, code, spend)) best = rounds;
  }
  return best ?? (endsByFlag(region, flow, code, spend) ? 1 : undefined);
}

/** Whether no way round the loop avoids block `b`. */
function isOnEachWay(region: Region, b: number, code: Code, spend: (work: number) => void): boolean {
  const { header } = region;
  if (header === undefined || b === header) return header !== undefined;
  const seen = new Set([header]);
  const work = [header];
  for (let at = work.pop(); at !== undefined; at = work.pop()) {
    spend(1);
    for (const to of code.blocks[at]!.next) {
      if (to === header) return false;
      if (to === b || seen.has(to) || !region.blocks.has(to)) continue;
      seen.add(to);
      work.push(to);
    }
  }
  return true;
}

function roundsOfTest(
  a: Form | undefined,
  b: Form | undefined,
  stays: number,
  wide: boolean,
  steps: Steps,
  entry: (name: string) => Form | undefined,
): number | undefined {
  if (!a || !b) return undefined;
  if (isConstant(a))
    return isConstant(b) ? undefined : roundsOfTest(b, a, MIRROR[stays] ?? 0, wide, steps, entry);
  const isEquality = stays === EQ || stays === NE;
  if (!isConstant(b) && !isEquality) return undefined;
  const difference = isConstant(b) ? a : add(a, b, -1);
  const step = difference && changeOf(difference, steps);
  if (!difference || step === undefined || step === 0) return undefined;
  const narrow = Array.from(difference.terms.keys()).some((name) => steps(name)?.width === 32);
  const lower = !wide || difference.width === 32;
  const isPlain =
    difference.terms.size === 1 && difference.constant === 0 && difference.terms.values().next().value === 1;
  const bits = lower || (narrow && isPlain) ? 32 : 64;
  const first = substitute(difference, entry);
  const from = first && isConstant(first) && first.width !== 0 ? first.constant : undefined;
  const limit = isConstant(b) ? b.constant : 0;
  // a lower half in a wide register is never negative
  const unsigned = bits === 32 && wide && limit >= 0 ? (UNSIGNED[stays] ?? stays) : stays;
  if (bits === 32 && wide && limit < 0 && stays in UNSIGNED) return undefined;
  const rounds = sequence(from, step, unsigned, limit, bits);
  // a lower half that begins from 0 again in between makes two runs of one
  const mayWrap = bits === 64 && (narrow || difference.width === 0);
  return rounds === undefined ? undefined : mayWrap ? 2 * rounds + 1 : rounds;
}

/** How many in a row of from, from + step, ... modulo 2^bits satisfy the test; undefined: not known, or too many. */
function sequence(
  from: number | undefined,
  step: number,
  stays: number,
  limit: number,
  bits: 32 | 64,
): number | undefined {
  const size = 1n << BigInt(bits);
  const isSigned = stays === SGT || stays === SGE || stays === SLT || stays === SLE;
  const into = (n: number): bigint =>
    isSigned ? BigInt.asIntN(bits, BigInt(n)) : BigInt.asUintN(bits, BigInt(n));
  const [min, max] = isSigned ? [-size / 2n, size / 2n - 1n] : [0n, size - 1n];
  const s = BigInt(step);
  const by = s < 0n ? -s : s;
  const to = into(limit);
  const done = (n: bigint): number | undefined => (n <= BigInt(MOST_ROUNDS) ? Number(n) : undefined);
  if (stays === EQ) return 1;
  if (stays === NE) {
    if (from === undefined) return undefined;
    const distance = BigInt.asUintN(bits, s > 0n ? to - into(from) : into(from) - to);
    return distance % by === 0n ? done(distance / by) : undefined;
  }
  // the test holds in [low, high]
  const low = stays === GT || stays === SGT ? to + 1n : stays === GE || stays === SGE ? to : min;
  const high = stays === LT || stays === SLT ? to - 1n : stays === LE || stays === SLE ? to : max;
  if (low > high) return 0;
  const length = high - low;
  // a step must not lead over the gap behind its end to where it holds again
  if (by > size - length - 1n) return undefined;
  if (from !== undefined) {
    const f = into(from);
    if (f < low || f > high) return 0;
    return done((s > 0n ? high - f : f - low) / by + 1n);
  }
  return done(length / by + 1n);
}
