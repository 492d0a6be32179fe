/** A QEMU that was just started by this process: its QMP socket, its end, and when its guest is up. */
import type { ChildProcess } from 'node:child_process';
import { isHyperturtleError } from '../../core/errors.ts';
import { waitFor } from '../../core/wait.ts';
import { QmpClient } from '../../qmp/client.ts';

interface Deadline {
  timeoutMs: number;
  signal?: AbortSignal | undefined;
}

/** Exit status of a child: 127 when it could not be started, 128 when a signal ended it. */
export function statusOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve) => {
    child.once('exit', (code) => resolve(code ?? 128));
    child.once('error', () => resolve(127));
  });
}

/** Connects as soon as QEMU listens. `check` throws what there is no more point in waiting after. */
export function connectQmp(
  what: string,
  socket: string,
  { timeoutMs, signal }: Deadline,
  check?: () => void,
): Promise<QmpClient> {
  return waitFor(
    `QMP of ${what}`,
    async () => {
      check?.();
      try {
        return await QmpClient.connect(socket, { timeoutMs, signal });
      } catch (e) {
        if (isHyperturtleError(e, 'HT_QMP')) return undefined; // not yet
        throw e;
      }
    },
    { timeoutMs, intervalMs: 40, signal },
  );
}

/**
 * Milliseconds from the guest's first instruction to the moment when it opened the port with this id, both by QEMU's
 * clock. To be called before the guest runs; it has no deadline of its own.
 */
export function bootTime(qmp: QmpClient, portId: string, { timeoutMs, signal }: Deadline): Promise<number> {
  const forever = { timeoutMs: 2 ** 31 - 1, signal };
  const resumed = qmp.waitEvent('RESUME', () => true, { timeoutMs, signal });
  const opened = qmp.waitEvent('VSERPORT_CHANGE', (d) => d['id'] === portId && d['open'] === true, forever);
  const ms = Promise.all([resumed, opened]).then(([r, o]) => (o.timestampUs - r.timestampUs) / 1000);
  ms.catch(() => {}); // until somebody waits for it
  return ms;
}
