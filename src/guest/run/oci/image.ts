/**
 * `oci:DIR[:NAME]`: an image out of an OCI image layout, unpacked and packed as erofs once. The packed image is kept under
 * the digest of its manifest, which names all of its content. What a killed process was at, the next one removes.
 */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { HyperturtleError } from '../../../core/errors.ts';
import { makeDirectory } from '../../../core/files.ts';
import { lazy } from '../../../core/lazy.ts';
import { identify, isRunning } from '../../../core/process.ts';
import type { ProcessId } from '../../../core/process.ts';
import { packDirectory } from '../image.ts';
import type { RunRoot } from '../spec.ts';
import { contentFile, readLayers } from './layers.ts';
import type { OciLimits } from './layers.ts';
import { readOciImage } from './layout.ts';
import type { OciImage } from './layout.ts';
import type { ImageTree } from './tree.ts';
import { writeTree } from './unpack.ts';
import { userOf } from './user.ts';
import type { RunUser } from './user.ts';

export interface OciRoot {
  root: RunRoot;
  image: OciImage;
  user: RunUser;
  /** The image's own, with no link on the way. */
  workingDir: string;
  /** Devices and pipes that were left out; undefined: it was packed before. */
  leftOut: number | undefined;
}

const WORK = 'work-';
/** How large one of the image's tables of users may be. */
const TABLE_BYTES_MAX = 1 << 20;
const aboutSchema = lazy(() =>
  z.object({
    schema: z.literal(2),
    user: z.object({ uid: z.int(), gid: z.int(), home: z.string() }),
    workingDir: z.string(),
  }),
);

/** The parts of `oci:DIR[:NAME]`; undefined: it is no such name. */
export function parseOci(image: string): { dir: string; tag: string | undefined } | undefined {
  if (!image.startsWith('oci:')) return undefined;
  const rest = image.slice(4);
  const colon = nameAfter(rest);
  const dir = colon < 0 ? rest : rest.slice(0, colon);
  if (dir === '')
    throw new HyperturtleError('HT_USAGE', `oci:DIR or oci:DIR:NAME expected, '${image}' found`);
  return { dir, tag: colon < 0 ? undefined : rest.slice(colon + 1) };
}

/** Where the colon before the name is; -1: there is none. A directory may have colons of its own, and so may a name. */
function nameAfter(rest: string): number {
  if (existsSync(rest)) return -1;
  const first = rest.indexOf(':');
  for (let i = first; i >= 0; i = rest.indexOf(':', i + 1)) if (existsSync(rest.slice(0, i))) return i;
  return first;
}

/** `cache`: a directory for packed images, made if need be. */
export async function ociRoot(
  dir: string,
  tag: string | undefined,
  o: { cache: string; signal?: AbortSignal | undefined; limits?: OciLimits },
): Promise<OciRoot> {
  const image = readOciImage(dir, tag);
  makeDirectory(o.cache);
  const packed = path.join(o.cache, `${image.digest.replace(':', '-')}.erofs`);
  const about = packed.replace(/erofs$/, 'json');
  const root: RunRoot = { path: packed, fileSystem: 'erofs' };
  const kept = existsSync(packed) ? aboutOf(about) : undefined;
  if (kept) return { root, image, ...kept, leftOut: undefined };
  await sweep(o.cache);
  const work = path.join(o.cache, `${WORK}${process.pid}`);
  await rm(work, { recursive: true, force: true });
  await mkdir(work, { mode: 0o700 });
  try {
    await writeFile(path.join(work, 'owner'), JSON.stringify(identify(process.pid)));
    const spool = path.join(work, 'spool');
    await mkdir(spool);
    const { tree, leftOut } = await readLayers(dir, image, spool, o);
    const user = await userIn(tree, image, spool);
    const workingDir = tree.ensureDirectory(image.workingDir);
    const files = path.join(work, 'root');
    await writeTree(tree, spool, files, o.signal);
    const made = path.join(work, 'root.erofs');
    await packDirectory(files, made, o.signal);
    await writeFile(path.join(work, 'about'), JSON.stringify({ schema: 2, user, workingDir }));
    await rename(path.join(work, 'about'), about);
    await rename(made, packed);
    return { root, image, user, workingDir, leftOut };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function userIn(tree: ImageTree, image: OciImage, spool: string): Promise<RunUser> {
  const table = async (name: string): Promise<string> => {
    const file = tree.file(name);
    if (file === undefined) return '';
    const bytes = await readFile(contentFile(spool, file.content));
    if (bytes.length > TABLE_BYTES_MAX)
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        `image's ${name}: at most ${TABLE_BYTES_MAX} bytes expected`,
      );
    return bytes.toString('utf8');
  };
  return userOf(image.user, await table('/etc/passwd'), await table('/etc/group'));
}

/** Undefined: what is kept there does not read, and is made again. */
function aboutOf(file: string): Pick<OciRoot, 'user' | 'workingDir'> | undefined {
  try {
    const { user, workingDir } = aboutSchema().parse(JSON.parse(readFileSync(file, 'utf8')));
    return { user, workingDir };
  } catch {
    return undefined;
  }
}

async function sweep(cache: string): Promise<void> {
  for (const name of readdirSync(cache).filter((n) => n.startsWith(WORK))) {
    const work = path.join(cache, name);
    if (!ownerRuns(work, name)) await rm(work, { recursive: true, force: true });
  }
}

/** One that has not written its name yet is known by its number. */
function ownerRuns(work: string, name: string): boolean {
  try {
    return isRunning(JSON.parse(readFileSync(path.join(work, 'owner'), 'utf8')) as ProcessId);
  } catch {
    return identify(Number(name.slice(WORK.length))) !== undefined;
  }
}
