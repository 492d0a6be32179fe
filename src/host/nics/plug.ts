/** NICs of a running QEMU: a stock virtio-net device on a spare root port, behind it a tap that QEMU was handed. */
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
  mtu: number;
  tap: OwnedFd;
  vhost: OwnedFd | undefined;
}

/** Throws HT_QMP with QEMU's words, HT_TIMEOUT; then nothing of it is left. */
export async function plugNic(qmp: NicQmp, spec: PlugSpec, signal: AbortSignal): Promise<void> {
  const options = { timeoutMs: COMMAND_MS, signal };
  // not given up with the signal: this is clean-up
  const late = { timeoutMs: COMMAND_MS };
  const undo = new CleanupStack();
  const give = async (name: string, file: OwnedFd): Promise<string> => {
    await qmp.giveFd(name, (socket, what, bytes) => sendWithFds(socket, what, bytes, [file.fd]), options);
    undo.add(`descriptor ${name}`, () => unlessGone(qmp.execute('closefd', { fdname: name }, late)));
    return name;
  };
  try {
    const fd = await give(`${netdevIdOf(spec.nic)}-fd`, spec.tap);
    const vhost = spec.vhost
      ? { vhost: true, vhostfd: await give(`${netdevIdOf(spec.nic)}-vhost`, spec.vhost) }
      : {};
    await qmp.execute('netdev_add', { type: 'tap', id: netdevIdOf(spec.nic), fd, ...vhost }, options);
    undo.add('netdev', () => unlessGone(qmp.execute('netdev_del', { id: netdevIdOf(spec.nic) }, late)));
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
        host_mtu: spec.mtu,
        'disable-legacy': 'on',
        // so that L1 can hand it on through its IOMMU
        iommu_platform: true,
        romfile: '',
      },
      options,
    );
    undo.release();
  } catch (e) {
    await undo.run();
    throw e;
  }
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
    stop.abort();
    if (!isHyperturtleError(e, 'HT_QMP')) throw e;
    // asked for before, and the guest has not answered yet
    if (/already in the process of unplug/i.test(e.message)) await waitGone(qmp, id, timeoutMs);
    else if (e.detail['class'] !== 'DeviceNotFound') throw e;
  }
  await unlessGone(qmp.execute('netdev_del', { id: netdevIdOf(nic) }, { timeoutMs: COMMAND_MS }));
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

async function waitGone(qmp: NicQmp, id: string, timeoutMs: number): Promise<void> {
  await qmp.waitEvent('DEVICE_DELETED', (data) => data['device'] === id, { timeoutMs });
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
