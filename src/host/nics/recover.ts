/** What is to be done about NICs when QEMU can be asked again: what an earlier daemon, or a connection that broke, left. */
import type { Nic } from './nic.ts';
import type { NicRecord, NicsRecord } from './record.ts';

/** What the record says was given to this process. */
export function givenTo(
  process: { pid: number; startTicks: number },
  record: NicsRecord | undefined,
): readonly NicRecord[] {
  return record?.pid === process.pid && record.startTicks === process.startTicks ? record.nics : [];
}

export interface RecoveryPlan {
  /** NICs that are not whole: their device, their backend or QEMU's word is missing. They go. */
  broken: Nic[];
  /** QEMU's ids of devices that no NIC has. They are unplugged. */
  strays: string[];
}

/** `has`: as QEMU lists them; `backendThere`: whether what stands behind a NIC is still that. */
export function planRecovery(
  nics: readonly Nic[],
  has: { devices: readonly string[]; netdevs: readonly string[] },
  backendThere: (nic: NicRecord) => boolean,
): RecoveryPlan {
  const whole = (nic: Nic): boolean =>
    nic.complete && has.devices.includes(nic.device) && backendThere(nic.record);
  return {
    broken: nics.filter((nic) => !whole(nic)),
    strays: [...has.devices, ...has.netdevs].filter((device) => !nics.some((n) => n.device === device)),
  };
}
