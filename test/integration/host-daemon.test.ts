/**
 * The whole daemon on this host: a real process, real sockets, real admission, workers, programs, maps and pins; only
 * the kernel module is a fake, which remembers what would be linked.
 */
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { readdirSync, rmSync, statSync } from 'node:fs';
import { isHyperturtleError } from '../../src/core/errors.ts';
import { programById } from '../../src/bpf/pins.ts';
import { waitFor } from '../../src/core/wait.ts';
import { HT_ARENA_OFFER } from '../../src/kernel/arena.ts';
import { compileBpf, compileBpfFile, findClang, whyNoBpf } from '../support/bpf.ts';
import { counterSource } from '../support/bpf-sources.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import type { FakeVm, L1 } from '../support/daemon-harness.ts';
import { FILLS } from '../support/fake-kernel.ts';

const clang = findClang();
const why = whyNoBpf(clang);

const BOOT_A = '0d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33';
const BOOT_B = '1d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33';
const le = (n: number, bytes: number): string => {
  const b = Buffer.alloc(bytes);
  b.writeUIntLE(n, 0, Math.min(6, bytes));
  return b.toString('base64');
};
const kindOf = (e: unknown): unknown => (isHyperturtleError(e) ? e.detail['kind'] : e);
const refusal = async (p: Promise<unknown>): Promise<unknown> => p.then(() => 'granted', kindOf);
const programExists = (id: number): boolean => {
  try {
    programById(id).close();
    return true;
  } catch {
    return false;
  }
};

/** bpf_probe_read_kernel (113) reads the host's memory. */
const FORBIDDEN = counterSource(1).replace(
  'return 0;',
  '((long (*)(void *, __u32, const void *))113)(&zero, 4, args); return 0;',
);

/** Every step of the loop is another state for the verifier: it walks until it has had a million instructions. */
const ENDLESS = counterSource(1).replace(
  'return 0;',
  `for (int i = 0; i < 100000000; i++) { asm volatile("" : "+r"(i)); if (n) *n += i; }
  return 0;`,
);

describe.skipIf(why !== undefined)(`host daemon${why ? ` (skipped: ${why})` : ''}`, () => {
  let h: DaemonHarness;
  let vmOne: FakeVm;
  let one: L1;
  let two: L1;
  let npf: string;
  let counterV1: string;
  let counterV2: string;
  let forbidden: string;
  let endless: string;
  let counters: string;

  beforeAll(async () => {
    if (!clang) return;
    npf = compileBpfFile(clang, path.resolve('c/bpf/npf/npf.bpf.c')).toString('base64');
    counters = compileBpfFile(clang, path.resolve('examples/counters/counters.bpf.c')).toString('base64');
    counterV1 = compileBpf(clang, counterSource(1)).toString('base64');
    counterV2 = compileBpf(clang, counterSource(2)).toString('base64');
    forbidden = compileBpf(clang, FORBIDDEN).toString('base64');
    endless = compileBpf(clang, ENDLESS).toString('base64');
    h = new DaemonHarness();
    h.writeConfig(
      { one: {}, two: { quotas: { objects: 1 }, owner: 'nobody' } },
      { metrics: { socket: h.at('metrics.sock') } },
    );
    // the daemon first: it makes the arenas that QEMU is then started with
    await h.startDaemon();
    vmOne = await h.startVm('one');
    await h.startVm('two');
    await h.whenVm('one', (v) => v.phase === 'attached' && v.arena.state === 'plugged' && v.agent.connected);
    await h.whenVm('two', (v) => v.phase === 'attached' && v.arena.state === 'plugged' && v.agent.connected);
    one = await h.agent('one', BOOT_A);
    two = await h.agent('two', BOOT_A);
    await one.peer.request('events', {});
  }, 120_000);
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(`log of the daemon:\n${h.log.slice(-3000)}\n`);
  });
  afterAll(async () => {
    await h?.close();
  });

  it('answers hello with the name that the socket stands for', () => {
    expect(one.greeting.vm).toBe('one');
    expect(two.greeting.vm).toBe('two');
    expect(one.greeting.daemon.instance).toBe(two.greeting.daemon.instance);
    expect(two.greeting.limits.objects).toBe(1);
  });

  it('gives an agent of version 1 answers without members that it would refuse: no epoch, no since', async () => {
    const { peer } = two;
    const agent = { version: '0.0.9', kernel: '6.1.0' };
    const greet = (max: number) =>
      peer.request('hello', { protocol: { min: 1, max }, agent, bootId: BOOT_A, nonce: '5f2c9e0b71aa43d8' });
    expect((await greet(1)).protocol).toBe(1);
    expect(await peer.request('events', {})).not.toHaveProperty('epoch');
    const older = await peer.request('stats', {});
    expect(older).not.toHaveProperty('since');
    expect(older.hooks[0]).not.toHaveProperty('fills');
    expect((await greet(2)).protocol).toBe(2);
    const { instance } = one.greeting.daemon;
    expect(await peer.request('events', {})).toMatchObject({ epoch: instance });
    const { countedSince } = await h.vm('two');
    const newer = await peer.request('stats', {});
    expect(newer).toMatchObject({ since: countedSince });
    expect(newer.hooks[0]?.fills).toEqual(FILLS);
  });

  it('loads the npf hyperupcall on its own arena, and twice is the same as once', async () => {
    const first = await one.peer.request('load', { name: 'npf', elf: npf });
    expect(first.existed).toBe(false);
    expect(first.object.programs).toMatchObject([{ hook: 'npf', type: 'raw_tracepoint_writable' }]);
    expect(first.object.maps.find((m) => m.arena)).toMatchObject({ name: 'arena', valueBytes: 1 << 20 });
    const second = await one.peer.request('load', { name: 'npf', elf: npf });
    expect(second).toEqual({ ...first, existed: true });
    expect(await refusal(one.peer.request('load', { name: 'npf', elf: counterV1 }))).toBe('EXISTS');
  });

  it('keeps for the operator what an L1 says of itself, and gives it objects, events and maps to read', async () => {
    const l2 = { pid: 7, name: '<b>web</b>', since: '2026-11-22T10:00:00.000Z', pages: 1, framesTaken: 2 };
    const counts = { faults: 3, mappedNew: 4, mappedExisting: 5, mappedAhead: 6, passes: 7 };
    const report = { pool: null, l2Count: 1, l2s: [{ ...l2, ...counts }] };
    expect(await two.peer.request('report', report)).toEqual({ nextMs: 10_000 });
    expect((await h.vm('two')).l1).toMatchObject(report);
    const detail = await h.admin('admin.vm.detail', { name: 'two' });
    expect([detail.limits.objects, detail.objects]).toEqual([1, []]);
    // somebody looks
    expect(await two.peer.request('report', report)).toEqual({ nextMs: 2000 });
    expect((await h.vm('one')).l1).toBeNull();
    const { events } = await h.admin('admin.events', { name: 'one', limit: 1 });
    expect(events).toMatchObject([{ vm: 'one', event: { type: 'object.loaded', object: 'npf' } }]);
    expect((await h.admin('admin.events', { limit: 100 })).events.map((e) => e.vm)).toContain('two');
    const { objects } = await h.admin('admin.vm.detail', { name: 'one' });
    expect(objects.map((o) => o.name)).toEqual(['npf']);
    // the arena is not for reading here either
    await expect(h.admin('admin.map.dump', { vm: 'one', object: 'npf', map: 'arena' })).rejects.toThrow(
      /arena/,
    );
  });

  it('links the loaded program with the arena of its VM', async () => {
    const { objects } = await one.peer.request('list', {});
    const { link } = await one.peer.request('link', { object: 'npf', hook: 'npf' });
    expect(link).toMatchObject({ object: 'npf', hook: 'npf', target: null });
    const arena = h.arena('one');
    try {
      expect(h.journal.filter((e) => e.op === 'link')).toEqual([
        {
          op: 'link',
          pid: vmOne.pid,
          programId: objects[0]?.programs[0]?.id,
          mapId: arena.info().id,
          replace: false,
        },
      ]);
    } finally {
      arena.close();
    }
    expect((await one.peer.request('link', { object: 'npf', hook: 'npf' })).existed).toBe(true);
    const { hooks } = await one.peer.request('stats', {});
    expect(hooks).toMatchObject([
      { hook: 'npf', linked: true, object: 'npf', handled: 7, reasons: { no_pool: 3 } },
      { hook: 'exit', linked: false },
      { hook: 'sample', linked: false },
      { hook: 'call', linked: false },
    ]);
  });

  it('shows a VM nothing of another: objects, links, maps, names, counters', async () => {
    expect(await two.peer.request('list', {})).toMatchObject({ vm: 'two', objects: [], links: [] });
    expect(await refusal(two.peer.request('unload', { name: 'npf', force: true }))).toBe('NOT_FOUND');
    expect(await refusal(two.peer.request('unlink', { id: 1 }))).toBe('NOT_FOUND');
    expect((await two.peer.request('limits', {})).used).toMatchObject({ objects: 0, maps: 0, mapBytes: 0 });
    expect((await two.peer.request('stats', {})).hooks[0]?.linked).toBe(false);
    const own = await two.peer.request('load', { name: 'npf', elf: counterV1 });
    expect(own.object.sha256).not.toBe((await one.peer.request('list', {})).objects[0]?.sha256);
    await two.peer.request('unload', { name: 'npf' });
  });

  it('refuses with rule and reason, and tells it as an event', async () => {
    const e: unknown = await one.peer
      .request('load', { name: 'bad', elf: forbidden })
      .catch((x: unknown) => x);
    expect(isHyperturtleError(e, 'HT_REFUSED') && e.detail).toMatchObject({
      kind: 'REFUSED',
      rule: 'helper',
    });
    await two.peer.request('load', { name: 'a', elf: counterV1 });
    expect(await refusal(two.peer.request('load', { name: 'b', elf: counterV2 }))).toBe('QUOTA');
    await two.peer.request('unload', { name: 'a' });
    const told = await waitFor('event', () => one.events.find((x) => x.type === 'object.refused'), {
      timeoutMs: 5000,
    });
    expect(told).toMatchObject({ object: 'bad', kind: 'REFUSED', rule: 'helper' });
    expect(one.events.map((x) => x.seq)).toEqual(one.events.map((_, i) => i + (one.events[0]?.seq ?? 0)));
    await h.logged(/"outcome":"REFUSED"/);
  });

  it('reads and writes maps, and watches them', async () => {
    const { peer } = one;
    await peer.request('load', { name: 'count', elf: counterV1 });
    const at = { object: 'count', map: 'counts' };
    const { watch } = await peer.request('map.watch', { ...at, intervalMs: 100 });
    await peer.request('map.set', { ...at, key: le(0, 4), value: le(41, 8) });
    await peer.request('map.set', { ...at, key: le(1, 4), value: le(7, 8), mode: 'create' });
    expect(await peer.request('map.get', { ...at, key: le(0, 4) })).toEqual({ value: le(41, 8) });
    expect(
      await refusal(peer.request('map.set', { ...at, key: le(1, 4), value: le(8, 8), mode: 'create' })),
    ).toBe('EXISTS');
    const dump = await peer.request('map.dump', at);
    expect(dump.entries).toHaveLength(2);
    await waitFor('changes', () => (one.changes.flatMap((c) => c.changes).length >= 2 ? true : undefined), {
      timeoutMs: 5000,
    });
    expect(await peer.request('map.delete', { ...at, key: le(1, 4) })).toEqual({ existed: true });
    await waitFor(
      'deletion',
      () => one.changes.flatMap((c) => c.changes).find((c) => c.key === le(1, 4) && c.value === null),
      { timeoutMs: 5000 },
    );
    await peer.request('map.unwatch', { watch });
    expect(await refusal(peer.request('map.unwatch', { watch }))).toBe('NOT_FOUND');
    expect(await refusal(peer.request('map.get', { object: 'npf', map: 'arena', key: le(0, 4) }))).toBe(
      'INVALID_PARAMS',
    );
  });

  it('replaces a linked object without unlinking, and keeps its maps', async () => {
    const { peer } = one;
    const npfLink = (await peer.request('list', {})).links[0];
    await peer.request('unlink', { id: npfLink?.id ?? -1 });
    const made = await peer.request('link', { object: 'count', hook: 'npf' });
    const before = (await peer.request('list', {})).objects.find((o) => o.name === 'count');
    const { object, kept, created } = await peer.request('replace', { name: 'count', elf: counterV2 });
    expect(kept).toEqual(['counts']);
    expect(created).not.toContain('counts');
    expect(await peer.request('map.get', { object: 'count', map: 'counts', key: le(0, 4) })).toEqual({
      value: le(41, 8),
    });
    const last = h.journal.filter((e) => e.op === 'link' || e.op === 'unlink').at(-1);
    expect(last).toMatchObject({ op: 'link', programId: object.programs[0]?.id, replace: true });
    expect((await peer.request('list', {})).links).toEqual([made.link]);
    const oldId = before?.programs[0]?.id ?? 0;
    await waitFor('old program gone', () => (programExists(oldId) ? undefined : true), { timeoutMs: 5000 });
  });

  it('leaves all as it was when a new version is refused', async () => {
    const before = await one.peer.request('list', {});
    expect(await refusal(one.peer.request('replace', { name: 'count', elf: forbidden }))).toBe('REFUSED');
    expect(await one.peer.request('list', {})).toEqual(before);
  });

  it('unloads what is linked only by force, and then unlinks it', async () => {
    expect(await refusal(one.peer.request('unload', { name: 'count' }))).toBe('IN_USE');
    await one.peer.request('unload', { name: 'count', force: true });
    const list = await one.peer.request('list', {});
    expect(list.links).toEqual([]);
    expect(list.objects.map((o) => o.name)).toEqual(['npf']);
  });

  it('applies differences of its configuration, and none of a wrong one', async () => {
    h.writeConfig(
      { one: { quotas: { objects: 3 } }, two: { quotas: { objects: 1 }, owner: 'nobody' } },
      {
        metrics: { socket: h.at('metrics.sock') },
      },
    );
    const result = await h.admin('admin.reload', {});
    expect(result).toMatchObject({ updated: ['one'], unchanged: ['two'], restarted: [], needRestart: [] });
    expect((await one.peer.request('limits', {})).limits.objects).toBe(3);
    expect((await one.peer.request('list', {})).objects).toHaveLength(1);
    h.writeConfig({ one: { quotas: { objects: 'three' } }, two: {} });
    const e: unknown = await h.admin('admin.reload', {}).catch((x: unknown) => x);
    expect(isHyperturtleError(e) && e.message).toMatch(
      /host\.yaml:\d+:\d+: vms\.one\.quotas\.objects: expected number/,
    );
    expect((await one.peer.request('limits', {})).limits.objects).toBe(3);
    h.writeConfig(
      { one: {}, two: { quotas: { objects: 1 }, owner: 'nobody' } },
      { metrics: { socket: h.at('metrics.sock') } },
    );
    await h.admin('admin.reload', {});
  });

  it('gives an arena to the user that its QEMU runs as, and to nobody else', async () => {
    const ownerOf = (vm: string): number => statSync(h.at('run/vms', vm, 'arena')).uid;
    const nobody = Number(execFileSync('id', ['-u', 'nobody']).toString());
    expect([ownerOf('one'), ownerOf('two')]).toEqual([0, nobody]);
    await h.admin('admin.vm.add', {
      name: 'stranger',
      spec: { ...h.sockets('stranger'), arenaMib: 1, owner: 'not-a-user' },
    });
    const vm = await h.whenVm('stranger', (v) => v.problem !== undefined);
    expect(vm.problem).toMatch(/no user 'not-a-user'.*expected/);
    await h.admin('admin.vm.remove', { name: 'stranger' });
  });

  it('takes the same arena up again after kill -9, with nothing linked', async () => {
    await one.peer.request('link', { object: 'npf', hook: 'npf' });
    const arena = h.arena('one');
    const memory = arena.map();
    try {
      memory.store(4096, 0x1234n);
      const { id } = arena.info();
      const { instance } = one.greeting.daemon;
      await h.endDaemon('SIGKILL');
      one.close();
      two.close();
      await h.startDaemon();
      const again = await h.whenVm('one', (v) => v.phase === 'attached' && v.arena.state === 'plugged');
      expect(again.pid).toBe(vmOne.pid);
      expect(
        h.journal
          .filter((e) => e.op === 'export')
          .slice(-2)
          .map((e) => e.mapId),
      ).toContain(id);
      expect(memory.load(4096)).toBe(0x1234n);
      one = await h.agent('one', BOOT_A);
      two = await h.agent('two', BOOT_A);
      expect(one.greeting.daemon.instance).not.toBe(instance);
      expect(await one.peer.request('list', {})).toMatchObject({ objects: [], links: [] });
      await one.peer.request('load', { name: 'npf', elf: npf });
      await one.peer.request('link', { object: 'npf', hook: 'npf' });
      expect(h.journal.at(-1)).toMatchObject({ op: 'link', mapId: id });
    } finally {
      memory.close();
      arena.close();
    }
  });

  it('undoes all when L1 is reset, and offers a clean arena to its next boot', async () => {
    const arena = h.arena('one');
    const memory = arena.map();
    try {
      memory.store(4096, 0x1234n);
      vmOne.reset();
      await waitFor('unlinked', () => (h.journal.at(-1)?.op === 'unlink' ? true : undefined), {
        timeoutMs: 5000,
      });
      // the offer of before the reset is there until the arena is cleaned
      const isClean = (): boolean => memory.load(0) === HT_ARENA_OFFER && memory.load(4096) === 0n;
      await waitFor('clean arena', () => (isClean() ? true : undefined), { timeoutMs: 5000 });
      one.close();
      one = await h.agent('one', BOOT_B);
      expect(await one.peer.request('list', {})).toMatchObject({ objects: [], links: [] });
    } finally {
      memory.close();
      arena.close();
    }
  });

  it('undoes all when an agent of another boot says hello, though no reset was seen', async () => {
    await one.peer.request('load', { name: 'npf', elf: npf });
    await one.peer.request('link', { object: 'npf', hook: 'npf' });
    one.close();
    one = await h.agent('one', BOOT_A);
    expect(await one.peer.request('list', {})).toMatchObject({ objects: [], links: [] });
    expect(h.journal.at(-1)?.op).toBe('unlink');
  });

  it('keeps what is linked when only the agent restarts', async () => {
    await one.peer.request('load', { name: 'npf', elf: npf });
    await one.peer.request('link', { object: 'npf', hook: 'npf' });
    one.close();
    one = await h.agent('one', BOOT_A);
    expect((await one.peer.request('list', {})).links).toHaveLength(1);
  });

  it('runs a program that is linked to call, for its own VM alone, and not more than 500 times a second', async () => {
    const { peer } = one;
    await peer.request('load', { name: 'counters', elf: counters });
    const at = { object: 'counters', words: ['0x5', '0x6'] };
    expect(await refusal(peer.request('call', at))).toBe('NOT_FOUND');
    const options = { numbers: [0x48540010], from: 'both' as const };
    const { link } = await peer.request('link', { object: 'counters', hook: 'call', options });
    expect(link).toMatchObject({ program: 'count', options });
    // the fake kernel adds words
    const answered = { answered: true, results: ['0xb', '0x48540010', '0x0', '0x0'] };
    expect(await peer.request('call', at)).toEqual(answered);
    expect(await refusal(peer.request('call', { ...at, number: 256 }))).toBe('INVALID_PARAMS');
    expect(await refusal(peer.request('call', { ...at, words: ['5'] }))).toBe('INVALID_PARAMS');
    expect(await refusal(two.peer.request('call', at))).toBe('NOT_FOUND');
    const begin = performance.now();
    await Promise.all(Array.from({ length: 900 }, () => peer.request('call', at, { timeoutMs: 30_000 })));
    expect(performance.now() - begin).toBeGreaterThan(((900 - 500 - 20) / 500) * 1000);
    await peer.request('unload', { name: 'counters', force: true });
    expect(await refusal(peer.request('call', at))).toBe('NOT_FOUND');
  });

  it('detaches when QEMU ends, and serves the next one', async () => {
    const old = vmOne.pid;
    one.close();
    await vmOne.end();
    await h.whenVm('one', (v) => v.phase === 'waiting' && v.arena.state === 'offered');
    expect(
      h.journal
        .filter((e) => e.pid === old)
        .slice(-2)
        .map((e) => e.op),
    ).toEqual(['unlink', 'detach']);
    expect((await h.vm('two')).phase).toBe('attached');
    vmOne = await h.startVm('one');
    await h.whenVm('one', (v) => v.pid === vmOne.pid && v.arena.state === 'plugged');
    one = await h.agent('one', BOOT_B);
    expect((await one.peer.request('list', {})).objects).toEqual([]);
  });

  it('adds and removes VMs by command, and keeps them over a restart', async () => {
    await h.admin('admin.vm.add', {
      name: 'three',
      spec: { ...h.sockets('three'), arenaMib: 1, bus: 'arena0' },
    });
    const vm = await h.startVm('three', { arenaOnCommandLine: false });
    await h.whenVm('three', (v) => v.phase === 'attached' && v.arena.state === 'plugged');
    expect(await h.admin('admin.vm.add', { name: 'four', spec: h.sockets('two') }).catch(kindOf)).toBe(
      'IN_USE',
    );
    await h.endDaemon('SIGKILL');
    await h.startDaemon();
    expect(await h.whenVm('three', (v) => v.arena.state === 'plugged')).toMatchObject({
      from: 'runtime',
      pid: vm.pid,
    });
    await h.admin('admin.vm.remove', { name: 'three' });
    expect(readdirSync(path.join(h.bpffs, 'hyperturtle')).sort()).toEqual(['one', 'two']);
    expect(await h.admin('admin.args', { name: 'one' })).toMatchObject({
      qemu: expect.arrayContaining([
        `memory-backend-file,id=hyperturtle-memory,mem-path=${h.at('run/vms/one/arena')},size=1M,share=on`,
      ]) as unknown,
    });
  });

  it('neither keeps nor leaks anything over many loads, links, refusals and agents', async () => {
    const fds = (): number => readdirSync(`/proc/${h.daemonPid}/fd`).length;
    // a command of L1 as good as any: connects, does all of it once, and goes
    const round = async (): Promise<void> => {
      one.close();
      one = await h.agent('one', BOOT_B);
      await one.peer.request('events', {});
      await one.peer.request('load', { name: 'count', elf: counterV1 });
      await one.peer.request('link', { object: 'count', hook: 'npf' });
      await one.peer.request('map.watch', { object: 'count', map: 'counts', intervalMs: 100 });
      await one.peer.request('replace', { name: 'count', elf: counterV2 });
      await refusal(one.peer.request('replace', { name: 'count', elf: forbidden }));
      await one.peer.request('unload', { name: 'count', force: true });
    };
    await round();
    const before = fds();
    for (let i = 0; i < 10; i++) await round();
    // a worker may be just starting or ending
    await waitFor('as many descriptors as before', () => (fds() <= before ? true : undefined), {
      timeoutMs: 10_000,
    });
    const nothing = { objects: 0, programs: 0, links: 0, maps: 0, mapBytes: 0, watches: 0, nics: 0 };
    await h.whenVm('one', (v) => isDeepStrictEqual(v.used, nothing));
  });

  it('is answered at once in one VM while another one has the verifier work', async () => {
    two.close();
    two = await h.agent('two', BOOT_A);
    const slow = two.peer
      .request('load', { name: 'slow', elf: endless }, { timeoutMs: 60_000 })
      .catch(kindOf);
    const t0 = performance.now();
    await one.peer.request('load', { name: 'npf', elf: npf });
    for (let i = 0; i < 20; i++) await one.peer.request('ping', {});
    const tookMs = performance.now() - t0;
    expect(await slow).toBe('VERIFIER');
    expect(tookMs).toBeLessThan(performance.now() - t0);
    await one.peer.request('unload', { name: 'npf' });
  });

  it('does not take a map that QEMU does not have for its arena', async () => {
    await h.endDaemon('SIGKILL');
    rmSync(path.join(h.bpffs, 'hyperturtle/one/arena'));
    await h.startDaemon();
    const vm = await h.whenVm('one', (v) => v.phase === 'attached' && v.problem !== null);
    expect(vm.problem).toMatch(/is not the one that is offered now: start the VM again/);
    expect(vm.arena.state).toBe('offered');
    await h.whenVm('two', (v) => v.arena.state === 'plugged');
    one.close();
    await vmOne.end();
    vmOne = await h.startVm('one');
    await h.whenVm('one', (v) => v.pid === vmOne.pid && v.arena.state === 'plugged' && v.problem === null);
    one = await h.agent('one', BOOT_B);
  });

  it('tells measurements and health on its socket', async () => {
    const { request } = await import('node:http');
    const get = (url: string): Promise<{ status: number | undefined; text: string }> =>
      new Promise((resolve, reject) => {
        const headers = { accept: 'application/openmetrics-text' };
        request({ socketPath: h.at('metrics.sock'), path: url, headers }, (response) => {
          let text = '';
          response.setEncoding('utf8').on('data', (c: string) => (text += c));
          response.on('end', () => resolve({ status: response.statusCode, text }));
        })
          .on('error', reject)
          .end();
      });
    const { text } = await get('/metrics');
    expect(text).toMatch(/^hyperturtle_host_vm_attached\{vm="one"\} 1$/m);
    expect(text).toMatch(/^hyperturtle_host_fills\{vm="one"\} 42$/m);
    expect(text).toMatch(/^hyperturtle_host_fills_left_out\{vm="one",reason="budget"\} 1$/m);
    expect(text).toMatch(/^hyperturtle_host_fill_longest_seconds\{vm="one"\} 0\.000012$/m);
    expect(text).toMatch(/^hyperturtle_host_fill_budget_seconds\{vm="one"\} 0\.00003$/m);
    expect(text.trimEnd().endsWith('# EOF')).toBe(true);
    expect(await get('/health')).toMatchObject({ status: 200, text: '{"healthy":true,"problems":[]}\n' });
  });

  it('lets nobody but root at its socket, and starts only once', async () => {
    expect(statSync(h.at('run/host.sock')).mode & 0o777).toBe(0o600);
    expect(await h.startSecond()).toMatch(/^HT_BUSY .*another daemon/);
    // nor with a socket of its own: it would end what VMs have that its configuration lacks
    h.writeConfig({}, { admin: { socket: h.at('other.sock') } });
    expect(await h.startSecond()).toMatch(/^HT_BUSY .*daemon\.lock.*another daemon/);
    expect((await h.vm('one')).phase).toBe('attached');
  });

  it('ends on SIGTERM with nothing attached, and leaves the arenas of running VMs', async () => {
    one = await h.agent('one', BOOT_B);
    await one.peer.request('events', {});
    await one.peer.request('load', { name: 'npf', elf: npf });
    await one.peer.request('link', { object: 'npf', hook: 'npf' });
    expect(await h.endDaemon('SIGTERM')).toBe(0);
    expect(one.events.map((e) => e.type)).toContain('daemon.stopping');
    const own = h.journal.filter((e) => e.pid === vmOne.pid).map((e) => e.op);
    expect(own.slice(own.lastIndexOf('attach'))).toEqual(['attach', 'link', 'unlink', 'detach']);
    h.arena('one').close();
  });
});
