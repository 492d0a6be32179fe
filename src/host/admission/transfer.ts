/** What one instruction makes of what is known (values.ts): pure, and the same for every hook. */
import {
  ALU_ADD,
  ALU_END,
  ALU_MOV,
  ALU_NEG,
  ALU_SUB,
  ATOMIC_COMPARE_EXCHANGE,
  ATOMIC_FETCH,
  ATOMIC_LOAD_ACQUIRE,
  ATOMIC_STORE_RELEASE,
  CLASS_ALU64,
  CLASS_JMP,
  CLASS_MASK,
  JMP_JA,
  JMP_JEQ,
  JMP_JNE,
  OPERATION_MASK,
  OP_ATOMIC64,
  SOURCE_REGISTER,
} from '../../kernel/bpf-insn.ts';
import type { Insn } from '../../kernel/bpf-insn.ts';
import type { ContextField } from '../../kernel/packet.ts';
import { MEMORY, NUMBER, PACKET, PACKET_END, SECRET, isInPacket, isNumber } from './values.ts';
import type { State, Value } from './values.ts';

/** Bytes of a load or store by bits 3 and 4 of its opcode. */
export const sizeOf = (op: number): number => [4, 2, 1, 8][(op >> 3) & 3] ?? 8;

export function load(
  state: State,
  base: Value,
  offset: number,
  bytes: number,
  leak: (message: string) => never,
): Value {
  switch (base.kind) {
    case 'context':
      return contextField(base.fields, offset, bytes, leak);
    case 'packet':
      return NUMBER;
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

function contextField(
  fields: readonly ContextField[],
  offset: number,
  bytes: number,
  leak: (message: string) => never,
): Value {
  const field = fields.find((f) => offset >= f.offset && offset + bytes <= f.offset + f.bytes);
  if (field?.gives === 'number') return NUMBER;
  if (field?.bytes === bytes) return field.gives === 'packet' ? PACKET : PACKET_END;
  return leak(
    `it reads ${bytes} bytes at ${offset} of its context; there are: ${fields.map((f) => `${f.name} (${f.offset})`).join(', ')}`,
  );
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
  if (base.kind === 'packet') leak('it writes to the packet, which programs may read only');
  if (base.kind === 'context') leak('it writes to its context, which is for reading only');
  if (base.kind !== 'memory') leak('it writes to a place that is not known, or that an address decides');
  if (!isNumber(value)) leak('it stores what may tell an address of the host, or was never written');
}

export function atomic(i: Insn, state: State, leak: (message: string) => never): void {
  const bytes = i.op === OP_ATOMIC64 ? 8 : 4;
  const r = state.registers;
  if (i.imm === ATOMIC_LOAD_ACQUIRE) {
    r[i.dst] = load(state, state.get(i.src), i.offset, bytes, leak);
    return;
  }
  const base = state.get(i.dst);
  const value = state.get(i.src);
  if (i.imm === ATOMIC_STORE_RELEASE) return store(state, base, i.offset, bytes, value, leak);
  const old = load(state, base, i.offset, bytes, leak);
  const compared = i.imm === ATOMIC_COMPARE_EXCHANGE ? state.get(0) : NUMBER;
  if (!isNumber(value) || !isNumber(compared) || !isNumber(old))
    leak('an atomic operation on what may tell an address of the host, or was never written');
  store(state, base, i.offset, bytes, NUMBER, leak);
  if (i.imm === ATOMIC_COMPARE_EXCHANGE) r[0] = NUMBER;
  else if (i.imm & ATOMIC_FETCH) r[i.src] = NUMBER;
}

export function arithmetic(i: Insn, state: State): Value {
  const wide = (i.op & CLASS_MASK) === CLASS_ALU64;
  const op = i.op & OPERATION_MASK;
  const unary = op === ALU_NEG || op === ALU_END;
  const dst = state.get(i.dst);
  const src: Value =
    unary || !(i.op & SOURCE_REGISTER)
      ? { kind: 'number', constant: unary ? undefined : i.imm }
      : state.get(i.src);
  if (op === ALU_MOV) {
    if (isNumber(src)) return i.offset === 0 && (wide || (src.constant ?? -1) >= 0) ? src : NUMBER;
    return wide && i.offset === 0 ? src : SECRET; // the lower half of an address, or one made longer again
  }
  if (isNumber(dst) && isNumber(src)) return NUMBER;
  if (!wide) return SECRET;
  if (op === ALU_SUB && isInPacket(dst) && isInPacket(src)) return NUMBER;
  if (op === ALU_ADD && isNumber(dst)) return moved(src, undefined);
  if ((op === ALU_ADD || op === ALU_SUB) && isNumber(src)) {
    const by = src.constant;
    return moved(dst, by === undefined ? undefined : op === ALU_ADD ? by : -by);
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
  return pointer.kind === 'memory' || pointer.kind === 'packet' ? pointer : by === 0 ? pointer : SECRET;
}

export function jump(at: number, i: Insn, state: State, leak: (message: string) => never): [number, State][] {
  const wide = (i.op & CLASS_MASK) === CLASS_JMP;
  const op = i.op & OPERATION_MASK;
  const next = at + 1;
  if (op === JMP_JA) return [[next + (wide ? i.offset : i.imm), state]];
  const target = next + i.offset;
  const value = state.get(i.dst);
  const other: Value = i.op & SOURCE_REGISTER ? state.get(i.src) : { kind: 'number', constant: i.imm };
  if (isNumber(value) && isNumber(other)) return both(next, target, state);
  if (wide && isInPacket(value) && isInPacket(other)) return both(next, target, state);
  const isNullCheck =
    wide &&
    (op === JMP_JEQ || op === JMP_JNE) &&
    isNumber(other) &&
    other.constant === 0 &&
    value.kind !== 'secret';
  if (!isNullCheck) leak('it compares what may tell an address of the host, or was never written');
  const isNull = state.copy();
  isNull.registers[i.dst] = { kind: 'number', constant: 0 };
  return op === JMP_JEQ
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
