/**
 * The exit hook on VMX with the guest and the checks of AMD's (test/support/exits.ts): every answer of CPUID and of the
 * listed MSRs, ports, HLT, PAUSE, and VMCALL.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Acceleration } from '../../src/testbed/acceleration.ts';
import { runScript } from '../../src/lab/levels.ts';
import { cacheOptions, ExitTests } from '../support/exits.ts';
import { useLab } from '../support/lab.ts';

const ARENA_MIB = 8;

const lab = useLab({ accel: 'bochs' });
let a: Acceleration;
let tests: ExitTests;
beforeAll(async () => {
  a = await Acceleration.on(lab(), cacheOptions(ARENA_MIB));
  // a VMM starts there in a minute
  tests = new ExitTests(lab(), a, { arenaMib: ARENA_MIB, timeoutS: 400 });
});
afterAll(() => a?.off());

it('exit-cache answers each leaf of CPUID and each listed MSR as L1 does, also when an answer changes', () =>
  tests.answersAsL1());

it('an example serves VMCALL of an L2 without L1, and leaves other calls to L1', async () => {
  await a.signalAttachment('TERM');
  await tests.servesCalls();
  await a.signalAttachment('TERM');
});

it('a program answers port I/O, RDMSR and WRMSR of what nobody has, HLT and PAUSE; what it leaves alone L1 answers', () =>
  tests.answersEachKind());

it('all is taken out with nothing left', async () => {
  await a.off();
  for (const level of [lab().l0, lab().l1])
    expect(await runScript(level, 'lsmod')).not.toMatch(/hyperturtle_(host|guest)/);
});
