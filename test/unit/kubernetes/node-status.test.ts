/** What the cluster is told of a node, and how often. */
import { describe, expect, it } from 'vitest';
import { HyperturtleError } from '../../../src/core/errors.ts';
import { tellNodeStatus, verdict } from '../../../src/kubernetes/node-status.ts';
import type { Verdict } from '../../../src/kubernetes/node-status.ts';

type Asked = Parameters<typeof verdict>;

/** What is looked at of an agent's answer. */
const STATUS = {
  host: { state: 'connected', vm: 'tenant1', lastError: null },
  module: { state: 'present', arenaBound: true, enabled: true },
  desired: { reached: true, problems: [] },
};
const NPF = [{ hook: 'npf' }];

it.each([
  ['Linked', {}, NPF],
  ['NotConnected', { host: { state: 'waiting', lastError: 'no port' } }, NPF],
  ['NoModule', { module: null }, NPF],
  ['NoModule', { module: { ...STATUS.module, state: 'absent' } }, NPF],
  ['NoArena', { module: { ...STATUS.module, arenaBound: false } }, NPF],
  ['Disabled', { module: { ...STATUS.module, enabled: false } }, NPF],
  ['NoProgram', {}, [{ hook: 'exit' }]],
  ['NotInForce', { desired: { reached: false, problems: [{ step: 'load npf', message: 'refused' }] } }, NPF],
])('says %s', (reason, change, links) => {
  const found = verdict({ ...STATUS, ...change } as unknown as Asked[0], links as unknown as Asked[1]);
  expect(found).toMatchObject({ reason, status: reason === 'Linked' ? 'True' : 'False' });
});

const YES: Verdict = { status: 'True', reason: 'Linked', message: 'm' };
const NO: Verdict = { status: 'False', reason: 'NoArena', message: 'm' };

interface Applied {
  part: string;
  object: { status?: { conditions: { reason: string; lastTransitionTime: string }[] } };
}

/** Tells while the answers last; each is of one look, a millisecond after the one before. */
async function told(
  answers: (Verdict | Error)[],
  more: { earlier?: object; graceMs?: number; failures?: number; failure?: Error } = {},
): Promise<Applied[]> {
  const applied: Applied[] = [];
  const end = new AbortController();
  let failures = more.failures ?? 0;
  await tellNodeStatus('n1', {
    look: () => {
      const next = answers.shift();
      if (next === undefined) end.abort(new Error('end'));
      end.signal.throwIfAborted();
      return next instanceof Error ? Promise.reject(next) : Promise.resolve(next!);
    },
    node: () => Promise.resolve({ status: { conditions: more.earlier ? [more.earlier] : [] } }),
    apply: (part, object) => {
      if (failures-- > 0) return Promise.reject(more.failure ?? new Error('no'));
      applied.push({ part, object });
      return Promise.resolve();
    },
    log: { info: () => {}, warn: () => {} },
    signal: end.signal,
    now: () => new Date('2026-01-02T03:04:05.678Z'),
    everyMs: 1,
    graceMs: more.graceMs ?? 0,
  }).catch((e: unknown) => {
    if ((e as Error).message !== 'end') throw e;
  });
  return applied;
}
const conditions = (applied: Applied[]) => applied.flatMap((a) => a.object.status?.conditions ?? []);
const statuses = (applied: Applied[]): string[] => conditions(applied).map((c) => c.reason);

describe('the node', () => {
  it('has label and condition once, and again when something changes', async () => {
    const applied = await told([YES, YES, YES, NO, NO]);
    expect(applied[0]).toEqual({
      part: 'node',
      object: {
        apiVersion: 'v1',
        kind: 'Node',
        metadata: { name: 'n1', labels: { 'hyperturtle.io/accelerated': 'true' } },
      },
    });
    expect(conditions(applied.slice(0, 2))).toEqual([
      {
        type: 'HyperTurtleAccelerated',
        status: 'True',
        reason: 'Linked',
        message: 'm',
        lastTransitionTime: '2026-01-02T03:04:05Z',
        lastHeartbeatTime: '2026-01-02T03:04:05Z',
      },
    ]);
    // without the label: the API takes it away
    expect(applied[2]).toEqual({
      part: 'node',
      object: { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' } },
    });
    expect(statuses(applied)).toEqual(['Linked', 'NoArena']);
  });

  it('keeps the label while its agent is replaced', async () => {
    const away = new HyperturtleError('HT_UNAVAILABLE', 'no agent');
    expect(statuses(await told([YES, away, away, YES], { graceMs: 60_000 }))).toEqual(['Linked']);
    expect(statuses(await told([YES, away, YES]))).toEqual(['Linked', 'NoAgent', 'Linked']);
  });

  it('keeps the time of a change over a restart of its own', async () => {
    const earlier = {
      ...{ type: 'HyperTurtleAccelerated', status: 'True', reason: 'Linked', message: 'm' },
      lastTransitionTime: '2025-01-01T00:00:00Z',
    };
    const [written] = conditions(await told([YES], { earlier }));
    expect(written?.lastTransitionTime).toBe('2025-01-01T00:00:00Z');
  });

  it('is told again after the API refused', async () => {
    expect(statuses(await told([YES, YES, YES], { failures: 2 }))).toEqual(['Linked']);
  });

  it('is told again no sooner than the API asks for', async () => {
    const begin = performance.now();
    const failure = new HyperturtleError('HT_BUSY', '429', { detail: { status: 429, retryAfterMs: 150 } });
    expect(statuses(await told([YES, YES], { failures: 1, failure }))).toEqual(['Linked']);
    expect(performance.now() - begin).toBeGreaterThan(140);
  });
});
