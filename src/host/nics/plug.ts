/**
 * NICs of a running QEMU: a stock virtio-net device on a spare root port, behind it a tap or a vDPA device that QEMU was
 * handed.
 */
import { sendWithFds } from '../../bpf/fd-passing.ts';
import type { OwnedFd } from '../../bpf/fds.ts';
import { isHyperturtleError } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import type { QmpClient } from '../../qmp/client.ts';

export type NicQmp = Pick<QmpClient, 'execute' | 'giveFd' | 'waitEvent'>;

const PREFIX = 'hyperturtle-nic-';
const COMMAND_MS = 30_000;

export const deviceIdOf = (nic: string): string => `${PREFIX}${nic}`;
const netdevIdOf = (nic: string): string => `${PREFIX}${nic}-net`;

export interface PlugSpec {
  nic: string;
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
    const file = await give(`${netdevIdOf(spec.nic)}-fd`, netdev.file);
    const id = netdevIdOf(spec.nic);
    let backend: Record<string, unknown>;
    if (netdev.type === 'vhost-vdpa') backend = { type: 'vhost-vdpa', id, vhostfd: file };
    else {
      const vhost = netdev.vhost
        ? { vhost: true, vhostfd: await give(`${netdevIdOf(spec.nic)}-vhost`, netdev.vhost) }
        : {};
      backend = { type: 'tap', id, fd: file, ...vhost };
    }
    signal.throwIfAborted();
    await qmp.execute('netdev_add', backend, options);
    undo.add('netdev', () => unlessGone(qmp.execute('netdev_del', { id: netdevIdOf(spec.nic) }, options)));
    signal.throwIfAborted();
    await qmp.execute(
      'device_add',
      {
        driver: 'virtio-net-pci',
        id: deviceIdOf(spec.nic),
        netdev: netdevIdOf(spec.nic),
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

/** QEMU itself said no: then it has done nothing. */
export function isRefusal(e: unknown): boolean {
  return isHyperturtleError(e, 'HT_QMP') && e.detail['command'] !== undefined;
}

/** Something else is in the port. */
export function isOccupied(e: unknown): boolean {
  return isHyperturtleError(e, 'HT_QMP') && /occupied|not available/i.test(e.message);
}

/**
 * Fine when there is no such NIC. Throws HT_TIMEOUT when the guest does not let it go: the netdev, and with it the
 * tap, then stay until it does or the VM ends.
 */
export async function unplugNic(qmp: NicQmp, nic: string, timeoutMs: number): Promise<void> {
  const id = deviceIdOf(nic);
  const stop = new AbortController();
  const deleted = qmp.waitEvent('DEVICE_DELETED', (data) => data['device'] === id, {
    timeoutMs,
    signal: stop.signal,
  });
  deleted.catch(() => {}); // given up below, when the device is not there at all
  try {
    await qmp.execute('device_del', { id }, { timeoutMs: COMMAND_MS });
    await deleted;
  } catch (e) {
    // asked for before, and the guest has not answered yet
    if (isHyperturtleError(e, 'HT_QMP') && /already in the process of unplug/i.test(e.message)) await deleted;
    else {
      stop.abort();
      if (!isHyperturtleError(e, 'HT_QMP') || e.detail['class'] !== 'DeviceNotFound') throw e;
    }
  }
  await unlessGone(qmp.execute('netdev_del', { id: netdevIdOf(nic) }, { timeoutMs: COMMAND_MS }));
}

/** The NIC behind QEMU's id of a device, when it is one of ours. */
export function nicOf(device: unknown): string | undefined {
  return typeof device === 'string' && device.startsWith(PREFIX) ? device.slice(PREFIX.length) : undefined;
}

/** Whether the VM has an IOMMU, without which its guests cannot be given NICs. */
export async function hasIommu(qmp: NicQmp): Promise<boolean> {
  for (const path of ['/machine/peripheral', '/machine/peripheral-anon']) {
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

/** NICs of ours that QEMU has, by their ids. */
export async function pluggedNics(qmp: NicQmp): Promise<string[]> {
  const answer = await qmp.execute('qom-list', { path: '/machine/peripheral' }, { timeoutMs: COMMAND_MS });
  return namesOf(answer)
    .filter((name) => name.startsWith(PREFIX))
    .map((name) => name.slice(PREFIX.length));
}

/** Root ports of this list that the VM has, with the number of the slot by which its guest knows them. */
export async function portsOf(qmp: NicQmp, ids: readonly string[]): Promise<{ id: string; slot: number }[]> {
  const answer = await qmp.execute('qom-list', { path: '/machine/peripheral' }, { timeoutMs: COMMAND_MS });
  const there = new Set(namesOf(answer));
  const ports: { id: string; slot: number }[] = [];
  for (const id of ids) {
    if (!there.has(id)) continue;
    const slot = await qmp.execute(
      'qom-get',
      { path: `/machine/peripheral/${id}`, property: 'slot' },
      { timeoutMs: COMMAND_MS },
    );
    if (typeof slot === 'number') ports.push({ id, slot });
  }
  return ports;
}

async function unlessGone(answer: Promise<unknown>): Promise<void> {
  try {
    await answer;
  } catch (e) {
    if (
      !isHyperturtleError(e, 'HT_QMP') ||
      !/not found|DeviceNotFound/i.test(`${e.message} ${String(e.detail['class'])}`)
    )
      throw e;
  }
}

function namesOf(answer: unknown): string[] {
  if (!Array.isArray(answer)) return [];
  return answer.flatMap((x: unknown) => {
    const name = typeof x === 'object' && x !== null ? (x as { name?: unknown }).name : undefined;
    return typeof name === 'string' ? [name] : [];
  });
}
