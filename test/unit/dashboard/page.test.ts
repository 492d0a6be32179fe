/** The parts of the dashboard's page that need no browser: rates, numbers as text, addresses. */
import { describe, expect, it } from 'vitest';
import type { Vm } from '../../../src/dashboard/model.ts';
import { bytes, duration, rate, share } from '../../../src/dashboard/page/format.ts';
import { History, KEPT } from '../../../src/dashboard/page/history.ts';
import { keyOfTotal, remember } from '../../../src/dashboard/page/counted.ts';
import { hashOf, routeOf } from '../../../src/dashboard/page/routes.ts';

describe('rates', () => {
  const looks = (history: History, ...at: [ms: number, value: number][]): number | undefined => {
    for (const [ms, value] of at) {
      history.begin();
      history.add('k', ms, value);
      history.end();
    }
    return history.rate('k');
  };

  it('are per second between looks, and none after one look alone', () => {
    expect(looks(new History(), [0, 100])).toBeUndefined();
    expect(looks(new History(), [0, 100], [2000, 300])).toBe(100);
    expect(looks(new History(), [0, 100], [2000, 300], [2000, 300])).toBe(100);
  });

  it('begin again with a counter that fell, and after the page slept', () => {
    expect(looks(new History(), [0, 100], [2000, 300], [4000, 5])).toBeUndefined();
    expect(looks(new History(), [0, 100], [60_000, 300])).toBeUndefined();
  });

  it('are kept for a while only, and forgotten with what they were of', () => {
    const history = new History();
    looks(history, ...Array.from({ length: KEPT + 20 }, (_, i): [number, number] => [i * 2000, i]));
    expect(history.rates('k')).toHaveLength(KEPT);
    history.begin();
    history.end();
    expect(history.rates('k')).toEqual([]);
  });
});

it('a daemon that has attached a VM again has other counters: no rate and no dip between them, whatever they have reached', () => {
  const history = new History();
  const look = (atMs: number, countedSince: string, inL0: number): Vm => {
    const totals = { events: inL0, inL0, there: 0, toL1: 0 };
    const vm = { name: 'one', pid: 7, countedSince, stats: [], totals, l1: null } as unknown as Vm;
    history.begin();
    remember(history, atMs, [vm]);
    history.end();
    return vm;
  };
  look(0, 'a', 100);
  const before = look(2000, 'a', 300);
  expect(history.rate(keyOfTotal(before, 'inL0'))).toBe(100);
  // more than the old ones had: that they began at 0 cannot be seen by the number
  const after = look(4000, 'b', 900);
  expect(history.rates(keyOfTotal(after, 'inL0'))).toEqual([]);
  look(6000, 'b', 1000);
  expect(history.rates(keyOfTotal(after, 'inL0'))).toEqual([50]);
});

it('numbers say no more than they know', () => {
  expect([share(999_999, 1_000_000), share(1, 1), share(0, 10), share(1, 0)]).toEqual([
    '99.9%',
    '100%',
    '0%',
    '–',
  ]);
  expect([rate(undefined), rate(0), rate(0.25), rate(1234), rate(1_234_567)]).toEqual([
    '–',
    '0',
    '0.3',
    '1,234',
    '1.2M',
  ]);
  expect([bytes(512), bytes(1 << 20), bytes(224 << 20)]).toEqual(['512 B', '1.0 MiB', '224 MiB']);
  expect([duration(900), duration(1600), duration(2.5e6)]).toEqual(['900 ns', '1.6 µs', '2.5 ms']);
});

it('addresses lead where they say, whatever a VM is called, and bad ones to the host', () => {
  for (const route of [{ at: 'host' }, { at: 'vm', vm: 'a/b %2f#' }, { at: 'l2', vm: 'x', pid: 7 }] as const)
    expect(routeOf(hashOf(route))).toEqual(route);
  for (const bad of ['', '#', '#/vm/', '#/vm/%', '#t=abc', '#/else'])
    expect(routeOf(bad)).toEqual({ at: 'host' });
  expect(routeOf('#/vm/x/l2/-1')).toEqual({ at: 'vm', vm: 'x' });
});
