/**
 * The way of a VM's state between its QEMU and the command that saves or restores it: the command connects here, and QEMU is
 * handed the connection itself. So no byte of it passes through the daemon, which may write nowhere, and no shell is run.
 */
import net from 'node:net';
import { rmSync } from 'node:fs';
import path from 'node:path';
import { sendWithFds } from '../../bpf/fd-passing.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { listenAt } from '../../core/sockets.ts';
import { withDeadline } from '../../core/wait.ts';
import type { QmpClient } from '../../qmp/client.ts';

/** Always the same: QEMU closes one that was left under it. */
const FD_NAME = 'hyperturtle-state';
const CONNECT_MS = 30_000;

export class StateSocket implements Disposable {
  readonly path: string;
  readonly #server: net.Server;
  readonly #connected: Promise<net.Socket>;
  #socket: net.Socket | undefined;

  private constructor(socketPath: string, server: net.Server, connected: Promise<net.Socket>) {
    this.path = socketPath;
    this.#server = server;
    this.#connected = connected;
  }

  static async listen(run: string, vm: string): Promise<StateSocket> {
    const socketPath = path.join(run, 'vms', vm, 'state.sock');
    const server = net.createServer({ pauseOnConnect: true });
    const connected = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
    const signal = AbortSignal.timeout(10_000);
    await listenAt(server, socketPath, { signal, taken: `somebody listens at ${socketPath}` });
    return new StateSocket(socketPath, server, connected);
  }

  /** QEMU's name for the connection: `fd:...`. It is QEMU's alone then. Throws HT_TIMEOUT when no command connects. */
  async giveTo(qmp: QmpClient, signal: AbortSignal): Promise<string> {
    const socket = await withDeadline('the command connecting', this.#connected, CONNECT_MS, signal);
    this.#socket = socket;
    socket.on('error', () => {});
    const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd;
    if (fd === undefined || fd < 0)
      throw new HyperturtleError('HT_CHANNEL', 'the command has closed its connection');
    await qmp.giveFd(FD_NAME, (to, what, bytes) => sendWithFds(to, what, bytes, [fd]));
    socket.destroy();
    return `fd:${FD_NAME}`;
  }

  [Symbol.dispose](): void {
    this.#socket?.destroy();
    void this.#connected.then((socket) => socket.destroy());
    this.#server.close();
    rmSync(this.path, { force: true });
  }
}
