/** Events of a VM: numbered, kept for a while, told to who follows as fast as that reads. */
import { describe, expect, it } from 'vitest';
import { EventFeed } from '../../../../src/host/vm/event-feed.ts';
import { EventRing } from '../../../../src/host/vm/events.ts';
import type { RpcSession } from '../../../../src/wire/handlers.ts';
import { NOTIFICATIONS } from '../../../../src/wire/schema.ts';

const turn = (): Promise<void> => new Promise((r) => setImmediate(r));

/** A session whose peer takes `room` notifications and then no more. */
function session(room = Infinity): {
  told: unknown[];
  session: RpcSession;
  end: () => void;
  room: (n: number) => void;
} {
  const ended = new AbortController();
  const told: unknown[] = [];
  let left = room;
  return {
    told,
    end: () => ended.abort(),
    room: (n) => (left = n),
    session: {
      signal: ended.signal,
      notify: (name, params) => {
        if (left <= 0) return false;
        left--;
        NOTIFICATIONS[name]().parse(params);
        told.push('seq' in params ? params.seq : name === 'events.lost' ? params : name);
        return true;
      },
    },
  };
}

const fill = (ring: EventRing, n: number): void => {
  for (let i = 0; i < n; i++) ring.add({ type: 'object.unloaded', object: `o${i}` });
};

describe('the ring of events', () => {
  it('numbers from 1 and keeps the last 1024', () => {
    const ring = new EventRing();
    fill(ring, 1030);
    expect(ring.next).toBe(1031);
    expect(ring.from(1025)).toMatchObject({ lost: 0 });
    expect(ring.from(1025).events.map((e) => e.seq)).toEqual([1025, 1026, 1027, 1028, 1029, 1030]);
    expect(ring.from(1)).toMatchObject({ lost: 6 });
    expect(ring.from(1).events).toHaveLength(1024);
    expect(ring.from(2000).events).toEqual([]);
  });
});

describe('a feed', () => {
  it('tells what was and what comes, once each', async () => {
    const ring = new EventRing();
    fill(ring, 3);
    const s = session();
    new EventFeed(ring, s.session, 2);
    expect(s.told).toEqual([]);
    await turn();
    fill(ring, 1);
    expect(s.told).toEqual([2, 3, 4]);
  });

  it('goes on where it stopped when there is room again', async () => {
    const ring = new EventRing();
    const s = session(1);
    const feed = new EventFeed(ring, s.session, 1);
    await turn();
    fill(ring, 3);
    expect(s.told).toEqual([1]);
    s.room(10);
    feed.pump();
    expect(s.told).toEqual([1, 2, 3]);
  });

  it('says how many are lost when the ring has gone over them', async () => {
    const ring = new EventRing();
    const s = session(0);
    const feed = new EventFeed(ring, s.session, 1);
    await turn();
    fill(ring, 1034);
    s.room(2);
    feed.pump();
    expect(s.told).toEqual([{ count: 10 }, 11]);
  });

  it('ends with its session', async () => {
    const ring = new EventRing();
    const s = session();
    new EventFeed(ring, s.session, 1);
    s.end();
    await turn();
    fill(ring, 2);
    expect(s.told).toEqual([]);
  });
});
