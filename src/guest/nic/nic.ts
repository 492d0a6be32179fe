/**
 * NICs that L0 gives to this machine, made ready for those who use them: a VMM that hands one on to a nested guest
 * (vfio-pci), or this machine itself (virtio-net). Undone in reverse when a step fails.
 */
import { exec } from '../../core/exec.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import { waitFor } from '../../core/wait.ts';
import type { NicInfo, Params, Result } from '../../wire/schema.ts';
import { holdersOf } from './holders.ts';
import { PciBus } from './pci.ts';
import type { PciAddress } from './pci.ts';

/** What the host is asked, by whatever way there is to it. */
export interface NicHost {
  add(params: Params<'nic.add'>): Promise<Result<'nic.add'>>;
  del(id: string): Promise<Result<'nic.del'>>;
  list(): Promise<Result<'nic.list'>>;
}

export type NicUse = 'vfio-pci' | 'virtio-net';

/** A NIC with what this machine knows of it. */
export interface LocalNic {
  nic: NicInfo;
  /** Null while it is not there. */
  address: PciAddress | null;
  driver: string | null;
  iommuGroup: number | null;
  /** Null where the machine does not say. */
  numaNode: number | null;
  /** For a VMM; null unless vfio-pci has it. */
  vfio: string | null;
  /** Network device of this machine; null unless virtio-net has it. */
  interface: string | null;
}

export interface NicDeps {
  host: NicHost;
  pci?: PciBus;
  /** Loads a kernel module. */
  modprobe?: (module: string, signal: AbortSignal) => Promise<void>;
  holders?: (file: string) => number[];
  signal: AbortSignal;
  /** For the device to appear, and for its driver to take it. */
  timeoutMs?: number;
}

const APPEARS_MS = 60_000;

/**
 * Asks for a NIC, waits for its device and gives it to the driver. Throws what the host answers, HT_UNSUPPORTED without
 * an IOMMU, HT_TIMEOUT; then the host has it back, if it was not there before.
 */
export async function addNic(
  params: Params<'nic.add'>,
  use: NicUse,
  deps: NicDeps,
): Promise<LocalNic & { existed: boolean }> {
  const { host, pci = new PciBus(), signal, timeoutMs = APPEARS_MS } = deps;
  const undo = new CleanupStack();
  const { nic, existed } = await host.add(params);
  if (!existed) undo.add('NIC', async () => void (await host.del(nic.id)));
  try {
    const wait = { timeoutMs, intervalMs: 50, signal };
    const address = await waitFor(
      `device of NIC '${nic.id}' in slot ${nic.slot}`,
      () => pci.inSlot(nic.slot),
      wait,
    );
    const before = pci.driver(address);
    undo.add('driver', () => {
      if (existed && before !== undefined && pci.driver(address) !== before) pci.give(address, before);
    });
    if (use === 'vfio-pci') await toVfio(address, deps, pci);
    else {
      pci.give(address, 'virtio-pci');
      await waitFor(`network device of NIC '${nic.id}'`, () => pci.netdev(address), wait);
    }
    return { ...look(nic, pci), existed };
  } catch (e) {
    await undo.run();
    throw e;
  }
}

/** Throws HT_IN_USE when a process uses it and `force` is not set. */
export async function delNic(id: string, force: boolean, deps: NicDeps): Promise<{ existed: boolean }> {
  const { host, pci = new PciBus(), holders = holdersOf } = deps;
  const nic = (await host.list()).nics.find((n) => n.id === id);
  if (!nic) return { existed: false };
  const { address, vfio } = look(nic, pci);
  const users = vfio === null ? [] : holders(vfio);
  if (users.length > 0 && !force)
    throw new HyperturtleError(
      'HT_IN_USE',
      `NIC '${id}' (${address}, ${vfio}) is used by process ${users.join(', ')}: end it first, or force`,
    );
  return host.del(id);
}

/** All of them, with what this machine knows. */
export async function listNics(deps: NicDeps): Promise<LocalNic[]> {
  const { host, pci = new PciBus() } = deps;
  return (await host.list()).nics.map((nic) => look(nic, pci));
}

async function toVfio(address: PciAddress, deps: NicDeps, pci: PciBus): Promise<void> {
  if (pci.iommuGroup(address) === undefined)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `${address} is behind no IOMMU: start this machine's QEMU with what 'hyperturtle host args' prints, and boot its kernel with intel_iommu=on iommu=pt`,
    );
  if (!pci.hasDriver('vfio-pci')) await (deps.modprobe ?? modprobe)('vfio-pci', deps.signal);
  pci.give(address, 'vfio-pci');
  const found = pci.driver(address);
  if (found !== 'vfio-pci')
    throw new HyperturtleError(
      'HT_KERNEL',
      `${address}: driver vfio-pci expected after binding, ${found ?? 'none'} found: the kernel log says why`,
    );
  const strangers = pci.strangersInGroup(address);
  if (strangers.length > 0)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `${address} shares its IOMMU group with ${strangers.join(', ')}: each NIC needs a root port of its own`,
    );
}

async function modprobe(module: string, signal: AbortSignal): Promise<void> {
  await exec('modprobe', [module], { timeoutMs: 30_000, signal });
}

/** What this machine knows of a NIC now. */
export function look(nic: NicInfo, pci = new PciBus()): LocalNic {
  const address = here(nic, pci);
  const driver = address === undefined ? undefined : pci.driver(address);
  const group = address === undefined ? undefined : pci.iommuGroup(address);
  const node = address === undefined ? undefined : pci.numaNode(address);
  return {
    nic,
    address: address ?? null,
    driver: driver ?? null,
    iommuGroup: group ?? null,
    numaNode: node ?? null,
    vfio: driver === 'vfio-pci' && group !== undefined ? `/dev/vfio/${group}` : null,
    interface: (address === undefined ? undefined : pci.netdev(address)) ?? null,
  };
}

function here(nic: NicInfo, pci: PciBus): PciAddress | undefined {
  try {
    return pci.inSlot(nic.slot);
  } catch {
    return undefined;
  }
}
