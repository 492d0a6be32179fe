/** Directories and files of records, on file systems that fail. */
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HyperturtleError } from '../../src/core/errors.ts';
import { makeDirectory, replaceFile } from '../../src/core/files.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-files-'));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

const thrown = (f: () => void): HyperturtleError => {
  try {
    f();
  } catch (e) {
    if (e instanceof HyperturtleError) return e;
    throw e;
  }
  throw new Error('it threw nothing');
};

describe('a directory', () => {
  it('is made with its parents, and is fine when it is there', () => {
    const deep = path.join(dir, 'a/b/c');
    makeDirectory(deep, 0o700);
    makeDirectory(deep, 0o700);
    expect(statSync(deep).mode & 0o777).toBe(0o700);
  });

  it.each([
    ['below /proc, which has no room for any', () => '/proc/none/below/it'],
    ['below a file', () => path.join(dir, 'file/below')],
    ['where a file is', () => path.join(dir, 'file')],
  ])('%s is refused at once, with its path', (_, at) => {
    writeFileSync(path.join(dir, 'file'), '');
    const e = thrown(() => makeDirectory(at()));
    expect(e.code).toBe('HT_KERNEL');
    expect(e.message).toContain(at());
    expect(e.message).toContain('choose another path');
  });
});

describe('a file that is replaced', () => {
  it('has its new content and mode, and nothing is left beside it', () => {
    const file = path.join(dir, 'new/file');
    replaceFile(file, 'one', { mode: 0o600, directoryMode: 0o700, sync: true });
    replaceFile(file, 'two', { mode: 0o600 });
    expect(readFileSync(file, 'utf8')).toBe('two');
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readdirSync(path.dirname(file))).toEqual(['file']);
  });

  it.skipIf(process.getuid?.() !== 0)(
    'keeps its old content on a full or read-only file system, with nothing left beside it (root only: it mounts one)',
    () => {
      const small = path.join(dir, 'small');
      mkdirSync(small);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16k', 'tmpfs', small]);
      try {
        const file = path.join(small, 'file');
        replaceFile(file, 'old');
        const full = thrown(() => replaceFile(file, Buffer.alloc(1 << 16)));
        expect([full.code, full.message]).toEqual([
          'HT_NO_SPACE',
          expect.stringContaining('no space is left'),
        ]);
        execFileSync('mount', ['-o', 'remount,ro', small]);
        const readOnly = thrown(() => replaceFile(file, 'new'));
        expect([readOnly.code, readOnly.message]).toEqual([
          'HT_KERNEL',
          expect.stringContaining('read-only'),
        ]);
        expect(readFileSync(file, 'utf8')).toBe('old');
        expect(existsSync(`${file}.new`)).toBe(false);
      } finally {
        execFileSync('umount', [small]);
      }
    },
  );
});
