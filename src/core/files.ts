/**
 * Directories and small files of records. Errors are one line with the path, the reason and what to do: a full or
 * read-only file system is no bug.
 */
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import type { Stats } from 'node:fs';
import path from 'node:path';
import { HyperturtleError, errnoCode, messageOf } from './errors.ts';
import { own } from './own.ts';

const ADVICE: Readonly<Partial<Record<string, string>>> = {
  ENOSPC: 'no space is left on the file system: make room',
  EDQUOT: 'the quota of the file system is used up: make room',
  EROFS: 'the file system is read-only: mount it writable, or choose another path',
  EACCES: 'permission denied: run as the user it belongs to, or choose another path',
  EPERM: 'permission denied: run as the user it belongs to, or choose another path',
  ENOTDIR: 'a part of the path is not a directory: remove it, or choose another path',
  EEXIST: 'a file stands where a directory is expected: remove it, or choose another path',
  ENOENT: 'no such directory, and none can be made there: choose another path',
  ELOOP: 'symbolic links lead in a circle: choose another path',
  EIO: 'the device has failed',
  EISDIR: 'it is a directory: name a file',
  ENAMETOOLONG: 'the name is too long: choose another path',
  ENXIO: 'nobody answers there: name a file',
};

/**
 * A failure of the file system as an expected error: HT_NO_SPACE where room is missing, else HT_KERNEL. `what` begins
 * the sentence, e.g. "state cannot be written".
 */
export function fileError(e: unknown, what: string, file: string): HyperturtleError {
  const code = errnoCode(e);
  const reason = (code === undefined ? undefined : own(ADVICE, code)) ?? messageOf(e);
  return new HyperturtleError(
    code === 'ENOSPC' || code === 'EDQUOT' ? 'HT_NO_SPACE' : 'HT_KERNEL',
    `${file}: ${what}: ${reason}`,
    { cause: e, detail: { path: file, ...(code === undefined ? {} : { errno: code }) } },
  );
}

/** A failure of the file system that reached the top as it was, as an expected error; undefined for anything else. */
export function asFileError(e: unknown): HyperturtleError | undefined {
  const code = errnoCode(e);
  if (code === undefined || !Object.hasOwn(ADVICE, code) || !(e instanceof Error)) return undefined;
  const { path: file, syscall } = e as NodeJS.ErrnoException;
  return fileError(e, `${syscall ?? 'access'} failed`, file ?? 'a file');
}

/** More than any object, signature or configuration has. */
const INPUT_BYTES_MAX = 64 << 20;
const CHUNK_BYTES = 1 << 20;

/**
 * The content of a file that somebody named: a regular file, or a pipe that this process was given (`<(command)`, /dev/stdin).
 * A device may have no end, and a named pipe no writer. Throws HT_NOT_FOUND, HT_USAGE for what is no file or too large,
 * HT_KERNEL for what else keeps it from being read; `expected` ends the sentence: "give a compiled .bpf.o".
 */
export function readInput(file: string, expected: string, maxBytes = INPUT_BYTES_MAX): Buffer {
  const given = GIVEN_PIPE.test(file);
  try {
    checkKind(statSync(file), file, given, expected);
    // of a pipe the end is waited for; of /proc/kmsg, a regular file by its mode, it is not
    const fd = openSync(file, constants.O_RDONLY | constants.O_NOCTTY | (given ? 0 : constants.O_NONBLOCK));
    try {
      checkKind(fstatSync(fd), file, given, expected); // it may have been replaced
      return readUpTo(fd, file, maxBytes);
    } finally {
      closeSync(fd);
    }
  } catch (e) {
    if (errnoCode(e) === 'ENOENT')
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `${file}: no such file${isLink(file) ? ' behind the symbolic link' : ''}: ${expected}`,
        { cause: e },
      );
    throw e instanceof HyperturtleError ? e : fileError(e, 'cannot be read', file);
  }
}

/** Names of this process's descriptors. */
const GIVEN_PIPE = /^\/(dev\/stdin|dev\/fd\/\d+|proc\/self\/fd\/\d+)$/;

function checkKind(found: Stats, file: string, given: boolean, expected: string): void {
  if (found.isFile() || (given && found.isFIFO())) return;
  throw new HyperturtleError(
    'HT_USAGE',
    `${file} is ${kindOf(found)}: ${found.isDirectory() ? '' : 'a regular file expected: '}${expected}`,
  );
}

/** The size of a file may not be told before (/proc), and it may grow. */
function readUpTo(fd: number, file: string, maxBytes: number): Buffer {
  const tooLarge = (found: string): HyperturtleError =>
    new HyperturtleError('HT_USAGE', `${file} has ${found}: at most ${sizeText(maxBytes)} expected`);
  const { size } = fstatSync(fd);
  if (size > maxBytes) throw tooLarge(sizeText(size));
  const parts: Buffer[] = [];
  for (let n = 0; ; ) {
    const part = Buffer.allocUnsafe(Math.max(4096, Math.min(CHUNK_BYTES, size + 1 - n)));
    const got = readSync(fd, part, 0, part.length, null);
    if (got === 0) return parts.length === 1 ? parts[0]! : Buffer.concat(parts, n);
    n += got;
    if (n > maxBytes) throw tooLarge('more');
    parts.push(part.subarray(0, got));
  }
}

/** All of a stream as UTF-8, such as standard input. Throws HT_USAGE when it has more. */
export async function textUpTo(stream: AsyncIterable<Buffer | string>, maxBytes: number): Promise<string> {
  const parts: Buffer[] = [];
  let n = 0;
  for await (const part of stream) {
    parts.push(Buffer.from(part));
    n += part.length;
    if (n > maxBytes)
      throw new HyperturtleError('HT_USAGE', `at most ${sizeText(maxBytes)} expected, more found`);
  }
  return Buffer.concat(parts).toString('utf8');
}

function sizeText(bytes: number): string {
  const [unit, by] = bytes < 1 << 20 ? ['KiB', 1 << 10] : ['MiB', 1 << 20];
  return bytes < 1 << 10 ? `${bytes} bytes` : `${+(bytes / by).toFixed(1)} ${unit}`;
}

function isLink(file: string): boolean {
  try {
    return lstatSync(file, { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
  } catch {
    return false;
  }
}

/** What stands at a path, for messages. */
export function kindOf(found: Stats): string {
  if (found.isFile()) return 'a regular file';
  if (found.isDirectory()) return 'a directory';
  if (found.isSymbolicLink()) return 'a symbolic link';
  if (found.isSocket()) return 'a socket';
  if (found.isFIFO()) return 'a named pipe';
  return found.isBlockDevice() ? 'a block device' : 'a character device';
}

/** The content of a file that the kernel always has, as text. Throws HT_KERNEL where it cannot be read. */
export function readKernelFile(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch (e) {
    throw fileError(e, 'cannot be read', file);
  }
}

/** The content of a file of the kernel or the firmware; undefined where these, or our rights, do not have it. */
export function readIfThere(file: string): Buffer | undefined {
  try {
    return readFileSync(file);
  } catch {
    return undefined;
  }
}

/** The same as text without white space around it. */
export const textIfThere = (file: string): string | undefined => readIfThere(file)?.toString('utf8').trim();

/**
 * Makes a directory and its parents. (Node's own `recursive: true` runs in an endless loop where a parent says ENOENT,
 * as /proc does: seen with Node 20.) Throws HT_NO_SPACE and HT_KERNEL.
 */
export function makeDirectory(dir: string, mode = 0o755): void {
  try {
    makeWithParents(dir, mode);
  } catch (e) {
    throw fileError(e, 'the directory cannot be made', dir);
  }
}

function makeWithParents(dir: string, mode: number): void {
  if (isDirectory(dir)) return;
  try {
    mkdirSync(dir, mode);
  } catch (e) {
    const parent = path.dirname(dir);
    if (errnoCode(e) === 'EEXIST' && isDirectory(dir)) return; // another process was faster
    // a parent that is there already has no room for children: asking again would not end
    if (errnoCode(e) !== 'ENOENT' || parent === dir || isDirectory(parent)) throw e;
    makeWithParents(parent, mode);
    makeWithParents(dir, mode);
  }
}

function isDirectory(dir: string): boolean {
  return statSync(dir, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

export interface ReplaceOptions {
  /** Permission bits of the new file. */
  mode?: number;
  /** Permission bits of the directories that are made for it. */
  directoryMode?: number;
  /** Waits until the content is on the disk: for what must survive a loss of power. */
  sync?: boolean;
  /** What cannot be done, for the error. */
  what?: string;
  /** Where the new content waits, on the same file system; default: beside the file, for directories of our own. */
  staging?: string;
}

/**
 * Writes a file as a whole: anyone who reads sees the old content or the new, also when this process is killed. Makes its
 * directory. When it fails the old file is as it was and nothing is left beside it. Throws HT_NO_SPACE and HT_KERNEL.
 */
export function replaceFile(file: string, content: string | Uint8Array, o: ReplaceOptions = {}): void {
  stageFile(file, content, o).commit();
}

/**
 * The first half of replaceFile: the new content is beside the file, which is as it was. `commit` puts it in force. Both throw
 * as replaceFile does, with nothing left.
 */
export function stageFile(
  file: string,
  content: string | Uint8Array,
  o: ReplaceOptions = {},
): { commit: () => void; discard: () => void } {
  const fresh = o.staging ?? `${file}.new`;
  const discard = (): void => {
    try {
      rmSync(fresh, { force: true });
    } catch {
      // what made it go away is the failure to tell
    }
  };
  const orDiscard = (work: () => void): void => {
    try {
      work();
    } catch (e) {
      discard();
      throw e instanceof HyperturtleError ? e : fileError(e, o.what ?? 'cannot be written', file);
    }
  };
  orDiscard(() => {
    makeDirectory(path.dirname(file), o.directoryMode ?? 0o755);
    // what a killed writer left, or somebody put there: a link or a pipe of that name is not written to
    rmSync(fresh, { force: true });
    const fd = openSync(fresh, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, o.mode ?? 0o644);
    try {
      writeFileSync(fd, content);
      if (o.sync) fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  });
  const commit = (): void =>
    orDiscard(() => {
      renameSync(fresh, file);
      if (o.sync) syncDirectory(path.dirname(file));
    });
  return { commit, discard };
}

/** Writes a file that an option names, also a device or a pipe. Throws HT_NO_SPACE and HT_KERNEL. */
export function writeOutput(file: string, content: string | Uint8Array): void {
  try {
    writeFileSync(file, content);
  } catch (e) {
    throw fileError(e, 'cannot be written', file);
  }
}

/** Whether writeOutput could do so, before the work whose result is to be written. Throws HT_KERNEL. */
export function checkOutput(file: string | undefined): void {
  if (file === undefined) return;
  try {
    const there = statSync(file, { throwIfNoEntry: false });
    // a pipe would be at its end for the one that reads it
    if (there?.isFIFO()) return;
    if (there) return closeSync(openSync(file, constants.O_WRONLY | constants.O_NONBLOCK));
    const place = isLink(file) ? path.resolve(path.dirname(file), readlinkSync(file)) : file;
    // made here, or not removed
    closeSync(openSync(place, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL));
    rmSync(place, { force: true });
  } catch (e) {
    throw fileError(e, 'cannot be written', file);
  }
}

function syncDirectory(dir: string): void {
  const fd = openSync(dir, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
