/** Names for programs and maps that outlive this process: pins in bpffs, and the kernel's ids. */
import type { OwnedFd } from './fds.ts';

/** Pins a program or map at `file`, a new name in a mounted bpffs. Throws HT_EXISTS, HT_NOT_FOUND, HT_BPF. */
export function pin(object: OwnedFd, file: string): void {
  void [object, file];
  throw new Error('not implemented yet');
}

/** A descriptor for what is pinned there. Throws HT_NOT_FOUND. */
export function openPinned(file: string): OwnedFd {
  void file;
  throw new Error('not implemented yet');
}

/** Removes a pin; fine when there is none. */
export function unpin(file: string): void {
  void file;
  throw new Error('not implemented yet');
}

/** Mounts a bpffs at `dir` (made when missing) unless one is there. True when it mounted. Needs CAP_SYS_ADMIN. */
export function ensureBpffs(dir: string): boolean {
  void dir;
  throw new Error('not implemented yet');
}

/** A descriptor by the kernel's number. Needs CAP_SYS_ADMIN. Throws HT_NOT_FOUND. */
export function programById(id: number): OwnedFd {
  void id;
  throw new Error('not implemented yet');
}

export function mapById(id: number): OwnedFd {
  void id;
  throw new Error('not implemented yet');
}
