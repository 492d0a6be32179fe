/** That an agent is alone with its state directory and its port: two would undo each other's work, or wait forever. */
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import type { Stats } from 'node:fs';
import path from 'node:path';
import { HyperturtleError, errnoCode } from '../../core/errors.ts';
import { kindOf } from '../../core/files.ts';
import { checkSocketPath, heldBy, holdSocket, listening, lockServer } from '../../core/sockets.ts';
import type { Held } from '../../core/sockets.ts';
import { lockOf } from './config.ts';

/**
 * Holds the directory until the process ends, however it does: a socket that nobody listens at is an abandoned one.
 * Throws HT_BUSY when another agent holds it, and what holdSocket throws.
 */
export function holdState(dir: string, signal: AbortSignal): Promise<Held> {
  return holdSocket(lockOf(dir), {
    signal,
    taken: `${dir}: another agent keeps its state there: stop it first, or give this one --state`,
  });
}

/**
 * Holds the port, whether it is there yet or not, until the process ends: by a socket in abstract space, as nothing may be written beside
 * a device or a socket of the host's. Throws HT_BUSY when another agent has it, HT_KERNEL and HT_USAGE when it can be none.
 */
export async function holdPort(port: string, proc = '/proc'): Promise<Held> {
  checkPort(port, proc);
  const name = portName(port);
  const server = lockServer();
  try {
    await listening(server, () => server.listen(`\0${name}`));
  } catch (e) {
    if (errnoCode(e) !== 'EADDRINUSE') throw e;
    const pid = holderOf(name, proc);
    // names in abstract space are anybody's: a user without rights must not keep the agent from starting
    if (!mayBeAgent(pid, proc)) return { release: () => Promise.resolve() };
    throw inUse(port, pid === undefined ? 'another agent has it' : `process ${pid} has it`);
  }
  return heldBy(server);
}

/** The lock of a port in abstract space, the same for all names of one port. */
export function portName(port: string): string {
  let real = path.resolve(port);
  try {
    real = realpathSync(port);
  } catch {
    // not there yet
  }
  return `hyperturtle-agent-port-${createHash('sha256').update(real).digest('hex').slice(0, 32)}`;
}

function holderOf(name: string, proc: string): string | undefined {
  // Node's older releases bind it with the zeros behind it, which the kernel shows so as well
  const whole = new RegExp(` @${name}@*$`);
  const line = readFileSync(path.join(proc, 'net/unix'), 'latin1')
    .split('\n')
    .find((l) => whole.test(l));
  const inode = line?.trim().split(/\s+/)[6];
  return inode === undefined ? undefined : openersOf(`socket:[${inode}]`, proc)[0];
}

/**
 * A process of root's or of our own user. A user may also send a socket to one that never receives it; root sees all
 * processes, so what it does not find is no agent. A program with root's rights that a user has keep the name is taken for
 * one: two agents at one port would do more harm.
 */
function mayBeAgent(pid: string | undefined, proc: string): boolean {
  const own = process.getuid?.();
  if (pid === undefined) return own !== 0;
  const dir = path.join(proc, pid);
  const uid = statSync(dir, { throwIfNoEntry: false })?.uid;
  return uid === undefined || uid === 0 || uid === own;
}

function inUse(port: string, who: string): HyperturtleError {
  return new HyperturtleError(
    'HT_BUSY',
    `${port}: ${who} open, and only one agent may: stop that one first, or give this one --port`,
  );
}

/** A port that is not there yet is waited for. */
function checkPort(port: string, proc: string): void {
  let device: string;
  let found: Stats;
  try {
    device = realpathSync(port);
    found = statSync(device);
  } catch {
    return;
  }
  if (found.isSocket()) return checkSocketPath(port);
  if (!found.isCharacterDevice())
    throw new HyperturtleError(
      'HT_KERNEL',
      `${port}: a virtio-serial port or a unix socket expected, ${kindOf(found)} found: give another --port`,
    );
  const pid = openersOf(device, proc).find((p) => p !== String(process.pid));
  if (pid !== undefined) throw inUse(port, `process ${pid} has it`);
}

function openersOf(device: string, proc: string): string[] {
  return readdirSync(proc).filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const dir = path.join(proc, pid, 'fd');
      return readdirSync(dir).some((fd) => readlinkSync(path.join(dir, fd)) === device);
    } catch {
      return false; // it has ended, or is not ours to read
    }
  });
}
