/**
 * The outer machine of an Intel lab as Bochs' configuration, and the disc it boots from as isolinux' one. Pure. It has
 * no virtio: disks are ATA, channels are serial ports; L1 behind it is the same as everywhere.
 */
import { PORT } from './machine.ts';

/** What Bochs takes at most. */
export const BOCHS_MEM_MIB = 2048;
/** 16 heads of 63 sectors: disk images must be whole cylinders. */
export const CYLINDER_BYTES = 16 * 63 * 512;
/**
 * By ATA channel and place on it: the kernel names disks in the order in which it happens to find them. L1's start script is on
 * one of its own: one cylinder.
 */
const DISKS = { base: 'scsi:0:0:0:0', payload: 'scsi:0:0:1:0', l1Script: 'scsi:1:0:0:0' } as const;
/**
 * The ports after the console's, in order; the names are what L0 and L1 know them by. Not the fourth: it would share its
 * interrupt with the second, and Bochs lowers the line for both when one is served, so that the other's is lost.
 */
const PORTS = [PORT.agent, PORT.l1Agent] as const;

export interface BochsInputs {
  /** Model of `bochs --help cpu`. */
  model: string;
  biosRom: string;
  vgaRom: string;
  iso: string;
  baseDisk: string;
  payloadDisk: string;
  l1ScriptDisk: string;
  serialPath: string;
  /** Terminals of the channels, as many as PORTS. */
  terminals: readonly string[];
  logPath: string;
}

/** EPT with accessed and dirty bits, VPID, unrestricted guests, shadow VMCS. */
export const BOCHS_MODEL = 'broadwell_ult';

/**
 * Time is counted in instructions, some four times slower than a clock: an emulated second has so many of them that
 * timer ticks do not eat what the guests get done. When all halt, it jumps.
 */
const INSTRUCTIONS_PER_SECOND = 200_000_000;

export function bochsConfig(b: BochsInputs): string {
  const disk = (file: string): string => `type=disk, path="${file}", mode=volatile`;
  return [
    'config_interface: textconfig',
    'display_library: term',
    `memory: guest=${BOCHS_MEM_MIB}, host=${BOCHS_MEM_MIB}`,
    `romimage: file="${b.biosRom}"`,
    `vgaromimage: file="${b.vgaRom}"`,
    `cpu: model=${b.model}, count=1, ips=${INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0, ignore_bad_msrs=1`,
    'clock: sync=none, time0=local, rtc_sync=0',
    'ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14',
    'ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15',
    `ata0-master: ${disk(b.baseDisk)}`,
    `ata0-slave: ${disk(b.payloadDisk)}`,
    `ata1-master: ${disk(b.l1ScriptDisk)}`,
    `ata1-slave: type=cdrom, path="${b.iso}", status=inserted`,
    'boot: cdrom',
    `com1: enabled=1, mode=file, dev="${b.serialPath}"`,
    ...b.terminals.map((t, i) => `com${i + 2}: enabled=1, mode=term, dev="${t}"`),
    `log: "${b.logPath}"`,
    'panic: action=fatal',
    ...['error', 'info', 'debug'].map((level) => `${level}: action=ignore`),
    'mouse: enabled=0',
    'speaker: enabled=0',
    'sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy',
    '',
  ].join('\n');
}

/**
 * What a model has and the kernel must ignore. Kernels since 6.9 compare how many cores a package may have (leaf 4:
 * 8) with the processors it has (leaf 1: 1), and warn of what Bochs tells them: without the HT flag they do not look.
 * The size of the state that XSAVE would keep on `tigerlake` is not what kernels make of its components: they warn and do
 * without, 7.3 crashes on the way there.
 */
const cpuArgs = (kernelVersion: string, model: string): string[] => [
  ...(/^6\.1\./.test(kernelVersion) ? [] : ['clearcpuid=28']),
  ...(model === 'tigerlake' ? ['noxsave'] : []),
];

/** `kernelArgs`: of Artifacts.kernelArgs(0). */
export function isolinuxConfig(kernelArgs: string, kernelVersion: string, model: string): string {
  const ports = PORTS.map((name, i) => `ttyS${i + 1}:${name}`).join(',');
  const args = [
    ...[kernelArgs, ...cpuArgs(kernelVersion, model), 'nosmp', 'console=ttyS0,115200'],
    `hyperturtle.base=${DISKS.base}`,
    ...[`hyperturtle.payload=${DISKS.payload}`, `hyperturtle.l1=${DISKS.l1Script}`],
    `hyperturtle.ports=${ports}`,
  ];
  return `DEFAULT l\nPROMPT 0\nTIMEOUT 0\nLABEL l\n KERNEL /vmlinuz\n APPEND initrd=/initrd ${args.join(' ')}\n`;
}
