/** What IMAGE of `hyperturtle run` is: a name, an image file, or a directory; and what is known about it. */
import { closeSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import path from 'node:path';
import { HyperturtleError, errnoCode, isHyperturtleError } from '../../core/errors.ts';
import { exec } from '../../core/exec.ts';
import { kindOf } from '../../core/files.ts';
import { imageAboutSchema } from './about.ts';
import type { ImageAbout } from './about.ts';
import type { RootFileSystem, RunRoot } from './spec.ts';

/** Where names are looked up. */
const IMAGE_DIRS = ['/var/lib/hyperturtle/images', '/images'];

export interface RunImage {
  name: string;
  /** A directory must be packed first: packDirectory. */
  root: RunRoot | { directory: string };
  about: ImageAbout | undefined;
}

/** Throws HT_NOT_FOUND, HT_UNSUPPORTED for a file that is no file system that a guest can mount. */
export function resolveImage(image: string, dirs: readonly string[] = IMAGE_DIRS): RunImage {
  const found = image.includes('/') ? image : findNamed(image, dirs);
  const info = statSync(found, { throwIfNoEntry: false });
  if (info === undefined)
    throw new HyperturtleError('HT_NOT_FOUND', `image ${found}: no such file or directory`);
  // opening a pipe would wait for a writer
  if (!info.isDirectory() && !info.isFile() && !info.isBlockDevice())
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `image ${found} is ${kindOf(info)}: a file, a directory or a block device expected`,
    );
  const file = path.resolve(found);
  const name = path.basename(file).replace(/\.(erofs|squashfs|ext4|img)$/, '');
  if (info.isDirectory()) return { name, root: { directory: file }, about: undefined };
  return {
    name,
    root: { path: file, fileSystem: fileSystemOf(file) },
    about: aboutOf(path.join(path.dirname(file), `${name}.json`)),
  };
}

/** A directory as an image in `file`, with its owners and permissions. Throws HT_NOT_FOUND without mkfs.erofs. */
export async function packDirectory(directory: string, file: string, signal?: AbortSignal): Promise<RunRoot> {
  try {
    await exec('mkfs.erofs', ['-x-1', file, directory], { timeoutMs: 600_000, signal });
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
    throw new HyperturtleError('HT_NOT_FOUND', `${directory}: mkfs.erofs packs it: install erofs-utils`, {
      cause: e,
    });
  }
  return { path: file, fileSystem: 'erofs' };
}

function findNamed(image: string, dirs: readonly string[]): string {
  for (const dir of dirs)
    for (const suffix of ['.erofs', '.squashfs', '.ext4', '.img', '']) {
      const file = path.join(dir, `${image}${suffix}`);
      if (statSync(file, { throwIfNoEntry: false })) return file;
    }
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `image '${image}': not in ${dirs.join(' or ')}: give a path (./${image}), or put it there ('hyperturtle lab images' builds some)`,
  );
}

/** Offset and bytes of each file system's magic number. */
const MAGIC: readonly { fileSystem: RootFileSystem; offset: number; bytes: string }[] = [
  { fileSystem: 'erofs', offset: 1024, bytes: 'e2e1f5e0' },
  { fileSystem: 'squashfs', offset: 0, bytes: '68737173' },
  { fileSystem: 'ext4', offset: 1080, bytes: '53ef' },
];

/** Zeros where the file has no more. */
function startOf(file: string, bytes: number): Buffer {
  const start = Buffer.alloc(bytes);
  const fd = openSync(file, 'r');
  try {
    readSync(fd, start, 0, start.length, 0);
  } finally {
    closeSync(fd);
  }
  return start;
}

/** A kernel as it was linked, not packed. False for what is no file. */
export function isElf(file: string): boolean {
  const info = statSync(file, { throwIfNoEntry: false });
  return info?.isFile() === true && startOf(file, 4).toString('latin1') === '\x7fELF';
}

function fileSystemOf(file: string): RootFileSystem {
  const start = startOf(file, 2048);
  const hit = MAGIC.find((m) => start.toString('hex', m.offset, m.offset + m.bytes.length / 2) === m.bytes);
  if (hit) return hit.fileSystem;
  throw new HyperturtleError(
    'HT_UNSUPPORTED',
    `image ${file}: expected erofs, squashfs or ext4, found neither: make one with mkfs.erofs, or give a directory`,
  );
}

function aboutOf(file: string): ImageAbout | undefined {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return undefined;
    throw e;
  }
  const parsed = imageAboutSchema().safeParse(JSON.parse(text));
  if (parsed.success) return parsed.data;
  throw new HyperturtleError('HT_CONFIG', `${file}: ${parsed.error.issues[0]?.message ?? 'not understood'}`);
}
