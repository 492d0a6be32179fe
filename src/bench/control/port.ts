/** One VM's port without a VM: the unix socket at which its QEMU would listen, and an agent's peer behind it. */
import net from 'node:net';
import { randomUUID } from 'node:crypto';
import { checkSocketPath } from '../../core/sockets.ts';
import { waitFor } from '../../core/wait.ts';
import { hello } from '../../wire/hello.ts';
import { RpcPeer } from '../../wire/peer.ts';
import { METHODS } from '../../wire/schema.ts';

const CONNECT_TIMEOUT_MS = 20_000;

export class Port {
  readonly #server: net.Server;
  readonly #bootId = randomUUID();
  #socket: net.Socket | undefined;

  private constructor(server: net.Server) {
    this.#server = server;
  }

  static async listen(path: string): Promise<Port> {
    const server = net.createServer({ pauseOnConnect: true });
    const port = new Port(server);
    server.on('connection', (socket) => {
      // the daemon makes one connection at a time
      port.#socket?.destroy();
      port.#socket = socket;
      socket.on('error', () => {});
      socket.on('close', () => {
        if (port.#socket === socket) port.#socket = undefined;
      });
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      checkSocketPath(path);
      server.listen(path, resolve);
    });
    return port;
  }

  /** The daemon's connection; with `fresh` it is cut, and the next one awaited. Throws HT_TIMEOUT. */
  connection(options: { fresh: boolean }, signal?: AbortSignal): Promise<net.Socket> {
    if (options.fresh) {
      this.#socket?.destroy();
      this.#socket = undefined;
    }
    return waitFor('connection of the daemon', () => this.#socket, {
      timeoutMs: CONNECT_TIMEOUT_MS,
      intervalMs: 10,
      signal,
    });
  }

  /** A session over a fresh connection. */
  async session(signal?: AbortSignal): Promise<RpcPeer<typeof METHODS>> {
    const peer = new RpcPeer(await this.connection({ fresh: true }, signal), { calls: METHODS });
    await hello(
      peer,
      { agent: { version: 'bench', kernel: 'none' }, bootId: this.#bootId },
      signal ? { signal } : {},
    );
    return peer;
  }

  close(): void {
    this.#socket?.destroy();
    this.#server.close();
  }
}
