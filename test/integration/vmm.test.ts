/**
 * `hyperturtle vmm` on this machine: a tmpfs has turtlefs' place, and a program that gets memory as VMMs do, or the lab's
 * QEMU, that of the VMM. HT_LAUNCHES sets how many launches are killed (24, in a soak 200).
 */
import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess, SpawnSyncReturns } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { waitFor } from '../../src/core/wait.ts';
import { compiledSources } from '../support/compiled.ts';
import { compiledSupport } from '../support/compiled-support.ts';
import { findQemu } from '../support/real-qemu.ts';
import { soakCount } from '../support/scale.ts';

const LAUNCHES = soakCount(process.env['HT_LAUNCHES'], 24, 200);
const TIMEOUT_MS = 120_000;
const root = process.getuid?.() === 0;
const unlessRoot = root ? '' : ' (skipped: run as root)';

let cli: string;
let client: string;
let hostile: string;
let dir: string;
let ram: string;
const children = new Set<ChildProcess>();

beforeAll(() => {
  if (!root) return;
  cli = path.join(compiledSources(), 'cli/main.js');
  client = compiledSupport('vmm-client-main.ts');
  hostile = compiledSupport('vmm-hostile-main.ts');
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-vmm-'));
  ram = path.join(dir, 'ram');
  spawnSync('sh', ['-ec', `mkdir ${ram}; mount -t tmpfs -o size=2g none ${ram}`]);
});
afterEach(() => {
  for (const child of children)
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
  children.clear();
});
afterAll(() => {
  if (!root) return;
  spawnSync('umount', [ram]);
  rmSync(dir, { recursive: true });
});

function start(
  options: readonly string[],
  program: readonly string[],
  env: NodeJS.ProcessEnv = {},
): ChildProcess {
  const child = spawn(process.execPath, [cli, 'vmm', '--dir', ram, ...options, '--', ...program], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  children.add(child);
  return child;
}

interface Ended {
  status: number | null;
  signal: string | null;
  out: string;
  err: string;
}

/** Within a deadline, after which it is killed and so is the test. */
async function ended(child: ChildProcess): Promise<Ended> {
  const late = setTimeout(() => child.kill('SIGABRT'), TIMEOUT_MS / 2);
  const [[status, signal], out, err] = await Promise.all([
    once(child, 'close') as Promise<[number | null, string | null]>,
    text(child.stdout!),
    text(child.stderr!),
  ]);
  clearTimeout(late);
  if (signal === 'SIGABRT') throw new Error(`it does not end: ${out}${err}`);
  return { status, signal, out, err };
}

const run = (words: readonly string[], options: readonly string[] = []): Promise<Ended> =>
  ended(start(options, [process.execPath, client, ...words]));

/** Our processes that answer for process `pid`, or wait to. */
function supervisors(pid: number): { supervisor: number[]; guardian: number[] } {
  const found = { supervisor: [] as number[], guardian: [] as number[] };
  for (const name of readdirSync('/proc').filter((n) => /^\d+$/.test(n))) {
    let args: string[];
    try {
      args = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0');
    } catch {
      continue;
    }
    if (!args.some((a) => a.includes(`"pid":${pid},`))) continue;
    if (args[0] === '/bin/sh') found.guardian.push(Number(name));
    else found.supervisor.push(Number(name));
  }
  return found;
}

const nothingLeft = (pid: number): Promise<true> =>
  waitFor(
    'nothing left',
    () => {
      const { supervisor, guardian } = supervisors(pid);
      const { blocks, bfree } = statfsSync(ram);
      return supervisor.length + guardian.length === 0 && blocks === bfree && readdirSync(ram).length === 0
        ? true
        : undefined;
    },
    { timeoutMs: 30_000, intervalMs: 50 },
  );

const firstLine = async (child: ChildProcess): Promise<string> => {
  for await (const chunk of child.stdout!) return String(chunk);
  throw new Error('it has said nothing');
};

const FILE = expect.stringMatching(/\/ram\/#\d+ \(deleted\)$/) as string;

describe.skipIf(!root)(`a VMM started by hyperturtle vmm${unlessRoot}`, () => {
  it(
    'has its anonymous memory and memfds there, with what they promise, and all else as it asked for it',
    async () => {
      const { status, out, err } = await run(['shapes']);
      expect([status, err]).toEqual([0, '']);
      expect(JSON.parse(out)).toEqual({
        plain: FILE,
        fixed: [String(8 << 20), FILE],
        shared: FILE,
        memfd: FILE,
        mapped: FILE,
        // freed and zero where it was private; the rest stays
        given: [0, 0, 9],
        freed: [0, 0],
        // shared memory keeps what was written
        kept: [0, 5],
        taken: 17,
        keptAfter: 5,
        seals: [0, 0, 6],
        cloexec: [1, 0],
        others: {
          ...{ small: '', odd: '', code: '', readOnly: '', reserved: '', stack: '' },
          smallMemfd: [expect.stringMatching(/^\/memfd:small/), 2],
        },
        tracer: '0',
        filters: '1',
        noNewPrivs: '0',
        stray: 1,
        child: '',
      });
    },
    TIMEOUT_MS,
  );

  it(
    'has its own arguments, input, limits, descriptors and exit status, and no child that it does not know',
    async () => {
      const [reader, writer] = [path.join(dir, 'file'), path.join(dir, 'other')];
      writeFileSync(reader, '');
      const fd = openSync(reader, 'r');
      const words = ['a b', "c'd", '', '--name', 'ü'];
      const script = `ulimit -Sn 512; exec "$0" "$@" 7<${reader} 9>${writer}`;
      const child = spawn(
        'sh',
        [
          '-c',
          `${script}`,
          process.execPath,
          cli,
          'vmm',
          '--dir',
          ram,
          '--name',
          'web',
          '--',
          process.execPath,
          client,
          'about',
          ...words,
        ],
        { stdio: ['pipe', 'pipe', 'pipe'] },
      );
      children.add(child);
      child.stdin?.end('hello');
      const { status, out, err } = await ended(child);
      closeSync(fd);
      expect([status, err]).toEqual([7, expect.stringMatching(/none of its memory came from here/)]);
      const said = JSON.parse(out) as { pid: number; passed: string[] };
      expect(said).toMatchObject({ words, name: 'web', input: 'hello', children: '' });
      expect(said.pid).toBe(child.pid);
      expect(said.passed).toEqual(expect.arrayContaining([reader, writer]));
      await nothingLeft(said.pid);
    },
    TIMEOUT_MS,
  );

  it(
    'without arguments has none, and has exactly the descriptors that were passed',
    async () => {
      const none = await ended(start([], ['echo']));
      expect([none.status, none.out]).toEqual([0, '\n']);
      const file = path.join(dir, 'file');
      writeFileSync(file, '');
      const list = 'for f in /proc/$$/fd/*; do [ ! -e $f ] || echo ${f##*/}; done';
      const program = ['sh', '-c', list];
      const [passed, alone] = [[process.execPath, cli, 'vmm', '--dir', ram, '--', ...program], program].map(
        (c) =>
          spawnSync('sh', ['-c', `exec "$0" "$@" 7<${file}`, ...c], { encoding: 'utf8', timeout: 30_000 }),
      ) as [SpawnSyncReturns<string>, SpawnSyncReturns<string>];
      expect(alone.stdout).toMatch(/^0\n1\n2\n(?:\d+\n)*7\n/);
      expect([passed.status, passed.stdout]).toEqual([0, alone.stdout]);
      await nothingLeft(passed.pid);
    },
    TIMEOUT_MS,
  );

  it(
    'has its memory there by a directory that is named relative to the working directory',
    async () => {
      const args = [cli, 'vmm', '--dir', 'ram', '--', process.execPath, client, 'race', '2'];
      const child = spawn(process.execPath, args, { cwd: dir, stdio: ['pipe', 'pipe', 'pipe'] });
      children.add(child);
      const { status, out, err } = await ended(child);
      expect([status, err, JSON.parse(out)]).toEqual([0, '', { count: 2, files: 2, wrong: 0 }]);
      await nothingLeft(child.pid!);
    },
    TIMEOUT_MS,
  );

  it(
    'gets memory there when its supervisor and the guardian have had the signals that end a unit',
    async () => {
      const child = start([], [process.execPath, client, 'race', '60']);
      const over = ended(child);
      const both = await waitFor(
        'supervisor and guardian',
        () => {
          const { supervisor, guardian } = supervisors(child.pid!);
          const isVmm = !readFileSync(`/proc/${child.pid}/cmdline`, 'latin1').includes('--dir');
          return isVmm ? [...supervisor, ...guardian] : undefined;
        },
        { timeoutMs: 60_000, intervalMs: 5 },
      );
      for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
        for (const pid of both) process.kill(pid, signal);
      const { status, out, err } = await over;
      expect([status, err]).toEqual([0, '']);
      expect(JSON.parse(out)).toEqual({ count: 60, files: 60, wrong: 0 });
      await nothingLeft(child.pid!);
    },
    TIMEOUT_MS,
  );

  it.each(['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGKILL'] as const)(
    'ends by %s as without it, and nothing is left',
    async (signal) => {
      const child = start([], [process.execPath, client, 'wait', '64']);
      const { pid, file } = JSON.parse(await firstLine(child)) as { pid: number; file: string };
      expect([pid, file]).toEqual([child.pid, FILE]);
      const over = once(child, 'close') as Promise<[null, string | null]>;
      child.kill(signal);
      expect((await over)[1]).toBe(signal);
      await nothingLeft(pid);
    },
    TIMEOUT_MS,
  );

  it(
    'is ended by SIGPIPE, which Node ignores, and has no signal blocked',
    async () => {
      const { signal, out } = await ended(
        start([], ['sh', '-c', 'grep -E "Sig(Blk|Ign)" /proc/self/status; kill -PIPE $$']),
      );
      expect([signal, out]).toEqual(['SIGPIPE', 'SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n']);
    },
    TIMEOUT_MS,
  );

  it(
    'gets memory in four threads at once while signals interrupt it, all of it there and right',
    async () => {
      const child = start([], [process.execPath, client, 'race', '60', '3']);
      const over = ended(child);
      let timer: NodeJS.Timeout | undefined;
      child.stdout?.on('data', (chunk: Buffer) => {
        if (String(chunk).includes('ready')) timer = setInterval(() => child.kill('SIGUSR2'), 1);
        if (!String(chunk).includes('count')) return;
        clearInterval(timer);
        child.stdin?.end();
      });
      const { status, out, err } = await over;
      expect([status, err]).toEqual([0, '']);
      expect(JSON.parse(out.trim().split('\n')[1] ?? '')).toEqual({ count: 240, files: 240, wrong: 0 });
    },
    TIMEOUT_MS,
  );

  it(
    'without root keeps private memory, which could not be freed, has the rest there, and says so',
    async () => {
      const without = ['setpriv', '--bounding-set=-all', '--inh-caps=-all'];
      const program = [process.execPath, client, 'shapes'];
      const child = spawn(
        without[0]!,
        [...without.slice(1), process.execPath, cli, 'vmm', '--dir', ram, '--', ...program],
        { stdio: ['pipe', 'pipe', 'pipe'] },
      );
      children.add(child);
      const { status, out, err } = await ended(child);
      expect([status, err]).toEqual([
        0,
        expect.stringMatching(/^hyperturtle vmm: node: not all .*only root can free[^\n]*\n$/),
      ]);
      expect(JSON.parse(out)).toMatchObject({
        plain: '',
        shared: FILE,
        memfd: FILE,
        given: [0, 0, 9],
        tracer: '0',
        noNewPrivs: '1',
      });
    },
    TIMEOUT_MS,
  );

  it(
    'is not killed by a seccomp filter of its own that allows no other mmap() than the one it makes',
    async () => {
      const { status, out, err } = await run(['sandbox']);
      expect([status, err]).toEqual([0, '']);
      expect(JSON.parse(out)).toEqual({ file: FILE, filters: '2' });
    },
    TIMEOUT_MS,
  );

  it(
    'cannot have another call made without its own filter than the mmap() that it waits in',
    async () => {
      const program = ['sh', '-c', 'cd "$0" && exec "$@"', dir, process.execPath, hostile, 'int80', '300'];
      const { status, out } = await ended(start([], program));
      expect(status).toBe(0);
      const { mapped, refused, linked } = JSON.parse(out) as Record<string, number>;
      process.stdout.write(`  ${out}`);
      expect(linked).toBe(0);
      expect([mapped, refused].every((n) => n! > 5)).toBe(true);
    },
    TIMEOUT_MS,
  );

  it(
    'is refused what the kernel refuses, keeps the memory then, and has memory back as zeros after it was moved',
    async () => {
      const { status, out, err } = await ended(start([], [process.execPath, hostile, 'refused']));
      expect([status, err]).toEqual([0, '']);
      const [EPERM, EINVAL] = [1, 22];
      expect(JSON.parse(out)).toEqual({
        file: true,
        unaligned: [EINVAL, 7],
        locked: [EINVAL, 7],
        given: [0, 0],
        moved: [0, 0, 0],
        low: [true, true],
        types: [EINVAL, EINVAL],
        unsealed: [true, 1],
        sealed: EPERM,
        grown: 'EPERM',
      });
    },
    TIMEOUT_MS,
  );

  it(
    'has a block of malloc that is mapped as whole MiB where it was, and can make it longer',
    async () => {
      const { status, signal, out } = await ended(start([], [process.execPath, hostile, 'malloc']));
      expect([status, signal]).toEqual([0, null]);
      expect(JSON.parse(out)).toEqual({ file: false, last: 1 });
    },
    TIMEOUT_MS,
  );

  it(
    'finds it where its arguments name /dev/shm, and nobody else does',
    async () => {
      const file = `/dev/shm/ht-vmm-${process.pid}`;
      const { status, out } = await run(['write', file]);
      expect([status, JSON.parse(out)]).toEqual([0, { there: [path.basename(file)] }]);
      expect(readdirSync('/dev/shm')).not.toContain(path.basename(file));
      expect(readFileSync(path.join(ram, path.basename(file)), 'utf8')).toBe('guest');
      rmSync(path.join(ram, path.basename(file)));
    },
    TIMEOUT_MS,
  );

  it(
    'goes on with the memory that it has, and gets more there, when its supervisor or the guardian of that is killed again and again',
    async () => {
      const child = start([], [process.execPath, client, 'race', '400']);
      const pid = child.pid!;
      const over = ended(child);
      let kills = 0;
      for (let done = false; !done; ) {
        const wait = new Promise<void>((r) => setTimeout(r, 20 + Math.random() * 400));
        done = await Promise.race([over.then(() => true), wait.then(() => false)]);
        const { supervisor, guardian } = supervisors(pid);
        // one of them at a time: the other one makes it good
        const [victim] = (kills % 4 === 3 ? guardian : supervisor).filter(
          () => supervisor.length > 0 && guardian.length > 0,
        );
        if (victim === undefined || done) continue;
        try {
          process.kill(victim, 'SIGKILL');
          kills++;
        } catch {
          // it had ended
        }
      }
      const { status, out, err } = await over;
      process.stdout.write(`  ${kills} kills: ${out}`);
      expect([status, err]).toEqual([0, '']);
      const { count, files, wrong } = JSON.parse(out) as { count: number; files: number; wrong: number };
      expect(wrong).toBe(0);
      expect(files).toBe(count);
      expect(kills).toBeGreaterThan(2);
      await nothingLeft(pid);
    },
    TIMEOUT_MS,
  );

  it(
    `leaves nothing when it or its supervisor is killed at ${LAUNCHES} random moments of the start`,
    async () => {
      const counts = { vmm: 0, supervisor: 0, survived: 0, notStarted: 0, failed: 0 };
      for (let i = 0; i < LAUNCHES; i++) {
        const child = start([], [process.execPath, client, 'race', '20']);
        const over = ended(child);
        const pid = child.pid!;
        const isOver = over.then(() => true);
        const someone = (): number | true | undefined =>
          child.exitCode === null && child.signalCode === null ? supervisors(pid).supervisor[0] : true;
        // a supervisor that there is, or the launcher itself from its first moment on
        if (i % 2 === 1) await waitFor('a supervisor', someone, { timeoutMs: 60_000, intervalMs: 5 });
        const wait = new Promise<boolean>((r) => setTimeout(() => r(false), Math.random() * 1200));
        if (!(await Promise.race([isOver, wait]))) {
          const victim = i % 2 === 1 ? supervisors(pid).supervisor[0] : pid;
          if (victim !== undefined) {
            counts[victim === pid ? 'vmm' : 'supervisor']++;
            try {
              process.kill(victim, 'SIGKILL');
            } catch {
              // it had ended
            }
          }
        }
        const { status, signal, out, err } = await over;
        // the launcher says that it has no supervisor, and has not become the VMM
        if (status === 25) counts.notStarted++;
        else if (signal === null && status !== 0) counts.failed++;
        if (status !== 0 && signal === null) expect(err).toMatch(/its supervisor has ended/);
        if (status === 0) {
          counts.survived++;
          expect(JSON.parse(out)).toEqual({ count: 20, files: 20, wrong: 0 });
        }
        await nothingLeft(pid);
      }
      process.stdout.write(`  ${JSON.stringify(counts)}\n`);
      expect(counts.survived).toBeGreaterThan(0);
      expect(counts.failed).toBe(0);
    },
    LAUNCHES * 20_000,
  );

  it(
    'says what is missing in one line, and starts nothing',
    async () => {
      const script = path.join(dir, 'script');
      writeFileSync(script, 'exit 0\n', { mode: 0o755 });
      const cases: [string[], number, RegExp][] = [
        [['--dir', ram, '--', 'no-such-vmm'], 3, /no-such-vmm: no such program in PATH/],
        [['--dir', ram, '--', '/etc/passwd'], 3, /\/etc\/passwd: no such program/],
        [['--dir', ram, '--', script], 2, /not a program that the kernel knows/],
        [['--dir', ram, 'echo', 'hello', '--name', 'x'], 2, /'--' is not before 'echo'/],
        [['--', 'true'], 24, /turtlefs is not mounted: start the agent/],
        [['--dir', '/proc', '--', 'true'], 4, /O_TMPFILE/],
        [
          ['--dir', ram, '--', process.execPath, cli, 'vmm', '--dir', ram, '--', 'true'],
          4,
          /has a filter with a listener already/,
        ],
      ];
      for (const [args, status, stderr] of cases) {
        const r = spawnSync(process.execPath, [cli, 'vmm', ...args], { encoding: 'utf8', timeout: 30_000 });
        expect([args, r.status, r.stderr]).toEqual([args, status, expect.stringMatching(stderr)]);
        await nothingLeft(r.pid);
      }
    },
    TIMEOUT_MS,
  );
});

describe.skipIf(!root)(`its supervisor${unlessRoot}`, () => {
  it('is not ready when the directory is not there', async () => {
    const task = { dir: path.join(dir, 'none'), pid: 1 << 30, program: 'x', minBytes: 1, again: false };
    const program = path.join(path.dirname(cli), '../guest/launch/supervisor.js');
    const child = spawn(process.execPath, [program, JSON.stringify(task)], {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
    });
    children.add(child);
    const [[status], said, err] = await Promise.all([
      once(child, 'close') as Promise<[number]>,
      text(child.stdio[3] as Readable),
      text(child.stderr!),
    ]);
    expect([status, said, err]).toEqual([1, '', expect.stringMatching(/ENOENT.*none/)]);
  });
});

const qemu = root ? findQemu() : undefined;
describe.skipIf(!qemu)(
  `a QEMU that knows nothing of it${qemu ? '' : unlessRoot || ' (skipped: no lab has been prepared here)'}`,
  () => {
    const machine = [
      '-accel',
      'tcg',
      '-M',
      'q35',
      '-nodefaults',
      '-display',
      'none',
      '-S',
      '-monitor',
      'stdio',
    ];
    const mappedMib = (child: ChildProcess, mib: number): Promise<string> =>
      waitFor(
        `memory of ${mib} MiB`,
        () => {
          if (child.exitCode !== null) return 'it has ended';
          const all = readFileSync(`/proc/${child.pid}/maps`, 'utf8');
          return all.includes('/qemu-system') ? sizes(all).get(mib) : undefined;
        },
        { timeoutMs: 60_000, intervalMs: 50 },
      );

    it(
      'has memory there that is plugged later, in its own seccomp sandbox, and gives it back when it is unplugged',
      async () => {
        const memory = ['-m', '256,slots=2,maxmem=2G'];
        const sandbox = ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny'];
        const args = [...qemu!.args, ...machine, ...memory, ...sandbox];
        const child = start([], [qemu!.bin, ...args], qemu!.env);
        const over = ended(child);
        expect(await mappedMib(child, 256)).toMatch(/ rw-s .*\/ram\/#/);
        child.stdin?.write('object_add memory-backend-ram,id=m1,size=128M,prealloc=on\n');
        expect(await mappedMib(child, 128)).toMatch(/ rw-s .*\/ram\/#/);
        const used = (): number => ((s) => (s.blocks - s.bfree) * s.bsize)(statfsSync(ram)) / 2 ** 20;
        await waitFor('its pages', () => (used() >= 128 ? true : undefined), { timeoutMs: 30_000 });
        const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
        expect(Number(/^Seccomp_filters:\t(\d+)$/m.exec(status)?.[1])).toBeGreaterThan(1);
        child.stdin?.write('object_del m1\n');
        // the descriptor of the memory that was taken last holds its file until the next is, or the end
        child.stdin?.write('object_add memory-backend-ram,id=m2,size=64M\n');
        expect(await mappedMib(child, 64)).toMatch(/ rw-s .*\/ram\/#/);
        await waitFor('its pages back', () => (used() < 64 ? true : undefined), { timeoutMs: 30_000 });
        child.stdin?.end('quit\n');
        expect([(await over).status, (await over).err]).toEqual([0, '']);
        await nothingLeft(child.pid!);
      },
      TIMEOUT_MS,
    );

    it.each([
      ['-m 256', ['-m', '256']],
      [
        'a shared memfd',
        ['-m', '256', '-object', 'memory-backend-memfd,id=ram,size=256M', '-machine', 'memory-backend=ram'],
      ],
      [
        'a file in /dev/shm',
        [
          '-m',
          '256',
          '-object',
          'memory-backend-file,id=ram,size=256M,share=on,mem-path=/dev/shm',
          '-machine',
          'memory-backend=ram',
        ],
      ],
    ])(
      'has the RAM of %s there, and its compiled code elsewhere',
      async (_, memory) => {
        const child = start([], [qemu!.bin, ...qemu!.args, ...machine, ...memory], qemu!.env);
        const over = ended(child);
        const mapped = await mappedMib(child, 256);
        const maps = readFileSync(`/proc/${child.pid}/maps`, 'utf8');
        expect(mapped).toMatch(/ rw-s .*\/(?:ram|dev\/shm)\//);
        await waitFor(
          'its monitor',
          () => (/TracerPid:\t0/.test(readFileSync(`/proc/${child.pid}/status`, 'utf8')) ? true : undefined),
          { timeoutMs: 10_000 },
        );
        child.stdin?.end('quit\n');
        const { status, err } = await over;
        expect([status, err.replace(/.*none of its memory came from here.*\n/, '')]).toEqual([0, '']);
        expect(maps.split('\n').filter((l) => / rwx/.test(l) && !/ 0 /.test(l))).toEqual([]);
        await nothingLeft(child.pid!);
      },
      TIMEOUT_MS,
    );
  },
);

/** Mappings by their size in MiB. */
function sizes(maps: string): Map<number, string> {
  return new Map(
    maps.split('\n').map((l) => {
      const [from = '0', to = '0'] = (l.split(' ')[0] ?? '').split('-');
      return [(parseInt(to, 16) - parseInt(from, 16)) / 2 ** 20, l] as const;
    }),
  );
}
