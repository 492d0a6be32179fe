/** A file that comes with frames for which its VMM's memory cgroup has no room: L1 keeps answering, and says why. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Acceleration } from '../../src/testbed/acceleration.ts';
import { TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { waitFor } from '../../src/core/wait.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { MIB, PAGES_PER_MIB, STEP_MS, allFramesBack, countMemory, inCgroup } from '../support/cgroup.ts';
import { TEST_KERNEL, useLab } from '../support/lab.ts';

const lab = useLab({ kernel: TEST_KERNEL, l1Cpus: 2 });
let acceleration: Acceleration;

beforeAll(async () => {
  await countMemory(lab().l1);
  acceleration = await Acceleration.on(lab(), { arenaMib: ARENA_MIB });
});
afterAll(async () => {
  await acceleration?.off();
});

describe('frames of an L2', () => {
  it('that a file has already must have room in the cgroup of a VMM that takes it over, or are left to L1, and the status says so', async () => {
    const { l1 } = lab();
    const ram = `${TURTLEFS_DIR}/taken-over.ram`;
    const pages = 24 * PAGES_PER_MIB;
    const steps = [`touch:0:${pages}`];
    {
      await using before = await TinyVmm.start(l1, { ram, pages, steps });
      await before.step(STEP_MS);
    }
    await inCgroup(l1, { name: 'narrow', limitMib: 16, pages, steps, ram }, async (guest) => {
      const s = await waitFor(
        'what is left out',
        async () => {
          const now = await guest.status();
          return now.problem === undefined ? undefined : now;
        },
        { timeoutMs: 60_000, intervalMs: 500 },
      );
      process.stdout.write(`  ${s.problem}\n`);
      expect(s.problem).toMatch(/memory cgroup \/narrow.*no room/);
      expect(s.pages_held).toBe(0);
      expect(await guest.memory('memory.current')).toBeLessThan(4 * MIB);
      // as any guest, if not faster than that
      expect((await guest.vmm.step(STEP_MS)).mismatches).toBe(0);
    });
    await allFramesBack(l1);
  });
});
