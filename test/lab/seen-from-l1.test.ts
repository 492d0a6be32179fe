/** What L1's own commands tell of its nested guests with the hooks that look: profiles and exits, over daemon and agent. */
import { gunzipSync } from 'node:zlib';
import { Profile } from 'pprof-format';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CLI } from '../../src/testbed/acceleration.ts';
import { withL2 } from '../../src/testbed/l2-session.ts';
import { ManagedAcceleration } from '../../src/testbed/managed.ts';
import { L2_TICK_ARGUMENTS } from '../../src/testbed/l2-spec.ts';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { waitFor } from '../../src/core/wait.ts';
import { useLab } from '../support/lab.ts';

const lab = useLab();
const SHARES = '/payload/l2/programs/shares';
const PROFILE = ['--object', '/payload/bpf/profile.bpf.o', '--l2', 'web'];
const NAMED = [...PROFILE, '--binary', SHARES];
const STEP_MS = 120_000;

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
  it('profiles it into a picture, sees it live, lists the hooks, and is told why it exits', async () => {
    const guest = {
      name: 'web',
      ram: 'turtlefs',
      memMib: 96,
      append: L2_TICK_ARGUMENTS,
      machine: 'pc',
    } as const;
    await withL2(lab(), { ...guest, port: 0, registeredBy: 'agent' }, async (l2) => {
      await a.guest.whenSettled(1, STEP_MS);
      await a.guest.command(['exits', 'on', '--object', '/payload/bpf/exit-cache.bpf.o']);
      await l2.shell.runOk('(shares 100000000 50 30 20 >/dev/null 2>&1 & echo $! >/tmp/p) </dev/null', {
        timeoutMs: STEP_MS,
      });

      // names of user space from a file, those of the kernel from the VMM's command line
      const svg = await json<{
        l2: string;
        source: string;
        samples: number;
        hottest: Hot[];
        notes: string[];
      }>(...['profile', ...NAMED, '--hz', '999', '--seconds', '10', '--rows', '100', '-o', '/run/web.svg']);
      expect(svg).toMatchObject({ l2: 'web', source: 'cpu-clock', notes: [] });
      expect(svg.samples).toBeGreaterThan(200);
      expect(svg.hottest[0]).toMatchObject({ name: 'share_hot', module: 'shares' });
      const kernel = svg.hottest.filter((h) => h.module === 'kernel');
      expect(kernel.length).toBeGreaterThan(5);
      for (const h of kernel) expect(h.name).toMatch(/^[a-z_]/i);
      const picture = (await lab().l1.exec(['cat', '/run/web.svg'])).stdout.toString();
      expect(picture).toMatch(/^<\?xml[^]*share_hot[^]*<\/svg>\s*$/);
      expect(picture.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(/(https?:)?\/\/[a-z]|href/);

      const inKernel = await json<{ hottest: Hot[]; notes: string[] }>(
        ...['profile', ...PROFILE, '--hz', '499', '--no-user', '--seconds', '4', '-o', '/run/web.pb.gz'],
      );
      expect(inKernel.notes).toEqual([]);
      const pprof = Profile.decode(gunzipSync((await lab().l1.exec(['cat', '/run/web.pb.gz'])).stdout));
      for (const f of inKernel.hottest) {
        expect(f).toMatchObject({ module: 'kernel', name: expect.stringMatching(/^[a-z_]/i) as string });
        expect(pprof.stringTable.strings).toContain(f.name);
      }

      // more than the quota is refused, by its name
      await expect(a.guest.command(['profile', ...PROFILE, '--hz', '9999'])).rejects.toThrow(
        /sampleHz.*4000/s,
      );

      // until it is interrupted
      const before = (await a.host.metrics('l1')).get('hook_handled sample') ?? 0;
      const top = await lab().l1.spawn([CLI, 'top', ...NAMED, '--hz', '199', '--interval-s', '5', '--json']);
      // looked at from L0: who asks L1 all the time keeps it from answering
      await waitFor(
        'samples',
        async () =>
          ((await a.host.metrics('l1')).get('hook_handled sample') ?? 0) > before + 300 || undefined,
        { timeoutMs: STEP_MS, intervalMs: 2000 },
      );
      await l2.shell.runOk('kill $(cat /tmp/p)', { timeoutMs: STEP_MS });
      const live = await waitFor('a look', async () => /^\{.*\}$/m.exec(await top.output())?.[0], {
        timeoutMs: STEP_MS,
        intervalMs: 3000,
      });
      expect((JSON.parse(live) as { hottest: Hot[] }).hottest[0]?.name).toBe('share_hot');
      const { links } = await json<{ links: { object: string; hook: string }[] }>('list');
      expect(links.map((x) => x.hook).sort()).toEqual(['exit', 'npf', 'sample']);
      const { hooks } = await json<{ hooks: { hook: string; linked: boolean }[] }>(
        ...['top', '--count', '1'],
      );
      expect(hooks.filter((x) => x.linked).map((x) => x.hook)).toEqual(
        expect.arrayContaining(['exit', 'npf', 'sample']),
      );
      await top.kill('TERM');
      expect(await top.wait({ timeoutMs: STEP_MS })).toBe(0);

      const { exits } = await json<{ exits: { name: string; cause: string; seen: number; l1Ns: number }[] }>(
        ...['exits', '--count', '1'],
      );
      const own = exits.filter((e) => e.name === 'web');
      expect(
        own.some((e) => e.seen > 0 && e.l1Ns > 0),
        JSON.stringify(exits),
      ).toBe(true);
      expect(await a.guest.command(['exits', 'off'])).toContain('exit-cache');
      // it went with the command that took it
      const left = await json<{ objects: { name: string }[] }>('list');
      expect(left.objects.map((o) => o.name)).toEqual(['npf']);
    });
  });
});
