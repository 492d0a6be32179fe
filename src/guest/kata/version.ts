/** Versions of Kata, and what differs between them for us, as read in their sources (3.2.0 to 4.1.0). Pure. */

/** The runtime in Go, or the one in Rust (runtime-rs). */
export type Flavor = 'go' | 'rs';

export interface KataVersion {
  /** As its own program says it. */
  text: string;
  major: number;
  minor: number;
}

export const OLDEST = '3.2';

/** What `containerd-shim-kata-v2 --version` says; undefined: no Kata. */
export function shimVersion(said: string): { flavor: Flavor; version: KataVersion } | undefined {
  const flavor = /containerd shim \((Golang|Rust)\)/.exec(said)?.[1];
  const version = versionIn(/version: (\S+?),?(?:\s|$)/.exec(said)?.[1] ?? '');
  if (flavor === undefined || version === undefined) return undefined;
  return { flavor: flavor === 'Rust' ? 'rs' : 'go', version };
}

/** A version such as `3.31.0` or `4.0.0-rc1`. */
export function versionIn(text: string): KataVersion | undefined {
  const [, major, minor] = /^v?(\d+)\.(\d+)(?:[.-]|$)/.exec(text) ?? [];
  return major === undefined || minor === undefined
    ? undefined
    : { text, major: Number(major), minor: Number(minor) };
}

export const isAtLeast = (v: KataVersion, major: number, minor: number): boolean =>
  v.major > major || (v.major === major && v.minor >= minor);

/** How a NIC of the host gets into a pod's guest by VFIO. */
export type NicPlug = 'hot' | 'cold';

/** Why this Kata cannot have NICs plugged in this way; undefined: it can. */
export function noNicPlug(
  plug: NicPlug,
  hypervisor: 'qemu' | 'clh' | 'fc',
  flavor: Flavor,
  v: KataVersion,
): string | undefined {
  if (hypervisor === 'fc') return 'Firecracker has no VFIO';
  if (flavor === 'rs') {
    if (plug === 'hot') return 'runtime-rs has no hot_plug_vfio: --nic cold';
    return isAtLeast(v, 3, 31) ? undefined : 'runtime-rs has cold_plug_vfio from 3.31 on';
  }
  // checkPCIeConfig in katautils/config.go
  return hypervisor === 'clh' && plug === 'cold' && !isAtLeast(v, 3, 29)
    ? 'Kata takes cold_plug_vfio with cloud-hypervisor from 3.29 on: --nic hot'
    : undefined;
}
