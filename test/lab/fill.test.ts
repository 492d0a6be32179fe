/**
 * The rest of a group in the exit of its first fault (c/host/fill.c): how few switches a page costs then, that contents are
 * right, that it ends at its budget and in time for others, and that nothing is filled in where every use is to be seen.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import type { FillCounts } from '../../src/kernel/npf.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { Acceleration, CLI, setFillUs } from '../../src/testbed/acceleration.ts';
import { KvmCounters } from '../../src/testbed/kvm-counters.ts';
import { TINY_VMM_TEST_OFFSET, TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { endJob, faultsOf, measuredStep, registered } from '../support/intel.ts';
import type { MeasuredStep } from '../support/intel.ts';
import { useLab } from '../support/lab.ts';

const RAM = `${TURTLEFS_DIR}/fill.ram`;
const PAGES = 4096;
const FEW = 1024;
const SHARED = 1024;
const VISITS = 60_000;

/** Each step touches memory that nobody has touched before. */
const at = (nth: number): number => 512 + nth * PAGES;
const SHARED_AT = at(5);

const lab = useLab();
const undo = new CleanupStack();
let acceleration: Acceleration;
let counters: KvmCounters;
let vmm: TinyVmm;

type Measured = MeasuredStep & { fills: FillCounts; switches: number };

async function fillsNow(): Promise<FillCounts> {
  const { fills } = await acceleration.hookCounts();
  return fills!;
}

/** The next step; `fills`: in it, but for `maxNs` and `limitNs`. */
async function measured(): Promise<Measured> {
  const before = await fillsNow();
  const m = await measuredStep(vmm, counters);
  const after = await fillsNow();
  const fills = { ...after };
  for (const what of ['done', 'budget', 'pending', 'failed', 'absent', 'ns'] as const)
    fills[what] -= before[what];
  const of = { ...m, fills, switches: faultsOf(m).switchesPerPage };
  process.stdout.write(
    `  ${m.result.step} ${m.result.count}: ${of.switches.toFixed(4)} switches a page, ${JSON.stringify(fills)}\n`,
  );
  expect(m.result.mismatches).toBe(0);
  return of;
}

/** With another budget, and the former one again. */
async function withBudget(us: number): Promise<Measured> {
  const before = await setFillUs(lab().l0, us);
  try {
    return await measured();
  } finally {
    await setFillUs(lab().l0, before);
  }
}

beforeAll(async () => {
  const { l0, l1 } = lab();
  acceleration = await Acceleration.on(lab(), { arenaMib: 8 });
  undo.add('modules', () => acceleration.off());
  counters = await KvmCounters.start(l0);
  undo.add('counters', () => counters.stop());
  vmm = await TinyVmm.start(l1, {
    ram: RAM,
    pages: SHARED_AT + SHARED,
    steps: [
      'touch:0:512',
      `touch:${at(0)}:${PAGES}`,
      `touch:${at(1)}:${PAGES}`,
      `touch:${at(2)}:${PAGES}`,
      `touch:${at(3)}:${FEW}`,
      `touch:${at(4)}:${PAGES}`,
      `share:${SHARED_AT}:${SHARED}:2:${VISITS}`,
    ],
  });
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());
  undo.add('file', () => runScript(l1, `rm -f ${RAM}`).then(() => {}));
  await registered(l1, vmm, undo);
  await measured(); // the flags of L1's entries are learned, and a run has begun
});
afterAll(() => undo.run());

it('costs an L2 that touches page after page at most 0.06 world switches each', async () => {
  const m = await measured();
  expect(m.switches).toBeLessThanOrEqual(0.06);
  expect(m.fills.done).toBeGreaterThanOrEqual((PAGES / 64) * 6);
  expect(m.fills.failed).toBe(0);
  expect(m.fills.maxNs).toBeGreaterThan(0);
});

it('is off with a budget of 0, and the same pages cost four times as much', async () => {
  const m = await withBudget(0);
  expect(m.fills).toMatchObject({ done: 0, budget: 0, pending: 0, limitNs: 0 });
  expect(m.switches).toBeGreaterThanOrEqual(0.2);
});

it('ends at its budget', async () => {
  const m = await withBudget(1);
  expect(m.fills.done).toBe(0);
  expect(m.fills.budget).toBeGreaterThanOrEqual(PAGES / 64 - 8);
  expect(m.switches).toBeGreaterThanOrEqual(0.2); // each of its eights is tried again, and has no time either
});

it('is not done where the first use of every page is to be seen: each has an exit', async () => {
  const { l1 } = lab();
  await run(l1, [CLI, 'guest', 'set', '--exact']);
  const m = await measured().finally(() => run(l1, [CLI, 'guest', 'set', '--no-exact']));
  expect(m.fills).toMatchObject({ done: 0, budget: 0, pending: 0 });
  expect(m.counters.l2ExitsByCause['npf']).toBeGreaterThanOrEqual(FEW);
});

it('goes on while the program is unlinked and linked thousands of times', async () => {
  const before = await fillsNow(); // this leaves the program linked: the step begins with it
  await vmm.begin();
  await acceleration.churnLinks(2000);
  const result = await vmm.result(120_000);
  expect(result.mismatches).toBe(0);
  expect((await fillsNow()).done).toBeGreaterThan(before.done);
});

it('sees no page change under it while L1 punches holes and writes to the same pages', async () => {
  const { l1 } = lab();
  const address = `0x${(TINY_VMM_TEST_OFFSET + SHARED_AT * 4096).toString(16)}`;
  const puncher = await l1.spawn([
    ...['/payload/l2/programs/pattern', 'share', RAM, address, String((SHARED * 4096) >> 20), '1'],
    ...['--punch', '64', '--seconds', '100000'],
  ]);
  let m: Measured;
  try {
    m = await measured();
  } finally {
    await endJob(puncher);
  }
  const other = JSON.parse((await puncher.output()).trim().split('\n').at(-1)!) as Record<string, number>;
  process.stdout.write(`  L1's side: ${JSON.stringify(other)}\n`);
  expect(other['mismatches']).toBe(0);
  expect(other['punched']).toBeGreaterThan(100);
  expect(m.fills.done).toBeGreaterThan(0);
});
