/** The wire on real unix sockets, with peers that misbehave in every way, beside peers that do not. */
import fc from 'fast-check';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { sleep, waitFor } from '../../src/core/wait.ts';
import { hello } from '../../src/wire/hello.ts';
import { TENANT_LIMITS } from '../../src/wire/limits.ts';
import type { RpcLimits } from '../../src/wire/limits.ts';
import { RpcPeer } from '../../src/wire/peer.ts';
import { METHODS } from '../../src/wire/schema.ts';
import { FRAME_BYTES, badLine, complaint, cuts, pieces } from '../support/wire-hostile.ts';
import { HELLO, RawClient, methods } from '../support/wire.ts';

type Server = RpcPeer<Record<string, never>>;

let dir: string;
let listener: net.Server;
let peers: Server[];
let closed: (Error | undefined)[];
let limits: Partial<RpcLimits>;
let open: (() => void)[];

beforeEach(async () => {
  dir = await mkdtemp(path.join(os.tmpdir(), 'ht-wire-'));
  peers = [];
  closed = [];
  open = [];
  limits = TENANT_LIMITS;
  listener = net.createServer({ pauseOnConnect: true }, (socket) => {
    peers.push(
      new RpcPeer(socket, {
        calls: {},
        limits,
        methods: methods({
          'map.get': () => ({ value: 'A'.repeat(1 << 20) }),
          stats: (_, { signal }) =>
            new Promise((__, reject) => signal.addEventListener('abort', () => reject(new Error('aborted')))),
        }),
        onClose: (reason) => closed.push(reason),
      }),
    );
  });
  await new Promise<void>((resolve) => listener.listen(path.join(dir, 's'), resolve));
});

afterEach(async () => {
  for (const close of open) close();
  for (const p of peers) p.close();
  await new Promise((resolve) => listener.close(resolve));
  await rm(dir, { recursive: true });
});

async function connect(): Promise<net.Socket> {
  const socket = net.connect(path.join(dir, 's'));
  open.push(() => socket.destroy());
  await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  return socket;
}

/** A raw client and the server's end of it. */
async function attacker(): Promise<{ raw: RawClient; server: Server; socket: net.Socket }> {
  const n = peers.length;
  const socket = await connect();
  const server = await waitFor('the server to accept', () => peers[n], { timeoutMs: 5000, intervalMs: 1 });
  return { raw: new RawClient(socket), server, socket };
}

async function greetedAttacker(): Promise<Awaited<ReturnType<typeof attacker>>> {
  const a = await attacker();
  a.raw.request('hello', 'hello', HELLO);
  await a.raw.answerTo('hello');
  return a;
}

/** A well-behaved peer that asks all the time; `stop()` returns how long each answer took, in ms. */
async function bystander(): Promise<{ stop: () => Promise<number[]> }> {
  const peer = new RpcPeer(await connect(), { calls: METHODS });
  await hello(peer, HELLO);
  const took: number[] = [];
  const stopped = new AbortController();
  const work = (async () => {
    while (!stopped.signal.aborted) {
      const t0 = performance.now();
      await peer.request('ping', {}, { timeoutMs: 2000 });
      took.push(performance.now() - t0);
      await sleep(2);
    }
  })();
  return {
    stop: async () => {
      stopped.abort();
      await work;
      expect(peer.closed).toBe(false);
      peer.close();
      return took;
    },
  };
}

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

/** Bytes in use in heap and buffers, after collection. */
function bytesInUse(): number {
  gc();
  gc();
  const m = process.memoryUsage();
  return m.heapUsed + m.external;
}

const fds = async (): Promise<number> => (await readdir('/proc/self/fd')).length;

it('refuses or ignores 10,000 generated bad lines; memory stays, and others are answered', async () => {
  limits = { ...TENANT_LIMITS, maxFrameBytes: FRAME_BYTES, requestsPerSecond: 0, bytesPerSecond: 0 };
  const others = [await bystander(), await bystander()];
  const { raw, server } = await greetedAttacker();
  raw.received.length = 0;
  let n = 0;
  const seen = new Map<string, number>();
  const attack = (numRuns: number, seed: number): Promise<void> =>
    fc.assert(
      fc.asyncProperty(badLine, cuts, async (bad, at) => {
        for (const piece of pieces(Buffer.concat([bad.bytes, Buffer.from('\n')]), at)) raw.sendText(piece);
        const id = `after-${++n}`;
        raw.request(id, 'ping');
        expect(await raw.answerTo(id)).toHaveProperty('result');
        expect(complaint(bad, raw.received.splice(0))).toBeUndefined();
        seen.set(bad.what, (seen.get(bad.what) ?? 0) + 1);
      }),
      { numRuns, seed },
    );
  await attack(1000, 1); // warm-up: compiled code and caches are memory as well
  const before = bytesInUse();
  await attack(10_000, 20261122);
  const after = bytesInUse();
  expect([...seen.values()].reduce((a, b) => a + b)).toBeGreaterThanOrEqual(11_000);
  expect(seen.size).toBe(16);
  expect(after - before).toBeLessThan(8 << 20);
  expect(server.inProgress).toBe(0);
  expect(server.queuedBytes).toBe(0);
  for (const o of others) expect((await o.stop()).length).toBeGreaterThan(10);
}, 300_000);

it('takes no more than a frame of a line that does not end', async () => {
  const other = await bystander();
  limits = { ...TENANT_LIMITS, bytesPerSecond: 0 };
  const { raw, server, socket } = await greetedAttacker();
  const chunk = Buffer.alloc(1 << 20, 'x');
  const before = bytesInUse();
  for (let mib = 0; mib < 64; mib++) {
    if (!socket.write(chunk)) await new Promise((r) => socket.once('drain', r));
    if (mib === 3 || mib === 32) expect(bytesInUse() - before).toBeLessThan(20 << 20);
  }
  raw.sendText('\n');
  raw.request(1, 'ping');
  expect(await raw.answerTo(1)).toHaveProperty('result');
  expect(raw.received.filter((m) => 'error' in m)).toHaveLength(1);
  expect(server.counters.badLines).toBe(1);
  expect(bytesInUse() - before).toBeLessThan(8 << 20);
  await other.stop();
}, 60_000);

it('takes a flood at the rate allowed, whatever it is made of', async () => {
  const other = await bystander();
  const floods = ['\n', 'x\n', '{"jsonrpc":"2.0","id":1,"method":"ping"}\n'];
  const attackers: Awaited<ReturnType<typeof greetedAttacker>>[] = [];
  // one after the other: which server is whose is told by the order in which they come
  for (let i = 0; i < floods.length; i++) attackers.push(await greetedAttacker());
  const t0 = performance.now();
  const before = bytesInUse();
  let going = true;
  const work = attackers.map(async ({ socket }, i) => {
    const chunk = Buffer.from(floods[i]!.repeat(Math.floor((64 << 10) / floods[i]!.length)));
    while (going) {
      socket.write(chunk);
      while (going && socket.writableLength > 1 << 20) await sleep(5);
      await sleep(0);
    }
  });
  await sleep(2000);
  going = false;
  const seconds = (performance.now() - t0) / 1000;
  for (const [i, { server }] of attackers.entries()) {
    // noise: a KiB and its bytes for each line, of 16 MiB a second after 8 MiB at once
    const noise = 1024 + floods[i]!.length;
    const most = floods[i]!.startsWith('{') ? 1000 * seconds + 250 : ((16 * seconds + 8) << 20) / noise;
    expect(server.counters.linesRead).toBeGreaterThan(500);
    expect(server.counters.linesRead).toBeLessThan(most + 64);
    expect(server.counters.pausedForRate).toBeGreaterThan(0);
  }
  expect(bytesInUse() - before).toBeLessThan(16 << 20);
  await Promise.all(work);
  expect((await other.stop()).length).toBeGreaterThan(100);
}, 60_000);

it('closes a peer that asks for much and reads nothing, and keeps little for it', async () => {
  limits = { ...TENANT_LIMITS, stallTimeoutMs: 300 };
  const other = await bystander();
  const { raw, server, socket } = await greetedAttacker();
  socket.pause();
  const before = bytesInUse();
  for (let id = 0; id < 1000; id++) raw.request(id, 'map.get', { object: 'a', map: 'b', key: '' });
  await vi.waitFor(() => expect(server.counters.pausedForOutput).toBe(1), { timeout: 5000 });
  expect(server.queuedBytes).toBeLessThan((8 << 20) + (2 << 20));
  expect(bytesInUse() - before).toBeLessThan(24 << 20);
  await vi.waitFor(() => expect(server.closed).toBe(true), { timeout: 5000 });
  expect(closed[0]).toMatchObject({ code: 'HT_WIRE' });
  socket.destroy();
  expect(bytesInUse() - before).toBeLessThan(4 << 20);
  await other.stop();
}, 60_000);

it('ends what a peer had begun when it closes its side in the middle of a frame', async () => {
  const other = await bystander();
  const { raw, server, socket } = await greetedAttacker();
  for (let id = 0; id < 10; id++) raw.request(id, 'stats');
  await vi.waitFor(() => expect(server.inProgress).toBe(10));
  socket.end('{"jsonrpc":"2.0","id":11,"meth');
  await vi.waitFor(() => expect(server.closed).toBe(true));
  expect(closed).toEqual([undefined]);
  await vi.waitFor(() => expect(server.inProgress).toBe(0));
  await other.stop();
});

it('begins a session again after each restart in the middle of a frame', async () => {
  limits = { ...TENANT_LIMITS, requestsPerSecond: 0 };
  const { raw, server } = await greetedAttacker();
  const whole = JSON.stringify({ jsonrpc: '2.0', id: 3, method: 'stats', params: {} });
  for (let i = 1; i <= 300; i++) {
    raw.request(2, 'stats');
    raw.sendText(whole.slice(0, 1 + (i % (whole.length - 1))));
    const nonce = `restart-${i}`;
    raw.sendText('\n');
    raw.request(1, 'hello', { ...HELLO, nonce });
    await raw.next((m) => (m['result'] as { nonce?: string } | undefined)?.nonce === nonce);
  }
  await vi.waitFor(() => expect(server.inProgress).toBe(0));
  // what is cut at random is a parse error; nothing of the sessions that ended was answered
  expect(raw.received.every((m) => m['id'] === null || m['method'] === 'hello.wanted')).toBe(true);
  expect(raw.received.length).toBeGreaterThanOrEqual(300);
});

it('leaves nothing of 500 connections that came, spoke nonsense and went', async () => {
  const other = await bystander();
  const once = async (i: number): Promise<void> => {
    const { raw, socket } = await attacker();
    if (i % 2 === 0) raw.request(1, 'hello', HELLO);
    raw.sendText(Buffer.alloc(i * 7, 'z'));
    if (i % 2 === 1) socket.end();
    else socket.destroy();
    await vi.waitFor(() => expect(raw.ended).toBe(true), { timeout: 5000, interval: 1 });
  };
  const forget = (): void => {
    peers = peers.filter((p) => !p.closed);
    closed.length = open.length = 0;
  };
  for (let i = 0; i < 50; i++) await once(i);
  await vi.waitFor(() => expect(peers.filter((p) => !p.closed)).toHaveLength(1));
  forget();
  const [before, fdsBefore] = [bytesInUse(), await fds()];
  for (let i = 0; i < 500; i++) await once(i);
  await vi.waitFor(() => expect(peers.filter((p) => !p.closed)).toHaveLength(1));
  forget();
  expect(await fds()).toBe(fdsBefore);
  expect(bytesInUse() - before).toBeLessThan(4 << 20);
  await other.stop();
}, 60_000);
