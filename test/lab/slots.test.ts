/**
 * What a VMM does to a running L2's memory slots and mappings, with a VMM that does it as fast as it can
 * (c/l2/slot_vmm.c): no write of L2 reaches memory that it has no more, and nothing turns acceleration off for good.
 * HT_SLOT_CHANGES sets how many changes each race makes (20, in a soak 60), HT_HOLES how many pages of 4 KiB one L2
 * loses beside another (1,024, in a soak 2,048), HT_NESTED_STARTS how often an L2 begins to run a guest of its own (20, in a
 * soak 100).
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  Acceleration,
  CLI,
  guestStatus,
  jobSays,
  whenLargePoolFull,
} from '../../src/testbed/acceleration.ts';
import { SlotVmm } from '../../src/testbed/slot-vmm.ts';
import type { SlotVmmResult } from '../../src/testbed/slot-vmm.ts';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { waitFor } from '../../src/core/wait.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { HTG_LEFT_OUT_GUESTS, framesOut } from '../../src/kernel/guest.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { L1_RUN } from '../../src/lab/machine.ts';
import { TEST_KERNEL, useLab } from '../support/lab.ts';
import { walkNestedTables } from '../support/nested-tables.ts';
import { soakCount } from '../support/scale.ts';

const RAM = `${TURTLEFS_DIR}/slots.ram`;
const CHANGES = soakCount(process.env['HT_SLOT_CHANGES'], 20, 60);
const HOLES = soakCount(process.env['HT_HOLES'], 1024, 2048);
/** Each begins with a slot change, so that KVM shadows the first table of the inner guest again. */
const NESTED = soakCount(process.env['HT_NESTED_STARTS'], 20, 100);
/** Of an L2 that loses nothing, against which exits are compared: as long as the holes take, about. */
const QUIET_MS = Math.max(2000, HOLES / 4);
const STEP_MS = 900_000 + HOLES * 10;
const FRAMES = 8;

// two L1 CPUs: KVM changes slots on one while L2 runs on the other
const lab = useLab({ kernel: TEST_KERNEL, l1Cpus: 2 });

interface Registered {
  number: number;
  state: number;
  slots: number;
  slot_changes: number;
  mapped_new: number;
  mapped_existing: number;
}

/** A VMM whose guest is registered. `status` ends the registration. */
async function withSlots<T>(
  size: 'small' | 'large',
  steps: string[],
  body: (vmm: SlotVmm, number: number, status: () => Promise<Registered>) => Promise<T>,
  ram = RAM,
): Promise<T> {
  const { l1 } = lab();
  await using undo = new CleanupStack();
  undo.add('RAM', () => runScript(l1, `rm -f ${ram} ${ram}.hot`).then(() => {}));
  const vmm = await SlotVmm.start(l1, { ram, size, steps });
  undo.add('VM', () => vmm[Symbol.asyncDispose]());
  const register = await l1.spawn([CLI, 'guest', 'register', '--pid', String(vmm.pid)]);
  undo.add('registration', async () => {
    if ((await register.status()) === undefined) await register.kill('TERM');
    await register.wait({ timeoutMs: 60_000 });
  });
  const [, number] = await jobSays(
    register,
    /"number":(\d+)/,
    'hyperturtle guest register',
    120_000,
    undefined,
  );
  return await body(vmm, Number(number), async () => {
    await register.kill('TERM');
    const [line] = await jobSays(register, /{"event":"unregistered".*}/, 'status', 60_000, undefined);
    return JSON.parse(line) as Registered;
  });
}

const MIGRATE_L1 = `
import { QmpClient } from '/payload/app/dist/src/qmp/client.js';
const qmp = await QmpClient.connect('${L1_RUN.qmpSocket}', { timeoutMs: 30000 });
await qmp.execute('migrate', { uri: 'unix:/run/nobody' }).then(
  () => console.log('it migrates'),
  (e) => console.log(e.message),
);
process.exit(0);
`;

const allBack = (): Promise<true> =>
  waitFor('all frames back', async () => (framesOut(await guestStatus(lab().l1)) <= 2 ? true : undefined), {
    timeoutMs: 60_000,
    intervalMs: 500,
  });

describe.each([
  { size: 'small', largeFrames: 0, what: '4 KiB pages' },
  { size: 'large', largeFrames: FRAMES, what: '2 MiB pages' },
] as const)('an L2 of $what', ({ size, largeFrames }) => {
  let acceleration: Acceleration;
  beforeAll(async () => {
    acceleration = await Acceleration.on(lab(), { arenaMib: ARENA_MIB, largeFrames });
  });
  afterAll(() => acceleration?.off());

  it('writes nothing to a slot that has gone or moved, however often slots change under its two vCPUs', async () => {
    if (largeFrames > 0) await whenLargePoolFull(lab().l1, largeFrames);
    await withSlots(size, [`changes:${CHANGES}`], async (vmm, number, status) => {
      const result = await vmm.step(STEP_MS);
      const tables = await walkNestedTables(lab(), { number, ...vmm.hot });
      const l2 = await status();
      process.stdout.write(`  ${JSON.stringify({ result, tables, l2 })}\n`);
      expect(result).toMatchObject({ changes: CHANGES, stale: 0 });
      expect(tables).toMatchObject({ within: [], wrong: [] });
      expect(tables.roots).toBeGreaterThan(0);
      expect(tables.leaves).toBeGreaterThan(0);
      // the race was one: programs acted between the changes, and do so after them
      expect(l2.mapped_new + l2.mapped_existing).toBeGreaterThan(0);
      expect(l2).toMatchObject({ state: 1, slots: 1 });
      expect(l2.slot_changes).toBeGreaterThanOrEqual(CHANGES);
    });
    await allBack();
  });

  if (size === 'small')
    it.each(['read', 'none'])(
      'writes nothing to pages that its VMM has made PROT_%s without ever touching them, and is on again after that',
      async (prot) => {
        await withSlots(size, [`protect:${prot}`, 'touch'], async (vmm, _, status) => {
          expect(await vmm.step(STEP_MS)).toMatchObject({ refused: 14, mismatches: 0 });
          expect(await vmm.step(STEP_MS)).toMatchObject({ mismatches: 0 });
          expect(await status()).toMatchObject({ state: 1, slots: 1 });
        });
        await allBack();
      },
    );

  if (size === 'small')
    it(`loses ${HOLES} pages one by one without interrupting a CPU that runs another L2`, async () => {
      await withSlots(size, ['busy'], async (watched) => {
        await runScript(lab().l1, 'grep -q debugfs /proc/mounts || mount -t debugfs none /sys/kernel/debug');
        const steps = [`fills:${QUIET_MS}:${watched.pid}`, `holes:${HOLES}:${watched.pid}`];
        await withSlots(
          size,
          steps,
          async (losing) => {
            await watched.begin(STEP_MS);
            const quiet = await losing.step(STEP_MS);
            const holes = await losing.step(STEP_MS);
            const { changes } = await watched.step(STEP_MS);
            const perSecond = (r: SlotVmmResult): number => (r.watched * 1000) / r.ms;
            process.stdout.write(`  ${JSON.stringify({ quiet, holes, passes: changes })}\n`);
            process.stdout.write(
              `  exits of the other L2 a second: ${perSecond(quiet).toFixed(1)}, with holes ${perSecond(holes).toFixed(1)}\n`,
            );
            expect(holes.interrupted).toBeLessThanOrEqual(HOLES / 16);
            expect(holes.watched - perSecond(quiet) * (holes.ms / 1000)).toBeLessThan(HOLES / 4);
          },
          `${RAM}.losing`,
        );
      });
      await allBack();
    });

  if (size === 'small')
    it('is told of by no CPU from the moment at which it runs a guest of its own, whose memory is what its tables say', async () => {
      await using undo = new CleanupStack();
      undo.add('RAM', () => runScript(lab().l1, `rm -f ${RAM} ${RAM}.hot`).then(() => {}));
      const steps = ['register', 'touch', `nest:${NESTED}`, 'changes:5', 'touch'];
      {
        await using vmm = await SlotVmm.start(lab().l1, { ram: RAM, size, steps });
        await vmm.step(STEP_MS);
        expect(await vmm.step(STEP_MS)).toMatchObject({ mismatches: 0, on: true, left_out: 0 });
        const nested = await vmm.step(STEP_MS);
        process.stdout.write(`  ${JSON.stringify(nested)}\n`);
        expect(nested).toMatchObject({
          changes: NESTED,
          mismatches: 0,
          on: true,
          left_out: HTG_LEFT_OUT_GUESTS,
        });
        // its other vCPU was in the guest at most starts, and was interrupted then
        expect(nested.interrupted).toBeGreaterThan(NESTED / 4);
        // KVM drops all tables when slots change
        expect(await vmm.step(STEP_MS)).toMatchObject({ stale: 0, left_out: 0 });
        expect(await vmm.step(STEP_MS)).toMatchObject({ mismatches: 0, on: true, left_out: 0 });
      }
      await undo[Symbol.asyncDispose]();
      await allBack();
    });

  if (size === 'small')
    it('is on again after somebody has asked which pages its VMM writes, and all its pages then count as written', async () => {
      await withSlots(size, ['touch', 'touch'], async (vmm, _, status) => {
        const { l1 } = lab();
        expect(await vmm.step(STEP_MS)).toMatchObject({ mismatches: 0 });
        const before = (await guestStatus(l1)).l2_count;
        await runScript(l1, `echo 4 > /proc/${vmm.pid}/clear_refs`);
        const flags = `grep -A 30 ' ${RAM}$' /proc/${vmm.pid}/smaps | grep -m 1 VmFlags`;
        await waitFor(
          'the mapping to count as written',
          async () => (/ sd/.test(await runScript(l1, flags)) ? true : undefined),
          { timeoutMs: 30_000, intervalMs: 300 },
        );
        expect(await vmm.step(STEP_MS)).toMatchObject({ mismatches: 0 });
        expect(before).toBe(1);
        expect(await status()).toMatchObject({ state: 1, slots: 1 });
      });
      await allBack();
    });

  if (size === 'small')
    it('has faults that its L1 handles answered without the lock of the address space, where its VMM has the pages', async () => {
      const { l1 } = lab();
      await using undo = new CleanupStack();
      undo.add('RAM', () => runScript(l1, `rm -f ${RAM} ${RAM}.hot`).then(() => {}));
      const tracing = '/sys/kernel/tracing';
      await runScript(
        l1,
        `grep -q ' ${tracing} ' /proc/mounts || mount -t tracefs none ${tracing}
         echo p:ht_slow get_user_pages_unlocked > ${tracing}/kprobe_events
         echo 1 > ${tracing}/events/kprobes/ht_slow/enable`,
      );
      const end = `echo 0 > ${tracing}/events/kprobes/ht_slow/enable; echo > ${tracing}/kprobe_events`;
      undo.add('probe', () => runScript(l1, end).then(() => {}));
      const slow = async (): Promise<number> =>
        Number(await runScript(l1, `awk '$1 == "ht_slow" { print $2 }' ${tracing}/kprobe_profile`));
      // it is not registered, and KVM drops all tables when slots change
      await using vmm = await SlotVmm.start(l1, { ram: RAM, size, steps: ['touch', 'changes:5', 'touch'] });
      const counts = [await slow()];
      for (let i = 0; i < 3; i++) {
        expect(await vmm.step(STEP_MS)).toMatchObject({ stale: 0, mismatches: 0 });
        counts.push(await slow());
      }
      const [first, , again] = counts.slice(1).map((n, i) => n - counts[i]!);
      process.stdout.write(`  slow look-ups of pages: ${first} at first, ${again} of the same pages later\n`);
      expect(first).toBeGreaterThanOrEqual(32);
      expect(again).toBeLessThan(8);
    });

  if (size === 'small')
    it('keeps its hooks: ftrace cannot be switched off in L1, and the module does not load while it is', async () => {
      const { l1 } = lab();
      const off =
        'sysctl -w kernel.ftrace_enabled=0 2>&1 || echo refused; cat /proc/sys/kernel/ftrace_enabled';
      expect(await runScript(l1, off)).toMatch(/refused\n1\n$/);
      await acceleration.off();
      try {
        expect(await runScript(l1, off)).toMatch(/0\n$/);
        const load = 'insmod /payload/modules/hyperturtle_guest.ko 2>&1 || dmesg | tail -n 3';
        expect(await runScript(l1, load)).toMatch(
          /cannot hook .*ftrace is off: sysctl kernel.ftrace_enabled=1/,
        );
      } finally {
        await runScript(l1, 'echo 1 > /proc/sys/kernel/ftrace_enabled');
      }
      acceleration = await Acceleration.on(lab(), { arenaMib: ARENA_MIB });
    });

  if (size === 'small')
    it('is not migrated away with its L1: QEMU refuses that while L1 has an arena', async () => {
      const said = await run(lab().l0, ['node', '--input-type=module', '-e', MIGRATE_L1], {
        timeoutMs: 60_000,
      });
      expect(said).toMatch(/ivshmem/);
    });

  if (size === 'small')
    it('is not lost to hibernation: L1 refuses it while it has an arena, and says why', async () => {
      const said = await runScript(
        lab().l1,
        'echo platform > /sys/power/disk 2>/dev/null; echo disk > /sys/power/state 2>&1; dmesg | grep hibernation | tail -n 3',
        { timeoutMs: 120_000 },
      );
      expect(said).toMatch(/hyperturtle: no hibernation while an arena is bound/);
    });
});
