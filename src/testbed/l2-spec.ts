/** An L2 as data, and the arguments for the stock QEMU that runs it. Pure. */
import { HyperturtleError } from '../core/errors.ts';
import { MAX_PORTS, machineOption, pluggedObject, ramObject } from '../guest/vmm/arguments.ts';
import type { RamKind } from '../guest/vmm/arguments.ts';

/**
 * A NIC of an L2: one of the host's, handed on by VFIO (`hyperturtle nic add` binds it; all of L2's RAM is then pinned),
 * or a virtio NIC of its VMM on a tap of this machine.
 */
export type L2Nic =
  | { kind: 'vfio'; address: string }
  | { kind: 'tap'; ifname: string; mac: string; vhost: boolean };

export const L2_RUN_DIR = '/run/hyperturtle/l2';

/** Size of the small guest that needs no kernel: below this nothing boots. */
const MIN_MEM_MIB = 2;

export interface L2Spec {
  /** Letters, digits, dots and dashes: it names files. */
  name: string;
  memMib: number;
  ram: RamKind;
  kernel: string;
  /** None for a kernel that needs none. */
  initrd?: string | undefined;
  append: string;
  /** `pc`, `q35` or `microvm`. */
  machine: string;
  /**
   * Of QEMU's own: `qboot.rom` does next to nothing before it starts the kernel; SeaBIOS (undefined) makes some
   * thousand exits, which nested take longer than a small kernel's boot.
   */
  firmware?: string | undefined;
  /** The far end of L2's console port: a device that another machine serves, or a socket that QEMU makes. */
  console: { kind: 'device' | 'socket'; path: string };
  qemu: string;
  /** Keep RAM in a file with this name, so that somebody else can map it too; removed at the end. */
  ramFileName?: string | undefined;
  /** NICs; those by VFIO are plugged in once it is up: see L2Machine.plugNics(). */
  nics?: readonly L2Nic[];
  /**
   * MiB of its virtio-mem device, of which it has none at first, a multiple of 128 (a block of Linux); DIMMs of as much in all
   * can be plugged beside it. Its driver is in /modules of the guest and is loaded by whom wants it. 0: none of that.
   */
  plugMib?: number;
  /** A port whose write ends QEMU: how a guest without a kernel tells its result. */
  exitDevice?: boolean;
}

export interface L2Files {
  dir: string;
  /** The launcher's own; a QMP socket serves one client at a time. */
  qmpSocket: string;
  /** QMP for anybody else. */
  monitorSocket: string;
  serial: string;
  log: string;
  state: string;
  /** Where memory is to be plugged: with the driver for that. */
  initrd: string;
}

export function l2Files(name: string): L2Files {
  if (!/^[A-Za-z0-9][A-Za-z0-9.-]{0,30}$/.test(name))
    throw new HyperturtleError(
      'HT_USAGE',
      `name of an L2: expected up to 31 letters, digits, dots and dashes, found '${name}'`,
    );
  const dir = `${L2_RUN_DIR}/${name}`;
  return {
    dir,
    qmpSocket: `${dir}/qmp`,
    monitorSocket: `${dir}/monitor`,
    serial: `${dir}/serial.log`,
    log: `${dir}/qemu.log`,
    state: `${dir}/state.json`,
    initrd: `${dir}/initrd`,
  };
}

/**
 * A periodic tick that L2's kernel need not reprogram. By default each tick is an interrupt and an MSR write, both of
 * which go through L1: at 250 Hz and a millisecond or two for each, an emulated L2 does little else. Every variant
 * runs with it.
 */
export const L2_TICK_ARGUMENTS = 'nohz=off highres=off lapic=notscdeadline';

export const VIRTIO_MEM_ID = 'vmem0';
const PLUG_BLOCK_MIB = 128;

export const FAST_FIRMWARE = 'qboot.rom';
export const CONSOLE_PORT_ID = 'console0';
export function l2Arguments(spec: L2Spec, files: L2Files): string[] {
  if (!Number.isInteger(spec.memMib) || spec.memMib < MIN_MEM_MIB)
    throw new HyperturtleError(
      'HT_USAGE',
      `memory of an L2: expected MiB >= ${MIN_MEM_MIB}, found ${spec.memMib}`,
    );
  const chardev =
    spec.console.kind === 'device'
      ? `pipe,id=console,path=${spec.console.path}`
      : `socket,id=console,path=${spec.console.path},server=on,wait=off`;
  const bus = spec.machine === 'microvm' ? 'virtio-serial-device' : 'virtio-serial-pci';
  return [
    // the agent calls it so
    ...['-name', spec.name],
    ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-S'],
    ...['-accel', 'kvm', '-cpu', 'host', '-smp', '1', '-m', memorySize(spec)],
    ...['-object', ramObject(spec), '-machine', machineOption(spec.machine)],
    ...(spec.firmware === undefined ? [] : ['-bios', spec.firmware]),
    ...['-serial', `file:${files.serial}`, '-qmp', `unix:${files.qmpSocket},server=on,wait=off`],
    ...['-qmp', `unix:${files.monitorSocket},server=on,wait=off`],
    ...['-device', `${bus},id=serial0,max_ports=${MAX_PORTS}`, '-chardev', chardev],
    // the id makes QEMU tell when the guest opens the port: that is when userspace is up
    ...['-device', `virtserialport,bus=serial0.0,nr=1,chardev=console,id=${CONSOLE_PORT_ID},name=l2`],
    ...['-kernel', spec.kernel],
    ...(spec.initrd === undefined ? [] : ['-initrd', spec.plugMib ? files.initrd : spec.initrd]),
    ...['-append', spec.append],
    ...(spec.nics ?? []).flatMap(nicArguments),
    ...virtioMem(spec),
    ...(spec.exitDevice ? ['-device', 'isa-debug-exit,iobase=0xf4'] : []),
  ];
}

function memorySize({ memMib, plugMib = 0 }: L2Spec): string {
  if (plugMib === 0) return `${memMib}M`;
  if (plugMib % PLUG_BLOCK_MIB !== 0)
    throw new HyperturtleError(
      'HT_USAGE',
      `plugged memory of an L2: expected a multiple of ${PLUG_BLOCK_MIB} MiB, found ${plugMib}`,
    );
  return `${memMib}M,slots=2,maxmem=${memMib + 2 * plugMib}M`;
}

function virtioMem({ ram, plugMib = 0 }: L2Spec): string[] {
  if (plugMib === 0) return [];
  return [
    ...['-object', pluggedObject('plug0', ram, plugMib)],
    ...['-device', `virtio-mem-pci,id=${VIRTIO_MEM_ID},memdev=plug0,requested-size=0`],
  ];
}

/** `romfile`: no firmware boots from it. */
function nicArguments(nic: L2Nic, n: number): string[] {
  if (nic.kind === 'vfio') return [];
  const vhost = nic.vhost ? ',vhost=on' : '';
  return [
    ...['-netdev', `tap,id=net${n},ifname=${nic.ifname},script=no,downscript=no${vhost}`],
    ...['-device', `virtio-net-pci,netdev=net${n},mac=${nic.mac},disable-legacy=on,romfile=`],
  ];
}

/** Arguments of device_add. `rombar`: no firmware looks at it any more. */
export function vfioDevices(spec: Pick<L2Spec, 'nics'>): Record<string, unknown>[] {
  return (spec.nics ?? []).flatMap((nic, n) =>
    nic.kind === 'vfio' ? [{ driver: 'vfio-pci', id: `net${n}`, host: nic.address, rombar: 0 }] : [],
  );
}

/** `vfio:0000:08:00.0` or `tap:NAME:MAC[:vhost]`. Throws HT_USAGE. */
export function parseNic(text: string): L2Nic {
  const vfio = /^vfio:([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])$/.exec(text);
  if (vfio) return { kind: 'vfio', address: vfio[1]! };
  const tap = /^tap:([^:,\s/]{1,15}):((?:[0-9a-f]{2}:){5}[0-9a-f]{2})(:vhost)?$/.exec(text);
  if (tap) return { kind: 'tap', ifname: tap[1]!, mac: tap[2]!, vhost: tap[3] !== undefined };
  throw new HyperturtleError(
    'HT_USAGE',
    `NIC of an L2: vfio:0000:08:00.0 or tap:NAME:02:00:00:00:00:01[:vhost] expected, '${text}' found`,
  );
}

/** The other way. */
export function formatNic(nic: L2Nic): string {
  return nic.kind === 'vfio'
    ? `vfio:${nic.address}`
    : `tap:${nic.ifname}:${nic.mac}${nic.vhost ? ':vhost' : ''}`;
}
