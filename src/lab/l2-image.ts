/**
 * Builds root file systems for nested guests from Debian packages: unpacked, a few files added, packed as erofs. No
 * root, no registry, no maintainer script. The same packages give the same bytes.
 */
import {
  chmod,
  mkdir,
  readFile,
  readdir,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { exec } from '../core/exec.ts';
import { errnoCode, HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { withStep } from '../core/progress.ts';
import type { Progress } from '../core/progress.ts';
import type { ImageAbout } from '../guest/run/about.ts';
import { IMAGES_DISK_BYTES } from './artifacts.ts';
import type { L2Image } from './artifacts.ts';
import { Apt } from './debs.ts';
import type { DebRecord } from './debs.ts';
import { makeErofs } from './images.ts';
import { CLIENT_IMAGES, L2_IMAGE_NAMES, L2_IMAGES } from './l2-image-specs.ts';
import type { L2ImageSpec } from './l2-image-specs.ts';
import { downloadDebs, withAptLock } from './packages.ts';
import { writeRedisSnapshot } from './redis-snapshot.ts';
import { TRIPLET, unpackAll } from './tools.ts';
import type { ToolsTree } from './tools.ts';
import { cacheEntry, contentKey, exists, needSpace, withWorkDirectory } from './xdg.ts';
import { own } from '../core/own.ts';

export interface L2ImageContext {
  cacheRoot: string;
  tools: ToolsTree;
  progress: Progress;
  signal?: AbortSignal | undefined;
  /** Ask apt again which packages there are; otherwise what was chosen once is kept. */
  refresh?: boolean;
}

/** Raised when the way of building changes. */
const IMAGE_VERSION = 1;
const MAX_BYTES = 2 * 1024 ** 3;

export function l2ImageSpec(name: string): L2ImageSpec {
  const images = { ...L2_IMAGES, ...CLIENT_IMAGES };
  const spec = own(images, name);
  if (spec === undefined)
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `image '${name}': there are ${L2_IMAGE_NAMES.join(', ')}: take one of them`,
    );
  return spec;
}

export function aboutImage(name: string): ImageAbout {
  return { schema: 1, name, ...l2ImageSpec(name).about };
}

/** The image, built if it is not in the cache. Fetches its packages then. */
export async function buildL2Image(c: L2ImageContext, name: string): Promise<L2Image> {
  const spec = l2ImageSpec(name);
  const debs = await packagesOf(c, name, spec);
  const { about, ...content } = spec;
  const key = contentKey([IMAGE_VERSION, c.tools.key, content, debs.map((d) => `${d.name} ${d.sha256}`)]);
  const image = await cacheEntry(
    c.cacheRoot,
    { folder: 'l2-images', name, key, suffix: '.erofs', keep: 2, signal: c.signal },
    async (staging) => {
      await fetch(c, debs);
      const build = async (tree: string): Promise<number> => {
        await unpackAll(debs, tree, c);
        await furnish(c, tree, spec);
        await makeErofs(c.tools, tree, staging, c.signal, MAX_BYTES);
        return (await stat(staging)).size;
      };
      await withStep(
        c.progress,
        `building image ${name} of ${debs.length} packages`,
        () => withWorkDirectory(staging, 'tree', build),
        (bytes) => `${Math.ceil(bytes / (1 << 20))} MiB`,
      );
    },
  );
  return { name, path: image, key, bytes: (await stat(image)).size, about: { schema: 1, name, ...about } };
}

/** A disk for L1 with these images and what they say of themselves: of the size that every snapshot knows. */
export async function buildImagesDisk(c: L2ImageContext, names: readonly string[]): Promise<string> {
  const images: L2Image[] = [];
  for (const n of [...new Set(names)].sort()) images.push(await buildL2Image(c, n));
  const key = contentKey([IMAGE_VERSION, images.map((i) => [i.key, i.about])]);
  return cacheEntry(
    c.cacheRoot,
    { folder: 'l2-images', name: 'disk', key, suffix: '.img', keep: 2, signal: c.signal },
    (staging) =>
      withStep(c.progress, `packing ${images.length} images`, () =>
        withWorkDirectory(staging, 'tree', async (tree) => {
          await mkdir(tree, { recursive: true });
          for (const i of images) {
            await exec('ln', [i.path, path.join(tree, `${i.name}.erofs`)], { signal: c.signal });
            await writeFile(path.join(tree, `${i.name}.json`), JSON.stringify(i.about));
          }
          await makeErofs(c.tools, tree, staging, c.signal, IMAGES_DISK_BYTES);
          await truncate(staging, IMAGES_DISK_BYTES);
        }),
      ),
  );
}

/** What apt chose is recorded, as for the lab itself: a run with a complete cache needs no network. */
async function packagesOf(c: L2ImageContext, name: string, spec: L2ImageSpec): Promise<DebRecord[]> {
  const file = path.join(c.cacheRoot, 'sets', `l2-${name}.json`);
  const roots = contentKey(spec.packages);
  try {
    const record = JSON.parse(await readFile(file, 'utf8')) as { roots: string; debs: DebRecord[] };
    if (record.roots === roots && !c.refresh) return record.debs;
  } catch (e) {
    if (errnoCode(e) !== 'ENOENT' && !(e instanceof SyntaxError)) throw e;
  }
  return withAptLock(apt(c), async () => {
    const a = new Apt(c.cacheRoot, c.signal, 'root');
    await (c.refresh ? a.update() : a.haveLists());
    const debs = await a.plan(spec.packages);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(`${file}.staging`, `${JSON.stringify({ roots, debs }, undefined, 1)}\n`);
    await rename(`${file}.staging`, file);
    return debs;
  });
}

function fetch(c: L2ImageContext, debs: readonly DebRecord[]): Promise<void> {
  return withAptLock(apt(c), async () => {
    const a = new Apt(c.cacheRoot, c.signal, 'root');
    await a.haveLists();
    const missing = await a.missing(debs);
    if (missing.length === 0) return;
    await needSpace(c.cacheRoot, 4 * missing.reduce((sum, d) => sum + d.bytes, 0));
    try {
      await downloadDebs(a, missing, c.progress);
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_PACKAGES')) throw e;
      throw new HyperturtleError('HT_PACKAGES', `${e.message} (or ask for newer packages: --refresh)`, {
        cause: e,
      });
    }
  });
}

function apt(c: L2ImageContext): { root: string; progress: Progress; signal: AbortSignal | undefined } {
  return { root: c.cacheRoot, progress: c.progress, signal: c.signal };
}

/** Where a root has no maintainer script that made it. */
const FILES: Readonly<Record<string, string>> = {
  'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n',
  'etc/group': 'root:x:0:\nnogroup:x:65534:\n',
  'etc/hosts': '127.0.0.1 localhost\n::1 localhost\n',
  'etc/nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files dns\n',
  'etc/hostname': 'l2\n',
};

async function furnish(c: L2ImageContext, tree: string, spec: L2ImageSpec): Promise<void> {
  const at = (p: string): string => path.join(tree, p);
  for (const d of ['dev', 'proc', 'sys', 'run', 'tmp', 'root', 'srv', 'mnt', 'etc', 'var/lib', 'var/log'])
    await mkdir(at(d), { recursive: true });
  await chmod(at('tmp'), 0o1777);
  if (!(await exists(at('usr/bin/sh')))) await symlink('dash', at('usr/bin/sh'));
  // what nobody reads in a container either, but in the one that is to be a full Debian
  if (!spec.packages.some((p) => p.startsWith('?')))
    for (const d of ['doc', 'man', 'locale', 'info', 'lintian'])
      await rm(at(`usr/share/${d}`), { recursive: true, force: true });
  for (const [file, text] of Object.entries({ ...FILES, ...spec.files })) {
    if (Object.hasOwn(FILES, file) && (await exists(at(file)))) continue;
    await mkdir(path.dirname(at(file)), { recursive: true });
    await writeFile(at(file), text, { mode: text.startsWith('#!') ? 0o755 : 0o644 });
  }
  for (const [link, target] of Object.entries(spec.links ?? {})) {
    await rm(at(link), { force: true });
    await symlink(target, at(link));
  }
  if (spec.compilePython) await compilePython(c, tree);
  if (spec.redisSnapshotMib !== undefined)
    await writeRedisSnapshot(at('srv/dump.rdb'), spec.redisSnapshotMib);
}

/**
 * By the image's own Python, run from the tree: it works for the magic number of exactly that version. The result does
 * not depend on times of files, which a packed image does not have.
 */
async function compilePython(c: L2ImageContext, tree: string): Promise<void> {
  const lib = path.join(tree, 'usr/lib');
  const python = (await readdir(path.join(tree, 'usr/bin'))).find((f) => /^python3\.\d+$/.test(f));
  if (python === undefined) throw new HyperturtleError('HT_PACKAGES', 'no python3 among the packages');
  const folders = [path.join(lib, python), path.join(lib, 'python3/dist-packages')];
  const there = [];
  for (const f of folders) if (await exists(f)) there.push(f);
  const loader = path.join(lib, TRIPLET, 'ld-linux-x86-64.so.2');
  await exec(
    loader,
    [
      ...['--library-path', path.join(lib, TRIPLET), path.join(tree, 'usr/bin', python)],
      ...['-S', '-m', 'compileall', '-q', '-j', '0', '--invalidation-mode', 'unchecked-hash'],
      // paths in tracebacks are those of the guest
      ...['-s', tree, '-p', '/', ...there],
    ],
    {
      env: {
        PYTHONHOME: path.join(tree, 'usr'),
        PYTHONHASHSEED: '0',
        LC_ALL: 'C.UTF-8',
        PATH: '/usr/bin:/bin',
      },
      timeoutMs: 600_000,
      signal: c.signal,
    },
  ).catch((e: unknown) => {
    // tests of the language's own parser do not compile, by intention
    if (!isHyperturtleError(e, 'HT_COMMAND_FAILED') || !/SyntaxError/.test(e.message)) throw e;
  });
}
