/** From a kernel series to everything a machine boots from: packages, trees, images. The lab's one entry to them. */
import { buildPrograms } from './build.ts';
import type { Built } from './build.ts';
import type { Artifacts, BuiltPayload, PrepareOptions, L2Image } from './artifacts.ts';
import { silentProgress } from '../core/progress.ts';
import { HyperturtleError } from '../core/errors.ts';
import { bochsParts } from './bochs-parts.ts';
import { debugKernel } from './debug-kernel.ts';
import { bootImages } from './images.ts';
import type { ImageContext } from './images.ts';
import { buildImagesDisk, buildL2Image } from './l2-image.ts';
import { kernelArgs } from './init-scripts.ts';
import { parseKernelName, patienceFor } from './kernel-name.ts';
import { CACHE_BYTES_NEEDED, fetchSet, packageSet } from './packages.ts';
import type { PackageSet } from './packages.ts';
import { buildPayload } from './payload.ts';
import { findProjectRoot } from './payload-app.ts';
import { qemuProgram, treesExist, unpackKernel, unpackTools } from './tools.ts';
import { cacheRoot, contentKey, openCache } from './xdg.ts';

/** The eBPF programs alone, for what is installed: they are the same for every kernel. */
export async function buildInstalledPrograms(options: PrepareOptions): Promise<Built> {
  const { context } = await prepareTrees(options);
  return buildPrograms({ ...context, projectRoot: await findProjectRoot() });
}

/** Fetches, unpacks and builds what is missing; with a complete cache it takes a fraction of a second and no network. */
export async function prepareArtifacts(options: PrepareOptions): Promise<Artifacts> {
  const { set, context } = await prepareTrees(options);
  const { cacheRoot: root, tools, progress, signal } = context;
  const versions = Object.fromEntries(set.debs.map((d) => [d.name, d.version]));

  const images = await bootImages(context);
  const { flavor } = parseKernelName(options.kernel);
  const args = (level: 0 | 1 | 2): string => kernelArgs(level, level === 2 ? undefined : flavor);
  return {
    series: options.kernel,
    kernelVersion: context.kernel.kernelVersion,
    versions,
    qemu: qemuProgram(tools, versions),
    vmlinux: images.vmlinux,
    bootInitramfs: images.initramfs,
    baseImage: images.base,
    kernelArgs: args,
    bochs: () => bochsParts(context, images, options.refresh ?? false),
    key: contentKey([images.key, args(0), args(1)]),
    buildPayload: (o): Promise<BuiltPayload> =>
      buildPayload({ ...context, progress: o?.progress ?? progress, signal: o?.signal ?? signal }),
    buildImage: (name, o): Promise<L2Image> =>
      buildL2Image(
        {
          ...{ cacheRoot: root, tools, refresh: o?.refresh ?? false },
          ...{ progress: o?.progress ?? progress, signal: o?.signal ?? signal },
        },
        name,
      ),
    buildImagesDisk: (names, o): Promise<string> =>
      buildImagesDisk(
        { cacheRoot: root, tools, progress: o?.progress ?? progress, signal: o?.signal ?? signal },
        names,
      ),
  };
}

async function prepareTrees(options: PrepareOptions): Promise<{ set: PackageSet; context: ImageContext }> {
  checkHost();
  const { series, flavor } = parseKernelName(options.kernel);
  const progress = options.progress ?? silentProgress;
  const { signal } = options;
  const root = await openCache(0);
  const packages = { root, series, progress, signal, refresh: options.refresh ?? false };

  let set: PackageSet = await packageSet(packages);
  if (!(await treesExist(root, set))) {
    await openCache(CACHE_BYTES_NEEDED, root);
    set = await fetchSet(set, packages);
  }
  const unpack = { cacheRoot: root, progress, signal };
  const tools = await unpackTools(set, unpack);
  const stock = await unpackKernel(set, unpack);
  const kernel =
    flavor === undefined
      ? stock
      : await debugKernel({ ...unpack, refresh: packages.refresh, tools, stock: set, flavor });
  const patience = patienceFor(options.kernel);
  return { set, context: { cacheRoot: root, tools, kernel, l2Kernel: stock, patience, progress, signal } };
}

/** `~/.cache/hyperturtle`, for messages and clean-up. */
export { cacheRoot };

function checkHost(): void {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `the lab runs on Linux on x86-64, this is ${process.platform} on ${process.arch}: use such a machine or container`,
    );
}
