/**
 * Changed instructions of the project's own programs: the check answers each of them and ends within its budget. They
 * are the same each time. HT_MUTANTS says how many; HT_SEED where they begin.
 */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { checkObject } from '../../../../src/host/admission/check.ts';
import { compileBpfFile, findClang } from '../../../support/bpf.ts';
import { codeRanges, mutateCode } from '../../../support/mutate.ts';

const MUTANTS = Number(process.env['HT_MUTANTS'] ?? 400);
const SEED = Number(process.env['HT_SEED'] ?? 20_261_128);
/** What the check's budgets come to, and a machine that stands still for a moment. */
const LONGEST_MS = 4000;
const BPF = path.resolve(import.meta.dirname, '../../../../c/bpf');
const clang = findClang();
/** The larger ones take longer by far. */
const SHARE: Readonly<Record<string, number>> = {
  'firewall.bpf.c': 0.003,
  'tcptop.bpf.c': 0.012,
  'npf.bpf.c': 0.03,
  'rate_limiter.bpf.c': 0.06,
  'exit-cache.bpf.c': 0.1,
  'profile.bpf.c': 0.15,
  'exit-count.bpf.c': 0.15,
  'packet_counter.bpf.c': 0.2,
};

it.skipIf(!clang)(
  `answers ${MUTANTS} objects with changed instructions, soon and without throwing`,
  () => {
    const files = readdirSync(BPF, { recursive: true, encoding: 'utf8' }).filter((f) => f.endsWith('.bpf.c'));
    const outcomes: Record<string, number> = {};
    let slowest = { ms: 0, what: '' };
    let done = 0;
    const others = Object.values(SHARE).reduce((a, b) => a - b, 1);
    for (const file of files) {
      const elf = compileBpfFile(clang!, path.join(BPF, file));
      const code = codeRanges(elf);
      for (let n = 0; n < MUTANTS * (SHARE[path.basename(file)] ?? others); n++, done++) {
        const what = `${file}, seed ${SEED + n}`;
        const began = performance.now();
        const mutant = mutateCode(elf, code, SEED + n);
        try {
          const { refusals } = checkObject(mutant, { policy: { cpus: 64 } });
          const rule = refusals[0]?.rule ?? 'admitted';
          outcomes[rule] = (outcomes[rule] ?? 0) + 1;
        } catch (e) {
          throw new Error(`check threw for ${what}`, { cause: e });
        }
        const ms = performance.now() - began;
        if (ms > slowest.ms) slowest = { ms, what };
      }
    }
    process.stdout.write(
      `${done} mutants: ${JSON.stringify(outcomes)}; slowest ${slowest.ms.toFixed(0)} ms: ${slowest.what}\n`,
    );
    expect(done).toBeGreaterThanOrEqual(MUTANTS);
    expect(Object.keys(outcomes)).toEqual(expect.arrayContaining(['admitted', 'opcode', 'pointer-leak']));
    expect(slowest.ms, slowest.what).toBeLessThan(LONGEST_MS);
  },
  Math.max(60_000, MUTANTS * 20),
);
