/** The plugin's end of the API: a gRPC server at a unix socket, which it owns from listening until it is closed. */
import { chmodSync, lstatSync } from 'node:fs';
import { Server, ServerCredentials, status } from '@grpc/grpc-js';
import type { ServerUnaryCall, ServerWritableStream, sendUnaryData } from '@grpc/grpc-js';
import { isHyperturtleError, messageOf } from '../../core/errors.ts';
import type { ErrorCode } from '../../core/errors.ts';
import { fileError } from '../../core/files.ts';
import { ChildAbort } from '../../core/lifecycle.ts';
import { claimSocket } from '../../core/sockets.ts';
import { serviceOf } from './api.ts';
import type { ContainerRequest, ListAndWatchResponse, PreferredAllocationRequest } from './api.ts';
import { OPTIONS } from './service.ts';
import type { NicService } from './service.ts';

const STATUS: Partial<Record<ErrorCode, status>> = {
  HT_USAGE: status.INVALID_ARGUMENT,
  HT_NOT_FOUND: status.NOT_FOUND,
  HT_IN_USE: status.FAILED_PRECONDITION,
  HT_UNAVAILABLE: status.UNAVAILABLE,
  HT_TIMEOUT: status.DEADLINE_EXCEEDED,
};

interface Requests<T> {
  container_requests: T[];
}

type Watch = ServerWritableStream<object, ListAndWatchResponse>;

export class PluginServer {
  readonly #server: Server;
  readonly #service: NicService;
  readonly #socket: string;
  /** Who watches, and whether it has still to read what it was told last. */
  readonly #watches = new Map<Watch, { full: boolean; stale: boolean }>();
  readonly #ended = new AbortController();
  #inode = 0n;

  private constructor(service: NicService, socket: string) {
    this.#service = service;
    this.#socket = socket;
    this.#server = new Server();
    this.#server.addService(serviceOf('DevicePlugin'), {
      GetDevicePluginOptions: (_: unknown, answer: sendUnaryData<typeof OPTIONS>) => answer(null, OPTIONS),
      ListAndWatch: (call: Watch) => this.#watch(call),
      GetPreferredAllocation: this.#unary((r: Requests<PreferredAllocationRequest>) => ({
        container_responses: r.container_requests.map((c) => ({ deviceIDs: service.preferred(c) })),
      })),
      Allocate: this.#unary(async (r: Requests<ContainerRequest>, signal) => ({
        container_responses: await service.allocate(r.container_requests, signal),
      })),
      PreStartContainer: this.#unary(async (r: ContainerRequest, signal) => {
        await service.preStart(r.devices_ids, signal);
        return {};
      }),
    });
  }

  /** Throws HT_BUSY when another plugin listens there, and what claimSocket throws. */
  static async listen(socket: string, service: NicService, signal: AbortSignal): Promise<PluginServer> {
    await claimSocket(socket, {
      signal,
      taken: `${socket}: another device plugin listens there: stop it first, or give this one another --resource`,
    });
    const made = new PluginServer(service, socket);
    try {
      await new Promise<void>((resolve, reject) =>
        made.#server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (e) =>
          e ? reject(fileError(e, 'the socket cannot be made', socket)) : resolve(),
        ),
      );
      chmodSync(socket, 0o600);
      made.#inode = lstatSync(socket, { bigint: true }).ino;
      return made;
    } catch (e) {
      made.close();
      throw e;
    }
  }

  /** How many watch the devices: kubelet, or nobody. */
  get watched(): number {
    return this.#watches.size;
  }

  /** False when somebody removed the socket, as kubelet does when it starts. */
  get reachable(): boolean {
    try {
      return lstatSync(this.#socket, { bigint: true, throwIfNoEntry: false })?.ino === this.#inode;
    } catch {
      return false;
    }
  }

  /** Tells all who watch. */
  tell(): void {
    for (const [call, state] of this.#watches) {
      if (state.full) state.stale = true;
      else this.#send(call, state);
    }
  }

  /** Ends all connections. The name of the socket goes too, even if it is another plugin's by now. */
  close(): void {
    this.#ended.abort();
    this.#server.forceShutdown();
  }

  #watch(call: Watch): void {
    const state = { full: false, stale: false };
    this.#watches.set(call, state);
    const end = (): void => void this.#watches.delete(call);
    for (const event of ['cancelled', 'close', 'error', 'finish']) call.on(event, end);
    call.on('drain', () => {
      state.full = false;
      if (state.stale) this.#send(call, state);
    });
    this.#send(call, state);
  }

  #send(call: Watch, state: { full: boolean; stale: boolean }): void {
    state.stale = false;
    state.full = !call.write({ devices: [...this.#service.devices] });
  }

  #unary<Q, A>(answer: (request: Q, signal: AbortSignal) => A | Promise<A>) {
    return (call: ServerUnaryCall<Q, A>, callback: sendUnaryData<A>): void => {
      const child = new ChildAbort(this.#ended.signal);
      call.on('cancelled', () => child.abort());
      // what throws at once is answered as well
      void Promise.resolve(call.request)
        .then((request) => answer(request, child.signal))
        .then(
          (a) => callback(null, a),
          (e: unknown) => callback({ code: codeOf(e), details: messageOf(e) }),
        )
        .finally(() => child[Symbol.dispose]());
    };
  }
}

const codeOf = (e: unknown): status =>
  (isHyperturtleError(e) ? STATUS[e.code] : undefined) ?? status.INTERNAL;
