/**
 * NICs of a running QEMU: a stock virtio-net device on a spare root port, behind it a tap or a vDPA device that QEMU was
 * handed.
 */
import { sendWithFds } from '../../bpf/fd-passing.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import type { QmpClient } from '../../qmp/client.ts';
import { DEVICES, UNNAMED_DEVICES, deleteDevice, isRefusal, newQemuId, unlessGone } from '../qemu-devices.ts';

export type NicQmp = Pick<QmpClient, 'execute' | 'giveFd' | 'waitEvent'>;

const PREFIX = 'hyperturtle-nic-';
const COMMAND_MS = 30_000;

/** As NICs of older versions were called; new ones have ids of their own in each QEMU. */
export const oldDeviceIdOf = (nic: string): string => `${PREFIX}${nic}`;
export const newDeviceIdOf = (nic: string): string => newQemuId(oldDeviceIdOf(nic));
const netdevIdOf = (device: string): string => `${device}-net`;
/**
 * Names of descriptors on their way. Always the same: QEMU closes one that a process left behind which died, when the
 * next comes under its name (monitor/misc.c: qmp_getfd), and it has no list of them.
 */
const FD_NAMES = { file: `${PREFIX}fd`, vhost: `${PREFIX}vhost` } as const;

export interface PlugSpec {
  /** QEMU's id of the device, from newDeviceIdOf. */
  device: string;
  mac: string;
  /** QEMU's id of the root port. */
  port: string;
  netdev: NetdevSpec;
}

/** `mtu`: left out, the guest learns the device's own. */
export type NetdevSpec = { file: OwnedFd; mtu: number | undefined } & (
  | { type: 'tap'; vhost: OwnedFd | undefined }
  | { type: 'vhost-vdpa' }
);

/**
 * Throws HT_QMP with QEMU's words when it refused; then nothing of it is left. After any other error (no answer in time, a
 * connection that broke) nobody knows what QEMU did, or does yet: see `isRefusal`. What was begun is not cut short by the
 * signal, for the same reason.
 */
export async function plugNic(qmp: NicQmp, spec: PlugSpec, signal: AbortSignal): Promise<void> {
  const options = { timeoutMs: COMMAND_MS };
  const undo = new CleanupStack();
  const give = async (name: string, file: OwnedFd): Promise<string> => {
    signal.throwIfAborted();
    await qmp.giveFd(name, (socket, what, bytes) => sendWithFds(socket, what, bytes, [file.fd]), options);
    undo.add(`descriptor ${name}`, () => unlessGone(qmp.execute('closefd', { fdname: name }, options)));
    return name;
  };
  try {
    const { netdev } = spec;
    const file = await give(FD_NAMES.file, netdev.file);
    const id = netdevIdOf(spec.device);
    let backend: Record<string, unknown>;
    if (netdev.type === 'vhost-vdpa') backend = { type: 'vhost-vdpa', id, vhostfd: file };
    else {
      const vhost = netdev.vhost ? { vhost: true, vhostfd: await give(FD_NAMES.vhost, netdev.vhost) } : {};
      backend = { type: 'tap', id, fd: file, ...vhost };
    }
    signal.throwIfAborted();
    await qmp.execute('netdev_add', backend, options);
    undo.add('netdev', () => unlessGone(qmp.execute('netdev_del', { id }, options)));
    signal.throwIfAborted();
    await qmp.execute(
      'device_add',
      {
        driver: 'virtio-net-pci',
        id: spec.device,
        netdev: id,
        mac: spec.mac,
        bus: spec.port,
        // else QEMU takes another address behind an occupied port, where the guest never looks
        addr: '0x0',
        ...(netdev.mtu === undefined ? {} : { host_mtu: netdev.mtu }),
        'disable-legacy': 'on',
        // so that L1 can hand it on through its IOMMU
        iommu_platform: true,
        romfile: '',
      },
      options,
    );
    undo.release();
  } catch (e) {
    if (isRefusal(e) || e === signal.reason) await undo.run();
    throw e;
  }
}

/** What a guest is told of an error of QEMU: its own words name what is the host's, and are for the log. */
export function refused(e: unknown): unknown {
  return e instanceof HyperturtleError && e.code === 'HT_QMP'
    ? new HyperturtleError('HT_KERNEL', e.message, { cause: e })
    : e;
}

/** Something else is in the port. */
export function isOccupied(e: unknown): boolean {
  return isHyperturtleError(e, 'HT_QMP') && /occupied|not available/i.test(e.message);
}

/**
 * Fine when there is no such NIC. Throws HT_TIMEOUT when the guest does not let it go: the netdev, and with it the
 * tap, then stay until it does or the VM ends.
 */
export async function unplugNic(qmp: NicQmp, device: string, timeoutMs: number): Promise<void> {
  await deleteDevice(qmp, device, timeoutMs);
  await unlessGone(qmp.execute('netdev_del', { id: netdevIdOf(device) }, { timeoutMs: COMMAND_MS }));
}

/** What a process that died had on its way into a QEMU. */
export async function closeStrayFds(qmp: NicQmp): Promise<void> {
  for (const fdname of Object.values(FD_NAMES))
    await unlessGone(qmp.execute('closefd', { fdname }, { timeoutMs: COMMAND_MS }));
}

/** Whether the VM has an IOMMU, without which its guests cannot be given NICs. */
export async function hasIommu(qmp: NicQmp): Promise<boolean> {
  for (const path of [DEVICES, UNNAMED_DEVICES]) {
    const answer = await qmp.execute('qom-list', { path }, { timeoutMs: COMMAND_MS });
    if (!Array.isArray(answer)) continue;
    if (answer.some((x: unknown) => /iommu/.test(String((x as { type?: unknown } | null)?.type))))
      return true;
  }
  return false;
}

/** `[7, 2]`. */
export async function qemuVersion(qmp: NicQmp): Promise<[number, number]> {
  const answer = (await qmp.execute('query-version', {}, { timeoutMs: COMMAND_MS })) as {
    qemu?: { major?: unknown; minor?: unknown };
  } | null;
  return [Number(answer?.qemu?.major ?? 0), Number(answer?.qemu?.minor ?? 0)];
}

/** Devices of our NICs that QEMU has, and those of which it has the netdev alone, by QEMU's ids. */
export async function pluggedNics(qmp: NicQmp): Promise<{ devices: string[]; netdevs: string[] }> {
  const answer = await qmp.execute('qom-list', { path: DEVICES }, { timeoutMs: COMMAND_MS });
  const devices = namesOf(answer).filter((name) => name.startsWith(PREFIX));
  // QMP has no list of netdevs
  const line = { 'command-line': 'info network' };
  const network = await qmp.execute('human-monitor-command', line, { timeoutMs: COMMAND_MS });
  const netdevs = [...String(network).matchAll(/(?:^|\s)(\S+)-net: index=/gm)]
    .map((m) => m[1] ?? '')
    .filter((device) => device.startsWith(PREFIX) && !devices.includes(device));
  return { devices, netdevs };
}

/** Root ports of this list that the VM has, with the number of the slot by which its guest knows them. */
export async function portsOf(qmp: NicQmp, ids: readonly string[]): Promise<{ id: string; slot: number }[]> {
  const answer = await qmp.execute('qom-list', { path: DEVICES }, { timeoutMs: COMMAND_MS });
  const there = new Set(namesOf(answer));
  const ports: { id: string; slot: number }[] = [];
  for (const id of ids) {
    if (!there.has(id)) continue;
    const slot = await qmp.execute(
      'qom-get',
      { path: `${DEVICES}/${id}`, property: 'slot' },
      { timeoutMs: COMMAND_MS },
    );
    if (typeof slot === 'number') ports.push({ id, slot });
  }
  return ports;
}

function namesOf(answer: unknown): string[] {
  if (!Array.isArray(answer)) return [];
  return answer.flatMap((x: unknown) => {
    const name = typeof x === 'object' && x !== null ? (x as { name?: unknown }).name : undefined;
    return typeof name === 'string' ? [name] : [];
  });
}
