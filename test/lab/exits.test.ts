/**
 * The exit hook in real kernels: what exit-cache answers is what L1 answers, also after L1 changed it; links come and go
 * while L2s run; a killed daemon and an unloaded module leave nothing. One attachment after the other, in this order.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Acceleration } from '../../src/testbed/acceleration.ts';
import { KvmCounters, countersBetween } from '../../src/testbed/kvm-counters.ts';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { runScript } from '../../src/lab/levels.ts';
import { cacheOptions, ExitTests } from '../support/exits.ts';
import { useLab } from '../support/lab.ts';
import { soak } from '../support/scale.ts';

const LINKS = soak(2000, 10_000);

const lab = useLab();
let a: Acceleration;
let tests: ExitTests;
beforeAll(async () => {
  a = await Acceleration.on(lab(), cacheOptions(ARENA_MIB));
  tests = new ExitTests(lab(), a, { arenaMib: ARENA_MIB });
});
afterAll(() => a?.off());

describe('exit-cache', () => {
  it('answers each leaf of CPUID and each listed MSR as L1 does, also when an answer changes', () =>
    tests.answersAsL1());

  it('keeps L1 out of loops of CPUID and RDMSR', async () => {
    const counters = await KvmCounters.start(lab().l0);
    try {
      const reflected = async (n: string): Promise<Record<string, number>> => {
        const before = await counters.read();
        await tests.guest(`loops${n}`, `cpuid:1:0:${n} rdmsr:8b:${n}`);
        const { reflectedByCause, l2ExitsByCause } = countersBetween(before, await counters.read());
        expect(l2ExitsByCause['cpuid']).toBeGreaterThanOrEqual(parseInt(n, 16));
        return reflectedByCause;
      };
      // firmware and the first of each go to L1, and as many of ten as of two thousand
      const few = await reflected('a');
      const many = await reflected('7d0');
      expect(many['cpuid']).toBe(few['cpuid']);
      expect(many['msr']).toBe(few['msr']);
    } finally {
      await counters.stop();
    }
  });

  it('knows nothing of an L2 that nobody registered: L1 answers', async () => {
    const before = await tests.stats();
    expect((await tests.guest('stranger', 'cpuid:0:0:10', 'anonymous')).at(-1)).toMatch(/^leaf 00000000/);
    const after = await tests.stats();
    expect(after.handled).toBe(before.handled);
    expect(after.reasons['NO_L2']).toBeGreaterThan(before.reasons['NO_L2'] ?? 0);
  });
});

describe('links of the exit hook', () => {
  it(`come and go ${LINKS} times while an L2 exits all the time, which gets every answer`, async () => {
    // the guest says "cpuid changed" when one answer was not the first one
    const running = tests.guest('raced', 'cpuid:1:0:2000');
    await a.churnLinks(LINKS);
    expect((await running)[0]).toMatch(/^cpuid n 00002000 /);
  });

  it('go with the process that made them, however it ends, and L2 runs on', async () => {
    const running = tests.guest('orphan', 'cpuid:0:0:3000');
    expect((await lab().l0.exec(['rmmod', 'hyperturtle_host'])).status).not.toBe(0);
    await a.signalAttachment('KILL');
    expect((await running).at(-1)).toMatch(/^leaf 00000000/);
  });
});

describe('the example of docs/hooks.md', () => {
  it('is a service that an L2 calls without L1, and leaves other calls to L1', async () => {
    await tests.servesCalls();
    await a.signalAttachment('TERM');
  });
});

describe('a program', () => {
  it('answers port I/O, RDMSR and WRMSR of what nobody has, HLT and PAUSE; what it leaves alone L1 answers', () =>
    tests.answersEachKind());
});

describe('the module', () => {
  it('is unloaded with nothing left, and loaded again', async () => {
    await a.off();
    const { l0 } = lab();
    await runScript(l0, 'insmod /payload/modules/hyperturtle_host.ko && rmmod hyperturtle_host');
    expect(await runScript(l0, 'lsmod')).not.toMatch(/hyperturtle_(host|guest)/);
  });
});
