/**
 * Plugging an arena into a running QEMU as a stock ivshmem-plain device, and unplugging it. The QMP socket is held
 * only while that happens: it serves one client at a time.
 */
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { waitFor } from '../core/wait.ts';
import { QmpClient } from '../qmp/client.ts';
import {
  DEVICES,
  OBJECTS,
  UNNAMED_DEVICES,
  childrenOf,
  deleteDevice,
  hasPrefix,
  isRefusal,
  newQemuId,
  propertyOf,
  unlessGone,
} from './qemu-devices.ts';
import type { QmpExecutor } from './qemu-devices.ts';

const MEMORY = 'hyperturtle-arena-memory';
export const DEVICE = 'hyperturtle-arena';
/** What `hyperturtle host args` has the arena plugged into, by QEMU's id. */
export const ARENA_PORT = 'hyperturtle-port';

export interface PlugSpec extends ArenaDeviceSpec {
  qmpPath: string;
}

export interface ArenaDeviceSpec {
  /** The exported arena's device file, as QEMU sees it. */
  devicePath: string;
  bytes: number;
  /** A free PCIe root port with a 64-bit prefetchable window, so that L1 maps the arena write-back. */
  bus: string;
  /** For each QMP command, and for the guest to let an arena go that is in the way. */
  timeoutMs: number;
  signal?: AbortSignal | undefined;
}

/** An arena's memory in a QEMU. */
export interface FoundArena {
  /** QEMU's id of the memory backend. */
  memory: string;
  /** QEMU's id of the device that has it; undefined: none. */
  device: string | undefined;
  /** Plugged by a daemon or `host attach`, not given on the command line. */
  hotPlugged: boolean;
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
  await unplugArenaOver(qmp, timeoutMs);
  // never the memory of an earlier device: its RAM block keeps that device's name (assertion in qemu_ram_set_idstr)
  const memory = newQemuId(MEMORY);
  const device = newQemuId(DEVICE);
  try {
    await qmp.execute(
      'object-add',
      {
        'qom-type': 'memory-backend-file',
        id: memory,
        'mem-path': spec.devicePath,
        size: spec.bytes,
        share: true,
      },
      { timeoutMs, signal },
    );
    await qmp.execute(
      'device_add',
      // no master: QEMU then refuses to migrate or save the VM, whose state would lack what L0's programs write there
      { driver: 'ivshmem-plain', id: device, memdev: memory, bus: spec.bus, master: 'off' },
      { timeoutMs, signal },
    );
  } catch (e) {
    // without the abort signal: this is clean-up. QEMU does what it was sent in order, also what nobody waited for
    if (!isRefusal(e)) await deleteDevice(qmp, device, timeoutMs);
    await deleteMemory(qmp, memory, timeoutMs);
    throw e;
  }
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

/** The same over a connection that the caller has: all arenas that were plugged. Fine when there is none. */
export async function unplugArenaOver(qmp: QmpExecutor, timeoutMs: number): Promise<void> {
  for (const { memory, device, hotPlugged } of await arenasIn(qmp)) {
    if (!hotPlugged) continue;
    if (device !== undefined) await deleteDevice(qmp, device, timeoutMs);
    await deleteMemory(qmp, memory, timeoutMs);
  }
}

/**
 * Also an arena that the VM was started with, by the stable link or a device's own name. Gives the root port that this one
 * was behind; undefined: there was none. Throws HT_UNSUPPORTED when it has no id by which QEMU could be asked, HT_TIMEOUT as
 * above. Those that went stay away.
 */
export async function unplugStartedWith(
  qmp: QmpExecutor,
  link: string,
  timeoutMs: number,
): Promise<string | undefined> {
  let bus: string | undefined;
  for (const { memory, device, parent, hotPlugged, file } of await arenasIn(qmp)) {
    if (hotPlugged || !isArenaFile(file, link)) continue;
    if (device !== undefined) {
      if (parent !== DEVICES)
        throw new HyperturtleError(
          'HT_UNSUPPORTED',
          `the VM was started with its arena as a device without an id, which QEMU cannot unplug: start it with what 'hyperturtle host args' prints`,
        );
      bus = (await propertyOf(qmp, `${parent}/${device}`, 'parent_bus'))?.replace(/^.*\//, '');
      await deleteDevice(qmp, device, timeoutMs);
    }
    await deleteMemory(qmp, memory, timeoutMs);
  }
  return bus;
}

/** What QEMU was given as the file of this VM's arena. */
const isArenaFile = (file: string, link: string): boolean =>
  file === link || file.startsWith('/dev/hyperturtle-arena');

type Arena = FoundArena & { file: string; parent: string | undefined };

/** All memory of arenas, by their ids. */
async function arenasIn(qmp: Pick<QmpExecutor, 'execute'>): Promise<Arena[]> {
  const users = new Map<string, { device: string; parent: string }>();
  for (const parent of [DEVICES, UNNAMED_DEVICES])
    for (const device of await childrenOf(qmp, parent, 'ivshmem-plain')) {
      const memory = await propertyOf(qmp, `${parent}/${device}`, 'memdev');
      if (memory !== undefined) users.set(memory.replace(/^.*\//, ''), { device, parent });
    }
  const found: Arena[] = [];
  for (const memory of await childrenOf(qmp, OBJECTS, 'memory-backend-file')) {
    const file = (await propertyOf(qmp, `${OBJECTS}/${memory}`, 'mem-path')) ?? '';
    const { device, parent } = users.get(memory) ?? { device: undefined, parent: undefined };
    found.push({ memory, device, parent, hotPlugged: hasPrefix(memory, MEMORY), file });
  }
  return found;
}

/** The root port that `hyperturtle host args` prints, which is there also where the arena was left out. */
export async function ownPort(qmp: Pick<QmpExecutor, 'execute'>): Promise<string | undefined> {
  return (await childrenOf(qmp, DEVICES, 'pcie-root-port')).find((port) => port === ARENA_PORT);
}

/**
 * The memory backend whose file is this VM's arena, by the stable link or by a device's own name; one that a device has,
 * if there is such a one.
 */
export async function findArena(
  qmp: Pick<QmpExecutor, 'execute'>,
  link: string,
): Promise<FoundArena | undefined> {
  const all = (await arenasIn(qmp)).filter(({ file }) => isArenaFile(file, link));
  const found = all.find((a) => a.device !== undefined) ?? all[0];
  if (!found) return undefined;
  const { memory, device, hotPlugged } = found;
  return { memory, device, hotPlugged };
}

/** QEMU drops its last reference to the memory some time after the device's end. */
async function deleteMemory(qmp: QmpExecutor, id: string, timeoutMs: number): Promise<void> {
  const attempt = async (): Promise<true | undefined> => {
    try {
      await unlessGone(qmp.execute('object-del', { id }, { timeoutMs }));
      return true;
    } catch (e) {
      if (isHyperturtleError(e, 'HT_QMP') && /in use/.test(e.message)) return undefined;
      throw e;
    }
  };
  await waitFor('QEMU releasing the arena', attempt, { timeoutMs, intervalMs: 20 });
}
