/** What a benchmark without a lab ran on: this machine. */
import os from 'node:os';
import type { MachineEnvironment } from './environment-schema.ts';

export function machineEnvironment(version: string, startedAt: Date): MachineEnvironment {
  return {
    hyperturtleVersion: version,
    startedAt: startedAt.toISOString(),
    durationSeconds: Math.round((Date.now() - startedAt.getTime()) / 1000),
    hostCpus: os.cpus().length,
    hostCpuModel: os.cpus()[0]?.model.trim() ?? 'unknown',
    hostMemoryMib: Math.round(os.totalmem() / (1 << 20)),
    hostKernel: os.release(),
    nodeVersion: process.version,
  };
}
