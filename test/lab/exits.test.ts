/**
 * The exit hook in real kernels: what exit-cache answers is what L1 answers, also after L1 changed it; links come and go
 * while L2s run; a killed daemon and an unloaded module leave nothing. One attachment after the other, in this order.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Acceleration, CLI } from '../../src/bench/accelerate.ts';
import type { AccelerateOptions } from '../../src/bench/accelerate.ts';
import { CACHE_OPTIONS, EXIT_CACHE, exitsGuest } from '../../src/bench/exit.ts';
import { KvmCounters, countersBetween } from '../../src/bench/kvm-counters.ts';
import { ARENA_MIB } from '../../src/cli/bench.ts';
import { CACHED_MSRS } from '../../src/guest/exit-counts.ts';
import { runScript } from '../../src/lab/levels.ts';
import { L1_RUN } from '../../src/lab/machine.ts';
import { useLab } from '../support/lab.ts';

const CACHE: AccelerateOptions = {
  arenaMib: ARENA_MIB,
  hook: 'exit',
  program: EXIT_CACHE,
  options: CACHE_OPTIONS,
};
const HYPERCALL: AccelerateOptions = {
  ...CACHE,
  program: '/payload/bpf/hypercall.bpf.o',
  options: ['exits=hypercall'],
};

interface Stats {
  handled: number;
  reasons: Record<string, number>;
  exits: Record<string, { seen: number; handled: number; returned: number }>;
}

const lab = useLab();
let a: Acceleration;
beforeAll(async () => {
  a = await Acceleration.on(lab(), CACHE);
});
afterAll(() => a?.off());

const l1 = (name: string, steps: string, ram: 'turtlefs' | 'anonymous' = 'turtlefs'): Promise<string[]> =>
  exitsGuest(lab().l1, { name, steps, ram });
const stats = async (): Promise<Stats> =>
  JSON.parse(
    await runScript(lab().l0, `${CLI} host stats --hook exit --qmp ${L1_RUN.qmpSocket} --json`),
  ) as Stats;

describe('exit-cache', () => {
  it('answers each leaf of CPUID and each listed MSR as L1 does, also when an answer changes', async () => {
    const msrs = CACHED_MSRS.map((m) => `rdmsr:${m.toString(16)}:2`).join(' ');
    // without its APIC a processor has no APIC bit in leaf 1
    const apic =
      'rdmsr:1b:2 cpuid:1:0:2 wrmsr:1b:fee00000:0 rdmsr:1b:2 cpuid:1:0:2 wrmsr:1b:fee00900:0 cpuid:1:0:2';
    const steps = `dump ${msrs} ${apic} osxsave:1 xcr0:3 xcr0:7 xcr0:1 osxsave:0 ${msrs}`;
    await a.setLinked(false);
    const expected = await l1('vanilla', steps);
    await a.setLinked(true);
    const before = await stats();
    const found = await l1('cached', steps);
    const words = (lines: readonly string[]): string[] => lines.filter((l) => !l.includes('ticks'));
    expect(words(found)).toEqual(words(expected));
    const leaves = words(found).filter((l) => l.startsWith('leaf'));
    const { exits } = await stats();
    // the guest asks each twice and tells the second answer: that came from the cache
    expect((exits['cpuid']?.handled ?? 0) - (before.exits['cpuid']?.handled ?? 0)).toBeGreaterThan(
      leaves.length * 0.9,
    );
    expect(exits['rdmsr']?.handled).toBeGreaterThan(CACHED_MSRS.length);
    const features = new Set(leaves.filter((l) => l.startsWith('leaf 00000001 00000000')));
    expect(features.size, 'leaf 1 has changed').toBeGreaterThan(1);
    expect(leaves.length).toBeGreaterThan(80);
  });

  it('keeps L1 out of loops of CPUID and RDMSR', async () => {
    const counters = await KvmCounters.start(lab().l0);
    try {
      const reflected = async (n: string): Promise<Record<string, number>> => {
        const before = await counters.read();
        await l1(`loops${n}`, `cpuid:1:0:${n} rdmsr:8b:${n}`);
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
    const before = await stats();
    expect((await l1('stranger', 'cpuid:0:0:10', 'anonymous')).at(-1)).toMatch(/^leaf 00000000/);
    const after = await stats();
    expect(after.handled).toBe(before.handled);
    expect(after.reasons['NO_L2']).toBeGreaterThan(before.reasons['NO_L2'] ?? 0);
  });
});

describe('links of the exit hook', () => {
  it('come and go 10,000 times while an L2 exits all the time, which gets every answer', async () => {
    // the guest says "cpuid changed" when one answer was not the first one
    const running = l1('raced', 'cpuid:1:0:2000');
    await a.churnLinks(10_000);
    expect((await running)[0]).toMatch(/^cpuid n 00002000 /);
  });

  it('go with the process that made them, however it ends, and L2 runs on', async () => {
    const running = l1('orphan', 'cpuid:0:0:3000');
    expect((await lab().l0.exec(['rmmod', 'hyperturtle_host'])).status).not.toBe(0);
    await a.signalAttachment('KILL');
    expect((await running).at(-1)).toMatch(/^leaf 00000000/);
  });
});

describe('the example of docs/hooks.md', () => {
  it('is a service that an L2 calls without L1, and leaves other calls to L1', async () => {
    await a.attach(HYPERCALL);
    const add = 'call:48540001:0:3:2:64';
    const lines = await l1(
      'caller',
      `${add} call:48540001:1:3:0:1 call:48540001:0:10:1:1 call:48540001:2:0:0:1 call:99:0:0:0:1`,
    );
    // a hundred times two; the same read; no such counter; no such operation; KVM's own answer: ENOSYS
    expect(lines.map((l) => l.split(' ').slice(1, 3).join(' '))).toEqual([
      '00000000 000000c8',
      '00000000 000000c8',
      'ffffffff 00000000',
      'ffffffff 00000002',
      'fffffc18 00000000',
    ]);
    const { exits, reasons } = await stats();
    expect(exits['hypercall']).toMatchObject({ seen: 104, handled: 103, returned: 1 });
    expect(reasons).toEqual({ NOT_OURS: 1 });
  });
});

describe('the module', () => {
  it('is unloaded with nothing left, and loaded again', async () => {
    await a.off();
    const { l0 } = lab();
    await runScript(l0, 'insmod /payload/modules/hyperturtle_host.ko && rmmod hyperturtle_host');
    expect(await runScript(l0, 'lsmod')).not.toContain('hyperturtle');
  });
});
