/** The agent and the command line as real processes, over a unix socket in the virtio port's place, against a host in this process. */
// cspell:ignore lsit objekts
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { exec } from '../../src/core/exec.ts';
import type { ExecResult } from '../../src/core/exec.ts';
import { waitFor, withDeadline } from '../../src/core/wait.ts';
import type { AgentResult } from '../../src/guest/agent/schema.ts';
import { FakeHost } from '../support/fake-host.ts';
import { compiledSources } from '../support/compiled.ts';
import { processesNaming } from '../support/lab.ts';

let main: string;
let dir: string;
let host: FakeHost;
let agents: ChildProcess[];
let said: string;

beforeAll(() => {
  main = path.join(compiledSources(), 'cli/main.js');
}, 120_000);

beforeEach(async () => {
  dir = mkdtempSync(path.join(tmpdir(), 'ht-l1-'));
  host = await new FakeHost(path.join(dir, 'port')).start();
  agents = [];
  said = '';
});

afterEach(async () => {
  const alive = agents.filter((a) => a.exitCode === null && a.signalCode === null);
  const ends = alive.map((a) => once(a, 'exit'));
  for (const a of alive) a.kill('SIGKILL');
  await Promise.all(ends);
  await host.kill();
  expect(processesNaming(dir), 'processes left').toEqual([]);
  rmSync(dir, { recursive: true, force: true });
});

afterAll(() => {
  expect(processesNaming('ht-l1-')).toEqual([]);
});

const file = (name: string): string => path.join(dir, name);

function startAgent(...options: string[]): ChildProcess {
  const args = [main, 'guest', 'agent', '--port', host.socket, '--socket', file('agent.sock')];
  const child = spawn(process.execPath, [...args, '--state', file('state'), '--no-module', ...options], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.stdout.on('data', (part: Buffer) => (said += part.toString()));
  child.stderr.on('data', (part: Buffer) => (said += part.toString()));
  agents.push(child);
  return child;
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  const gone = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined;
  child.kill(signal);
  await withDeadline('end of the agent', Promise.resolve(gone), 10_000);
  return child.exitCode;
}

/** A command; any exit status is an answer. */
function run(...args: string[]): Promise<ExecResult> {
  return exec(process.execPath, [main, ...args, '--socket', file('agent.sock')], {
    timeoutMs: 40_000,
    okStatus: Array.from({ length: 256 }, (_, i) => i),
  });
}

async function ok(...args: string[]): Promise<string> {
  const r = await run(...args);
  expect(`${r.status} ${r.stderr.toString()}`, args.join(' ')).toBe('0 ');
  return r.stdout.toString();
}

const inHost = (): string =>
  [...host.objects.keys(), ...host.links.map((l) => `${l.object}@${l.hook}`)].join(' ');

const until = (what: string, holds: () => boolean): Promise<true> =>
  waitFor(`${what}; the agent said: ${said.slice(-1500)}`, () => (holds() ? true : undefined), {
    timeoutMs: 20_000,
    intervalMs: 20,
  });

function elf(name: string, content = name): string {
  writeFileSync(file(name), content);
  return file(name);
}

describe('commands', () => {
  test('load, look, replace, unlink, unload; each with --json', async () => {
    startAgent();
    await until('socket', () => existsSync(file('agent.sock')));
    expect(statSync(file('agent.sock')).mode & 0o777).toBe(0o600);
    expect(await ok('load', elf('npf.bpf.o'), '--link')).toContain('link 1: on_fault answers npf');
    const list = JSON.parse(await ok('list', '--json')) as { objects: { name: string }[]; links: unknown[] };
    expect(list.objects.map((o) => o.name)).toEqual(['npf']);
    expect(list.links).toHaveLength(1);
    expect(await ok('list')).toMatch(/npf {2,}on_fault/);
    expect(await ok('replace', 'npf', elf('npf2.o'))).toContain('maps: kept counts');
    expect(await ok('load', elf('npf3.o'), '--name', 'npf', '--replace', '--json')).toContain(
      '"kept":["counts"]',
    );
    expect(await ok('stats')).toContain('900 answered in L0 (90.0%)');
    expect(await ok('limits')).toContain('signature: none');
    expect(JSON.parse(await ok('guest', 'desired', '--json'))).toMatchObject({ links: [{ object: 'npf' }] });
    expect(await ok('unlink', 'npf')).toBe('unlinked 1\n');
    expect(await ok('unload', 'npf')).toBe('npf unloaded\n');
    expect(inHost()).toBe('');
    const types = (await ok('events', '--json'))
      .trim()
      .split('\n')
      .map((l) => (JSON.parse(l) as { type: string }).type);
    expect(types[0]).toBe('object.loaded');
    expect(types.at(-1)).toBe('object.unloaded');
  });

  test('each class of error has its exit status and one line that says what to do', async () => {
    const none = await run('list');
    expect([none.status, none.stderr.toString()]).toEqual([24, expect.stringContaining('systemctl start')]);
    host.refuse.set('evil', 'helper.forbidden');
    startAgent();
    await until('socket', () => existsSync(file('agent.sock')));
    const status = async (...args: string[]): Promise<number> => {
      const r = await run(...args);
      expect(r.stderr.toString().trim().split('\n'), args.join(' ')).toHaveLength(1);
      return r.status;
    };
    expect(await status('load', elf('evil.o', 'evil'))).toBe(19);
    expect(await status('load', file('none.o'))).toBe(3);
    expect(await status('link', 'none', '--hook', 'npf')).toBe(3);
    await ok('load', elf('a.o'), '--link');
    expect(await status('load', elf('other.o'), '--name', 'a')).toBe(22);
    expect(await status('unload', 'a')).toBe(23);
    expect(await status('map', 'get', 'a', 'counts', 'x')).toBe(2);
    expect(await status('map', 'get', 'a', 'none', '1')).toBe(3);
    expect(await status('map', 'get', 'a', 'counts', '1')).toBe(3);
    expect(await status('completion', 'tcsh')).toBe(2);
    await host.kill();
    expect(await status('list')).toBe(24);
    expect((await run('status')).status).toBe(24);
  });

  test('maps are read and written as numbers, bytes and text; watches tell of changes', async () => {
    startAgent();
    await until('socket', () => existsSync(file('agent.sock')));
    await ok('load', elf('a.o'));
    await ok('map', 'set', 'a', 'counts', '7', '0x100');
    expect(host.maps.get('BwAAAA==')).toBe('AAEAAAAAAAA=');
    expect(await ok('map', 'get', 'a', 'counts', 'hex:07000000')).toBe('256\n');
    expect(await ok('map', 'dump', 'a', 'counts')).toBe('7  256\n');
    const watch = spawn(
      process.execPath,
      [main, 'map', 'watch', 'a', 'counts', '--socket', file('agent.sock')],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    agents.push(watch);
    let seen = '';
    watch.stdout.on('data', (part: Buffer) => (seen += part.toString()));
    await until('the watch', () => host.watches.size === 1);
    host.changed([...host.watches.keys()][0]!, 'BwAAAA==', 'AQEAAAAAAAA=');
    await until('the change', () => seen === '7  257\n');
    expect(await end(watch, 'SIGINT')).toBe(0);
    await until('the end of the watch in the host', () => host.watches.size === 0);
    expect(await ok('map', 'delete', 'a', 'counts', '7')).toBe('deleted\n');
  });

  test('top prints plain lines without a terminal, doctor what it finds at both levels, status what is reached', async () => {
    startAgent();
    host.findings = [{ level: 'warn', what: 'host: something', mend: 'repair it' }];
    await until('socket', () => existsSync(file('agent.sock')));
    await ok('load', elf('a.o'), '--link');
    const top = await ok('top', '--count', '2');
    expect(top).not.toContain('\x1b');
    expect(top.match(/^npf {2,}a\/on_fault/gm)).toHaveLength(2);
    const line = JSON.parse((await ok('top', '--count', '1', '--json')).trim()) as {
      rates: { hooks: unknown[] };
    };
    expect(line.rates.hooks).toHaveLength(1);
    const doctor = await run('doctor');
    expect(doctor.stdout.toString()).toMatch(/warning host: something\n +fix: repair it/);
    expect(doctor.stdout.toString()).toContain('the host has all that is wanted: 1 objects, 1 links');
    expect(await ok('status')).toContain('1 objects, 1 links: in sync');
  });

  test('an output that is full is one line and status 5, for results, help and errors alike', async () => {
    for (const args of [
      'config cni',
      '--help',
      'lab --help',
      'completion bash',
      '--version',
      `check ${elf('a.o')}`,
    ]) {
      const r = await exec(
        'bash',
        ['-c', `"$0" "$@" >/dev/full`, process.execPath, main, ...args.split(' ')],
        {
          okStatus: [5],
        },
      );
      const lines = r.stderr.toString().trim().split('\n');
      expect(lines.at(-1), args).toMatch(/^hyperturtle: standard output: cannot be written: no space/);
    }
    // nobody is left to tell
    const quiet = await exec('bash', ['-c', '"$0" "$@" 2>/dev/full', process.execPath, main, 'zzz'], {
      okStatus: [2],
    });
    expect(quiet.stdout.toString()).toBe('');
  });

  test('an unknown command is told, with the nearest one and how to see all', async () => {
    const near = await exec(process.execPath, [main, 'lsit'], { okStatus: [2] });
    expect(near.stderr.toString()).toMatch(/unknown command 'lsit'[^]*Did you mean list\?[^]*--help/);
    for (const args of [['zzz'], ['lab', 'zzz'], ['lab', 'up', '--zzz']])
      expect((await exec(process.execPath, [main, ...args], { okStatus: [2] })).stderr.toString()).toContain(
        '--help',
      );
  });

  test('help of every command shows, and completion scripts are valid', async () => {
    const help = await exec(process.execPath, [main, 'load', '--help']);
    expect(help.stdout.toString()).toContain('hyperturtle load npf.bpf.o --link');
    const script = (await exec(process.execPath, [main, 'completion', 'bash'])).stdout.toString();
    const complete = async (...words: string[]): Promise<string[]> => {
      const ask = `${script}\nCOMP_WORDS=(${words.map((w) => `'${w}'`).join(' ')}); COMP_CWORD=$((\${#COMP_WORDS[@]}-1)); _hyperturtle; printf '%s\\n' "\${COMPREPLY[@]}"`;
      return (await exec('bash', ['-c', ask])).stdout.toString().trim().split('\n');
    };
    expect(await complete('hyperturtle', 'unl')).toEqual(['unlink', 'unload']);
    expect(await complete('hyperturtle', 'map', 'd')).toEqual(['delete', 'dump']);
    expect(await complete('hyperturtle', 'link', '--h')).toEqual(['--hook', '--help']);
    expect(await complete('hyperturtle', 'load', file('por'))).toEqual([file('port')]);
    expect(await complete('hyperturtle', 'config', 'kata-')).toEqual(['kata-qemu', 'kata-clh', 'kata-fc']);
    expect(await complete('hyperturtle', 'lab', 'up', '--accel', '')).toEqual(['tcg', 'kvm']);
  });
});

describe('the agent process', () => {
  test('reads its configuration at start and at SIGHUP; SIGTERM ends it with nothing left', async () => {
    const config = file('guest.yaml');
    writeFileSync(config, `objects:\n  npf: {file: ${elf('npf.o')}}\nlinks:\n  - {object: npf, hook: npf}\n`);
    const agent = startAgent('--config', config);
    await until('the configuration', () => inHost() === 'npf npf@npf');
    writeFileSync(config, `objects:\n  npf: {file: ${elf('npf-2.o')}}\n  b: {file: ${elf('b.o')}}\n`);
    agent.kill('SIGHUP');
    await until('the new configuration', () => inHost() === 'npf b');
    expect(host.calls).toContain('replace npf');
    writeFileSync(config, 'objekts: {}\n');
    agent.kill('SIGHUP');
    await until('the complaint', () => said.includes('guest.yaml:1:1: objekts: there is no such setting'));
    expect(inHost()).toBe('npf b');
    expect(await end(agent, 'SIGTERM')).toBe(0);
    expect(existsSync(file('agent.sock'))).toBe(false);
    // a restarted agent finds it in place
    expect(inHost()).toBe('npf b');

    const bad = startAgent('--config', config);
    await withDeadline('its end', once(bad, 'exit'), 20_000);
    expect(bad.exitCode).toBe(26);
  });

  test('killed agent, killed host, both, in any order: what is wanted is in force again, with no manual step', async () => {
    let agent = startAgent();
    await until('socket', () => existsSync(file('agent.sock')));
    await ok('load', elf('a.o'), '--link');
    await ok('load', elf('b.o'));
    const wanted = 'a b a@npf';
    // a fixed order of accidents, each of which hits a system in another state
    const newAgent = async (meanwhile: () => Promise<void> = async () => {}): Promise<void> => {
      await end(agent, 'SIGKILL');
      await meanwhile();
      agent = startAgent();
    };
    const accidents: (() => Promise<void>)[] = [
      () => newAgent(),
      () => host.restart(),
      () => newAgent(() => host.restart()),
      async () => {
        await host.kill();
        await newAgent();
        await host.start();
      },
      () => Promise.resolve(host.cut()),
      async () => {
        await host.restart();
        await host.restart();
      },
      async () => {
        // while it is reconciling
        const loads = host.calls.filter((c) => c.startsWith('load')).length;
        await host.restart();
        await until('the first step', () => host.calls.filter((c) => c.startsWith('load')).length > loads);
        await newAgent();
      },
      () => Promise.resolve(host.drop('a')),
    ];
    for (const [i, accident] of accidents.entries()) {
      const sessions = host.calls.filter((c) => c === 'hello').length;
      await accident();
      await until(`state after accident ${i}`, () => {
        const greeted = host.calls.filter((c) => c === 'hello').length > sessions || i === 7;
        return greeted && inHost().split(' ').sort().join(' ') === wanted.split(' ').sort().join(' ');
      });
    }
    await waitFor(
      'status',
      async () => {
        const s = JSON.parse(
          (await run('status', '--json')).stdout.toString(),
        ) as AgentResult<'agent.status'>;
        return s.desired.reached && s.host.state === 'connected' ? s : undefined;
      },
      { timeoutMs: 20_000 },
    );
    expect(readFileSync(file('state/agent.json'), 'utf8')).toContain('"version": 1');
  });

  test('a second agent at the same socket gives up and says why', async () => {
    startAgent();
    await until('socket', () => existsSync(file('agent.sock')));
    const second = startAgent();
    await withDeadline('its end', once(second, 'exit'), 20_000);
    expect(second.exitCode).toBe(6);
    expect(said).toContain('an agent is running already');
  });
});
