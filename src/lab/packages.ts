/**
 * Which Debian packages the lab is made of. What apt chose is recorded per kernel series, and used as recorded
 * until a refresh is asked for, so that a run with a complete cache needs no network and gives the same lab. A series
 * that the machine's apt has not comes from another release or from backports (releases.ts), with the compiler for its modules.
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { errnoCode, HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { withStep } from '../core/progress.ts';
import type { Progress } from '../core/progress.ts';
import { Apt } from './debs.ts';
import type { DebRecord } from './debs.ts';
import { machineRelease, furtherReleases, RELEASES } from './debian.ts';
import { checkSeries } from './kernel-name.ts';
import { aptOfRelease } from './releases.ts';
import { contentKey, needSpace } from './xdg.ts';
import { withFileLock } from '../core/file-lock.ts';

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
  // Debian 13's QEMU only recommends it
  'ipxe-qemu',
];

/** Besides a kernel of another release and its headers: what its modules are built with, as that release has it. */
const KIT_ROOTS = ['make', 'binutils', 'libc6'];

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
  /** Codename of the release that it is from, when the machine's apt has it not: it has no tools for the host then. */
  release?: string;
  /** As `uname -r`. */
  kernelVersion: string;
  debs: DebRecord[];
}

/** The set that is for all kernels alike. */
export const BOCHS_SET = 'bochs';

/** The set with a QEMU of another release: `10`, `11.1`. */
export const qemuSet = (version: string): string => `qemu-${version}`;

/** A version begins with these numbers: `1:10.0.13+ds-0+deb13u1` with `10` and `10.0`, not with `1`. */
export function isQemuVersion(version: string, asked: string): boolean {
  const upstream = /^(?:\d+:)?(\d+(?:\.\d+)*)/.exec(version)?.[1] ?? '';
  return `${upstream}.`.startsWith(`${asked}.`);
}

/** The set with the source of a series' kernel. */
export const sourceSet = (series: string): string => `${series}-source`;

/** What a set is made of, where that is known without apt's lists: all but a stock kernel's. */
function fixedRoots(set: string): string[] | undefined {
  if (set === BOCHS_SET) return BOCHS_ROOTS;
  const series = /^(\d+\.\d+)-source$/.exec(set)?.[1];
  return series === undefined ? undefined : [`linux-source-${series}`, ...SOURCE_ROOTS];
}

function qemuOf(set: string): string | undefined {
  return /^qemu-(\d+(?:\.\d+)?)$/.exec(set)?.[1];
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
  if (fixedRoots(options.series) === undefined && qemuOf(options.series) === undefined)
    checkSeries(options.series);
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
    const own = new Apt(options.root, options.signal);
    const missing = await own.missing(set.debs);
    if (missing.length === 0) return set;
    await needSpace(options.root, CACHE_BYTES_NEEDED);
    try {
      const apt = set.release === undefined ? own : await reopen(own, set.release, options);
      await downloadDebs(apt, missing, options.progress);
      return set;
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_PACKAGES')) throw e;
      const newer = await resolve(options); // throws the same when it is the network that fails
      const apt = newer.release === undefined ? own : await reopen(own, newer.release, options);
      await downloadDebs(apt, await apt.missing(newer.debs), options.progress);
      return newer;
    }
  });
}

/** The lists of another release, which a run before this one may have fetched long ago. */
async function reopen(own: Apt, codename: string, o: PackagesOptions): Promise<Apt> {
  const release = RELEASES.find((r) => r.codename === codename);
  if (release === undefined)
    throw new HyperturtleError('HT_PACKAGES', `packages of ${codename}: no release that the lab knows`);
  await own.haveLists();
  return aptOfRelease(own, release, o.root, o.signal);
}

/**
 * Cloud kernels for which both image and headers exist, oldest first. `names` are package names from apt's lists;
 * names carry the full version (`linux-image-6.12.117+deb12-cloud-amd64`) and sort by its numbers.
 */
export function cloudKernels(names: readonly string[]): string[] {
  const all = new Set(names);
  return names
    .flatMap((n) => {
      const m = /^linux-image-(\d+\.\d+\.\d\S*-cloud-amd64)$/.exec(n);
      return m && all.has(`linux-headers-${m[1]!}`) ? [m[1]!] : [];
    })
    .sort(byNumbers);
}

/** The newest of a series. */
export function pickKernel(kernels: readonly string[], series: string): string | undefined {
  return kernels.filter((k) => k.startsWith(`${series}.`)).at(-1);
}

/** Throws HT_NOT_FOUND with what there is. */
export function noKernel(series: string, kernels: readonly string[]): never {
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
  const own = new Apt(options.root, options.signal);
  const step = options.progress.step('package lists');
  try {
    await own.update();
    const { apt, roots, suite, kernelVersion, release } = await wanted(own, options);
    const debs = await apt.plan(roots, suite);
    const set: PackageSet = {
      schema: 1,
      rootsKey: rootsKey(options.series),
      series: options.series,
      ...(release === undefined ? {} : { release }),
      kernelVersion,
      debs,
    };
    const file = recordFile(options);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(`${file}.staging`, `${JSON.stringify(set, undefined, 1)}\n`);
    await rename(`${file}.staging`, file);
    const what = kernelVersion === '' ? options.series : `Linux ${kernelVersion}`;
    step.done(`${what}, ${debs.length} packages${release === undefined ? '' : ` of ${release}`}`);
    return set;
  } catch (e) {
    step.fail();
    throw e;
  }
}

interface Wanted {
  apt: Apt;
  roots: string[];
  suite?: string;
  kernelVersion: string;
  release?: string;
}

async function wanted(own: Apt, o: PackagesOptions): Promise<Wanted> {
  const fixed = fixedRoots(o.series);
  if (fixed !== undefined) return { apt: own, roots: fixed, kernelVersion: '' };
  const qemu = qemuOf(o.series);
  if (qemu !== undefined) return wantedQemu(own, qemu, o);
  const kernelsOf = async (apt: Apt): Promise<string[]> =>
    cloudKernels([...(await apt.names('linux-image-')), ...(await apt.names('linux-headers-'))]);
  const packages = (version: string): string[] => [`linux-image-${version}`, `linux-headers-${version}`];
  const seen = await kernelsOf(own);
  const mine = pickKernel(seen, o.series);
  if (mine !== undefined) return { apt: own, roots: [...packages(mine), ...ROOTS], kernelVersion: mine };
  for (const release of furtherReleases(machineRelease())) {
    const apt = await aptOfRelease(own, release, o.root, o.signal);
    const theirs = await kernelsOf(apt);
    const found = pickKernel(theirs, o.series);
    if (found !== undefined)
      return {
        apt,
        roots: [...packages(found), ...KIT_ROOTS],
        kernelVersion: found,
        release: release.codename,
      };
    seen.push(...theirs);
  }
  return noKernel(o.series, seen);
}

/** QEMU of another release than the machine's. Its parts are named, since apt takes none of backports by itself. */
async function wantedQemu(own: Apt, asked: string, o: PackagesOptions): Promise<Wanted> {
  const seen = await own.versions('qemu-system-x86');
  for (const release of furtherReleases(machineRelease())) {
    const apt = await aptOfRelease(own, release, o.root, o.signal);
    const versions = await apt.versions('qemu-system-x86');
    const found = versions.find((v) => isQemuVersion(v, asked));
    if (found !== undefined) {
      const parts = ['qemu-system-x86', 'qemu-system-common', 'qemu-system-data'];
      const roots = [...parts.map((p) => `${p}=${found}`), 'seabios', 'ipxe-qemu', 'libc6'];
      const suite = found.includes('~bpo') ? { suite: `${release.codename}-backports` } : {};
      return { apt, roots, ...suite, kernelVersion: '', release: release.codename };
    }
    seen.push(...versions);
  }
  const there = [...new Set(seen.map((v) => /^(?:\d+:)?(\d+\.\d+)/.exec(v)?.[1] ?? v))];
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `QEMU ${asked}: in no list of Debian's releases that the lab knows; there is: ${there.join(', ')}`,
  );
}

export async function downloadDebs(
  apt: Apt,
  missing: readonly DebRecord[],
  progress: Progress,
): Promise<void> {
  const total = missing.reduce((sum, d) => sum + d.bytes, 0);
  const mib = (bytes: number): number => Math.round(bytes / (1 << 20));
  await withStep(progress, `fetching ${missing.length} packages, ${mib(total)} MiB`, (step) =>
    apt.download(missing, (bytes) => step.update(`${mib(bytes)} of ${mib(total)} MiB`)),
  );
}

export function withAptLock<T>(
  options: Pick<PackagesOptions, 'root' | 'progress' | 'signal'>,
  body: () => Promise<T>,
): Promise<T> {
  const onWait = (holder: string): void =>
    options.progress.note(`  waiting for ${holder}, which fetches packages`);
  return withFileLock(path.join(options.root, 'locks/apt'), { signal: options.signal, onWait }, body);
}

function rootsKey(series: string): string {
  return contentKey(fixedRoots(series) ?? [ROOTS, KIT_ROOTS]);
}

/** By the machine's release: a cache may outlive an upgrade of it. */
function recordFile(options: PackagesOptions): string {
  return path.join(options.root, 'sets', `${machineRelease().codename}-${options.series}.json`);
}

async function readRecord(options: PackagesOptions): Promise<PackageSet | undefined> {
  try {
    const set = JSON.parse(await readFile(recordFile(options), 'utf8')) as PackageSet | null;
    return set?.schema === 1 && set.rootsKey === rootsKey(options.series) ? set : undefined;
  } catch (e) {
    if (errnoCode(e) === 'ENOENT' || e instanceof SyntaxError) return undefined;
    throw e;
  }
}
