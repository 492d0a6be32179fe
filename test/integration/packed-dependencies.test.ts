import {
  closeSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { copyApp } from '../../src/install/deb.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
let dir: string;
beforeEach(() => void (dir = mkdtempSync(path.join(os.tmpdir(), 'ht-app-'))));
afterEach(() => rmSync(dir, { recursive: true }));

/** lintian complains about them, as what is packed cannot be executed. */
it('no script of a dependency goes into packages and images: nothing here runs it', async () => {
  const from = path.join(dir, 'from');
  mkdirSync(path.join(from, 'dist/src'), { recursive: true });
  cpSync(path.join(ROOT, 'package.json'), path.join(from, 'package.json'));
  symlinkSync(path.join(ROOT, 'node_modules'), path.join(from, 'node_modules'));
  const to = path.join(dir, 'to');
  await copyApp(from, to);
  const modules = path.join(to, 'node_modules');
  const files = readdirSync(modules, { recursive: true, encoding: 'utf8' }).filter((f) =>
    statSync(path.join(modules, f)).isFile(),
  );
  expect(files.length).toBeGreaterThan(100);
  const isScript = (f: string): boolean => {
    const fd = openSync(path.join(modules, f), 'r');
    try {
      const start = Buffer.alloc(2);
      readSync(fd, start);
      return start.toString() === '#!';
    } finally {
      closeSync(fd);
    }
  };
  expect(files.filter(isScript)).toEqual([]);
});
