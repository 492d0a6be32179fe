/** Names of a kernel: from text, and out of an image laid out as scripts/kallsyms.c does. */
import { describe, expect, it } from 'vitest';
import { kallsymsOfImage, parseKallsyms } from '../../../src/profile/kallsyms.ts';

const BASE = 0xffff_ffff_8100_0000n;

/** What a kernel of 4,000 functions has in its .rodata: one token for each byte, and two of several letters. */
function image(layout: '6.1' | '6.12', names: readonly string[]): Buffer {
  const tokens = Array.from({ length: 256 }, (_, i) =>
    i === 1 ? 'fn_' : i === 2 ? 'do_' : String.fromCharCode(i || 3),
  );
  const packed = (name: string): Buffer => {
    const letters = name.replaceAll('fn_', '\x01').replaceAll('do_', '\x02');
    const bytes = Buffer.from(letters, 'latin1');
    return Buffer.concat([
      Buffer.from(bytes.length < 128 ? [bytes.length] : [0x80 | (bytes.length & 127), bytes.length >> 7]),
      bytes,
    ]);
  };
  const all = names.map(packed);
  const markers: number[] = [];
  let at = 0;
  all.forEach((b, i) => {
    if (i % 256 === 0) markers.push(at);
    at += b.length;
  });
  const words = (values: readonly number[]): Buffer => {
    const b = Buffer.alloc(4 * values.length);
    values.forEach((v, i) => b.writeInt32LE(v | 0, 4 * i));
    return b;
  };
  const base = Buffer.alloc(8);
  base.writeBigUInt64LE(BASE);
  const count = Buffer.alloc(8);
  count.writeUInt32LE(names.length);
  const table = Buffer.concat(tokens.map((t) => Buffer.from(`${t}\0`, 'latin1')));
  const index = Buffer.alloc(512);
  at = 0;
  tokens.forEach((t, i) => {
    index.writeUInt16LE(at, 2 * i);
    at += t.length + 1;
  });
  // per-CPU symbols are absolute: the others count downwards from the base
  const offsets = words(names.map((_, i) => -1 - 16 * i));
  const pad = (b: Buffer): Buffer => Buffer.concat([b, Buffer.alloc((8 - (b.length % 8)) % 8)]);
  const parts =
    layout === '6.1'
      ? [
          offsets,
          base,
          count,
          Buffer.concat(all),
          words(markers),
          Buffer.alloc(3 * names.length, 7),
          table,
          index,
        ]
      : [count, Buffer.concat(all), words(markers), table, index, offsets, base];
  return Buffer.concat([Buffer.from('\x7fELF...', 'latin1'), Buffer.alloc(57, 0xee), ...parts].map(pad));
}

describe('the table in a kernel image', () => {
  const names = [
    'T_text',
    ...Array.from({ length: 4000 }, (_, i) => `tfn_do_work_${i}`),
    `T${'long_'.repeat(40)}`,
    'D_data',
    'T_etext',
  ];

  it.each(['6.1', '6.12'] as const)('is found and read as Linux %s lays it out', (layout) => {
    const table = kallsymsOfImage(image(layout, names), 'vmlinux');
    expect(table.find(BASE)?.name).toBe('_text');
    expect(table.find(BASE + 16n * 1000n + 5n)?.name).toBe('fn_do_work_999');
    expect(table.find(BASE + 16n * 4001n)?.name).toBe('long_'.repeat(40));
    // what lies behind the code belongs to no function, nor do data
    expect(table.find(BASE + 16n * 5000n)).toBeUndefined();
    expect(table.named('_data')).toBeUndefined();
  });

  it('is missed with a word on what to give instead', () => {
    expect(() => kallsymsOfImage(Buffer.alloc(4096), 'vmlinux')).toThrow(/no table of symbols.*--kernel/);
  });
});

describe('the text of kallsyms', () => {
  it('gives functions, those of modules with their module', () => {
    const t = parseKallsyms(
      'ffffffff81000000 T _text\nffffffff81000100 t helper\nffffffff82000000 D data\nffffffffc0001000 t open\t[kvm]\n',
      'x',
    );
    expect([t.find(0xffffffff81000105n)?.name, t.find(0xffffffffc0001001n)?.name]).toEqual([
      'helper',
      'open [kvm]',
    ]);
  });

  it('says that addresses are hidden', () => {
    expect(() => parseKallsyms('0000000000000000 T _text\n', '/proc/kallsyms')).toThrow(/kptr_restrict/);
  });
});
