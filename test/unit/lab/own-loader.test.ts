import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { librariesBesidePrograms, setLoader } from '../../../src/lab/own-loader.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'own-loader-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

test('a program of a tree is started by the loader of that tree, and finds its libraries beside it', async () => {
  const triplet = 'x86_64-linux-gnu';
  const lib = path.join(dir, 'usr/lib', triplet);
  const deep = path.join(dir, 'usr/libexec/gcc/x/14');
  for (const d of [lib, deep]) mkdirSync(d, { recursive: true });
  const loader = path.join(lib, 'ld.so');
  copyFileSync(realpathSync('/lib64/ld-linux-x86-64.so.2'), loader);
  const libc = /=> (\S*libc\.so\.6)/.exec(execFileSync('ldd', ['/bin/cat'], { encoding: 'utf8' }))![1]!;
  copyFileSync(realpathSync(libc), path.join(lib, 'libc.so.6'));
  copyFileSync(realpathSync('/bin/cat'), path.join(deep, 'cat'));
  writeFileSync(path.join(deep, 'text'), 'no program');
  const env = { PATH: '/usr/bin:/bin', LD_LIBRARY_PATH: librariesBesidePrograms(triplet) };
  const maps = (program: string): string =>
    execFileSync(program, ['/proc/self/maps'], { encoding: 'utf8', env });

  expect(maps(path.join(deep, 'cat'))).not.toContain(loader);
  // the C library is a program as well
  expect(await setLoader(path.join(dir, 'usr'), loader)).toBe(2);
  const ours = maps(path.join(deep, 'cat'));
  expect(ours).toContain(loader);
  expect(ours).toContain(path.join(lib, 'libc.so.6'));
  // the host's, in the same environment, has its own
  expect(maps('/bin/cat')).not.toContain(dir);
});
