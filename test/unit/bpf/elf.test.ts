/** Objects come from files that anyone may have damaged: they are refused in words, and libbpf never sees them. */
import { describe, expect, it } from 'vitest';
import { parseElf, patchConstants } from '../../../src/bpf/elf.ts';
import { isHyperturtleError } from '../../../src/core/errors.ts';

/** A minimal eBPF object: .rodata of 16 bytes with two constants, a symbol table and its names. */
function makeElf(): Uint8Array {
  const names = Buffer.from('\0.rodata\0.symtab\0.strtab\0arena_bytes\0salt\0');
  const nameAt = (s: string): number => names.indexOf(`\0${s}\0`) + 1;
  const rodata = Buffer.alloc(16, 0xee);
  const symtab = Buffer.alloc(3 * 24);
  const symbol = (i: number, name: string, value: number, size: number): void => {
    symtab.writeUInt32LE(nameAt(name), i * 24);
    symtab.writeUInt16LE(1, i * 24 + 6);
    symtab.writeBigUInt64LE(BigInt(value), i * 24 + 8);
    symtab.writeBigUInt64LE(BigInt(size), i * 24 + 16);
  };
  symbol(1, 'arena_bytes', 8, 8);
  symbol(2, 'salt', 4, 4);
  const parts = [rodata, symtab, names];
  const header = Buffer.alloc(64);
  header.writeUInt32BE(0x7f454c46, 0);
  header[4] = 2;
  header[5] = 1;
  header.writeUInt16LE(247, 18);
  const tableAt = 64 + parts.reduce((n, p) => n + p.length, 0);
  header.writeBigUInt64LE(BigInt(tableAt), 40);
  header.writeUInt16LE(64, 58);
  header.writeUInt16LE(4, 60);
  header.writeUInt16LE(3, 62);
  const table = Buffer.alloc(4 * 64);
  let at = 64;
  (
    [
      ['.rodata', 1, rodata, 0],
      ['.symtab', 2, symtab, 3],
      ['.strtab', 3, names, 0],
    ] as const
  ).forEach(([name, type, content, link], i) => {
    const s = (i + 1) * 64;
    table.writeUInt32LE(nameAt(name), s);
    table.writeUInt32LE(type, s + 4);
    table.writeBigUInt64LE(BigInt(at), s + 24);
    table.writeBigUInt64LE(BigInt(content.length), s + 32);
    table.writeUInt32LE(link, s + 40);
    at += content.length;
  });
  return new Uint8Array(Buffer.concat([header, ...parts, table]));
}

const refusal = (bytes: Uint8Array): string => {
  try {
    parseElf(bytes);
    return 'accepted';
  } catch (e) {
    if (isHyperturtleError(e, 'HT_BPF')) return e.message;
    throw e;
  }
};

describe('an eBPF object', () => {
  it('gives its sections and symbols', () => {
    const elf = parseElf(makeElf());
    expect(elf.sections.map((s) => s.name)).toEqual(['', '.rodata', '.symtab', '.strtab']);
    expect(elf.symbols.find((s) => s.name === 'arena_bytes')).toMatchObject({
      section: 1,
      value: 8,
      size: 8,
    });
  });

  it('is refused when it is something else', () => {
    expect(refusal(new Uint8Array(10))).toMatch(/too few/);
    expect(refusal(new TextEncoder().encode('#!/bin/sh\n'.repeat(20)))).toMatch(/ELF magic/);
    const x86 = makeElf();
    x86[18] = 62;
    expect(refusal(x86)).toMatch(/machine 247 \(BPF\) expected, 62 found/);
  });

  it('is refused when cut off, wherever', () => {
    const whole = makeElf();
    for (let n = 0; n < whole.length; n++)
      expect(refusal(whole.subarray(0, n))).toMatch(/not an eBPF object/);
  });

  it('never crashes the parser, whatever byte is damaged', () => {
    const whole = makeElf();
    for (let i = 0; i < whole.length; i++)
      for (const value of [0, 0x7f, 0xff]) {
        const damaged = whole.slice();
        damaged[i] = value;
        expect(refusal(damaged)).toMatch(/accepted|not an eBPF object/);
      }
  });
});

describe('constants', () => {
  const bytes = makeElf();
  const elf = parseElf(bytes);

  it('are set where their symbols stand, and nothing else changes', () => {
    const out = patchConstants(bytes, elf, { arena_bytes: 16 << 20, salt: 0x01020304n });
    expect(Buffer.from(out).toString('hex')).toBe('eeeeeeee' + '04030201' + '0000000100000000');
    expect(bytes[64]).toBe(0xee);
    expect(bytes[68]).toBe(0xee);
  });

  it('must exist and fit', () => {
    expect(() => patchConstants(bytes, elf, { other: 1 })).toThrow(/no constant 'other'/);
    expect(() => patchConstants(bytes, elf, { salt: 2n ** 32n })).toThrow(/does not fit 4 bytes/);
    expect(() => patchConstants(bytes, elf, { salt: -1 })).toThrow(/does not fit/);
  });
});
