/**
 * Which QEMU listens on a QMP socket: the process that holds the listening socket and runs a KVM VM. Found through
 * /proc, so that the one client that a QMP socket serves at a time need not be us.
 */
import { readFileSync, readlinkSync, realpathSync } from 'node:fs';
import path from 'node:path';
import { fdsLinkingTo, hasVm, processes } from '../bpf/kvm.ts';
import { errnoCode, HyperturtleError, isHyperturtleError } from '../core/errors.ts';

interface BoundSocket {
  inode: string;
  /** As given to bind(): may be relative to the process's directory. */
  bound: string;
}

/** Lines of /proc/net/unix that listen (flag SO_ACCEPTCON) on a path. */
export function parseListening(procNetUnix: string): BoundSocket[] {
  const found: BoundSocket[] = [];
  for (const line of procNetUnix.split('\n').slice(1)) {
    const m = /^\S+ \S+ \S+ (\S+) \S+ \S+ +(\d+) (.+)$/.exec(line);
    if (m?.[1] === '00010000' && m[2] && m[3] && !m[3].startsWith('@'))
      found.push({ inode: m[2], bound: m[3] });
  }
  return found;
}

/**
 * Processes that hold the socket which listens at `socketPath`, among those that this user may look at; none when nothing listens
 * there. Throws HT_KERNEL when it is held by none of these, and there are others.
 */
export function listenersOf(socketPath: string): number[] {
  const wanted = realPath(socketPath);
  const sockets = parseListening(readFileSync('/proc/net/unix', 'utf8')).filter(
    (s) => path.basename(s.bound) === path.basename(wanted),
  );
  const holders: number[] = [];
  let hidden: HyperturtleError | undefined;
  for (const pid of sockets.length === 0 ? [] : processes()) {
    try {
      for (const s of sockets) {
        if (fdsLinkingTo(pid, (t) => t === `socket:[${s.inode}]`).length === 0) continue;
        if (realPath(path.resolve(directoryOf(pid), s.bound)) === wanted) holders.push(pid);
      }
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_KERNEL')) throw e;
      hidden ??= e;
    }
  }
  if (holders.length === 0 && hidden !== undefined) throw hidden;
  return holders;
}

/** Process id of the QEMU behind a QMP socket. Throws HT_NOT_FOUND, or HT_BUSY when there are several. */
export function qemuBehind(socketPath: string): number {
  const holders = listenersOf(socketPath);
  const [pid, other] = holders.filter(hasVm);
  if (pid === undefined)
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      holders.length > 0
        ? `process ${holders.join(', ')} listens on ${socketPath} but runs no KVM VM: a QEMU with -accel kvm expected`
        : `no process listens on ${socketPath}: give the QMP socket of a running QEMU, or --pid`,
    );
  if (other !== undefined)
    throw new HyperturtleError(
      'HT_BUSY',
      `processes ${pid} and ${other} both listen on ${socketPath} and run VMs: say which with --pid`,
    );
  return pid;
}

function realPath(p: string): string {
  try {
    return realpathSync(p);
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return path.resolve(p);
    throw e;
  }
}

function directoryOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return '/';
  }
}
