/**
 * The control plane in real kernels: a daemon in L0, an agent in L1, programs that L1 asks for over its port. The
 * kernel logs of L0 and L1 must stay clean throughout.
 */
import { describe, expect, it } from 'vitest';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { pattern } from '../../src/bench/chaos/run.ts';
import { withL2 } from '../../src/testbed/l2-session.ts';
import type { L2Session } from '../../src/testbed/l2-session.ts';
import { ManagedAcceleration } from '../../src/testbed/managed.ts';
import { CLI } from '../../src/testbed/acceleration.ts';
import { waitFor } from '../../src/core/wait.ts';
import type { VmReport } from '../../src/host/daemon/admin-schema.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { useLab } from '../support/lab.ts';

const lab = useLab();
const SETTLED_MS = 120_000;
const REPLACE = ['replace', 'npf', '/payload/bpf/npf.bpf.o'];

const withRegistered = <T>(body: (l2: L2Session) => Promise<T>): Promise<T> =>
  withL2(
    lab(),
    { name: 'c', ram: 'turtlefs', memMib: 128, append: '', machine: 'pc', port: 0, registeredBy: 'agent' },
    body,
  );

/** What `host vm list` has of L1, once its nested guest has been accelerated. */
async function reported(): Promise<VmReport['l1'] | undefined> {
  const { vms } = JSON.parse(
    await run(lab().l0, [CLI, 'host', 'vm', 'list', '--json'], { timeoutMs: 60_000 }),
  ) as { vms: VmReport[] };
  const l1 = vms[0]?.l1;
  return (l1?.l2s[0]?.faults ?? 0) > 100 ? l1 : undefined;
}

describe('an L1 that asks its host for npf over the channel', () => {
  it('has its nested guests registered and their faults answered in L0, no matter who restarts, and leaves nothing', async () => {
    const a = await ManagedAcceleration.on(lab(), { arenaMib: ARENA_MIB });
    try {
      await withRegistered(async (l2) => {
        expect((await pattern(l2, 3)).mismatches).toBe(0);
        const { handled } = await a.hookCounts();
        expect(handled).toBeGreaterThan(100);
        // the host's operator is told of L1's nested guest and pool, by L1
        const told = await waitFor('report of L1', reported, { timeoutMs: 60_000, intervalMs: 3000 });
        expect(told?.l2s).toHaveLength(1);
        expect(told?.pool?.high).toBeGreaterThan(0);

        // the daemon is killed: L1's program is linked again by nobody's hand, and the L2 never notices
        const checking = pattern(l2, 8);
        await a.host.end('KILL');
        await a.startHost();
        await a.guest.whenSettled(1, SETTLED_MS);
        expect((await checking).mismatches).toBe(0);
        expect((await pattern(l2, 3)).mismatches).toBe(0);

        // a new version takes the place of the linked one under the running L2, and answers the next one's faults
        const underReplace = pattern(l2, 8);
        await a.guest.command([...REPLACE, '--set', 'arena_bytes=16777216']);
        expect((await underReplace).mismatches).toBe(0);
        expect(await a.guest.runTouchGuest(32)).toBe(33);
        expect((await a.hookCounts()).handled).toBeGreaterThan(100);

        // the agent is killed: the L2 is registered again
        await a.guest.end('KILL');
        await a.guest.start();
        await a.guest.whenSettled(1, SETTLED_MS);
        expect((await pattern(l2, 3)).mismatches).toBe(0);
      });
      // the module goes and comes, with the agent running
      await a.guest.command(['guest', 'release']);
      await runScript(lab().l1, 'rmmod hyperturtle_guest && insmod /payload/modules/hyperturtle_guest.ko');
      await a.guest.whenSettled(0, SETTLED_MS);
      const { handled } = await a.hookCounts();
      expect(await a.guest.runTouchGuest(32)).toBe(33);
      expect((await a.hookCounts()).handled).toBeGreaterThan(handled + 100);
    } finally {
      await a.off();
    }
    expect(
      await runScript(lab().l0, 'ls /dev /sys/fs/bpf/hyperturtle | grep -i hyperturtle || true'),
    ).not.toMatch(/arena/);
    expect(await runScript(lab().l0, 'lsmod')).not.toMatch(/hyperturtle_(host|guest)/);
    expect(await runScript(lab().l1, 'lsmod')).not.toMatch(/hyperturtle_(host|guest)/);
  });
});
