/** `host install` as a program: whose reader goes, twice at once, killed, and into no directory. */
import { execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { compiledSources } from '../support/compiled.ts';

let cli: string;
let root: string;
beforeAll(() => {
  const sources = compiledSources();
  cli = path.join(sources, 'cli/main.js');
  // what is installed stands beside the compiled sources in a package
  for (const d of ['c', 'dist-files']) {
    const link = path.resolve(sources, '../..', d);
    if (!existsSync(link)) symlinkSync(path.resolve(d), link);
  }
}, 300_000);
beforeEach(() => {
  root = mkdtempSync(path.join(os.tmpdir(), 'ht-install-'));
});
afterEach(() => rmSync(root, { recursive: true }));

const run = (...words: string[]): { status: number | null; stdout: string; stderr: string } =>
  spawnSync(process.execPath, [cli, 'host', ...words], { encoding: 'utf8', timeout: 120_000 });
const files = (): string[] =>
  readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile())
    .map((e) => path.join(e.parentPath, e.name));

it('goes on to its end though nobody reads what it says', () => {
  const script = 'exec 3>&1; { "$@"; echo "status $?" >&3; } | true';
  const words = [process.execPath, cli, 'host', 'install', '--root', root];
  const r = spawnSync('sh', ['-c', script, 'sh', ...words], { encoding: 'utf8', timeout: 120_000 });
  expect(r.stdout).toBe('status 0\n');
  expect(run('install', '--root', root).stdout).toBe('nothing to do\n');
}, 300_000);

it('waits for one that is under way, and finds nothing to do', async () => {
  const words = [cli, 'host', 'install', '--root', root];
  const both = await Promise.all([1, 2].map(() => promisify(execFile)(process.execPath, words)));
  expect(both.filter((r) => r.stdout === 'nothing to do\n')).toHaveLength(1);
  expect(run('uninstall', '--root', root).status).toBe(0);
  expect(files()).toEqual([]);
}, 300_000);

it('refuses to install into what is no directory', () => {
  for (const dir of ['', path.join(root, 'none'), cli]) {
    const r = run('install', '--root', dir, '--no-module', '--dry-run');
    expect(r.stderr).toContain(`--root '${dir}': a directory with a machine's files expected`);
    expect(r.status).toBe(2);
  }
  expect(existsSync(path.join(root, 'none'))).toBe(false);
});

it('makes no directory where there is nothing to uninstall', () => {
  mkdirSync(path.join(root, 'etc'));
  expect(run('uninstall', '--root', root).stdout).toBe('nothing to do\n');
  expect(readdirSync(root)).toEqual(['etc']);
});
