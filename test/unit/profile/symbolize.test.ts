/** From stacks of addresses to names, and to files that other programs read. */
import { gunzipSync } from 'node:zlib';
import { Profile } from 'pprof-format';
import { describe, expect, it } from 'vitest';
import type { ElfFile } from '../../../src/profile/elf-file.ts';
import { flameGraph, flamePage } from '../../../src/profile/flame-graph.ts';
import { folded } from '../../../src/profile/folded.ts';
import { pprofOf } from '../../../src/profile/pprof.ts';
import { stacksBetween } from '../../../src/profile/stacks.ts';
import type { Stack } from '../../../src/profile/stacks.ts';
import { SymbolTable } from '../../../src/profile/symbol-table.ts';
import { hottest, kernelOffsetOf, symbolize } from '../../../src/profile/symbolize.ts';

const table = (entries: Record<string, bigint>, size = 0n): SymbolTable =>
  new SymbolTable(Object.entries(entries).map(([name, address]) => ({ name, address, size })));

const stack = (more: Partial<Stack>): Stack => ({
  l2: 1,
  vcpu: 0,
  kernel: false,
  space: 0x1000n,
  ips: [],
  samples: 1,
  ...more,
});

/** Functions of 0x100 bytes, each with a call in its middle. */
function binary(names: readonly string[], fixed: boolean): ElfFile {
  const start = fixed ? 0x401000n : 0x1000n;
  const bytes = Buffer.alloc(0x100 * names.length, 0x90);
  // at different places, so that no other base fits as well
  names.forEach((_, i) => (bytes[0x100 * i + 0x20 + 7 * i] = 0xe8));
  return {
    fixed,
    symbols: new SymbolTable(
      names.map((name, i) => ({ name, address: start + 0x100n * BigInt(i), size: 0x100n })),
    ),
    code: [{ start, bytes }],
  };
}
const behindCall = (i: number): bigint => BigInt(0x100 * i + 0x25 + 7 * i);

const KERNEL = table({
  asm_exc_page_fault: 0xffffffff81e00000n,
  schedule: 0xffffffff81a00000n,
  idle: 0xffffffff81a01000n,
});

describe('names of programs with addresses of their own', () => {
  const other = (): ElfFile => {
    const elf = binary(['alpha_main', 'alpha_work'], true);
    for (const c of elf.code) c.bytes.fill(0x90).writeUInt8(0xe8, 0x40);
    return elf;
  };
  const named = (binaries: ElfFile[], ips: bigint[]): string[] | undefined =>
    symbolize([stack({ ips })], {
      kernelOffset: 0n,
      binaries: binaries.map((elf, i) => ({ name: `b${i}`, elf })),
    })[0]?.frames.map((f) => f.name);
  const beta = (): ElfFile => binary(['beta_main', 'beta_work'], true);
  const ips = [0x401110n, 0x401000n + behindCall(1), 0x401000n + behindCall(0)];

  it('are those of the one whose calls fit, whatever comes first', () => {
    const right = ['beta_main', 'beta_work', 'beta_work'];
    expect(named([other(), beta()], ips)).toEqual(right);
    expect(named([beta(), other()], ips)).toEqual(right);
  });

  it('are left out where none fits, two fit alike, or nothing shows which one runs', () => {
    const hex = ips.map((ip) => `[0x${ip.toString(16)}]`).reverse();
    expect(named([other()], ips)).toEqual(hex);
    expect(named([beta(), beta()], ips)).toEqual(hex);
    expect(named([other(), beta()], ips.slice(0, 1))).toEqual(['[0x401110]']);
    expect(named([beta()], ips.slice(0, 1))).toEqual(['beta_work']);
  });
});

describe('a table of symbols', () => {
  const of = (...symbols: [string, bigint, bigint][]): SymbolTable =>
    new SymbolTable(symbols.map(([name, address, size]) => ({ name, address, size })));
  it.each<[string, SymbolTable, bigint, string | undefined]>([
    ['a symbol with a size before one without', of(['alias', 0n, 0n], ['hot', 0n, 64n]), 9n, 'hot'],
    ['the inner one of nested ones', of(['outer', 0n, 512n], ['inner', 64n, 16n]), 70n, 'inner'],
    ['the outer one behind the inner', of(['outer', 0n, 512n], ['inner', 64n, 16n]), 100n, 'outer'],
    ['the outer one behind two', of(['o', 0n, 512n], ['i', 64n, 64n], ['j', 80n, 8n]), 200n, 'o'],
    ['nothing behind all', of(['outer', 0n, 512n], ['inner', 64n, 16n]), 512n, undefined],
    ['one without a size up to the next', of(['a', 0n, 0n], ['b', 64n, 8n]), 63n, 'a'],
  ])('finds %s', (_, symbols, address, name) => {
    expect(symbols.find(address)?.name).toBe(name);
  });
});

describe('names', () => {
  it('of a kernel that was moved are found by where its page fault handler is', () => {
    expect(kernelOffsetOf(KERNEL, 0xffffffff9f000000n)).toBe(0x1d200000n);
    const [s] = symbolize([stack({ kernel: true, ips: [0xffffffff81a00010n + 0x1d200000n] })], {
      kernel: KERNEL,
      kernelOffset: 0x1d200000n,
      binaries: [],
    });
    expect(s?.frames.map((f) => f.name)).toEqual(['schedule']);
  });

  it('of another kernel are refused: no kernel is moved by such a distance', () => {
    expect(kernelOffsetOf(KERNEL, 0xffffffff9f000040n)).toBeUndefined();
  });

  it('end a kernel stack where an address is no code', () => {
    const [s] = symbolize(
      [stack({ kernel: true, ips: [0xffffffff81a01004n, 0xffff888000001234n, 0xffffffff81a00010n] })],
      {
        kernel: KERNEL,
        kernelOffset: 0n,
        binaries: [],
      },
    );
    expect(s?.frames.map((f) => f.name)).toEqual(['idle']);
  });

  it('of callers are those before the return address, also when that begins the next function', () => {
    const elf = binary(['main', 'work', 'next'], true);
    elf.code[0]?.bytes.writeUInt8(0xe8, 0xfb); // the last instruction of main
    const [s] = symbolize([stack({ ips: [0x401105n, 0x401100n] })], {
      kernelOffset: 0n,
      binaries: [{ name: 'prog', elf }],
    });
    expect(s?.frames.map((f) => f.name)).toEqual(['main', 'work']);
  });

  it('of a position-independent program are found by its calls, wherever it was loaded', () => {
    const names = ['a', 'b', 'c', 'd', 'e', 'f'];
    const base = 0x5566_1234_5000n;
    const ips = names.map((_, i) => base + 0x1000n + behindCall(i));
    const symbols = { kernelOffset: 0n, binaries: [{ name: 'pie', elf: binary(names, false) }] };
    const [s] = symbolize([stack({ ips: [base + 0x1010n, ...ips] })], symbols);
    expect(s?.frames.map((f) => f.name)).toEqual(['f', 'e', 'd', 'c', 'b', 'a', 'a']);
    // with too few addresses nothing is guessed
    const [few] = symbolize([stack({ ips: ips.slice(0, 3) })], symbols);
    expect(few?.frames.every((f) => f.module === 'user')).toBe(true);
  });
});

const NAMED = [
  { frames: frames('main', 'hot<T>'), samples: 50 },
  { frames: frames('main', 'cool'), samples: 30 },
  { frames: [{ name: 'idle', module: 'kernel', kernel: true, address: 1n }], samples: 20 },
];
function frames(...names: string[]): { name: string; module: string; kernel: boolean; address: bigint }[] {
  return names.map((name, i) => ({ name, module: 'prog', kernel: false, address: BigInt(i + 1) }));
}

describe('a profile', () => {
  it('is folded as flamegraph.pl reads it', () => {
    expect(folded(NAMED)).toBe('idle_[k] 20\nmain;cool 30\nmain;hot<T> 50\n');
  });

  it('is one SVG file whose boxes are as wide as their share, with nothing from elsewhere', () => {
    const svg = flameGraph(NAMED, { title: 'a & b', subtitle: '' });
    expect(svg).toContain('main (prog): 80 samples, 80.00%');
    expect(svg).toContain('width="960.00"');
    expect(svg).not.toMatch(/hot<T>|https?:\/\/(?!www\.w3\.org\/2000\/svg)/);
    expect(svg).toContain('a &amp; b');
    expect(flamePage(NAMED, { title: 't', subtitle: '' }, hottest(NAMED))).toContain('<td>50.0%</td>');
  });

  it('is read back by a reader of pprof with the same samples', async () => {
    const bytes = await pprofOf(NAMED, { startedAt: new Date(0), durationMs: 1000, hz: 100 });
    const p = Profile.decode(gunzipSync(bytes));
    expect(p.sample.map((s) => s.value.map(Number))).toEqual([
      [50, 500_000_000],
      [30, 300_000_000],
      [20, 200_000_000],
    ]);
    const leaf = p.location.find((l) => Number(l.id) === Number(p.sample[0]?.locationId[0]));
    const fn = p.function.find((f) => Number(f.id) === Number(leaf?.line[0]?.functionId));
    expect(p.stringTable.strings[Number(fn?.name)]).toBe('hot<T>');
    expect(Number(p.period)).toBe(10_000_000);
  });

  it('between two looks is what was added', () => {
    const before = [stack({ ips: [1n], samples: 5 })];
    const after = [stack({ ips: [1n], samples: 7 }), stack({ ips: [2n], samples: 1 })];
    expect(stacksBetween(before, after).map((s) => s.samples)).toEqual([2, 1]);
    expect(stacksBetween(after, after)).toEqual([]);
  });
});
