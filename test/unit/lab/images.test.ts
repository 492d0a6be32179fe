// cspell:ignore abcabcabcabcz
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { cpioArchive, cpioDevice, cpioDir, cpioFile, cpioLink } from '../../../src/core/cpio.ts';
import { elfSection, isElf, libraryClosure, neededLibraries } from '../../../src/lab/images-elf.ts';
import * as scripts from '../../../src/lab/init-scripts.ts';
import { moduleInfo } from '../../../src/lab/kernel.ts';
import { lz4Block, lz4LegacyDecompress } from '../../../src/lab/kernel-lz4.ts';

/** Reads an archive back, independently of how it was written. */
function readCpio(archive: Buffer): { name: string; mode: number; data: string }[] {
  const out: { name: string; mode: number; data: string }[] = [];
  const up = (n: number): number => (n + 3) & ~3;
  for (let at = 0; at < archive.length; ) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (i: number): number =>
      parseInt(archive.toString('latin1', at + 6 + i * 8, at + 14 + i * 8), 16);
    const name = archive.toString('utf8', at + 110, at + 110 + field(11) - 1);
    const data = up(at + 110 + field(11));
    out.push({ name, mode: field(1), data: archive.toString('utf8', data, data + field(6)) });
    at = up(data + field(6));
  }
  return out;
}

describe('a cpio archive', () => {
  const entries = [
    cpioDir('bin'),
    cpioFile('bin/a', 'odd', 0o755),
    cpioLink('bin/b', 'a'),
    cpioDevice('console', 5, 1),
    cpioFile('empty', ''),
  ];

  test('holds what was put in, and ends with the trailer', () => {
    expect(readCpio(cpioArchive(entries))).toEqual([
      { name: 'bin', mode: 0o040755, data: '' },
      { name: 'bin/a', mode: 0o100755, data: 'odd' },
      { name: 'bin/b', mode: 0o120777, data: 'a' },
      { name: 'console', mode: 0o020600, data: '' },
      { name: 'empty', mode: 0o100644, data: '' },
      { name: 'TRAILER!!!', mode: 0, data: '' },
    ]);
  });

  test('is the same whenever it is made', () => {
    expect(cpioArchive(entries).equals(cpioArchive(entries))).toBe(true);
  });
});

describe("LZ4 as the kernel's build packs it", () => {
  // three literals, a copy of nine from three back (it overlaps itself), one last literal
  const block = Buffer.from([0x35, 0x61, 0x62, 0x63, 3, 0, 0x10, 0x7a]);
  const frame = Buffer.concat([Buffer.from('02214c18', 'hex'), Buffer.from([block.length, 0, 0, 0]), block]);

  test('is unpacked, also where a copy overlaps itself', () => {
    expect(lz4Block(block).toString()).toBe('abcabcabcabcz');
    expect(lz4LegacyDecompress(Buffer.concat([frame, frame])).toString()).toBe('abcabcabcabcz'.repeat(2));
  });

  test('has lengths of more than one byte', () => {
    const long = Buffer.concat([Buffer.from([0xf0, 255, 30]), Buffer.alloc(300, 'x')]);
    expect(lz4Block(long).toString()).toBe('x'.repeat(300));
  });

  test('that is broken is refused, not guessed at', () => {
    expect(() => lz4Block(Buffer.from([0x35, 0x61, 0x62, 0x63, 9, 0]))).toThrow(/copy out of range/);
    expect(() => lz4Block(Buffer.from([0x50, 0x61]))).toThrow(/literals out of range/);
    expect(() => lz4LegacyDecompress(frame.subarray(0, -1))).toThrow(/broken LZ4/);
    expect(() => lz4LegacyDecompress(Buffer.from('nonsense'))).toThrow(/magic/);
  });
});

describe('an ELF file', () => {
  const sh = readFileSync('/bin/sh');

  test('tells which libraries it needs, and they are found with theirs', async () => {
    expect(isElf(sh)).toBe(true);
    expect(neededLibraries(sh)).toContain('libc.so.6');
    const all = await libraryClosure(['/bin/sh'], ['/usr/lib/x86_64-linux-gnu', '/lib64']);
    expect([...all.keys()]).toEqual(expect.arrayContaining(['libc.so.6', 'ld-linux-x86-64.so.2']));
  });

  test('whose library is missing names both', async () => {
    await expect(libraryClosure(['/bin/sh'], ['/nowhere'])).rejects.toThrow(
      /library \S+, needed by \/bin\/sh/,
    );
  });

  test('has sections; a file that is none has nothing', () => {
    expect(elfSection(sh, '.interp')?.toString('latin1')).toMatch(/^\/lib.*ld-linux/);
    expect(elfSection(sh, '.nope')).toBeUndefined();
    expect(neededLibraries(Buffer.from('#!/bin/sh\n'))).toEqual([]);
    expect(moduleInfo(sh)).toEqual({ depends: [], soft: [] });
  });
});

describe('the scripts of L0 and L1', () => {
  test.each(['INITRAMFS_INIT', 'LAB_BOOT', 'LAB_AGENT'] as const)('%s has no syntax error', (name) => {
    const r = spawnSync('sh', ['-n'], { input: scripts[name], encoding: 'utf8' });
    expect(r.stderr).toBe('');
    expect(r.status).toBe(0);
    // a template's ${...} that was meant for the shell, or the other way round
    expect(scripts[name]).not.toMatch(/undefined|\[object/);
  });

  test('know their level from the kernel arguments', () => {
    expect(scripts.kernelArgs(1).split(' ')).toEqual(
      expect.arrayContaining(['hyperturtle.level=1', 'nokaslr', 'quiet']),
    );
  });

  test('turn an IOMMU on in L1, where alone there is one', () => {
    const on = ([0, 1, 2] as const).map((n) => scripts.kernelArgs(n).includes('intel_iommu=on iommu=pt'));
    expect(on).toEqual([false, true, false]);
  });
});
