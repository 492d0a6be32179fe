/**
 * 2 MiB frames as the module sees fit (large_frames=-1): no more than free memory can spare, given back first where it
 * is short; and what of them an L2 does not use is given back while it runs, without a change of what it has.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Acceleration, CLI, guestStatus, whenLargePoolFull } from '../../src/testbed/acceleration.ts';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { sleep, waitFor } from '../../src/core/wait.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import type { HtgL2Status } from '../../src/kernel/guest.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { TINY_VMM_TEST_OFFSET } from '../../src/testbed/tiny-vmm.ts';
import { MIB, STEP_MS, allFramesBack, countMemory, inCgroup } from '../support/cgroup.ts';
import type { Guest } from '../support/cgroup.ts';
import { TEST_KERNEL, useLab } from '../support/lab.ts';

const LARGE = 512;
/** A guest that has a step left does not end. */
const LAST = 'touch:0:1';
/** The module looks at a frame once, about 10 s after it was given. */
const LOOKED_MS = 120_000;

// two L1 CPUs: one takes pages away while the other's guest writes
const lab = useLab({ kernel: TEST_KERNEL, l1Cpus: 2 });
let acceleration: Acceleration;

type Looked = Awaited<ReturnType<Guest['status']>> & HtgL2Status & { note?: string };

const statusOf = async (guest: Guest): Promise<Looked> => (await guest.status()) as Looked;

/** When `seen` of its 2 MiB frames have been looked at, and none is left to be. */
const looked = (guest: Guest, seen: number): Promise<Looked> =>
  waitFor(
    'a look at all 2 MiB frames',
    async () => {
      const s = await statusOf(guest);
      return s.large_seen >= seen && s.large_waiting === 0 ? s : undefined;
    },
    { timeoutMs: LOOKED_MS, intervalMs: 1000 },
  );

async function stepsOf(guest: Guest, steps: number): Promise<void> {
  for (let i = 0; i < steps; i++) await guest.vmm.step(STEP_MS);
}

const level = async (): Promise<number> => (await guestStatus(lab().l1)).large_level;

beforeAll(async () => {
  acceleration = await Acceleration.on(lab(), { arenaMib: ARENA_MIB, largeFrames: 'auto' });
  await countMemory(lab().l1);
});
afterAll(() => acceleration?.off());

describe('an L2', () => {
  it('keeps all that it wrote while what it does not use is given back, and then gets 4 KiB pages', async () => {
    const { l1 } = lab();
    await whenLargePoolFull(l1, 'auto');
    const granules = 48;
    // each step visits the pages of the one before, in the same order, and some more
    const visits = Array.from({ length: 12 }, (_, i) => 400 * (i + 1));
    const shares = visits.map((v) => `share:${LARGE}:${granules * LARGE}:2:${v}`);
    const o = { name: 'thin', pages: (granules + 9) * LARGE };
    const steps = [`touch:0:${LARGE}`, ...shares, `touch:${(granules + 1) * LARGE}:${8 * LARGE}`, LAST];
    await inCgroup(l1, { ...o, steps }, async (guest) => {
      await guest.vmm.step(STEP_MS);
      const { large_back: before } = await guestStatus(l1);
      let had = 0;
      for (const v of visits) {
        const r = await guest.vmm.step(STEP_MS);
        expect(r.mismatches).toBe(0);
        // a page that was taken away with something in it would read as zeros
        expect(r.readBackOwn).toBeGreaterThanOrEqual(had);
        had = v;
        await sleep(1000); // all of them take longer than a look is away
      }
      const s = await looked(guest, granules / 2);
      process.stdout.write(`  ${JSON.stringify({ ...s, cgroup: undefined })}\n`);
      expect((await guestStatus(l1)).large_back - before).toBeGreaterThan((granules * LARGE) / 2);
      expect(s.pages_held).toBeLessThan(had + 5 * LARGE);
      expect(s.pages_vain).toBeLessThan(0.05 * s.pages_held);
      expect(s).toMatchObject({ small: 1, small_times: 1 });
      expect(s.note).toMatch(/^it gets pages of 4 KiB alone for a while \(time 1\)/);
      // charged is what it has, the program, and credit of at most 8 MiB
      expect(await guest.memory('memory.current')).toBeLessThan(s.pages_held * 4096 + 24 * MIB);
      // within the minute that it lasts
      await guest.vmm.step(STEP_MS);
      expect((await statusOf(guest)).large_new).toBe(s.large_new);
    });
    await allFramesBack(l1);
  });

  it('keeps 2 MiB frames that it uses', async () => {
    const { l1 } = lab();
    await whenLargePoolFull(l1, 'auto');
    const steps = [`touch:0:${LARGE}`, `touch:${LARGE}:${12 * LARGE}`];
    await inCgroup(l1, { name: 'thick', pages: 13 * LARGE, steps: [...steps, LAST] }, async (guest) => {
      await stepsOf(guest, steps.length);
      // out of credit the fault goes to L1, which gives one as well
      expect((await statusOf(guest)).large_new).toBeGreaterThan(6);
      const s = await looked(guest, 12);
      process.stdout.write(`  ${JSON.stringify({ ...s, cgroup: undefined })}\n`);
      expect(s.large_kept).toBeGreaterThanOrEqual(12);
      expect(s.small).toBe(0);
      expect(s.pages_vain).toBeLessThan(0.05 * s.pages_held);
    });
    await allFramesBack(l1);
  });

  it('keeps frames that were asked for ahead, used or not', async () => {
    const { l1 } = lab();
    await whenLargePoolFull(l1, 'auto');
    const [pages, ram] = [8 * LARGE, `${TURTLEFS_DIR}/ahead.ram`];
    const bytes = TINY_VMM_TEST_OFFSET + pages * 4096;
    await runScript(l1, `fallocate -l ${bytes} ${ram}`);
    const steps = [`touch:0:1`, `touch:${LARGE}:1`];
    await inCgroup(l1, { name: 'ahead', pages, steps: [...steps, LAST], ram }, async (guest) => {
      await stepsOf(guest, steps.length);
      await sleep(12_000);
      expect(await statusOf(guest)).toMatchObject({ large_waiting: 0, large_seen: 0, pages_back: 0 });
      expect(Number(await runScript(l1, `stat -c %b ${ram}`)) * 512).toBe(bytes);
    });
    await allFramesBack(l1);
  });

  it('gets none while the first use of each page is to be seen, nor does its VMM', async () => {
    const { l1 } = lab();
    await whenLargePoolFull(l1, 'auto');
    await run(l1, [CLI, 'guest', 'set', '--exact']);
    try {
      const had = await level();
      const steps = [`touch:0:1`, `touch:${LARGE}:${2 * LARGE}`];
      await inCgroup(l1, { name: 'exact', pages: 4 * LARGE, steps: [...steps, LAST] }, async (guest) => {
        await stepsOf(guest, steps.length);
        const s = await statusOf(guest);
        expect(s).toMatchObject({ large_new: 0, large_waiting: 0 });
        expect(s.pages_held - s.pages_unused).toBeLessThan(2.1 * LARGE);
        expect(await level()).toBe(had);
      });
    } finally {
      await run(l1, [CLI, 'guest', 'set', '--no-exact']);
    }
    await allFramesBack(l1);
  });
});

describe('the pool', () => {
  it('takes free memory alone, is given back first, and waits until there is some again', async () => {
    const { l1 } = lab();
    await whenLargePoolFull(l1, 'auto');
    const { large_frames: most, large_auto: auto } = await guestStatus(l1);
    const memory = async (what: string): Promise<number> =>
      Number(await runScript(l1, `awk '/^${what}:/ { print $2 }' /proc/meminfo`)) / 1024;
    const total = await memory('MemTotal');
    expect(auto).toBe(1);
    expect(most).toBeGreaterThan(0);
    expect(most * 2).toBeLessThanOrEqual(total / 8);
    expect(await level()).toBe(most);
    // memory is short for a moment
    await runScript(l1, 'echo 2 > /proc/sys/vm/drop_caches');
    expect(await level()).toBe(0);
    await sleep(10_000);
    expect(await level()).toBe(0);
    // then less than an eighth is free, and nobody reclaims anything
    const hog = Math.floor((await memory('MemFree')) - total / 10);
    const write = `dd if=/dev/zero of=/mnt/hog bs=1048576 count=${hog}`;
    await runScript(l1, `mount -t tmpfs -o size=100% none /mnt && ${write}`, { timeoutMs: STEP_MS });
    try {
      await sleep(35_000);
      expect(await level()).toBe(0);
    } finally {
      await runScript(l1, 'umount /mnt');
    }
    await whenLargePoolFull(l1, most);
  });
});
