/**
 * A hostile L1 against the daemon's real process: more than 10,000 bad messages through its VM's port. Each is refused
 * with a documented error or ignored as documented, another VM is served meanwhile, and nothing of it is left.
 */
import fc from 'fast-check';
import { once } from 'node:events';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { generateKeys } from '../../src/core/signature.ts';
import { errnoCode } from '../../src/core/errors.ts';
import { sleep, waitFor } from '../../src/core/wait.ts';
import { WIRE_ERRORS } from '../../src/wire/errors.ts';
import type { ErrorKind } from '../../src/wire/errors.ts';
import { METHODS } from '../../src/wire/schema.ts';
import type { MethodName, ResultOf } from '../../src/wire/schema.ts';
import { GOOD_OBJECT } from '../support/bad-objects.ts';
import { compileBpf, compileBpfFile, findClang, whyNoBpf } from '../support/bpf.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import type { L1 } from '../support/daemon-harness.ts';
import { badCall } from '../support/hostile-calls.ts';
import type { BadCall, Prepared } from '../support/hostile-calls.ts';
import { GOOD_PARAMS, badLine, complaint, cuts, pieces } from '../support/wire-hostile.ts';
import type { BadLine } from '../support/wire-hostile.ts';
import { BOOT_ID, HELLO, RawClient } from '../support/wire.ts';

const SEED = Number(process.env['HT_SEED'] ?? 20261122);
const ELF_BYTES = 128 << 10;
const ANSWER_MS = 20_000;
/** Requests sent before the answers to them are read. */
const WINDOW = 20;
/** No answer may tell it to another VM. */
const UNGUESSED = 'unguessed';
const clang = findClang();
const why = whyNoBpf(clang);

/** Collects garbage in the daemon and writes down what is left: what it holds, not when V8 tidies up. */
const COLLECT = (out: string): string => `
const { renameSync, writeFileSync } = require('node:fs');
require('node:v8').setFlagsFromString('--expose-gc');
const gc = require('node:vm').runInNewContext('gc');
process.on('SIGUSR2', () => {
  gc(); gc();
  const { heapUsed, external } = process.memoryUsage();
  const out = ${JSON.stringify(out)};
  writeFileSync(out + '.new', String(heapUsed + external));
  renameSync(out + '.new', out);
});`;

/** V8 and malloc keep little in hand: what the process has more afterwards is held by something. */
const TIDY = (collect: string): NodeJS.ProcessEnv => ({
  NODE_OPTIONS: `--require=${collect} --max-semi-space-size=1`,
  MALLOC_TRIM_THRESHOLD_: '65536',
  MALLOC_ARENA_MAX: '2',
});

interface Footprint {
  /** In heap and buffers, in use. */
  usedBytes: number;
  /** Memory of the process that is nobody else's. */
  privateBytes: number;
  fds: number;
}

const KINDS = Object.keys(WIRE_ERRORS) as ErrorKind[];
/** What a tenant can cause. INTERNAL would be a bug, the others are not for messages alone. */
const CAUSED = KINDS.filter((k) => !['INTERNAL', 'UNAVAILABLE', 'DEADLINE', 'UNSUPPORTED'].includes(k));

describe.skipIf(why !== undefined)(`messages of a hostile L1${why ? ` (skipped: ${why})` : ''}`, () => {
  let h: DaemonHarness;
  let attacker: RawClient;
  let socket: net.Socket;
  let victim: L1;
  let prepared: Prepared;
  let npf: string;
  const sent = new Map<string, number>();
  let ids = 0;

  beforeAll(async () => {
    const good = compileBpf(clang!, GOOD_OBJECT);
    npf = compileBpfFile(clang!, path.resolve(import.meta.dirname, '../../c/bpf/npf/npf.bpf.c')).toString(
      'base64',
    );
    h = new DaemonHarness();
    const { publicKey, keyId } = generateKeys();
    writeFileSync(h.at('team.pub'), publicKey);
    writeFileSync(h.at('collect.cjs'), COLLECT(h.at('used')));
    h.writeConfig({
      hostile: {
        signature: 'optional',
        keys: [h.at('team.pub')],
        quotas: { objects: 2, elfBytes: ELF_BYTES, watches: 4 },
      },
      quiet: {},
    });
    await h.startDaemon(TIDY(h.at('collect.cjs')));
    for (const name of ['hostile', 'quiet']) {
      await h.startVm(name);
      await h.whenVm(name, (v) => v.phase === 'attached' && v.arena.state === 'plugged' && v.agent.connected);
    }
    victim = await h.agent('quiet', BOOT_ID);
    await victim.peer.request('load', { name: UNGUESSED, elf: good.toString('base64') });
    const { link: foreign } = await victim.peer.request('link', { object: UNGUESSED, hook: 'npf' });

    socket = net.connect(h.at('hostile.guest'));
    await once(socket, 'connect');
    attacker = new RawClient(socket);
    await greet();
    await ask('load', { name: 'own', elf: good.toString('base64') });
    // its number must not be one that damage makes of another
    for (let n = 0; n < 20; n++) {
      const { link } = await ask('link', { object: 'own', hook: 'npf' });
      await ask('unlink', { id: link.id });
    }
    const { link } = await ask('link', { object: 'own', hook: 'npf' });
    expect(link.id).not.toBe(foreign.id);
    prepared = {
      object: 'own',
      elf: good,
      links: [link.id],
      watches: [],
      foreign: [UNGUESSED.toUpperCase(), 'npf'],
      elfBytes: ELF_BYTES,
      keyId,
    };
  }, 60_000);
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(`log of the daemon:\n${h.log.slice(-3000)}\n`);
  });
  afterAll(async () => {
    socket?.destroy();
    await h?.close();
  });

  const answerTo = (id: string): Promise<Record<string, unknown>> =>
    attacker.next((m) => m['id'] === id, ANSWER_MS);

  async function ask<M extends MethodName>(
    method: M,
    params: Record<string, unknown>,
  ): Promise<ResultOf<typeof METHODS, M>> {
    const id = `ask-${++ids}`;
    attacker.request(id, method, params);
    const answer = await answerTo(id);
    expect(answer, method).toHaveProperty('result');
    // checked, so of this type
    return METHODS[method].result().parse(answer['result']) as ResultOf<typeof METHODS, M>;
  }

  const greet = (): Promise<unknown> => ask('hello', { ...HELLO, bootId: BOOT_ID });

  const count = (what: string, n = 1): void => void sent.set(what, (sent.get(what) ?? 0) + n);

  /** Answers that have come and were not asked for by `ask`; notifications are none. */
  const takeAnswers = (): Record<string, unknown>[] =>
    attacker.received.splice(0).filter((m) => !('method' in m));

  /** What is wrong with an error as an error, whatever it is about. */
  function expectTyped(answer: Record<string, unknown>): ErrorKind {
    const { error } = answer as { error?: { code: number; message: string; data: { kind: ErrorKind } } };
    const text = JSON.stringify(answer);
    expect(error, text.slice(0, 300)).toBeDefined();
    const { code, message, data } = error!;
    expect(code, text).toBe(WIRE_ERRORS[data.kind]?.code);
    expect(CAUSED, text).toContain(data.kind);
    expect(message.length, text).toBeGreaterThan(0);
    expect(text.length).toBeLessThan(32 << 10);
    expect(text).not.toContain(UNGUESSED);
    expect(text).not.toContain(h.dir);
    return data.kind;
  }

  async function badLines(n: number, seed: number): Promise<void> {
    const send = async (bad: BadLine, at: readonly number[]): Promise<void> => {
      for (const piece of pieces(Buffer.concat([bad.bytes, Buffer.from('\n')]), at)) attacker.sendText(piece);
      await ask('ping', {});
      const answers = takeAnswers();
      // what damage has left may be a request that takes its time
      if (!bad.sure && answers.length === 0)
        answers.push(await attacker.next((m) => !('method' in m), ANSWER_MS));
      for (const a of answers) if ('error' in a) expectTyped(a);
      expect(complaint(bad.sure ? bad : { ...bad, kinds: CAUSED }, answers)).toBeUndefined();
      count(bad.what);
    };
    await fc.assert(fc.asyncProperty(badLine, cuts, send), { numRuns: n, seed, endOnFailure: true });
    for (let i = 0; i < 3; i++) {
      const bytes = Buffer.alloc((4 << 20) + 1 + i, 'x"{'[i]);
      await send({ what: 'more than a frame', bytes, kinds: ['PARSE_ERROR'], sure: true }, []);
    }
  }

  async function badCalls(n: number, seed: number): Promise<void> {
    const window = fc.array(badCall(prepared), { minLength: WINDOW, maxLength: WINDOW });
    const send = async (calls: BadCall[]): Promise<void> => {
      const byId = new Map(calls.map((call) => [`bad-${++ids}`, call]));
      attacker.sendText(
        [...byId].flatMap(([id, call]) => call.messages(id).map((m) => `${JSON.stringify(m)}\n`)).join(''),
      );
      for (const [id, call] of byId)
        for (let i = 0; i < call.answers; i++) {
          const answer = await answerTo(id);
          const context = `${call.what}: ${JSON.stringify(call.messages(id)).slice(0, 500)}`;
          expect(call.kinds, `${context} -> ${JSON.stringify(answer)}`).toContain(expectTyped(answer));
        }
      await ask('ping', {});
      expect(takeAnswers()).toEqual([]);
      for (const call of calls) count(call.what, call.messages('').length);
    };
    const numRuns = Math.ceil(n / WINDOW);
    await fc.assert(fc.asyncProperty(window, send), { numRuns, seed, endOnFailure: true });
  }

  /** A hello that is refused ends the session: nothing is done any more until a good one. */
  async function badHellos(n: number): Promise<void> {
    const refusal = async (method: string, params: unknown, kind: ErrorKind): Promise<void> => {
      const id = `bad-${++ids}`;
      attacker.request(id, method, params);
      expect(expectTyped(await answerTo(id)), method).toBe(kind);
    };
    for (let i = 0; i < n; i++) {
      const protocol = { min: 3 + i, max: i % 2 === 0 ? 3 + i : 1 };
      await refusal('hello', { ...HELLO, protocol }, 'UNSUPPORTED_PROTOCOL');
      for (const [method, params] of Object.entries(GOOD_PARAMS))
        if (method !== 'hello') await refusal(method, params, 'NO_HELLO');
      await greet();
      count('no hello', 1 + Object.keys(GOOD_PARAMS).length);
    }
  }

  /** `n` messages of all sorts. */
  async function attack(n: number, seed: number): Promise<void> {
    await badHellos(Math.floor(n / 500));
    const { watch } = await ask('map.watch', { object: 'own', map: 'notes', intervalMs: 100 });
    prepared = { ...prepared, watches: [watch] };
    await badLines(Math.floor(n / 4), seed);
    await badCalls(Math.floor(n * 0.75), seed);
    await ask('map.unwatch', { watch });
  }

  /** The other VM asks all the time; `stop` gives how long its answers took, in ms, in order of that. */
  function bystander(): { stop: () => Promise<number[]> } {
    const took: number[] = [];
    const stopped = new AbortController();
    const timed = async (request: Promise<unknown>): Promise<void> => {
      const t0 = performance.now();
      await request;
      took.push(performance.now() - t0);
    };
    const { peer } = victim;
    const work = (async () => {
      while (!stopped.signal.aborted) {
        await timed(peer.request('ping', {}));
        await timed(peer.request('list', {}));
        await timed(peer.request('map.get', { object: UNGUESSED, map: 'table', key: 'AAAAAA==' }));
        await sleep(10);
      }
    })();
    // told by stop()
    work.catch(() => {});
    return {
      stop: async () => {
        stopped.abort();
        await work;
        return took.sort((a, b) => a - b);
      },
    };
  }

  const fdsOfDaemon = (): string[] => readdirSync(`/proc/${h.daemonPid}/fd`);

  async function footprint(): Promise<Footprint> {
    writeFileSync(h.at('used'), '');
    process.kill(h.daemonPid, 'SIGUSR2');
    const usedBytes = await waitFor(
      'garbage collected',
      () => Number(readFileSync(h.at('used'))) || undefined,
      {
        timeoutMs: 10_000,
      },
    );
    const smaps = readFileSync(`/proc/${h.daemonPid}/smaps_rollup`, 'utf8');
    const privateBytes = [...smaps.matchAll(/^Private_(?:Clean|Dirty): +(\d+) kB$/gm)]
      .map((m) => Number(m[1]) << 10)
      .reduce((a, b) => a + b);
    return { usedBytes, privateBytes, fds: fdsOfDaemon().length };
  }

  /** Loading processes of this daemon, also those that it would have lost: each has its id as last argument. */
  function workers(daemonPid: number): number[] {
    return readdirSync('/proc')
      .filter((p) => /^\d+$/.test(p))
      .filter((p) => {
        try {
          const args = readFileSync(`/proc/${p}/cmdline`, 'utf8').split('\0');
          return args.some((a) => /\/loader\/worker\.c?js$/.test(a)) && args.includes(String(daemonPid));
        } catch (e) {
          if (errnoCode(e) === 'ENOENT' || errnoCode(e) === 'ESRCH') return false;
          throw e;
        }
      })
      .map(Number);
  }

  /** As at rest: one worker waits, warm. */
  const whenSettled = (): Promise<unknown> =>
    waitFor('workers to end', () => (workers(h.daemonPid).length === 1 ? true : undefined), {
      timeoutMs: 10_000,
    });

  it('are refused or ignored as documented; the other VM is served, memory and descriptors stay', async () => {
    await attack(1000, SEED - 1); // warm-up: compiled code, caches and the ring of events are memory as well
    await whenSettled();
    const before = await footprint();
    sent.clear();
    const other = bystander();
    await attack(11_000, SEED);
    const took = await other.stop();
    await whenSettled();
    await waitFor('descriptors closed', () => (fdsOfDaemon().length <= before.fds ? true : undefined), {
      timeoutMs: 10_000,
    }).catch(() => {}); // the figures tell
    const after = await footprint();
    const total = [...sent.values()].reduce((a, b) => a + b);
    const p99 = took[Math.floor(took.length * 0.99)]!;
    process.stdout.write(
      `${JSON.stringify({ total, sent: Object.fromEntries(sent), before, after, others: took.length, p99 })}\n`,
    );
    expect(total).toBeGreaterThanOrEqual(10_000);
    expect(sent.size).toBe(33);
    expect(after.fds).toBe(before.fds);
    expect(after.usedBytes - before.usedBytes).toBeLessThan(2 << 20);
    expect(after.privateBytes - before.privateBytes).toBeLessThan(16 << 20);
    expect(took.length).toBeGreaterThan(200);
    expect(p99).toBeLessThan(500);
  }, 60_000);

  it('leave both VMs able to work, with what they had', async () => {
    expect(await ask('list', {})).toMatchObject({
      objects: [{ name: 'own' }],
      links: [{ id: prepared.links[0], object: 'own' }],
    });
    expect(await victim.peer.request('list', {})).toMatchObject({
      objects: [{ name: UNGUESSED }],
      links: [{ object: UNGUESSED }],
    });
    socket.destroy();
    const hostile = await h.agent('hostile', BOOT_ID);
    for (const [{ peer }, name] of [
      [hostile, 'own'],
      [victim, UNGUESSED],
    ] as const) {
      await peer.request('unload', { name, force: true });
      expect((await peer.request('load', { name: 'npf', elf: npf })).existed).toBe(false);
      const { link } = await peer.request('link', { object: 'npf', hook: 'npf' });
      expect(await peer.request('list', {})).toMatchObject({ objects: [{ name: 'npf' }], links: [link] });
    }
  }, 30_000);

  it('leave no worker process when the daemon ends', async () => {
    const pid = h.daemonPid;
    // one that has just served may still be ending beside the warm one
    await waitFor('one worker', () => workers(pid).length === 1 || undefined, { timeoutMs: 10_000 });
    expect(await h.endDaemon('SIGTERM')).toBe(0);
    expect(workers(pid)).toEqual([]);
  });
});
