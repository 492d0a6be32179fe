/** Symbols by address. Their names are those of files that anybody wrote: each is one visible line from here on. */
import { visibleLine } from '../core/visible.ts';

export interface SymbolInfo {
  address: bigint;
  name: string;
  /** 0: up to the next one. */
  size: bigint;
}

export class SymbolTable {
  readonly #symbols: readonly SymbolInfo[];
  /** Index, for each symbol, of the one around it that goes on behind it; -1: none. */
  readonly #around: readonly number[];

  /** Keeps one of several symbols at one address: one with a size rather than one without, then the first. */
  constructor(symbols: readonly SymbolInfo[]) {
    const sorted = [...symbols].sort((a, b) =>
      a.address !== b.address ? (a.address < b.address ? -1 : 1) : Number(b.size > 0n) - Number(a.size > 0n),
    );
    this.#symbols = sorted
      .filter((s, i) => i === 0 || sorted[i - 1]!.address !== s.address)
      .map((s) => ({ ...s, name: visibleLine(s.name) }));
    this.#around = enclosing(this.#symbols);
  }

  get size(): number {
    return this.#symbols.length;
  }

  /** All names, each as often as it is there. */
  names(): string[] {
    return this.#symbols.map((s) => s.name);
  }

  /** The same symbols under other names: those that the map has. */
  renamed(names: ReadonlyMap<string, string>): SymbolTable {
    return new SymbolTable(this.#symbols.map((s) => ({ ...s, name: names.get(s.name) ?? s.name })));
  }

  /** Symbol of the function that an address is in, the innermost one; undefined where none is. */
  find(address: bigint): SymbolInfo | undefined {
    let low = 0;
    let high = this.#symbols.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#symbols[middle]!.address <= address) low = middle + 1;
      else high = middle;
    }
    for (let i = low - 1; i >= 0; i = this.#around[i]!) {
      const found = this.#symbols[i]!;
      if (found.size === 0n || address < found.address + found.size) return found;
    }
    return undefined;
  }

  named(name: string): SymbolInfo | undefined {
    return this.#symbols.find((s) => s.name === name);
  }
}

function enclosing(symbols: readonly SymbolInfo[]): number[] {
  const open: number[] = [];
  return symbols.map(({ address, size }, i) => {
    const endOf = (at: number): bigint => symbols[at]!.address + symbols[at]!.size;
    while (open.length > 0 && endOf(open.at(-1)!) <= address) open.pop();
    const around = open.at(-1) ?? -1;
    if (size > 0n) open.push(i);
    return around;
  });
}
