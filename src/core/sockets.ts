/**
 * Unix sockets with a name in the file system: connecting, and listening where an abandoned one may be left of a process that
 * died. Nothing but such a socket is ever removed. All of src/ comes here, for what Node does not say: a name that is too
 * long for the kernel is cut off in silence, and the socket is then somewhere else.
 */
import { chmodSync, lstatSync, rmSync } from 'node:fs';
import type { Stats } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { HyperturtleError, errnoCode } from './errors.ts';
import { fileError, kindOf, makeDirectory } from './files.ts';

/** sun_path has 108 bytes (include/uapi/linux/un.h), with the NUL. */
const SOCKET_PATH_BYTES = 107;
export const SOCKET_PATH_LIMIT = `at most ${SOCKET_PATH_BYTES} bytes for a socket`;

export const isSocketPath = (socketPath: string): boolean =>
  socketPath.length > 0 && Buffer.byteLength(socketPath) <= SOCKET_PATH_BYTES && !socketPath.includes('\0');

/** Throws HT_USAGE for a path that no socket can have. */
export function checkSocketPath(socketPath: string): void {
  if (isSocketPath(socketPath)) return;
  const bytes = Buffer.byteLength(socketPath);
  throw new HyperturtleError(
    'HT_USAGE',
    bytes > SOCKET_PATH_BYTES
      ? `${socketPath}: ${SOCKET_PATH_LIMIT} expected, as the kernel has it, ${bytes} found: choose a shorter path`
      : `'${socketPath.replaceAll('\0', '\\0')}': the path of a socket expected`,
  );
}

/** Begins to connect: 'connect' or 'error' follows. Throws HT_USAGE. */
export function dial(socketPath: string): net.Socket {
  checkSocketPath(socketPath);
  return net.connect({ path: socketPath });
}

/**
 * Connects. Throws HT_NOT_FOUND without the file, HT_CHANNEL when nobody listens or it is no socket, HT_USAGE, or the signal's
 * reason; then nothing is left of it.
 */
export function connectSocket(socketPath: string, signal: AbortSignal): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const socket = dial(socketPath);
    const settle = (): void => {
      signal.removeEventListener('abort', onAbort);
      socket.off('error', onError);
    };
    const onAbort = (): void => {
      settle();
      socket.on('error', () => {});
      socket.destroy();
      reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'));
    };
    const onError = (e: Error): void => {
      settle();
      reject(connectError(socketPath, e));
    };
    signal.addEventListener('abort', onAbort, { once: true });
    socket.once('error', onError);
    socket.once('connect', () => {
      settle();
      resolve(socket);
    });
  });
}

/** What kept connectSocket from connecting, without the path, for a sentence that has it already. */
export function whyNot(socketPath: string, e: Error): string {
  const at = `${socketPath}: `;
  return e.message.startsWith(at) ? e.message.slice(at.length) : 'it is not there';
}

function connectError(socketPath: string, e: Error): Error {
  const channel = (why: string): HyperturtleError =>
    new HyperturtleError('HT_CHANNEL', `${socketPath}: ${why}`, { cause: e });
  switch (errnoCode(e)) {
    case 'ENOENT':
      return new HyperturtleError('HT_NOT_FOUND', `${socketPath} is not there`, { cause: e });
    case 'EACCES':
    case 'EPERM':
      return channel('no permission: run as root');
    // connect() says so of whatever is no socket, too (unix_find_bsd, net/unix/af_unix.c, 6.1)
    case 'ECONNREFUSED': {
      const found = lstatSync(socketPath, { throwIfNoEntry: false });
      return channel(
        found === undefined || found.isSocket() || found.isSymbolicLink()
          ? 'nobody listens there'
          : `a socket expected, ${kindOf(found)} found`,
      );
    }
    case 'EPROTOTYPE':
      return channel('a stream socket expected, one of datagrams found');
    case undefined:
      return e;
    default:
      return fileError(e, 'cannot be connected to', socketPath);
  }
}

export interface ListenSpec {
  signal: AbortSignal;
  /** Permission bits; nobody else may connect before they are set. */
  mode?: number;
  /** The message of HT_BUSY. */
  taken: string;
}

/**
 * Makes the directory, and removes a socket that nobody listens at. Throws HT_BUSY when somebody does, HT_KERNEL when something
 * else stands there, HT_USAGE, and what makeDirectory throws; then what stood there still does.
 */
export async function claimSocket(
  socketPath: string,
  o: Pick<ListenSpec, 'signal' | 'taken'>,
): Promise<void> {
  checkSocketPath(socketPath);
  makeDirectory(path.dirname(socketPath));
  const found = statOf(socketPath);
  if (found === undefined) return;
  if (!found.isSocket())
    throw new HyperturtleError(
      'HT_KERNEL',
      `${socketPath}: a socket is to be made there, ${kindOf(found)} found: choose another path, or remove it if it is of no use`,
      { detail: { path: socketPath } },
    );
  try {
    (await connectSocket(socketPath, o.signal)).destroy();
  } catch (e) {
    const code = e instanceof HyperturtleError ? e.code : undefined;
    if (code === 'HT_NOT_FOUND') return;
    // only "refused" means abandoned: without permission, say, it may have somebody behind it
    if (code !== 'HT_CHANNEL' || errnoCode((e as HyperturtleError).cause) !== 'ECONNREFUSED') throw e;
    // another process may have made its own of the same name meanwhile
    const now = statOf(socketPath);
    if (now?.ino === found.ino && now.ctimeMs === found.ctimeMs) removeFile(socketPath);
    return;
  }
  throw new HyperturtleError('HT_BUSY', o.taken);
}

/** Listens with a mode that lets only the owner connect, from the first moment on. Throws as claimSocket does. */
export async function listenAt(server: net.Server, socketPath: string, o: ListenSpec): Promise<void> {
  await claimSocket(socketPath, o);
  await listening(server, () => {
    const before = process.umask(0o177);
    try {
      server.listen(socketPath); // binds at once, so with this mask
    } finally {
      process.umask(before);
    }
  }).catch((e: unknown) => {
    if (errnoCode(e) === 'EADDRINUSE') throw new HyperturtleError('HT_BUSY', o.taken, { cause: e });
    throw fileError(e, 'the socket cannot be made', socketPath);
  });
  chmodSync(socketPath, o.mode ?? 0o600);
}

/** Held until it is released or the process ends, however it does. */
export interface Held {
  release: () => Promise<void>;
}

/** A server that is there to be listened at, and keeps no process alive. */
export const lockServer = (): net.Server => net.createServer((socket) => socket.destroy()).unref();

export const heldBy = (server: net.Server): Held => ({
  release: () => new Promise((resolve) => server.close(() => resolve())),
});

/** A lock by the name of a socket: of a process that died it is an abandoned one. Throws as listenAt does. */
export async function holdSocket(socketPath: string, o: ListenSpec): Promise<Held> {
  const server = lockServer();
  await listenAt(server, socketPath, o);
  return heldBy(server);
}

/** Settles when the server listens, or with its error. */
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

function statOf(file: string): Stats | undefined {
  try {
    return lstatSync(file, { throwIfNoEntry: false });
  } catch (e) {
    throw fileError(e, 'cannot be looked at', file);
  }
}

function removeFile(file: string): void {
  try {
    rmSync(file, { force: true });
  } catch (e) {
    throw fileError(e, 'cannot be removed', file);
  }
}
