/** Numbers of events over a restart of the agent. */
import { setImmediate as turn } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { EventRelay } from '../../../../src/guest/agent/relay.ts';
import type { Event } from '../../../../src/wire/schema.ts';

const event = (object: string): Event => ({
  seq: 1,
  time: '2026-11-22T10:00:02.000Z',
  type: 'object.unloaded',
  object,
});

/** What a session is told. */
async function told(relay: EventRelay, since: number | undefined, epoch?: string): Promise<string[]> {
  const names: string[] = [];
  const session = {
    signal: new AbortController().signal,
    notify: (name: string, p: { seq?: number; object?: string; count?: number }) =>
      names.push(name === 'event' ? `${p.seq} ${p.object}` : `${name} ${p.count}`) > 0,
  };
  relay.follow(session as never, since, epoch);
  await turn();
  await turn();
  return names;
}

it('have an epoch: who names an old one is told all that is kept, and sees the break', async () => {
  const before = new EventRelay();
  for (const o of ['a', 'b', 'c']) before.add(event(o));
  expect(await told(before, 3, before.epoch)).toEqual(['3 c']);
  // the agent starts again
  const after = new EventRelay();
  after.add(event('d'));
  expect(after.epoch).not.toBe(before.epoch);
  // without an epoch: as before, nothing is said of what happened between
  expect(await told(after, 4)).toEqual([]);
  expect(await told(after, 4, before.epoch)).toEqual(['1 d']);
  expect(await told(after, undefined)).toEqual([]);
});
