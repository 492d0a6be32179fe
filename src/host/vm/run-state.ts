/** Whether devices may be plugged into a QEMU now: not while its state comes from elsewhere or goes there. */
import type { QmpClient } from '../../qmp/client.ts';
import { isRefusal } from '../qemu-devices.ts';

/** RunState of QEMU's qapi/run-state.json: devices are those of the source, or the VM runs elsewhere by now. */
const MOVING = new Set(['inmigrate', 'finish-migrate', 'postmigrate', 'save-vm', 'restore-vm', 'colo']);
/** MigrationStatus of QEMU's qapi/migration.json in which nothing moves; QEMU refuses `device_add` in others. */
const STILL = new Set([undefined, 'none', 'completed', 'failed', 'cancelled']);
const LOOK_MS = 1000;

type Asked = Pick<QmpClient, 'execute' | 'waitEvent'>;

/** Resolves when it may be plugged into. Throws when the connection breaks or the signal aborts. */
export async function whenPluggable(qmp: Asked, signal: AbortSignal): Promise<void> {
  for (;;) {
    // asked for before the look, so that no change is missed
    const changed = nextChange(qmp, signal);
    if (!(await moves(qmp, signal))) return;
    await changed;
    signal.throwIfAborted();
  }
}

async function moves(qmp: Asked, signal: AbortSignal): Promise<boolean> {
  const status = await word(qmp, 'query-status', signal);
  if (MOVING.has(status ?? '')) return true;
  // of a migration that has come in it is 'completed'
  return !STILL.has(await word(qmp, 'query-migrate', signal));
}

async function word(qmp: Asked, command: string, signal: AbortSignal): Promise<string | undefined> {
  try {
    const answer = (await qmp.execute(command, {}, { signal })) as { status?: unknown } | null;
    return typeof answer?.status === 'string' ? answer.status : undefined;
  } catch (e) {
    if (isRefusal(e)) return undefined;
    throw e;
  }
}

/** Never throws. */
async function nextChange(qmp: Asked, signal: AbortSignal): Promise<void> {
  await qmp.waitEvent('RESUME', () => true, { timeoutMs: LOOK_MS, signal }).catch(() => {});
}
