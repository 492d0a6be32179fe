/**
 * The agent's socket for this machine's command line: a unix socket that only root may open, one RpcPeer for each
 * connection. Owns the socket file; an abandoned one is replaced, one with a living agent behind it is not.
 */
import { chmodSync, rmSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { makeDirectory } from '../../core/files.ts';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import type { ServedMethods } from '../../wire/handlers.ts';
import { RpcPeer } from '../../wire/peer.ts';
import type { WireLog } from '../../wire/peer.ts';
import { connectSocket } from './port.ts';

const MAX_CONNECTIONS = 64;

export class LocalServer implements AsyncDisposable {
  readonly #server: net.Server;
  readonly #peers = new Set<RpcPeer<Record<never, never>>>();
  readonly #path: string;

  private constructor(server: net.Server, socketPath: string) {
    this.#server = server;
    this.#path = socketPath;
  }

  /** Throws HT_BUSY when another agent listens there. */
  static async listen(
    socketPath: string,
    methods: ServedMethods,
    log: WireLog,
    signal: AbortSignal,
  ): Promise<LocalServer> {
    await makeWayFor(socketPath, signal);
    const server = net.createServer({ allowHalfOpen: false });
    const local = new LocalServer(server, socketPath);
    server.maxConnections = MAX_CONNECTIONS;
    server.on('connection', (socket) => {
      const peer: RpcPeer<Record<never, never>> = new RpcPeer(socket, {
        calls: {},
        methods,
        session: 'connection',
        trusted: true,
        onClose: () => local.#peers.delete(peer),
        log,
      });
      local.#peers.add(peer);
    });
    await listen(server, socketPath);
    return local;
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const peer of this.#peers) peer.close();
    await closed;
    rmSync(this.#path, { force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Makes the directory, and removes a socket that nobody listens at. */
export async function makeWayFor(
  socketPath: string,
  signal: AbortSignal,
  taken = `${socketPath}: an agent is running already: stop it first, or give this one another socket`,
): Promise<void> {
  makeDirectory(path.dirname(socketPath));
  try {
    (await connectSocket(socketPath, signal)).destroy();
  } catch (e) {
    if (isHyperturtleError(e, 'HT_NOT_FOUND')) return;
    if (!isHyperturtleError(e, 'HT_CHANNEL')) throw e;
    rmSync(socketPath, { force: true });
    return;
  }
  throw new HyperturtleError('HT_BUSY', taken);
}

/** Listens with a mode that lets only the owner connect, from the first moment on. */
export async function listen(server: net.Server, socketPath: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    const before = process.umask(0o177);
    try {
      // binds at once, so with this mask
      server.listen(socketPath, () => {
        server.off('error', reject);
        resolve();
      });
    } finally {
      process.umask(before);
    }
  });
  chmodSync(socketPath, 0o600);
}
