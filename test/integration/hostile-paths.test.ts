/** Paths that are not what an option wants, given to the commands as they ship: one line each, and nothing is lost. */
// cspell:ignore preciousprecious
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { waitFor } from '../../src/core/wait.ts';
import { whyNoLibbpf } from '../support/bpf.ts';
import { compiledSources } from '../support/compiled.ts';

let main: string;
let dir: string;
const at = (name: string): string => path.join(dir, name);
const isRoot = process.getuid?.() === 0;

beforeAll(() => {
  main = path.join(compiledSources(), 'cli/main.js');
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-paths-'));
  mkdirSync(at('dir'));
  writeFileSync(at('file'), 'precious');
  execFileSync('mkfifo', [at('fifo')]);
  symlinkSync('/not/there', at('dangling'));
  // a node of its own: what is under test might remove it
  if (isRoot) execFileSync('mknod', [at('zero'), 'c', '1', '5']);
  mkdirSync(at('locked'));
  writeFileSync(at('locked/agent.lock'), 'precious');
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Most memory that a command may take, in KiB: `check` of an endless device took 2.5 GB. */
const MEMORY_KIB = 400_000;

async function run(args: readonly string[]): Promise<{ status: number | null; err: string; out: string }> {
  const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const late = setTimeout(() => child.kill('SIGKILL'), 10_000);
  let most = 0;
  const watch = setInterval(() => {
    try {
      const used = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1];
      most = Math.max(most, Number(used ?? 0));
    } catch {
      // it has ended
    }
  }, 50);
  const closed = once(child, 'close') as Promise<[number | null]>;
  const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), closed]);
  clearTimeout(late);
  clearInterval(watch);
  expect(most, `memory of ${args.join(' ')}`).toBeLessThan(MEMORY_KIB);
  return { status, out, err };
}

const agent = (socket: string, state = 'state', port = 'none'): string[] => [
  ...['guest', 'agent', '--no-module', '--socket', at(socket), '--state', at(state), '--port', at(port)],
];

const KINDS = {
  dir: 'a directory',
  file: 'a regular file',
  fifo: 'a named pipe',
  dangling: 'a symbolic link',
  ...(isRoot ? { zero: 'a character device' } : {}),
};
const kinds = Object.entries(KINDS);
const noFile = kinds.filter(([name]) => name !== 'file');
const said = (name: string, kind: string): string =>
  name === 'dangling' ? 'no such file behind the symbolic link' : `is ${kind}`;

describe('one line, and what stands there still does, for', () => {
  const long = 'x'.repeat(110);
  it.each<[what: string, args: () => string[], status: number, message: string]>([
    ...kinds.map(([name, kind]): [string, () => string[], number, string] => [
      `guest agent --socket ${kind}`,
      () => agent(name),
      13,
      `${name}: a socket is to be made there, ${kind} found`,
    ]),
    [
      'a lock that is a file',
      () => agent('s', 'locked'),
      13,
      'agent.lock: a socket is to be made there, a regular',
    ],
    [
      'a state path too long for its lock',
      () => agent('s', long),
      2,
      'at most 107 bytes for a socket expected',
    ],
    ['a socket path too long', () => agent(long), 2, 'at most 107 bytes for a socket expected'],
    [
      'a port that is a directory',
      () => agent('s', 'state', 'dir'),
      13,
      'a unix socket expected, a directory found',
    ],
    ['a state path that is a pipe', () => agent('s', 'fifo'), 13, 'a part of the path is not a directory'],
    ...noFile.flatMap(([name, kind]): [string, () => string[], number, string][] => [
      [
        `guest agent --config ${kind}`,
        () => [...agent('s'), '--config', at(name)],
        name === 'dangling' ? 3 : 26,
        said(name, kind),
      ],
      [
        `host daemon --config ${kind} --check`,
        () => ['host', 'daemon', '--config', at(name), '--check'],
        name === 'dangling' ? 3 : 26,
        said(name, kind),
      ],
      [`check ${kind}`, () => ['check', at(name)], name === 'dangling' ? 3 : 2, said(name, kind)],
      [
        `sign --key ${kind}`,
        () => ['sign', at('file'), '--key', at(name)],
        name === 'dangling' ? 3 : 26,
        said(name, kind),
      ],
    ]),
    [
      'a result into a directory',
      () => ['bench', 'npf', '--json', at('dir')],
      13,
      'dir: cannot be written: it is a dir',
    ],
    [
      'a report into no directory',
      () => ['bench', 'npf', '--report', at('none/r')],
      13,
      'none/r: cannot be written',
    ],
    [
      'packages below /proc',
      () => ['host', 'packages', '/proc/none/x'],
      13,
      '/proc/none/x: the directory cannot be made',
    ],
    [
      'images below /proc',
      () => ['lab', 'images', 'bash', '--output', '/proc/none/x'],
      13,
      'directory cannot be made',
    ],
    [
      'a result that is a directory',
      () => ['bench', 'start', '--from', at('dir')],
      2,
      'dir is a directory: --from: give',
    ],
    [
      'status --socket of a file',
      () => ['status', '--socket', at('file')],
      24,
      '(a socket expected, a regular file',
    ],
    [
      'host status --socket of a file',
      () => ['host', 'status', '--socket', at('file')],
      24,
      '(a socket expected',
    ],
    ['status --socket too long', () => ['status', '--socket', at(long)], 2, 'at most 107 bytes for a socket'],
    ['host status --socket too long', () => ['host', 'status', '--socket', at(long)], 2, 'at most 107 bytes'],
  ])('%s', async (_, args, status, message) => {
    const r = await run(args());
    expect(r.err).toContain(message);
    expect([r.status, r.out, r.err.trim().split('\n').length]).toEqual([status, '', 1]);
    expect(readFileSync(at('file'), 'utf8') + readFileSync(at('locked/agent.lock'), 'utf8')).toBe(
      'preciousprecious',
    );
    for (const name of Object.keys(KINDS).filter((k) => k !== 'dangling'))
      expect(existsSync(at(name)), name).toBe(true);
    expect(existsSync(at('s')), 'a socket was left').toBe(false);
  });
});

it('an object may come through a pipe that the shell made', async () => {
  const child = spawn(
    'bash',
    [
      '-c',
      '"$0" "$1" check <(cat "$2")',
      process.execPath,
      main,
      path.resolve(import.meta.dirname, '../support/cases/ringbuf.o'),
    ],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)]);
  expect(out + err).toMatch(/\/dev\/fd\/\d+: admitted/);
});

it('a second agent at a port that is a unix socket is refused, and the first one goes on', async () => {
  const server = net.createServer((s) => s.resume().on('error', () => {})).listen(at('port'));
  await once(server, 'listening');
  const first = spawn(process.execPath, [main, ...agent('one', 'state1', 'port')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    for await (const chunk of first.stdout) if (String(chunk).includes('agent started')) break;
    const second = await run(agent('two', 'state2', 'port'));
    expect(second.err).toContain(`port: process ${first.pid} has it open, and only one agent may`);
    expect([second.status, existsSync(at('two'))]).toEqual([6, false]);
    expect(statSync(at('one')).isSocket()).toBe(true);
  } finally {
    first.kill('SIGTERM');
    await once(first, 'close');
    server.close();
  }
  expect(existsSync(at('one'))).toBe(false);
});

describe('a service whose log is on a full device', () => {
  const services: [name: string, args: () => string[], lacks?: string | undefined][] = [
    ['agent', () => agent('one', 'state1')],
    ['daemon', () => ['host', 'daemon', '--config', at('host.yaml')], whyNoLibbpf()],
  ];
  it.for(services)(
    '%s serves on, says so in one line, and ends when it is told to',
    async (service, test) => {
      const [, args, lacks] = service;
      test.skip(lacks !== undefined, lacks);
      writeFileSync(at('host.yaml'), `run: ${at('run')}\nstate: ${at('host-state')}\nbpffs: ${at('bpf')}\n`);
      const full = openSync('/dev/full', 'w');
      const child = spawn(process.execPath, [main, ...args()], { stdio: ['ignore', full, 'pipe'] });
      closeSync(full);
      try {
        const err = text(child.stderr!);
        const socket = args().includes('agent') ? at('one') : at('run/host.sock');
        await waitFor('the socket', () => existsSync(socket) || child.exitCode !== null || undefined, {
          timeoutMs: 15_000,
          intervalMs: 50,
        });
        await new Promise((resolve) => setTimeout(resolve, 500));
        child.kill('SIGTERM');
        const late = setTimeout(() => child.kill('SIGKILL'), 10_000);
        const [status, signal] = (await once(child, 'close')) as [number | null, string | null];
        clearTimeout(late);
        expect(await err).toMatch(
          /^hyperturtle: standard output: the log cannot be written: no space is left[^\n]*\n$/,
        );
        expect([status, signal]).toEqual([0, null]);
      } finally {
        child.kill('SIGKILL');
      }
    },
  );
});
