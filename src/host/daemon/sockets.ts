/** Unix sockets: listening at one of the daemon's own, where an old one may be left of a daemon that died; connecting. */
import { once } from 'node:events';
import { chmodSync, rmSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { makeDirectory } from '../../core/files.ts';
import { HyperturtleError } from '../../core/errors.ts';

/** Removes a socket that nobody listens at. Throws HT_BUSY when somebody does: another daemon. */
export async function makeWayFor(socketPath: string): Promise<void> {
  makeDirectory(path.dirname(socketPath));
  const inUse = await new Promise<boolean>((resolve) => {
    const probe = net.connect(socketPath);
    const done = (used: boolean): void => {
      probe.destroy();
      resolve(used);
    };
    probe.once('connect', () => done(true));
    probe.once('error', () => done(false));
  });
  if (inUse)
    throw new HyperturtleError(
      'HT_BUSY',
      `somebody listens at ${socketPath} already: is another daemon running? End it first`,
    );
  rmSync(socketPath, { force: true });
}

/** Only for root: mode 0600 before anybody can connect. */
export async function listenAt(server: net.Server, socketPath: string): Promise<void> {
  await makeWayFor(socketPath);
  const before = process.umask(0o177);
  try {
    await listening(server, () => server.listen(socketPath));
  } finally {
    process.umask(before);
  }
  chmodSync(socketPath, 0o600);
}

export async function listening(server: net.Server, listen: () => void): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.once('listening', () => {
      server.off('error', reject);
      resolve();
    });
    listen();
  });
}

/** Rejects with the socket's error or AbortError; then nothing is left of it. */
export async function connectTo(socketPath: string, signal: AbortSignal): Promise<net.Socket> {
  const socket = net.connect(socketPath);
  try {
    await once(socket, 'connect', { signal });
    return socket;
  } catch (e) {
    socket.on('error', () => {});
    socket.destroy();
    throw e;
  }
}
