/**
 * The Intel half, really run: L0 and L1 on an emulated processor with VMX and EPT, a nested guest without an operating
 * system. One VM, vanilla first, then the same with the hyperupcall. `npm test` has smoke.test.ts of it.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Acceleration, guestStatus, insmod, rmmod, setFillUs } from '../../src/testbed/acceleration.ts';
import type { HookCounts } from '../../src/testbed/acceleration.ts';
import { KvmCounters } from '../../src/testbed/kvm-counters.ts';
import { TINY_VMM_TEST_OFFSET, TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { framesOut } from '../../src/kernel/guest.ts';
import type { Job } from '../../src/lab/levels.ts';
import { runScript } from '../../src/lab/levels.ts';
import { endJob, faultsOf, measuredStep, registered } from '../support/intel.ts';
import type { MeasuredStep } from '../support/intel.ts';
import { useLab } from '../support/lab.ts';

const VANILLA = 512;
const PAGES = 4096;
const SCATTERED = 512;
/** What both sides race on. */
const SHARED = 1024;
const SHARED_AT = 6144;
const VISITS = 40_000;
const RAM = `${TURTLEFS_DIR}/tiny.ram`;
const ARENA_MIB = 8;

interface Measured extends MeasuredStep {
  handled: number;
  runs: number;
  reasons: Record<string, number>;
}

const lab = useLab({ accel: 'bochs' });
const undo = new CleanupStack();
let acceleration: Acceleration;
let counters: KvmCounters;
let vmm: TinyVmm;
let register: Job;

async function measured(accelerated: boolean): Promise<Measured> {
  const none: HookCounts = { handled: 0, runs: 0, entries: 0, reasons: {} };
  const hookBefore = accelerated ? await acceleration.hookCounts() : none;
  const { result, counters: between } = await measuredStep(vmm, counters);
  const hook = accelerated ? await acceleration.hookCounts() : none;
  const reasons = Object.fromEntries(
    Object.entries(hook.reasons).map(([k, n]) => [k, n - (hookBefore.reasons[k] ?? 0)]),
  );
  const m = {
    result,
    counters: between,
    reasons,
    handled: hook.handled - hookBefore.handled,
    runs: hook.runs - hookBefore.runs,
  };
  process.stdout.write(`  ${result.step} ${result.count}: ${JSON.stringify(m)}\n`);
  return m;
}

beforeAll(async () => {
  const { l0, l1 } = lab();
  expect((await runScript(l0, 'cat /sys/module/kvm_intel/parameters/ept')).trim()).toBe('Y');
  acceleration = await Acceleration.on(lab(), { arenaMib: ARENA_MIB });
  undo.add('modules', () => acceleration.off());
  // the emulator does not say that it is one, and the budget of hardware is some hundred of its instructions
  await setFillUs(l0, 100_000);
  counters = await KvmCounters.start(l0);
  undo.add('counters', () => counters.stop());
  vmm = await TinyVmm.start(l1, {
    ram: RAM,
    pages: SHARED_AT + SHARED + 512,
    steps: [
      `touch:${SHARED_AT + SHARED}:${VANILLA}`,
      `touch:0:${PAGES}`,
      `scattered:${PAGES}:${SCATTERED}`,
      `share:${SHARED_AT}:${SHARED}:2:${VISITS}`,
    ],
  });
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());
  undo.add('file', () => runScript(l1, `rm -f ${RAM}`).then(() => {}));
});
afterAll(() => undo.run());

describe('on an Intel processor, an L2 that touches its memory', () => {
  it('goes through L1 for each page without us', async () => {
    const vanilla = await measured(false);
    expect(vanilla.result.mismatches).toBe(0);
    expect(vanilla.counters.reflectedByCause['npf']).toBeGreaterThanOrEqual(VANILLA);
    expect(faultsOf(vanilla).switchesPerPage).toBeGreaterThan(5.5);
  });

  it('has at least 9 of 10 faults answered in L0, with at most a tenth of a world switch a page', async () => {
    register = await registered(lab().l1, vmm, undo);
    const m = await measured(true);
    const f = faultsOf(m);
    expect(m.result.mismatches).toBe(0);
    // what is present was mapped by an earlier group, of which L0 had not filled in all
    expect((m.handled + (m.reasons['PRESENT'] ?? 0)) / m.runs).toBeGreaterThanOrEqual(0.9);
    expect(f.inL0).toBeGreaterThanOrEqual(0.9);
    expect(f.switchesPerPage).toBeLessThanOrEqual(0.1);
    const { fills } = await acceleration.hookCounts();
    process.stdout.write(`  ${JSON.stringify(fills)}\n`);
    expect(fills?.done).toBeGreaterThanOrEqual((PAGES / 64) * 6);
  });

  it('also where nothing is beside what it touches', async () => {
    const m = await measured(true);
    expect(m.result.mismatches).toBe(0);
    expect(m.handled).toBeGreaterThanOrEqual(SCATTERED * 0.5);
    expect(faultsOf(m).inL0).toBeGreaterThanOrEqual(0.9);
  });

  it('sees no page change under it while L1 punches holes and writes to the same pages', async () => {
    const mib = (SHARED * 4096) >> 20;
    const address = `0x${(TINY_VMM_TEST_OFFSET + SHARED_AT * 4096).toString(16)}`;
    const puncher = await lab().l1.spawn([
      ...['/payload/l2/programs/pattern', 'share', RAM, address, String(mib), '1'],
      ...['--punch', '64', '--seconds', '100000'],
    ]);
    let said: string;
    let m: Measured;
    try {
      m = await measured(true);
    } finally {
      await endJob(puncher);
      said = await puncher.output();
    }
    const other = JSON.parse(said.trim().split('\n').at(-1)!) as { mismatches: number; punched: number };
    process.stdout.write(`  L1's side: ${JSON.stringify(other)}\n`);
    expect([m.result.mismatches, other.mismatches]).toEqual([0, 0]);
    expect(other.punched).toBeGreaterThanOrEqual(10_000);
    expect(m.handled).toBeGreaterThan(0);
  });

  it('leaves nothing behind: both modules unload, and load again', async () => {
    const { l0, l1 } = lab();
    await endJob(register);
    await vmm[Symbol.asyncDispose]();
    await runScript(l1, `rm ${RAM}`);
    // a frame may wait as a spare of the one CPU that lost a race
    expect(framesOut(await guestStatus(l1))).toBeLessThanOrEqual(1);
    await undo.run();
    for (const [level, module] of [
      [l0, 'hyperturtle_host'],
      [l1, 'hyperturtle_guest'],
    ] as const) {
      await insmod(level, module, undefined);
      await rmmod(level, module);
    }
  });
});
