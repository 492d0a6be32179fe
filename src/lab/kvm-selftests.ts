/**
 * KVM's own selftests, static, out of Debian's linux-source package of the same series, as a disk for L1. They are the
 * kernel's programs, built for this machine and for its labs alone: nothing of them is kept in the project or shipped.
 */
import { mkdir, readdir, readFile, rename, truncate, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { apartSet, apartTree } from './apart.ts';
import type { ApartContext } from './apart.ts';
import { IMAGES_DISK_BYTES } from './artifacts.ts';
import { makeErofs } from './images.ts';
import { KERNEL_CC, makeInSource, unpackLinux } from './linux-source.ts';
import type { LinuxSource } from './linux-source.ts';
import { sourceSet } from './packages.ts';
import type { ToolsTree } from './tools.ts';
import { withStep } from '../core/progress.ts';
import { cacheEntry, contentKey, needSpace, withWorkDirectory } from './xdg.ts';

/** Raised when the way of building changes. */
const BUILD_VERSION = 1;
const BYTES_NEEDED = 2 * 1024 ** 3;
const MAX_MS = 3600_000;
/** Parts of the source that the tests and the headers that they need are made of. */
const PARTS = ['Makefile', 'Kbuild', 'Kconfig', 'scripts', 'include', 'arch/x86', 'tools', 'usr'];
const FOLDER = 'tools/testing/selftests/kvm';
/** The programs' list on the disk: `name` or, of one that does not compile, `!name`. */
export const SELFTESTS_LIST = 'selftests';

export interface SelftestsContext extends ApartContext {
  tools: ToolsTree;
  series: string;
}

/** The disk, of the size that every snapshot knows. */
export async function kvmSelftestsDisk(c: SelftestsContext): Promise<string> {
  const set = await apartSet(c, sourceSet(c.series));
  const source = set.debs.find((d) => d.name === `linux-source-${c.series}`)!;
  const key = contentKey([BUILD_VERSION, c.tools.key, source.sha256]);
  const spec = { folder: 'l2-images', name: `kvm-selftests-${c.series}`, key, suffix: '.img', keep: 1 };
  return cacheEntry(c.cacheRoot, { ...spec, signal: c.signal, waitMs: MAX_MS }, async (staging) => {
    const { tree } = await apartTree(c, set);
    await needSpace(c.cacheRoot, BYTES_NEEDED);
    const build = async (work: string): ReturnType<typeof compile> => {
      const s = { ...c, extra: tree, src: path.join(work, 'src') };
      const disk = path.join(work, 'disk');
      const made = await compile(s, work, disk);
      await makeErofs(c.tools, disk, staging, c.signal, IMAGES_DISK_BYTES);
      await truncate(staging, IMAGES_DISK_BYTES);
      return made;
    };
    await withStep(
      c.progress,
      `compiling KVM's selftests of Linux ${c.series}`,
      () => withWorkDirectory(staging, 'work', build),
      ({ built, missing }) =>
        `${built.length} programs${missing.length > 0 ? `, ${missing.length} do not compile` : ''}`,
    );
  });
}

async function compile(
  s: LinuxSource,
  work: string,
  disk: string,
): Promise<{ built: string[]; missing: string[] }> {
  await unpackLinux(s, PARTS);
  const [headers, out] = [path.join(work, 'headers'), path.join(work, 'out')];
  for (const d of [headers, out, disk]) await mkdir(d, { recursive: true });
  const what = `KVM's selftests of Linux ${s.series}`;
  await makeInSource(s, {
    what,
    args: [`O=${headers}`, 'ARCH=x86_64', `CC=${KERNEL_CC}`, 'headers'],
    timeoutMs: MAX_MS,
  });
  const folder = path.join(s.src, FOLDER);
  const header = await readFile(path.join(folder, 'include/test_util.h'), 'utf8');
  // Debian's 6.1.192 has a test that calls the macro by the name which it got later
  const late = /define TEST_ASSERT_EQ\b/.test(header) ? '' : ' -DTEST_ASSERT_EQ=ASSERT_EQ';
  const args = [
    ...['-C', FOLDER, `-j${availableParallelism()}`, '-k', `OUTPUT=${out}`, 'ARCH=x86_64'],
    // strips too: debugging data is nine tenths
    `CC=${KERNEL_CC} --sysroot=${s.tools.root} -static -s`,
    `EXTRA_CFLAGS=-g0${late}`,
    `KHDR_INCLUDES=-isystem ${headers}/usr/include`,
  ];
  try {
    await makeInSource(s, { what, args, timeoutMs: MAX_MS });
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_BUILD')) throw e;
    // some of a series may not compile: they are named; when all do not, it is an error
    if ((await programs(out)).length === 0) throw e;
  }
  const built = await programs(out);
  const wanted = selftestNames(await readFile(path.join(folder, await makefile(folder)), 'utf8'));
  const missing = wanted.filter((w) => !built.includes(w));
  if (wanted.length === 0)
    throw new HyperturtleError('HT_BUILD', `${what}: no list of them in ${FOLDER}: this source is another`);
  for (const b of built) {
    await mkdir(path.join(disk, path.dirname(b)), { recursive: true });
    await rename(path.join(out, b), path.join(disk, b));
  }
  const list = [...wanted.filter((w) => built.includes(w)), ...missing.map((m) => `!${m}`)];
  await writeFile(path.join(disk, SELFTESTS_LIST), `${list.join('\n')}\n`);
  return { built, missing };
}

/** Newer series have one for architectures that are not KVM's, and the list in another. */
async function makefile(folder: string): Promise<string> {
  return (await readdir(folder)).includes('Makefile.kvm') ? 'Makefile.kvm' : 'Makefile';
}

/** Programs that the Makefile of the selftests names for x86-64, in its order. */
export function selftestNames(text: string): string[] {
  const names = [...text.matchAll(/^TEST_GEN_PROGS_(?:x86_64|x86|COMMON) *\+?= *(\S+)$/gm)].map((m) => m[1]!);
  return [...new Set(names)].filter((n) => !n.startsWith('$'));
}

async function programs(out: string): Promise<string[]> {
  const files = await readdir(out, { recursive: true, withFileTypes: true });
  return files
    .filter((f) => f.isFile() && !/\.(o|d|a|s|S)$/.test(f.name))
    .map((f) => path.relative(out, path.join(f.parentPath, f.name)))
    .filter((f) => !f.startsWith('lib/'))
    .sort();
}
