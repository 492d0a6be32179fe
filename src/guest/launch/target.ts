/** What the supervisor asks /proc about the VMM: all of it may be gone or changed, so answers are checked where they count. */
import { closeSync, openSync, readFileSync, readdirSync, readlinkSync, fstatSync, statSync } from 'node:fs';
import { OwnedFd } from '../../bpf/fds.ts';
import { ASKED } from '../../kernel/seccomp.ts';
import { ramKindOf } from './ram-file.ts';

/** The process of a thread; undefined when it has gone. */
export function processOf(tid: number): number | undefined {
  const text = statusOf(tid);
  const found = text && /^Tgid:\s*(\d+)$/m.exec(text)?.[1];
  return found === undefined || found === '' ? undefined : Number(found);
}

function statusOf(tid: number): string | undefined {
  try {
    return readFileSync(`/proc/${tid}/status`, 'utf8');
  } catch {
    return undefined;
  }
}

/** How many filters a thread has; undefined on kernels that do not tell (before 5.9). */
export function filterCount(tid: number | 'thread-self'): number | undefined {
  const found = /^Seccomp_filters:\s*(\d+)$/m.exec(readFileSync(`/proc/${tid}/status`, 'utf8'))?.[1];
  return found === undefined ? undefined : Number(found);
}

/** Whether it has a virtual machine, or is about to. */
export function usesKvm(pid: number): boolean {
  return fdsOf(pid).some((fd) => {
    const to = linkOf(pid, fd);
    return to === '/dev/kvm' || to === 'anon_inode:kvm-vm';
  });
}

/** `pid` of what follows: of a process, or of a thread, which may have descriptors of its own. */
export function fdsOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map(Number);
  } catch {
    return [];
  }
}

export function linkOf(pid: number, fd: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`);
  } catch {
    return undefined;
  }
}

/** Whether exec closes it. */
export function closesOnExec(pid: number, fd: number): boolean {
  const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))?.[1] ?? '0';
  return (parseInt(flags, 8) & 0o2000000) !== 0;
}

/** Whether another descriptor or a mapping of the process has the same file. */
export function hasElsewhere(pid: number, fd: number): boolean {
  const same = statSync(`/proc/${pid}/fd/${fd}`);
  for (const other of fdsOf(pid)) {
    if (other === fd) continue;
    try {
      const stat = statSync(`/proc/${pid}/fd/${other}`);
      if (stat.ino === same.ino && stat.dev === same.dev) return true;
    } catch {
      // closed meanwhile
    }
  }
  return mappingsOf(pid).some((m) => m.ino === same.ino && m.name.startsWith('/memfd:'));
}

export interface Mapping {
  start: number;
  end: number;
  offset: number;
  /** As /proc has it: `00:2d`. */
  device: string;
  ino: number;
  name: string;
}

const LINE = /^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) (\S+) (\d+) *(.*)$/;

/** Pure. */
export function parseMappings(maps: string): Mapping[] {
  return maps.split('\n').flatMap((line) => {
    const [, start, end, offset, device, ino, name] = LINE.exec(line) ?? [];
    if (start === undefined || end === undefined || offset === undefined || device === undefined) return [];
    const [from, to, at] = [start, end, offset].map((n) => parseInt(n, 16)) as [number, number, number];
    return [{ start: from, end: to, offset: at, device, ino: Number(ino), name: name ?? '' }];
  });
}

/** Whether any of it is locked in memory (mlock). */
export function lockedIn(pid: number, range: { start: number; end: number }): boolean {
  if (!/^VmLck:\s*[1-9]/m.test(statusOf(pid) ?? '')) return false;
  const smaps = readFileSync(`/proc/${pid}/smaps`, 'utf8');
  return smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m).some((one) => {
    const [m] = parseMappings(one);
    return m !== undefined && m.start < range.end && range.start < m.end && /^VmFlags:.* lo( |$)/m.test(one);
  });
}

function mappingsOf(pid: number): Mapping[] {
  try {
    return parseMappings(readFileSync(`/proc/${pid}/maps`, 'utf8'));
  } catch {
    return [];
  }
}

/** Mappings that stand for private anonymous memory. `device`: st_dev of turtlefs. */
export function privateRam(pid: number, device: number): Mapping[] {
  // as the kernel makes st_dev of 12 and 20 bits (new_encode_dev)
  const major = (device >> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >> 12) & 0xfff00);
  const name = `${major.toString(16).padStart(2, '0')}:${minor.toString(16).padStart(2, '0')}`;
  return mappingsOf(pid).filter((m) => {
    if (m.device !== name) return false;
    const file = openMapping(pid, m, device);
    file?.close();
    return file !== undefined;
  });
}

/** The file of exactly this mapping if it still stands for private memory; undefined: the mapping is another one now. */
export function openMapping(pid: number, m: Mapping, device: number): OwnedFd | undefined {
  const path = `/proc/${pid}/map_files/${m.start.toString(16)}-${m.end.toString(16)}`;
  let fd: number;
  try {
    fd = openSync(path, 'r+');
  } catch {
    return undefined;
  }
  if (ramKindOf(fstatSync(fd), device) === 'private') return new OwnedFd(fd, path);
  closeSync(fd);
  return undefined;
}

/** Whether this process may open files that others have mapped: only root can (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE). */
export function mayOpenMappings(): boolean {
  const [mapped] = mappingsOf(process.pid).filter((m) => m.name.startsWith('/'));
  if (mapped === undefined) return false;
  try {
    closeSync(openSync(`/proc/self/map_files/${mapped.start.toString(16)}-${mapped.end.toString(16)}`, 'r'));
    return true;
  } catch {
    return false;
  }
}

/** Threads of any process that wait in a call of those that are asked about, and have a filter. */
export function waitingThreads(): number[] {
  const numbers = new Set<string>(Object.values(ASKED).map(String));
  const found: number[] = [];
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    for (const tid of tasksOf(pid)) {
      try {
        const [call = ''] = readFileSync(`/proc/${pid}/task/${tid}/syscall`, 'utf8').split(' ');
        if (numbers.has(call) && /^Seccomp:\s*2$/m.test(statusOf(Number(tid)) ?? '')) found.push(Number(tid));
      } catch {
        // gone
      }
    }
  }
  return found;
}

function tasksOf(pid: string): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}
