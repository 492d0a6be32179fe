/** The agent's port in a VM's QEMU: a virtio port, with a socket of QEMU's behind it, plugged into a running VM. */
import { isHyperturtleError } from '../../core/errors.ts';
import { waitFor } from '../../core/wait.ts';
import { PORT_NAME } from '../../wire/schema.ts';
import {
  DEVICES,
  UNNAMED_DEVICES,
  childrenOf,
  deleteDevice,
  hasPrefix,
  isRefusal,
  newQemuId,
  propertyOf,
  unlessGone,
} from '../qemu-devices.ts';
import type { QmpExecutor } from '../qemu-devices.ts';

const CHARDEV = 'hyperturtle-agent';
const COMMAND_MS = 30_000;

/** What there is of ports in a QEMU. */
interface Ports {
  /** One of the agent's name has a socket, no matter who made it. */
  whole: boolean;
  /** Ours; those of the command line have no id. */
  devices: string[];
  chardevs: string[];
}

/**
 * Plugs the agent's port; a whole one stays, what a process that died left half made goes first. Throws HT_QMP with
 * QEMU's words; then nothing of it is left.
 */
export async function plugPort(
  qmp: QmpExecutor,
  spec: { socketPath: string; bus?: string | undefined },
): Promise<void> {
  const there = await portsIn(qmp);
  if (there.whole) return;
  await removePorts(qmp, there);
  const chardev = newQemuId(CHARDEV);
  const device = newQemuId(`${CHARDEV}-port`);
  const addr = { type: 'unix', data: { path: spec.socketPath } };
  const options = { timeoutMs: COMMAND_MS };
  try {
    await qmp.execute(
      'chardev-add',
      { id: chardev, backend: { type: 'socket', data: { addr, server: true, wait: false } } },
      options,
    );
    const port = { driver: 'virtserialport', id: device, name: PORT_NAME, chardev };
    await qmp.execute('device_add', spec.bus === undefined ? port : { ...port, bus: spec.bus }, options);
  } catch (e) {
    if (!isRefusal(e)) await deleteDevice(qmp, device, COMMAND_MS);
    await deleteChardev(qmp, chardev);
    throw e;
  }
}

/** Fine when there is none. A port needs no word from the guest. */
export async function unplugPort(qmp: QmpExecutor): Promise<void> {
  await removePorts(qmp, await portsIn(qmp));
}

async function portsIn(qmp: QmpExecutor): Promise<Ports> {
  const answer = await qmp.execute('query-chardev', {}, { timeoutMs: COMMAND_MS });
  const labels = (Array.isArray(answer) ? answer : []).map((c: unknown) =>
    String((c as { label?: unknown } | null)?.label),
  );
  const ports: Ports = { whole: false, devices: [], chardevs: [] };
  const others = new Set<string>();
  for (const parent of [DEVICES, UNNAMED_DEVICES])
    for (const device of await childrenOf(qmp, parent, 'virtserialport')) {
      const path = `${parent}/${device}`;
      const chardev = (await propertyOf(qmp, path, 'chardev')) ?? '';
      if ((await propertyOf(qmp, path, 'name')) === PORT_NAME && chardev !== '') ports.whole = true;
      if (hasPrefix(device, CHARDEV)) ports.devices.push(device);
      else others.add(chardev);
    }
  ports.chardevs = labels.filter((label) => hasPrefix(label, CHARDEV) && !others.has(label));
  return ports;
}

async function removePorts(qmp: QmpExecutor, { devices, chardevs }: Ports): Promise<void> {
  for (const device of devices) await deleteDevice(qmp, device, COMMAND_MS);
  for (const chardev of chardevs) await deleteChardev(qmp, chardev);
}

/** QEMU frees the port, which keeps it busy, some time after its end. */
async function deleteChardev(qmp: QmpExecutor, id: string): Promise<void> {
  const attempt = async (): Promise<true | undefined> => {
    try {
      await unlessGone(qmp.execute('chardev-remove', { id }, { timeoutMs: COMMAND_MS }));
      return true;
    } catch (e) {
      if (isHyperturtleError(e, 'HT_QMP') && /is busy/.test(e.message)) return undefined;
      throw e;
    }
  };
  await waitFor("QEMU releasing the agent's socket", attempt, { timeoutMs: COMMAND_MS, intervalMs: 20 });
}
