/** What one instruction makes of what is known (values.ts): pure, and the same for every hook. */
import { OP_ATOMIC64 } from '../../kernel/bpf-insn.ts';
import type { Relocation } from './code.ts';
import { MEMORY, NUMBER, SECRET, isNumber } from './values.ts';
import type { State, Value } from './values.ts';

export interface Insn {
  op: number;
  dst: number;
  src: number;
  offset: number;
  imm: number;
  relocation: Relocation | undefined;
}

const LOAD_ACQUIRE = 0x100;
const STORE_RELEASE = 0x110;
const COMPARE_EXCHANGE = 0xf1;
const FETCH = 1;

/** Bytes of a load or store by bits 3 and 4 of its opcode. */
export const sizeOf = (op: number): number => [4, 2, 1, 8][(op >> 3) & 3] ?? 8;

export function load(state: State, base: Value, offset: number, bytes: number): Value {
  switch (base.kind) {
    case 'arguments':
      // the first argument is the hook's context; behind it is whatever the host's stack holds
      return offset === 0 && bytes === 8 ? MEMORY : SECRET;
    case 'memory':
      return NUMBER;
    case 'stack':
      return (
        state.stacks[base.frame]?.load(base.offset === undefined ? undefined : base.offset + offset, bytes) ??
        SECRET
      );
    default:
      return SECRET;
  }
}

export function store(
  state: State,
  base: Value,
  offset: number,
  bytes: number,
  value: Value,
  leak: (message: string) => never,
): void {
  if (base.kind === 'stack') {
    state.stacks[base.frame]?.store(
      base.offset === undefined ? undefined : base.offset + offset,
      bytes,
      value,
    );
    return;
  }
  if (base.kind !== 'memory') leak('it writes to a place that is not known, or that an address decides');
  if (!isNumber(value)) leak('it stores what may tell an address of the host, or was never written');
}

export function atomic(i: Insn, state: State, leak: (message: string) => never): void {
  const bytes = i.op === OP_ATOMIC64 ? 8 : 4;
  const r = state.registers;
  if (i.imm === LOAD_ACQUIRE) {
    r[i.dst] = load(state, state.get(i.src), i.offset, bytes);
    return;
  }
  const base = state.get(i.dst);
  const value = state.get(i.src);
  if (i.imm === STORE_RELEASE) return store(state, base, i.offset, bytes, value, leak);
  const old = load(state, base, i.offset, bytes);
  const compared = i.imm === COMPARE_EXCHANGE ? state.get(0) : NUMBER;
  if (!isNumber(value) || !isNumber(compared) || !isNumber(old))
    leak('an atomic operation on what may tell an address of the host, or was never written');
  store(state, base, i.offset, bytes, NUMBER, leak);
  if (i.imm === COMPARE_EXCHANGE) r[0] = NUMBER;
  else if (i.imm & FETCH) r[i.src] = NUMBER;
}

const OP_ADD = 0x00;
const OP_SUB = 0x10;
const OP_MOV = 0xb0;
const OP_NEG = 0x80;
const OP_END = 0xd0;
const BY_REGISTER = 8;

export function arithmetic(i: Insn, state: State): Value {
  const wide = (i.op & 7) === 7;
  const op = i.op & 0xf0;
  const unary = op === OP_NEG || op === OP_END;
  const dst = state.get(i.dst);
  const src: Value =
    unary || !(i.op & BY_REGISTER)
      ? { kind: 'number', constant: unary ? undefined : i.imm }
      : state.get(i.src);
  if (op === OP_MOV) {
    if (isNumber(src)) return i.offset === 0 && (wide || (src.constant ?? -1) >= 0) ? src : NUMBER;
    return wide && i.offset === 0 ? src : SECRET; // the lower half of an address, or one made longer again
  }
  if (isNumber(dst) && isNumber(src)) return NUMBER;
  if (!wide) return SECRET;
  if (op === OP_ADD && isNumber(dst)) return moved(src, undefined);
  if ((op === OP_ADD || op === OP_SUB) && isNumber(src)) {
    const by = src.constant;
    return moved(dst, by === undefined ? undefined : op === OP_ADD ? by : -by);
  }
  return SECRET;
}

/** A pointer with a number added. */
function moved(pointer: Value, by: number | undefined): Value {
  if (pointer.kind === 'stack')
    return {
      kind: 'stack',
      frame: pointer.frame,
      offset: pointer.offset === undefined || by === undefined ? undefined : pointer.offset + by,
    };
  // behind the first argument is more than the context; a map's own head is not for programs
  return pointer.kind === 'memory' ? pointer : by === 0 ? pointer : SECRET;
}

const OP_JA = 0x00;
const OP_JEQ = 0x10;
const OP_JNE = 0x50;

export function jump(at: number, i: Insn, state: State, leak: (message: string) => never): [number, State][] {
  const wide = (i.op & 7) === 5;
  const op = i.op & 0xf0;
  const next = at + 1;
  if (op === OP_JA) return [[next + (wide ? i.offset : i.imm), state]];
  const target = next + i.offset;
  const value = state.get(i.dst);
  const other: Value = i.op & BY_REGISTER ? state.get(i.src) : { kind: 'number', constant: i.imm };
  if (isNumber(value) && isNumber(other)) return both(next, target, state);
  const isNullCheck =
    wide &&
    (op === OP_JEQ || op === OP_JNE) &&
    isNumber(other) &&
    other.constant === 0 &&
    value.kind !== 'secret';
  if (!isNullCheck) leak('it compares what may tell an address of the host, or was never written');
  const isNull = state.copy();
  isNull.registers[i.dst] = { kind: 'number', constant: 0 };
  return op === OP_JEQ
    ? [
        [target, isNull],
        [next, state],
      ]
    : [
        [next, isNull],
        [target, state],
      ];
}

function both(next: number, target: number, state: State): [number, State][] {
  return [
    [next, state],
    [target, state],
  ];
}
