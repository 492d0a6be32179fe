/**
 * On an emulated Intel processor, what fits into a few minutes: both modules load on VMX and EPT, a nested guest touches
 * pages that L0 answers, and all unloads. The other tests here are larger: `npm run test:intel`.
 */
import { expect, it } from 'vitest';
import { Acceleration, setFillUs } from '../../src/testbed/acceleration.ts';
import { KvmCounters } from '../../src/testbed/kvm-counters.ts';
import { TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { runScript } from '../../src/lab/levels.ts';
import { faultsOf, measuredStep, registered } from '../support/intel.ts';
import { useLab } from '../support/lab.ts';

const VANILLA = 256;
const PAGES = 1024;
const RAM = `${TURTLEFS_DIR}/tiny.ram`;

const lab = useLab({ accel: 'bochs' });

it('an L2 on EPT has at least 9 of 10 first touches answered in L0, with at most a fifth of a world switch a page', async () => {
  const { l0, l1 } = lab();
  await using undo = new CleanupStack();
  expect((await runScript(l0, 'cat /sys/module/kvm_intel/parameters/ept')).trim()).toBe('Y');
  const acceleration = await Acceleration.on(lab(), { arenaMib: 8 });
  undo.add('modules', () => acceleration.off());
  await setFillUs(l0, 100_000); // as in npf.test.ts
  const counters = await KvmCounters.start(l0);
  const vmm = await TinyVmm.start(l1, {
    ram: RAM,
    pages: PAGES + VANILLA + 512,
    steps: [`touch:${PAGES + 512}:${VANILLA}`, `touch:0:${PAGES}`],
  });
  undo.add('file', () => runScript(l1, `rm -f ${RAM}`).then(() => {}));
  undo.add('VMM', () => vmm[Symbol.asyncDispose]());

  const vanilla = await measuredStep(vmm, counters);
  expect(vanilla.result.mismatches).toBe(0);
  expect(faultsOf(vanilla).switchesPerPage).toBeGreaterThan(5.5);
  await registered(l1, vmm, undo);
  const m = await measuredStep(vmm, counters);
  expect(m.result.mismatches).toBe(0);
  expect(faultsOf(m).inL0).toBeGreaterThanOrEqual(0.9);
  expect(faultsOf(m).switchesPerPage).toBeLessThanOrEqual(0.2);
  await undo.run();
  process.stdout.write(`  ${Math.round(lab().emulatorCpuSeconds())} s of a core\n`);
});
