/** `hyperturtle vmm` in L1: VMMs that know nothing of turtlefs, and one that is static, with the memory that they ask for. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CLI, guestStatus } from '../../src/testbed/acceleration.ts';
import { FAST_FIRMWARE } from '../../src/testbed/l2-spec.ts';
import { ManagedAcceleration } from '../../src/testbed/managed.ts';
import { TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { waitFor } from '../../src/core/wait.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { framesOut } from '../../src/kernel/guest.ts';
import type { HtgInfo } from '../../src/kernel/guest.ts';
import { runScript } from '../../src/lab/levels.ts';
import { useLab } from '../support/lab.ts';

const lab = useLab();
let acceleration: ManagedAcceleration;
const STEP_MS = 300_000;
/** With what lies below page 0 of the steps 32 MiB. */
const PAGES = 7168;
const TOUCHED = 6144;
const RIGHT = 33;

beforeAll(async () => {
  acceleration = await ManagedAcceleration.on(lab(), { arenaMib: 8 });
});
afterAll(() => acceleration?.off());

const info = (): Promise<HtgInfo> => guestStatus(lab().l1);

/** First touches that L1 had, of those between two looks; all others were answered in L0. */
const inL1 = (before: HtgInfo, after: HtgInfo): number =>
  after.faults - after.faults_found - (before.faults - before.faults_found);

/** Processes of the launcher's, files and frames. */
const nothingLeft = (): Promise<true> =>
  waitFor(
    'nothing left',
    async () => {
      const said = await runScript(
        lab().l1,
        `ps -o args | grep '[l]aunch/supervisor'; ls -A ${TURTLEFS_DIR}; true`,
      );
      return said.trim() === '' && framesOut(await info()) <= 2 ? true : undefined;
    },
    { timeoutMs: 120_000, intervalMs: 1000 },
  );

/** kill -9 of supervisor and guardian at once, before one can take the other's place. */
const killSupervisors = (): Promise<string> =>
  runScript(
    lab().l1,
    "for i in 1 2; do kill -9 $(ps -o pid,args | awk '/[l]aunch\\/supervisor/ {print $1}'); done 2>&1; ps -o args | grep -c '[l]aunch/supervisor'; true",
  );

describe.each([
  ['private anonymous memory', ':private'],
  ['a shared memfd with seals', ':memfd'],
  ['shared anonymous memory', '-'],
])('a static VMM with %s', (_, ram) => {
  it('has at least 95 % of first touches answered in L0 and its content right, and its end gives all frames back', async () => {
    const { l1 } = lab();
    const steps = [`touch:0:${TOUCHED}`, 'discard:0:512', 'touch:0:512', 'scattered:6144:1024'];
    const by = [CLI, 'vmm', '--name', 'tiny1', '--'];
    const vmm = await TinyVmm.start(l1, { ram, pages: PAGES, steps, by });
    try {
      const said = await runScript(
        l1,
        `grep -E 'TracerPid|Seccomp_filters' /proc/${vmm.pid}/status; grep -c ' rw-s .*${TURTLEFS_DIR}/#' /proc/${vmm.pid}/maps`,
      );
      expect(said).toMatch(/TracerPid:\t0\nSeccomp_filters:\t1\n1$/m);
      await acceleration.guest.whenSettled(1, STEP_MS);
      const before = await info();
      const hook = await acceleration.hookCounts();
      const touched = await vmm.step(STEP_MS);
      const after = await info();
      const entries = (await acceleration.hookCounts()).entries - hook.entries;
      const answered = 1 - inL1(before, after) / TOUCHED;
      process.stdout.write(`  ${ram}: ${(answered * 100).toFixed(2)} % of ${TOUCHED} first touches in L0\n`);
      expect(touched.mismatches).toBe(0);
      expect(answered).toBeGreaterThanOrEqual(0.95);
      expect(entries).toBeGreaterThanOrEqual(0.95 * TOUCHED);
      if (ram === ':private') {
        const held = framesOut(after);
        expect(await vmm.step(STEP_MS)).toMatchObject({ step: 'discard', mismatches: 0 });
        expect(framesOut(await info())).toBeLessThan(held - 400);
        expect((await vmm.step(STEP_MS)).mismatches).toBe(0);
        expect(await acceleration.guest.command(['status'])).toMatch(/^tiny1 +\d+ /m);
        await killSupervisors();
        // it goes on, and without a listener too
        expect((await vmm.step(STEP_MS)).mismatches).toBe(0);
      }
    } finally {
      await vmm[Symbol.asyncDispose]();
    }
    await nothingLeft();
  });
});

describe('plain QEMU', () => {
  it('with -m alone has at least 95 % of first touches answered in L0, its monitor on its standard input, and its exit status', async () => {
    const { l1 } = lab();
    const mib = 64;
    // c/l2/touch_guest.S leaves out its first 1.5 MiB and 18 at the end
    const pages = (mib - 19.5) * 256;
    const qemu = [
      ...['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-S'],
      ...[
        '-accel',
        'kvm',
        '-cpu',
        'host',
        '-m',
        String(mib),
        '-machine',
        'pc,hpet=off',
        '-bios',
        FAST_FIRMWARE,
      ],
      ...['-kernel', '/payload/l2/programs/touch_guest', '-device', 'isa-debug-exit,iobase=0xf4'],
      ...['-monitor', 'stdio', '-name', 'plain'],
    ];
    const job = await l1.spawn([
      'sh',
      '-c',
      'mkfifo /run/in; { until [ -e /run/go ]; do sleep 0.2; done; echo cont; exec sleep 1000; } >/run/in & "$@" </run/in; status=$?; kill $!; rm /run/go /run/in; exit $status',
      ...['sh', CLI, 'vmm', '--', ...qemu],
    ]);
    try {
      await acceleration.guest.whenSettled(1, STEP_MS);
      const before = await info();
      const hook = await acceleration.hookCounts();
      await runScript(l1, 'touch /run/go');
      const status = await job.wait({ timeoutMs: STEP_MS });
      expect([status, await job.output()]).toEqual([RIGHT, expect.not.stringContaining('hyperturtle')]);
      const after = await info();
      const entries = (await acceleration.hookCounts()).entries - hook.entries;
      const answered = 1 - inL1(before, after) / pages;
      process.stdout.write(`  QEMU: ${(answered * 100).toFixed(2)} % of ${pages} first touches in L0\n`);
      expect(answered).toBeGreaterThanOrEqual(0.95);
      expect(entries).toBeGreaterThanOrEqual(0.95 * pages);
    } finally {
      if ((await job.status()) === undefined) {
        await job.kill('KILL');
        await runScript(l1, 'killall -9 sleep qemu-system-x86_64 2>/dev/null; true');
      }
    }
    await nothingLeft();
  });
});
