/**
 * Programs that run too long, in a real L0: the host module measures each run, ends the link at the third that is over
 * the limit, and tells its owner. And what else hyperturtle_host.ko refuses: test runs beside a guest, and the reload of the KVM
 * module that it hooks.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { insmod, jobSays, rmmod } from '../../src/testbed/acceleration.ts';
import { withL2 } from '../../src/testbed/l2-session.ts';
import type { L2Session, L2SessionSpec } from '../../src/testbed/l2-session.ts';
import { L2_TICK_ARGUMENTS } from '../../src/testbed/l2-spec.ts';
import { waitFor } from '../../src/core/wait.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { compileBpf, findClang } from '../support/bpf.ts';
import { hyperupcall } from '../support/bpf-sources.ts';
import { useLab } from '../support/lab.ts';
import { soakCount } from '../support/scale.ts';

const lab = useLab();

const QMP = '/run/l1/qmp.sock';
const COMMAND_MS = 240_000;
/** HT_RACES=200 is what docs/security.md tells of. */
const RACES = soakCount(process.env['HT_RACES'], 20, 80);
/** How long one hook is raced at most: an emulated L2 may run, and so be sampled, only now and then. */
const RACE_MS = 120_000;
/** Of npf: long enough that an emulator that stands still for a moment is not taken for a slow program. */
const LIMIT_MS = 200;

const GUEST: L2SessionSpec = {
  ...{ name: 'o', ram: 'tmpfs', memMib: 160, machine: 'pc', port: 0 },
  append: L2_TICK_ARGUMENTS,
};

/** Past admission, which would refuse it: each call copies 1 MiB, with preemption off. */
const SLOW = hyperupcall(
  `void *v = bpf_map_lookup_elem(&big, &zero);
	if (!v) return 0;
	for (int i = 0; i < 1500; i++) update(&big, &zero, v, 0);
	ctx->reason = 17;`,
  {
    before: `
struct big { __u8 b[1 << 20]; };
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1);
	__type(key, __u32); __type(value, struct big);
} big SEC(".maps");
static long (*update)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;`,
  },
);

const attachCommand = (hook: string, program: string): string[] => [
  ...['hyperturtle', 'host', 'attach', '--qmp', QMP, '--no-plug'],
  ...['--hook', hook, '--program', program],
];

interface Stats {
  linked: boolean;
  runs: number;
  overruns: number;
  maxNs: number;
  limitNs: number;
}
const stats = async (hook: string): Promise<Stats> =>
  JSON.parse(await runScript(lab().l0, `hyperturtle host stats --qmp ${QMP} --hook ${hook} --json`)) as Stats;

const touchMemory = (l2: L2Session, mib: number): Promise<string[]> =>
  l2.shell.runOk(`pattern own ${mib} --rounds 1`, { timeoutMs: COMMAND_MS });

describe('a program that runs too long', () => {
  afterAll(() => rmmod(lab().l0, 'hyperturtle_host'));

  it(`is ended at its third overrun and its owner told, while L2 goes on; ${RACES} links race their end, and unloading`, async () => {
    const { l0 } = lab();
    await insmod(l0, 'hyperturtle_host', undefined, [`run_limit_us=${LIMIT_MS * 1000},1,1`]);
    await l0.writeFile('/run/slow.bpf.o', compileBpf(findClang()!, SLOW));
    await withL2(lab(), GUEST, async (l2) => {
      const job = await l0.spawn(attachCommand('npf', '/run/slow.bpf.o'));
      try {
        await jobSays(job, /"ready":true/, 'host attach', COMMAND_MS, undefined);
        let mib = 4;
        const said = await waitFor(
          'the end of the link',
          async () => {
            // each time some that L2 never had
            await touchMemory(l2, (mib = Math.min(mib + 4, 40)));
            const { runs, overruns, maxNs } = await stats('npf');
            process.stdout.write(
              `  ${mib} MiB: ${runs} runs, ${overruns} too long, at most ${maxNs / 1e6} ms\n`,
            );
            return (await job.output()).split('\n').find((line) => line.includes('"event":"ended"'));
          },
          { timeoutMs: COMMAND_MS, intervalMs: 100 },
        );
        const ended = JSON.parse(said) as { hook: string; ns: number; limitNs: number };
        expect(ended).toMatchObject({ hook: 'npf', linked: false });
        // the kernel's clock rate in kHz divides without remainder nowhere
        expect(Math.round(ended.limitNs / 1e6)).toBe(LIMIT_MS);
        expect(ended.ns).toBeGreaterThan(ended.limitNs);
        const after = await stats('npf');
        expect(after).toMatchObject({ linked: false, overruns: 3 });
        expect(after.maxNs).toBeGreaterThanOrEqual(ended.ns);
        // what L2 faults on now goes to L1 as always
        await touchMemory(l2, mib + 8);
        expect((await stats('npf')).runs).toBe(after.runs);
      } finally {
        await job.kill('TERM');
        await job.wait({ timeoutMs: COMMAND_MS });
      }
      const log = await runScript(l0, 'dmesg');
      expect(log).toMatch(/hyperturtle: ended the link of program \d+ to hook 0/);

      // an innocent one under the same limit stays
      const npf = await l0.spawn(attachCommand('npf', '/payload/bpf/npf.bpf.o'));
      try {
        await jobSays(npf, /"ready":true/, 'host attach', COMMAND_MS, undefined);
        await waitFor(
          'runs of it',
          async () => {
            await touchMemory(l2, 52);
            return (await stats('npf')).runs > 100 ? true : undefined;
          },
          { timeoutMs: COMMAND_MS, intervalMs: 100 },
        );
        expect(await stats('npf')).toMatchObject({ linked: true });
      } finally {
        await npf.kill('TERM');
        await npf.wait({ timeoutMs: COMMAND_MS });
      }

      await l0.writeFile('/run/race.mjs', RACE);
      // work to be sampled in, and HLT between
      await l2.shell.runOk('(while :; do sleep 0.01; done & echo $! >/tmp/busy) </dev/null', {
        timeoutMs: COMMAND_MS,
      });
      const raced = await run(l0, ['node', '/run/race.mjs', QMP, String(RACES), String(RACE_MS)], {
        timeoutMs: COMMAND_MS + 2 * RACE_MS,
      });
      await l2.shell.runOk('kill $(cat /tmp/busy)', { timeoutMs: COMMAND_MS });
      process.stdout.write(raced);
      for (const line of raced.trim().split('\n')) {
        const r = JSON.parse(line) as { hook: string; links: number; ends: number; overruns: number };
        expect(r.links, line).toBeGreaterThanOrEqual(RACES / 2);
        expect(r.ends, line).toBeGreaterThanOrEqual(RACES / 10);
        // each end needs at most three runs, and is noticed before many more
        expect(r.overruns, line).toBeGreaterThanOrEqual(r.ends);
      }
      // and its owner killed while links end
      const killed = await l0.spawn(
        attachCommand('exit', '/payload/bpf/exit-count.bpf.o').concat([
          '--option',
          'exits=cpuid,rdmsr,wrmsr,io,hypercall,hlt,pause,other',
        ]),
      );
      await waitFor(
        'an end',
        async () => ((await killed.output()).includes('"event":"ended"') ? true : undefined),
        { timeoutMs: COMMAND_MS, intervalMs: 50 },
      );
      await killed.kill('KILL');
      await rmmod(l0, 'hyperturtle_host');
      await insmod(l0, 'hyperturtle_host', undefined);
      await touchMemory(l2, 8);
    });
  });
});

describe('hyperturtle_host.ko', () => {
  it('runs no program by hand beside a guest', async () => {
    const { l0 } = lab();
    await insmod(l0, 'hyperturtle_host', undefined);
    try {
      await l0.writeFile('/run/by-hand.mjs', BY_HAND);
      expect(await run(l0, ['node', '/run/by-hand.mjs', QMP])).toMatch(/^HT_BUSY .*without CPUs/);
    } finally {
      await rmmod(l0, 'hyperturtle_host');
    }
  });

  it('holds the KVM module that it hooks, with no VM running, and lets it go with itself', async () => {
    const { l0 } = lab();
    const users = async (): Promise<number> =>
      Number((await runScript(l0, 'awk \'$1 == "kvm_amd" { print $3 }\' /proc/modules')).trim());
    const before = await users();
    await insmod(l0, 'hyperturtle_host', undefined);
    expect(await users()).toBeGreaterThan(before);
    await rmmod(l0, 'hyperturtle_host');
    expect(await users()).toBe(before);
  });
});

/**
 * Links, replaces and unlinks while each run of the program ends its link: half of `times` for each hook, and on until a
 * fifth of those have ended that way, at most `raceMs`.
 */
const RACE = `
import { Attachment } from '/payload/app/dist/src/host/attach.js';
const [qmpPath, times, raceMs] = process.argv.slice(2);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const kinds = ['cpuid', 'rdmsr', 'wrmsr', 'io', 'hypercall', 'hlt', 'pause', 'other'];
const all = [
  { hook: 'exit', programPath: '/payload/bpf/exit-count.bpf.o', options: { exits: kinds } },
  { hook: 'sample', programPath: '/payload/bpf/profile.bpf.o', options: { hz: 9999, depth: 8, clock: true } },
];
for (const spec of all) {
  const a = await Attachment.open({ qmpPath, arenaBytes: 1 << 20, ...spec, qmpTimeoutMs: 30000, unplugTimeoutMs: 30000 });
  let ends = 0;
  const stop = new AbortController();
  const watching = (async () => { for (;;) ends += (await a.whenLinkEnds(stop.signal)).length; })().catch(() => {});
  const least = Number(times) / all.length;
  const until = performance.now() + Number(raceMs);
  let links = 0;
  for (; links < least || (ends < least / 5 && performance.now() < until); links++) {
    const j = links;
    if (j % 3 === 0) await a.unlink();
    if (j % 4) await wait((j % 4) * 8);
    try {
      await a.link(); // in place of itself, unless it was ended
    } catch (e) {
      // the end was told in between, or not yet: what is there is replaced or there is nothing
      if (e.code !== 'HT_BUSY') throw e;
      await a.unlink();
      await a.link();
    }
    if (j % 5 === 0) await wait(40);
  }
  await wait(300);
  const { overruns } = a.stats();
  stop.abort(new Error('done'));
  await watching;
  await a.close();
  console.log(JSON.stringify({ hook: spec.hook, links, ends, overruns }));
}
`;

const BY_HAND = `
import { Attachment } from '/payload/app/dist/src/host/attach.js';
const a = await Attachment.open({ qmpPath: process.argv[2], arenaBytes: 1 << 20, programPath: '/payload/bpf/npf.bpf.o',
  hook: 'npf', qmpTimeoutMs: 30000, unplugTimeoutMs: 30000 });
try {
  a.run({ hook: 'npf', repeat: 1, context: {} });
  console.log('it ran');
} catch (e) {
  console.log(e.code, e.message);
} finally {
  await a.close();
}
`;
