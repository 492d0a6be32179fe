/**
 * Kernels with sanitizers, built from Debian's linux-source package with the lab's own compiler. A build that was
 * interrupted goes on where it was: sources and objects stay in a work directory of the cache until it is complete.
 */
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { exec } from '../core/exec.ts';
import { HyperturtleError } from '../core/errors.ts';
import { apartSet, apartTree } from './apart.ts';
import type { ApartContext } from './apart.ts';
import { debugConfig, missingOptions } from './debug-config.ts';
import type { KernelFlavor } from './kernel-name.ts';
import { KERNEL_CC, makeInSource, sourceEnv, unpackLinux } from './linux-source.ts';
import type { LinuxSource } from './linux-source.ts';
import { sourceSet } from './packages.ts';
import type { PackageSet } from './packages.ts';
import type { KernelTree, ToolsTree } from './tools.ts';
import { cacheEntry, contentKey, exists, needSpace } from './xdg.ts';

/** Raised when the way of building changes. */
const BUILD_VERSION = 3;
/** Source and objects at the same time. */
const BYTES_NEEDED = 6 * 1024 ** 3;
/** Lines that `make` writes for a whole build: how far one is. */
const LINES: Record<KernelFlavor, number> = { debug: 2330, kcsan: 2330 };
const WAIT_MS = 4 * 3600_000;

export interface DebugKernelContext extends ApartContext {
  tools: ToolsTree;
  /** Packages of the stock kernel: the compiler is among them. */
  stock: PackageSet;
  flavor: KernelFlavor;
}

interface Build extends DebugKernelContext, LinuxSource {
  /** `6.1-debug`. */
  name: string;
  out: string;
  signal?: AbortSignal | undefined;
}

export async function debugKernel(c: DebugKernelContext): Promise<KernelTree> {
  const { series } = c.stock;
  const name = `${series}-${c.flavor}`;
  const set = await apartSet(c, sourceSet(series));
  const source = set.debs.find((d) => d.name === `linux-source-${series}`)!;
  const compiler = c.stock.debs.filter((d) => /^(gcc-\d+|cpp-\d+|binutils.*|make)$/.test(d.name));
  const key = contentKey([
    BUILD_VERSION,
    debugConfig(c.flavor),
    source.sha256,
    compiler.map((d) => `${d.name} ${d.sha256}`).sort(),
  ]);
  const spec = {
    folder: 'trees',
    name: `kernel-${name}`,
    key,
    keep: 2,
    signal: c.signal,
    waitMs: WAIT_MS,
    onWait: (holder: string): void => c.progress.note(`  waiting for ${holder}, which builds Linux ${name}`),
  };
  const root = await cacheEntry(c.cacheRoot, spec, async (staging) => {
    const { tree } = await apartTree(c, set);
    await needSpace(c.cacheRoot, BYTES_NEEDED);
    const work = await workDirectory(c.cacheRoot, name, key);
    const build = {
      ...c,
      series,
      name,
      extra: tree,
      src: path.join(work, 'src'),
      out: path.join(work, 'out'),
    };
    if (!(await exists(build.src)))
      await step(build, `unpacking the source of Linux ${series}`, () => unpackLinux(build));
    await configure(build);
    await compile(build);
    await install(build, staging);
    await rm(work, { recursive: true });
  });
  const kernelVersion = (await readFile(path.join(root, 'release'), 'utf8')).trim();
  return { root, kernelVersion, headers: path.join(root, 'headers'), cc: KERNEL_CC, key };
}

/** What an earlier build of the same left, or an empty one. The caller has the entry's lock. */
async function workDirectory(cacheRoot: string, name: string, key: string): Promise<string> {
  const work = path.join(cacheRoot, 'builds', `linux-${name}.work`);
  const mark = path.join(work, 'key');
  if ((await exists(mark)) && (await readFile(mark, 'utf8')) === key) return work;
  await rm(work, { recursive: true, force: true });
  await mkdir(path.join(work, 'out'), { recursive: true });
  await writeFile(mark, key);
  return work;
}

async function configure(b: Build): Promise<void> {
  const wanted = debugConfig(b.flavor);
  const file = path.join(b.out, 'wanted.config');
  await writeFile(file, `${wanted.join('\n')}\n`);
  await make(b, [`KCONFIG_ALLCONFIG=${file}`, 'allnoconfig']);
  const missing = missingOptions(await readFile(path.join(b.out, '.config'), 'utf8'), wanted);
  if (missing.length > 0)
    throw new HyperturtleError(
      'HT_BUILD',
      `Linux ${b.name}: its configuration has no ${missing.join(', ')}: this source has other options than src/lab/debug-config.ts expects`,
      { detail: { missing } },
    );
}

async function compile(b: Build): Promise<void> {
  const total = LINES[b.flavor];
  const before = await objectsIn(b.out);
  await step(b, `compiling Linux ${b.name}`, async (update) => {
    const t0 = performance.now();
    let lines = 0;
    await make(b, [`-j${availableParallelism() + 1}`, 'vmlinux', 'modules'], (chunk) => {
      for (const byte of chunk) if (byte === 10) lines++;
      const left = Math.max(0, total - before - lines) * ((performance.now() - t0) / lines);
      const far = Math.min(99, Math.round(((before + lines) / total) * 100));
      update(`${far}%, about ${Math.ceil(left / 60_000)} min left`);
    });
  });
}

async function objectsIn(dir: string): Promise<number> {
  const files = await readdir(dir, { recursive: true });
  return files.filter((f) => f.endsWith('.o')).length;
}

/** From the build to what the lab takes kernels from: an ELF kernel, modules, and what modules are built with. */
async function install(b: Build, to: string): Promise<void> {
  await step(b, `installing Linux ${b.name}`, async () => {
    const release = (await readFile(path.join(b.out, 'include/config/kernel.release'), 'utf8')).trim();
    await mkdir(path.join(to, 'boot'), { recursive: true });
    const vmlinux = path.join(to, 'boot', `vmlinux-${release}`);
    const strip = ['-S', '-R', '.comment', path.join(b.out, 'vmlinux'), vmlinux];
    await exec(path.join(b.tools.root, 'usr/bin/objcopy'), strip, { env: sourceEnv(b), signal: b.signal });
    // depmod runs when the base image is made
    await make(b, [
      `INSTALL_MOD_PATH=${path.join(to, 'usr')}`,
      'INSTALL_MOD_STRIP=1',
      'DEPMOD=true',
      'modules_install',
    ]);
    const modules = path.join(to, 'usr/lib/modules', release);
    for (const link of ['build', 'source']) await rm(path.join(modules, link), { force: true });
    await installHeaders(b, path.join(to, 'headers'));
    await writeFile(path.join(to, 'release'), `${release}\n`);
  });
}

/** What `make -C headers M=...` reads: of the source, and over it of what was generated. */
async function installHeaders(b: Build, to: string): Promise<void> {
  const copy = async (from: string, file: string): Promise<void> => {
    if (await exists(path.join(from, file)))
      await cp(path.join(from, file), path.join(to, file), { recursive: true, verbatimSymlinks: true });
  };
  const arch = await readdir(path.join(b.src, 'arch/x86'));
  const makefiles = arch.filter((f) => /^(Makefile.*|Kbuild.*)$/.test(f)).map((f) => `arch/x86/${f}`);
  for (const f of ['Makefile', 'Kbuild', 'arch/x86/include', ...makefiles, 'include', 'scripts'])
    await copy(b.src, f);
  for (const f of ['include', 'arch/x86/include/generated', 'scripts', 'tools/objtool/objtool'])
    await copy(b.out, f);
  for (const f of ['Module.symvers', '.config']) await copy(b.out, f);
}

async function make(b: Build, args: string[], onOutput?: (chunk: Buffer) => void): Promise<void> {
  const common = [
    ...[`O=${b.out}`, `CC=${KERNEL_CC}`],
    // run by PVH before KASAN's shadow is mapped and before there are per-CPU variables for KCSAN: its entry, and the memcmp
    // by which that looks for a hypervisor
    ...['enlighten', 'string'].flatMap((o) => [`KASAN_SANITIZE_${o}.o=n`, `KCSAN_SANITIZE_${o}.o=n`]),
    // the same source gives the same kernel
    ...[
      'KBUILD_BUILD_TIMESTAMP=@0',
      'KBUILD_BUILD_USER=lab',
      'KBUILD_BUILD_HOST=lab',
      'KBUILD_BUILD_VERSION=1',
    ],
  ];
  await makeInSource(b, {
    what: `Linux ${b.name}`,
    args: [...common, ...args],
    timeoutMs: WAIT_MS,
    ...(onOutput ? { onOutput } : {}),
  });
}

async function step(
  b: Build,
  what: string,
  body: (update: (detail: string) => void) => Promise<void>,
): Promise<void> {
  const s = b.progress.step(what);
  try {
    await body((detail) => s.update(detail));
    s.done();
  } catch (e) {
    s.fail();
    throw e;
  }
}
