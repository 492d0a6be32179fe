/**
 * Rule `pointer-leak`: no address of the host reaches what a tenant can read. The kernel verifies programs of this
 * type with CAP_PERFMON, and then lets them store and compare pointers, read stack that nobody wrote and the head of
 * maps. So all paths are walked here with values that only know "number" or "may tell an address" (values.ts).
 *
 * Sound together with the verifier, which proves that each access is within the bounds of what the pointer is: what
 * this analysis cannot follow it takes for secret, and refuses where it would get out.
 */
import {
  CALL_FUNCTION,
  CLASS_ALU,
  CLASS_ALU64,
  CLASS_JMP,
  CLASS_JMP32,
  CLASS_LDX,
  CLASS_MASK,
  CLASS_ST,
  CLASS_STX,
  INSN_BYTES,
  OP_ATOMIC32,
  OP_ATOMIC64,
  OP_CALL,
  OP_EXIT,
  OP_JA32,
  OP_LD_IMM64,
} from '../../kernel/bpf-insn.ts';
import type { HelperSpec } from '../hooks.ts';
import type { CodeContext, Instruction, Instructions } from './code.ts';
import { Facts } from './cost/facts.ts';
import { functionAt } from './layout.ts';
import type { CodeSection, FunctionRange } from './layout.ts';
import { arithmetic, atomic, jump, load, sizeOf, store } from './transfer.ts';
import { MEMORY, NUMBER, SECRET, Stack, State, isNumber } from './values.ts';
import type { Value } from './values.ts';
import type { CheckedMap } from './verdict.ts';

/**
 * Work for one program, and for all of an object: instructions walked, and what copying stacks costs beside them. A
 * real program needs some thousand; a hostile one takes a tenth of a second of anyone who asks, a hostile object four.
 */
const BUDGET = 200_000;
const OBJECT_BUDGET = 4 * BUDGET;
const COPY_COST = 16;
const CALL_COST = 128;
/** The kernel's limit of calls within calls. */
const MAX_FRAMES = 8;
const FRAME_POINTER = 10;

/** Thrown inside to leave all calls at the first leak: one is enough. */
class Leak extends Error {
  readonly section: CodeSection;
  readonly index: number;
  constructor(section: CodeSection, index: number, message: string) {
    super(message);
    this.section = section;
    this.index = index;
  }
}

/** Call it only when no other rule was broken: it relies on them. Returns what was seen on the way. */
export function checkAddresses(
  c: CodeContext,
  instructions: Instructions,
  maps: readonly CheckedMap[],
): ReadonlyMap<CodeSection, Facts> {
  const analysis = new Analysis(c, instructions, maps);
  for (const code of c.layout.code)
    if (code.hook) for (const program of code.functions) analysis.check(code, program);
  return analysis.facts;
}

class Analysis {
  readonly facts = new Map<CodeSection, Facts>();
  readonly #c: CodeContext;
  readonly #maps: readonly CheckedMap[];
  readonly #code = new Map<CodeSection, { insns: readonly Instruction[]; meets: Set<number> }>();
  readonly #text: CodeSection | undefined;
  #helpers: readonly HelperSpec[] = [];
  /** Left for this program, and for the object with it. */
  #steps = 0;
  #left = OBJECT_BUDGET;

  constructor(c: CodeContext, instructions: Instructions, maps: readonly CheckedMap[]) {
    this.#c = c;
    this.#maps = maps;
    this.#text = c.layout.code.find((s) => s.hook === undefined);
    for (const [s, insns] of instructions) {
      this.#code.set(s, { insns, meets: meetingPoints(insns) });
      this.facts.set(s, new Facts());
    }
  }

  check(code: CodeSection, program: FunctionRange): void {
    this.#steps = Math.min(BUDGET, this.#left);
    const begun = this.#steps;
    this.#helpers = code.hook?.helpers ?? [];
    const registers: Value[] = Array.from({ length: 11 }, () => SECRET);
    const fields = code.hook?.context;
    registers[1] = fields ? { kind: 'context', fields } : { kind: 'arguments' };
    try {
      this.#run(code, program.from / INSN_BYTES, registers, []);
    } catch (e) {
      if (!(e instanceof Leak)) throw e;
      const fn = functionAt(e.section, e.index * INSN_BYTES);
      this.#c.f.refuse(
        'pointer-leak',
        e.message,
        "store and compare numbers only, and write all bytes of a variable before its address goes to a helper ('= {}')",
        fn ? { program: fn.name, instruction: e.index - fn.from / INSN_BYTES } : { program: program.name },
      );
    } finally {
      this.#left -= begun - this.#steps;
    }
  }

  /** One call of a function: all its paths. Returns r0, and leaves in `outer` what it did to the stacks of its callers. */
  #run(
    code: CodeSection,
    start: number,
    registers: readonly Value[],
    outer: readonly Stack[],
  ): { r0: Value; outer: Stack[] } {
    const frame = outer.length;
    this.#steps -= CALL_COST * (frame + 1);
    const entry = new State(registers, [...outer.map((s) => new Stack(s)), new Stack()]);
    entry.registers[FRAME_POINTER] = { kind: 'stack', frame, offset: 0 };
    const { insns, meets } = this.#code.get(code) ?? { insns: [], meets: new Set<number>() };
    const known = new Map<number, State>([[start, entry]]);
    const work = [start];
    let end: State | undefined;
    if (frame >= MAX_FRAMES) throw new Leak(code, start, 'calls are nested too deep');
    for (let from = work.pop(); from !== undefined; from = work.pop()) {
      const state = known.get(from)?.copy();
      if (!state) continue;
      this.#steps -= COPY_COST * state.stacks.length;
      // straight on without keeping what is known, up to where paths part or meet
      for (let at: number | undefined = from; at !== undefined; ) {
        const insn = insns[at];
        if (insn === undefined) break; // out of the code: the verifier refuses it
        if (--this.#steps < 0) throw new Leak(code, at, 'it is too complex to see that no address gets out');
        if (insn.op === OP_EXIT) {
          if (end) end.join(state);
          else end = state;
          break;
        }
        const after = this.#step(code, at, insn, state);
        const [only] = after;
        at = undefined;
        if (after.length === 1 && only && !meets.has(only[0])) at = only[0];
        else
          for (const [to, next] of after) {
            const there = known.get(to);
            if (!there) known.set(to, next.copy());
            else if (!there.join(next)) continue;
            work.push(to);
          }
      }
    }
    // a function without an end is refused by the verifier
    return { r0: end?.get(0) ?? NUMBER, outer: end?.stacks.slice(0, frame) ?? [...outer] };
  }

  /** Changes `state` and says where it goes on; both paths of a branch may share it. */
  #step(code: CodeSection, at: number, i: Instruction, state: State): [number, State][] {
    const leak = (message: string): never => {
      throw new Leak(code, at, message);
    };
    const r = state.registers;
    const cls = i.op & CLASS_MASK;
    this.facts.get(code)?.see(at, i, state, this.#helpers);
    if (i.op === OP_LD_IMM64) {
      r[i.dst] = this.#constant(i);
      return [[at + 2, state]];
    }
    if (i.op === OP_CALL) {
      if (i.src === CALL_FUNCTION) this.#call(at, i, state);
      else this.#helper(i, state, leak);
      return [[at + 1, state]];
    }
    if (i.op === OP_ATOMIC32 || i.op === OP_ATOMIC64) atomic(i, state, leak);
    else if (cls === CLASS_LDX) r[i.dst] = load(state, state.get(i.src), i.offset, sizeOf(i.op), leak);
    else if (cls === CLASS_ST) store(state, state.get(i.dst), i.offset, sizeOf(i.op), NUMBER, leak);
    else if (cls === CLASS_STX)
      store(state, state.get(i.dst), i.offset, sizeOf(i.op), state.get(i.src), leak);
    else if (cls === CLASS_ALU || cls === CLASS_ALU64) r[i.dst] = arithmetic(i, state);
    else return jump(at, i, state, leak);
    return [[at + 1, state]];
  }

  #constant(i: Instruction): Value {
    if (!i.relocation) return NUMBER;
    const { symbol } = i.relocation;
    if (symbol.section !== this.#c.layout.maps) return MEMORY;
    // a symbol of the whole section stands for the map at its offset, which is then in the instruction
    return { kind: 'map', map: symbol.name };
  }

  #call(at: number, i: Instruction, state: State): void {
    const { relocation } = i;
    const target = (relocation ? relocation.symbol.value / INSN_BYTES : at) + i.imm + 1;
    if (!this.#text) return;
    const result = this.#run(this.#text, target, state.registers, state.stacks);
    result.outer.forEach((s, n) => (state.stacks[n] = s));
    afterCall(state, result.r0);
  }

  #helper(i: Instruction, state: State, leak: (message: string) => never): void {
    const helper = this.#helpers.find((h) => h.number === i.imm);
    if (!helper) return leak(`helper ${i.imm} is not known`);
    const first = state.get(1);
    const map = first.kind === 'map' ? this.#maps.find((m) => m.name === first.map) : undefined;
    helper.arguments.forEach((kind, n) => {
      const value = state.get(n + 1);
      const which = `argument ${n + 1} of helper ${helper.name}`;
      if (kind === 'number' && !isNumber(value)) leak(`${which} may tell an address of the host`);
      if (kind === 'record' && value.kind !== 'memory') leak(`${which} is not known to be a record`);
      if (kind === 'map' && value.kind !== 'map') leak(`${which} is not known to be one map`);
      if (kind === 'context' && value.kind !== 'context') leak(`${which} is not known to be the context`);
      if (kind !== 'key' && kind !== 'value' && kind !== 'data' && kind !== 'out') return;
      const size = state.get(n + 2);
      if (kind === 'out' && written(state, value, size)) return;
      const bytes =
        kind === 'key'
          ? map?.keyBytes
          : kind === 'value'
            ? map?.valueBytes
            : isNumber(size)
              ? size.constant
              : undefined;
      if (!readable(state, value, bytes))
        leak(`${which} leads to bytes that were never written or may tell an address of the host`);
    });
    afterCall(state, helper.givesMemory ? MEMORY : NUMBER);
  }
}

/** A helper writes numbers to all of it: afterwards they can be read. False when it is not known where that is. */
function written(state: State, pointer: Value, size: Value): boolean {
  const bytes = isNumber(size) ? size.constant : undefined;
  if (pointer.kind !== 'stack' || pointer.offset === undefined || bytes === undefined || bytes < 0)
    return false;
  state.stacks[pointer.frame]?.store(pointer.offset, bytes, NUMBER);
  return true;
}

/** Where jumps lead, and what follows a conditional one. */
function meetingPoints(insns: readonly Instruction[]): Set<number> {
  const points = new Set<number>();
  insns.forEach((i, at) => {
    const cls = i.op & CLASS_MASK;
    if ((cls !== CLASS_JMP && cls !== CLASS_JMP32) || i.op === OP_CALL || i.op === OP_EXIT) return;
    points.add(at + 1 + (i.op === OP_JA32 ? i.imm : i.offset));
    points.add(at + 1);
  });
  return points;
}

function afterCall(state: State, r0: Value): void {
  state.registers[0] = r0;
  for (let n = 1; n <= 5; n++) state.registers[n] = SECRET;
}

/** Whether `bytes` (undefined: up to the end of the stack) at a helper's argument are numbers. */
function readable(state: State, pointer: Value, bytes: number | undefined): boolean {
  if (pointer.kind === 'memory') return true;
  if (pointer.kind !== 'stack') return false;
  const stack = state.stacks[pointer.frame];
  if (!stack) return false;
  if (pointer.offset === undefined) return isNumber(stack.load(undefined, 0));
  return stack.isClean(pointer.offset, bytes ?? -pointer.offset);
}
