/**
 * A processor with Indirect Branch Tracking, and a kernel that enforces it: an indirect branch of either module to what is no
 * legal target would be a BUG of the kernel. Both load, unload and load again, hooks are called all the while, and the kernel
 * has nothing to say.
 */
import { afterAll, expect, it } from 'vitest';
import { Acceleration, insmod, rmmod } from '../../src/testbed/acceleration.ts';
import { EXIT_CACHE } from '../../src/bench/exits/run.ts';
import { KvmCounters } from '../../src/testbed/kvm-counters.ts';
import { TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { runScript } from '../../src/lab/levels.ts';
import { measuredStep, registered, STEP_MS } from '../support/intel.ts';
import { useLab } from '../support/lab.ts';

const LOADS = 3;
const LINKS = 1000;
const RACED = 10_000;
const RAM = `${TURTLEFS_DIR}/tiny.ram`;

// 6.1 as Debian builds it does not know IBT
const lab = useLab({
  accel: 'bochs',
  bochsModel: 'tigerlake',
  kernel: process.env['HT_TEST_KERNEL'] ?? '6.12',
});
const undo = new CleanupStack();
afterAll(() => undo.run());

const both = ['hyperturtle_host', 'hyperturtle_guest'] as const;

it('both modules load, unload and load again under a kernel that enforces IBT', async () => {
  const { l0 } = lab();
  const log = (what: string): Promise<string> => runScript(l0, what, { timeoutMs: STEP_MS });
  expect(await log(`dmesg | grep 'CET detected'`)).toMatch(/Indirect Branch Tracking enabled/);
  // this model's list of processor states is not what the kernel expects, of which it warns as it boots
  await log('dmesg -c > /dev/null; echo "IBT is on" > /dev/kmsg');
  for (let i = 0; i < 2; i++) {
    for (const module of both) await insmod(l0, module, undefined);
    expect(await log('grep -A1 paging64_page_fault /sys/kernel/tracing/enabled_functions')).toMatch(
      /direct-->ht_npt_trampoline/,
    );
    for (const module of both) await rmmod(l0, module);
  }
  expect(await log('lsmod')).not.toMatch(/hyperturtle_(host|guest)/);
});

it('hooks are called under IBT while modules and programs come and go', async () => {
  const { l0, l1 } = lab();
  const counters = await KvmCounters.start(l0);
  undo.add('counters', () => counters.stop());
  const vmm = await TinyVmm.start(l1, {
    ram: '-',
    pages: 512,
    steps: [`cpuid:${RACED}`, 'cpuid:500'],
  });
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());

  // of a VM that nobody attached: hooks come and go around its exits
  await vmm.begin();
  for (let i = 0; i < LOADS; i++) {
    await insmod(l0, 'hyperturtle_host', undefined);
    await rmmod(l0, 'hyperturtle_host');
  }
  expect((await vmm.result(STEP_MS)).mismatches).toBe(0);
  const vanilla = await measuredStep(vmm, counters);
  expect(vanilla.counters.reflectedByCause['cpuid']).toBeGreaterThanOrEqual(500);
  await undo.run();
});

it('exits and faults are answered under IBT, also while links change', async () => {
  const { l1 } = lab();
  const acceleration = await Acceleration.on(lab(), {
    arenaMib: 8,
    hook: 'exit',
    program: EXIT_CACHE,
    options: ['exits=cpuid'],
  });
  undo.add('modules', () => acceleration.off());
  const vmm = await TinyVmm.start(l1, {
    ram: RAM,
    pages: 1024,
    steps: ['cpuid:500', `cpuid:${RACED}`, 'touch:0:512'],
  });
  undo.add('file', () => runScript(l1, `rm -f ${RAM}`).then(() => {}));
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());
  const vanilla = await vmm.step(STEP_MS);
  await registered(l1, vmm, undo);
  await vmm.begin();
  await acceleration.churnLinks(LINKS);
  const raced = await vmm.result(STEP_MS);
  const { handled } = await acceleration.hookCounts();
  process.stdout.write(`  ${RACED} exits, ${handled} answered in L0 while links changed ${LINKS} times\n`);
  expect(raced.mismatches).toBe(0);
  expect(raced.registers).toEqual(vanilla.registers);
  expect(handled).toBeGreaterThan(RACED / 10);
  expect((await vmm.step(STEP_MS)).mismatches).toBe(0);
  await undo.run();
});
