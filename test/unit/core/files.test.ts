/** Directories and files of records, on file systems that fail. */
import { execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HyperturtleError } from '../../../src/core/errors.ts';
import {
  checkOutput,
  makeDirectory,
  readIfThere,
  readInput,
  replaceFile,
  textIfThere,
  writeOutput,
} from '../../../src/core/files.ts';

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

describe('a file that somebody named', () => {
  const GIVE = 'give a compiled object';

  it('is read as it is, also where its size is not told before', () => {
    writeFileSync(path.join(dir, 'f'), 'content');
    expect(readInput(path.join(dir, 'f'), GIVE).toString()).toBe('content');
    writeFileSync(path.join(dir, 'empty'), '');
    expect(readInput(path.join(dir, 'empty'), GIVE).length).toBe(0);
    const big = Buffer.alloc((3 << 20) + 5, 'abc');
    writeFileSync(path.join(dir, 'big'), big);
    expect(readInput(path.join(dir, 'big'), GIVE).equals(big)).toBe(true);
    expect(readInput('/proc/self/status', GIVE).toString()).toMatch(/^Name:/);
  });

  it.each([
    [
      'a device without an end',
      () => '/dev/zero',
      /zero is a character device: a regular file expected: give a c/,
    ],
    ['a directory', () => dir, / is a directory: give a compiled object$/],
    ['a pipe without a writer', () => 'pipe', /pipe is a named pipe: a regular file expected/],
    ['a socket', () => 'socket', /socket is a socket: a regular file expected/],
    ['a link to a device', () => 'link', /link is a character device/],
  ])('is refused where it is %s', (_, name, why) => {
    execFileSync('mkfifo', [path.join(dir, 'pipe')]);
    const server = net.createServer().listen(path.join(dir, 'socket')); // bound at once
    symlinkSync('/dev/zero', path.join(dir, 'link'));
    const e = thrown(() => readInput(path.resolve(dir, name()), GIVE));
    expect(e.code).toBe('HT_USAGE');
    expect(e.message).toMatch(why);
    server.close();
  });

  it('is refused where a link leads nowhere, which is said', () => {
    symlinkSync(path.join(dir, 'gone'), path.join(dir, 'link'));
    const e = thrown(() => readInput(path.join(dir, 'link'), GIVE));
    expect([e.code, e.message]).toEqual([
      'HT_NOT_FOUND',
      `${dir}/link: no such file behind the symbolic link: ${GIVE}`,
    ]);
    symlinkSync('loop', path.join(dir, 'loop'));
    expect(thrown(() => readInput(path.join(dir, 'loop'), GIVE)).message).toContain('lead in a circle');
  });

  it('is refused where it is larger than its use allows, with the limit, also where nobody said so before', () => {
    writeFileSync(path.join(dir, 'f'), Buffer.alloc(65_537));
    expect(thrown(() => readInput(path.join(dir, 'f'), GIVE, 65_536)).message).toBe(
      `${dir}/f has 64 KiB: at most 64 KiB expected`,
    );
    expect(readInput(path.join(dir, 'f'), GIVE, 65_537).length).toBe(65_537);
    expect(thrown(() => readInput('/proc/self/status', GIVE, 100)).message).toBe(
      '/proc/self/status has more: at most 100 bytes expected',
    );
    execFileSync('truncate', ['-s', '5G', path.join(dir, 'sparse')]);
    expect(thrown(() => readInput(path.join(dir, 'sparse'), GIVE)).message).toMatch(
      /has 5120 MiB: at most 64 MiB/,
    );
  });

  it('of the kernel is undefined where it is not', () => {
    expect(readIfThere(path.join(dir, 'none'))).toBeUndefined();
    expect(textIfThere(dir)).toBeUndefined();
    writeFileSync(path.join(dir, 'f'), ' 1\n');
    expect(textIfThere(path.join(dir, 'f'))).toBe('1');
  });
});

it('a link or a pipe of the name that a new file has meanwhile is not written to', () => {
  const at = (name: string): string => path.join(dir, name);
  writeFileSync(at('victim'), 'kept');
  symlinkSync('victim', at('record.new'));
  replaceFile(at('record'), 'content');
  expect(readFileSync(at('victim'), 'utf8')).toBe('kept');
  expect(statSync(at('record')).isFile()).toBe(true);
  execFileSync('mkfifo', [at('record.new')]);
  replaceFile(at('record'), 'again');
  expect(readFileSync(at('record'), 'utf8')).toBe('again');
});

describe('checkOutput', () => {
  it('leaves links, pipes and files as they are, and makes nothing', () => {
    const at = (name: string): string => path.join(dir, name);
    symlinkSync('not-there', at('dangling'));
    execFileSync('mkfifo', [at('pipe')]);
    writeFileSync(at('file'), 'kept');
    for (const name of ['dangling', 'pipe', 'file', 'new']) checkOutput(at(name));
    expect(readdirSync(dir).sort()).toEqual(['dangling', 'file', 'pipe']);
    expect(readlinkSync(at('dangling'))).toBe('not-there');
    expect(readFileSync(at('file'), 'utf8')).toBe('kept');
    expect(() => checkOutput(at('none/file'))).toThrow('none/file: cannot be written');
    expect(() => checkOutput(dir)).toThrow('cannot be written');
  });

  it('is not the end of a pipe for who reads it', async () => {
    const pipe = path.join(dir, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const reader = spawn('cat', [pipe], { stdio: ['ignore', 'pipe', 'ignore'] });
    const said = text(reader.stdout);
    checkOutput(pipe);
    writeOutput(pipe, 'result');
    expect(await said).toBe('result');
  });
});
