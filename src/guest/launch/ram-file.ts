/** Files of turtlefs without a name that stand for a VMM's memory, and how the supervisor knows them again. */
import { closeSync, fchmodSync, fstatSync, ftruncateSync, openSync, statSync, statfsSync } from 'node:fs';
import type { Stats } from 'node:fs';
import { OwnedFd } from '../../bpf/fds.ts';
import { HyperturtleError, errnoCode } from '../../core/errors.ts';

/** What the VMM asked for; the file's mode says so to anyone who finds it later. */
export type RamKind = 'private' | 'shared' | 'memfd';

const MODES: Readonly<Record<RamKind, number>> = { private: 0o1600, shared: 0o1400, memfd: 0o600 };
const TURTLEFS_MAGIC = 0x7475_726c;
const O_TMPFILE = 0o20200000;
const O_RDWR = 2;

/**
 * A file of `bytes` in `dir`, which is gone with the last that has it open or mapped. Throws HT_NO_SPACE when the page
 * index has no room for it: it would be memory as any other.
 */
export function makeRamFile(dir: string, bytes: number, kind: RamKind): OwnedFd {
  const room = statfsSync(dir);
  if (room.type === TURTLEFS_MAGIC && room.bavail * room.bsize < bytes)
    throw new HyperturtleError(
      'HT_NO_SPACE',
      `${dir}: room for ${(room.bavail * room.bsize) >> 20} MiB in the page index: a larger arena is needed (arenaMib), or guests must end`,
    );
  const file = new OwnedFd(openTemporary(dir), `RAM of ${bytes >> 20} MiB`);
  try {
    fchmodSync(file.fd, MODES[kind]);
    ftruncateSync(file.fd, bytes);
    return file;
  } catch (e) {
    file.close();
    throw e;
  }
}

function openTemporary(dir: string): number {
  try {
    return openSync(dir, O_TMPFILE | O_RDWR, 0o600);
  } catch (e) {
    if (['EOPNOTSUPP', 'ENOTSUP', 'EISDIR'].includes(errnoCode(e) ?? ''))
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        `${dir} has no files without a name (O_TMPFILE): load the guest module of this version`,
        { cause: e },
      );
    throw e;
  }
}

/** Throws what can be said before a VMM is started. */
export function tryRamDir(dir: string): void {
  closeSync(openTemporary(dir));
}

/** What a file of `device` stands for; undefined: it is on another file system. */
export function ramKindOf(stat: Stats, device: number): RamKind | undefined {
  if (stat.dev !== device || !stat.isFile()) return undefined;
  const mode = stat.mode & 0o7777;
  return mode === MODES.private ? 'private' : mode === MODES.shared ? 'shared' : 'memfd';
}

/** The same of descriptor `fd` of a process, or of this one. */
export function ramKindAt(pid: number | 'self', fd: number, device: number): RamKind | undefined {
  try {
    return ramKindOf(pid === 'self' ? fstatSync(fd) : statSync(`/proc/${pid}/fd/${fd}`), device);
  } catch {
    return undefined; // closed, or the process has gone
  }
}
