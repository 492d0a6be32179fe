/**
 * The shape of a benchmark's result file: every parameter, the environment, every raw sample, and a summary of
 * plain numbers computed from the samples. Durations carry their unit in the name.
 */
import { z } from 'zod';
import { recordOf } from '../../core/record.ts';
import { RESULT_SCHEMA_VERSION, environmentSchema } from '../shared/environment-schema.ts';
import { countersSchema } from '../../testbed/counters-schema.ts';
import { faultCostSchema } from '../../testbed/fault-cost-schema.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

/**
 * In the order in which tables and plots show them. L2's RAM: `vanilla` a file of tmpfs, as Kata has it; `anonymous` memory
 * of the VMM's own in pages of 4 KiB, `thp` the same where L1's kernel gives 2 MiB at a time if it can, as QEMU's -m,
 * Firecracker and cloud-hypervisor have it by default; `hugetlb` 2 MiB pages that L1 has set aside; `group1` and `default`
 * a file of turtlefs.
 */
export const VARIANTS = [
  'l1',
  'l2-vanilla',
  'l2-vanilla-prealloc',
  'l2-anonymous',
  'l2-thp',
  'l2-hugetlb',
  'l2-group1',
  'l2-default',
] as const;
const variantSchema = lazy(() => z.enum(VARIANTS));
export type Variant = Output<typeof variantSchema>;
/** Where L1 keeps frames of 2 MiB: they come whatever the size of groups. */
export const WITH_LARGE_FRAMES = VARIANTS.filter((v) => v !== 'l2-group1');

/**
 * Orders of first touches. `random` shuffles virtual pages, whose frames L2's kernel still hands out mostly in
 * ascending order; `scattered` shuffles the physical pages themselves, which is what a hypervisor sees as random.
 */
export const PATTERNS = ['seq', 'stride', 'random', 'scattered'] as const;
const patternSchema = lazy(() => z.enum(PATTERNS));
export type Pattern = Output<typeof patternSchema>;

export const BOOT_VARIANTS = ['not-nested', 'vanilla', 'thp', 'accelerated'] as const;
const bootVariantSchema = lazy(() => z.enum(BOOT_VARIANTS));
export type BootVariant = Output<typeof bootVariantSchema>;

const count = lazy(() => z.number().int().nonnegative());
const ns = lazy(() => z.number().nonnegative());
const byCause = lazy(() => recordOf(z.string(), count()));

/** One phase as c/l2/first_touch prints it. */
export const touchSchema = lazy(() =>
  z.object({
    pattern: patternSchema(),
    /** 1: memory that nobody has touched; 2: memory that the guest freed and took again. */
    pass: z.union([z.literal(1), z.literal(2)]),
    pages: count().positive(),
    avgNs: ns(),
    p50Ns: ns(),
    p90Ns: ns(),
    p99Ns: ns(),
    p999Ns: ns(),
    maxNs: ns(),
    totalNs: ns(),
    /** Lower bound of the bucket in ns (four buckets an octave) and number of touches; empty buckets left out. */
    histogram: z.array(z.tuple([ns(), count().positive()])),
  }),
);
export type Touch = Output<typeof touchSchema>;

const touchSampleSchema = lazy(() =>
  z.object({
    variant: variantSchema(),
    round: count(),
    touch: touchSchema(),
    /** Null on L1 itself: its touches are no nested faults. */
    counters: countersSchema().nullable(),
    /** Why faults were passed to L1, by name, from our module; null where nothing is linked. */
    fallbacks: byCause().nullable(),
    /** CPU time that the outer emulator (or VMM) used over the phase. */
    emulatorCpuSeconds: z.number().nonnegative(),
    /** What its faults cost in instructions, where they were counted (`--count`). */
    faultCosts: z.array(faultCostSchema()).optional(),
  }),
);
export type TouchSample = Output<typeof touchSampleSchema>;

const bootSampleSchema = lazy(() =>
  z.object({
    variant: bootVariantSchema(),
    round: count(),
    /** From the VMM's `cont` to the first line of the guest's /init. */
    bootMs: z.number().positive(),
    counters: countersSchema().nullable(),
    fallbacks: byCause().nullable(),
    emulatorCpuSeconds: z.number().nonnegative(),
  }),
);
export type BootSample = Output<typeof bootSampleSchema>;

/** What an L2 on turtlefs had at the end of its turn, when L1 had looked at all its 2 MiB frames. */
const memorySampleSchema = lazy(() =>
  z.object({
    round: count(),
    /** Pages with a frame. */
    held: count(),
    /** 2 MiB frames looked at; of these, left as they were, since most of their pages were used. */
    seen: count(),
    kept: count(),
    /** Pages of the frames that were kept that nobody used. */
    vain: count(),
    /** Pages of the others that nobody used, and that were given back. */
    back: count(),
    /** It got no more, as it used too little of them. */
    small: z.boolean(),
  }),
);
export type MemorySample = Output<typeof memorySampleSchema>;

const parametersSchema = lazy(() =>
  z.object({
    touchMib: count(),
    rounds: count(),
    variants: z.array(variantSchema()),
    patterns: z.array(patternSchema()),
    l2MemoryMib: count(),
    l1MemoryMib: count(),
    l1Cpus: count(),
    groupDefault: count(),
    /** 2 MiB frames that L1 keeps for `default`; older results lack it, and had none. */
    largeFrames: z.union([count(), z.literal('auto')]).optional(),
    poolHigh: count(),
    l2Machine: z.string(),
    l2KernelArguments: z.string(),
  }),
);

/** Each number is defined where it is computed, in summary.ts. Absent when the run did not measure it. */
export const summarySchema = lazy(() =>
  z.object({
    firstTouchSpeedup: z.number().optional(),
    firstTouchSpeedupGroup1: z.number().optional(),
    firstTouchSpeedupOverPrealloc: z.number().optional(),
    firstTouchSpeedupOverAnonymous: z.number().optional(),
    firstTouchSpeedupOverThp: z.number().optional(),
    randomTouchSpeedupOverThp: z.number().optional(),
    medianVsL1: z.number().optional(),
    averageVsL1: z.number().optional(),
    firstVsSecondTouch: z.number().optional(),
    secondTouchVsVanilla: z.number().optional(),
    switchesPerPageSequential: z.number().optional(),
    switchesPerPageRandom: z.number().optional(),
    switchesPerPageVanilla: z.number().optional(),
    allExitsPerPageSequential: z.number().optional(),
    allExitsPerPageVanilla: z.number().optional(),
    emulatorCpuReduction: z.number().optional(),
    bootReduction: z.number().optional(),
    bootReductionOverThp: z.number().optional(),
    bootVsNotNested: z.number().optional(),
    handledInL0: z.number().optional(),
    vainShare: z.number().optional(),
  }),
);
export type Summary = Output<typeof summarySchema>;

export const resultSchema = lazy(() =>
  z.object({
    schema: z.literal(RESULT_SCHEMA_VERSION),
    benchmark: z.enum(['npf', 'boot', 'all', 'demo']),
    environment: environmentSchema(),
    parameters: parametersSchema(),
    touches: z.array(touchSampleSchema()),
    boots: z.array(bootSampleSchema()),
    /** Turns of `default`, where L1 gives 2 MiB frames of its own accord. */
    memory: z.array(memorySampleSchema()).optional(),
    summary: summarySchema(),
  }),
);
export type BenchResult = Output<typeof resultSchema>;
