/** Programs of Debian packages that tests need and a small machine may lack: unpacked beside the lab's, not installed. */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import path from 'node:path';
import { errnoCode } from '../../src/core/errors.ts';
import { cacheRoot } from '../../src/lab/xdg.ts';

export interface DebTree {
  root: string;
  /** Finds the libraries of the tree first. */
  env: NodeJS.ProcessEnv;
}

/** Of `a|b` the first that apt knows: libraries have other names in other releases. */
function known(name: string): string {
  const [first = name, ...others] = name.split('|');
  if (others.length === 0) return first;
  const has = (n: string): boolean => spawnSync('apt-cache', ['show', n], { stdio: 'ignore' }).status === 0;
  return [first, ...others].find(has) ?? first;
}

/** The unpacked packages, or why there are none. Fetches them the first time. A name may have alternatives, as `a|b`. */
export function debTree(name: string, packages: readonly string[]): DebTree | string {
  const root = path.join(cacheRoot(), 'trees', name);
  if (!existsSync(root)) {
    mkdirSync(path.dirname(root), { recursive: true });
    const staging = mkdtempSync(`${root}.`);
    try {
      const got = spawnSync('apt-get', ['-q', 'download', ...packages.map(known)], {
        cwd: staging,
        encoding: 'utf8',
        timeout: 120_000,
      });
      if (got.status !== 0)
        return `no ${name}: ${got.error?.message ?? got.stderr.trim().split('\n').at(-1)}`;
      for (const deb of readdirSync(staging).filter((n) => n.endsWith('.deb')))
        execFileSync('dpkg-deb', ['-x', path.join(staging, deb), path.join(staging, 'root')]);
      moveTo(path.join(staging, 'root'), root);
    } finally {
      rmSync(staging, { recursive: true, force: true });
    }
  }
  const libraries = ['usr/lib', 'lib'].map((d) => path.join(root, d, 'x86_64-linux-gnu')).join(':');
  return { root, env: { ...process.env, LD_LIBRARY_PATH: libraries } };
}

/** Where another test file has just put the same, that stays. */
function moveTo(made: string, root: string): void {
  try {
    renameSync(made, root);
  } catch (e) {
    if (errnoCode(e) !== 'ENOTEMPTY' && errnoCode(e) !== 'EEXIST') throw e;
  }
}

/** busybox-static of the tree: in /usr since Debian 13. */
export function busyboxOf(tree: DebTree): string {
  const found = ['bin/busybox', 'usr/bin/busybox'].map((p) => path.join(tree.root, p)).find(existsSync);
  if (found === undefined) throw new Error(`no busybox in ${tree.root}`);
  return found;
}

/** A root file system for containers out of busybox-static of the tree. */
export function makeRootfs(tree: DebTree, to: string): void {
  for (const d of ['bin', 'proc', 'sys', 'dev', 'etc', 'tmp'])
    mkdirSync(path.join(to, d), { recursive: true });
  copyFileSync(busyboxOf(tree), path.join(to, 'bin/busybox'));
  for (const name of ['sh', 'ip', 'ping', 'sleep', 'cat']) symlinkSync('busybox', path.join(to, 'bin', name));
}
