/**
 * What registers and the stack hold along the paths of a region, as sums (forms.ts) of what they held at its begin, and
 * which pieces of memory have been touched on every path to a place. A walk over all paths until nothing changes.
 */
import {
  ALU_ADD,
  ALU_MOV,
  ALU_NEG,
  ALU_SUB,
  ATOMIC_COMPARE_EXCHANGE,
  ATOMIC_FETCH,
  ATOMIC_LOAD_ACQUIRE,
  CALL_HELPER,
  CLASS_ALU,
  CLASS_ALU64,
  CLASS_LDX,
  CLASS_MASK,
  CLASS_ST,
  CLASS_STX,
  LAST_REGISTER,
  OPERATION_MASK,
  OP_ATOMIC32,
  OP_ATOMIC64,
  OP_CALL,
  OP_LD_IMM64,
  SOURCE_REGISTER,
} from '../../../kernel/bpf-insn.ts';
import type { Instruction } from '../code.ts';
import { STACK_BYTES } from '../values.ts';
import { sizeOf } from '../transfer.ts';
import type { Facts } from './facts.ts';
import { add, constant, isConstant, keyOf, lowerHalf, same, symbol, times } from './forms.ts';
import type { Form } from './forms.ts';
import type { Block, Region } from './graph.ts';

const FRAME = 10;
const ALU_MUL = 0x20;
const ALU_LSH = 0x60;
const ALU_AND = 0x50;
/** Memory is fetched in pieces of this size. */
export const LINE = 64;
const OWN_STACK = symbol('@stack');
const MOST_LINES = 96;
const MODE = 0xe0;
const MODE_MEM = 0x60;
const WORDS = [
  ['s', 8],
  ['h', 4],
] as const;

/** The name of the word of the own stack with exactly these bytes. */
function wordAt(offset: number, bytes: number): string | undefined {
  const word = WORDS.find(([, size]) => size === bytes && offset % size === 0);
  return word && `${word[0]}${offset}`;
}

export class State {
  readonly registers: (Form | undefined)[];
  /**
   * Words of the own stack that were written, 8 bytes as `s-16` and 4 as `h-16`; others hold what they held at the
   * begin, unless `lost`.
   */
  readonly stack: Map<string, Form | undefined>;
  lost: boolean;
  /** `form/piece`: touched before. */
  readonly touched: Set<string>;

  constructor(from?: State) {
    this.registers = from
      ? [...from.registers]
      : Array.from({ length: LAST_REGISTER + 1 }, (_, n) => (n === FRAME ? OWN_STACK : symbol(`r${n}`)));
    this.stack = new Map(from?.stack);
    this.lost = from?.lost ?? false;
    this.touched = new Set(from?.touched);
  }

  word(name: string): Form | undefined {
    return this.stack.has(name) ? this.stack.get(name) : this.lost ? undefined : symbol(name);
  }

  /** `value` is written to the own stack: what was in any word that this touches is gone. */
  write(offset: number, bytes: number, value: Form | undefined): void {
    for (const [letter, size] of WORDS)
      for (let o = Math.floor(offset / size) * size; o < offset + bytes; o += size)
        this.stack.set(`${letter}${o}`, undefined);
    const name = wordAt(offset, bytes);
    if (name !== undefined) this.stack.set(name, value && (bytes === 4 ? lowerHalf(value) : value));
  }

  /** What the name of a register or word of the stack (`r6`, `s-8`) stands for here. */
  named(name: string): Form | undefined {
    if (name.startsWith('@')) return symbol(name);
    if (name.startsWith('r')) return this.registers[Number(name.slice(1))];
    return name.startsWith('s') || name.startsWith('h') ? this.word(name) : undefined;
  }

  /** Something else is written to the stack, which one's place is not known unless it is the own. */
  writeTo(pointer: Form | undefined, bytes: number | undefined): void {
    if (
      pointer &&
      bytes !== undefined &&
      bytes >= 0 &&
      bytes <= STACK_BYTES &&
      keyOf(pointer) === keyOf(OWN_STACK)
    )
      return this.write(pointer.constant, bytes, undefined);
    this.stack.clear();
    this.lost = true;
  }

  /** Nothing refers any more to what instruction `name` gave before: it will give something else. */
  forget(name: string): void {
    const stale = (f: Form | undefined): boolean => {
      return f?.terms.has(name) ?? false;
    };
    this.registers.forEach((f, n) => {
      if (stale(f)) this.registers[n] = undefined;
    });
    for (const [word, f] of this.stack) if (stale(f)) this.stack.set(word, undefined);
    for (const key of this.touched)
      if (key.startsWith(`${name}*`) || key.includes(`+${name}*`)) this.touched.delete(key);
  }

  /** Takes in what another path to block `at` knows; true when this changed. */
  join(other: State, at: number): boolean {
    let changed = false;
    this.registers.forEach((mine, n) => {
      const met = meet(mine, other.registers[n], `p${at}.r${n}`);
      if (same(met, mine)) return;
      this.registers[n] = met;
      changed = true;
    });
    for (const word of new Set([...this.stack.keys(), ...other.stack.keys()])) {
      const mine = this.word(word);
      const met = meet(mine, other.word(word), `p${at}.${word}`);
      if (same(met, mine)) continue;
      this.stack.set(word, met);
      changed = true;
    }
    if (other.lost && !this.lost) {
      this.lost = true;
      changed = true;
    }
    for (const line of this.touched)
      if (!other.touched.has(line)) {
        this.touched.delete(line);
        changed = true;
      }
    return changed;
  }
}

/** What differs has a name of its own from here on. */
function meet(a: Form | undefined, b: Form | undefined, name: string): Form {
  return a !== undefined && same(a, b) ? a : symbol(name);
}

/** An access to memory that is not the stack: where, and how many bytes. */
export interface Access {
  address: Form | undefined;
  bytes: number;
}

/** The piece that an access falls into, or undefined. */
export function lineOf(a: Access): string | undefined {
  return a.address && `${keyOf(a.address)}/${Math.floor(a.address.constant / LINE)}`;
}

export interface Code {
  insns: readonly Instruction[];
  facts: Facts;
  blocks: readonly Block[];
}

/** Walks one instruction; gives the access to memory that it makes, if any. */
export function step(code: Code, at: number, s: State): Access | undefined {
  const i = code.insns[at]!;
  const cls = i.op & CLASS_MASK;
  const r = s.registers;
  const fresh = (): Form => {
    s.forget(`v${at}`);
    return symbol(`v${at}`);
  };
  if (i.op === OP_LD_IMM64) {
    const to = i.relocation?.symbol;
    r[i.dst] = to ? add(symbol(`@${to.section}.${to.value}`), constant(i.imm)) : fresh();
    return undefined;
  }
  if (i.op === OP_CALL) {
    // both helpers that write do so to r3, as many bytes as r4 says
    if (code.facts.writesStack(at))
      s.writeTo(i.src === CALL_HELPER ? r[3] : undefined, code.facts.argument(at, 4));
    r.fill(undefined, 1, 6);
    r[0] = fresh();
    return undefined;
  }
  if (cls === CLASS_ALU || cls === CLASS_ALU64) {
    const result = arithmetic(i, s);
    r[i.dst] = result ?? fresh();
    return undefined;
  }
  if (cls === CLASS_LDX || cls === CLASS_ST || cls === CLASS_STX) return memory(code, at, i, s, fresh);
  return undefined;
}

function memory(code: Code, at: number, i: Instruction, s: State, fresh: () => Form): Access | undefined {
  const r = s.registers;
  const isAtomic = i.op === OP_ATOMIC32 || i.op === OP_ATOMIC64;
  const loads = (i.op & CLASS_MASK) === CLASS_LDX || (isAtomic && i.imm === ATOMIC_LOAD_ACQUIRE);
  const base = loads ? i.src : i.dst;
  const bytes = sizeOf(i.op);
  const pointer = r[base];
  let address = pointer && add(pointer, constant(i.offset));
  if (address && address.width !== 64) address = { ...address, width: 64 };
  const own = base === FRAME;
  const onStack = own || code.facts.mayBeStack(at);
  if (loads) {
    const word = own && !isAtomic && (i.op & MODE) === MODE_MEM ? wordAt(i.offset, bytes) : undefined;
    r[i.dst] = (word === undefined ? undefined : s.word(word)) ?? fresh();
  } else if (onStack) {
    if (!own) s.writeTo(address, bytes);
    else {
      const value = (i.op & CLASS_MASK) === CLASS_ST ? constant(i.imm) : r[i.src];
      s.write(i.offset, bytes, isAtomic ? undefined : value);
    }
  }
  if (isAtomic && !loads) {
    if (i.imm === ATOMIC_COMPARE_EXCHANGE) r[0] = fresh();
    else if (i.imm & ATOMIC_FETCH) r[i.src] = fresh();
  }
  return onStack || !code.facts.isMemory(at) ? undefined : { address, bytes };
}

function bothBits(a: number, b: number): Form | undefined {
  return a >= 0 && b >= 0 && a < 2 ** 31 && b < 2 ** 31 ? constant(a & b) : undefined;
}

/** The sum that comes out, or undefined: something else. */
function arithmetic(i: Instruction, s: State): Form | undefined {
  const wide = (i.op & CLASS_MASK) === CLASS_ALU64;
  const op = i.op & OPERATION_MASK;
  const dst = s.registers[i.dst];
  const src = i.op & SOURCE_REGISTER ? s.registers[i.src] : constant(i.imm);
  let out: Form | undefined;
  if (op === ALU_NEG) out = dst && times(dst, -1);
  else if (op === ALU_MOV) out = i.offset === 0 ? src : undefined;
  else if (dst && src) {
    if (op === ALU_AND && isConstant(dst) && isConstant(src)) out = bothBits(dst.constant, src.constant);
    else if (op === ALU_ADD) out = add(dst, src);
    else if (op === ALU_SUB) out = add(dst, src, -1);
    else if (op === ALU_LSH && isConstant(src) && src.constant >= 0 && src.constant < 32)
      out = times(dst, 2 ** src.constant);
    else if (op === ALU_MUL && isConstant(src)) out = times(dst, src.constant);
  }
  return out && (wide ? out : lowerHalf(out));
}

export interface Flow {
  /** What is known where a block of the region begins. */
  before: ReadonlyMap<number, State>;
  /** What is known where a block of the region ends. */
  after: ReadonlyMap<number, State>;
}

/** The region's blocks such that each comes before those it leads to, but for ways round. */
function flat(region: Region): number[] {
  return region.order.flatMap((node) => (typeof node === 'number' ? [node] : flat(node)));
}

/** `spend` throws when all walks together take too long. `begin`: what is known where the region begins. */
export function walk(code: Code, region: Region, spend: (work: number) => void, begin = new State()): Flow {
  const start = region.header ?? 0;
  const before = new Map<number, State>([[start, begin]]);
  const after = new Map<number, State>();
  const order = flat(region);
  const rank = new Map(order.map((b, n) => [b, n]));
  const waiting = new Set([start]);
  let next = 0;
  const again = (b: number): void => {
    waiting.add(b);
    next = Math.min(next, rank.get(b) ?? 0);
  };
  while (waiting.size > 0) {
    const b = order[next++]!;
    spend(1);
    if (!waiting.delete(b)) continue;
    const s = new State(before.get(b));
    // the state is copied and joined for each block that follows, and looked through at most instructions
    const { insns, next: following } = code.blocks[b]!;
    const known = 8 + s.stack.size + s.touched.size;
    spend(known * (1 + 2 * following.length) + (insns.length * known) / 8);
    for (const at of code.blocks[b]!.insns) {
      const access = step(code, at, s);
      const line = access && lineOf(access);
      if (line !== undefined && s.touched.size < MOST_LINES) s.touched.add(line);
    }
    after.set(b, s);
    for (const to of code.blocks[b]!.next) {
      if (to === region.header || !region.blocks.has(to)) continue;
      const known = before.get(to);
      if (!known) {
        before.set(to, arriving(s, to));
        again(to);
      } else if (known.join(arriving(s, to), to)) again(to);
    }
  }
  return { before, after };
}

/** What came together at this block before is something else now. */
function arriving(s: State, block: number): State {
  const next = new State(s);
  const mine = `p${block}.`;
  next.registers.forEach((f, n) => {
    if (f && refers(f, mine) && !same(f, symbol(`${mine}r${n}`))) next.registers[n] = undefined;
  });
  for (const [word, f] of next.stack)
    if (f && refers(f, mine) && !same(f, symbol(`${mine}${word}`))) next.stack.set(word, undefined);
  for (const key of next.touched) if (key.includes(mine)) next.touched.delete(key);
  return next;
}

function refers(f: Form, prefix: string): boolean {
  for (const name of f.terms.keys()) if (name.startsWith(prefix)) return true;
  return false;
}
