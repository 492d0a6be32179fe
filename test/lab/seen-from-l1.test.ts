/** What L1's own commands tell of its nested guests with the hooks that look: profiles and exits, over daemon and agent. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gunzipSync } from 'node:zlib';
import { Profile } from 'pprof-format';
import { withL2 } from '../../src/bench/l2-session.ts';
import { ManagedAcceleration } from '../../src/bench/managed.ts';
import { L2_TICK_ARGUMENTS } from '../../src/bench/touch.ts';
import { ARENA_MIB } from '../../src/cli/bench.ts';
import { runScript } from '../../src/lab/levels.ts';
import { useLab } from '../support/lab.ts';

const lab = useLab();
const SHARES = '/payload/l2/programs/shares';
const PROFILE = ['--object', '/payload/bpf/profile.bpf.o', '--l2', 'web'];
const SETTLED_MS = 120_000;

interface Hot {
  name: string;
  module: string;
  samples: number;
}

let a: ManagedAcceleration;
beforeAll(async () => {
  a = await ManagedAcceleration.on(lab(), { arenaMib: ARENA_MIB });
});
afterAll(() => a?.off());

const json = async <T>(...args: string[]): Promise<T> =>
  JSON.parse((await a.guest.command([...args, '--json'])).trim().split('\n').at(-1)!) as T;

describe('an L1 whose nested guest works', () => {
  it('profiles it to each kind of file, sees it live, lists the hooks, and is told why it exits', async () => {
    const guest = {
      name: 'web',
      ram: 'turtlefs',
      memMib: 96,
      append: L2_TICK_ARGUMENTS,
      machine: 'pc',
    } as const;
    await withL2(lab(), { ...guest, port: 0, registeredBy: 'agent' }, async (l2) => {
      await a.guest.whenSettled(1, SETTLED_MS);
      await l2.shell.runOk('(shares 100000000 50 30 20 >/dev/null 2>&1 &) </dev/null >/dev/null', {
        timeoutMs: 120_000,
      });

      // names of user space from a file, those of the kernel from the VMM's command line
      const user = ['profile', ...PROFILE, '--hz', '199', '--user', '--binary', SHARES];
      const svg = await json<{
        l2: string;
        source: string;
        samples: number;
        hottest: Hot[];
        notes: string[];
      }>(...[...user, '--seconds', '6', '-o', '/run/web.svg']);
      expect(svg).toMatchObject({ l2: 'web', source: 'cpu-clock', notes: [] });
      expect(svg.samples).toBeGreaterThan(20);
      expect(svg.hottest[0]).toMatchObject({ name: 'share_hot', module: 'shares' });
      const picture = (await lab().l1.exec(['cat', '/run/web.svg'])).stdout.toString();
      expect(picture).toMatch(/^<\?xml[^]*share_hot[^]*<\/svg>\s*$/);
      expect(picture.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(/(https?:)?\/\/[a-z]|href/);

      const kernel = await json<{ hottest: Hot[]; notes: string[] }>(
        ...['profile', ...PROFILE, '--hz', '499', '--no-user', '--seconds', '4', '-o', '/run/web.pb.gz'],
      );
      expect(kernel.notes).toEqual([]);
      const pprof = Profile.decode(gunzipSync((await lab().l1.exec(['cat', '/run/web.pb.gz'])).stdout));
      for (const f of kernel.hottest) {
        expect(f).toMatchObject({ module: 'kernel', name: expect.stringMatching(/^[a-z_]/i) as string });
        expect(pprof.stringTable.strings).toContain(f.name);
      }

      // more than the quota is refused, by its name
      await expect(a.guest.command(['profile', ...PROFILE, '--hz', '9999'])).rejects.toThrow(
        /sampleHz.*4000/s,
      );

      const top = lab().l1.exec(
        [
          ...['/payload/bin/hyperturtle', 'top', ...PROFILE, '--binary', SHARES, '--hz', '199'],
          ...['--interval-s', '15', '--count', '1', '--json'],
        ],
        { timeoutMs: 180_000 },
      );
      await expect
        .poll(() => a.guest.command(['list', '--json']), { timeout: 60_000 })
        .toMatch(/"object":"profile","program":"profile","hook":"sample"/);
      const { hooks } = await json<{ hooks: { hook: string; linked: boolean; handled: number }[] }>(
        ...['top', '--count', '1'],
      );
      expect(hooks.filter((x) => x.linked).map((x) => x.hook)).toEqual(
        expect.arrayContaining(['npf', 'sample']),
      );
      const live = JSON.parse((await top).stdout.toString().trim()) as { samples: number; hottest: Hot[] };
      expect(live.hottest[0]?.name).toBe('share_hot');

      await a.guest.command(['exits', 'on', '--object', '/payload/bpf/exit-cache.bpf.o']);
      const list = await a.guest.command(['list', '--json']);
      expect(list).toContain('"hook":"exit"');
      // gone with the command that took it
      expect(list).not.toContain('"hook":"sample"');
      await l2.shell.runOk('cat /proc/interrupts', { timeoutMs: 120_000 });
      const { exits } = await json<{ exits: { name: string; cause: string; seen: number; l1Ns: number }[] }>(
        ...['exits', '--count', '1'],
      );
      const own = exits.filter((e) => e.name === 'web');
      expect(own.length, JSON.stringify(exits)).toBeGreaterThan(0);
      expect(own.some((e) => e.seen > 0 && e.l1Ns > 0)).toBe(true);
      expect(await a.guest.command(['exits', 'off'])).toContain('exit-cache');
    });
    expect(await runScript(lab().l0, 'lsmod')).toMatch(/hyperturtle_host/);
  });
});
