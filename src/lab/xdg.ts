/**
 * Where the lab keeps what it fetched and built. One directory of our own; nothing else on the host is
 * written. Every entry is made in a staging place beside its own and renamed, so that what has its final name
 * is complete.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, rename, rm, stat, statfs, utimes } from 'node:fs/promises';
import { userInfo } from 'node:os';
import path from 'node:path';
import { errnoCode, HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { visibleLine } from '../core/visible.ts';
import { withFileLock } from '../core/file-lock.ts';

/** `$XDG_CACHE_HOME/hyperturtle`, by default `~/.cache/hyperturtle`. Throws HT_USAGE where that is no absolute path. */
export function cacheRoot(env: NodeJS.ProcessEnv = process.env): string {
  return path.join(xdgDirectory('XDG_CACHE_HOME', '.cache', env), 'hyperturtle');
}

/** A directory that the XDG specification names: by a variable, or below the home directory. Throws HT_USAGE. */
export function xdgDirectory(
  variable: 'XDG_CACHE_HOME' | 'XDG_STATE_HOME',
  belowHome: string,
  env: NodeJS.ProcessEnv,
): string {
  const base = env[variable];
  // the XDG specification: a relative path is to be ignored
  if (base !== undefined && path.isAbsolute(base)) return base;
  // without one, or with an empty one, it is the user's by the machine's list of users
  const home = env['HOME'] || userInfo().homedir;
  if (!path.isAbsolute(home))
    throw new HyperturtleError(
      'HT_USAGE',
      `HOME is '${visibleLine(home)}': expected an absolute path; set it, or set ${variable} to one`,
    );
  return path.join(home, belowHome);
}

/**
 * What apt, make, shells, env and QEMU take as a part of a name wherever the lab hands them a path of the cache. Others end a
 * word, a rule or an option in one of them.
 */
const NOT_PLAIN = /[^\p{L}\p{M}\p{N}/._+@~^{}!-]/u;

function checkCharacters(root: string): void {
  const found = NOT_PLAIN.exec(root)?.[0];
  if (found === undefined) return;
  const code = found.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0');
  const name = found === ' ' ? 'a blank' : /^[!-~]$/.test(found) ? found : `U+${code}`;
  throw new HyperturtleError(
    'HT_USAGE',
    `cache directory '${visibleLine(root)}' has ${name} in its name, which make, shells or apt take for something else: set XDG_CACHE_HOME to a directory without it`,
  );
}

/** Makes the cache directory, and says what to do when it cannot be made or has too little room. */
export async function openCache(needBytes: number, root = cacheRoot()): Promise<string> {
  checkCharacters(root);
  try {
    await makeDirectories(path.join(root, 'locks'));
  } catch (e) {
    throw new HyperturtleError(
      'HT_USAGE',
      `cache directory ${root} cannot be made (${errnoCode(e) ?? 'error'}): set XDG_CACHE_HOME to a directory you can write`,
      { cause: e },
    );
  }
  await needSpace(root, needBytes);
  return root;
}

/** As `mkdir -p`. Node's own never returns where a parent refuses with ENOENT, as /proc does. */
async function makeDirectories(dir: string): Promise<void> {
  if (await exists(dir)) return;
  await makeDirectories(path.dirname(dir));
  try {
    await mkdir(dir);
  } catch (e) {
    if (errnoCode(e) !== 'EEXIST') throw e;
  }
}

/** Throws HT_NO_SPACE when the file system of `dir` has less than `needBytes` free for us. */
export async function needSpace(dir: string, needBytes: number): Promise<void> {
  const fs = await statfs(dir);
  const free = fs.bavail * fs.bsize;
  if (free < needBytes)
    throw new HyperturtleError(
      'HT_NO_SPACE',
      `${dir}: ${mib(needBytes)} MiB free space needed, ${mib(free)} MiB found: free some, or set XDG_CACHE_HOME to a larger disk`,
      { detail: { dir, needBytes, freeBytes: free } },
    );
}

function mib(bytes: number): number {
  return Math.floor(bytes / (1 << 20));
}

/** Stable hash of anything JSON can hold, 16 hex digits: enough to name a cache entry. */
export function contentKey(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 16);
}

export async function exists(file: string): Promise<boolean> {
  try {
    await stat(file);
    return true;
  } catch (e) {
    if (errnoCode(e) === 'ENOENT' || errnoCode(e) === 'ENOTDIR') return false;
    throw e;
  }
}

export interface CacheEntrySpec {
  /** Folder of the cache: `tools`, `images`. */
  folder: string;
  /** Entries of one name replace each other when old. */
  name: string;
  key: string;
  /** File name suffix (`.erofs`). */
  suffix?: string;
  /** How many entries of this name stay; others go when unused for a day. Default 4. All names go after 30 days. */
  keep?: number;
  signal?: AbortSignal | undefined;
  onWait?: (holder: string) => void;
  /** How long to wait for another process that makes the same; default 30 minutes. */
  waitMs?: number;
}

/**
 * The path of a cache entry; `make` creates it (file or directory) at the path it is given if it is missing.
 * Two processes that want the same entry make it once.
 */
export async function cacheEntry(
  root: string,
  spec: CacheEntrySpec,
  make: (staging: string) => Promise<void>,
): Promise<string> {
  const folder = path.join(root, spec.folder);
  const suffix = spec.suffix ?? '';
  const final = path.join(folder, `${spec.name}-${spec.key}${suffix}`);
  if (await touch(final)) return final;
  await mkdir(folder, { recursive: true });
  const lock = lockOf(root, spec.folder, `${spec.name}-${spec.key}`);
  const { signal, onWait, waitMs } = spec;
  const options = { signal, onWait, ...(waitMs === undefined ? {} : { timeoutMs: waitMs }) };
  await withFileLock(lock, options, async () => {
    if (await touch(final)) return;
    const staging = path.join(folder, `.${spec.name}-${spec.key}${suffix}.staging`);
    // the one that left it there is gone: the lock is ours
    await rm(staging, { recursive: true, force: true });
    try {
      await make(staging);
      await touch(staging); // unpacking gives a directory its package's date
      await rename(staging, final);
    } catch (e) {
      await rm(staging, { recursive: true, force: true });
      throw outOfSpace(e, root);
    }
  });
  await prune(root, spec.folder, spec.name, suffix, spec.keep ?? 4);
  return final;
}

const lockOf = (root: string, folder: string, entry: string): string =>
  path.join(root, 'locks', `${folder}-${entry}`);

/** `body` with a directory beside an entry's `staging` place: not there yet, and gone afterwards. */
export async function withWorkDirectory<T>(
  staging: string,
  suffix: string,
  body: (dir: string) => Promise<T>,
): Promise<T> {
  const dir = `${staging}.${suffix}`;
  try {
    await rm(dir, { recursive: true, force: true });
    return await body(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** Marks an entry as used now; false when there is none. */
async function touch(entry: string): Promise<boolean> {
  try {
    const now = new Date();
    await utimes(entry, now, now);
    return true;
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return false;
    if (errnoCode(e) === 'EPERM' || errnoCode(e) === 'EACCES') return exists(entry);
    throw e;
  }
}

const DAY_MS = 86_400_000;
/** Names have versions of kernels in them: one that is no longer taken is never replaced by another. */
const UNUSED_MS = 30 * DAY_MS;
const ENTRY = /^[^.].*-[0-9a-f]{16}(\.\w+)?$/;

async function prune(
  root: string,
  inFolder: string,
  name: string,
  suffix: string,
  keep: number,
): Promise<void> {
  const pattern = new RegExp(`^${escapeRegExp(name)}-[0-9a-f]{16}${escapeRegExp(suffix)}$`);
  const folder = path.join(root, inFolder);
  const entries: { file: string; usedMs: number }[] = [];
  for (const e of await readdir(folder)) {
    await dropHalfMade(root, inFolder, e);
    if (pattern.test(e))
      entries.push({ file: path.join(folder, e), usedMs: await lastUsedMs(path.join(folder, e)) });
  }
  entries.sort((a, b) => b.usedMs - a.usedMs);
  for (const e of entries.slice(keep))
    if (Date.now() - e.usedMs > DAY_MS) await rm(e.file, { recursive: true, force: true });
  await dropUnused(folder, UNUSED_MS);
}

/**
 * Removes what a killed process left half-made. It is made under its entry's lock, so one whose lock is free is nobody's; its
 * age would say nothing, as unpacking a package gives the directory the package's own date.
 */
async function dropHalfMade(root: string, folder: string, name: string): Promise<void> {
  const entry = /^\.(.*-[0-9a-f]{16})[^/]*\.staging(\.\w+)?$/.exec(name)?.[1];
  if (entry === undefined) return;
  try {
    await withFileLock(lockOf(root, folder, entry), { timeoutMs: 0 }, () =>
      rm(path.join(root, folder, name), { recursive: true, force: true }),
    );
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_BUSY')) throw e;
  }
}

/** Removes the folder's entries that have not been used for so long, and says how many. */
async function dropUnused(folder: string, unusedMs: number): Promise<number> {
  let removed = 0;
  for (const name of (await exists(folder)) ? await readdir(folder) : []) {
    const file = path.join(folder, name);
    if (!ENTRY.test(name) || Date.now() - (await lastUsedMs(file)) < unusedMs) continue;
    await rm(file, { recursive: true, force: true });
    removed++;
  }
  return removed;
}

/** The same in the whole cache; those of running labs were used when these started. */
export async function dropUnusedEntries(root: string, days: number): Promise<number> {
  let removed = 0;
  for (const folder of ['builds', 'images', 'l2-images', 'trees'])
    removed += await dropUnused(path.join(root, folder), days * DAY_MS);
  return removed;
}

async function lastUsedMs(file: string): Promise<number> {
  try {
    return (await stat(file)).mtimeMs;
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return Infinity; // another process has removed it
    throw e;
  }
}

function outOfSpace(e: unknown, root: string): unknown {
  if (errnoCode(e) !== 'ENOSPC') return e;
  return new HyperturtleError(
    'HT_NO_SPACE',
    `${root}: the disk is full: free some space, or set XDG_CACHE_HOME`,
    {
      cause: e,
    },
  );
}

function escapeRegExp(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
