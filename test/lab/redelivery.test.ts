/**
 * QEMU's emulated AMD processor delivers an injected interrupt twice, and forgets that it was to stop, when another thread of
 * QEMU's wants it to leave its loop between VMRUN and the next exit: see c/redelivery. Without that module QEMU
 * stops answering, or L1 has panicked.
 */
import { expect, it } from 'vitest';
import { runScript } from '../../src/lab/levels.ts';
import { QmpClient } from '../../src/qmp/client.ts';
import { TEST_KERNEL, useLab } from '../support/lab.ts';

const ROUNDS = 4000;
/** L1's CPUs take timer interrupts in user space, in the kernel and while they idle. */
const BUSY = 'for i in 1 2; do while :; do sleep 0.01; done & done; while :; do :; done';

const lab = useLab({ kernel: TEST_KERNEL, l1Cpus: 2 });

it(`L1 goes on, and QEMU answers, while its processor is stopped ${ROUNDS} times in the midst of L1's interrupts`, async () => {
  const { l0, l1, files } = lab();
  const timerInterrupts = async (): Promise<number[]> =>
    (await runScript(l1, 'awk \'$1 == "LOC:" { print $2, $3 }\' /proc/interrupts'))
      .trim()
      .split(' ')
      .map(Number);
  const exits = async (): Promise<number> =>
    Number(await runScript(l0, 'cat /sys/module/hyperturtle_redelivery/parameters/exits'));
  const busy = await l1.spawn(['sh', '-c', BUSY]);
  const before = { timer: await timerInterrupts(), exits: await exits() };
  {
    using qmp = await QmpClient.connect(files.qmpSocket, { timeoutMs: 10_000 });
    for (let i = 0; i < ROUNDS; i++) {
      await qmp.execute('stop', {}, { timeoutMs: 10_000 });
      await qmp.execute('cont', {}, { timeoutMs: 10_000 });
    }
  }
  const after = { timer: await timerInterrupts(), exits: await exits() };
  process.stdout.write(`  ${JSON.stringify({ before, after })}\n`);
  expect(after.timer).toHaveLength(2);
  for (const [cpu, n] of after.timer.entries()) expect(n).toBeGreaterThan(before.timer[cpu]!);
  expect(after.exits - before.exits).toBeGreaterThan(100);
  await busy.kill('TERM');
}, 180_000);
