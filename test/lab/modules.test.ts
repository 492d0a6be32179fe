/**
 * Both kernel modules in real kernels: loaded, raced against running L2s, unloaded and loaded again. The kernel logs
 * of L0 and L1 must stay clean throughout (test/support/lab.ts looks at them at the end).
 */
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { ARENA_MIB } from '../../src/cli/bench/command.ts';
import { Acceleration, guestStatus } from '../../src/testbed/acceleration.ts';
import type { GuestStatus } from '../../src/testbed/acceleration.ts';
import { waitFor } from '../../src/core/wait.ts';
import { framesOut } from '../../src/kernel/guest.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { HeldL2 } from '../support/held-l2.ts';
import { useLab } from '../support/lab.ts';
import { FILE_IO } from '../support/file-io.ts';
import { MIGRATE } from '../support/migrate.ts';
import { SOAKS, soak } from '../support/scale.ts';

// one L1 CPU: fast; what races here is L0's own threads. test/lab/races.test.ts races L1 against its programs
const lab = useLab();

const STATS = 'hyperturtle host stats --qmp /run/l1/qmp.sock --json';
const RAM = '/run/hyperturtle/ram';
/** How often a program is linked, replaced or unlinked under a running L2. */
const LINKS = soak(60, 200);

const info = (): Promise<GuestStatus> => guestStatus(lab().l1);

/** Frames that are neither in the pool nor free: those of files. */
const framesInFiles = async (): Promise<number> => framesOut(await info());

let acceleration: Acceleration | undefined;
let nested: HeldL2 | undefined;

/** Modules loaded, a program linked: of the test before, where that has left it so. */
const accelerated = async (): Promise<Acceleration> =>
  (acceleration ??= await Acceleration.on(lab(), { arenaMib: ARENA_MIB }));

/** The same with an L2 that runs. */
async function withNested(): Promise<{ a: Acceleration; l2: HeldL2 }> {
  const a = await accelerated();
  nested ??= await HeldL2.start(lab(), {
    ...{ name: 'm', ram: 'turtlefs', memMib: 128, append: '', machine: 'pc', port: 0 },
  });
  return { a, l2: nested };
}

async function endNested(): Promise<void> {
  const l2 = nested;
  nested = undefined;
  await l2?.end();
}

async function off(): Promise<void> {
  try {
    await endNested();
  } finally {
    const a = acceleration;
    acceleration = undefined;
    await a?.off();
  }
}

// what a failed test leaves is nothing to go on from
afterEach(async ({ task }) => {
  if (task.result?.state === 'fail') await off();
});
afterAll(off);

/** The pattern program's last line in an L2. */
const pattern = async (l2: HeldL2, args: string): Promise<Record<string, number>> => {
  const lines = await l2.shell.runOk(`pattern ${args}`, { timeoutMs: 300_000 });
  return JSON.parse(lines.at(-1)!) as Record<string, number>;
};

describe('a module that was built for another kernel', () => {
  it.each(['hyperturtle_host', 'hyperturtle_guest'])('is refused, with its reason: %s', async (name) => {
    await off();
    const level = name === 'hyperturtle_host' ? lab().l0 : lab().l1;
    const release = (await run(level, ['uname', '-r'])).trim();
    const other = release.replace(/^./, '0');
    const module = await level.exec(['cat', `/payload/modules/${name}.ko`], { timeoutMs: 60_000 });
    const text = module.stdout.toString('latin1');
    expect(text).toContain(release);
    await level.writeFile('/run/other.ko', Buffer.from(text.replaceAll(release, other), 'latin1'));
    const r = await level.exec(['insmod', '/run/other.ko'], { timeoutMs: 60_000 });
    expect(r.status).not.toBe(0);
    // without CONFIG_MODVERSIONS the kernel itself compares the release
    if (text.includes(' modversions'))
      expect(await runScript(level, 'dmesg')).toContain(
        `hyperturtle: built for Linux ${other}, and this is ${release}: build it for this kernel`,
      );
    expect(await runScript(level, 'cat /proc/modules')).not.toMatch(/hyperturtle_(host|guest)/);
    await runScript(level, 'rm /run/other.ko');
  });
});

describe('turtlefs in L1', () => {
  it('creates, sizes, maps, punches and unlinks files as a VMM does, and every frame comes back', async () => {
    await accelerated();
    const before = await framesInFiles();
    await lab().l1.writeFile('/run/files.mjs', FILES);
    const out = JSON.parse(
      await run(lab().l1, ['node', '/run/files.mjs', RAM], { timeoutMs: 120_000 }),
    ) as unknown;
    expect(out).toEqual({
      empty: [8 << 20, 0],
      touched: [8 << 20, 2048],
      punched: [8 << 20, 1024],
      zeroAfterPunch: true,
      keptBesidePunch: true,
      shorter: [1 << 20, 256],
      longer: [8 << 20, 256],
      zeroAfterShrink: true,
      partPunched: [0, 7],
      tailAfterShrink: [0, 3],
      privateAfterShrink: 0,
      indexUsed: 2048,
      indexAfter: 0,
      fullDirectory: 'ENOTEMPTY',
      left: [],
    });
    expect(await framesInFiles()).toBe(before);
  });

  it('answers read, write, sendfile, splice, copy_file_range, SEEK_DATA, fallocate, O_TMPFILE, cp and dd as tmpfs does, beside faults and holes', async () => {
    await accelerated();
    const before = await framesInFiles();
    await lab().l1.writeFile('/run/file-io.mjs', FILE_IO);
    const out = JSON.parse(
      await run(lab().l1, ['node', '/run/file-io.mjs', RAM, '/run'], { timeoutMs: 300_000 }),
    ) as {
      turtlefs: unknown;
      tmpfs: unknown;
      reads: number;
      held: number;
      mismatches: number;
      found: { byWrites: number; byFaults: number };
      growth: { steps: number; moves: number };
      zeroRange: number[];
      badAddress: number[];
    };
    expect(out.turtlefs).toEqual(out.tmpfs);
    // which tmpfs has not: frames of whole pages go, and the end moves or stays
    expect(out.zeroRange).toEqual([0, 6, 32768, 0, 32768, 0, 1 << 20]);
    // nothing was written, so the file is no longer than before (tmpfs of 7.3 has another end)
    expect(out.badAddress).toEqual([-1, 1 << 20]);
    expect(out).toMatchObject({ mismatches: 0 });
    // raced reads saw both kinds of pages: with a frame and without
    expect(out.held).toBeGreaterThan(out.reads / 20);
    expect(out.held).toBeLessThan(out.reads - out.reads / 20);
    // writing is no fault; and where the index is full the words of a growing file do not move each 2 MiB
    expect(out.found).toEqual({ byWrites: 0, byFaults: 8 });
    expect(out.growth.moves).toBeGreaterThan(4);
    expect(out.growth.moves).toBeLessThan(out.growth.steps / 2);
    expect(await framesInFiles()).toBe(before);
  });

  it('gives the pool back when L1 reclaims memory', async () => {
    await accelerated();
    await waitFor('a full pool', async () => ((await info()).pool_level > 1000 ? true : undefined), {
      timeoutMs: 60_000,
      intervalMs: 500,
    });
    // reclaim asks every shrinker in turn; this makes it do so, without the luck of filling memory just enough
    await runScript(lab().l1, 'echo 2 > /proc/sys/vm/drop_caches', { timeoutMs: 60_000 });
    const after = await info();
    expect(after.shrunk).toBeGreaterThan(0);
    expect(after.frames_allocated - after.frames_freed).toBe(after.pool_level);
  });
});

describe('both modules', () => {
  it(`link, replace and unlink a program ${LINKS} times under a running L2, which loses no page`, async () => {
    const { a, l2 } = await withNested();
    const checking = pattern(l2, `own 48 --seconds ${soak(8, 15)}`);
    for (let i = 1; i <= LINKS; i++)
      if (i % 4 === 1) await a.setLinked(false);
      else await a.replace(); // of none, of itself, and once more
    expect(await checking).toMatchObject({ mismatches: 0, zeroed: 0 });
    const stats = JSON.parse(await runScript(lab().l0, STATS)) as { linked: number; handled: number };
    expect(stats.linked).toBeTruthy();
    expect(stats.handled).toBeGreaterThan(0);
  });

  it('cannot be unloaded while a VM is attached; a killed daemon leaves nothing attached and the L2 runs on', async () => {
    const { a, l2 } = await withNested();
    expect((await lab().l0.exec(['rmmod', 'hyperturtle_host'])).status).not.toBe(0);
    await a.signalAttachment('KILL');
    await waitFor(
      'the end of the attachment',
      async () => ((await lab().l0.exec(['sh', '-c', STATS])).status !== 0 ? true : undefined),
      { timeoutMs: 20_000, intervalMs: 500 },
    );
    expect(await runScript(lab().l0, 'ls /dev | grep hyperturtle-arena || true')).toBe('');
    // only the arena's memory is still there, held by the VM that has it plugged: and that holds the module
    expect(await pattern(l2, 'own 16 --rounds 3')).toMatchObject({ mismatches: 0, zeroed: 0 });
    await endNested();
    // the next start is clean, and takes the place of the arena that the dead one left plugged
    await a.attach({ arenaMib: ARENA_MIB });
    const next = await withNested();
    expect(await pattern(next.l2, 'own 32 --rounds 2')).toMatchObject({ mismatches: 0, zeroed: 0 });
    expect((JSON.parse(await runScript(lab().l0, STATS)) as { handled: number }).handled).toBeGreaterThan(0);
  });

  it('take back all RAM of an L2 that is killed, and the one of L1 cannot be unloaded while it is used', async () => {
    await withNested();
    expect(await framesInFiles()).toBeGreaterThan(1000);
    expect((await lab().l1.exec(['rmmod', 'hyperturtle_guest'])).status).not.toBe(0);
    await runScript(lab().l1, "kill -9 $(ps -o pid,args | awk '/qemu-system.*l2.m.qm[p]/ { print $1 }')");
    await endNested();
    await waitFor('all frames back', async () => ((await framesInFiles()) === 0 ? true : undefined), {
      timeoutMs: 20_000,
      intervalMs: 500,
    });
    expect(await info()).toMatchObject({ index_used: 0, l2_count: 0 });
  });

  // large.test.ts has it in every run, with pages of both sizes
  if (SOAKS)
    it('follow slot changes: an L2 whose RAM is logged for migration arrives whole in another VM', async () => {
      const { l2 } = await withNested();
      const running = pattern(l2, 'own 24 --seconds 600');
      running.catch(() => {}); // it ends with its VM
      await lab().l1.writeFile('/run/migrate.mjs', MIGRATE);
      const out = await run(lab().l1, ['node', '/run/migrate.mjs'], { timeoutMs: 400_000 });
      expect(out).toMatch(/same RAM, \d+ rounds of copying/);
      await endNested();
    });

  it('lose their arena under a running L2, which runs on without acceleration; then nothing of them is left', async () => {
    const { a, l2 } = await withNested();
    const checking = pattern(l2, 'own 48 --rounds 6');
    await a.signalAttachment('TERM');
    await waitFor('the unplug', async () => ((await info()).arena_bound === 0 ? true : undefined), {
      timeoutMs: 60_000,
      intervalMs: 500,
    });
    expect(await checking).toMatchObject({ mismatches: 0, zeroed: 0 });
    await endNested();
    expect(await framesInFiles()).toBe(0);
    await off();
    for (const level of [lab().l0, lab().l1])
      expect(await runScript(level, 'lsmod')).not.toMatch(/hyperturtle_(host|guest)/);
  });
});

/** In L1: what VMMs do with RAM files. Sizes and numbers of frames (st_blocks / 8). */
const FILES = `
import fs from 'node:fs';
import { createRequire } from 'node:module';
import { OwnedFd } from '/payload/app/dist/src/bpf/fds.js';
import { SharedMemory } from '/payload/app/dist/src/bpf/sys.js';
const koffi = createRequire('/payload/app/dist/src/')('koffi');
const libc = koffi.load('libc.so.6');
const fallocate = libc.func('int fallocate(int fd, int mode, int64_t off, int64_t len)');
process.chdir(process.argv[2]);
const M = 1 << 20, free = () => fs.statfsSync('.').bfree;
const free0 = free(), out = {};
const fd = fs.openSync('f', 'w+'), size = () => { const s = fs.fstatSync(fd); return [s.size, s.blocks / 8]; };
const own = new OwnedFd(fd, 'f');
fs.ftruncateSync(fd, 8 * M); out.empty = size();
const m = new SharedMemory(own, 8 * M);
for (let at = 0; at < 8 * M; at += 4096) m.store(at, BigInt(at + 7));
out.touched = size();
if (fallocate(fd, 3, 2 * M, 4 * M)) throw new Error('fallocate ' + koffi.errno());
out.punched = size();
out.keptBesidePunch = m.load(2 * M - 4096) === BigInt(2 * M - 4096 + 7) && m.load(6 * M) === BigInt(6 * M + 7);
out.zeroAfterPunch = m.load(2 * M) === 0n && m.load(6 * M - 4096) === 0n;
fs.ftruncateSync(fd, M); out.shorter = size();
fs.ftruncateSync(fd, 8 * M); out.longer = size();
out.zeroAfterShrink = m.load(M) === 0n && m.load(7 * M) === 0n && m.load(M - 4096) === BigInt(M - 4096 + 7);
m.store(8, 5n); m.store(16, 7n);
if (fallocate(fd, 3, 8, 8)) throw new Error('fallocate ' + koffi.errno());
out.partPunched = [Number(m.load(8)), Number(m.load(16))];
m.store(M - 8, 9n); m.store(M - 24, 3n);
const mmap = libc.func('void *mmap(intptr_t at, size_t n, int prot, int flags, int fd, int64_t off)');
const munmap = libc.func('int munmap(void *at, size_t n)');
const memset = libc.func('void *memset(void *p, int c, size_t n)');
const copy = mmap(0, 4096, 3, 2, fd, 4 * M);
memset(copy, 65, 4096);
fs.ftruncateSync(fd, M - 16); fs.ftruncateSync(fd, 8 * M);
out.tailAfterShrink = [Number(m.load(M - 8)), Number(m.load(M - 24))];
out.privateAfterShrink = koffi.decode(copy, 'uint8');
munmap(copy, 4096);
out.indexUsed = free0 - free();
m.close(); own.close(); fs.unlinkSync('f');
out.indexAfter = free0 - free();
fs.mkdirSync('d'); fs.closeSync(fs.openSync('d/g', 'w'));
try { fs.rmdirSync('d'); } catch (e) { out.fullDirectory = e.code; }
fs.unlinkSync('d/g'); fs.rmdirSync('d');
out.left = fs.readdirSync('.');
console.log(JSON.stringify(out));
`;
