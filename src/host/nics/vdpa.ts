/**
 * vDPA devices, the L0 end of NICs whose frames a device of the host moves by itself. Made on a management device by
 * iproute2's `vdpa`, and persistent: unlike a tap one stays until it is taken away, no matter who ends. Their names tell whose
 * they are, so that those which nobody remembers are found.
 */
import { variable } from '../../core/environment.ts';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { OwnedFd } from '../../bpf/fds.ts';
import { openDevice } from '../../bpf/sys.ts';
import { HyperturtleError, errnoCode, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { exec } from '../../core/exec.ts';
import { waitFor } from '../../core/wait.ts';

export interface VdpaSpec {
  /** As `vdpa mgmtdev show` names it: `pci/0000:65:00.2`. */
  management: string;
  mac: string;
  /** Left out: the device's own. */
  mtu?: number | undefined;
}

export interface Vdpa {
  /** Open /dev/vhost-vdpa-N; owned by the caller. The device is there until `removeVdpa`. */
  file: OwnedFd;
  name: string;
}

const COMMAND_MS = 20_000;
/** For the kernel to make the character device. */
const APPEAR_MS = 5_000;
const DRIVER = 'vhost_vdpa';

/** Where the kernel and iproute2 are; tests say otherwise. */
export interface VdpaPlaces {
  tool: string;
  sysfs: string;
  dev: string;
}
const placesNow = (): VdpaPlaces => ({
  tool: variable('HYPERTURTLE_VDPA_TOOL') ?? 'vdpa',
  sysfs: variable('HYPERTURTLE_VDPA_SYSFS') ?? '/sys/bus/vdpa',
  dev: variable('HYPERTURTLE_VDPA_DEV') ?? '/dev',
});

const prefixOf = (vm: string): string => `ht-${createHash('sha256').update(vm).digest('hex').slice(0, 12)}-`;

/** The same for the same NIC of the same VM. */
export const vdpaName = (vm: string, nic: string): string => `${prefixOf(vm)}${nic}`;

/** Whether the kernel knows vDPA at all. */
export const hasVdpa = (places = placesNow()): boolean => existsSync(places.sysfs);

export const vdpaThere = (name: string, places = placesNow()): boolean =>
  existsSync(path.join(places.sysfs, 'devices', name));

/** What there is of this VM. */
export function vdpaOf(vm: string, places = placesNow()): string[] {
  try {
    return readdirSync(path.join(places.sysfs, 'devices')).filter((name) => name.startsWith(prefixOf(vm)));
  } catch {
    return [];
  }
}

/**
 * Makes it, has vhost_vdpa serve it, and opens it. Throws HT_NOT_FOUND without the tool, the kernel's part or the
 * management device, HT_KERNEL with the tool's words; then nothing of it is left.
 */
export async function makeVdpa(name: string, spec: VdpaSpec, places = placesNow()): Promise<Vdpa> {
  if (!hasVdpa(places))
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      "the host's kernel has no vDPA: 'modprobe vdpa vhost_vdpa' and the driver of the NIC",
    );
  // of a daemon that was killed before it could write it down
  if (vdpaThere(name, places)) await removeVdpa(name, places);
  const { management, mac, mtu } = spec;
  const more = mtu === undefined ? [] : ['mtu', String(mtu)];
  await vdpa(places, 'dev', 'add', 'name', name, 'mgmtdev', management, 'mac', mac, ...more);
  try {
    serveByVhost(name, places);
    const node = await waitFor(`character device of ${name}`, () => nodeOf(name, places), {
      timeoutMs: APPEAR_MS,
      intervalMs: 20,
    });
    const file = openDevice(path.join(places.dev, node), "load the module: 'modprobe vhost_vdpa'");
    return { file, name };
  } catch (e) {
    await removeVdpa(name, places);
    throw e;
  }
}

/** Fine when there is none. Anyone who has it open must have let it go: the kernel waits for that. Throws HT_KERNEL. */
export async function removeVdpa(name: string, places = placesNow()): Promise<void> {
  if (!vdpaThere(name, places)) return;
  try {
    await vdpa(places, 'dev', 'del', name);
  } catch (e) {
    if (vdpaThere(name, places)) throw e;
  }
}

async function vdpa(places: VdpaPlaces, ...args: string[]): Promise<void> {
  try {
    await exec(places.tool, args, { timeoutMs: COMMAND_MS });
  } catch (e) {
    if (isHyperturtleError(e, 'HT_NOT_FOUND'))
      throw new HyperturtleError('HT_NOT_FOUND', `there is no ${places.tool}: install iproute2`, {
        cause: e,
      });
    throw new HyperturtleError('HT_KERNEL', `vdpa ${args.slice(0, 2).join(' ')}: ${messageOf(e)}`, {
      cause: e,
    });
  }
}

/** A new device goes to whichever driver was loaded first; virtio_vdpa would make it a NIC of the host's own. */
function serveByVhost(name: string, places: VdpaPlaces): void {
  const device = path.join(places.sysfs, 'devices', name);
  const driver = (): string | undefined => {
    try {
      return path.basename(readlinkSync(path.join(device, 'driver')));
    } catch (e) {
      if (errnoCode(e) === 'ENOENT') return undefined;
      throw e;
    }
  };
  const now = driver();
  if (now === DRIVER) return;
  writeFileSync(path.join(device, 'driver_override'), DRIVER);
  if (now !== undefined) writeFileSync(path.join(device, 'driver/unbind'), name);
  writeFileSync(path.join(places.sysfs, 'drivers_probe'), name);
  if (driver() !== DRIVER)
    throw new HyperturtleError(
      'HT_KERNEL',
      `${name} has driver ${driver() ?? 'none'}, ${DRIVER} expected: 'modprobe vhost_vdpa'`,
    );
}

function nodeOf(name: string, places: VdpaPlaces): string | undefined {
  return readdirSync(path.join(places.sysfs, 'devices', name)).find((n) => /^vhost-vdpa-\d+$/.test(n));
}

/** MTU that the device of a network has when the configuration leaves it out. */
export const VDPA_MTU = 1500;
