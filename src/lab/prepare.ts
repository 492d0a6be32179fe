/** From a kernel series to everything a machine boots from: packages, trees, images. The lab's one entry to them. */
import path from 'node:path';
import { MODULE_SIDES, buildModule, buildPrograms } from './build.ts';
import type { Built, ModuleSide } from './build.ts';
import type { Artifacts, BuiltPayload, PrepareOptions, L2Image } from './artifacts.ts';
import { exec } from '../core/exec.ts';
import { silentProgress } from '../core/progress.ts';
import { HyperturtleError } from '../core/errors.ts';
import type { DebRecord } from './debs.ts';
import { bochsParts } from './bochs-parts.ts';
import { debugKernel } from './debug-kernel.ts';
import { bootImages } from './images.ts';
import type { ImageContext } from './images.ts';
import { buildImagesDisk, buildL2Image } from './l2-image.ts';
import { kernelArgs } from './init-scripts.ts';
import { kvmSelftestsDisk } from './kvm-selftests.ts';
import { checkKernel, parseKernelName, patienceFor } from './kernel-name.ts';
import { CACHE_BYTES_NEEDED, fetchSet, isQemuVersion, packageSet, qemuSet } from './packages.ts';
import type { PackagesOptions, PackageSet } from './packages.ts';
import { buildPayload } from './payload.ts';
import { findProjectRoot } from './payload-app.ts';
import { defaultKernel, machineRelease } from './debian.ts';
import {
  isKernelPackage,
  qemuProgram,
  qemuVersion,
  toolEnv,
  toolPath,
  treesExist,
  unpackForeignTools,
  unpackKernel,
  unpackTools,
} from './tools.ts';
import type { ToolsTree } from './tools.ts';
import { cacheRoot, contentKey, openCache } from './xdg.ts';

/**
 * The eBPF programs alone, for what is installed: they are the same for every kernel.
 * @public scripts/build-bpf.mjs calls it
 */
export async function buildInstalledPrograms(options: PrepareOptions): Promise<Built> {
  const { context } = await prepareTrees(options);
  return buildPrograms({ ...context, projectRoot: await findProjectRoot() });
}

/** A module's code as `objdump -dr` shows it. */
export async function disassembledModule(options: PrepareOptions, side: ModuleSide): Promise<string> {
  const { context } = await prepareTrees(options);
  const { dir } = await buildModule({ ...context, projectRoot: await findProjectRoot() }, side);
  const file = path.join(dir, `hyperturtle_${side}.ko`);
  const r = await exec(toolPath(context.tools, 'objdump'), ['-dr', '-j', '.text', file], {
    env: toolEnv(context.tools),
    maxBytes: 64 << 20,
  });
  return r.stdout.toString();
}

/** Fetches, unpacks and builds what is missing; with a complete cache it takes a fraction of a second and no network. */
export async function prepareArtifacts(options: PrepareOptions): Promise<Artifacts> {
  const { debs, outer, context } = await prepareTrees(options);
  const { cacheRoot: root, tools, progress, signal } = context;
  const versions = versionsOf(debs);

  const redelivery = await buildModule({ ...context, projectRoot: await findProjectRoot() }, 'redelivery');
  const images = await bootImages(context, redelivery);
  const { series, flavor } = parseKernelName(options.kernel);
  const args = (level: 0 | 1 | 2): string => kernelArgs(level, level === 2 ? undefined : flavor);
  return {
    series: options.kernel,
    kernelVersion: context.kernel.kernelVersion,
    versions,
    qemu: qemuProgram(outer.tree, versionsOf(outer.debs)),
    l0QemuVersion: qemuVersion(versions),
    vmlinux: images.vmlinux,
    bootInitramfs: images.initramfs,
    baseImage: images.base,
    kernelArgs: args,
    bochs: (model) => bochsParts(context, images, { model, refresh: options.refresh ?? false }),
    key: contentKey([images.key, args(0), args(1)]),
    buildPayload: (o): Promise<BuiltPayload> =>
      buildPayload({ ...context, progress: o?.progress ?? progress, signal: o?.signal ?? signal }),
    buildImage: (name, o): Promise<L2Image> =>
      buildL2Image(
        {
          cacheRoot: root,
          tools,
          refresh: o?.refresh ?? false,
          progress: o?.progress ?? progress,
          signal: o?.signal ?? signal,
        },
        name,
      ),
    buildImagesDisk: (names, o): Promise<string> =>
      buildImagesDisk(
        { cacheRoot: root, tools, progress: o?.progress ?? progress, signal: o?.signal ?? signal },
        names,
      ),
    kvmSelftestsDisk: (o): Promise<string> =>
      kvmSelftestsDisk({
        cacheRoot: root,
        tools,
        series,
        refresh: options.refresh ?? false,
        progress: o?.progress ?? progress,
        signal: o?.signal ?? signal,
      }),
  };
}

const versionsOf = (debs: readonly DebRecord[]): Record<string, string> =>
  Object.fromEntries(debs.map((d) => [d.name, d.version]));

interface Prepared {
  debs: DebRecord[];
  /** What runs L0, if another than what L0 has. */
  outer: { tree: ToolsTree; debs: readonly DebRecord[] };
  context: ImageContext;
}

async function prepareTrees(options: PrepareOptions): Promise<Prepared> {
  checkHost();
  const { series, flavor } = checkKernel(options.kernel);
  const progress = options.progress ?? silentProgress;
  const { signal } = options;
  const root = await openCache(0);
  const unpack = { cacheRoot: root, progress, signal };
  const refresh = options.refresh ?? false;

  const wanted = await resolved(root, series, options);
  // before anything is fetched
  if (flavor !== undefined && wanted.release !== undefined)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `kernel ${options.kernel}: apt has Linux ${series} of ${wanted.release} only, and kernels with sanitizers are built from source of the machine's Debian: add its backports to /etc/apt/sources.list, or use ${defaultKernel()}-${flavor}`,
    );
  const set = await fetched(root, wanted, options);
  // a kernel of another release brings no tools for this machine
  const own =
    set.release === undefined
      ? set
      : await fetched(root, await resolved(root, defaultKernel(), options), options);
  const tools = await unpackTools(own, unpack);
  const ownQemu = own.debs.find((d) => d.name === 'qemu-system-x86')?.version ?? '';
  const qemuOf = async (asked: string | undefined): Promise<Prepared['outer']> => {
    if (asked === undefined || isQemuVersion(ownQemu, asked)) return { tree: tools, debs: own.debs };
    const other = await fetched(root, await resolved(root, qemuSet(asked), options), options);
    return { tree: await unpackForeignTools(other, unpack), debs: other.debs };
  };
  const qemu = await qemuOf(options.qemu);
  const outer = options.outerQemu === undefined ? qemu : await qemuOf(options.outerQemu);
  const stock = await unpackKernel(set, unpack);
  const kernel =
    flavor === undefined ? stock : await debugKernel({ ...unpack, refresh, tools, stock: set, flavor });
  const patience = patienceFor(options.kernel);
  // of two versions of a package the one that counts: kernel and QEMU are the other release's, tools the machine's
  const inUse = [
    ...own.debs.filter((d) => !isKernelPackage(d.name)),
    ...set.debs.filter((d) => isKernelPackage(d.name)),
    ...qemu.debs.filter((d) => d.name.startsWith('qemu-')),
  ];
  const named = new Map(inUse.map((d) => [d.name, d]));
  return {
    debs: [...named.values()],
    outer,
    context: { cacheRoot: root, tools, qemu: qemu.tree, kernel, l2Kernel: stock, patience, progress, signal },
  };
}

const packagesOptions = (root: string, series: string, o: PrepareOptions): PackagesOptions => ({
  root,
  series,
  progress: o.progress ?? silentProgress,
  signal: o.signal,
  refresh: o.refresh ?? false,
});

/** The set of a series; nothing is fetched but, the first time, apt's lists. */
const resolved = (root: string, series: string, options: PrepareOptions): Promise<PackageSet> =>
  packageSet(packagesOptions(root, series, options));

/** The same set, or a newer one, whose packages or trees are in the cache. */
async function fetched(root: string, set: PackageSet, options: PrepareOptions): Promise<PackageSet> {
  if (await treesExist(root, set)) return set;
  await openCache(CACHE_BYTES_NEEDED, root);
  return fetchSet(set, packagesOptions(root, set.series, options));
}

/** The modules alone, for one kernel: where they are, by name. */
export async function buildModules(options: PrepareOptions): Promise<Map<string, string>> {
  const { context } = await prepareTrees(options);
  const c = { ...context, projectRoot: await findProjectRoot() };
  const out = new Map<string, string>();
  for (const side of MODULE_SIDES) {
    const name = `hyperturtle_${side}.ko`;
    out.set(name, path.join((await buildModule(c, side)).dir, name));
  }
  return out;
}

/** `~/.cache/hyperturtle`, for messages and clean-up. */
export { cacheRoot };

function checkHost(): void {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `the lab runs on Linux on x86-64, this is ${process.platform} on ${process.arch}: use such a machine or container`,
    );
  machineRelease();
}
