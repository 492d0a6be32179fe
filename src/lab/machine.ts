/**
 * A machine as data, and the QEMU arguments that make it. Pure. The outer machine (which runs L0) and L1 are
 * both described here, so what one gives the other (disks, channels) stands side by side.
 */
import { IN_GUEST } from './artifacts.ts';

/** What executes the outer machine. Bochs emulates Intel's processors, TCG AMD's as far as virtualization goes. */
export type Accelerator = 'tcg' | 'kvm' | 'bochs';

interface DiskSpec {
  /** File or, inside L0, block device. Always opened read-only. */
  path: string;
  /** Also past the page cache: what is below may be replaced while the machine stands still. */
  uncached?: boolean;
}

/** How the machine's end of a channel looks to its guest. */
interface ChannelSpec {
  /** Name of the virtio-serial port; of a `console`, only for us. */
  name: string;
  kind: 'port' | 'console';
  /** `pipe`: a pair of named pipes `<path>.in`/`.out`, or a device. `file`: output only. `socket`: a unix socket. */
  backend: { kind: 'pipe' | 'file' | 'socket'; path: string };
}

/**
 * What passes the time in a machine that is emulated by QEMU. `instructions`: two nanoseconds for each that its processor
 * runs, and real time while it idles. So ticks of three kernels cost the same share of their work however slow the emulator
 * is; with `real` they take most of a slow one. Bochs always counts instructions, KVM never does.
 */
export type LabClock = 'real' | 'instructions';

/** As QEMU has it: an instruction takes 2^shift ns. */
const INSTRUCTION_SHIFT = 1;
export const NS_PER_INSTRUCTION = 2 ** INSTRUCTION_SHIFT;

export interface MachineSpec {
  accel: Accelerator;
  /** Default `real`. */
  clock?: LabClock;
  cpus: number;
  memMib: number;
  /** NUMA nodes, among which CPUs and memory are divided; default one. */
  nodes?: number;
  /** Bits of physical addresses, where the processor's are not right for the firmware; KVM's guests alone. */
  addressBits?: number;
  /** RAM in this file. `private`: changes stay in this process, the file is a template. */
  ramFile?: { path: string; private: boolean };
  kernel: string;
  initrd: string;
  cmdline: string;
  disks: readonly DiskSpec[];
  channels: readonly ChannelSpec[];
  /** The first serial port's output. */
  serialPath: string;
  /** Control sockets; each serves one client at a time. */
  qmpSockets: readonly string[];
  /** A virtual IOMMU, so that the machine can hand its devices on to its own guests (VFIO). */
  iommu?: boolean;
  /** Files that the guest reads by fw_cfg: name to path. */
  fwCfg?: Readonly<Record<string, string>>;
  /** Root ports for hot-plug; `pref64Mib` reserves a 64-bit prefetchable window. */
  rootPorts?: readonly { id: string; pref64Mib?: number }[];
  /** Wait for a saved state instead of booting. */
  incoming?: boolean;
  pidFile?: string;
  /** A reset boots it again; else it ends the machine, so that a panic is not a boot loop. */
  reboots?: boolean;
}

/** Size of L1's window for its arena: a BAR above 4 GiB, which firmware leaves cacheable. */
const ARENA_WINDOW_MIB = 1024;
/** Root ports of L1 for NICs that it asks for. */
export const SPARE_PORTS = 8;
/** Consoles of nested guests that reach the host: of the first L1's, then of the second's. */
export const L2_CHANNELS = 5;
/** How much more memory L0 needs than its L1 has. */
const L0_OWN_MEM_MIB = 1024;

export const PORT = {
  agent: 'org.qemu.guest_agent.0',
  /** The control channel between L0's daemon and L1's agent. */
  control: 'org.hyperturtle.v1',
  l1Agent: 'org.hyperturtle.lab.l1',
  l1Serial: 'org.hyperturtle.lab.l1log',
  l1Console: 'org.hyperturtle.lab.l1con',
  secondAgent: 'org.hyperturtle.lab.l1b',
  secondSerial: 'org.hyperturtle.lab.l1blog',
  l2: (n: number): string => `org.hyperturtle.lab.l2.${n}`,
} as const;

/** Where an L1's QEMU keeps its things, in L0. */
function l1Run(dir: string) {
  return {
    dir,
    qmpSocket: `${dir}/qmp.sock`,
    /** For the daemon, which keeps it. */
    daemonQmpSocket: `${dir}/hyperturtle-qmp.sock`,
    /** L1's end of the control channel. */
    agentSocket: `${dir}/agent.sock`,
    pidFile: `${dir}/qemu.pid`,
    log: `${dir}/qemu.log`,
    console: `${dir}/console`,
    /** Exit status of its QEMU; missing while that runs. */
    ended: `${dir}/ended`,
  };
}

export const L1_RUN = l1Run('/run/l1');

/** What of L0 an L1 has for itself: its directory, and the outer machine's ports. */
export interface L1Seat {
  run: ReturnType<typeof l1Run>;
  /** Without a port for it, the serial console goes to `run.console`. */
  ports: { agent: string; serial?: string; console?: string };
  /** Numbers of the consoles that its nested guests have. */
  l2: readonly number[];
  /** Whether it is given the disk with their images; default true. */
  images?: boolean;
  /** Whether it can get NICs and hand them on: IOMMU and spare ports; default true. */
  nics?: boolean;
}

/** The L1 that is in every lab and in the snapshot. */
export const FIRST_SEAT: L1Seat = {
  run: L1_RUN,
  ports: { agent: PORT.l1Agent, serial: PORT.l1Serial, console: PORT.l1Console },
  l2: [0, 1, 2, 3],
};

/**
 * The one behind an outer machine with three disks, and two serial ports to spare: L0's agent has the first. An IOMMU
 * moves interrupts and timer into its QEMU, which costs too much there.
 */
export const SERIAL_SEAT: L1Seat = {
  run: L1_RUN,
  ports: { agent: PORT.l1Agent },
  l2: [],
  images: false,
  nics: false,
};

/** A second one, booted when somebody wants it: for what must hold between tenants. */
export const SECOND_SEAT: L1Seat = {
  run: l1Run('/run/l1b'),
  ports: { agent: PORT.secondAgent, serial: PORT.secondSerial },
  l2: [4],
};

/**
 * 4-level paging: 5 levels, which TCG's `max` has, cost each nested walk a level. No XSAVE: TCG has no SVM intercept for
 * XSETBV, so KVM would not see what L1 sets, and L1's kernel warns and turns it off by itself. Nothing that needs XSAVE
 * either: 7.3 believes each flag by itself, and its crypto library would use AVX. No fast string operations (ERMS, FSRM): a
 * processor that has them clears a page by `rep stosb` in some hundred cycles, TCG takes a step for each of 4,096 bytes.
 */
const TCG_CPU = `max,la57=off,-erms,-fsrm,-xsave,${['avx', 'avx2', 'f16c', 'fma', 'vaes', 'vpclmulqdq'].map((f) => `-${f}`).join(',')}`;

const portDevice = (name: string): string => `/dev/virtio-ports/${name}`;

/** Commas end a value in QEMU's option syntax: doubled, they don't. */
const q = (value: string): string => value.replaceAll(',', ',,');

/** Arguments for qemu-system-x86_64, without the program's own. */
export function qemuArguments(m: MachineSpec): string[] {
  const args = ['-nodefaults', '-no-user-config', '-display', 'none'];
  if (!m.reboots) args.push('-no-reboot');
  // a large translation buffer: three kernels are translated. Interrupt routing and so on: see kernelArgs().
  const counts = m.accel === 'tcg' && m.clock === 'instructions';
  const tcg = `tcg,thread=${counts ? 'single' : 'multi'},tb-size=512`;
  args.push('-accel', m.accel === 'tcg' ? tcg : 'kvm');
  if (counts) args.push('-icount', `shift=${INSTRUCTION_SHIFT},sleep=on`);
  const host = m.addressBits === undefined ? 'host' : `host,host-phys-bits-limit=${m.addressBits}`;
  args.push('-cpu', m.accel === 'tcg' ? TCG_CPU : host);
  // a package for each node: L1's kernel warns of CPUs that share caches across nodes
  const sockets = m.nodes === undefined ? '' : `,sockets=${m.nodes}`;
  args.push('-smp', `${m.cpus}${sockets}`, '-m', `${m.memMib}M`);
  // interrupt remapping needs QEMU's own IOAPIC
  const irqchip = m.iommu ? ',kernel-irqchip=split' : '';
  // no HPET: QEMU 10 goes on waking up for one that the kernel has masked, 250 times a second at each level
  args.push('-M', `q35,hpet=off${irqchip}${m.ramFile ? ',memory-backend=ram' : ''}`);
  if (m.ramFile)
    args.push(
      '-object',
      `memory-backend-file,id=ram,mem-path=${q(m.ramFile.path)},size=${m.memMib}M,share=${m.ramFile.private ? 'off' : 'on'}`,
    );
  args.push(...nodeArguments(m));
  args.push('-kernel', m.kernel, '-initrd', m.initrd, '-append', m.cmdline);
  args.push('-chardev', `file,id=serial,path=${q(m.serialPath)},append=on`, '-serial', 'chardev:serial');
  // before all devices that it shall serve. Intel's works beside an AMD CPU too, and as L1's kernel wants it
  if (m.iommu) args.push('-device', 'intel-iommu,intremap=on');
  for (const socket of m.qmpSockets) args.push('-qmp', `unix:${q(socket)},server=on,wait=off`);
  m.disks.forEach((d, i) => {
    const cache = d.uncached ? ',cache.direct=on' : '';
    args.push(
      '-blockdev',
      `driver=${d.path.startsWith('/dev/') ? 'host_device' : 'file'},node-name=disk${i},filename=${q(d.path)},read-only=on${cache}`,
      '-device',
      `virtio-blk-pci,drive=disk${i}`,
    );
  });
  if (m.channels.length > 0)
    args.push('-device', `virtio-serial-pci,id=channels,max_ports=${m.channels.length + 2}`);
  m.channels.forEach((c, i) => {
    const server = c.backend.kind === 'socket' ? ',server=on,wait=off' : '';
    args.push('-chardev', `${c.backend.kind},id=ch${i},path=${q(c.backend.path)}${server}`, '-device');
    // port 0 is for a console in old drivers
    args.push(
      c.kind === 'console'
        ? `virtconsole,bus=channels.0,nr=${i + 1},chardev=ch${i}`
        : `virtserialport,bus=channels.0,nr=${i + 1},chardev=ch${i},name=${c.name}`,
    );
  });
  (m.rootPorts ?? []).forEach((p, i) => {
    const window = p.pref64Mib ? `,pref64-reserve=${p.pref64Mib}M` : '';
    args.push('-device', `pcie-root-port,id=${p.id},chassis=${i + 1},slot=${i + 1}${window}`);
  });
  for (const [name, file] of Object.entries(m.fwCfg ?? {}))
    args.push('-fw_cfg', `name=${name},file=${q(file)}`);
  if (m.incoming) args.push('-incoming', 'defer');
  if (m.pidFile) args.push('-pidfile', m.pidFile);
  return args;
}

/** Nodes of equal memory, and CPUs in order. */
function nodeArguments({ nodes = 1, cpus, memMib }: MachineSpec): string[] {
  if (nodes === 1) return [];
  return Array.from({ length: nodes }, (_, n) => {
    const [first, last] = [n, n + 1].map((i) => Math.floor((i * cpus) / nodes));
    const has = first! < last! ? `,cpus=${first}-${last! - 1}` : '';
    return [
      ...['-object', `memory-backend-ram,id=node${n},size=${memMib / nodes}M`],
      ...['-numa', `node,nodeid=${n},memdev=node${n}${has}`],
    ];
  }).flat();
}

/** What the user of a lab may choose about L1. */
export interface L1Shape {
  cpus: number;
  memMib: number;
  /** NUMA nodes; default one. */
  nodes?: number;
  /** By l1AddressBits(). */
  addressBits?: number;
  /** Memory of L0 that is kept for a second L1. */
  secondMemMib?: number;
}

/**
 * The SeaBIOS that comes with QEMU since 8 puts 64-bit windows at the end of the physical address space. TCG has 40 bits of
 * it, and QEMU says of an AMD guest's that the last 12 GiB below 1 TiB are reserved: no BAR that is plugged later, as the
 * arena's is, gets an address there. With a bit less there is no such hole.
 */
export function l1AddressBits(qemuVersion: string): { addressBits?: number } {
  return Number.parseInt(qemuVersion, 10) >= 8 ? { addressBits: 39 } : {};
}

/** L1, as L0 runs it. `kernelArgs`: of Artifacts.kernelArgs(1). */
export function l1Machine(
  shape: Pick<L1Shape, 'cpus' | 'memMib' | 'nodes' | 'addressBits'>,
  kernelArgs: string,
  { run, ports, l2, images = true, nics = true }: L1Seat = FIRST_SEAT,
): MachineSpec {
  const through = (name: string): ChannelSpec['backend'] => ({ kind: 'pipe', path: portDevice(name) });
  return {
    accel: 'kvm',
    cpus: shape.cpus,
    memMib: shape.memMib,
    ...(shape.nodes === undefined ? {} : { nodes: shape.nodes }),
    ...(shape.addressBits === undefined ? {} : { addressBits: shape.addressBits }),
    kernel: IN_GUEST.vmlinux,
    initrd: IN_GUEST.initramfs,
    cmdline: `console=ttyS0 ${kernelArgs}`,
    // payload and images are replaced below a running L1 when a snapshot is restored
    disks: [
      { path: IN_GUEST.base },
      { path: IN_GUEST.payloadDisk, uncached: true },
      ...(images ? [{ path: IN_GUEST.imagesDisk, uncached: true }] : []),
    ],
    channels: [
      { name: PORT.agent, kind: 'port', backend: through(ports.agent) },
      ...(ports.console === undefined
        ? []
        : [{ name: 'console', kind: 'console', backend: through(ports.console) } as const]),
      ...l2.map((n): ChannelSpec => ({ name: PORT.l2(n), kind: 'port', backend: through(PORT.l2(n)) })),
      { name: PORT.control, kind: 'port', backend: { kind: 'socket', path: run.agentSocket } },
    ],
    serialPath: ports.serial === undefined ? run.console : portDevice(ports.serial),
    qmpSockets: [run.qmpSocket, run.daemonQmpSocket],
    pidFile: run.pidFile,
    iommu: nics,
    rootPorts: [
      { id: 'arena0', pref64Mib: ARENA_WINDOW_MIB },
      ...Array.from({ length: nics ? SPARE_PORTS : 0 }, (_, i) => ({ id: `spare${i}` })),
    ],
  };
}

/** The script that starts an L1 in L0, and stays until that ends. L0's init runs the first one's. */
export function l1Script(l1: MachineSpec, { run }: L1Seat = FIRST_SEAT): string {
  const words = [IN_GUEST.qemu, ...qemuArguments(l1)].map(shellWord).join(' ');
  return `mkdir -p ${run.dir}\n${words} </dev/null >${run.log} 2>&1\necho "status $?" >${run.ended}\n`;
}

export function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** Files of one run of the outer machine, all in its directory. */
export function runFiles(dir: string) {
  const at = (name: string): string => `${dir}/${name}`;
  return {
    qmpSocket: at('qmp'),
    l1Script: at('l1.sh'),
    /** Console output of each level. */
    serial: { 0: at('l0.log'), 1: at('l1.log') } as const,
    secondSerial: at('l1b.log'),
    qemuLog: at('qemu.log'),
    /** Bases of the channels' named pipes. */
    channel: {
      l0: at('l0'),
      l1: at('l1'),
      second: at('l1b'),
      l0Console: at('l0con'),
      l1Console: at('l1con'),
      l2: (n: number): string => at(`l2.${n}`),
    },
  };
}

export type RunFiles = ReturnType<typeof runFiles>;

export function l2Numbers(): number[] {
  return Array.from({ length: L2_CHANNELS }, (_, n) => n);
}

/** Bases of all channels of a run for which pipes must be made before its QEMU starts. */
export function channelBases(files: RunFiles): string[] {
  const c = files.channel;
  return [c.l0, c.l1, c.second, c.l0Console, c.l1Console, ...l2Numbers().map((n) => c.l2(n))];
}

export interface OuterInputs {
  accel: Accelerator;
  clock: LabClock;
  l1: L1Shape;
  kernel: string;
  initrd: string;
  /** Kernel arguments, by Artifacts.kernelArgs(0). */
  kernelArgs: string;
  baseImage: string;
  payloadDisk: string;
  imagesDisk: string;
  files: RunFiles;
  ramFile?: MachineSpec['ramFile'];
  incoming: boolean;
  l1ScriptName: string;
}

/** The machine that runs L0. */
export function outerMachine(o: OuterInputs): MachineSpec {
  const pipe = (path: string): ChannelSpec['backend'] => ({ kind: 'pipe', path });
  return {
    accel: o.accel,
    clock: o.clock,
    // more than one emulated CPU loses interrupts when nesting; under KVM there is no such fault
    cpus: o.accel === 'tcg' ? 1 : Math.max(2, o.l1.cpus),
    memMib: outerMemMib(o.l1),
    ...(o.ramFile ? { ramFile: o.ramFile } : {}),
    kernel: o.kernel,
    initrd: o.initrd,
    cmdline: `console=ttyS0 ${o.kernelArgs}`,
    disks: [{ path: o.baseImage }, { path: o.payloadDisk }, { path: o.imagesDisk }],
    channels: [
      { name: PORT.agent, kind: 'port', backend: pipe(o.files.channel.l0) },
      { name: PORT.l1Agent, kind: 'port', backend: pipe(o.files.channel.l1) },
      { name: PORT.l1Serial, kind: 'port', backend: { kind: 'file', path: o.files.serial[1] } },
      { name: PORT.secondAgent, kind: 'port', backend: pipe(o.files.channel.second) },
      { name: PORT.secondSerial, kind: 'port', backend: { kind: 'file', path: o.files.secondSerial } },
      { name: 'console', kind: 'console', backend: pipe(o.files.channel.l0Console) },
      { name: PORT.l1Console, kind: 'port', backend: pipe(o.files.channel.l1Console) },
      ...l2Numbers().map(
        (n): ChannelSpec => ({ name: PORT.l2(n), kind: 'port', backend: pipe(o.files.channel.l2(n)) }),
      ),
    ],
    serialPath: o.files.serial[0],
    qmpSockets: [o.files.qmpSocket],
    fwCfg: { [o.l1ScriptName]: o.files.l1Script },
    incoming: o.incoming,
  };
}

export function outerMemMib(l1: L1Shape): number {
  return l1.memMib + (l1.secondMemMib ?? 0) + L0_OWN_MEM_MIB;
}
