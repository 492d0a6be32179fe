/** What the walk of all paths (addresses.ts) has seen at each instruction, for what a run can take. */
import {
  CALL_HELPER,
  CLASS_LDX,
  CLASS_MASK,
  CLASS_ST,
  CLASS_STX,
  ATOMIC_LOAD_ACQUIRE,
  OP_ATOMIC32,
  OP_ATOMIC64,
  OP_CALL,
} from '../../../kernel/bpf-insn.ts';
import type { HelperSpec } from '../../hooks.ts';
import type { Instruction } from '../code.ts';
import { isNumber } from '../values.ts';
import type { State } from '../values.ts';

interface CallSeen {
  /** The map in r1; null when it is not one and the same. */
  map: string | null;
  /** r1 to r5 where they are always the same number. */
  numbers: (number | undefined)[];
  stack: boolean;
}

export class Facts {
  readonly #bases = new Map<number, Set<string>>();
  readonly #calls = new Map<number, CallSeen>();

  /** Called before each instruction, on all paths, with what is known there. */
  see(at: number, i: Instruction, s: State, helpers: readonly HelperSpec[]): void {
    const cls = i.op & CLASS_MASK;
    if (i.op === OP_CALL)
      this.#seeCall(
        at,
        i,
        s,
        helpers.find((h) => h.number === i.imm),
      );
    else if (cls === CLASS_LDX || cls === CLASS_ST || cls === CLASS_STX) {
      const acquires = (i.op === OP_ATOMIC32 || i.op === OP_ATOMIC64) && i.imm === ATOMIC_LOAD_ACQUIRE;
      const base = s.get(cls === CLASS_LDX || acquires ? i.src : i.dst);
      const kinds = this.#bases.get(at) ?? new Set();
      this.#bases.set(at, kinds.add(base.kind));
    }
  }

  #seeCall(at: number, i: Instruction, s: State, helper: HelperSpec | undefined): void {
    const args = [1, 2, 3, 4, 5].map((n) => s.get(n));
    const map = args[0]?.kind === 'map' ? args[0].map : null;
    const numbers = args.map((v) => (isNumber(v) ? v.constant : undefined));
    const stack =
      i.src === CALL_HELPER
        ? helper?.writesMemory !== false && args.some((v) => v.kind === 'stack')
        : args.some((v) => v.kind === 'stack' || v.kind === 'secret');
    const known = this.#calls.get(at);
    if (!known) return void this.#calls.set(at, { map, numbers, stack });
    if (known.map !== map) known.map = null;
    known.numbers = known.numbers.map((n, k) => (n === numbers[k] ? n : undefined));
    known.stack ||= stack;
  }

  /** The memory instruction may reach a stack. What no path reaches does not matter. */
  mayBeStack(at: number): boolean {
    const kinds = this.#bases.get(at);
    return kinds !== undefined && (kinds.has('stack') || kinds.has('secret'));
  }

  /** It may reach what is not at hand as stack and context are: maps, records, frames. */
  isMemory(at: number): boolean {
    for (const kind of this.#bases.get(at) ?? [])
      if (kind !== 'stack' && kind !== 'context' && kind !== 'arguments') return true;
    return false;
  }

  writesStack(at: number): boolean {
    return this.#calls.get(at)?.stack ?? true;
  }

  mapOf(at: number): string | null {
    return this.#calls.get(at)?.map ?? null;
  }

  /** Argument `n` from 1, when it is always the same number. */
  argument(at: number, n: number): number | undefined {
    return this.#calls.get(at)?.numbers[n - 1];
  }
}
