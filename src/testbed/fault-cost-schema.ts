/** Cost of a fault of L2 in instructions, as fault-trace.ts reads it. */
import { z } from 'zod';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

export const faultCostSchema = lazy(() =>
  z.object({
    /** Who answered: L0 went on alone, or L1 was given it. */
    by: z.enum(['L0', 'L1']),
    faults: z.number().int().positive(),
    /** All of them together, with the ticks that fell into them. */
    instructions: z.number().nonnegative(),
    // medians:
    /** Entries and exits of a guest until L2 ran again. */
    switches: z.number().nonnegative(),
    l0Instructions: z.number().nonnegative(),
    l1Instructions: z.number().nonnegative(),
  }),
);
export type FaultCost = Output<typeof faultCostSchema>;
