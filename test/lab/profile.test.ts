/** The sample hook in real kernels: what a profile says is true, and it comes and goes under a running L2. */
import { describe, expect, it } from 'vitest';
import { insmod, rmmod } from '../../src/testbed/acceleration.ts';
import { withL2 } from '../../src/testbed/l2-session.ts';
import type { L2Session, L2SessionSpec } from '../../src/testbed/l2-session.ts';
import { L2_TICK_ARGUMENTS } from '../../src/testbed/l2-spec.ts';
import { waitFor } from '../../src/core/wait.ts';
import { kernelArgs } from '../../src/lab/init-scripts.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { useLab } from '../support/lab.ts';
import { soakCount } from '../support/scale.ts';

const lab = useLab();

const QMP = '/run/l1/qmp.sock';
const SHARES = '/payload/l2/programs/shares';
const COMMAND_MS = 240_000;
/** HT_RACES=10000 is what docs/benchmarks.md tells of. */
const RACES = soakCount(process.env['HT_RACES'], 30, 200);

interface Profile {
  samples: number;
  source: string;
  hottest: { name: string; module: string; samples: number }[];
  notes: string[];
}

/** Its kernel is where KASLR put it. */
const GUEST: L2SessionSpec = {
  ...{ name: 'p', ram: 'tmpfs', memMib: 96, machine: 'pc', port: 0 },
  append: L2_TICK_ARGUMENTS,
  kernelArgs: kernelArgs(2).replace(/\bnokaslr\b/, ''),
};
const withGuest = <T>(body: (l2: L2Session) => Promise<T>): Promise<T> => withL2(lab(), GUEST, body);

/** In the background of an L2, until it ends. */
const keepBusy = async (l2: L2Session): Promise<void> => {
  await l2.shell.runOk('(shares 100000000 50 30 20 >/dev/null 2>&1 &) </dev/null >/dev/null', {
    timeoutMs: COMMAND_MS,
  });
};

const profile = async (...args: string[]): Promise<Profile> => {
  const command = ['hyperturtle', 'host', 'profile', '--qmp', QMP, '--json', '--hz', '499', ...args];
  const said = await run(lab().l0, command, { timeoutMs: COMMAND_MS });
  return JSON.parse(said.trim().split('\n').at(-1)!) as Profile;
};

/** With the host's module, which goes again whatever happens. */
const withModule = async (body: () => Promise<void>): Promise<void> => {
  await insmod(lab().l0, 'hyperturtle_host', undefined);
  try {
    await body();
  } finally {
    await rmmod(lab().l0, 'hyperturtle_host');
  }
};

const attach = `hyperturtle host attach --qmp ${QMP} --no-plug --hook sample --program /payload/bpf/profile.bpf.o --option hz=999`;
const STATS = `hyperturtle host stats --qmp ${QMP} --hook sample --json`;

describe('the sample hook', () => {
  it('gives the true shares and callers of three functions of an L2, and names its kernel', async () => {
    await withModule(() =>
      withGuest(async (l2) => {
        await keepBusy(l2);
        const user = await profile('--seconds', '20', '--user', '--binary', SHARES, '-o', '/run/p.folded');
        expect(user.source).toBe('cpu-clock'); // emulated CPUs count no cycles
        expect(user.samples).toBeGreaterThan(300);
        const share = (name: string): number =>
          (100 * (user.hottest.find((h) => h.name === name)?.samples ?? 0)) / user.samples;
        // 3 points, and what a thousand samples leave to chance
        const slack = 3 + 200 / Math.sqrt(user.samples);
        expect(Math.abs(share('share_hot') - 50)).toBeLessThan(slack);
        expect(Math.abs(share('share_warm') - 30)).toBeLessThan(slack);
        expect(Math.abs(share('share_cool') - 20)).toBeLessThan(slack);
        const folded = await runScript(lab().l0, 'cat /run/p.folded');
        expect(folded).toMatch(/;main;calls_hot;share_hot \d+$/m);
        expect(folded).not.toMatch(/calls_hot;share_cool/);

        const kernel = await profile('--seconds', '6', '--no-user', '--kernel', '/payload/l2/vmlinux');
        expect(kernel.notes).toEqual([]);
        for (const h of kernel.hottest) expect(h.name).toMatch(/^[a-z_]\w*/i);
      }),
    );
  });

  it(`comes and goes ${RACES} times under an L2 that works; a killed owner leaves nothing, and the module unloads and loads`, async () => {
    await withModule(() =>
      withGuest(async (l2) => {
        await keepBusy(l2);
        await lab().l0.writeFile('/run/race.mjs', RACE);
        const said = await run(lab().l0, ['node', '/run/race.mjs', QMP, String(RACES)], {
          timeoutMs: COMMAND_MS + RACES * 50,
        });
        process.stdout.write(said);
        const rates = said
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line) as { links: number; samples: number; longestMs: number });
        expect(rates.reduce((n, r) => n + r.links, 0)).toBe(RACES);
        for (const r of rates) {
          expect(r.samples, JSON.stringify(r)).toBeGreaterThan(0);
          // no link and no unlink waits for more than what runs just then
          expect(r.longestMs, JSON.stringify(r)).toBeLessThan(10_000);
        }

        const job = await lab().l0.spawn(['sh', '-c', `exec ${attach}`]);
        await waitFor(
          'samples',
          async () =>
            /"handled":[1-9]/.test((await lab().l0.exec(['sh', '-c', STATS])).stdout.toString())
              ? true
              : undefined,
          { timeoutMs: COMMAND_MS, intervalMs: 500 },
        );
        await job.kill('KILL');
        await rmmod(lab().l0, 'hyperturtle_host'); // waits until nobody holds it
        await insmod(lab().l0, 'hyperturtle_host', undefined);
        expect((await profile('--seconds', '3', '--depth', '1')).samples).toBeGreaterThan(0);
        // and L2 still answers
        await l2.shell.runOk('true', { timeoutMs: COMMAND_MS });
      }),
    );
  });
});

/** Links and unlinks, replaces every third time, each at every rate and depth. */
const RACE = `
import { Attachment } from '/payload/app/dist/src/host/attach.js';
const [qmpPath, times] = process.argv.slice(2);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let left = Number(times);
const all = [{ hz: 99, depth: 1 }, { hz: 999, depth: 8 }, { hz: 3999, depth: 64 }, { hz: 9999, depth: 64 }];
for (const [i, options] of all.entries()) {
  const began = performance.now();
  const a = await Attachment.open({ qmpPath, arenaBytes: 1 << 20, programPath: '/payload/bpf/profile.bpf.o', hook: 'sample',
    options, qmpTimeoutMs: 30000, unplugTimeoutMs: 30000 });
  const begin = performance.now();
  const here = Math.ceil(left / (all.length - i));
  let longestMs = 0;
  const timed = async (f) => {
    const t = performance.now();
    await f();
    longestMs = Math.max(longestMs, Math.round(performance.now() - t));
  };
  for (let j = 1; j < here; j++) {
    if (j % 3 !== 2) await timed(() => a.unlink());
    if (j % 4) await wait((j % 4) * 7);
    await timed(() => a.link());
    if (j % 5 === 0) await wait(30);
  }
  left -= here;
  await wait(500);
  const { handled, samples } = a.stats();
  const ms = Math.round(performance.now() - begin);
  await a.close();
  console.log(JSON.stringify({ ...options, links: here, samples: handled, outside: samples?.outside, openMs: Math.round(begin - began), ms, longestMs }));
}
`;
