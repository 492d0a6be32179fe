/** That an agent is alone with its state directory and its port: two would undo each other's work, or wait for ever. */
import { readdirSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { HyperturtleError } from '../../core/errors.ts';
import { listen, makeWayFor } from './local.ts';

/**
 * Holds the directory until the process ends, however it does: a socket that nobody listens at is an abandoned one.
 * Throws HT_BUSY when another agent holds it.
 */
export async function holdState(dir: string, signal: AbortSignal): Promise<{ release: () => Promise<void> }> {
  const file = path.join(dir, 'agent.lock');
  await makeWayFor(
    file,
    signal,
    `${dir}: another agent keeps its state there: stop it first, or give this one --state`,
  );
  const server = net.createServer((socket) => socket.destroy());
  await listen(server, file);
  server.unref();
  return { release: () => new Promise((resolve) => server.close(() => resolve())) };
}

/** Throws HT_BUSY when another process has the device open; a unix socket is not looked at. */
export function checkPortFree(port: string, proc = '/proc'): void {
  let device: string;
  try {
    device = realpathSync(port);
    if (!statSync(device).isCharacterDevice()) return;
  } catch {
    return; // not there yet: it is waited for
  }
  const pid = openerOf(device, proc);
  if (pid !== undefined)
    throw new HyperturtleError(
      'HT_BUSY',
      `${port}: process ${pid} has it open, and only one agent may: stop that one first, or give this one --port`,
    );
}

function openerOf(device: string, proc: string): string | undefined {
  return readdirSync(proc).find((pid) => {
    if (!/^\d+$/.test(pid) || pid === String(process.pid)) return false;
    try {
      const dir = path.join(proc, pid, 'fd');
      return readdirSync(dir).some((fd) => readlinkSync(path.join(dir, fd)) === device);
    } catch {
      return false; // it has ended, or is not ours to look at
    }
  });
}
