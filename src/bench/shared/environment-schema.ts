/** What every result says of the machine that it was measured on, and the version of the results' shape. */
import { z } from 'zod';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

export const RESULT_SCHEMA_VERSION = 1;

const count = lazy(() => z.number().int().nonnegative());

export const environmentSchema = lazy(() =>
  z.object({
    hyperturtleVersion: z.string(),
    startedAt: z.string(),
    durationSeconds: z.number().nonnegative(),
    accelerator: z.string(),
    /** What passed the guests' time; results before it was said lack it. */
    clock: z.enum(['real', 'instructions']).optional(),
    hostCpus: count().positive(),
    hostCpuModel: z.string(),
    hostMemoryMib: count(),
    hostKernel: z.string(),
    nodeVersion: z.string(),
    l0Kernel: z.string(),
    l1Kernel: z.string(),
    l2Kernel: z.string(),
    l0Qemu: z.string(),
    outerQemu: z.string(),
  }),
);
export type Environment = Output<typeof environmentSchema>;

/** The same without a lab. */
export const machineEnvironmentSchema = lazy(() =>
  environmentSchema().pick({
    hyperturtleVersion: true,
    startedAt: true,
    durationSeconds: true,
    hostCpus: true,
    hostCpuModel: true,
    hostMemoryMib: true,
    hostKernel: true,
    nodeVersion: true,
  }),
);
export type MachineEnvironment = Output<typeof machineEnvironmentSchema>;
