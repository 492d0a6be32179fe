/** What stands behind a NIC in L0: a tap on a bridge, or a vDPA device. Made for one NIC, handed to its QEMU. */
import type { Caller } from '../../bpf/calls.ts';
import { closeBy } from '../../bpf/sys.ts';
import { PACKET_HOOKS } from '../hooks.ts';
import type { PacketHook } from '../hooks.ts';
import { removeLeftovers } from '../packets/chain.ts';
import type { NetdevSpec } from './plug.ts';
import type { NicRecord } from './record.ts';
import { ifindexOf, makeTap, mtuOf, openVhost } from './tap.ts';
import { VDPA_MTU, makeVdpa, removeVdpa, vdpaName, vdpaOf, vdpaThere } from './vdpa.ts';

export type NetworkSpec = { mtu?: number | undefined; maxPerVm?: number | undefined } & (
  | { bridge: string; vhost: boolean; vdpa?: undefined }
  | { vdpa: { management: string }; bridge?: undefined }
);

const MAX_MTU = 65_521;

export const kindOf = (network: NetworkSpec): 'tap' | 'vdpa' => (network.vdpa ? 'vdpa' : 'tap');

/** The MTU that a NIC in it would have. */
export const networkMtu = (network: NetworkSpec): number =>
  Math.min(
    network.mtu ?? (network.vdpa ? undefined : mtuOf(network.bridge)) ?? (network.vdpa ? VDPA_MTU : 1500),
    MAX_MTU,
  );

export interface Backend {
  kind: 'tap' | 'vdpa';
  /** Network device or vDPA device; `ifindex` 0: no network device of L0, and so no hooks. */
  ifname: string;
  ifindex: number;
  mtu: number;
  hooks: readonly string[];
  netdev: NetdevSpec;
  /** Closes the descriptors here: QEMU has copies. */
  close(): Promise<void>;
  /** When QEMU did not get it. */
  discard(): Promise<void>;
}

/** By `call` what waits is called. Throws what makeTap and makeVdpa throw; then nothing is left. */
export async function makeBackend(
  call: Caller,
  network: NetworkSpec,
  of: { vm: string; nic: string; mac: string },
): Promise<Backend> {
  if (network.vdpa) {
    const { file, name } = await makeVdpa(vdpaName(of.vm, of.nic), {
      management: network.vdpa.management,
      mac: of.mac,
      mtu: network.mtu,
    });
    return {
      kind: 'vdpa',
      ifname: name,
      ifindex: 0,
      mtu: networkMtu(network),
      hooks: [],
      netdev: { type: 'vhost-vdpa', file, mtu: network.mtu },
      close: () => closeBy(call, file),
      discard: () => removeVdpa(name),
    };
  }
  const { file, ifname, ifindex, mtu: asked } = await makeTap(call, network);
  const vhost = network.vhost ? openVhost() : undefined;
  const mtu = Math.min(asked, MAX_MTU);
  return {
    kind: 'tap',
    ifname,
    ifindex,
    mtu,
    hooks: PACKET_HOOKS,
    netdev: { type: 'tap', file, vhost, mtu },
    async close() {
      await closeBy(call, file);
      if (vhost) await closeBy(call, vhost);
    },
    discard: () => Promise.resolve(),
  };
}

/** Whether what stands behind a recorded NIC is still that. */
export function backendThere({ info, ifname, ifindex }: NicRecord): boolean {
  return info.kind === 'vdpa' ? vdpaThere(ifname) : ifindexOf(ifname) === ifindex;
}

/** Removes what a killed daemon left: filters on a network device that are not links, and not taken over. */
export async function cleanBackend(
  call: Caller,
  { info, ifname, ifindex }: NicRecord,
  taken: readonly PacketHook[],
): Promise<void> {
  if (info.kind === 'tap' && ifindexOf(ifname) === ifindex) await removeLeftovers(call, ifindex, taken);
}

/** After QEMU has let it go: a tap has gone by itself. */
export async function removeBackend({ info, ifname }: NicRecord): Promise<void> {
  if (info.kind === 'vdpa') await removeVdpa(ifname);
}

/** vDPA devices of a VM that belong to none of these NICs go. Throws what removeVdpa throws. */
export async function removeStrays(vm: string, nics: readonly NicRecord[]): Promise<void> {
  for (const name of vdpaOf(vm)) if (!nics.some((n) => n.ifname === name)) await removeVdpa(name);
}
