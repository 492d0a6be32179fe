/** Kernels that end a VM for what QEMU's processor leaves in EXITINTINFO: see c/vectoring. Every third loading did. */
import { expect, it } from 'vitest';
import { Acceleration } from '../../src/testbed/acceleration.ts';
import { createProgress } from '../../src/core/progress.ts';
import { labUp } from '../../src/lab/lab.ts';
import { run } from '../../src/lab/levels.ts';

const ROUNDS = 10;

it(`an L1 on 7.3 is accelerated ${ROUNDS} times in a row, and goes on`, async () => {
  const lab = await labUp({ kernel: '7.3', progress: createProgress() });
  try {
    for (let i = 0; i < ROUNDS; i++) await (await Acceleration.on(lab, { arenaMib: 8 })).off();
    const parameter = '/sys/module/hyperturtle_vectoring/parameters/cleared';
    const cleared = Number(await run(lab.l0, ['cat', parameter]));
    process.stdout.write(`  ${cleared} exits corrected in L0\n`);
    expect(cleared).toBeGreaterThan(0);
    expect(await run(lab.l1, ['cat', parameter])).toMatch(/^\d+\n?$/);
  } finally {
    await lab.down();
  }
});
