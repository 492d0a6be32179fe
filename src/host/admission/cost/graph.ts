/** The shape of one function's code: blocks, and loops within loops. Pure, linear in the code for each level of loops. */
import {
  CLASS_JMP,
  CLASS_JMP32,
  CLASS_MASK,
  JMP_JA,
  OPERATION_MASK,
  OP_CALL,
  OP_EXIT,
  OP_JA32,
  OP_LD_IMM64,
} from '../../../kernel/bpf-insn.ts';
import type { Instruction } from '../code.ts';

export interface Block {
  /** Numbers of its instructions in the section, in order; second halves of constants left out. */
  insns: readonly number[];
  /** Blocks that may follow; none behind an exit. The second is where a conditional jump leads. */
  next: readonly number[];
}

/** A function (`header` undefined) or a loop in one: what is in it, and in which order it runs. */
export interface Region {
  /** The one block by which a loop is entered. */
  header: number | undefined;
  blocks: ReadonlySet<number>;
  /** Blocks and inner loops such that each comes before those it leads to, but for the way back to `header`. */
  order: readonly (number | Region)[];
  /** It has more than one entry, or loops are nested too deep: nothing is known of its order. */
  tangled: boolean;
}

const DEEPEST = 32;

function isJump(op: number): boolean {
  const cls = op & CLASS_MASK;
  return (cls === CLASS_JMP || cls === CLASS_JMP32) && op !== OP_CALL && op !== OP_EXIT;
}

/** Where it goes on behind instruction `at`: first straight on, then where it jumps. */
function following(i: Instruction, at: number): number[] {
  if (i.op === OP_EXIT) return [];
  if (i.op === OP_LD_IMM64) return [at + 2];
  if (!isJump(i.op)) return [at + 1];
  const target = at + 1 + (i.op === OP_JA32 ? i.imm : i.offset);
  return (i.op & OPERATION_MASK) === JMP_JA ? [target] : [at + 1, target];
}

/** The blocks that can be reached from instruction `start`, which begins block 0. */
export function blocksFrom(insns: readonly Instruction[], start: number): Block[] {
  const leaders = new Set([start]);
  const seen = new Set<number>();
  const work = [start];
  for (let at = work.pop(); at !== undefined; at = work.pop()) {
    const i = insns[at];
    if (i === undefined || seen.has(at)) continue;
    seen.add(at);
    const next = following(i, at);
    if (isJump(i.op)) next.forEach((n) => leaders.add(n));
    work.push(...next);
  }
  const starts = [start, ...Array.from(leaders).filter((at) => at !== start && seen.has(at))];
  const numbers = new Map(starts.map((at, n) => [at, n]));
  return starts.map((from) => {
    const inside: number[] = [];
    let next: number[] = [from];
    do {
      const [at = from] = next;
      inside.push(at);
      next = following(insns[at]!, at);
    } while (next.length === 1 && seen.has(next[0]!) && !leaders.has(next[0]!));
    return { insns: inside, next: next.flatMap((at) => numbers.get(at) ?? []) };
  });
}

/** The function's loops. `spend` throws when this takes too long. */
export function regionOf(blocks: readonly Block[], spend: (work: number) => void): Region {
  return region(blocks, new Set(blocks.keys()), undefined, 0, spend);
}

function region(
  blocks: readonly Block[],
  inside: ReadonlySet<number>,
  header: number | undefined,
  depth: number,
  spend: (work: number) => void,
): Region {
  spend(4 * inside.size);
  const parts = components(blocks, inside, header);
  const order = parts.map((part): number | Region => {
    const [only] = part;
    if (part.size === 1 && only !== undefined && (only === header || !blocks[only]!.next.includes(only)))
      return only;
    spend(inside.size);
    const entries = entriesOf(blocks, inside, part, header);
    const [entry] = entries;
    if (entries.size !== 1 || entry === undefined || depth === DEEPEST)
      return { header: undefined, blocks: part, order: [...part], tangled: true };
    return region(blocks, part, entry, depth + 1, spend);
  });
  return { header, blocks: inside, order, tangled: false };
}

/** Blocks of `part` that are reached from outside of it. */
function entriesOf(
  blocks: readonly Block[],
  inside: ReadonlySet<number>,
  part: ReadonlySet<number>,
  header: number | undefined,
): Set<number> {
  const entries = new Set<number>();
  if (part.has(0) && header === undefined) entries.add(0);
  for (const from of inside)
    if (!part.has(from)) for (const to of blocks[from]!.next) if (part.has(to)) entries.add(to);
  return entries;
}

/** Strongly connected parts of `inside` without the edges to `header`, each before those it leads to (Tarjan). */
function components(
  blocks: readonly Block[],
  inside: ReadonlySet<number>,
  header: number | undefined,
): Set<number>[] {
  const found: Set<number>[] = [];
  const number = new Map<number, number>();
  const low = new Map<number, number>();
  const stack: number[] = [];
  const onStack = new Set<number>();
  const enter = (b: number): { block: number; at: number } => {
    number.set(b, number.size);
    low.set(b, number.size - 1);
    stack.push(b);
    onStack.add(b);
    return { block: b, at: 0 };
  };
  const lower = (b: number, to: number): unknown => low.set(b, Math.min(low.get(b)!, to));
  for (const root of inside) {
    if (number.has(root)) continue;
    const calls = [enter(root)];
    for (let top = calls.at(-1); top !== undefined; top = calls.at(-1)) {
      const to = blocks[top.block]!.next[top.at++];
      if (to === undefined) {
        calls.pop();
        const parent = calls.at(-1);
        if (parent) lower(parent.block, low.get(top.block)!);
        if (low.get(top.block) !== number.get(top.block)) continue;
        const part = new Set<number>();
        for (let b = stack.pop(); b !== undefined; b = stack.pop()) {
          onStack.delete(b);
          part.add(b);
          if (b === top.block) break;
        }
        found.push(part);
      } else if (to !== header && inside.has(to)) {
        if (!number.has(to)) calls.push(enter(to));
        else if (onStack.has(to)) lower(top.block, number.get(to)!);
      }
    }
  }
  return found.reverse();
}
