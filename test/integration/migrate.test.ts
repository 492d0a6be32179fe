/**
 * A VM that is made quiet, moved, saved: stock QEMUs on this host, real migrations between them, and whatever fails on the way.
 * The VM must then be at exactly one end, and served there.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { sleep, waitFor } from '../../src/core/wait.ts';
import type { VmReport } from '../../src/host/daemon/admin-schema.ts';
import { generator } from '../../src/testbed/random.ts';
import { whyNoMaps } from '../support/bpf.ts';
import { compiledSources } from '../support/compiled.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import { startMovedVm } from '../support/moved-vm.ts';
import type { MovedVm } from '../support/moved-vm.ts';
import { findQemu } from '../support/real-qemu.ts';

// daemons, QEMUs and commands, one after the other
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const qemu = findQemu();
const why = qemu ? whyNoMaps() : 'no QEMU: run the lab once';
const KILLS = Number(process.env['HT_TEST_KILLS'] ?? 3);
const SEED = Number(process.env['HT_TEST_SEED'] ?? 120559);
const LEAVE = { name: 'here', nics: 'refuse', guestMs: 20_000, deadlineMs: 60_000, quit: false } as const;
/** 24 MiB take seconds then. */
const SLOW = { mibPerS: 2 };

describe.skipIf(why !== undefined)(`a VM that is moved${why ? ` (skipped: ${why})` : ''}`, () => {
  let h: DaemonHarness;
  let undo: CleanupStack;
  let here: MovedVm;
  const vm = { bus: 'arena0', agent: { hotplug: { bus: 'serial.0' } } };
  const uri = (): string => `unix:${h.at('stream')}`;

  const start = async (name: string, incoming?: string): Promise<MovedVm> => {
    const started = await startMovedVm(qemu!, h.dir, name, incoming);
    undo.add(name, () => started.end());
    return started;
  };
  const ready = (name: string): Promise<VmReport> =>
    h.whenVm(name, (v) => v.phase === 'attached' && v.arena.state === 'plugged' && v.agent.connected);
  /** How the command that was begun has ended. */
  const over = async (name = 'here'): Promise<NonNullable<VmReport['lastMove']>> =>
    (await h.whenVm(name, (v) => !v.move && v.lastMove !== null)).lastMove!;
  const underWay = (): Promise<VmReport> =>
    h.whenVm('here', (v) => v.move?.phase === 'active' && v.move.leftMib > 0);
  const stillOf = async (): Promise<string | undefined> => (await h.vm('here')).still?.state;
  /** This process plays the guest meanwhile. */
  const cli = async (
    ...args: string[]
  ): Promise<{ status: number | null; stdout: string; stderr: string }> => {
    const child = spawn(process.execPath, [path.join(compiledSources(), 'cli/main.js'), ...args], {
      env: { ...process.env, HYPERTURTLE_HOST_SOCKET: h.at('run/host.sock') },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 50_000,
    });
    const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    return { status: child.exitCode, stdout, stderr };
  };
  const untouched = async (): Promise<void> => {
    await ready('here');
    expect(await here.state()).toBe('running');
    expect(await here.arenas()).toBe(1);
    expect(existsSync(h.at('run/vms/here/still.json'))).toBe(false);
  };

  // it takes its time, in which nothing else of this process goes on
  beforeAll(() => void compiledSources());
  beforeEach(async () => {
    undo = new CleanupStack();
    h = new DaemonHarness();
    undo.add('daemon', () => h.close());
    h.writeConfig({ here: vm, there: vm });
    here = await start('here');
    await here.guest.start();
    undo.add('guest', () => here.guest.stop().catch(() => {}));
    await h.startDaemon();
    await ready('here');
    await waitFor('the arena mapped', () => here.guest.mapped > 0 || undefined, { timeoutMs: 20_000 });
  });
  afterEach(() => undo.run());

  it('is quiet until it is resumed, also when the daemon is killed meanwhile', async () => {
    await h.admin('admin.vm.quiesce', { name: 'here', nics: 'refuse', guestMs: 20_000 });
    expect(await over()).toMatchObject({ what: 'quiesce', problem: null });
    const quiet = async (): Promise<void> => {
      await h.whenVm('here', (v) => v.phase === 'still' && v.still?.state === 'quiesced');
      expect(await here.arenas()).toBe(0);
      const left = (await here.qmp.execute('query-chardev')) as { label: string }[];
      expect(left.filter((c) => c.label.startsWith('hyperturtle'))).toEqual([]);
    };
    await quiet();
    expect(h.journal.at(-1)).toMatchObject({ op: 'detach', pid: here.qemu.pid });
    await h.endDaemon('SIGKILL');
    await h.startDaemon();
    await quiet();
    expect((await cli('host', 'vm', 'list')).stdout).toMatch(/^here +quiesced/m);
    expect((await h.admin('admin.doctor', {})).findings.map((f) => f.what).join()).toMatch(
      /here: .*quiesced/,
    );

    expect(await cli('host', 'resume', 'here')).toMatchObject({ status: 0, stdout: 'here: served again\n' });
    await untouched();
    expect(await cli('host', 'resume', 'here')).toMatchObject({ status: 2 });
  });

  it('is served as before when its guest does not let the arena go, and gets it again when it does so late', async () => {
    await here.guest.stop();
    await h.admin('admin.vm.quiesce', { name: 'here', nics: 'refuse', guestMs: 1000 });
    expect((await over()).problem).toMatchObject({ code: 'HT_TIMEOUT' });
    await untouched();
    const before = await devices(here);
    // which QEMU asked it for
    await here.guest.start();
    await waitFor(
      'another arena',
      async () => {
        const now = await devices(here);
        return now.length === 1 && now[0] !== before[0] ? true : undefined;
      },
      { timeoutMs: 20_000 },
    );
    await untouched();
  });

  it('is made quiet to the end by the next daemon when one is killed in the middle of it', async () => {
    await here.guest.stop();
    await h.admin('admin.vm.quiesce', { name: 'here', nics: 'refuse', guestMs: 30_000 });
    await h.whenVm('here', (v) => v.still?.state === 'quiescing' && v.phase === 'still');
    await h.endDaemon('SIGKILL');
    await here.guest.start();
    await h.startDaemon();
    await h.whenVm('here', (v) => v.still?.state === 'quiesced');
    expect(await here.arenas()).toBe(0);
    await h.logged(/a daemon ended while this VM was moved or made quiet/);
  });

  it('arrives elsewhere, gets arena and port there, and comes back', async () => {
    const there = await start('there', uri());
    await h.whenVm('there', (v) => /waits for the state/.test(v.problem ?? ''));
    await h.admin('admin.vm.migrate', { ...LEAVE, uri: uri(), quit: true });
    const end = await over();
    expect(end).toMatchObject({ what: 'migrate', problem: null });
    expect(end.sentMib).toBeGreaterThan(20);
    expect(end.downtimeMs).not.toBeNull();
    expect(await there.state()).toBe('running');
    await ready('there');
    expect(await there.arenas()).toBe(1);
    await h.whenVm('here', (v) => v.phase === 'waiting' && v.still === null);
    expect(here.qemu.running).toBe(false);

    const back = await start('here', `unix:${h.at('back')}`);
    await there.guest.start();
    const said = await cli('host', 'migrate', 'there', '--to', `unix:${h.at('back')}`);
    expect(said).toMatchObject({ status: 0 });
    expect(said.stdout).toMatch(
      /^there: moved to unix:\S+; \d+ MiB in [\d.]+ s, it stood still for \d+ ms; its QEMU/,
    );
    expect(await there.state()).toBe('postmigrate');
    expect(await back.state()).toBe('running');
    await ready('here');
    expect((await h.vm('there')).still).toMatchObject({ state: 'moved', to: `unix:${h.at('back')}` });
    // it must not be served at both ends
    expect(await cli('host', 'resume', 'there')).toMatchObject({ status: 23 });
    await there.guest.stop();
  });

  it('stays when nobody listens there, and when the place is none', async () => {
    await h.admin('admin.vm.migrate', { ...LEAVE, uri: uri() });
    expect((await over()).problem).toMatchObject({ code: 'HT_QMP' });
    await untouched();
    const refused = await cli('host', 'migrate', 'here', '--to', 'exec:touch /tmp/x');
    expect(refused).toMatchObject({ status: 2 });
    expect(refused.stderr).toMatch(/tcp:HOST:PORT or unix:\/PATH/);
    await untouched();
  });

  it.each(['the other QEMU is killed', 'it is cancelled', 'its time is over', 'somebody else cancels it'])(
    'stays when %s',
    async (what) => {
      const there = await start('there', uri());
      const deadlineMs = what === 'its time is over' ? 1500 : LEAVE.deadlineMs;
      await h.admin('admin.vm.migrate', { ...LEAVE, ...SLOW, deadlineMs, uri: uri() });
      await underWay();
      if (what === 'the other QEMU is killed') await there.qemu.end();
      if (what === 'somebody else cancels it') await here.qmp.execute('migrate_cancel');
      if (what === 'it is cancelled') await h.admin('admin.vm.cancel', { name: 'here' });
      const { problem } = await over();
      expect(problem?.code).toBe(
        what === 'it is cancelled' ? 'HT_INTERRUPTED' : what === 'its time is over' ? 'HT_TIMEOUT' : 'HT_QMP',
      );
      await untouched();
      await waitFor('nothing at the other end', () => !there.qemu.running || undefined, {
        timeoutMs: 10_000,
      });
    },
  );

  it('is gone with its QEMU when that is killed on the way: nothing is left of it at either end', async () => {
    const there = await start('there', uri());
    await h.admin('admin.vm.migrate', { ...LEAVE, ...SLOW, uri: uri() });
    await underWay();
    await here.qemu.end();
    expect((await over()).problem).not.toBeNull();
    await h.whenVm('here', (v) => v.phase === 'waiting' && v.still === null);
    await waitFor('nothing at the other end', () => !there.qemu.running || undefined, { timeoutMs: 10_000 });
    expect(readdirSync(h.at('run/vms/here')).sort()).toEqual(['arena', 'arena.json']);
  });

  it('is served again when the daemon is killed on the way, which the next one gives up', async () => {
    const there = await start('there', uri());
    await h.admin('admin.vm.migrate', { ...LEAVE, ...SLOW, uri: uri() });
    await underWay();
    await h.endDaemon('SIGKILL');
    await h.startDaemon();
    await untouched();
    await waitFor('nothing at the other end', () => !there.qemu.running || undefined, { timeoutMs: 10_000 });
  });

  it('counts as moved when the daemon is killed and it arrived all the same', async () => {
    const there = await start('there', uri());
    await h.admin('admin.vm.migrate', { ...LEAVE, mibPerS: 8, uri: uri() });
    await underWay();
    await h.endDaemon('SIGKILL');
    await waitFor('arrival', async () => ((await there.state()) === 'running' ? true : undefined), {
      timeoutMs: 30_000,
    });
    await waitFor('the end', async () => ((await here.state()) === 'postmigrate' ? true : undefined), {
      timeoutMs: 10_000,
    });
    await h.startDaemon();
    await h.whenVm('here', (v) => v.still?.state === 'moved');
    expect(await here.state()).toBe('postmigrate');
    await ready('there');
  });

  it('stays quiesced when it was so before, and its migration fails', async () => {
    await h.admin('admin.vm.quiesce', { name: 'here', nics: 'refuse', guestMs: 20_000 });
    await over();
    await h.admin('admin.vm.migrate', { ...LEAVE, uri: uri() });
    await waitFor('the end', async () => ((await over()).what === 'migrate' ? true : undefined), {
      timeoutMs: 20_000,
    });
    expect(await stillOf()).toBe('quiesced');
    expect(await here.state()).toBe('running');
  });

  it('is saved into a file and goes on from it, in another QEMU', async () => {
    const file = h.at('a vm.saved');
    const said = await cli('host', 'save', 'here', file, '--quit');
    expect(said).toMatchObject({ status: 0 });
    expect(said.stdout).toMatch(/^here: saved in .*a vm\.saved; \d+ MiB/);
    await h.whenVm('here', (v) => v.phase === 'waiting');
    expect(readdirSync(h.dir).filter((n) => /vm\.saved/.test(n))).toEqual(['a vm.saved']);

    const check = await cli('host', 'restore', 'here', file, '--check');
    expect(check).toMatchObject({ status: 0 });
    expect(check.stdout).toMatch(/VM 'here', saved .*, whole\n.*\n.*-incoming defer/);
    expect(check.stdout).not.toMatch(/ivshmem/);
    expect(await cli('host', 'restore', 'here', file)).toMatchObject({ status: 24 });
    const again = await start('here', 'defer');
    await h.whenVm('here', (v) => /waits for the state/.test(v.problem ?? ''));

    const bytes = readFileSync(file);
    bytes[bytes.length >> 1]! ^= 1;
    writeFileSync(h.at('flipped'), bytes);
    const flipped = await cli('host', 'restore', 'here', h.at('flipped'));
    expect(flipped).toMatchObject({ status: 17 });
    expect(flipped.stderr).toMatch(/SHA-256/);
    writeFileSync(h.at('short'), bytes.subarray(0, bytes.length - 1));
    expect(await cli('host', 'restore', 'here', h.at('short'))).toMatchObject({ status: 17 });
    expect(await again.state()).toBe('inmigrate');

    expect(await cli('host', 'restore', 'here', file)).toMatchObject({ status: 0 });
    expect(await again.state()).toBe('running');
    await ready('here');
    expect(await again.arenas()).toBe(1);
  });

  it('goes on where it is with --go-on, and a second file of the name is refused', async () => {
    const file = h.at('saved');
    expect(await cli('host', 'save', 'here', file, '--go-on')).toMatchObject({ status: 0 });
    await untouched();
    expect(await cli('host', 'save', 'here', file)).toMatchObject({ status: 22 });
    await untouched();
  });

  it('goes on when the command that saves it is killed, and leaves no file of its name', async () => {
    const file = h.at('saved');
    const child = spawn(
      process.execPath,
      [path.join(compiledSources(), 'cli/main.js'), 'host', 'save', 'here', file, '--mib-per-s', '2'],
      { env: { ...process.env, HYPERTURTLE_HOST_SOCKET: h.at('run/host.sock') }, stdio: 'ignore' },
    );
    await underWay();
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
    expect((await over()).problem).not.toBeNull();
    await untouched();
    expect(existsSync(file)).toBe(false);
  });

  it(`is never at both ends, and served where it is, whatever is killed when (${KILLS} times, seed ${SEED})`, {
    timeout: 60_000 + KILLS * 60_000,
  }, async () => {
    const random = generator(SEED);
    const count = { daemon: 0, here: 0, there: 0, moved: 0 };
    for (let n = 0; n < KILLS; n++) {
      const victim = (['daemon', 'here', 'there'] as const)[Math.floor(random() * 3)]!;
      const at = Math.round(random() * 4000);
      const there = await start('there', `${uri()}${n}`);
      await h.admin('admin.vm.migrate', { ...LEAVE, mibPerS: 16, uri: `${uri()}${n}` });
      await sleep(at);
      if (victim === 'daemon') {
        await h.endDaemon('SIGKILL');
        await h.startDaemon();
      } else await (victim === 'here' ? here : there).qemu.end();
      count[victim]++;
      const runs = async (vm: MovedVm): Promise<boolean> =>
        vm.qemu.running && (await vm.state().catch(() => 'ended')) === 'running';
      // until nothing is under way any more, and what waits for a state has ended
      await h.whenVm('here', (v) => !v.move && !/ing$/.test(v.still?.state ?? ''));
      // one that nothing came to yet waits on
      const waits = async (): Promise<boolean> =>
        there.qemu.running && (await there.state().catch(() => 'ended')) === 'inmigrate';
      await waitFor('the other end', async () => ((await waits()) ? undefined : true), {
        timeoutMs: 2000,
      }).catch(() => {});
      const where = [await runs(here), await runs(there)];
      expect(where, `${victim} killed after ${at} ms`).not.toEqual([true, true]);
      if (victim === 'daemon') expect(where.filter(Boolean), `daemon killed after ${at} ms`).toHaveLength(1);
      if (where[0]) await untouched();
      if (where[1]) await ready('there');
      if (where[1]) count.moved++;
      // from the beginning again
      await there.guest.stop().catch(() => {});
      await there.end();
      if (where[0]) continue;
      await here.guest.stop().catch(() => {});
      await here.end();
      await h.whenVm('here', (v) => v.phase === 'waiting' && !v.still);
      here = await start('here');
      await here.guest.start();
      await ready('here');
    }
    process.stdout.write(`  ${JSON.stringify(count)}\n`);
  });

  const devices = async (of: MovedVm): Promise<string[]> =>
    ((await of.qmp.execute('qom-list', { path: '/machine/peripheral' })) as { name: string }[])
      .map((d) => d.name)
      .filter((name) => /^hyperturtle-arena-/.test(name));
});
