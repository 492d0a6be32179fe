/**
 * Changed instructions of small programs for each hook: the check answers each, and the kernel's verifier is asked about a
 * sample of what it admits and what it refuses. HT_MUTANTS says how many (1,000,000 in `npm run test:slow`), HT_SEED
 * where they begin.
 */
import { describe, expect, it } from 'vitest';
import { compileBpf, findClang, whyNoBpf } from '../support/bpf.ts';
import { SEEDS, fuzzInstructions } from '../support/verifier-fuzz.ts';

const MUTANTS = Number(process.env['HT_MUTANTS'] ?? 1500);
const SEED = Number(process.env['HT_SEED'] ?? 20_261_128);
const VERIFIED = Math.min(MUTANTS, Number(process.env['HT_VERIFIED'] ?? Math.max(100, MUTANTS / 150)));
/** A machine that stands still for a moment is not a check that takes long. */
const LONGEST_MS = MUTANTS > 100_000 ? 20_000 : 4000;
const clang = findClang();
const why = whyNoBpf(clang);

describe.skipIf(why !== undefined)(`changed instructions${why ? ` (skipped: ${why})` : ''}`, () => {
  it(
    `are all answered by the check (${MUTANTS}), and disagreements with the verifier are of known classes`,
    () => {
      const objects = Object.fromEntries(
        Object.entries(SEEDS).map(([name, source]) => [name, compileBpf(clang!, source)]),
      );
      const result = fuzzInstructions({
        objects,
        mutants: MUTANTS,
        seed: SEED,
        admittedToVerify: VERIFIED / 2,
        refusedToVerify: VERIFIED / 2,
      });
      process.stdout.write(`${JSON.stringify(result, undefined, 1)}\n`);
      expect(result.mutants).toBeGreaterThanOrEqual(MUTANTS);
      expect(result.slowestMs).toBeLessThan(LONGEST_MS);
      expect(result.verified).toBeGreaterThan(VERIFIED / 4);
      expect(result.agreed['admitted']).toBeGreaterThan(0);
      expect(Object.keys(result.admittedOnly).filter((c) => c.startsWith('other'))).toEqual([]);
    },
    Math.max(60_000, MUTANTS * 10),
  );
});
