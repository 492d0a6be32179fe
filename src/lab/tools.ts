/**
 * Packages unpacked into trees of our own, and the environment in which their programs run from there. Nothing is
 * installed: the host's own compiler or QEMU is never used, so the lab is the same on every machine.
 */
import { mkdir, readdir, readFile, readlink, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { exec } from '../core/exec.ts';
import { HyperturtleError, messageOf } from '../core/errors.ts';
import { withStep } from '../core/progress.ts';
import type { Progress } from '../core/progress.ts';
import type { QemuProgram } from './artifacts.ts';
import type { DebRecord } from './debs.ts';
import { librariesBesidePrograms, setLoader } from './own-loader.ts';
import type { PackageSet } from './packages.ts';
import { cacheEntry, contentKey, exists } from './xdg.ts';

export const TRIPLET = 'x86_64-linux-gnu';

export interface ToolsTree {
  /** `usr/bin`, `usr/lib`, ... of all packages but the C library. */
  root: string;
  /** The C library alone: programs on the host must run with the host's. The images need it. */
  libc: string;
  /** Its programs are started by its own loader (own-loader.ts), with its own C library. */
  ownLoader?: boolean;
  /** Codename, of another release than the machine's. */
  release?: string;
  key: string;
}

export interface KernelTree {
  root: string;
  kernelVersion: string;
  /** Where `make -C` builds modules. */
  headers: string;
  /** The compiler's name, where the headers don't say it themselves. */
  cc?: string;
  /** What its modules are compiled with, where that is not the lab's tools: of a kernel of another release. */
  kit?: ToolsTree;
  key: string;
}

export interface UnpackOptions {
  cacheRoot: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

const KERNEL_PACKAGE = /^linux-(image|binary|modules|base|headers|kbuild|compiler)-/;
export const isKernelPackage = (name: string): boolean => KERNEL_PACKAGE.test(name);
/** Raised when the way of unpacking changes. */
const TREE_VERSION = 3;

function treeKey(debs: readonly DebRecord[]): string {
  return contentKey([TREE_VERSION, ...debs.map((d) => `${d.name} ${d.sha256}`).sort()]);
}

/** QEMU of another release, with its own C library. */
export async function unpackForeignTools(set: PackageSet, options: UnpackOptions): Promise<ToolsTree> {
  const { dir, key } = await unpackForeign(foreignName(set), set, options, async () => {});
  return { root: dir, libc: dir, ownLoader: true, release: set.release!, key };
}

async function unpackForeign(
  name: string,
  set: PackageSet,
  options: UnpackOptions,
  settle: (staging: string) => Promise<void>,
): Promise<{ dir: string; key: string }> {
  const key = foreignKey(options.cacheRoot, set);
  const final = path.join(options.cacheRoot, 'trees', `${name}-${key}`);
  const dir = await unpacked(name, key, set.debs, options, async (staging) => {
    await unpackAll(set.debs, staging, options);
    await dropDocumentation(staging);
    await settle(staging);
    await setLoader(staging, path.join(final, 'usr/lib', TRIPLET, 'ld-linux-x86-64.so.2'));
  });
  return { dir, key };
}

/** A tree whose programs name its loader by path is good in that place only. */
function foreignKey(cacheRoot: string, set: PackageSet): string {
  return contentKey([treeKey(set.debs), cacheRoot]);
}

const foreignName = (set: PackageSet): string =>
  set.kernelVersion === '' ? set.series : `kernel-${set.series}`;

/** The trees of a set are there: its packages are not needed any more. */
export async function treesExist(cacheRoot: string, set: PackageSet): Promise<boolean> {
  if (set.release !== undefined)
    return exists(path.join(cacheRoot, 'trees', `${foreignName(set)}-${foreignKey(cacheRoot, set)}`));
  const [tools, kernel] = split(set.debs);
  const names = [`tools-${treeKey(tools)}`, `kernel-${set.series}-${treeKey(kernel)}`];
  for (const n of names) if (!(await exists(path.join(cacheRoot, 'trees', n)))) return false;
  return true;
}

function split(debs: readonly DebRecord[]): [tools: DebRecord[], kernel: DebRecord[]] {
  return [debs.filter((d) => !KERNEL_PACKAGE.test(d.name)), debs.filter((d) => KERNEL_PACKAGE.test(d.name))];
}

export async function unpackTools(set: PackageSet, options: UnpackOptions): Promise<ToolsTree> {
  const [debs] = split(set.debs);
  const key = treeKey(debs);
  const dir = await unpacked('tools', key, debs, options, async (staging) => {
    const libc = debs.filter((d) => d.name === 'libc6');
    const rest = debs.filter((d) => d.name !== 'libc6');
    await unpackAll(rest, path.join(staging, 'root'), options);
    await unpackAll(libc, path.join(staging, 'libc'), options);
    await dropDocumentation(path.join(staging, 'root'));
  });
  return { root: path.join(dir, 'root'), libc: path.join(dir, 'libc'), key };
}

/** Packages of a set that only some labs need, in a tree of their own. */
export async function unpackApart(set: PackageSet, options: UnpackOptions): Promise<ToolsTree> {
  const debs = withoutLibc(set.debs);
  const key = treeKey(debs);
  const dir = await unpacked(set.series, key, debs, options, (staging) =>
    unpackAll(debs, path.join(staging, 'root'), options),
  );
  return { root: path.join(dir, 'root'), libc: path.join(dir, 'root'), key };
}

/** The host's own, as for all tools. */
function withoutLibc(debs: readonly DebRecord[]): DebRecord[] {
  return debs.filter((d) => d.name !== 'libc6');
}

export async function apartTreeExists(cacheRoot: string, set: PackageSet): Promise<boolean> {
  return exists(path.join(cacheRoot, 'trees', `${set.series}-${treeKey(withoutLibc(set.debs))}`));
}

export async function unpackKernel(set: PackageSet, options: UnpackOptions): Promise<KernelTree> {
  if (set.release !== undefined) return unpackForeignKernel(set, options);
  const [, debs] = split(set.debs);
  const key = treeKey(debs);
  const dir = await unpacked(`kernel-${set.series}`, key, debs, options, async (staging) => {
    await unpackAll(debs, staging, options);
    await settleKernel(staging, set.kernelVersion);
  });
  return { root: dir, kernelVersion: set.kernelVersion, headers: headersIn(dir, set), key };
}

/** A kernel of another release, with its compiler, in one tree. */
async function unpackForeignKernel(set: PackageSet, options: UnpackOptions): Promise<KernelTree> {
  const { dir, key } = await unpackForeign(foreignName(set), set, options, (staging) =>
    settleKernel(staging, set.kernelVersion),
  );
  const kit = { root: dir, libc: dir, ownLoader: true, key };
  return { root: dir, kernelVersion: set.kernelVersion, headers: headersIn(dir, set), kit, key };
}

function headersIn(tree: string, set: PackageSet): string {
  return path.join(tree, 'usr/src', `linux-headers-${set.kernelVersion}`);
}

/** To one shape what packages of different series have in different places, and by absolute paths. */
async function settleKernel(tree: string, kernelVersion: string): Promise<void> {
  // the headers' only file includes the common headers by their path; what is assigned must be so at once, while the
  // last makefile is still this one
  const makefile = path.join(tree, 'usr/src', `linux-headers-${kernelVersion}`, 'Makefile');
  const here = '$(dir $(abspath $(lastword $(MAKEFILE_LIST))))..';
  const text = (await readFile(makefile, 'utf8')).replaceAll(/^(\w+)=(?=\/usr\/src\/)/gm, '$1:=');
  await writeFile(makefile, text.replaceAll(/\/usr\/src(?=\/)/g, here));
  // since 7.3 the image lies beside its modules
  const image = path.join(tree, 'usr/lib/modules', kernelVersion, 'vmlinuz');
  if (!(await exists(image))) return;
  await mkdir(path.join(tree, 'boot'), { recursive: true });
  await rename(image, path.join(tree, 'boot', `vmlinuz-${kernelVersion}`));
}

/** Removes documentation and translations: a third of the files, read by nobody here. */
async function dropDocumentation(tree: string): Promise<void> {
  for (const d of ['doc', 'man', 'locale', 'info', 'lintian'])
    await rm(path.join(tree, 'usr/share', d), { recursive: true, force: true });
}

async function unpacked(
  name: string,
  key: string,
  debs: readonly DebRecord[],
  options: UnpackOptions,
  make: (staging: string) => Promise<void>,
): Promise<string> {
  const onWait = (holder: string): void =>
    options.progress.note(`  waiting for ${holder}, which unpacks ${name}`);
  const spec = { folder: 'trees', name, key, keep: 3, signal: options.signal, onWait };
  return cacheEntry(options.cacheRoot, spec, (staging) =>
    withStep(options.progress, `unpacking ${debs.length} packages (${name})`, () => make(staging)),
  );
}

/** Packages' files below `to`, with `/usr` merged and links that stay inside. No maintainer script runs. */
export async function unpackAll(
  debs: readonly DebRecord[],
  to: string,
  options: UnpackOptions,
): Promise<void> {
  await mkdir(to, { recursive: true });
  for (const d of debs) {
    const file = path.join(options.cacheRoot, 'debs', d.file);
    try {
      await exec('dpkg-deb', ['-x', file, to], { signal: options.signal, timeoutMs: 300_000 });
    } catch (e) {
      if (options.signal?.aborted) throw e;
      const code = /No space left/.test(messageOf(e)) ? 'HT_NO_SPACE' : 'HT_PACKAGES';
      throw new HyperturtleError(code, `unpacking ${d.file}: ${messageOf(e)}`, { cause: e });
    }
  }
  await mergeUsr(to);
  await relativeLinks(to, to);
}

/** Packages still ship some files in /lib and /bin: one place for all, as on an installed system. */
async function mergeUsr(root: string): Promise<void> {
  for (const d of ['bin', 'sbin', 'lib', 'lib64']) {
    const from = path.join(root, d);
    if (await exists(from)) {
      await mergeInto(from, path.join(root, 'usr', d));
      await rm(from, { recursive: true });
    }
    await mkdir(path.join(root, 'usr', d), { recursive: true });
    await symlink(`usr/${d}`, from);
  }
}

async function mergeInto(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  for (const e of await readdir(from, { withFileTypes: true })) {
    const [a, b] = [path.join(from, e.name), path.join(to, e.name)];
    if (e.isDirectory()) await mergeInto(a, b);
    else await rename(a, b);
  }
}

/** Symbolic links with absolute targets would leave the tree. */
async function relativeLinks(dir: string, root: string): Promise<void> {
  for (const e of await readdir(dir, { withFileTypes: true })) {
    const p = path.join(dir, e.name);
    if (e.isDirectory()) await relativeLinks(p, root);
    else if (e.isSymbolicLink()) {
      const target = await readlink(p);
      if (!target.startsWith('/')) continue;
      await unlink(p);
      await symlink(path.relative(dir, path.join(root, target)), p);
    }
  }
}

/** Environment for programs of the tree. The host's shell and core utilities stay reachable behind ours. */
export function toolEnv(tools: ToolsTree): NodeJS.ProcessEnv {
  const bins = ['usr/bin', 'usr/sbin'].map((d) => path.join(tools.root, d));
  return {
    PATH: [...bins, '/usr/local/bin', '/usr/bin', '/bin', '/usr/sbin', '/sbin'].join(':'),
    LD_LIBRARY_PATH: tools.ownLoader
      ? librariesBesidePrograms(TRIPLET)
      : path.join(tools.root, 'usr/lib', TRIPLET),
    LC_ALL: 'C',
    TZ: 'UTC',
    HOME: process.env['HOME'] ?? '/',
    TMPDIR: process.env['TMPDIR'] ?? '/tmp',
  };
}

export function toolPath(tools: ToolsTree, name: string): string {
  return path.join(tools.root, 'usr/bin', name);
}

/** QEMU with its firmware directories; `versions` of the same set. */
export function qemuProgram(tools: ToolsTree, versions: Readonly<Record<string, string>>): QemuProgram {
  const share = path.join(tools.root, 'usr/share');
  const dataDir = path.join(share, 'qemu');
  return {
    bin: toolPath(tools, 'qemu-system-x86_64'),
    args: ['-L', dataDir, '-L', path.join(share, 'seabios')],
    env: toolEnv(tools),
    dataDir,
    version: qemuVersion(versions),
  };
}

/** 1:7.2+dfsg-7+deb12u18 -> 7.2 */
export function qemuVersion(versions: Readonly<Record<string, string>>): string {
  return /^(?:\d+:)?(\d+(?:\.\d+)*)/.exec(versions['qemu-system-x86'] ?? '')?.[1] ?? 'unknown';
}
