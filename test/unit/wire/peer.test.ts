import { duplexPair } from 'node:stream';
import { describe, expect, it, vi } from 'vitest';
import { HyperturtleError } from '../../../src/core/errors.ts';
import { wireFailure } from '../../../src/wire/errors.ts';
import { hello } from '../../../src/wire/hello.ts';
import { RpcPeer } from '../../../src/wire/peer.ts';
import { METHODS } from '../../../src/wire/schema.ts';
import {
  BOOT_ID,
  HELLO,
  INSTANCE,
  LIMITS,
  LINK,
  RawClient,
  ends,
  methods,
  rawEnds,
} from '../../support/wire.ts';

const WHO = { agent: HELLO.agent, bootId: BOOT_ID };
const never = (): Promise<never> => new Promise(() => {});

/** A promise that something else keeps. */
function promised<T = void>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((r) => (resolve = r));
  return { promise, resolve };
}

describe('a request', () => {
  it('is answered after hello', async () => {
    const { client } = ends();
    expect((await hello(client, WHO)).vm).toBe('tenant1');
    expect(await client.request('ping', {})).toEqual({});
  });

  it('before hello is refused', async () => {
    const { client } = ends();
    await expect(client.request('ping', {})).rejects.toMatchObject({ detail: { kind: 'NO_HELLO' } });
  });

  it('needs no hello where the connection is the session', async () => {
    const { client } = ends({ session: 'connection' }, { session: 'connection' });
    expect(await client.request('ping', {})).toEqual({});
  });

  it('with params that break the schema is not even sent', async () => {
    const { client, server } = ends();
    await hello(client, WHO);
    const bad = client.request('link', { object: '../x', hook: 'npf' });
    await expect(bad).rejects.toMatchObject({ code: 'HT_USAGE', message: /^link: object: a name of/ });
    expect(server.counters.requests).toBe(1);
  });

  it('gets the typed error of its handler, with its data', async () => {
    const { client } = ends({
      methods: methods({
        link: () => {
          throw wireFailure('HOOK_BUSY', 'npf has a program', { program: 'other' });
        },
        load: () => {
          throw new HyperturtleError('HT_VERIFIER_REJECTED', 'refused', {
            detail: { log: `${'x'.repeat(20_000)}R1 invalid mem access` },
          });
        },
      }),
    });
    await hello(client, WHO);
    await expect(client.request('link', { object: 'a', hook: 'npf' })).rejects.toMatchObject({
      code: 'HT_BUSY',
      message: 'npf has a program',
      detail: { kind: 'HOOK_BUSY', program: 'other' },
    });
    const refused = await client.request('load', { name: 'a', elf: '' }).catch((e: unknown) => e);
    expect(refused).toMatchObject({ code: 'HT_VERIFIER_REJECTED', detail: { kind: 'VERIFIER' } });
    const { log } = (refused as HyperturtleError).detail as { log: string };
    expect(log).toHaveLength(16 << 10);
    expect(log).toMatch(/R1 invalid mem access$/);
  });

  it('learns nothing of the host when the host fails, but the log does', async () => {
    const error = vi.fn();
    const { client } = ends({
      methods: methods({
        ping: () => {
          throw new HyperturtleError('HT_KERNEL', '/secret/path: no such device');
        },
      }),
      log: { debug: () => {}, warn: () => {}, error },
    });
    await hello(client, WHO);
    const e = (await client.request('ping', {}).catch((x: unknown) => x)) as HyperturtleError;
    expect(e.message).not.toContain('secret');
    const reference = (error.mock.calls[0]![0] as { reference: string }).reference;
    expect(e.message).toContain(reference);
  });

  it('ends by its deadline, and the handler hears of it', async () => {
    const aborted = promised<unknown>();
    const { client } = ends({
      methods: methods({
        ping: (_, { signal }) => {
          signal.addEventListener('abort', () => aborted.resolve(signal.reason));
          return never();
        },
      }),
    });
    await hello(client, WHO);
    await expect(client.request('ping', {}, { timeoutMs: 20 })).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
    expect(await aborted.promise).toMatchObject({ detail: { kind: 'CANCELLED' } });
  });

  it('ends by its signal, and the handler hears of it', async () => {
    const aborted = promised();
    const started = promised();
    const { client } = ends({
      methods: methods({
        ping: (_, { signal }) => {
          signal.addEventListener('abort', () => aborted.resolve());
          started.resolve();
          return never();
        },
      }),
    });
    await hello(client, WHO);
    const stop = new AbortController();
    const asked = client.request('ping', {}, { signal: stop.signal });
    await started.promise;
    stop.abort(new Error('enough'));
    await expect(asked).rejects.toThrow('enough');
    await aborted.promise;
  });

  it('is answered with DEADLINE when the handler takes too long, and keeps its place until that ends', async () => {
    const { server, raw } = rawEnds({ limits: { maxRequestMs: 20 }, methods: methods({ stats: never }) });
    raw.request(1, 'hello', HELLO);
    raw.request(2, 'stats');
    expect(await raw.kindOf(2)).toBe('DEADLINE');
    expect(server.inProgress).toBe(1);
  });

  it('that is cancelled is answered with CANCELLED', async () => {
    const { raw } = rawEnds({
      methods: methods({
        stats: (_, { signal }) =>
          new Promise((__, reject) =>
            signal.addEventListener('abort', () => reject(new Error('whatever')), { once: true }),
          ),
      }),
    });
    raw.request(1, 'hello', HELLO);
    raw.request('two', 'stats');
    raw.send({ jsonrpc: '2.0', method: '$/cancelRequest', params: { id: 'two' } });
    expect(await raw.kindOf('two')).toBe('CANCELLED');
  });

  it('fails when the connection ends, with all others', async () => {
    const { client, streams } = ends({ methods: methods({ stats: never }) });
    await hello(client, WHO);
    const asked = [client.request('stats', {}), client.request('stats', {})];
    streams[0].end();
    for (const a of asked) await expect(a).rejects.toMatchObject({ code: 'HT_UNAVAILABLE' });
    await expect(client.request('ping', {})).rejects.toMatchObject({ code: 'HT_UNAVAILABLE' });
  });

  it('whose answer breaks the schema fails, and only it', async () => {
    const { client } = ends({ methods: methods({ stats: () => ({ hooks: 'none' }) as never }) });
    await hello(client, WHO);
    await expect(client.request('stats', {})).rejects.toMatchObject({ code: 'HT_WIRE' });
    expect(await client.request('ping', {})).toEqual({});
  });

  it('whose answer cannot be sent gets an error instead', async () => {
    const circular: Record<string, unknown> = {};
    circular['self'] = circular;
    const { client } = ends({
      limits: { maxFrameBytes: 4096 },
      methods: methods({
        stats: () => circular as never,
        'map.get': () => ({ value: 'A'.repeat(8192) }),
      }),
    });
    await hello(client, WHO);
    await expect(client.request('stats', {})).rejects.toMatchObject({ detail: { kind: 'INTERNAL' } });
    await expect(client.request('map.get', { object: 'a', map: 'b', key: '' })).rejects.toThrow(
      /8\d\d\d bytes, at most 4096/,
    );
  });
});

describe('a session', () => {
  it('ends with the next hello: its requests are aborted and not answered', async () => {
    const aborted = promised();
    const { raw } = rawEnds({
      methods: methods({
        stats: async (_, { signal }) => {
          await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
          aborted.resolve();
          return { hooks: [] };
        },
      }),
    });
    raw.request(1, 'hello', HELLO);
    raw.request(2, 'stats');
    // the agent is gone in the middle of a line; the next one uses the same ids
    raw.sendText('{"jsonrpc":"2.0","id":3,"met\n');
    raw.request(1, 'hello', { ...HELLO, nonce: 'another-nonce' });
    raw.request(2, 'ping');
    await raw.next((m) => (m['result'] as { nonce?: string } | undefined)?.nonce === 'another-nonce');
    await aborted.promise;
    expect(await raw.answerTo(2)).toMatchObject({ result: {} });
  });

  it('of an older protocol is refused, and there is none then', async () => {
    const { raw } = rawEnds();
    raw.request(1, 'hello', { ...HELLO, protocol: { min: 7, max: 9 } });
    raw.request(2, 'ping');
    expect(await raw.kindOf(1)).toBe('UNSUPPORTED_PROTOCOL');
    expect(await raw.kindOf(2)).toBe('NO_HELLO');
  });

  it('takes notifications after its hello was answered, and none before', async () => {
    const got: unknown[] = [];
    const { client, server } = ends(
      {},
      {
        onNotify: (name, params) => {
          got.push(name === 'event' ? params.seq : name);
        },
      },
    );
    expect(server.notify('events.lost', { count: 1 })).toBe(false);
    await hello(client, WHO);
    expect(got).toEqual([]); // hello.wanted came before
    const event = { seq: 7, time: LINK.since, type: 'link.made', link: LINK } as const;
    expect(server.notify('event', event)).toBe(true);
    await client.request('ping', {});
    expect(got).toEqual([7]);
  });

  it('takes the answer to its own hello only, by the nonce', async () => {
    const [theirs, ours] = duplexPair();
    const raw = new RawClient(theirs);
    const client = new RpcPeer(ours, { calls: METHODS });
    const asked = hello(client, WHO);
    const { id, params } = await raw.next((m) => m['method'] === 'hello');
    const result = { protocol: 1, daemon: { version: '1', kernel: '6', instance: INSTANCE }, limits: LIMITS };
    raw.send({ jsonrpc: '2.0', id, result: { ...result, vm: 'old', nonce: 'an-older-nonce' } });
    const { nonce } = params as { nonce: string };
    raw.send({ jsonrpc: '2.0', id, result: { ...result, vm: 'new', nonce } });
    expect((await asked).vm).toBe('new');
    expect(client.counters.ignoredLines).toBe(1);
  });
});

describe('backpressure', () => {
  it('holds further requests while as many as allowed are in progress', async () => {
    const open: (() => void)[] = [];
    const { server, raw } = rawEnds({
      limits: { maxInProgress: 4 },
      methods: methods({ stats: () => new Promise((r) => open.push(() => r({ hooks: [] }))) }),
    });
    raw.request(0, 'hello', HELLO);
    for (let id = 1; id <= 10; id++) raw.request(id, 'stats');
    await vi.waitFor(() => expect(open).toHaveLength(4));
    expect(server.inProgress).toBe(4);
    expect(server.counters.pausedForRequests).toBeGreaterThan(0);
    for (let done = 0; done < 10; done++) {
      await vi.waitFor(() => expect(open.length).toBeGreaterThan(0));
      open.shift()!();
    }
    for (let id = 1; id <= 10; id++) expect(await raw.answerTo(id)).toHaveProperty('result');
  });

  it('lets one large answer be prepared at a time', async () => {
    let now = 0;
    let most = 0;
    const { raw } = rawEnds({
      methods: methods({
        'map.dump': async () => {
          most = Math.max(most, ++now);
          await Promise.resolve();
          now--;
          return { entries: [] };
        },
      }),
    });
    raw.request(0, 'hello', HELLO);
    for (let id = 1; id <= 5; id++) raw.request(id, 'map.dump', { object: 'a', map: 'b' });
    for (let id = 1; id <= 5; id++) expect(await raw.answerTo(id)).toHaveProperty('result');
    expect(most).toBe(1);
  });

  it('drops and counts notifications that are not taken, and tells when there is room', async () => {
    const onDrain = vi.fn();
    const { server, raw } = rawEnds({ onDrain, limits: { maxQueuedNotificationBytes: 4096 } });
    raw.request(0, 'hello', HELLO);
    await raw.answerTo(0);
    raw.stream.pause();
    let sent = 0;
    while (server.notify('events.lost', { count: sent })) sent++;
    expect(sent).toBeGreaterThan(20);
    expect(server.queuedBytes).toBeLessThan(4096 + 100);
    expect(server.counters.droppedNotifications).toBe(1);
    raw.stream.resume();
    await vi.waitFor(() => expect(onDrain).toHaveBeenCalledTimes(1));
    expect(server.notify('events.lost', { count: 1 })).toBe(true);
  });

  it('closes a peer that takes no output', async () => {
    const onClose = vi.fn();
    const { raw } = rawEnds({ onClose, limits: { maxQueuedBytes: 1 << 17, stallTimeoutMs: 30 } });
    raw.stream.pause();
    raw.request(0, 'hello', HELLO);
    for (let id = 1; id < 5000; id++) raw.request(id, 'ping');
    await vi.waitFor(() => expect(onClose).toHaveBeenCalledTimes(1), { timeout: 8000 });
    expect(onClose.mock.calls[0]![0]).toMatchObject({ code: 'HT_WIRE' });
  });

  it('reads no faster than the rate, without errors', async () => {
    const { server, raw } = rawEnds({ limits: { requestsPerSecond: 200 } });
    raw.request(0, 'hello', HELLO);
    const t0 = performance.now();
    for (let id = 1; id <= 100; id++) raw.request(id, 'ping');
    expect(await raw.answerTo(100)).toHaveProperty('result');
    // 50 at once, 50 more at 200/s
    expect(performance.now() - t0).toBeGreaterThan(200);
    expect(server.counters.pausedForRate).toBeGreaterThan(0);
    expect(server.counters.badLines).toBe(0);
  });
});
