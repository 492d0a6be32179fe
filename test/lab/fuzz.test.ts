/**
 * `hyperturtle fuzz` in short (`npm run test:slow`): the kernel of one L1 does what it can to L0, beside an L1 that must not
 * notice. What the other L1's faults take is the command's to say: it needs minutes, and a machine that does nothing else.
 */
import { describe, expect, it } from 'vitest';
import { createProgress } from '../../src/core/progress.ts';
import { runFuzz } from '../../src/fuzz/fuzz.ts';
import { TEST_KERNEL, useLab } from '../support/lab.ts';

const OPERATIONS = 200_000;
const lab = useLab({ l1MemoryMib: 1024, l1Cpus: 1, secondL1MemoryMib: 768 });

describe('a hostile first tenant', () => {
  it(`makes L0's kernel say nothing and changes no page of another L1, in ${OPERATIONS} operations`, async () => {
    const report = await runFuzz(lab(), {
      ...{
        minutes: 1,
        seed: 3,
        kernel: TEST_KERNEL,
        clock: lab().environment().clock,
        batch: 48,
        slow: false,
        atLeast: OPERATIONS,
      },
      ...{ quietSeconds: 10, attackSeconds: 50, progress: createProgress() },
    });
    process.stdout.write(`${JSON.stringify(report)}\n`);
    expect(report.reports).toEqual([]);
    expect(report.watched.mismatches).toBe(0);
    expect(report.watched.checked).toBeGreaterThan(10_000);
    expect(report.operations).toBeGreaterThanOrEqual(OPERATIONS);
    expect(report.hooks.npf.runs).toBeGreaterThan(1000);
  });
});
