/** `hyperturtle call` against an agent's socket: what it asks, what it prints, what it refuses. */
import { mkdtempSync, rmSync } from 'node:fs';
import { once } from 'node:events';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { Command } from 'commander';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { callNumberOf, callProgram } from '../../../src/client/call.ts';
import { withAgent } from '../../../src/client/session.ts';
import type { AgentClient } from '../../../src/client/session.ts';
import { registerCall } from '../../../src/cli/call/command.ts';
import type { Params, Result } from '../../../src/wire/schema.ts';
import { RpcPeer } from '../../../src/wire/peer.ts';
import { LINK, methods } from '../../support/wire.ts';

let dir: string;
let server: net.Server;
let asked: Params<'call'>[];
let answer: (p: Params<'call'>) => Result<'call'> | Promise<Result<'call'>>;
let numbers: number[];

beforeEach(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-call-'));
  asked = [];
  numbers = [0x48540010];
  answer = ({ words = [] }) => ({
    answered: true,
    results: ['0x0', words[0] ?? '0x0', '0x0', '0xffffffffffffffff'],
  });
  server = net.createServer((socket) => {
    new RpcPeer(socket, {
      calls: {},
      session: 'connection',
      methods: methods({
        call: (p) => {
          asked.push(p);
          return answer(p);
        },
        list: () => ({
          vm: 'one',
          arena: { bytes: 0, state: 'absent' },
          objects: [],
          links: [{ ...LINK, object: 'svc', hook: 'call', options: { numbers } }],
        }),
      }),
    });
  });
  server.listen(path.join(dir, 'sock'));
  await once(server, 'listening');
});
afterEach(async () => {
  vi.restoreAllMocks();
  server.close();
  await once(server, 'close');
  rmSync(dir, { recursive: true });
});

async function command(...args: string[]): Promise<string> {
  let out = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += String(text);
    return true;
  });
  const program = new Command().exitOverride().configureOutput({ writeErr: () => {} });
  registerCall(program);
  await program.parseAsync(['call', '--socket', path.join(dir, 'sock'), ...args], { from: 'user' });
  return out;
}

const client = <T>(use: (c: AgentClient) => Promise<T>): Promise<T> =>
  withAgent({ socket: path.join(dir, 'sock'), timeoutS: 10 }, use);

it('asks for one run with words of 64 bits, and prints the four of the answer', async () => {
  expect(await command('svc', '--words', '18446744073709551615,0x2')).toBe(
    '0x0 0xffffffffffffffff 0x0 0xffffffffffffffff\n',
  );
  expect(asked).toEqual([{ object: 'svc', words: ['0xffffffffffffffff', '0x2'] }]);
  const repeated = await command('svc', '--repeat', '3', '--json');
  expect(JSON.parse(repeated)).toMatchObject({ nsPerCall: expect.any(Number) as number });
  expect(asked.splice(1)).toHaveLength(3);
  const said = await command('svc', '--number', '0x48540010', '--program', 'count', '--json');
  expect(JSON.parse(said)).toEqual({ results: ['0x0', '0x0', '0x0', '0xffffffffffffffff'] });
  expect(asked[1]).toEqual({ object: 'svc', program: 'count', number: 0x48540010, words: [] });
});

it.each([
  [['svc', '--words', '1,2,3,4,5,6,7'], /up to 6 numbers/],
  [['svc', '--words', '18446744073709551616'], /of 64 bits/],
  [['svc', '--words', '-1'], /of 64 bits/],
  [['svc', '--words', ''], /of 64 bits/],
  [['svc', '--number', '255'], /from 256 to 0xffffffff/],
  [['svc', '--number', '4294967296'], /from 256/],
  [['--words', '1'], /say which object/],
  [['--direct'], /say which object/],
])('refuses %j before it asks', async (args, why) => {
  await expect(command(...args)).rejects.toThrow(why);
  expect(asked).toEqual([]);
});

it('says why a program does not answer', async () => {
  answer = () => ({ answered: false, results: ['0x0', '0x0', '0x0', '0x0'], reason: 'NOT_OURS' });
  await expect(command('svc')).rejects.toThrow(/'svc' does not answer this call: NOT_OURS/);
});

it('gives up at its deadline', async () => {
  answer = () => new Promise(() => {});
  await expect(command('svc', '--deadline-ms', '50')).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
});

it('is a function for programs: numbers are bigints, and a link with one number has it', async () => {
  const words = [1n << 63n, 5n];
  expect(await client((c) => callProgram(c, { object: 'svc', words }))).toEqual([
    0n,
    1n << 63n,
    0n,
    (1n << 64n) - 1n,
  ]);
  expect(await client((c) => callNumberOf(c, 'svc'))).toBe(0x48540010);
  await expect(client((c) => callNumberOf(c, 'other'))).rejects.toThrow(/no program of 'other' is linked/);
  numbers = [256, 257];
  await expect(client((c) => callNumberOf(c, 'svc'))).rejects.toThrow(/has the numbers 0x100, 0x101/);
});
