/** What a report must say about the lab that gave its numbers. */
import { BOCHS_MEM_MIB } from './bochs-config.ts';
import type { BootSpec } from './boot.ts';
import { hostFacts } from './lab-checks.ts';
import { outerMemMib } from './machine.ts';
import type { LabEnvironment } from './registry.ts';

export function environmentOf(
  { artifacts, accel, clock, l1 }: BootSpec,
  payloadKey: string | null,
  snapshotKey: string | null,
): LabEnvironment {
  return {
    accel,
    clock,
    kernelVersion: artifacts.kernelVersion,
    qemuVersion: artifacts.qemu.version,
    l0QemuVersion: artifacts.l0QemuVersion,
    l0: {
      cpus: accel === 'kvm' ? Math.max(2, l1.cpus) : 1,
      memMib: accel === 'bochs' ? BOCHS_MEM_MIB : outerMemMib(l1),
    },
    l1,
    l1KernelArgs: artifacts.kernelArgs(1),
    packageVersions: artifacts.versions,
    artifactsKey: artifacts.key,
    payloadKey,
    snapshotKey,
    host: hostFacts(),
  };
}
