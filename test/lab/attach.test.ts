/**
 * The commands that users start, on real machines: what they print, what they refuse, and that nothing of them is left
 * however they end. Both kernel modules count their users, so unloading one proves that all is gone.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { rmmod } from '../../src/testbed/acceleration.ts';
import { waitFor } from '../../src/core/wait.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import type { Job, Level } from '../../src/lab/levels.ts';
import { useLab } from '../support/lab.ts';

const QMP = '/run/l1/qmp.sock';
const PROGRAM = '/payload/bpf/npf.bpf.o';
const ATTACH = ['hyperturtle', 'host', 'attach', '--qmp', QMP, '--program', PROGRAM];
const lab = useLab();

const started: Job[] = [];
const start = async (level: Level, argv: readonly string[]): Promise<Job> => {
  const job = await level.spawn(argv);
  started.push(job);
  return job;
};

/** Each test begins with no module loaded, whatever happened in the one before. */
afterEach(async () => {
  for (const job of started.splice(0).reverse()) {
    if ((await job.status()) !== undefined) continue;
    await job.kill('TERM');
    await job.wait({ timeoutMs: 60_000 });
  }
  for (const level of [lab().l1, lab().l0])
    await level.exec(['rmmod', level === lab().l1 ? 'hyperturtle_guest' : 'hyperturtle_host']);
});

type Line = Record<string, unknown>;
const lines = async (job: Job): Promise<Line[]> =>
  (await job.output())
    .split('\n')
    .filter((l) => l.startsWith('{'))
    .map((l) => JSON.parse(l) as Line);

/** The first line of the job's output that has `key`. Fails at once when the job ends without. */
const lineWith = (job: Job, key: string, value?: unknown): Promise<Line> =>
  waitFor(
    `a line with '${key}'`,
    async () => {
      const ended = await job.status();
      const found = (await lines(job)).find((l) => key in l && (value === undefined || l[key] === value));
      if (!found && ended !== undefined) throw new Error(`ended with ${ended}: ${await job.output()}`);
      return found;
    },
    { timeoutMs: 60_000, intervalMs: 200 },
  );

const load = (level: Level, module: string): Promise<string> =>
  run(level, ['insmod', `/payload/modules/${module}.ko`]);
const stderrOf = async (level: Level, argv: string[]): Promise<[number, string]> => {
  const r = await level.exec(argv);
  return [r.status, r.stderr.toString()];
};

/** Whether this level has an ivshmem device. */
const hasArena = async (level: Level): Promise<boolean> =>
  (await runScript(level, 'cat /sys/bus/pci/devices/*/device')).includes('0x1110');

describe('host attach', () => {
  it('says what it did, obeys signals, and undoes everything', async () => {
    const { l0, l1 } = lab();
    await load(l0, 'hyperturtle_host');
    const attach = await start(l0, ATTACH);
    const ready = await lineWith(attach, 'ready');
    expect(ready).toMatchObject({
      ready: true,
      linked: true,
      hook: 'npf',
      arena: { device: '/dev/hyperturtle-arena0', bytes: 16 << 20, pluggedInto: 'arena0' },
      program: { name: 'npf' },
    });
    await waitFor('the device in L1', async () => ((await hasArena(l1)) ? true : undefined), {
      timeoutMs: 30_000,
      intervalMs: 200,
    });

    const stats = async (): Promise<Line> =>
      JSON.parse(await run(l0, ['hyperturtle', 'host', 'stats', '--qmp', QMP, '--json'])) as Line;
    expect(await stats()).toMatchObject({ linked: true, pid: ready['pid'] });
    await attach.kill('USR1');
    await lineWith(attach, 'event', 'unlinked');
    expect(await stats()).toMatchObject({ linked: false, programId: 0 });
    await attach.kill('USR2');
    await lineWith(attach, 'event', 'linked');
    expect(await stats()).toMatchObject({ linked: true });

    expect(await stderrOf(l0, ATTACH)).toEqual([6, expect.stringMatching(/attached already/)]);
    expect((await l0.exec(['rmmod', 'hyperturtle_host'])).status).not.toBe(0);

    await attach.kill('TERM');
    expect(await attach.wait({ timeoutMs: 60_000 })).toBe(0);
    expect((await lines(attach)).at(-1)).toEqual({ event: 'detached' });
    expect(await runScript(l0, 'ls /dev')).not.toContain('hyperturtle-arena');
    expect(await hasArena(l1)).toBe(false);
    await rmmod(l0, 'hyperturtle_host');
  });

  it('refuses in one line, with nothing left behind', async () => {
    const { l0 } = lab();
    const [status, text] = await stderrOf(l0, ATTACH);
    expect([status, text]).toEqual([
      3,
      expect.stringMatching(/^hyperturtle: .*load hyperturtle_host\.ko.*\n$/),
    ]);
    await load(l0, 'hyperturtle_host');
    const cases: [string[], number, RegExp][] = [
      [['--qmp', QMP, '--program', PROGRAM, '--bus', 'nosuch'], 12, /Bus 'nosuch' not found/],
      [['--qmp', QMP, '--program', PROGRAM, '--arena-mib', '24'], 2, /power of two/],
      [['--qmp', QMP, '--program', '/bin/busybox'], 15, /not an eBPF object/],
      [['--qmp', QMP], 2, /--no-program/],
      [['--qmp', '/run/none', '--program', PROGRAM], 3, /no process listens/],
      [['--pid', '1', '--no-plug', '--no-program'], 3, /runs no KVM virtual machine/],
    ];
    for (const [args, code, why] of cases)
      expect(await stderrOf(l0, ['hyperturtle', 'host', 'attach', ...args])).toEqual([
        code,
        expect.stringMatching(why),
      ]);
    await rmmod(l0, 'hyperturtle_host');
  });

  it('refuses a kernel that does not show what to compare KVM with', async () => {
    const { l0 } = lab();
    await load(l0, 'hyperturtle_host');
    const types = '/sys/kernel/btf';
    const own = '/tmp/btf';
    await runScript(
      l0,
      `set -e; mkdir ${own}; for t in vmlinux kvm; do touch ${own}/$t; mount --bind ${types}/$t ${own}/$t; done
      mount --rbind ${own} ${types}`,
    );
    const refused = async (why: RegExp): Promise<void> =>
      expect(await stderrOf(l0, ATTACH)).toEqual([4, expect.stringMatching(why)]);
    try {
      await refused(/^hyperturtle: kvm_(amd|intel) has no types \(BTF\)/);
      await runScript(l0, `mount -t tmpfs none ${types}`);
      await refused(/^hyperturtle: the kernel does not show its types \(BTF\)/);
    } finally {
      await runScript(
        l0,
        `umount ${types} 2>/dev/null || :
        for m in ${types}/vmlinux ${types}/kvm ${types} ${own}/vmlinux ${own}/kvm; do umount $m; done; rm -r ${own}`,
      );
    }
    expect(await runScript(l0, `ls ${types}`)).toContain('kvm');
    await rmmod(l0, 'hyperturtle_host');
  });

  it('leaves nothing when it is killed, and the next one takes its place', async () => {
    const { l0, l1 } = lab();
    await load(l0, 'hyperturtle_host');
    const killed = await start(l0, ATTACH);
    await lineWith(killed, 'ready');
    await killed.kill('KILL');
    await killed.wait({ timeoutMs: 20_000 });
    expect(await stderrOf(l0, ['hyperturtle', 'host', 'stats', '--qmp', QMP])).toEqual([
      3,
      expect.stringMatching(/no VM of this process is attached/),
    ]);
    const next = await start(l0, ATTACH);
    await lineWith(next, 'ready');
    await next.kill('TERM');
    expect(await next.wait({ timeoutMs: 60_000 })).toBe(0);
    expect(await hasArena(l1)).toBe(false);
    await rmmod(l0, 'hyperturtle_host');
  });
});

describe('guest register', () => {
  it('follows a nested guest to its end, lets one go that runs on, and has settings', async () => {
    const { l0, l1 } = lab();
    await load(l0, 'hyperturtle_host');
    const attach = await start(l0, ATTACH);
    await lineWith(attach, 'ready');
    await load(l1, 'hyperturtle_guest');
    // a guest without an operating system is enough: what counts is its VM
    const vmm = await start(l1, [
      'qemu-system-x86_64',
      '-accel',
      'kvm',
      '-nodefaults',
      '-display',
      'none',
      '-S',
    ]);
    const register = ['hyperturtle', 'guest', 'register', '--pid', String(vmm.pid)];
    await waitFor(
      'the VM',
      async () =>
        (await runScript(l1, `ls -l /proc/${vmm.pid}/fd 2>/dev/null || true`)).includes('kvm-vm')
          ? true
          : undefined,
      { timeoutMs: 30_000, intervalMs: 200 },
    );

    const first = await start(l1, register);
    expect(await lineWith(first, 'registered')).toMatchObject({
      ...{ number: 1, dead: 0, name: `pid-${vmm.pid}`, slots: 0 },
      problem: expect.stringMatching(
        /no page of its RAM has a place .*: its RAM is no file on turtlefs$/,
      ) as string,
    });
    expect(await stderrOf(l1, register)).toEqual([6, expect.stringMatching(/registered already/)]);
    await first.kill('TERM');
    expect(await first.wait({ timeoutMs: 30_000 })).toBe(0);
    expect((await lines(first)).at(-1)).toMatchObject({ event: 'unregistered' });

    const second = await start(l1, [...register, '--name', 'again', '--group-max', '4']);
    expect(await lineWith(second, 'registered')).toMatchObject({ number: 1, name: 'again' });
    await vmm.kill('KILL');
    expect(await second.wait({ timeoutMs: 30_000 })).toBe(0);
    expect((await lines(second)).at(-1)).toMatchObject({ event: 'gone', dead: 1 });

    expect(JSON.parse(await run(l1, ['hyperturtle', 'guest', 'status', '--json']))).toMatchObject({
      l2_count: 0,
      arena_bound: 1,
    });
    const set = (...args: string[]): string[] => ['hyperturtle', 'guest', 'set', ...args];
    expect(
      await run(l1, set('--disable', '--group-max', '8', '--pool-low', '10', '--pool-high', '20')),
    ).toMatch(/disabled, groups of up to 8 pages[^]*refill below 10, up to 20/);
    expect(await run(l1, set('--enable'))).toMatch(/enabled, groups of up to 8/);
    expect(await stderrOf(l1, set('--group-max', '65'))).toEqual([2, expect.stringMatching(/from 1 to 64/)]);
    expect(await stderrOf(l1, set('--pool-low', '21'))).toEqual([2, expect.stringMatching(/low <= high/)]);
    await rmmod(l1, 'hyperturtle_guest');
    await attach.kill('TERM');
    expect(await attach.wait({ timeoutMs: 60_000 })).toBe(0);
    await rmmod(l0, 'hyperturtle_host');
  });
});
