/** Names for programs and maps that outlive this process: pins in bpffs, and the kernel's ids. */
import { rmSync, statfsSync } from 'node:fs';
import { makeDirectory } from '../core/files.ts';
import { HyperturtleError, errnoCode } from '../core/errors.ts';
import { OwnedFd } from './fds.ts';
import { failureOf, libbpf, takePrinted } from './libbpf.ts';
import { kernelError, mount } from './sys.ts';
import type { Explain } from './sys.ts';

const BPF_FS_MAGIC = 0xcafe4a11;

const EXPLAIN: Explain = {
  EEXIST: ['HT_EXISTS', 'there is such a file already'],
  ENOENT: ['HT_NOT_FOUND', 'no such file or directory'],
  EPERM: ['HT_BPF', 'not permitted, or not in a bpffs: mount one there (ensureBpffs) and run as root'],
  EACCES: ['HT_BPF', 'not permitted: run as root'],
};

/** Pins a program or map at `file`, a new name in a mounted bpffs. Throws HT_EXISTS, HT_NOT_FOUND, HT_BPF. */
export function pin(object: OwnedFd, file: string): void {
  // SAFETY: a NUL-ended path and a number go to the kernel, which checks both.
  const r = libbpf().obj_pin(object.fd, file);
  if (r < 0) throw kernelError(`pinning ${object.what} at ${file}`, failureOf(r), EXPLAIN);
}

/** A descriptor for what is pinned there. Throws HT_NOT_FOUND. */
export function openPinned(file: string): OwnedFd {
  // SAFETY: as above.
  const fd = libbpf().obj_get(file);
  if (fd < 0) throw kernelError(`pin ${file}`, failureOf(fd), EXPLAIN);
  return new OwnedFd(fd, `pin ${file}`);
}

/** Removes a pin; fine when there is none. What was pinned lives on while something else refers to it. */
export function unpin(file: string): void {
  rmSync(file, { force: true });
}

export function isBpffs(dir: string): boolean {
  try {
    return statfsSync(dir).type === BPF_FS_MAGIC;
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return false;
    throw e;
  }
}

/** Mounts a bpffs at `dir` (made when missing) unless one is there. True when it mounted. Needs CAP_SYS_ADMIN. */
export function ensureBpffs(dir: string): boolean {
  if (isBpffs(dir)) return false;
  makeDirectory(dir);
  mount('bpf', dir, 'bpf');
  if (!isBpffs(dir))
    throw new HyperturtleError('HT_KERNEL', `${dir}: a bpffs was mounted and is not there: see 'findmnt'`);
  return true;
}

/** A descriptor by the kernel's number. Needs CAP_SYS_ADMIN. Throws HT_NOT_FOUND. */
export function programById(id: number): OwnedFd {
  return byId('program', id, libbpf().prog_fd_by_id(id));
}

/** As programById. */
export function mapById(id: number): OwnedFd {
  return byId('map', id, libbpf().map_fd_by_id(id));
}

function byId(kind: string, id: number, fd: number): OwnedFd {
  if (fd < 0)
    throw kernelError(`${kind} number ${id}`, failureOf(fd), {
      ENOENT: ['HT_NOT_FOUND', `no such ${kind}`],
      EPERM: ['HT_BPF', 'not permitted: CAP_SYS_ADMIN is needed'],
    });
  takePrinted();
  return new OwnedFd(fd, `${kind} number ${id}`);
}
