/** The result file of `hyperturtle bench start`: every start with its counters, and a summary computed from them. */
import { z } from 'zod';
import { environmentSchema } from '../shared/environment-schema.ts';
import { countersSchema } from '../../testbed/counters-schema.ts';
import { recordOf } from '../../core/record.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

/**
 * Where the guest's memory comes from. `vanilla`: a file of tmpfs, as Kata has it; `anonymous`: memory of the VMM's own in pages
 * of 4 KiB; `thp`: the same, 2 MiB at a time where L1's kernel can; `hugetlb`: pages of 2 MiB that L1 has set aside;
 * `accelerated`: a file of turtlefs, with the hyperupcall.
 */
export const START_VARIANTS = ['vanilla', 'anonymous', 'thp', 'hugetlb', 'accelerated'] as const;
const startVariantSchema = lazy(() => z.enum(START_VARIANTS));
export type StartVariant = Output<typeof startVariantSchema>;

const count = lazy(() => z.number().int().nonnegative());
const ms = lazy(() => z.number().nonnegative());

const startSampleSchema = lazy(() =>
  z.object({
    image: z.string(),
    variant: startVariantSchema(),
    round: count(),
    l2MemoryMib: count(),
    /** From the VMM's `cont`: userspace runs, the port is open, the first right answer. */
    upMs: ms(),
    openMs: ms(),
    answeredMs: ms(),
    /** Counters of L1's whole VM in L0's KVM, from before the launcher's start to the first answer. */
    counters: countersSchema(),
    /** Why faults were passed to L1, by name, from our module; null where nothing is linked. */
    fallbacks: recordOf(z.string(), count()).nullable(),
    /** Faults answered in L0, and entries written for them; null where nothing is linked. */
    handled: count().nullable(),
    entries: count().nullable(),
    /** At the first answer: pages of L2 that have a frame, and those that groups gave it and that it has not used. */
    pages: z.object({ held: count(), unused: count() }).nullable(),
    emulatorCpuSeconds: z.number().nonnegative(),
    /** Exits that entered L1, by what they were about, by L1's own KVM; only with `--explain`. */
    explained: recordOf(z.string(), count()).optional(),
  }),
);
export type StartSample = Output<typeof startSampleSchema>;

const startSummarySchema = lazy(() =>
  z.object({
    /** By image: part by which the time to the first answer, and to the open port, is shorter. */
    answered: recordOf(z.string(), z.number()),
    open: recordOf(z.string(), z.number()),
    /** Part of the emulator's CPU time, over the same, that is no longer needed. */
    emulatorCpu: recordOf(z.string(), z.number()),
    /** By image: the same against the other memories that a VMM gives its guest; where it is slower, negative. */
    answeredOverThp: recordOf(z.string(), z.number()).optional(),
    answeredOverHugetlb: recordOf(z.string(), z.number()).optional(),
    /** World switches that faults cause: accelerated / vanilla. */
    faultSwitches: recordOf(z.string(), z.number()),
    /** Mean of `answered` over the images, without the Redis snapshot; and that one. */
    meanReduction: z.number().optional(),
    redisSnapshotReduction: z.number().optional(),
    /** Pages that groups took and that were never touched / pages that were, over all exact starts. */
    unusedShare: z.number().optional(),
  }),
);
export type StartSummary = Output<typeof startSummarySchema>;

export const startResultSchema = lazy(() =>
  z.object({
    schema: z.literal(1),
    benchmark: z.literal('start'),
    environment: environmentSchema(),
    parameters: z.object({
      images: z.array(z.string()),
      rounds: count(),
      l1MemoryMib: count(),
      l1Cpus: count(),
      groupDefault: count(),
      poolHigh: count(),
      l2KernelArguments: z.string(),
    }),
    samples: z.array(startSampleSchema()),
    /** One more accelerated start of each image in which L0 sees the first use of every page (`guest set --exact`). */
    exact: z.array(z.object({ image: z.string(), held: count(), unused: count() })),
    summary: startSummarySchema(),
  }),
);
export type StartResult = Output<typeof startResultSchema>;
