/**
 * What a virtio port does, without a guest: bytes go between the daemon, which connects to one socket, and the test in
 * the place of the agent, which connects to the other. They are lost while the daemon is not connected.
 */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import net from 'node:net';

export class PortRelay {
  readonly #servers: net.Server[] = [];
  readonly #ends: (net.Socket | undefined)[] = [undefined, undefined];

  static async listen(hostPath: string, guestPath: string): Promise<PortRelay> {
    const relay = new PortRelay();
    for (const [i, path] of [hostPath, guestPath].entries()) {
      rmSync(path, { force: true });
      const server = net.createServer((socket) => {
        relay.#ends[i] = socket;
        socket.on('error', () => {});
        socket.on('data', (bytes) => relay.#ends[1 - i]?.write(bytes));
        socket.on('close', () => {
          if (relay.#ends[i] === socket) relay.#ends[i] = undefined;
        });
      });
      relay.#servers.push(server);
      server.listen(path);
      await once(server, 'listening');
    }
    return relay;
  }

  close(): void {
    for (const s of this.#ends) s?.destroy();
    for (const s of this.#servers) s.close();
  }
}
