/** A newer daemon says more than an older agent knows. */
import { describe, expect, it } from 'vitest';
import { HyperturtleError } from '../../../src/core/errors.ts';
import { hello } from '../../../src/wire/hello.ts';
import { METHODS, NOTIFICATIONS } from '../../../src/wire/schema.ts';
import { tolerant } from '../../../src/wire/tolerant.ts';
import { BOOT_ID, HELLO, LIMITS, LINK, ends, methods } from '../../support/wire.ts';

const WHO = { agent: HELLO.agent, bootId: BOOT_ID };

/** The value with a member more in each of its objects but `reasons`, whose members are names of any kind. */
function extended(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(extended);
  if (typeof value !== 'object' || value === null) return value;
  return {
    ...Object.fromEntries(Object.entries(value).map(([k, v]) => [k, k === 'reasons' ? v : extended(v)])),
    later: { a: 1 },
  };
}

const EXIT_STATS = { seen: 1, handled: 1, returned: 0, l1Ns: 0, l0Ns: 9 };
const STATS = {
  hook: 'exit',
  linked: true,
  runs: 1,
  handled: 1,
  entries: 0,
  learned: 0,
  passed: 0,
  reasons: {},
  exits: { cpuid: EXIT_STATS },
};

describe('an answer with members that are not known', () => {
  it('is understood, and the members are left out', async () => {
    const links = [{ ...LINK, hook: 'exit', options: { exits: ['cpuid'] } }];
    const list = { vm: 'tenant1', arena: { bytes: 1, state: 'absent' }, objects: [], links };
    const { client } = ends({
      methods: methods({
        limits: () => extended({ limits: LIMITS, used: LIMITS, hooks: [], signature: 'none' }) as never,
        list: () => extended(list) as never,
        stats: () => extended({ hooks: [STATS] }) as never,
      }),
    });
    await hello(client, WHO);
    expect(await client.request('list', {})).toEqual(list);
    // a kind of exit that was added is one of those members
    expect(await client.request('stats', {})).toEqual({ hooks: [STATS] });
  });

  it('is still refused for what is wrong in what is known', async () => {
    const { client } = ends({
      methods: methods({ unlink: () => [] as never, list: () => ({ vm: 'a/b', later: 1 }) as never }),
    });
    await hello(client, WHO);
    for (const bad of [client.request('list', {}), client.request('unlink', { id: 1 })])
      await expect(bad).rejects.toMatchObject({ code: 'HT_WIRE', message: /not as documented/ });
  });

  it('is never in a schema that refuses it', () => {
    const tables = [...Object.values(METHODS).map((m) => m.result), ...Object.values(NOTIFICATIONS)];
    for (const schema of tables) {
      const issues = tolerant(schema()).safeParse({ type: 'vm.reset', later: 1 }).error?.issues ?? [];
      expect(issues.filter((i) => i.code === 'unrecognized_keys')).toEqual([]);
    }
  });
});

describe('a notification', () => {
  it('with more members is taken, and an event of an unknown type ignored', async () => {
    const told: unknown[] = [];
    const { client, server } = ends({}, { onNotify: (name, params) => told.push([name, params]) });
    await hello(client, WHO);
    const event = { seq: 1, time: '2026-01-01T00:00:00Z', type: 'vm.reset', reason: 'x' } as const;
    server.notify('event', { ...event, later: 1 } as never);
    server.notify('event', { ...event, type: 'vm.later' } as never);
    server.notify('events.lost', { count: 2 });
    await client.request('ping', {});
    expect(told).toEqual([
      ['event', event],
      ['events.lost', { count: 2 }],
    ]);
  });
});

describe('a request with members that are not known', () => {
  it('is refused by the server', async () => {
    const { client } = ends();
    await hello(client, WHO);
    const more = client.call({ ...METHODS.ping, params: METHODS.unlink.params }, 'ping', { id: 1 });
    await expect(more).rejects.toBeInstanceOf(HyperturtleError);
    await expect(more).rejects.toMatchObject({ detail: { kind: 'INVALID_PARAMS' } });
  });
});
