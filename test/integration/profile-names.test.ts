/** Names of functions out of real object files: compiled C++, and bytes as other languages write them. */
// cspell:ignore mycrate
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findSymbols } from '../../src/client/profile-symbols.ts';
import { readElf } from '../../src/profile/elf-file.ts';

const missing = ['as', 'ld', 'c++filt'].find((p) => spawnSync(p, ['--version']).error !== undefined);

describe.skipIf(missing !== undefined)(
  `names of functions${missing ? ` (skipped: no ${missing})` : ''}`,
  () => {
    let dir: string;
    let file: string;
    beforeAll(() => {
      dir = mkdtempSync(path.join(os.tmpdir(), 'ht-names-'));
      const names = [
        '_ZNSt6vectorIiSaIiEE9push_backERKi',
        '_ZN4core3fmt5Write9write_str17h9a8b7c6d5e4f3210E',
        '_RNvCs1234_7mycrate3foo',
        'größe_名前',
        'two\u0001parts',
      ];
      const text = names
        .map((n) => `.globl "${n}"\n.type "${n}",@function\n"${n}": ret\n.size "${n}",1\n`)
        .join('');
      writeFileSync(path.join(dir, 'a.s'), `.text\n.globl _start\n_start: ret\n${text}`);
      file = path.join(dir, 'a');
      execFileSync('as', ['-o', `${file}.o`, path.join(dir, 'a.s')]);
      execFileSync('ld', ['-o', file, `${file}.o`]);
    });
    afterAll(() => {
      rmSync(dir, { recursive: true });
    });

    it('are demangled, in UTF-8, and on one line', async () => {
      const { symbols, notes } = await findSymbols({ binary: [file] }, undefined, new Map());
      const names = symbols.binaries[0]?.elf.symbols.names() ?? [];
      expect(names).toContain('std::vector<int, std::allocator<int> >::push_back(int const&)');
      expect(names).toContain('core::fmt::Write::write_str');
      expect(names.some((n) => /^mycrate(\[\w+\])?::foo$/.test(n))).toBe(true);
      expect(names).toContain('größe_名前');
      expect(names.filter((n) => /[\p{Cc}]/u.test(n))).toEqual([]);
      expect(names).toContain('two\\x01parts');
      expect(notes).toEqual([expect.stringContaining('no names for kernels')]);
    });

    it('are as the file has them without c++filt, and that is said', async () => {
      const { PATH } = process.env;
      process.env['PATH'] = dir;
      try {
        const { symbols, notes } = await findSymbols({ binary: [file] }, undefined, new Map());
        expect(symbols.binaries[0]?.elf.symbols.names()).toContain('_RNvCs1234_7mycrate3foo');
        expect(notes.join('\n')).toMatch(/c\+\+filt \(package binutils\)/);
      } finally {
        process.env['PATH'] = PATH;
      }
    });

    it('below --root that are not all read are said to be so', async () => {
      const bytes = readFileSync(file);
      expect(readElf(bytes, file).symbols.size).toBeGreaterThan(4);
      for (let i = 0; i < 2001; i++) writeFileSync(path.join(dir, `lib${i}.so`), '');
      const { notes } = await findSymbols({ binary: [], root: dir }, undefined, new Map());
      expect(notes.join('\n')).toMatch(/the first 2000 executables and libraries/);
    });
  },
);
