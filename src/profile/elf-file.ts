/** Functions of an ELF executable or library for x86-64, and where it keeps them. */
import { HyperturtleError } from '../core/errors.ts';
import { SymbolTable } from './symbol-table.ts';
import type { SymbolInfo } from './symbol-table.ts';

export interface ElfFile {
  /** Addresses are those it was linked for: absolute where `fixed`, else from the base at which it is loaded. */
  symbols: SymbolTable;
  /** ET_EXEC: loaded at its own addresses. */
  fixed: boolean;
  /** Executable segments: what is in memory from `start` on. */
  code: readonly { start: bigint; bytes: Buffer }[];
}

const ET_EXEC = 2;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PF_X = 1;
const SHT_SYMTAB = 2;
const SHT_DYNSYM = 11;
const STT_FUNC = 2;
const STT_IFUNC = 10;

export function isElf(bytes: Buffer): boolean {
  return bytes.length >= 64 && bytes.readUInt32BE(0) === 0x7f454c46;
}

/** Throws HT_UNSUPPORTED for what is no such file. Without symbols its table is empty. */
export function readElf(bytes: Buffer, what: string): ElfFile {
  const bad = (why: string): never => {
    throw new HyperturtleError('HT_UNSUPPORTED', `${what}: ${why}; an ELF file for x86-64 expected`);
  };
  if (!isElf(bytes)) bad('no ELF file');
  if (bytes[4] !== 2 || bytes[5] !== 1 || bytes.readUInt16LE(18) !== EM_X86_64) bad('of another machine');
  /** A file offset or size: what is beyond 2^53 is beyond the file too. */
  const word = (at: number): number => Number(bytes.readBigUInt64LE(at));
  const inside = (at: number, size: number): boolean => at >= 0 && size >= 0 && at + size <= bytes.length;

  const code: { start: bigint; bytes: Buffer }[] = [];
  const segments = bytes.readUInt16LE(56);
  if (!inside(word(32), segments * 56)) bad('its segments lie outside the file');
  for (let i = 0; i < segments; i++) {
    const at = word(32) + 56 * i;
    if (bytes.readUInt32LE(at) !== PT_LOAD || (bytes.readUInt32LE(at + 4) & PF_X) === 0) continue;
    const offset = word(at + 8);
    const size = word(at + 32);
    if (inside(offset, size))
      code.push({ start: bytes.readBigUInt64LE(at + 16), bytes: bytes.subarray(offset, offset + size) });
  }

  const sections = bytes.readUInt16LE(60);
  const table = word(40);
  if (!inside(table, sections * 64)) bad('its sections lie outside the file');
  const section = (i: number): { type: number; offset: number; size: number; link: number } => {
    const at = table + 64 * i;
    return {
      type: bytes.readUInt32LE(at + 4),
      offset: word(at + 24),
      size: word(at + 32),
      link: bytes.readUInt32LE(at + 40),
    };
  };
  const symbols: SymbolInfo[] = [];
  // the full table where there is one; what is dynamic is in it too
  const all = Array.from({ length: sections }, (_, i) => section(i));
  const tables = all.filter((s) => s.type === SHT_SYMTAB);
  for (const s of tables.length > 0 ? tables : all.filter((s) => s.type === SHT_DYNSYM)) {
    const names = all[s.link];
    if (!names || !inside(s.offset, s.size) || !inside(names.offset, names.size)) continue;
    for (let at = s.offset; at + 24 <= s.offset + s.size; at += 24) {
      const type = bytes[at + 4]! & 15;
      const address = bytes.readBigUInt64LE(at + 8);
      if ((type !== STT_FUNC && type !== STT_IFUNC) || address === 0n) continue;
      const name = names.offset + bytes.readUInt32LE(at);
      const end = bytes.indexOf(0, name);
      if (end < name || end >= names.offset + names.size) continue;
      symbols.push({
        address,
        name: bytes.toString('utf8', name, end),
        size: bytes.readBigUInt64LE(at + 16),
      });
    }
  }
  return { symbols: new SymbolTable(symbols), fixed: bytes.readUInt16LE(16) === ET_EXEC, code };
}

/** Whether the file has code at this address of its own. */
export function hasCode(elf: ElfFile, address: bigint): boolean {
  return elf.code.some(({ start, bytes }) => address >= start && address < start + BigInt(bytes.length));
}

/** Whether a call ends just before this address of the file, as it does before every return address. */
export function followsCall(elf: ElfFile, address: bigint): boolean {
  for (const { start, bytes } of elf.code) {
    if (address < start + 2n || address > start + BigInt(bytes.length)) continue;
    const at = Number(address - start);
    if (at >= 5 && bytes[at - 5] === 0xe8) return true;
    // FF /2 with its operand: 2 to 7 bytes, 8 with a prefix
    for (let n = 2; n <= 8 && n <= at; n++)
      if (bytes[at - n] === 0xff && ((bytes[at - n + 1]! >> 3) & 7) === 2) return true;
  }
  return false;
}

/** All addresses behind calls, by their last 12 bits, which no base changes. */
export function callEnds(elf: ElfFile): Map<number, bigint[]> {
  const ends = new Map<number, bigint[]>();
  for (const { start, bytes } of elf.code)
    for (let at = 2; at <= bytes.length; at++) {
      const address = start + BigInt(at);
      // only near calls: they are most, and cheap to find
      if (at < 5 || bytes[at - 5] !== 0xe8) continue;
      const low = Number(address & 0xfffn);
      const list = ends.get(low);
      if (list) list.push(address);
      else ends.set(low, [address]);
    }
  return ends;
}
