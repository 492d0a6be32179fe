/**
 * Two L1s of one L0, each with its own programs: neither sees anything of the other, whatever one of them does. The
 * kernel logs of L0 and the first L1 must stay clean throughout.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CLI } from '../../src/testbed/acceleration.ts';
import { runChaosOn } from '../../src/bench/chaos/run.ts';
import { ManagedGuest, ManagedHost } from '../../src/testbed/managed.ts';
import { Tenant } from '../../src/testbed/tenant.ts';
import { FAST_FIRMWARE } from '../../src/testbed/l2-spec.ts';
import { HT_PROFILE_STACK } from '../../src/kernel/sample.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { createProgress } from '../../src/core/progress.ts';
import { waitFor } from '../../src/core/wait.ts';
import { kernelTroubles } from '../../src/lab/kernel-log.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import type { Job, Level } from '../../src/lab/levels.ts';
import { FIRST_SEAT, SECOND_SEAT } from '../../src/lab/machine.ts';
import type { Result } from '../../src/wire/schema.ts';
import { useLab } from '../support/lab.ts';
import { SOAKS, soak } from '../support/scale.ts';

const lab = useLab({ l1MemoryMib: 1024, secondL1MemoryMib: 768 });
const SETTLED_MS = 120_000;
const L2_MIB = 32;
const RIGHT = 33;
const VMS = [
  { name: 'first', seat: FIRST_SEAT, arenaMib: 8 },
  { name: 'second', seat: SECOND_SEAT, arenaMib: 8 },
];

const WORKING = '/payload/l2/programs/exits_guest';
const HZ = 499;
/** So many seconds of the CPU in samples of each L2. */
const SECONDS = soak(1, 3);

/** More samples of each L2, within so many seconds. */
interface Sampled {
  first: number;
  second: number;
  s: number;
}
/** What is killed in which order. */
const CHAOS = { rounds: 3, seed: 7, killed: { daemon: 1, agent: 1, qemu: 1 } };

/** An L2 that never exits by itself: it works in the function of this number, until the job is ended. */
const working = (l1: Level, n: 0 | 1): Promise<Job> =>
  l1.spawn([
    ...['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'],
    ...['-accel', 'kvm', '-cpu', 'host', '-m', `${L2_MIB}M`, '-machine', 'pc', '-bios', FAST_FIRMWARE],
    ...['-kernel', WORKING, '-append', `work:${n}`],
  ]);

/** Samples by address, as an L1 reads them from its own program's map. */
async function sampledAddresses(guest: ManagedGuest): Promise<Map<bigint, number>> {
  const found = new Map<bigint, number>();
  const said = await guest.command(['map', 'dump', 'profile', 'stacks', '--json']);
  for (const line of said.trim().split('\n')) {
    const e = JSON.parse(line) as { key: string; value: string };
    const ip = HT_PROFILE_STACK.decode(Buffer.from(e.key, 'base64')).ips[0]!;
    found.set(ip, (found.get(ip) ?? 0) + Number(Buffer.from(e.value, 'base64').readBigUInt64LE()));
  }
  return found;
}

const json = async <T>(guest: ManagedGuest, args: readonly string[]): Promise<T> =>
  JSON.parse(await guest.command([...args, '--json'])) as T;

describe('two L1s at once', () => {
  const undo = new CleanupStack();
  let host: ManagedHost;
  let first: ManagedGuest;
  let second: Tenant;

  const handled = async (vm: 'first' | 'second'): Promise<number> =>
    (await host.metrics(vm)).get('hook_handled npf') ?? 0;

  beforeAll(async () => {
    const { l0, l1 } = lab();
    host = new ManagedHost(l0);
    first = new ManagedGuest(l1);
    await host.setUp(undo, VMS);
    await first.setUp(undo);
    second = await Tenant.start(lab());
    undo.add('second L1', () => second.end());
    await first.whenSettled(0, SETTLED_MS);
    await second.guest.whenSettled(0, SETTLED_MS);
  });
  afterAll(() => undo.run());

  it('count their own faults only, whichever of them runs an L2', async () => {
    const before = { first: await handled('first'), second: await handled('second') };
    expect(await first.runTouchGuest(L2_MIB)).toBe(RIGHT);
    const between = { first: await handled('first'), second: await handled('second') };
    expect(between.first).toBeGreaterThan(before.first + 100);
    expect(between.second).toBe(before.second);
    expect((await second.check()).mismatches).toBe(0);
    expect(await handled('second')).toBeGreaterThan(between.second + 100);
    expect(await handled('first')).toBe(between.first);
  });

  it('see their own objects, maps, links and arena only', async () => {
    await second.guest.command(['load', '/payload/bpf/npf.bpf.o', '--name', 'of-second']);
    const there = await json<Result<'list'>>(second.guest, ['list']);
    const here = await json<Result<'list'>>(first, ['list']);
    expect([here.vm, there.vm]).toEqual(['first', 'second']);
    expect(here.objects.map((o) => o.name)).toEqual(['npf']);
    expect(there.objects.map((o) => o.name).sort()).toEqual(['npf', 'of-second']);
    expect(here.arena.device).not.toBe(there.arena.device);
    // the same name is another program of another VM
    expect(here.objects[0]!.programs[0]!.id).not.toBe(
      there.objects.find((o) => o.name === 'npf')!.programs[0]!.id,
    );
    const r = await lab().l1.exec([CLI, 'unload', 'of-second'], { timeoutMs: 60_000 });
    expect([r.status, r.stderr.toString()]).toEqual([3, expect.stringMatching(/of-second/)]);
    await second.guest.command(['unload', 'of-second']);
  });

  it('sample at once: each has the samples of its own L2 alone, and goes on when the other stops', async () => {
    const guests = { first, second: second.guest };
    const names = ['first', 'second'] as const;
    const samples = async (): Promise<{ first: number; second: number }> => ({
      first: (await host.metrics('first')).get('hook_handled sample') ?? 0,
      second: (await host.metrics('second')).get('hook_handled sample') ?? 0,
    });
    // by L0's clock, which passes with its work
    const uptimeS = async (): Promise<number> =>
      Number((await runScript(lab().l0, 'cat /proc/uptime')).split(' ')[0]);
    /** Until each of them has so many more. What share of the one CPU each L2 has is L0's and its L1's to say, not ours. */
    const until = async (of: readonly ('first' | 'second')[], more: number): Promise<Sampled> => {
      const [before, t0] = [await samples(), await uptimeS()];
      const gained = await waitFor(
        `${more} samples of ${of.join(' and ')}`,
        async () => {
          const now = await samples();
          const n = { first: now.first - before.first, second: now.second - before.second };
          return of.every((name) => n[name] > more) ? n : undefined;
        },
        { timeoutMs: SETTLED_MS, intervalMs: 2000 },
      );
      return { ...gained, s: (await uptimeS()) - t0 };
    };
    const whileWorking = async <T>(what: () => Promise<T>): Promise<T> => {
      const jobs = [await working(lab().l1, 0), await working(second.l1, 1)];
      try {
        return await what();
      } finally {
        for (const job of jobs) {
          await job.kill('TERM');
          await job.wait({ timeoutMs: 60_000 });
        }
      }
    };
    const loaded = new Set<'first' | 'second'>();
    const unload = async (name: 'first' | 'second'): Promise<void> => {
      loaded.delete(name);
      await guests[name].command(['unload', 'profile', '--force']);
    };
    try {
      // the objects first: a command takes its time beside an L2 that never stops
      const options = ['--link', '--option', `hz=${HZ}`, '--option', 'depth=1'];
      for (const name of names) {
        await guests[name].command(['load', '/payload/bpf/profile.bpf.o', '--name', 'profile', ...options]);
        loaded.add(name);
      }
      await whileWorking(async () => {
        // the first second of each is its start; from then on both work
        await until(names, HZ);
        const both = await until(names, SECONDS * HZ);
        process.stdout.write(`sampled at once: ${JSON.stringify(both)}\n`);
        // they share one CPU
        expect(both.first + both.second).toBeLessThan(1.2 * HZ * both.s);
      });
      // a loop is a few instructions side by side
      const sampled = [await sampledAddresses(first), await sampledAddresses(second.guest)] as const;
      const loops = sampled.map((by) => [...by].reduce((a, b) => (b[1] > a[1] ? b : a))[0]);
      const near = (by: Map<bigint, number>, loop: bigint): number =>
        [...by].reduce((sum, [ip, n]) => sum + (ip > loop - 16n && ip < loop + 16n ? n : 0), 0);
      for (const [i, by] of sampled.entries()) {
        const all = [...by.values()].reduce((a, b) => a + b, 0);
        expect(all, names[i]).toBe((await samples())[names[i]!]);
        expect(near(by, loops[i]!), names[i]).toBeGreaterThan(0.9 * all);
        expect(near(by, loops[1 - i]!), names[i]).toBe(0);
      }

      await unload('second');
      const goesOn = await whileWorking(() => until(['first'], SECONDS * HZ));
      process.stdout.write(`sampled one of them: ${JSON.stringify(goesOn)}\n`);
      expect(goesOn.second).toBe(0);
    } finally {
      for (const name of [...loaded]) await unload(name);
    }
  });

  it('go on as before when the other writes garbage into its port as fast as it can', async () => {
    await second.guest.end('TERM');
    const during = async (to: string): Promise<{ ms: number; handled: number }> => {
      const load = await second.l1.spawn(['sh', '-c', `while :; do cat /payload/l2/vmlinux > ${to}; done`]);
      try {
        const before = await handled('first');
        const t0 = performance.now();
        expect(await first.runTouchGuest(L2_MIB)).toBe(RIGHT);
        return { ms: performance.now() - t0, handled: (await handled('first')) - before };
      } finally {
        await load.kill('KILL');
        await load.wait({ timeoutMs: 60_000 });
      }
    };
    // both loads take a share of the one emulated CPU, in turns: what is compared is what garbage costs beyond that
    const busy: { ms: number; handled: number }[] = [];
    const garbage: { ms: number; handled: number }[] = [];
    for (let turn = 0; turn < 3; turn++) {
      busy.push(await during('/dev/null'));
      garbage.push(await during('/dev/virtio-ports/org.hyperturtle.v1'));
    }
    const median = (runs: { ms: number; handled: number }[], what: 'ms' | 'handled'): number =>
      runs.map((r) => r[what]).sort((a, b) => a - b)[1]!;
    process.stdout.write(`beside garbage: ${JSON.stringify({ busy, garbage })}\n`);
    // as many faults are answered in L0, and none of them waits for the daemon
    expect(median(garbage, 'handled')).toBeGreaterThan(0.95 * median(busy, 'handled'));
    expect(median(garbage, 'ms') / median(busy, 'ms')).toBeLessThan(1.6);
    // and the tenant that has come to its senses is served again
    await second.guest.start();
    await second.guest.whenSettled(0, SETTLED_MS);
    expect((await second.check()).mismatches).toBe(0);
  });

  it('a reset of one takes its programs out of L0, and its next boot gets them by the same start-up', async () => {
    const links = async (vm: string): Promise<number> => {
      const { vms } = JSON.parse(
        await run(lab().l0, [CLI, 'host', 'vm', 'list', '--json'], { timeoutMs: 60_000 }),
      ) as { vms: { name: string; links: unknown[] }[] };
      return vms.find((v) => v.name === vm)!.links.length;
    };
    expect([await links('first'), await links('second')]).toEqual([1, 1]);
    await second.machine.reset();
    expect([await links('first'), await links('second')]).toEqual([1, 0]);
    await second.begin();
    await second.guest.whenSettled(0, SETTLED_MS);
    expect((await second.check()).mismatches).toBe(0);
    expect(kernelTroubles(await runScript(second.l1, 'dmesg'))).toEqual([]);
  });

  // control.test.ts kills daemon and agent in every run
  if (SOAKS)
    it('kills of daemon, agent and the QEMU of an L1 change no page of an L2 and leave nothing attached', async () => {
      const stage = { host, vms: VMS, first, second };
      const { killed, ...chaos } = CHAOS;
      const spec = { ...chaos, patternSeconds: 4, arenaMib: 8, progress: createProgress() };
      const report = await runChaosOn(lab(), stage, spec).finally(() => {
        second = stage.second;
      });
      expect(report).toMatchObject({ problems: [], mismatches: 0, killed });
    });
});
