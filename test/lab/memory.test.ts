/**
 * Frames of an L2 count in the memory cgroup of its VMM and as its resident pages, also those that a program in L0 gives
 * while L1 does not run: the figures agree, a limit holds and ends that VMM alone, and nothing stays charged.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Acceleration } from '../../src/testbed/acceleration.ts';
import { SlotVmm } from '../../src/testbed/slot-vmm.ts';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { waitFor } from '../../src/core/wait.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { runScript } from '../../src/lab/levels.ts';
import {
  CGROUPS,
  MIB,
  PAGES_PER_MIB,
  STEP_MS,
  allFramesBack,
  countMemory,
  inCgroup,
  settled,
} from '../support/cgroup.ts';
import { TEST_KERNEL, useLab } from '../support/lab.ts';

/** Pages that only the guest touches. */
const UNSEEN = 2048;

// two L1 CPUs: the pool is filled while L2 runs
const lab = useLab({ kernel: TEST_KERNEL, l1Cpus: 2 });
let acceleration: Acceleration;

/** Above memory.high the faults of one call have their VMM's address space locked for four seconds and more. */
const PROMPT_MS = 1500;

/** Pages of its program that a VMM maps after its registration, which are taken for pages of its guest's RAM. */
const OWN_FILES = 256;

/** Frames that are charged ahead where that means to reclaim: what one group of a program needs. */
const CREDIT_LEAST = 64;
const RUSHES = 6;
const FEW_FRAMES = 20;

/** How far two figures are apart, of the second. */
const apart = (value: number, of: number): number => Math.abs(value - of) / of;

beforeAll(async () => {
  const { l1 } = lab();
  await countMemory(l1);
  acceleration = await Acceleration.on(lab(), { arenaMib: ARENA_MIB });
});
afterAll(async () => {
  await acceleration?.off();
});

describe('frames of an L2', () => {
  it('count in the memory cgroup of its VMM: memory.current, RSS, du and the status agree', async () => {
    const { l1 } = lab();
    const pages = 96 * PAGES_PER_MIB;
    // the VMM reads what `touch` wrote, and not what `share` did: of that it has nothing in its tables
    const steps = ['touch:0:1', `touch:0:${pages}`, `share:${pages}:${UNSEEN}:1:${2 * UNSEEN}`, 'touch:0:1'];
    await inCgroup(l1, { name: 'figures', pages: pages + UNSEEN, steps }, async (guest) => {
      await guest.vmm.step(STEP_MS);
      const first = await settled(guest);
      const before = await guest.memory('memory.current');
      const limited = async (): Promise<number> => (await acceleration.hookCounts()).reasons['LIMIT'] ?? 0;
      const limitedBefore = await limited();
      expect(first.cgroup).toBe('/figures');
      expect((await guest.vmm.step(STEP_MS)).mismatches).toBe(0);
      expect((await guest.vmm.step(STEP_MS)).mismatches).toBe(0);
      const s = await settled(guest); // the VMM ends after its last step, so there is one more
      const current = await guest.memory('memory.current');
      const blocks = Number(await runScript(l1, `stat -c %b ${TURTLEFS_DIR}/figures.ram`));
      process.stdout.write(
        `  ${JSON.stringify(s)}; memory.current ${before} -> ${current}; ${blocks} blocks\n`,
      );
      expect(s.frames_taken).toBeGreaterThan(pages / 2);
      expect((await limited()) - limitedBefore).toBeLessThan(s.faults / 50); // being charged sends hardly any fault to L1
      expect(s.pages_held).toBeGreaterThan(pages + UNSEEN / 2);
      expect(apart(s.frames_charged, s.pages_held)).toBeLessThan(0.01); // below 1 MiB nothing is exported
      expect(apart(blocks / 8, s.frames_charged)).toBeLessThan(0.01);
      const grown = (current - before) / 4096;
      const charged = s.frames_charged - first.frames_charged;
      // the VMM's and KVM's page tables are in it too
      expect(apart(grown, charged)).toBeLessThan(0.01);
      let resident = 0;
      await waitFor(
        'resident pages as held',
        async () => {
          resident = await guest.resident();
          return apart(resident, s.pages_held) < 0.01 ? true : undefined;
        },
        { timeoutMs: 20_000, intervalMs: 1000 },
      ).catch((e: unknown) => {
        throw new Error(`${resident} resident pages, ${s.pages_held} held`, { cause: e });
      });
      const tables = await guest.inTables();
      process.stdout.write(
        `  grown: memory.current ${grown}, charged ${charged}; resident ${resident}, of these in tables ${tables}\n`,
      );
      expect(tables).toBeLessThan(resident - UNSEEN / 2);
    });
    await allFramesBack(lab().l1);
  });

  it('count once as resident pages while L1 logs writes, and its VMM reads them all', async () => {
    const pages = 16 * PAGES_PER_MIB;
    const share = `share:0:${pages}:1:${2 * pages}`;
    const steps = [share, 'log:1', `touch:0:${pages}`, 'log:0', 'touch:0:1'];
    await inCgroup(lab().l1, { name: 'logged', pages, steps }, async (guest) => {
      const off = [];
      for (const step of steps.slice(0, -1)) {
        expect((await guest.vmm.step(STEP_MS)).mismatches).toBe(0);
        if (step.startsWith('log:1')) continue; // its frames are counted when it is done with what it does then
        // a frame of the page is in the word, in the file, and in no table of the VMM's, or in one
        const frames = Number(await runScript(lab().l1, `stat -c %b ${TURTLEFS_DIR}/logged.ram`)) / 8;
        let resident = 0;
        await waitFor(
          'resident pages as held',
          async () => {
            resident = await guest.resident();
            return Math.abs(resident - frames) < OWN_FILES ? true : undefined;
          },
          { timeoutMs: 20_000, intervalMs: 1000 },
        ).catch((e: unknown) => {
          throw new Error(`after ${step}: ${resident} resident pages, ${frames} frames`, { cause: e });
        });
        off.push({ step, frames, resident, inTables: await guest.inTables() });
      }
      process.stdout.write(`  ${JSON.stringify(off)}\n`);
      expect(off[0]!.inTables).toBeLessThan(pages / 2); // only L0 gave most of them
      expect(off[1]!.inTables).toBeGreaterThan(pages * 0.9); // and the VMM has read them while they were logged
    });
    await allFramesBack(lab().l1);
  });

  it('are charged ahead by one of three vCPUs that need some at once, and limits of few frames are kept', async () => {
    const { l1 } = lab();
    const cgroup = `${CGROUPS}/rush`;
    const ram = `${TURTLEFS_DIR}/rush.ram`;
    await using undo = new CleanupStack();
    await runScript(l1, `mkdir ${cgroup}`);
    undo.add('cgroup', () => runScript(l1, `rmdir ${cgroup}`).then(() => {}));
    undo.add('RAM', () => runScript(l1, `rm -f ${ram} ${ram}.hot`).then(() => {}));
    const start = (steps: string[]): Promise<SlotVmm> =>
      SlotVmm.start(l1, { ram, size: 'small', steps, cgroup });
    {
      await using vmm = await start(['register', 'touch', `rush:${RUSHES}`]);
      await vmm.step(STEP_MS);
      expect(await vmm.step(STEP_MS)).toMatchObject({ mismatches: 0, on: true });
      await vmm.begin(STEP_MS);
      // now a charge takes seconds, in which the other vCPUs come
      await runScript(l1, `echo 0 > ${cgroup}/memory.high`);
      const rush = await vmm.step(STEP_MS);
      await runScript(l1, `echo max > ${cgroup}/memory.high; rm -f ${ram} ${ram}.hot`);
      process.stdout.write(`  ${JSON.stringify(rush)}\n`);
      expect(rush.ms).toBeGreaterThan(PROMPT_MS); // it did
      expect(rush).toMatchObject({ changes: 3 * RUSHES, on: true });
      expect(rush.credit).toBeGreaterThan(0);
      expect(rush.credit).toBeLessThanOrEqual(CREDIT_LEAST);
    }
    {
      await using vmm = await start([`register:${FEW_FRAMES}`, 'touch']);
      await vmm.step(STEP_MS);
      const touched = await vmm.step(STEP_MS);
      process.stdout.write(`  ${JSON.stringify(touched)}\n`);
      expect(touched).toMatchObject({ mismatches: 0, on: true, taken: FEW_FRAMES });
    }
  });

  it('end their VMM alone where they exceed its limit: 256 MiB in 64, not the other process there, nor a neighbour', async () => {
    const steps = (pages: number): string[] => [`touch:0:${pages}`];
    const small = 32 * PAGES_PER_MIB;
    const large = 256 * PAGES_PER_MIB;
    await inCgroup(
      lab().l1,
      { name: 'neighbour', limitMib: 64, pages: small, steps: steps(small) },
      async (neighbour) => {
        await inCgroup(
          lab().l1,
          { name: 'greedy', limitMib: 64, pages: large, steps: steps(large) },
          async (greedy) => {
            await using undo = new CleanupStack();
            // has 16 MiB for itself; more than the tables of the VMM show
            const said = await runScript(
              lab().l1,
              `sh -c 'echo $$ > ${CGROUPS}/greedy/cgroup.procs; exec tail -c 16777216 /dev/zero' < /dev/null > /dev/null 2>&1 &
               for i in $(seq 300); do
                 [ "$(awk '/^VmRSS/ { print $2 }' /proc/$!/status)" -gt 12000 ] && kill -STOP $! && break
                 sleep 0.1
               done; echo $!`,
            );
            const end = `kill -KILL ${said.trim()} 2> /dev/null && echo alive || true`;
            undo.add('other process', () => runScript(lab().l1, end).then(() => {}));
            await expect(greedy.vmm.step(STEP_MS)).rejects.toThrow(/status/);
            expect(await runScript(lab().l1, end)).toBe('alive\n');
            const events = await runScript(lab().l1, `cat ${CGROUPS}/greedy/memory.events`);
            process.stdout.write(
              `  ${events.replaceAll('\n', ' ')}; peak ${await greedy.memory('memory.peak')}\n`,
            );
            expect(events).toMatch(/^oom_kill 1$/m);
            expect(await greedy.memory('memory.peak')).toBeLessThanOrEqual(64 * MIB);
            // its RAM is a file, as on tmpfs: without it nothing stays charged but what the kernel keeps for its CPUs
            await runScript(lab().l1, `rm ${TURTLEFS_DIR}/greedy.ram`);
            await waitFor(
              'nothing charged',
              async () => ((await greedy.memory('memory.current')) < 2 * MIB ? true : undefined),
              { timeoutMs: 60_000, intervalMs: 500 },
            );
          },
        );
        expect((await neighbour.vmm.step(STEP_MS)).mismatches).toBe(0);
        expect(await runScript(lab().l1, `cat ${CGROUPS}/neighbour/memory.events`)).toMatch(/^oom_kill 0$/m);
      },
    );
    await allFramesBack(lab().l1);
  });

  it('above memory.high make no other VMM wait, though its faults sleep and its slots and mappings change meanwhile', async () => {
    const { l1 } = lab();
    const cgroup = `${CGROUPS}/high`;
    await using undo = new CleanupStack();
    await runScript(l1, `mkdir ${cgroup}`);
    undo.add('cgroup', () => runScript(l1, `rmdir ${cgroup}`).then(() => {}));
    const start = async (name: string, steps: string[], within?: string): Promise<SlotVmm> => {
      const ram = `${TURTLEFS_DIR}/${name}.ram`;
      undo.add('RAM', () => runScript(l1, `rm -f ${ram} ${ram}.hot`).then(() => {}));
      const vmm = await SlotVmm.start(l1, { ram, size: 'small', steps, cgroup: within });
      undo.add('VM', () => vmm[Symbol.asyncDispose]());
      return vmm;
    };
    const other = await start('prompt', ['register', 'changes:10']);
    const slow = await start('slow', ['crowd', 'touch'], cgroup);
    await runScript(l1, `echo 0 > ${cgroup}/memory.high`);
    await slow.begin(STEP_MS);
    const registered = await other.step(STEP_MS);
    const changed = await other.step(STEP_MS);
    const crowd = await slow.step(STEP_MS);
    await runScript(l1, `echo max > ${cgroup}/memory.high`);
    const after = await slow.step(STEP_MS);
    process.stdout.write(`  ${JSON.stringify({ registered, changed, crowd, after })}\n`);
    expect(crowd.slowest).toBeGreaterThan(PROMPT_MS); // it did sleep
    expect(registered.slots).toBeGreaterThan(0);
    expect(changed).toMatchObject({ stale: 0, mismatches: 0, on: true });
    expect(Math.max(registered.slowest, changed.slowest)).toBeLessThan(PROMPT_MS);
    // what it says of itself is true then, and after all that
    expect(crowd.slots).toBeGreaterThan(0);
    expect(after).toMatchObject({ mismatches: 0, on: true });
  });
});
