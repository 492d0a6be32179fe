/**
 * The daemon's own QMP connection to one VM: made again whenever it breaks, for as long as the VM's process lives.
 * Tells of resets. QEMU serves one client per socket, so this socket should be the daemon's alone.
 */
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { Backoff, changeNear } from '../../core/retry.ts';
import { QmpClient } from '../../qmp/client.ts';
import type { Log } from '../log.ts';

const CONNECT_TIMEOUT_MS = 10_000;

export interface QmpMonitorOptions {
  path: string;
  log: Log;
  /** QEMU has reset the machine; `atMs` by the wall clock that QEMU and we share. */
  onReset: (atMs: number) => void;
  /** A connection is there: for work that QEMU has to do. It may break at any time. */
  onConnect: (client: QmpClient) => void;
}

export class QmpMonitor {
  readonly #options: QmpMonitorOptions;
  #client: QmpClient | undefined;
  #problem: string | undefined;

  constructor(options: QmpMonitorOptions) {
    this.#options = options;
  }

  /** Why there is no connection, or undefined when there is one. */
  get problem(): string | undefined {
    return this.#client ? undefined : (this.#problem ?? 'not connected yet');
  }

  /** Throws HT_UNAVAILABLE while there is no connection. */
  client(): QmpClient {
    if (this.#client) return this.#client;
    throw new HyperturtleError('HT_UNAVAILABLE', `QMP ${this.#options.path}: ${this.problem}`);
  }

  /** Until the signal. Never throws. */
  async run(signal: AbortSignal): Promise<void> {
    const { path, log, onReset, onConnect } = this.#options;
    const backoff = new Backoff();
    while (!signal.aborted) {
      try {
        const client = await QmpClient.connect(path, { timeoutMs: CONNECT_TIMEOUT_MS, signal });
        client.onEvent((e) => {
          if (e.event === 'RESET') onReset(e.timestampUs / 1000);
        });
        const stop = (): void => client.close();
        signal.addEventListener('abort', stop, { once: true });
        if (signal.aborted) stop();
        this.#client = client;
        backoff.reset();
        try {
          if (!signal.aborted) onConnect(client);
          this.#problem = (await client.closed()).message;
        } finally {
          this.#client = undefined;
          signal.removeEventListener('abort', stop);
          client.close();
        }
      } catch (e) {
        this.#problem = messageOf(e);
        log.debug({ problem: this.#problem }, 'no QMP connection');
      }
      await changeNear(path, backoff.nextMs(), signal);
    }
  }
}
