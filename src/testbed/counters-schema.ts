/** What KVM in L0 counts, as results keep it. */
import { z } from 'zod';
import { recordOf } from '../core/record.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

const count = lazy(() => z.number().int().nonnegative());
const byCause = lazy(() => recordOf(z.string(), count()));

/** What KVM in L0 counted over one phase, for the one VM that is L1 with everything in it. */
export const countersSchema = lazy(() =>
  z.object({
    /** Hardware exits of the VM's vCPUs, those of L1 itself and those of its L2s. */
    exits: count(),
    /** L1 asking for an L2 to be run (KVM's nested_run). */
    nestedRuns: count(),
    /** Exits while an L2 ran, by cause (trace kvm_nested_vmexit). */
    l2ExitsByCause: byCause(),
    /** Exits among these that were passed to L1 (trace kvm_nested_vmexit_inject): entries to L1, by cause. */
    reflectedByCause: byCause(),
  }),
);
export type Counters = Output<typeof countersSchema>;
