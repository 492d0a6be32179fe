/**
 * An arena goes and another one comes, under running nested guests: their files get words in the new page index, as their
 * pages are, so that they are accelerated again, and no page of them changes. Where the index has no room that is said, and
 * made good when there is some.
 */
import { afterAll, describe, expect, it } from 'vitest';
import {
  Acceleration,
  CLI,
  guestStatus,
  jobSays,
  whenLargePoolFull,
} from '../../src/testbed/acceleration.ts';
import { KvmCounters, countersBetween } from '../../src/testbed/kvm-counters.ts';
import { withL2 } from '../../src/testbed/l2-session.ts';
import { ManagedGuest, ManagedHost } from '../../src/testbed/managed.ts';
import { TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { pattern } from '../../src/bench/chaos/run.ts';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { waitFor } from '../../src/core/wait.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { HTG_LEFT_OUT_INDEX } from '../../src/kernel/guest.ts';
import type { HtgL2Status } from '../../src/kernel/guest.ts';
import type { AgentResult } from '../../src/guest/agent/schema.ts';
import { runScript } from '../../src/lab/levels.ts';
import type { Job } from '../../src/lab/levels.ts';
import { FIRST_SEAT } from '../../src/lab/machine.ts';
import { allFramesBack } from '../support/cgroup.ts';
import { useLab } from '../support/lab.ts';
import { soak } from '../support/scale.ts';

const lab = useLab();
const LARGE = 512;
const FRAMES = 12;
const RAM = `${TURTLEFS_DIR}/again.ram`;
const FILLER = `${TURTLEFS_DIR}/filler`;
const STEP_MS = 300_000;
const SETTLED_MS = 120_000;
/** More than tiny_vmm's own. */
const PROGRAM_PAGES = 600;
/** KVM in L1 drops all entries of all its guests, twice: the value is another one, and then as it was. */
const ZAP = 'n=/sys/module/kvm/parameters/nx_huge_pages; echo force > $n; echo off > $n';

type Registered = Pick<HtgL2Status, 'slots' | 'left_out' | 'pages_held'> & {
  large_new: number;
  large_existing: number;
  mapped_existing: number;
  mapped_new: number;
  mapped_ahead: number;
  problem?: string;
};

/** `hyperturtle guest register`, ended with `undo`. */
async function register(undo: CleanupStack, pid: number): Promise<{ job: Job; first: Registered }> {
  const job = await lab().l1.spawn([CLI, 'guest', 'register', '--pid', String(pid)]);
  undo.add('registration', async () => {
    if ((await job.status()) === undefined) await job.kill('TERM');
    await job.wait({ timeoutMs: 60_000 });
  });
  const said = await jobSays(job, /^\{"registered".*$/m, 'hyperturtle guest register', 120_000, undefined);
  return { job, first: JSON.parse(said[0]) as Registered };
}

/** What it says now. */
async function statusOf(job: Job): Promise<Registered> {
  const lines = (await job.output()).split('\n').length;
  await job.kill('URG');
  return waitFor(
    'status of the registration',
    async () => {
      const all = (await job.output()).split('\n');
      return all.length > lines ? (JSON.parse(all[lines - 1]!) as Registered) : undefined;
    },
    { timeoutMs: 60_000, intervalMs: 300 },
  );
}

describe.each(soak([FRAMES], [0, FRAMES]))(
  'a guest whose arena is replaced, with %s frames of 2 MiB',
  (largeFrames) => {
    const undo = new CleanupStack();
    const options = { arenaMib: ARENA_MIB, largeFrames };
    afterAll(() => undo.run());

    it('has every page as it was, and its faults are answered in L0 again', async () => {
      const { l0, l1 } = lab();
      const acceleration = await Acceleration.on(lab(), options);
      undo.add('acceleration', () => acceleration.off());
      if (largeFrames > 0) await whenLargePoolFull(l1, largeFrames);
      const counters = await KvmCounters.start(l0);
      undo.add('counters', () => counters.stop());
      undo.add('RAM', () => runScript(l1, `rm -f ${RAM}`).then(() => {}));
      // the check writes what it visits, so it gives these pages their frames too
      const pages = 16 * LARGE;
      const check = `share:0:${pages / 2}:1:20000`;
      const vmm = await TinyVmm.start(l1, {
        ...{ ram: RAM, pages },
        // it ends with the last step, which is not taken
        steps: [check, check, check, `touch:${pages / 2}:${pages / 2}`, check, check],
      });
      undo.add('VM', () => vmm[Symbol.asyncDispose]());
      const before = await register(undo, vmm.pid);
      expect(before.first).toMatchObject({ slots: 1, left_out: 0 });
      const right = async (): Promise<void> => expect((await vmm.step(STEP_MS)).mismatches).toBe(0);
      await right();
      await right();
      const { pages_held: held, large_new: large } = await statusOf(before.job);
      expect(held).toBeGreaterThan(0.95 * (pages / 2));
      if (largeFrames > 0) expect(large).toBeGreaterThan(2);

      await acceleration.signalAttachment('TERM');
      await waitFor('the end of the registration', () => before.job.status(), { timeoutMs: 60_000 });
      expect(await guestStatus(l1)).toMatchObject({ arena_bound: 0 });
      await right();

      await acceleration.attach(options);
      const again = await register(undo, vmm.pid);
      expect(again.first).toMatchObject({ slots: 1, left_out: 0 });
      expect(again.first).not.toHaveProperty('problem');
      expect(again.first.pages_held).toBeGreaterThanOrEqual(held);
      const a = await counters.read();
      await right();
      const touched = await statusOf(again.job);
      process.stdout.write(`  new pages in the new arena: ${JSON.stringify(touched)}\n`);
      // the first fault is L1's, from whose entry the flags are learned; with a pool of 2 MiB frames L1 gives one of them
      const byL1 = largeFrames > 0 ? LARGE : 0;
      expect(touched.mapped_new + touched.mapped_ahead).toBeGreaterThan(0.95 * (pages / 2 - byL1));
      expect(countersBetween(a, await counters.read()).reflectedByCause['npf'] ?? 0).toBeLessThan(24);

      // nothing is left of what was mapped in the former arena's time: every page is found by its word
      await runScript(l1, ZAP);
      const zapped = await statusOf(again.job);
      await right();
      const found = await statusOf(again.job);
      process.stdout.write(`  pages that had a frame: ${JSON.stringify(found)}\n`);
      expect(found.mapped_existing).toBeGreaterThan(zapped.mapped_existing);
      expect(found.mapped_new).toBe(zapped.mapped_new);
      if (largeFrames > 0) expect(found.large_existing).toBeGreaterThan(zapped.large_existing);
    });

    it('and L1 can unload its module afterwards', async () => {
      await undo.run();
      expect(await runScript(lab().l1, 'lsmod')).not.toMatch(/hyperturtle_guest/);
    });
  },
);

describe('a page index without room for a guest that was there before', () => {
  it.each([
    { what: 'goes', command: () => `rm ${FILLER}` },
    // to more than the index has: it moves out
    ...soak([], [{ what: 'grows', command: (bytes: number) => `truncate -s ${bytes + 2 ** 33} ${FILLER}` }]),
  ])('is told with its reason, and the guest has its place when another file $what', async ({ command }) => {
    const { l1 } = lab();
    await using undo = new CleanupStack();
    const options = { arenaMib: ARENA_MIB };
    const acceleration = await Acceleration.on(lab(), options);
    undo.add('acceleration', () => acceleration.off());
    undo.add('files', () => runScript(l1, `rm -f ${RAM} ${FILLER}`).then(() => {}));
    const check = `share:0:${4 * LARGE}:1:20000`;
    const vmm = await TinyVmm.start(l1, { ram: RAM, pages: 4 * LARGE, steps: [check, check, check, check] });
    undo.add('VM', () => vmm[Symbol.asyncDispose]());
    await register(undo, vmm.pid);
    expect((await vmm.step(STEP_MS)).mismatches).toBe(0);
    await acceleration.signalAttachment('TERM');
    // page tables of the VMM's have all of it from now on
    expect((await vmm.step(STEP_MS)).mismatches).toBe(0);
    await acceleration.attach(options);
    const { index_words: words, index_used: used } = await waitFor(
      'the arena in L1',
      async () => {
        const s = await guestStatus(l1);
        return s.arena_bound ? s : undefined;
      },
      { timeoutMs: 60_000, intervalMs: 200 },
    );
    const filled = (words - used - LARGE) * 4096;
    await runScript(l1, `truncate -s ${filled} ${FILLER}`);
    // sizes beyond all reason are refused, and touch nobody's words: 2^41 pages, and 512 more
    for (const bytes of ['9007199254740992', '9007199256838144'])
      await runScript(l1, `truncate -s ${bytes} ${FILLER} 2>&1 | grep -i 'too large'`);

    const { job, first } = await register(undo, vmm.pid);
    expect(first).toMatchObject({ slots: 0, left_out: HTG_LEFT_OUT_INDEX });
    expect(first.problem).toMatch(/the page index has no room for them/);

    await runScript(l1, command(filled));
    const now = await waitFor(
      'a place in the index',
      async () => {
        const s = await statusOf(job);
        return s.slots > 0 ? s : undefined;
      },
      { timeoutMs: 60_000, intervalMs: 500 },
    );
    expect(now).toMatchObject({ slots: 1, left_out: 0 });
    expect(now).not.toHaveProperty('problem');
    await runScript(l1, ZAP);
    expect((await vmm.step(STEP_MS)).mismatches).toBe(0);
    const after = await statusOf(job);
    expect(after.mapped_existing).toBeGreaterThan(0);
    // it has each page once, no matter who gave it
    await waitFor(
      'the count of resident pages',
      async () => {
        const kib = await runScript(
          l1,
          `awk '/^Rss(File|Shmem)/ { n += $2 } END { print n + 0 }' /proc/${vmm.pid}/status`,
        );
        const pages = Number(kib) / 4;
        return pages > 0.95 * after.pages_held && pages < after.pages_held + PROGRAM_PAGES ? true : undefined;
      },
      { timeoutMs: 30_000, intervalMs: 1000 },
    );
  });
});

describe('a Linux under daemon and agent', () => {
  const VMS = [{ name: 'l1', seat: FIRST_SEAT, arenaMib: ARENA_MIB }];

  it("is accelerated again by nobody's hand after its L1 was detached and attached, and finds its memory whole", async () => {
    const { l1 } = lab();
    await using undo = new CleanupStack();
    const host = new ManagedHost(lab().l0);
    const guest = new ManagedGuest(l1);
    await host.setUp(undo, VMS);
    await guest.setUp(undo);
    await guest.whenSettled(0, SETTLED_MS);
    const spec = { name: 'again', ram: 'turtlefs', memMib: 128, append: '', machine: 'pc', port: 0 } as const;
    await withL2(lab(), { ...spec, registeredBy: 'agent' }, async (l2) => {
      const told = async (): Promise<AgentResult<'agent.status'>['l2s'][number] | undefined> =>
        (JSON.parse(await guest.command(['status', '--json'])) as AgentResult<'agent.status'>).l2s[0];
      await waitFor('registration', async () => (((await told())?.slots ?? 0) > 0 ? true : undefined), {
        ...{ timeoutMs: SETTLED_MS, intervalMs: 1000 },
      });
      const checking = pattern(l2, 15);
      await host.reconfigure([]);
      expect(await guestStatus(l1)).toMatchObject({ arena_bound: 0, l2_count: 0 });
      await host.reconfigure(VMS);
      await guest.whenSettled(1, SETTLED_MS);
      expect((await checking).mismatches).toBe(0);
      const again = (await told())!;
      expect(again.slots).toBeGreaterThan(0);
      expect(again).not.toHaveProperty('noIndex');
      await runScript(l1, ZAP);
      expect((await pattern(l2, 3)).mismatches).toBe(0);
      const after = (await told())!;
      process.stdout.write(`  ${JSON.stringify({ again, after })}\n`);
      expect(after.mappedExisting).toBeGreaterThan(again.mappedExisting);
      expect(((await host.metrics('l1')).get('hook_handled npf') ?? 0) > 0).toBe(true);
    });
    await allFramesBack(l1);
  });
});
