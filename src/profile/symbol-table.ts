/** Symbols by address. */

export interface SymbolInfo {
  address: bigint;
  name: string;
  /** 0: up to the next one. */
  size: bigint;
}

export class SymbolTable {
  readonly #symbols: readonly SymbolInfo[];

  /** Of several at one address the first stays. */
  constructor(symbols: readonly SymbolInfo[]) {
    const sorted = [...symbols].sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0));
    this.#symbols = sorted.filter((s, i) => i === 0 || sorted[i - 1]!.address !== s.address);
  }

  get size(): number {
    return this.#symbols.length;
  }

  /** Of an address in some function, or undefined where none is. */
  find(address: bigint): SymbolInfo | undefined {
    let low = 0;
    let high = this.#symbols.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#symbols[middle]!.address <= address) low = middle + 1;
      else high = middle;
    }
    const found = this.#symbols[low - 1];
    if (!found || (found.size > 0n && address >= found.address + found.size)) return undefined;
    return found;
  }

  named(name: string): SymbolInfo | undefined {
    return this.#symbols.find((s) => s.name === name);
  }
}
