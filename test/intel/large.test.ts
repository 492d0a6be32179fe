/** 2 MiB entries of EPT: one exit of L2 for 512 pages, and no page changes under its owner when parts of them go. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Acceleration, guestStatus, whenLargePoolFull } from '../../src/testbed/acceleration.ts';
import { KvmCounters } from '../../src/testbed/kvm-counters.ts';
import { TINY_VMM_TEST_OFFSET, TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { waitFor } from '../../src/core/wait.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { framesOut } from '../../src/kernel/guest.ts';
import { runScript } from '../../src/lab/levels.ts';
import { endJob, measuredStep, registered, STEP_MS } from '../support/intel.ts';
import { useLab } from '../support/lab.ts';

const LARGE = 512;
const FRAMES = 24;
const TOUCHED = 15;
/** What both sides race on, behind what was touched: 2 MiB each. */
const SHARED = 8;
const VISITS = 10_000;
const RAM = `${TURTLEFS_DIR}/large.ram`;
const ARENA_MIB = 8;

const lab = useLab({ accel: 'bochs' });
const undo = new CleanupStack();
let acceleration: Acceleration;
let counters: KvmCounters;
let vmm: TinyVmm;

beforeAll(async () => {
  const { l0, l1 } = lab();
  acceleration = await Acceleration.on(lab(), { arenaMib: ARENA_MIB, largeFrames: FRAMES });
  undo.add('modules', () => acceleration.off());
  counters = await KvmCounters.start(l0);
  undo.add('counters', () => counters.stop());
  await whenLargePoolFull(l1, FRAMES);
  const share = `share:${(TOUCHED + 1) * LARGE}:${SHARED * LARGE}:2:${VISITS}`;
  vmm = await TinyVmm.start(l1, {
    ram: RAM,
    pages: (TOUCHED + 1 + SHARED) * LARGE,
    // the first range is where flags are learned, in pages of 4 KiB
    steps: [`touch:0:${LARGE}`, `touch:${LARGE}:${TOUCHED * LARGE}`, share, share],
  });
  undo.add('file', () => runScript(l1, `rm -f ${RAM}`).then(() => {}));
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());
  await registered(l1, vmm, undo);
});
afterAll(() => undo.run());

it('L2 leaves once for 512 pages, and for L1 never, where the pool has 2 MiB frames', async () => {
  const first = await measuredStep(vmm, counters);
  const before = await acceleration.hookCounts();
  const m = await measuredStep(vmm, counters);
  const after = await acceleration.hookCounts();
  const [entries, handled] = [after.entries - before.entries, after.handled - before.handled];
  process.stdout.write(`  ${JSON.stringify({ ...m, entries, handled })}\n`);
  expect([first.result.mismatches, m.result.mismatches]).toEqual([0, 0]);
  expect([entries, handled]).toEqual([TOUCHED, TOUCHED]);
  expect(m.counters.reflectedByCause['npf'] ?? 0).toBe(0);
  expect(m.counters.l2ExitsByCause['npf']).toBeLessThanOrEqual(2 * TOUCHED);
});

it.each([LARGE, 64])('no page changes under L2 while L1 punches holes of %i pages', async (hole) => {
  const { l1 } = lab();
  const address = `0x${(TINY_VMM_TEST_OFFSET + (TOUCHED + 1) * LARGE * 4096).toString(16)}`;
  const puncher = await l1.spawn([
    ...['/payload/l2/programs/pattern', 'share', RAM, address, String(SHARED * 2), '1'],
    ...['--punch', String(hole), '--mixed', '--seconds', '100000'],
  ]);
  try {
    const m = await measuredStep(vmm, counters);
    process.stdout.write(`  ${JSON.stringify(m)}\n`);
    expect(m.result.mismatches).toBe(0);
  } finally {
    await endJob(puncher);
  }
  const said = JSON.parse((await puncher.output()).trim().split('\n').at(-1)!) as {
    mismatches: number;
    punched: number;
  };
  process.stdout.write(`  L1's side: ${JSON.stringify(said)}\n`);
  expect(said.mismatches).toBe(0);
  expect(said.punched).toBeGreaterThanOrEqual(10_000);
});

it('gives all frames back', async () => {
  await vmm[Symbol.asyncDispose]();
  await runScript(lab().l1, `rm -f ${RAM}`);
  await waitFor(
    'all frames back',
    async () => (framesOut(await guestStatus(lab().l1)) <= 2 ? true : undefined),
    { timeoutMs: STEP_MS, intervalMs: 500 },
  );
});
