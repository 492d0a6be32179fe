/**
 * Tap devices, the L0 end of NICs. Not persistent: a tap ends with its last descriptor, so with the QEMU that got it,
 * however that ends. The descriptors that are made here are for handing on.
 */
import { openSync, readFileSync, readdirSync } from 'node:fs';
import type { Caller } from '../../bpf/calls.ts';
import { OwnedFd } from '../../bpf/fds.ts';
import { closeBy, deviceSocket, ioctlBy, openDevice, writeBy } from '../../bpf/sys.ts';
import type { Explain } from '../../bpf/sys.ts';
import { HyperturtleError } from '../../core/errors.ts';
import type { IoctlRequest } from '../../kernel/ioctl.ts';

/** struct ifreq: a name of 16 bytes and a union of 24. */
const IFREQ_BYTES = 40;
const NAME_BYTES = 16;
const request = (name: string, code: number): IoctlRequest => ({ name, code, size: IFREQ_BYTES });
const TUNSETIFF: IoctlRequest = request('TUNSETIFF', 0x400454ca);
const SIOCGIFFLAGS = request('SIOCGIFFLAGS', 0x8913);
const SIOCSIFFLAGS = request('SIOCSIFFLAGS', 0x8914);
const SIOCGIFMTU = request('SIOCGIFMTU', 0x8921);
const SIOCSIFMTU = request('SIOCSIFMTU', 0x8922);
const SIOCGIFINDEX = request('SIOCGIFINDEX', 0x8933);
const SIOCBRADDIF = request('SIOCBRADDIF', 0x89a2);

const IFF_UP = 1;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;

export const TUN_DEVICE = '/dev/net/tun';
export const VHOST_DEVICE = '/dev/vhost-net';

export interface TapSpec {
  /** The bridge that it becomes a port of. */
  bridge: string;
  /** Left out: the bridge's. */
  mtu?: number | undefined;
}

export interface Tap {
  /** Owned by the caller; the tap is there as long as any copy is open. */
  file: OwnedFd;
  ifname: string;
  ifindex: number;
  mtu: number;
}

/**
 * An up tap on the bridge. Most of it waits for the lock of all network devices (RTNL), which others hold for as long as
 * they like, so it is called by `call`. Throws HT_NOT_FOUND without the bridge or /dev/net/tun, HT_KERNEL.
 */
export async function makeTap(call: Caller, spec: TapSpec): Promise<Tap> {
  const file = openDevice(TUN_DEVICE, "load the module: 'modprobe tun'");
  const socket = deviceSocket();
  try {
    const noBridge: Explain = {
      ENODEV: [
        'HT_NOT_FOUND',
        `there is no network device ${spec.bridge}: the bridge of the configuration is missing`,
      ],
      EOPNOTSUPP: ['HT_CONFIG', `${spec.bridge} is no bridge`],
      EPERM: ['HT_KERNEL', 'not permitted: CAP_NET_ADMIN is needed'],
    };
    const mtu = spec.mtu ?? numberIn(await ioctlOf(call, socket, SIOCGIFMTU, spec.bridge, 0, noBridge));
    const made = await ioctlOf(call, file, TUNSETIFF, 'htn%d', IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, {
      EPERM: ['HT_KERNEL', 'not permitted: CAP_NET_ADMIN is needed'],
    });
    const ifname = Buffer.from(made.subarray(0, NAME_BYTES)).toString('latin1').replace(/\0.*$/s, '');
    const ifindex = numberIn(await ioctlOf(call, socket, SIOCGIFINDEX, ifname));
    await quiet(call, ifname);
    await ioctlOf(call, socket, SIOCSIFMTU, ifname, mtu, {
      EINVAL: ['HT_CONFIG', `an MTU of ${mtu} is not possible for a tap`],
    });
    await ioctlOf(call, socket, SIOCBRADDIF, spec.bridge, ifindex, noBridge);
    const flags = numberIn(await ioctlOf(call, socket, SIOCGIFFLAGS, ifname)) & 0xffff;
    await ioctlOf(call, socket, SIOCSIFFLAGS, ifname, flags | IFF_UP);
    return { file, ifname, ifindex, mtu };
  } catch (e) {
    await closeBy(call, file);
    throw e;
  } finally {
    socket.close();
  }
}

/** The number of a network device of this name, or undefined. */
export function ifindexOf(ifname: string): number | undefined {
  try {
    return Number(readFileSync(`/sys/class/net/${ifname}/ifindex`, 'latin1'));
  } catch {
    return undefined;
  }
}

/** Numbers of all network devices that this process sees. */
export function networkDevices(): number[] {
  return readdirSync('/sys/class/net').flatMap((name) => ifindexOf(name) ?? []);
}

/** MTU of a network device, or undefined when there is none of this name. */
export function mtuOf(ifname: string): number | undefined {
  try {
    return Number(readFileSync(`/sys/class/net/${ifname}/mtu`, 'latin1'));
  } catch {
    return undefined;
  }
}

/** What frames of a NIC are counted by. */
type FrameCounter = 'bytes' | 'packets' | 'dropped' | 'errors';

export interface Frames {
  direction: 'sent' | 'received';
  counts: Readonly<Record<FrameCounter, number>>;
}

/**
 * Frames of all network devices that this process sees, as L2 sees them: the tap receives what L2 sends. By one file, however
 * many there are: a file for each counter of each device kept a daemon with 10,000 NICs busy for minutes.
 */
export function framesByDevice(): Map<string, readonly Frames[]> {
  const lines = readFileSync('/proc/net/dev', 'latin1').split('\n').slice(2);
  return new Map(
    lines.flatMap((line) => {
      const colon = line.lastIndexOf(':');
      if (colon < 0) return [];
      const numbers = line
        .slice(colon + 1)
        .trim()
        .split(/ +/)
        .map(Number);
      const counts = (first: number): Frames['counts'] => {
        const [bytes = 0, packets = 0, errors = 0, dropped = 0] = numbers.slice(first);
        return { bytes, packets, errors, dropped };
      };
      const frames: Frames[] = [
        { direction: 'sent', counts: counts(0) },
        { direction: 'received', counts: counts(8) },
      ];
      return [[line.slice(0, colon).trim(), frames] as const];
    }),
  );
}

/** For vhost, which moves frames in the kernel instead of in QEMU; undefined where the host has none. */
export function openVhost(): OwnedFd | undefined {
  try {
    return openDevice(VHOST_DEVICE, "load the module: 'modprobe vhost_net'");
  } catch (e) {
    if (e instanceof HyperturtleError) return undefined;
    throw e;
  }
}

/** The host itself has no business with what L2 sends: no address of its own on this device. */
async function quiet(call: Caller, ifname: string): Promise<void> {
  const path = `/proc/sys/net/ipv6/conf/${ifname}/disable_ipv6`;
  let file: OwnedFd | undefined;
  try {
    file = new OwnedFd(openSync(path, 'w'), path);
    await writeBy(call, file, '1');
  } catch {
    // no IPv6 here, or not ours to change: as a bridge's port it hands all frames to the bridge
  } finally {
    file?.close();
  }
}

/** A struct ifreq with a name and one number; what the kernel made of it. */
async function ioctlOf(
  call: Caller,
  file: OwnedFd,
  of: IoctlRequest,
  name: string,
  value = 0,
  explain: Explain = {},
): Promise<Uint8Array> {
  const arg = Buffer.alloc(IFREQ_BYTES);
  if (Buffer.byteLength(name) >= NAME_BYTES)
    throw new HyperturtleError('HT_CONFIG', `network device '${name}': at most 15 bytes expected`);
  arg.write(name, 'latin1');
  arg.writeInt32LE(value, NAME_BYTES);
  await ioctlBy(call, file, of, arg, explain);
  return arg;
}

const numberIn = (ifreq: Uint8Array): number => Buffer.from(ifreq).readInt32LE(NAME_BYTES);
