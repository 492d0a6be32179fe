/**
 * What the address analysis knows of registers and stack: whether a value may tell an address, and of pointers where
 * they lead. Values are joined where paths meet; each join only ever knows less.
 */
import type { ContextField } from '../../kernel/packet.ts';

export const STACK_BYTES = 512;

/**
 * `number` tells nothing about addresses. `memory` leads into maps, the hook's context or a ring's record, which hold
 * numbers only, so does a `packet`, which programs may only read. `secret` may be anything: an address, a part of one, or bytes that nobody wrote.
 */
export type Value =
  | { kind: 'number'; constant?: number | undefined }
  | { kind: 'arguments' }
  | { kind: 'context'; fields: readonly ContextField[] }
  | { kind: 'packet' }
  | { kind: 'packet end' }
  | { kind: 'map'; map: string }
  | { kind: 'memory' }
  | { kind: 'stack'; frame: number; offset: number | undefined }
  | { kind: 'secret' };

export const NUMBER: Value = { kind: 'number' };
export const MEMORY: Value = { kind: 'memory' };
export const SECRET: Value = { kind: 'secret' };
export const PACKET: Value = { kind: 'packet' };
export const PACKET_END: Value = { kind: 'packet end' };

export const isNumber = (v: Value): v is Value & { kind: 'number' } => v.kind === 'number';
/** Whether a value points into a packet: two such may be compared and subtracted, which tells lengths only. */
export const isInPacket = (v: Value): boolean => v.kind === 'packet' || v.kind === 'packet end';

function same(a: Value, b: Value): boolean {
  if (a === b) return true;
  if (a.kind !== b.kind) return false;
  if (a.kind === 'number') return a.constant === (b as typeof a).constant;
  if (a.kind === 'context') return a.fields === (b as typeof a).fields;
  if (a.kind === 'map') return a.map === (b as typeof a).map;
  if (a.kind === 'stack') return a.frame === (b as typeof a).frame && a.offset === (b as typeof a).offset;
  return true;
}

/**
 * A number beside a pointer is NULL or the like: the verifier lets it be used as a pointer only where it is one, so
 * the pointer's kind covers both. Not so for pointers into the packet: compared with a number of the program's choice
 * they would tell where they lead.
 */
function join(a: Value, b: Value): Value {
  if (same(a, b)) return a;
  if (isInPacket(a) || isInPacket(b)) return SECRET;
  if (isNumber(a)) return isNumber(b) ? NUMBER : b;
  if (isNumber(b)) return a;
  if (a.kind === 'stack' && b.kind === 'stack' && a.frame === b.frame)
    return { kind: 'stack', frame: a.frame, offset: undefined };
  return SECRET;
}

/** The stack of one function call: which bytes may tell an address, and pointers that were put aside there. */
export class Stack {
  /** 1: secret, or never written. By offset from the lowest byte. */
  readonly #secret: Uint8Array;
  readonly #spilled: Map<number, Value>;

  constructor(from?: Stack) {
    this.#secret = from ? from.#secret.slice() : new Uint8Array(STACK_BYTES).fill(1);
    this.#spilled = new Map(from ? from.#spilled : []);
  }

  /** `offset` from the frame pointer, negative; undefined when it is not known. */
  load(offset: number | undefined, bytes: number): Value {
    if (offset === undefined) return this.isClean(-STACK_BYTES, STACK_BYTES) ? NUMBER : SECRET;
    const spilled = bytes === 8 ? this.#spilled.get(offset) : undefined;
    return spilled ?? (this.isClean(offset, bytes) ? NUMBER : SECRET);
  }

  store(offset: number | undefined, bytes: number, value: Value): void {
    if (offset === undefined) {
      if (isNumber(value)) return;
      this.#secret.fill(1);
      this.#spilled.clear();
      return;
    }
    for (const at of this.#spilled.keys())
      if (at > offset - 8 && at < offset + bytes) this.#spilled.delete(at);
    const from = Math.max(0, offset + STACK_BYTES);
    this.#secret.fill(isNumber(value) ? 0 : 1, from, Math.max(from, offset + STACK_BYTES + bytes));
    if (bytes === 8 && !isNumber(value) && value !== SECRET) this.#spilled.set(offset, value);
  }

  isClean(offset: number, bytes: number): boolean {
    const from = offset + STACK_BYTES;
    if (from < 0 || bytes < 0 || from + bytes > STACK_BYTES) return false;
    return !this.#secret.subarray(from, from + bytes).includes(1);
  }

  /** Takes in what another path knows; true when this changed. */
  join(other: Stack): boolean {
    let changed = false;
    const pointer = (s: Stack, at: number): Value | undefined =>
      s.#spilled.get(at) ?? (s.isClean(at, 8) ? NUMBER : undefined);
    for (const at of new Set([...this.#spilled.keys(), ...other.#spilled.keys()])) {
      const mine = pointer(this, at);
      const theirs = pointer(other, at);
      const joined = mine && theirs ? join(mine, theirs) : SECRET;
      if (mine && same(joined, mine)) continue;
      if (joined !== SECRET) this.#spilled.set(at, joined);
      else if (!this.#spilled.delete(at)) continue;
      changed = true;
    }
    other.#secret.forEach((secret, i) => {
      if (!secret || this.#secret[i]) return;
      this.#secret[i] = 1;
      changed = true;
    });
    return changed;
  }
}

/** All registers, and the stacks of this call and of those around it, outermost first. */
export class State {
  readonly registers: Value[];
  readonly stacks: Stack[];

  constructor(registers: readonly Value[], stacks: readonly Stack[]) {
    this.registers = [...registers];
    this.stacks = [...stacks];
  }

  copy(): State {
    return new State(
      this.registers,
      this.stacks.map((s) => new Stack(s)),
    );
  }

  get(register: number): Value {
    return this.registers[register] ?? SECRET;
  }

  /** Takes in what another path knows; true when this changed. */
  join(other: State): boolean {
    let changed = false;
    this.registers.forEach((mine, i) => {
      const joined = join(mine, other.get(i));
      if (same(joined, mine)) return;
      this.registers[i] = joined;
      changed = true;
    });
    this.stacks.forEach((stack, i) => {
      const theirs = other.stacks[i];
      if (theirs && stack.join(theirs)) changed = true;
    });
    return changed;
  }
}
