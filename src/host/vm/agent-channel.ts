/**
 * The connection to one VM's port: QEMU listens at a unix socket, the daemon connects and serves. The socket says
 * which VM speaks. Made again whenever it breaks.
 */
import { messageOf } from '../../core/errors.ts';
import { Backoff, changeNear } from '../../core/retry.ts';
import { connectSocket } from '../../core/sockets.ts';
import type { ServedMethods } from '../../wire/handlers.ts';
import { TENANT_LIMITS } from '../../wire/limits.ts';
import { RpcPeer } from '../../wire/peer.ts';
import type { RpcCounters } from '../../wire/peer.ts';
import type { Log } from '../log.ts';

export interface AgentChannelOptions {
  socketPath: string;
  methods: ServedMethods;
  requestsPerSecond: () => number;
  onDrain: () => void;
  log: Log;
}

export class AgentChannel {
  readonly #options: AgentChannelOptions;
  #peer: RpcPeer<Record<never, never>> | undefined;

  constructor(options: AgentChannelOptions) {
    this.#options = options;
  }

  /** QEMU has accepted; whether an agent reads behind it, a hello tells. */
  get connected(): boolean {
    return this.#peer !== undefined;
  }

  counters(): Readonly<RpcCounters> | undefined {
    return this.#peer?.counters;
  }

  /** After a reload of quotas. */
  update(): void {
    this.#peer?.setLimits({ requestsPerSecond: this.#options.requestsPerSecond() });
  }

  /** Until the signal. Never throws. */
  async run(signal: AbortSignal): Promise<void> {
    const { socketPath, log } = this.#options;
    const backoff = new Backoff();
    while (!signal.aborted) {
      const since = performance.now();
      try {
        await this.#serve(signal);
      } catch (e) {
        log.debug({ problem: messageOf(e) }, 'no connection to the port');
      }
      // a connection that lasted is no reason to wait long
      if (performance.now() - since > 1000) backoff.reset();
      await changeNear(socketPath, backoff.nextMs(), signal);
    }
  }

  async #serve(signal: AbortSignal): Promise<void> {
    const { socketPath, methods, onDrain, requestsPerSecond, log } = this.#options;
    const socket = await connectSocket(socketPath, signal);
    await new Promise<void>((resolve) => {
      const peer = new RpcPeer(socket, {
        calls: {},
        methods,
        session: 'hello',
        limits: { ...TENANT_LIMITS, requestsPerSecond: requestsPerSecond() },
        onDrain,
        onClose: (reason) => {
          this.#peer = undefined;
          signal.removeEventListener('abort', stop);
          log.info(reason ? { problem: reason.message } : {}, 'port disconnected');
          resolve();
        },
        log,
      });
      const stop = (): void => peer.close();
      this.#peer = peer;
      log.info({ socket: socketPath }, 'port connected');
      signal.addEventListener('abort', stop, { once: true });
      if (signal.aborted) stop();
    });
  }
}
