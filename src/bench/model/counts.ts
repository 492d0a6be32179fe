/**
 * Exits and instructions of one thing, as our own labs counted them, medians of the faults; each table says by which command.
 * What `bench model` has where it is given no result.
 */
import type { Basis, Counted } from './model.ts';

export type CountId = 'vanilla' | 'one-page' | 'direct' | 'nested-cpuid';

interface RecordedCounts {
  /** Command, kernels, date. */
  run: string;
  basis: Basis;
  /** What is predicted: a page that is touched. */
  predicted: readonly { what: string; count: Counted }[];
}

/** `clear_page_orig` of Linux: 64 turns of 11 instructions; the lab's Intel processor has no fast string instructions. */
const CLEAR_ORIG = 704;
/** `clear_page_rep`: `rep stosq`, of which the emulator counts each of 512 turns. */
const CLEAR_REP = 512;

/** A fault that L1 answers, and its second one in L0, together. */
const VANILLA: Counted = { exits: 5, instructions: 17_109 + 10_508 + 5632, cleared: 1 };
/** An exit with nothing to do. */
const PLAIN = { intel: 1253, amd: 2766 } as const;
/** In L0 on AMD; on EPT it has not been counted yet, and is taken for as much more than a plain exit as there. */
const AMD_ONE_PAGE = 7884;
const ONE_PAGE: Counted = { exits: 1, instructions: AMD_ONE_PAGE - PLAIN.amd + PLAIN.intel, cleared: 0 };

/** On EPT, as the paper: what it measured, counted. */
const INTEL: RecordedCounts & { counts: Readonly<Record<CountId, Counted>> } = {
  run: 'Intel: test/intel/fault-costs.test.ts, Linux 6.1.0-57 in Bochs, 2026-12-01; one page a fault from AMD',
  basis: { exitInstructions: PLAIN.intel, clearInstructions: CLEAR_ORIG },
  counts: {
    vanilla: VANILLA,
    'one-page': ONE_PAGE,
    direct: { exits: 1, instructions: 8209, cleared: 1 },
    'nested-cpuid': { exits: 4, instructions: 16_127 + 3763, cleared: 0 },
  },
  predicted: [
    { what: 'Intel: vanilla', count: VANILLA },
    { what: 'Intel: one page a fault (count from AMD)', count: ONE_PAGE },
  ],
};

/** Rows "by level" of docs/results/faults.md, which are a page each. */
const AMD: RecordedCounts = {
  run: 'AMD: bench npf --count --rounds 2, test/lab/fault-costs.test.ts, Linux 6.1.0-57 in QEMU, 2026-12-01',
  basis: { exitInstructions: PLAIN.amd, clearInstructions: CLEAR_REP },
  predicted: [
    { what: 'AMD: vanilla', count: { exits: 8, instructions: 185_051 + 6611, cleared: 1 } },
    { what: 'AMD: one page a fault', count: { exits: 1, instructions: 8328, cleared: 0 } },
    { what: 'AMD: groups', count: { exits: 0.0391, instructions: 1948 + 334, cleared: 0 } },
    { what: 'AMD: vanilla, huge pages', count: { exits: 0.0281, instructions: 1492, cleared: 1 } },
  ],
};

export const RECORDED = { intel: INTEL, amd: AMD } as const;
