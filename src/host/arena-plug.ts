/**
 * Plugging an arena into a running QEMU as a stock ivshmem-plain device, and unplugging it. The QMP socket is held
 * only while that happens: it serves one client at a time.
 */
import { isHyperturtleError } from '../core/errors.ts';
import { waitFor } from '../core/wait.ts';
import { QmpClient } from '../qmp/client.ts';

export const BACKEND_ID = 'hyperturtle-arena-memory';
const DEVICE_ID = 'hyperturtle-arena';

type QmpExecutor = Pick<QmpClient, 'execute' | 'waitEvent'>;

export interface PlugSpec extends ArenaDeviceSpec {
  qmpPath: string;
}

export interface ArenaDeviceSpec {
  /** The exported arena's device file, as QEMU sees it. */
  devicePath: string;
  bytes: number;
  /** A free PCIe root port with a 64-bit prefetchable window, so that L1 maps the arena write-back. */
  bus: string;
  /** For each QMP command. */
  timeoutMs: number;
  signal?: AbortSignal | undefined;
}

/**
 * The caller must hold the attachment of the VM, which is exclusive: an arena that is plugged already was left behind
 * by a process that died, and is removed first. Throws HT_QMP with QEMU's words, and then leaves nothing behind.
 */
export async function plugArena(spec: PlugSpec): Promise<void> {
  const { timeoutMs, signal } = spec;
  const qmp = await QmpClient.connect(spec.qmpPath, { timeoutMs, signal });
  try {
    await plugArenaOver(qmp, spec);
  } finally {
    qmp.close();
  }
}

/** The same over a connection that the caller has. */
export async function plugArenaOver(qmp: QmpExecutor, spec: ArenaDeviceSpec): Promise<void> {
  const { timeoutMs, signal } = spec;
  try {
    await addBackend(qmp, spec);
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_QMP') || !/duplicate/i.test(e.message)) throw e;
    await unplugArenaOver(qmp, timeoutMs);
    await addBackend(qmp, spec);
  }
  try {
    // no master: QEMU then refuses to migrate or save the VM, whose state would lack what L0's programs write there
    const device = {
      ...{ driver: 'ivshmem-plain', id: DEVICE_ID, memdev: BACKEND_ID, bus: spec.bus },
      master: 'off',
    };
    await qmp.execute('device_add', device, { timeoutMs, signal });
  } catch (e) {
    // without the abort signal: this is clean-up
    await qmp.execute('object-del', { id: BACKEND_ID }, { timeoutMs });
    throw e;
  }
}

async function addBackend(qmp: QmpExecutor, spec: ArenaDeviceSpec): Promise<void> {
  const backend = {
    'qom-type': 'memory-backend-file',
    id: BACKEND_ID,
    'mem-path': spec.devicePath,
    size: spec.bytes,
    share: true,
  };
  await qmp.execute('object-add', backend, { timeoutMs: spec.timeoutMs, signal: spec.signal });
}

export interface UnplugSpec {
  qmpPath: string;
  /** For the guest to let the device go: it must agree. */
  timeoutMs: number;
}

/**
 * Throws HT_TIMEOUT when the guest does not let the device go (hung, or at its boot prompt): the memory then stays
 * with that VM until it ends, and nothing runs on it.
 */
export async function unplugArena(spec: UnplugSpec): Promise<void> {
  const qmp = await QmpClient.connect(spec.qmpPath, { timeoutMs: spec.timeoutMs });
  try {
    await unplugArenaOver(qmp, spec.timeoutMs);
  } finally {
    qmp.close();
  }
}

/** The same over a connection that the caller has. Fine when there is nothing to unplug. */
export async function unplugArenaOver(qmp: QmpExecutor, timeoutMs: number): Promise<void> {
  await deleteDevice(qmp, timeoutMs);
  // QEMU drops its last reference to the memory some time after the event
  await waitFor('QEMU releasing the arena', () => deleteBackend(qmp), { timeoutMs, intervalMs: 20 });
}

async function deleteDevice(qmp: QmpExecutor, timeoutMs: number): Promise<void> {
  const stop = new AbortController();
  const deleted = qmp.waitEvent('DEVICE_DELETED', (data) => data['device'] === DEVICE_ID, {
    timeoutMs,
    signal: stop.signal,
  });
  deleted.catch(() => {}); // given up below, when the device is not there at all
  try {
    await qmp.execute('device_del', { id: DEVICE_ID }, { timeoutMs });
  } catch (e) {
    stop.abort();
    // never plugged, or gone with a reset of the VM
    if (isHyperturtleError(e, 'HT_QMP') && e.detail['class'] === 'DeviceNotFound') return;
    throw e;
  }
  await deleted;
}

async function deleteBackend(qmp: QmpExecutor): Promise<true | undefined> {
  try {
    await qmp.execute('object-del', { id: BACKEND_ID });
    return true;
  } catch (e) {
    if (isHyperturtleError(e, 'HT_QMP') && /in use/.test(e.message)) return undefined;
    if (isHyperturtleError(e, 'HT_QMP') && /not found/.test(e.message)) return true;
    throw e;
  }
}
