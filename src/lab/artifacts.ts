/**
 * What a machine needs to boot: the files that packages and builds give and the machines use. Made by
 * prepareArtifacts() (prepare.ts); every path is absolute on the host, read-only, and stays valid while the
 * process lives.
 */
import type { Progress } from '../core/progress.ts';
import type { ImageAbout } from '../guest/run/about.ts';

/** Kernel as the user names it: `6.1`, `6.12`, any other series that apt's lists have, or `6.1-debug` (kernel-name.ts). */
type KernelSeries = string;

export interface PrepareOptions {
  kernel: KernelSeries;
  /** Default: the machine's Debian's. Else the version of another release's: `10`, `11.1`. */
  qemu?: string | undefined;
  /** QEMU of the outer machine alone; default `qemu`. */
  outerQemu?: string | undefined;
  progress?: Progress;
  signal?: AbortSignal;
  /** Ask apt for newer versions. Otherwise a complete, recorded set is used as it is, without network. */
  refresh?: boolean;
}

/** A program of the tools tree: runs only with its environment, never with the host's libraries. */
export interface ToolProgram {
  bin: string;
  /** Arguments that must come first. */
  args: readonly string[];
  env: NodeJS.ProcessEnv;
}

export interface QemuProgram extends ToolProgram {
  /** Firmware directory, already passed by `args` (`-L`). */
  dataDir: string;
  /** Upstream version: `7.2`. */
  version: string;
}

/** For labs with an Intel processor. */
export interface BochsParts {
  bochs: ToolProgram;
  /** Where Bochs must be started. */
  cwd: string;
  /** socat. */
  relay: ToolProgram;
  biosRom: string;
  vgaRom: string;
  /** Boots L0's kernel with its arguments. */
  iso: string;
  /** Debian's. */
  version: string;
}

export interface BuiltPayload {
  /** erofs image for vdb; at most PAYLOAD_DISK_BYTES. */
  path: string;
  /** Content hash: the same sources give the same key. */
  key: string;
  bytes: number;
}

/** A root file system for nested guests. */
export interface L2Image {
  name: string;
  path: string;
  key: string;
  bytes: number;
  about: ImageAbout;
}

/** Size of the disk vdb: zeros when a snapshot is taken, a payload padded with zeros at restore. */
export const PAYLOAD_DISK_BYTES = 256 << 20;

/** Size of the disk vdc, sparse: zeros when a snapshot is taken, images of nested guests at restore. */
export const IMAGES_DISK_BYTES = 4 * 1024 ** 3;

/** fw_cfg name of the script that L0's init runs to start L1 (`-fw_cfg name=...,file=...`). */
export const L1_SCRIPT_FW_CFG = 'opt/org.hyperturtle/l1.sh';

/** Paths inside L0 and L1: both run from the same base image. */
export const IN_GUEST = {
  vmlinux: '/boot/vmlinux',
  /** The stock kernel, for L2s; only where L0 and L1 run another one. */
  l2Vmlinux: '/boot/vmlinux-l2',
  /** The same file as Artifacts.bootInitramfs; boots any level. */
  initramfs: '/boot/initramfs.cpio',
  /** Finds its firmware by itself: it lies where the package puts it. */
  qemu: '/usr/bin/qemu-system-x86_64',
  node: '/usr/bin/node',
  base: '/dev/vda',
  payloadDisk: '/dev/vdb',
  payload: '/payload',
  imagesDisk: '/dev/vdc',
  /** Where L1 mounts it, when the lab was asked for images. */
  images: '/images',
} as const;

export interface Artifacts {
  series: KernelSeries;
  /** As `uname -r`: `6.1.0-56-cloud-amd64`. */
  kernelVersion: string;
  /** Debian version of every package in use. */
  versions: Readonly<Record<string, string>>;
  /** Runs L0. */
  qemu: QemuProgram;
  /** Version of the one in L0, which runs L1; L1 has it too, for L2s. */
  l0QemuVersion: string;
  /** ELF kernel for PVH boot. */
  vmlinux: string;
  /** Small uncompressed initramfs for L0 and L1; `hyperturtle.level=N` on the command line says which. */
  bootInitramfs: string;
  /** erofs image for vda of L0 and, passed through by L0, of L1. */
  baseImage: string;
  /** Kernel arguments for `level`, without a console: add `console=ttyS0` or the like. */
  kernelArgs(level: 0 | 1 | 2): string;
  /** Hash of all that is in a snapshot: kernel, initramfs, base image, QEMU. */
  key: string;
  /** Fetched and made when asked for; for one of Bochs' models, default BOCHS_MODEL. */
  bochs(model?: string): Promise<BochsParts>;
  /** Compiles modules, programs and the L2 image, and packs them with our JavaScript. Cached by content. */
  buildPayload(options?: { progress?: Progress; signal?: AbortSignal }): Promise<BuiltPayload>;
  /** One root file system for nested guests. `refresh`: of the newest packages. */
  buildImage(
    name: string,
    options?: { progress?: Progress; signal?: AbortSignal; refresh?: boolean },
  ): Promise<L2Image>;
  /** Fetches and builds the root file systems of these names (l2-image-specs.ts); gives a disk image with them. */
  buildImagesDisk(
    names: readonly string[],
    options?: { progress?: Progress; signal?: AbortSignal },
  ): Promise<string>;
  /** KVM's selftests of the series, as a disk in place of that with images. Fetches the kernel's source. */
  kvmSelftestsDisk(options?: { progress?: Progress; signal?: AbortSignal }): Promise<string>;
}

/** Implemented by prepareArtifacts() in prepare.ts. */
export type PrepareArtifacts = (options: PrepareOptions) => Promise<Artifacts>;
