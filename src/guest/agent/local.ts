/**
 * The agent's socket for this machine's command line: a unix socket that only root may open, one RpcPeer for each
 * connection. Owns the socket file; an abandoned one is replaced, one with a living agent behind it is not.
 */
import net from 'node:net';
import { listenAt } from '../../core/sockets.ts';
import type { ServedMethods } from '../../wire/handlers.ts';
import { RpcPeer } from '../../wire/peer.ts';
import type { WireLog } from '../../wire/peer.ts';

const MAX_CONNECTIONS = 64;

export class LocalServer implements AsyncDisposable {
  readonly #server: net.Server;
  readonly #peers = new Set<RpcPeer<Record<never, never>>>();

  private constructor(server: net.Server) {
    this.#server = server;
  }

  /** Throws HT_BUSY when another agent listens there, and what listenAt throws. */
  static async listen(
    socketPath: string,
    methods: ServedMethods,
    log: WireLog,
    signal: AbortSignal,
  ): Promise<LocalServer> {
    const server = net.createServer({ allowHalfOpen: false });
    const local = new LocalServer(server);
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
    await listenAt(server, socketPath, { signal, taken: agentRuns(socketPath) });
    return local;
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const peer of this.#peers) peer.close();
    await closed; // and with it the socket's name has gone
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

export const agentRuns = (socketPath: string): string =>
  `${socketPath}: an agent is running already: stop it first, or give this one another socket`;
