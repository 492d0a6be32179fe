/**
 * 2 MiB pages: one exit of L2 for 512 pages, and the same memory safety when pages are taken away in part and as a
 * whole, L2s are killed, L1 reclaims memory and slots are logged. (Alignment, limits, claims: npf-program.test.ts.)
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Acceleration, CLI, jobSays, whenLargePoolFull } from '../../src/testbed/acceleration.ts';
import type { HookCounts } from '../../src/testbed/acceleration.ts';
import { runIntegrity } from '../../src/bench/integrity/run.ts';
import { KvmCounters, countersBetween } from '../../src/testbed/kvm-counters.ts';
import { withL2 } from '../../src/testbed/l2-session.ts';
import { TINY_VMM_TEST_OFFSET, TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { silentProgress } from '../../src/core/progress.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { allFramesBack } from '../support/cgroup.ts';
import { TEST_KERNEL, useLab } from '../support/lab.ts';
import { MIGRATE } from '../support/migrate.ts';
import { SOAKS, soak } from '../support/scale.ts';

const LARGE = 512;
const FRAMES = 48;
const RAM = `${TURTLEFS_DIR}/large.ram`;
const STEP_MS = 300_000;
/** Most steps in which L2 shares its pages with L1. */
const SHARES = 25;

// two L1 CPUs: one works on while a program runs for the other
const lab = useLab({ kernel: TEST_KERNEL, l1Cpus: 2 });
let acceleration: Acceleration;
let counters: KvmCounters;

const fullPool = (): Promise<void> => whenLargePoolFull(lab().l1, FRAMES);

/** A tiny guest on turtlefs that is registered. */
async function withTiny<T>(pages: number, steps: string[], body: (vmm: TinyVmm) => Promise<T>): Promise<T> {
  const { l1 } = lab();
  await using undo = new CleanupStack();
  undo.add('RAM', () => runScript(l1, `rm -f ${RAM}`).then(() => {}));
  const vmm = await TinyVmm.start(l1, { ram: RAM, pages, steps });
  undo.add('VM', () => vmm[Symbol.asyncDispose]());
  const register = await l1.spawn([CLI, 'guest', 'register', '--pid', String(vmm.pid)]);
  undo.add('registration', async () => {
    if ((await register.status()) === undefined) await register.kill('TERM');
    await register.wait({ timeoutMs: 60_000 });
  });
  // first of all: it dies while it is registered
  await using running = vmm;
  await jobSays(register, /registered/, 'hyperturtle guest register', 120_000, undefined);
  return await body(running);
}

/** What the hook counted while `body` ran. */
async function counted(body: () => Promise<void>): Promise<HookCounts & { l1: number; exits: number }> {
  const [hook, kvm] = [await acceleration.hookCounts(), await counters.read()];
  await body();
  const [after, kvmAfter] = [await acceleration.hookCounts(), await counters.read()];
  const { l2ExitsByCause, reflectedByCause } = countersBetween(kvm, kvmAfter);
  const reasons = Object.fromEntries(
    Object.entries(after.reasons).map(([k, n]) => [k, n - (hook.reasons[k] ?? 0)]),
  );
  return {
    ...{ runs: after.runs - hook.runs, handled: after.handled - hook.handled, reasons },
    ...{ entries: after.entries - hook.entries },
    ...{ l1: reflectedByCause['npf'] ?? 0, exits: l2ExitsByCause['npf'] ?? 0 },
  };
}

const allBack = (): Promise<void> => allFramesBack(lab().l1);

beforeAll(async () => {
  acceleration = await Acceleration.on(lab(), { arenaMib: ARENA_MIB, largeFrames: FRAMES });
  counters = await KvmCounters.start(lab().l0);
});
afterAll(async () => {
  await counters?.stop();
  await acceleration?.off();
});

describe('an L2 that touches its memory', () => {
  it('leaves for L0 once for 512 pages, and for L1 never, where the pool has 2 MiB frames', async () => {
    await fullPool();
    // the first range is where flags are learned, in pages of 4 KiB
    await withTiny(16 * LARGE, [`touch:0:${LARGE}`, `touch:${LARGE}:${15 * LARGE}`], async (vmm) => {
      expect((await vmm.step(STEP_MS)).mismatches).toBe(0);
      const c = await counted(async () => expect((await vmm.step(STEP_MS)).mismatches).toBe(0));
      process.stdout.write(`  ${15 * LARGE} pages: ${JSON.stringify(c)}\n`);
      expect(c.entries).toBe(15);
      expect(c.handled).toBe(15);
      expect(c.l1).toBe(0);
    });
    await allBack();
  });

  it('gets 4 KiB pages when the pool has none left, in the same table', async () => {
    await fullPool();
    const granules = FRAMES + 24;
    await withTiny((granules + 1) * LARGE, [`touch:0:${granules * LARGE}`], async (vmm) => {
      const c = await counted(async () => expect((await vmm.step(STEP_MS)).mismatches).toBe(0));
      process.stdout.write(`  ${granules * LARGE} pages: ${JSON.stringify(c)}\n`);
      expect(c.reasons['POOL_EMPTY'] ?? 0).toBeGreaterThan(0);
      expect(c.entries).toBeGreaterThan(LARGE);
    });
    await allBack();
  });
});

describe('no page changes under its owner', () => {
  it.each<{ hole: number; visits: number; rounds: number; what: string; reclaim?: boolean }>([
    { hole: 512, visits: 40_000, rounds: soak(3, 16), what: 'whole 2 MiB and as much across two of them' },
    // small holes take L1 longer for as many pages
    { hole: 64, visits: 80_000, rounds: soak(1, 2), what: 'parts of 2 MiB' },
    { hole: 1536, visits: 40_000, rounds: soak(3, 20), what: 'several 2 MiB at once' },
    {
      hole: 512,
      visits: 40_000,
      rounds: soak(3, 20),
      what: 'whole 2 MiB, and L1 reclaims its pools',
      reclaim: true,
    },
  ])('while L1 writes to the same pages and punches holes: $what', async (o) => {
    const { hole, visits, rounds, reclaim } = o;
    const { l1 } = lab();
    await fullPool();
    const granules = 24;
    const results = await withTiny(
      granules * LARGE,
      [`touch:0:1`, ...Array<string>(SHARES).fill(`share:${LARGE}:${(granules - 1) * LARGE}:2:${visits}`)],
      async (vmm) => {
        await vmm.step(STEP_MS);
        const address = `0x${(TINY_VMM_TEST_OFFSET + LARGE * 4096).toString(16)}`;
        const puncher = await l1.spawn([
          ...['/payload/l2/programs/pattern', 'share', RAM, address, String((granules - 1) * 2), '1'],
          ...['--punch', String(hole), '--mixed', '--rounds', String(rounds)],
        ]);
        let mismatches = 0;
        try {
          // whichever side is the faster one: L2 works until L1 has punched all it is to punch
          for (let i = 0; i < SHARES && (i === 0 || (await puncher.status()) === undefined); i++) {
            await vmm.begin();
            if (reclaim === true)
              for (let k = 0; k < 8; k++) await runScript(l1, 'echo 2 > /proc/sys/vm/drop_caches');
            const result = await vmm.result(STEP_MS);
            mismatches += result.mismatches;
            process.stdout.write(`  L2 ${JSON.stringify(result)}\n`);
          }
        } finally {
          await puncher.kill('TERM');
          await puncher.wait({ timeoutMs: 60_000 });
        }
        const said = JSON.parse((await puncher.output()).trim().split('\n').at(-1)!) as Record<
          string,
          number
        >;
        process.stdout.write(`  L1 ${JSON.stringify(said)}\n`);
        return { l2: mismatches, l1: said['mismatches'], punched: said['punched']! };
      },
    );
    expect(results).toMatchObject({ l2: 0, l1: 0 });
    expect(results.punched).toBeGreaterThanOrEqual(10_000);
    await allBack();
  });

  it('when an L2 is killed in the middle of it, again and again', async () => {
    for (let i = 0; i < soak(2, 3); i++) {
      await withTiny(24 * LARGE, [`touch:0:1`, `touch:0:${24 * LARGE}`], async (vmm) => {
        await vmm.step(STEP_MS);
        await vmm.begin();
      });
      await allBack();
    }
  });

  if (SOAKS)
    it('in a whole Linux, while both sides use its memory and L1 punches holes', async () => {
      await counters.stop();
      await acceleration.off();
      try {
        const report = await runIntegrity(lab(), {
          ...{ pages: soak(4000, 20_000), sharedMib: 16, ownMib: 24, hole: 512 },
          ...{ passSeconds: soak(3, 5), largeFrames: FRAMES },
          ...{ arenaMib: ARENA_MIB, progress: silentProgress },
        });
        process.stdout.write(`  ${JSON.stringify(report)}\n`);
        expect(report).toMatchObject({ problems: [], mismatches: 0 });
      } finally {
        // loaded again, after it was unloaded by that
        acceleration = await Acceleration.on(lab(), { arenaMib: ARENA_MIB, largeFrames: FRAMES });
        counters = await KvmCounters.start(lab().l0);
      }
    });
});

if (SOAKS)
  describe('an L2 whose RAM is logged for migration', () => {
    it('arrives whole in another VM', async () => {
      await fullPool();
      const spec = { name: 'm', ram: 'turtlefs', memMib: 128, append: '', machine: 'pc', port: 0 } as const;
      await withL2(lab(), spec, async (l2) => {
        const running = l2.shell.runOk('pattern own 24 --seconds 600', { timeoutMs: 700_000 });
        running.catch(() => {}); // it ends with its VM
        await lab().l1.writeFile('/run/migrate.mjs', MIGRATE);
        const out = await run(lab().l1, ['node', '/run/migrate.mjs'], { timeoutMs: 400_000 });
        expect(out).toMatch(/same RAM, \d+ rounds of copying/);
      });
      await allBack();
    });
  });
