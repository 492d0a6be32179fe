/** From addresses to names. What has no name keeps its address, so that nothing is lost or invented. */
import { loadBase } from './load-base.ts';
import { followsCall, hasCode } from './elf-file.ts';
import type { ElfFile } from './elf-file.ts';
import type { Stack } from './stacks.ts';
import type { SymbolTable } from './symbol-table.ts';

/** A stack for people: outermost first, as flame graphs have it. */
export interface NamedStack {
  frames: readonly Frame[];
  samples: number;
}

interface Frame {
  name: string;
  /** `kernel`, or the file. */
  module: string;
  kernel: boolean;
  address: bigint;
}

export interface Binary {
  name: string;
  elf: ElfFile;
  /** Known from elsewhere. */
  base?: bigint;
}

export interface Symbols {
  kernel?: SymbolTable;
  /** What L2's kernel was moved by from where the table says. */
  kernelOffset: bigint;
  binaries: readonly Binary[];
}

/** Symbol of the handler that `kernels` of the program holds. */
const FAULT_ENTRY = ['asm_exc_page_fault', 'async_page_fault', 'page_fault'];
/** A kernel is moved by multiples of CONFIG_PHYSICAL_ALIGN, at least 2 MiB. */
const KERNEL_ALIGN = 0x20_0000n;

/** By how much L2's kernel was moved; undefined when the table is another kernel's. */
export function kernelOffsetOf(table: SymbolTable, faultEntry: bigint): bigint | undefined {
  for (const name of FAULT_ENTRY) {
    const symbol = table.named(name);
    if (!symbol) continue;
    const offset = faultEntry - symbol.address;
    return offset % KERNEL_ALIGN === 0n ? offset : undefined;
  }
  return undefined;
}

interface Place {
  binary: Binary;
  base: bigint;
}

/** Which binary is where, by user space; each looked for among the return addresses of that space. */
function placed(stacks: readonly Stack[], binaries: readonly Binary[]): Map<bigint, Place[]> {
  const returns = new Map<bigint, Set<bigint>>();
  for (const s of stacks) {
    if (s.kernel) continue;
    const seen = returns.get(s.space) ?? new Set();
    for (const ip of s.ips.slice(1)) seen.add(ip);
    returns.set(s.space, seen);
  }
  const places = new Map<bigint, Place[]>();
  for (const [space, seen] of returns) {
    const addresses = [...seen];
    const free = binaries.flatMap((binary): Place[] => {
      const base = binary.base ?? (binary.elf.fixed ? undefined : loadBase(binary.elf, addresses));
      return base === undefined ? [] : [{ binary, base }];
    });
    const fixed = binaries.filter((b) => b.base === undefined && b.elf.fixed);
    places.set(space, [...fixedIn(fixed, addresses), ...free]);
  }
  return places;
}

/** Share of return addresses in a file's code that must lie behind a call. */
const FITS = 0.9;

/**
 * The program with addresses of its own that runs in a space: there is one at most, and any other such program would have
 * names for its addresses too. It is the one whose code has calls where the return addresses say so, and none where two do
 * so equally well. Stacks without callers show nothing: then a program that was named alone is believed to be it.
 */
function fixedIn(binaries: readonly Binary[], addresses: readonly bigint[]): Place[] {
  if (addresses.length === 0)
    return binaries.length === 1 ? binaries.map((binary) => ({ binary, base: 0n })) : [];
  const fitting = binaries
    .map((binary) => {
      const within = addresses.filter((a) => hasCode(binary.elf, a - 1n));
      const hits = within.filter((a) => followsCall(binary.elf, a)).length;
      return { binary, hits, fits: hits > 0 && hits >= FITS * within.length };
    })
    .filter((f) => f.fits)
    .sort((a, b) => b.hits - a.hits);
  const [best, second] = fitting;
  return best && best.hits !== second?.hits ? [{ binary: best.binary, base: 0n }] : [];
}

export function symbolize(stacks: readonly Stack[], symbols: Symbols): NamedStack[] {
  const places = placed(stacks, symbols.binaries);
  const nameOf = (stack: Stack, ip: bigint, innermost: boolean): Frame | undefined => {
    // a return address may be the first byte of the next function: the call is before it
    const address = innermost ? ip : ip - 1n;
    const hex = `0x${ip.toString(16)}`;
    if (stack.kernel) {
      const found = symbols.kernel?.find(address - symbols.kernelOffset);
      if (found && found.name !== '')
        return { name: found.name, module: 'kernel', kernel: true, address: ip };
      // not code: the kernel keeps no frame pointers, and what was found is no return address
      if (symbols.kernel && !innermost) return undefined;
      return { name: `[kernel ${hex}]`, module: 'kernel', kernel: true, address: ip };
    }
    for (const { binary, base } of places.get(stack.space) ?? []) {
      const found = binary.elf.symbols.find(address - base);
      // without a size it goes on to the next one, but not beyond the code
      if (!found || (found.size === 0n && !hasCode(binary.elf, address - base))) continue;
      return { name: found.name, module: binary.name, kernel: false, address: ip };
    }
    return { name: `[${hex}]`, module: 'user', kernel: false, address: ip };
  };
  return stacks.map((stack) => {
    const frames: Frame[] = [];
    for (const [i, ip] of stack.ips.entries()) {
      const frame = nameOf(stack, ip, i === 0);
      if (!frame) break;
      frames.unshift(frame);
    }
    return { frames, samples: stack.samples };
  });
}

/** Samples by innermost function, most first. */
export function hottest(stacks: readonly NamedStack[]): { name: string; module: string; samples: number }[] {
  const by = new Map<string, { name: string; module: string; samples: number }>();
  for (const { frames, samples } of stacks) {
    const last = frames.at(-1);
    if (!last) continue;
    const key = `${last.module} ${last.name}`;
    const there = by.get(key);
    if (there) there.samples += samples;
    else by.set(key, { name: last.name, module: last.module, samples });
  }
  return [...by.values()].sort((a, b) => b.samples - a.samples);
}
