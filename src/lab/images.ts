/**
 * The stock parts of L0 and L1 as files to boot from: kernel, initramfs, and one read-only base image for both. All
 * that is in a snapshot comes from here, and nothing of HyperTurtle but shell scripts and c/redelivery is in it, so that a
 * change of our code never costs a new snapshot. Made of packages and the host's Node; rebuilt only when one of them changes.
 */
import { createHash } from 'node:crypto';
import {
  chmod,
  copyFile,
  mkdir,
  readdir,
  readFile,
  realpath,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { createReadStream } from 'node:fs';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { exec } from '../core/exec.ts';
import { HyperturtleError } from '../core/errors.ts';
import { withStep } from '../core/progress.ts';
import type { Progress } from '../core/progress.ts';
import { IN_GUEST } from './artifacts.ts';
import { cpioArchive, cpioDevice, cpioDir, cpioFile, cpioLink } from '../core/cpio.ts';
import type { CpioEntry } from '../core/cpio.ts';
import { isOlder } from './debian.ts';
import { libraryClosure, neededLibraries } from './images-elf.ts';
import { nodeFiles } from './node-files.ts';
import * as scripts from './init-scripts.ts';
import { setLoaderOf } from './own-loader.ts';
import { moduleDir, ModuleTree, readVmlinux } from './kernel.ts';
import { toolEnv, toolPath, TRIPLET } from './tools.ts';
import type { KernelTree, ToolsTree } from './tools.ts';
import { cacheEntry, contentKey, exists } from './xdg.ts';

export const MAX_IMAGE_BYTES = 300 << 20;
/** Raised when the way of building changes. */
const IMAGE_VERSION = 3;

export interface ImageContext {
  cacheRoot: string;
  tools: ToolsTree;
  /** What runs the lab and, in L0, L1: the tools, or a QEMU of another release. */
  qemu: ToolsTree;
  /** Kernel of L0 and L1. */
  kernel: KernelTree;
  /** Kernel of L2s: the same, or the stock kernel of the series. */
  l2Kernel: KernelTree;
  /** How much slower it is than with stock kernels (patienceFor). */
  patience: number;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

export interface BootImages {
  vmlinux: string;
  initramfs: string;
  /** The same for a machine with ATA disks and without virtio. */
  ataInitramfs: () => Promise<string>;
  base: string;
  key: string;
}

/** c/redelivery, compiled. */
export interface RedeliveryModule {
  dir: string;
  key: string;
}

export async function bootImages(c: ImageContext, redelivery: RedeliveryModule): Promise<BootImages> {
  const key = contentKey([
    IMAGE_VERSION,
    c.tools.key,
    c.kernel.key,
    ...(c.l2Kernel === c.kernel ? [] : [c.l2Kernel.key]),
    ...(c.qemu === c.tools ? [] : [c.qemu.key]),
    { ...scripts, kernelArgs: undefined },
    redelivery.key,
    await fileHash(process.execPath),
    ...(await Promise.all((await filesOfNode()).map(fileHash))),
  ]);
  const entry = (name: string, suffix: string, make: (to: string) => Promise<void>): Promise<string> =>
    cacheEntry(c.cacheRoot, { folder: 'images', name, key, suffix, keep: 3, signal: c.signal }, (staging) =>
      withStep(c.progress, `building ${name}`, () => make(staging)),
    );
  let modules: Promise<ModuleTree> | undefined;
  const openModules = (): Promise<ModuleTree> => (modules ??= ModuleTree.open(c.kernel, c.tools));
  const vmlinux = await entry(`vmlinux-${c.kernel.kernelVersion}`, '', async (to) =>
    writeFile(to, await readVmlinux(c.kernel, c.tools)),
  );
  const initramfs = await entry(`boot-${c.kernel.kernelVersion}`, '.cpio', async (to) =>
    writeFile(to, await bootInitramfs(c, await openModules(), scripts.BOOT_MODULES)),
  );
  const ataInitramfs = (): Promise<string> =>
    entry(`boot-ata-${c.kernel.kernelVersion}`, '.cpio', async (to) =>
      writeFile(to, await bootInitramfs(c, await openModules(), scripts.ATA_BOOT_MODULES)),
    );
  const base = await entry(`base-${c.kernel.kernelVersion}`, '.erofs', async (to) => {
    const tree = `${to}.tree`;
    try {
      await rm(tree, { recursive: true, force: true });
      await baseTree(c, await openModules(), redelivery, tree, vmlinux, initramfs);
      await makeErofs(c.tools, tree, to, c.signal);
    } finally {
      await rm(tree, { recursive: true, force: true });
    }
  });
  return { vmlinux, initramfs, ataInitramfs, base, key };
}

/** Packs a directory. Uncompressed: an emulated CPU unpacks slower than the host's disk reads. */
export async function makeErofs(
  tools: ToolsTree,
  directory: string,
  image: string,
  signal?: AbortSignal,
  maxBytes = MAX_IMAGE_BYTES,
): Promise<void> {
  const args = ['-x-1', '-T0', '--all-root', '-U', '00000000-0000-0000-0000-000000000000', image, directory];
  await exec(toolPath(tools, 'mkfs.erofs'), args, { env: toolEnv(tools), timeoutMs: 300_000, signal });
  const { size } = await stat(image);
  if (size > maxBytes)
    throw new HyperturtleError(
      'HT_BUILD',
      `${path.basename(image)}: ${Math.ceil(size / (1 << 20))} MiB, more than the ${Math.floor(maxBytes / (1 << 20))} MiB an image may have`,
    );
}

export async function busybox(tools: ToolsTree): Promise<Buffer> {
  return readFile(toolPath(tools, 'busybox'));
}

async function bootInitramfs(
  c: ImageContext,
  modules: ModuleTree,
  wanted: readonly string[],
): Promise<Buffer> {
  const order = await modules.loadOrder(wanted, true);
  const applets = ['sh', 'mount', 'insmod', 'mkdir', 'sleep', 'switch_root', 'poweroff', 'echo'];
  const entries: CpioEntry[] = [
    ...['bin', 'dev', 'proc', 'sys', 'modules', 'lower', 'rw', 'root'].map((d) => cpioDir(d)),
    // /init's output is lost without it: the kernel opens it before devtmpfs is mounted
    cpioDevice('dev/console', 5, 1),
    cpioFile('bin/busybox', await busybox(c.tools), 0o755),
    ...applets.map((a) => cpioLink(`bin/${a}`, 'busybox')),
    cpioFile('init', scripts.INITRAMFS_INIT, 0o755),
    cpioFile('modules/order', order.map((m) => `${m.name}.ko\n`).join('')),
  ];
  for (const m of order) entries.push(cpioFile(`modules/${m.name}.ko`, await modules.elf(m)));
  return cpioArchive(entries);
}

async function baseTree(
  c: ImageContext,
  modules: ModuleTree,
  redelivery: RedeliveryModule,
  tree: string,
  vmlinux: string,
  initramfs: string,
): Promise<void> {
  await baseDirectories(tree);
  await copyFile(vmlinux, path.join(tree, IN_GUEST.vmlinux));
  await copyFile(initramfs, path.join(tree, IN_GUEST.initramfs));
  if (c.l2Kernel !== c.kernel)
    await writeFile(path.join(tree, IN_GUEST.l2Vmlinux), await readVmlinux(c.l2Kernel, c.tools));
  await basePrograms(c, tree);
  await baseFirmware(c, tree);
  await baseShell(c, tree);
  await baseModules(c, modules, redelivery, tree);
  for (const [file, text] of Object.entries(FILES)) await writeFile(path.join(tree, file), text);
  for (const f of ['usr/sbin/lab-boot', 'usr/sbin/lab-agent']) await chmod(path.join(tree, f), 0o755);
}

async function baseDirectories(tree: string): Promise<void> {
  const at = (p: string): string => path.join(tree, p);
  for (const d of ['boot', 'dev', 'proc', 'sys', 'run', 'tmp', 'root', 'mnt', 'payload', 'etc', 'var', 'opt'])
    await mkdir(at(d), { recursive: true });
  for (const d of ['bin', 'sbin', 'lib', 'lib64']) {
    await mkdir(at(`usr/${d}`), { recursive: true });
    await symlink(`usr/${d}`, at(d));
  }
  await symlink('/run', at('var/run'));
  await mkdir(at(LIBRARIES), { recursive: true });
}

/** QEMU, Node and the tools of both levels, with the libraries that they need. */
async function basePrograms(c: ImageContext, tree: string): Promise<void> {
  const at = (p: string): string => path.join(tree, p);
  const programs: string[] = [];
  for (const p of [
    'bin/dash',
    'sbin/qemu-ga',
    'bin/kmod',
    'sbin/ip',
    'sbin/tc',
    'sbin/bridge',
    'bin/mkfs.erofs',
  ]) {
    const from = await firstExisting([`usr/${p}`, `usr/${p.replace(/^s?bin/, 'bin')}`], c.tools.root);
    await install(from, at(`usr/${p}`), 0o755);
    programs.push(from);
  }
  const qemu = toolPath(c.qemu, 'qemu-system-x86_64');
  await install(qemu, at(IN_GUEST.qemu), 0o755);
  if (c.qemu.ownLoader) await setLoaderOf(at(IN_GUEST.qemu), `/lib64/${LOADER}`);
  programs.push(qemu);
  for (const a of ['modprobe', 'insmod', 'rmmod', 'lsmod', 'modinfo', 'depmod'])
    await symlink('../bin/kmod', at(`usr/sbin/${a}`));
  await exec(toolPath(c.tools, 'strip'), ['-o', at(IN_GUEST.node), process.execPath], {
    env: toolEnv(c.tools),
  });
  programs.push(process.execPath);

  const extra = [
    'libbpf.so.1',
    'libstdc++.so.6',
    'libgcc_s.so.1',
    'libdl.so.2',
    'libpthread.so.0',
    'librt.so.1',
  ];
  for (const [name, file] of await closure(c, programs, [...extra, LOADER]))
    await install(file, at(`${LIBRARIES}/${name}`), 0o755);
  for (const f of await filesOfNode()) await install(f, at(f), 0o644);
  await symlink(`../lib/${TRIPLET}/${LOADER}`, at(`usr/lib64/${LOADER}`));
}

async function baseFirmware(c: ImageContext, tree: string): Promise<void> {
  // Debian 13 has the network ROMs among QEMU's own files
  for (const dir of ['usr/share/seabios', 'usr/share/qemu', 'usr/lib/ipxe/qemu']) {
    const from = path.join(c.qemu.root, dir);
    for (const f of (await exists(from)) ? await readdir(from) : [])
      if (FIRMWARE.test(f)) await install(path.join(from, f), path.join(tree, dir, f), 0o644);
  }
}

async function baseShell(c: ImageContext, tree: string): Promise<void> {
  const at = (p: string): string => path.join(tree, p);
  // not busybox as shell: it would run its own `ip`, `tc` and `modprobe` before those of PATH
  await symlink('dash', at('usr/bin/sh'));
  await writeFile(at('usr/bin/busybox'), await busybox(c.tools), { mode: 0o755 });
  const applets = await exec(toolPath(c.tools, 'busybox'), ['--list']);
  for (const a of applets.stdout.toString('utf8').split('\n').filter(Boolean))
    if (!(await exists(at(`usr/bin/${a}`))) && !(await exists(at(`usr/sbin/${a}`))))
      await symlink('busybox', at(`usr/bin/${a}`));
  await symlink('../bin/busybox', at('usr/sbin/init'));
}

async function baseModules(
  c: ImageContext,
  modules: ModuleTree,
  redelivery: RedeliveryModule,
  tree: string,
): Promise<void> {
  const at = (p: string): string => path.join(tree, p);
  const moduleRoot = `usr/lib/modules/${c.kernel.kernelVersion}`;
  const order = [
    ...(await modules.loadOrder(scripts.BASE_MODULES, true)),
    ...(await modules.loadOrder(scripts.EXTRA_MODULES, false)),
  ];
  for (const m of new Map(order.map((o) => [o.name, o])).values()) {
    const to = at(`${moduleRoot}/kernel/${m.path}`);
    await mkdir(path.dirname(to), { recursive: true });
    await writeFile(to, await modules.elf(m));
  }
  const ko = `${scripts.REDELIVERY}.ko`;
  await install(path.join(redelivery.dir, ko), at(`${moduleRoot}/updates/${ko}`), 0o644);
  for (const f of ['modules.builtin', 'modules.builtin.modinfo', 'modules.order'])
    await install(path.join(moduleDir(c.kernel), f), at(`${moduleRoot}/${f}`), 0o644);
  const depmod = path.join(c.tools.root, 'usr/sbin/depmod');
  await exec(depmod, ['-b', tree, c.kernel.kernelVersion], { env: toolEnv(c.tools), signal: c.signal });
}

const LIBRARIES = `usr/lib/${TRIPLET}`;
const LOADER = 'ld-linux-x86-64.so.2';
/** Where the libraries of this machine's Node are. */
const HOST_LIBRARIES = [
  path.join(path.dirname(process.execPath), '../lib'),
  ...[`/usr/lib/${TRIPLET}`, '/usr/lib64', '/usr/local/lib'],
];
/** What QEMU maps into a PC: BIOS, direct kernel boot, network ROM for those who forget `romfile=`. */
const FIRMWARE =
  /^(bios-256k\.bin|bios-microvm\.bin|qboot\.rom|pvh\.bin|linuxboot(_dma)?\.bin|multiboot(_dma)?\.bin|kvmvapic\.bin|efi-virtio\.rom)$/;

const FILES: Readonly<Record<string, string>> = {
  'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\n',
  'etc/group': 'root:x:0:\n',
  'etc/hosts': '127.0.0.1 localhost\n',
  'etc/nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files\n',
  'etc/profile': 'export PATH=/payload/bin:/usr/sbin:/usr/bin\n',
  'etc/inittab': scripts.INITTAB,
  'usr/sbin/lab-boot': scripts.LAB_BOOT,
  'usr/sbin/lab-agent': scripts.LAB_AGENT,
};

/** Libraries of `programs` and `names`: ours first; the host's only for what its Node needs beyond them. */
async function closure(
  { qemu, tools }: ImageContext,
  programs: readonly string[],
  names: readonly string[],
): Promise<Map<string, string>> {
  // the newer C library serves the programs of both
  const trees = [tools.root, tools.libc];
  if (qemu !== tools) trees.splice(isOlder(qemu.release ?? '') ? 2 : 0, 0, qemu.root);
  const directories = [
    ...trees.flatMap((r) => [path.join(r, 'usr/lib', TRIPLET), path.join(r, 'usr/lib64')]),
    ...HOST_LIBRARIES,
  ];
  const roots = await Promise.all(names.map((n) => findLibrary(n, directories)));
  const all = await libraryClosure([...programs, ...roots], directories);
  names.forEach((n, i) => all.set(n, roots[i]!));
  return all;
}

/** What this machine's Node reads as it starts. Upstream's is one program that has it all. */
async function filesOfNode(): Promise<string[]> {
  // a setting of Node's build that its types leave out
  const { node_shared: shared } = process.config.variables as { node_shared?: boolean };
  if (!shared) return [];
  const needed = neededLibraries(await readFile(process.execPath)).filter((n) => n.startsWith('libnode.so'));
  return nodeFiles(await Promise.all(needed.map((n) => findLibrary(n, HOST_LIBRARIES))));
}

async function findLibrary(name: string, directories: readonly string[]): Promise<string> {
  for (const d of directories) if (await exists(path.join(d, name))) return realpath(path.join(d, name));
  throw new HyperturtleError('HT_NOT_FOUND', `library ${name}: in none of our packages`);
}

async function firstExisting(names: readonly string[], root: string): Promise<string> {
  for (const n of names) if (await exists(path.join(root, n))) return path.join(root, n);
  throw new HyperturtleError('HT_NOT_FOUND', `${names[0] ?? ''}: not in our packages`);
}

async function install(from: string, to: string, mode: number): Promise<void> {
  await mkdir(path.dirname(to), { recursive: true });
  await copyFile(from, to); // follows links
  await chmod(to, mode);
}

async function fileHash(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file, { highWaterMark: 1 << 20 }), hash);
  return hash.digest('hex');
}
