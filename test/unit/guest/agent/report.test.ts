/** What an agent tells its host for anyone who watches there. */
import { expect, it } from 'vitest';
import { keepReporting, l1Report } from '../../../../src/guest/agent/report.ts';
import type { HostCalls } from '../../../../src/guest/agent/reconcile.ts';
import { wireFailure } from '../../../../src/wire/errors.ts';
import { METHODS, PROTOCOL } from '../../../../src/wire/schema.ts';
import type { L1Report } from '../../../../src/wire/schema.ts';

const NOTHING: L1Report = { pool: null, l2Count: 0, l2s: [] };

const l2 = (n: number) => ({
  pid: n,
  name: `\u202e${'x'.repeat(90)}`,
  number: n,
  since: '2026-11-22T10:00:00.000Z',
  pages: 1,
  pagesHeld: 2,
  framesCharged: 30,
  framesCredit: 10,
  cgroup: '/machine/a',
  pagesUnused: 1,
  framesTaken: 2,
  faults: 3,
  mappedExisting: 4,
  mappedNew: 5,
  mappedAhead: 6,
  passes: 7,
  slotChanges: 8,
});

/** A host that answers as told. */
function host(answer: () => { nextMs: number }): { calls: unknown[]; host: HostCalls } {
  const calls: unknown[] = [];
  const request = (_method: string, params: unknown): Promise<unknown> => {
    calls.push(params);
    return new Promise((resolve) => resolve(answer()));
  };
  return { calls, host: { request } as unknown as HostCalls };
}

it('is what the host takes, however many nested guests there are and whatever they are called', () => {
  const report = l1Report({ module: null, l2s: Array.from({ length: 70 }, (_, i) => l2(i)) }, PROTOCOL.max);
  expect(METHODS.report.params().safeParse(report).error).toBeUndefined();
  expect([report.l2Count, report.l2s.length, report.pool]).toEqual([70, 64, null]);
});

it('has why a nested guest has no index, for a host that knows of that', () => {
  const l2s = [{ ...l2(1), slots: 0, noIndex: 'no page '.repeat(99) }];
  const [told] = l1Report({ module: null, l2s }, 2).l2s;
  expect(told?.noIndex).toMatch(/^no page/);
  expect(METHODS.report.params().safeParse(l1Report({ module: null, l2s }, 2)).error).toBeUndefined();
  expect(l1Report({ module: null, l2s }, 1).l2s[0]).not.toHaveProperty('noIndex');
});

it('is sent again when the host wants it, not more often than once a second', async () => {
  const end = new AbortController();
  const { calls, host: to } = host(() => ({ nextMs: 0 }));
  const done = keepReporting(to, () => NOTHING, end.signal).catch((e: unknown) => e);
  await new Promise((r) => setTimeout(r, 1300));
  end.abort(new Error('session over'));
  expect(await done).toMatchObject({ message: 'session over' });
  expect(calls).toHaveLength(2);
});

it('ends for a host that does not know it, and outlives one that refuses', async () => {
  const old = host(() => {
    throw wireFailure('METHOD_NOT_FOUND', 'no');
  });
  await keepReporting(old.host, () => NOTHING, new AbortController().signal);
  expect(old.calls).toHaveLength(1);
  const end = new AbortController();
  const busy = host(() => {
    throw wireFailure('BUSY', 'later');
  });
  const done = keepReporting(busy.host, () => NOTHING, end.signal).catch((e: unknown) => e);
  await new Promise((r) => setTimeout(r, 20));
  end.abort(new Error('over'));
  expect(await done).toMatchObject({ message: 'over' });
});
