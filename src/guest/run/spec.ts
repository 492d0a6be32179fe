/** What `hyperturtle run` starts, as data, and the arguments of the stock QEMU that runs it. Pure. */
import { PLACES } from '../../core/default-paths.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { MAX_PORTS, machineOption, ramObject } from '../vmm/arguments.ts';
import type { RamKind } from '../vmm/arguments.ts';

/** File systems that the guest can mount as its root, read-only. */
export type RootFileSystem = 'erofs' | 'squashfs' | 'ext4';

export interface RunRoot {
  path: string;
  fileSystem: RootFileSystem;
}

export type RunNet =
  | { kind: 'none' }
  /** A tap of this machine, made and removed by QEMU, on `bridge`. */
  | { kind: 'bridge'; bridge: string; tap: string; mac: string }
  /** A NIC of L0, by VFIO. */
  | { kind: 'direct'; address: string };

export interface RunSpec {
  /** By which the agent, and so all that asks it, knows the guest. */
  name: string;
  memMib: number;
  cpus: number;
  ram: Exclude<RamKind, 'tmpfs-prealloc'>;
  kernel: string;
  initrd: string;
  /** Added to the kernel's command line. */
  append: string;
  machine: string;
  firmware: string | undefined;
  root: RunRoot;
  net: RunNet;
  /** A terminal, or a plain stream whose input is nothing. */
  console: 'terminal' | 'stream';
  /** The guest gives memory back that it does not use. */
  balloon: boolean;
  qemu: string;
}

/** Files of one run, in a directory of its own. */
export function runFilesIn(dir: string) {
  return {
    dir,
    qmpSocket: `${dir}/qmp`,
    /** QMP for anybody else, while it runs. */
    monitorSocket: `${dir}/monitor`,
    statusSocket: `${dir}/status`,
    initrd: `${dir}/initrd`,
    /** Root file system packed from a directory. */
    root: `${dir}/root.erofs`,
    serial: `${dir}/serial.log`,
    log: `${dir}/qemu.log`,
    state: `${dir}/state.json`,
  };
}
export type RunFilesOf = ReturnType<typeof runFilesIn>;

export const RUN_DIR = PLACES.runs.path;
/** Name of the port on which the guest tells what it does, and QEMU's id of it. */
export const STATUS_PORT = 'org.hyperturtle.run';
export const STATUS_PORT_ID = 'status0';
const MIN_MEM_MIB = 64;

/** Commas end a value in QEMU's option syntax: doubled, they don't. */
const q = (value: string): string => value.replaceAll(',', ',,');

/** What a user of another VMM would copy: without the sockets by which we watch it. */
export function runArguments(s: RunSpec): string[] {
  if (!Number.isInteger(s.memMib) || s.memMib < MIN_MEM_MIB)
    throw new HyperturtleError('HT_USAGE', `--memory: MiB >= ${MIN_MEM_MIB} expected, found ${s.memMib}`);
  return [
    ...['-name', `guest=${q(s.name)}`],
    ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'],
    ...['-accel', 'kvm', '-cpu', 'host', '-smp', String(s.cpus), '-m', `${s.memMib}M`],
    ...['-object', ramObject(s), '-machine', machineOption(s.machine)],
    ...(s.firmware === undefined ? [] : ['-bios', s.firmware]),
    ...['-kernel', s.kernel, '-initrd', s.initrd],
    ...['-append', `console=ttyS0 quiet panic=-1${s.append === '' ? '' : ` ${s.append}`}`],
    ...rootArguments(s.root),
    ...netArguments(s.net),
    ...(s.balloon ? ['-device', 'virtio-balloon-pci,id=balloon0,free-page-reporting=on'] : []),
    ...['-device', `virtio-serial-pci,id=serial0,max_ports=${MAX_PORTS}`],
    // without a terminal its input is /dev/null: the end of it does not close a console
    ...['-chardev', 'stdio,id=console,signal=off'],
    ...['-device', 'virtconsole,bus=serial0.0,nr=0,chardev=console'],
  ];
}

/** What a run adds for itself: stopped until it is registered, a port for the status, monitors, the kernel's console. */
export function watchArguments(files: RunFilesOf): string[] {
  const server = (path: string): string => `unix:${q(path)},server=on,wait=off`;
  return [
    ...['-S', '-serial', `file:${q(files.serial)}`],
    ...['-qmp', server(files.qmpSocket), '-qmp', server(files.monitorSocket)],
    ...['-chardev', `socket,id=status,path=${q(files.statusSocket)},server=on,wait=off`],
    // the id makes QEMU tell when the guest opens it
    ...[
      '-device',
      `virtserialport,bus=serial0.0,nr=1,chardev=status,id=${STATUS_PORT_ID},name=${STATUS_PORT}`,
    ],
  ];
}

function rootArguments(root: RunRoot): string[] {
  return [
    ...['-blockdev', `driver=file,node-name=root,filename=${q(root.path)},read-only=on`],
    ...['-device', 'virtio-blk-pci,drive=root'],
  ];
}

function netArguments(net: RunNet): string[] {
  switch (net.kind) {
    case 'none':
      return [];
    case 'bridge':
      return [
        ...['-netdev', `tap,id=net0,ifname=${net.tap},script=no,downscript=no`],
        ...['-device', `virtio-net-pci,netdev=net0,mac=${net.mac},romfile=`],
      ];
    case 'direct':
      // without its ROM, from which firmware would try to boot
      return ['-device', `vfio-pci,id=net0,host=${net.address},rombar=0`];
  }
}

/** Firmware of QEMU's that does next to nothing before it starts the kernel. */
const QBOOT = 'qboot.rom';

/**
 * The firmware to start a kernel by; undefined: SeaBIOS. `asked`: a file, 'default' for SeaBIOS, undefined for our choice.
 * QEMU until November 2024 hands an ELF kernel's header to the firmware out of a stack frame that it has left. By this header qboot
 * knows such a kernel; with a NIC by VFIO something else is there by then, and qboot reads zeros over the kernel. SeaBIOS
 * does not ask for it, and of a bzImage the header is kept.
 */
export function firmwareFor(
  asked: string | undefined,
  net: RunNet,
  isElf: () => boolean,
): string | undefined {
  if (asked !== undefined) return asked === 'default' ? undefined : asked;
  return net.kind === 'direct' && isElf() ? undefined : QBOOT;
}

/** Modules that the guest needs before it has a root file system. */
export function runModules(s: Pick<RunSpec, 'root' | 'net' | 'balloon'>): string[] {
  return [
    ...['virtio_pci', 'virtio_console', 'virtio_blk', 'overlay', s.root.fileSystem],
    // af_packet: for DHCP
    ...(s.net.kind === 'none' ? [] : ['virtio_net', 'af_packet']),
    ...(s.balloon ? ['virtio_balloon'] : []),
  ];
}
