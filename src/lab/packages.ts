/**
 * Which Debian packages the lab is made of. What apt chose is recorded per kernel series, and used as recorded
 * until a refresh is asked for, so that a run with a complete cache needs no network and gives the same lab.
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { errnoCode, HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import type { Progress } from '../core/progress.ts';
import { Apt } from './debs.ts';
import type { DebRecord } from './debs.ts';
import { contentKey, needSpace } from './xdg.ts';
import { withCacheLock } from './xdg-lock.ts';

/** Besides the kernel and its headers, which bring the compiler they were made with. */
const ROOTS = [
  ...[
    'qemu-system-x86',
    'qemu-guest-agent',
    'seabios',
    'busybox-static',
    'dash',
    'kmod',
    'libbpf1',
    'iproute2',
  ],
  ...['erofs-utils', 'xz-utils', 'zstd', 'make', 'binutils', 'clang', 'libbpf-dev', 'libc6-dev'],
  // what some series' headers depend on and others do not: asked for always, so that all series share one tree
  ...['libelf1', 'libssl3', 'libdw1', 'pahole'],
];

/** An emulator of Intel's processors with VMX, and what its machine is started with: fetched when first asked for. */
const BOCHS_ROOTS = [
  'bochs',
  'bochs-term',
  'bochsbios',
  'vgabios',
  'ncurses-base',
  'isolinux',
  'syslinux-common',
  'xorriso',
  'socat',
];

/** Besides the source: what a kernel's build runs that the tools have not. */
const SOURCE_ROOTS = ['flex', 'bison', 'bc'];

/** For packages, unpacked trees, builds and images together; the first run needs about 2 GiB of it. */
export const CACHE_BYTES_NEEDED = 3 * 1024 ** 3;

export interface PackageSet {
  schema: 1;
  /** Hash of what was asked for; a set recorded for other roots is not used. */
  rootsKey: string;
  /** Kernel series, or `bochs`, or `6.1-source`: the name of the recorded set. */
  series: string;
  /** As `uname -r`. */
  kernelVersion: string;
  debs: DebRecord[];
}

/** The set that is for all kernels alike. */
export const BOCHS_SET = 'bochs';

/** The set with the source of a series' kernel. */
export const sourceSet = (series: string): string => `${series}-source`;

/** What a set is made of, where that is known without apt's lists: all but a stock kernel's. */
function fixedRoots(set: string): string[] | undefined {
  if (set === BOCHS_SET) return BOCHS_ROOTS;
  const series = /^(\d+\.\d+)-source$/.exec(set)?.[1];
  return series === undefined ? undefined : [`linux-source-${series}`, ...SOURCE_ROOTS];
}

export interface PackagesOptions {
  root: string;
  series: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
  refresh: boolean;
}

/** The recorded set, or a newly resolved one. Does not download packages: see fetchSet. */
export async function packageSet(options: PackagesOptions): Promise<PackageSet> {
  if (fixedRoots(options.series) === undefined) checkSeries(options.series);
  const recorded = await readRecord(options);
  if (recorded !== undefined && !options.refresh) return recorded;
  return withAptLock(options, async () => {
    // somebody may have resolved it while we waited
    const again = options.refresh ? undefined : await readRecord(options);
    return again ?? (await resolve(options));
  });
}

/**
 * Makes sure that every package of `set` is in the cache, whole, and returns the set to use: a newer one when the
 * mirror no longer has a recorded version.
 */
export function fetchSet(set: PackageSet, options: PackagesOptions): Promise<PackageSet> {
  return withAptLock(options, async () => {
    const apt = new Apt(options.root, options.signal);
    const missing = await apt.missing(set.debs);
    if (missing.length === 0) return set;
    await needSpace(options.root, CACHE_BYTES_NEEDED);
    try {
      await downloadDebs(apt, missing, options.progress);
      return set;
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_PACKAGES')) throw e;
      const newer = await resolve(options); // throws the same when it is the network that fails
      await downloadDebs(apt, await apt.missing(newer.debs), options.progress);
      return newer;
    }
  });
}

/** Refuses what cannot be a kernel series before any network is touched. */
export function checkSeries(series: string): void {
  if (!/^\d+\.\d+$/.test(series))
    throw new HyperturtleError('HT_USAGE', `kernel '${series}': expected a series such as 6.1 or 6.12`);
}

/**
 * The newest cloud kernel of a series for which both image and headers exist. `names` are package names from apt's
 * lists; names carry the full version (`linux-image-6.12.117+deb12-cloud-amd64`) and sort by its numbers.
 */
export function pickKernel(names: readonly string[], series: string): string {
  const all = new Set(names);
  const kernels = names.flatMap((n) => {
    const m = /^linux-image-(\d+\.\d+\.\d\S*-cloud-amd64)$/.exec(n);
    return m && all.has(`linux-headers-${m[1]!}`) ? [m[1]!] : [];
  });
  const mine = kernels.filter((k) => k.startsWith(`${series}.`)).sort(byNumbers);
  const newest = mine.at(-1);
  if (newest !== undefined) return newest;
  const there = [...new Set(kernels.map((k) => /^\d+\.\d+/.exec(k)![0]))].sort(byNumbers);
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `kernel ${series}: apt's lists have no linux-image-${series}.*-cloud-amd64 with headers; there ${
      there.length > 0 ? `is: ${there.join(', ')}` : 'is no cloud kernel at all: add a Debian source to apt'
    }`,
  );
}

function byNumbers(a: string, b: string): number {
  const [x, y] = [a, b].map((s) => (s.match(/\d+/g) ?? []).map(Number)) as [number[], number[]];
  for (let i = 0; i < Math.max(x.length, y.length); i++) {
    const d = (x[i] ?? -1) - (y[i] ?? -1);
    if (d !== 0) return d;
  }
  return 0;
}

async function resolve(options: PackagesOptions): Promise<PackageSet> {
  await needSpace(options.root, CACHE_BYTES_NEEDED);
  const apt = new Apt(options.root, options.signal);
  const step = options.progress.step('package lists');
  try {
    await apt.update();
    const { roots, kernelVersion } = await wanted(apt, options.series);
    const debs = await apt.plan(roots);
    const set: PackageSet = {
      schema: 1,
      rootsKey: rootsKey(options.series),
      series: options.series,
      kernelVersion,
      debs,
    };
    const file = recordFile(options);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(`${file}.staging`, `${JSON.stringify(set, undefined, 1)}\n`);
    await rename(`${file}.staging`, file);
    step.done(`${kernelVersion === '' ? options.series : `Linux ${kernelVersion}`}, ${debs.length} packages`);
    return set;
  } catch (e) {
    step.fail();
    throw e;
  }
}

async function wanted(apt: Apt, series: string): Promise<{ roots: string[]; kernelVersion: string }> {
  const fixed = fixedRoots(series);
  if (fixed !== undefined) return { roots: fixed, kernelVersion: '' };
  const names = [...(await apt.names('linux-image-')), ...(await apt.names('linux-headers-'))];
  const kernelVersion = pickKernel(names, series);
  return {
    roots: [`linux-image-${kernelVersion}`, `linux-headers-${kernelVersion}`, ...ROOTS],
    kernelVersion,
  };
}

export async function downloadDebs(
  apt: Apt,
  missing: readonly DebRecord[],
  progress: Progress,
): Promise<void> {
  const total = missing.reduce((sum, d) => sum + d.bytes, 0);
  const mib = (bytes: number): number => Math.round(bytes / (1 << 20));
  const step = progress.step(`fetching ${missing.length} packages, ${mib(total)} MiB`);
  try {
    await apt.download(missing, (bytes) => step.update(`${mib(bytes)} of ${mib(total)} MiB`));
    step.done();
  } catch (e) {
    step.fail();
    throw e;
  }
}

export function withAptLock<T>(
  options: Pick<PackagesOptions, 'root' | 'progress' | 'signal'>,
  body: () => Promise<T>,
): Promise<T> {
  const onWait = (holder: string): void =>
    options.progress.note(`  waiting for ${holder}, which fetches packages`);
  return withCacheLock(path.join(options.root, 'locks/apt'), { signal: options.signal, onWait }, body);
}

function rootsKey(series: string): string {
  return contentKey(fixedRoots(series) ?? ROOTS);
}

function recordFile(options: PackagesOptions): string {
  return path.join(options.root, 'sets', `${options.series}.json`);
}

async function readRecord(options: PackagesOptions): Promise<PackageSet | undefined> {
  try {
    const set = JSON.parse(await readFile(recordFile(options), 'utf8')) as PackageSet;
    return set.schema === 1 && set.rootsKey === rootsKey(options.series) ? set : undefined;
  } catch (e) {
    if (errnoCode(e) === 'ENOENT' || e instanceof SyntaxError) return undefined;
    throw e;
  }
}
