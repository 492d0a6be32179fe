/**
 * The hook call on VMX with the checks of AMD's (test/support/calls.ts), on a processor with Indirect Branch Tracking and a
 * kernel that enforces it: VMCALL of L1 and of an L2, in their kernels and in user space, while links come and go.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Acceleration } from '../../src/testbed/acceleration.ts';
import { runScript } from '../../src/lab/levels.ts';
import { callOptions, CallTests } from '../support/calls.ts';
import { STEP_MS } from '../support/intel.ts';
import { useLab } from '../support/lab.ts';

const ARENA_MIB = 8;
const LINKS = 1000;

// 6.1 as Debian builds it does not know IBT
const lab = useLab({
  accel: 'bochs',
  bochsModel: 'tigerlake',
  kernel: process.env['HT_TEST_KERNEL'] ?? '6.12',
});
let a: Acceleration;
let tests: CallTests;
beforeAll(async () => {
  const log = (what: string): Promise<string> => runScript(lab().l0, what, { timeoutMs: STEP_MS });
  expect(await log(`dmesg | grep 'CET detected'`)).toMatch(/Indirect Branch Tracking enabled/);
  // this model's list of processor states is not what the kernel expects, of which it warns as it boots
  await log('dmesg -c > /dev/null; echo "IBT is on" > /dev/kmsg');
  a = await Acceleration.on(lab(), callOptions(ARENA_MIB, ['from=both']));
  // a VMM starts there in a minute
  tests = new CallTests(lab(), a, { arenaMib: ARENA_MIB, timeoutS: 400 });
});
afterAll(() => a?.off());

it('L1 and its nested guest share counters, and L1 is entered for none of its guest', () =>
  tests.servesBoth());

it('a program is told who calls and all six words, and what it answers is all that is taken', () =>
  tests.tellsAll());

it('no call is lost or made twice while the program comes and goes', () => tests.racesLinks(LINKS));

it('all is taken out with nothing left', async () => {
  await a.off();
  for (const level of [lab().l0, lab().l1])
    expect(await runScript(level, 'lsmod')).not.toMatch(/hyperturtle_(host|guest)/);
});
