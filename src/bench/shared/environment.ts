/** What a benchmark in a lab ran on. */
import type { Lab } from '../../lab/lab.ts';
import { run } from '../../lab/levels.ts';
import type { Environment } from './environment-schema.ts';

export async function environmentOf(lab: Lab, version: string, startedAt: Date): Promise<Environment> {
  const e = lab.environment();
  const uname = async (level: Lab['l0']): Promise<string> => (await run(level, ['uname', '-r'])).trim();
  return {
    hyperturtleVersion: version,
    startedAt: startedAt.toISOString(),
    durationSeconds: Math.round((Date.now() - startedAt.getTime()) / 1000),
    accelerator: e.accel,
    clock: e.clock,
    hostCpus: e.host.cpus,
    hostCpuModel: e.host.cpuModel,
    hostMemoryMib: e.host.memMib,
    hostKernel: e.host.kernel,
    nodeVersion: e.host.node,
    l0Kernel: await uname(lab.l0),
    l1Kernel: await uname(lab.l1),
    // L2 boots the same file as L1 (payload.ts)
    l2Kernel: e.kernelVersion,
    l0Qemu: e.l0QemuVersion,
    outerQemu: e.qemuVersion,
  };
}
