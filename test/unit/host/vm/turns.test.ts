/** One VM's work in order and in bounds. */
import { describe, expect, it } from 'vitest';
import { Turns } from '../../../../src/core/turns.ts';
import { Budget } from '../../../../src/host/vm/budget.ts';

describe('turns', () => {
  it('are taken one after the other, in order, also when one fails', async () => {
    const turns = new Turns();
    const seen: string[] = [];
    const work =
      (name: string, fail = false) =>
      async (): Promise<string> => {
        seen.push(`${name} begins`);
        await new Promise((r) => setImmediate(r));
        seen.push(`${name} ends`);
        if (fail) throw new Error(name);
        return name;
      };
    const all = [turns.take(work('a')), turns.take(work('b', true)), turns.take(work('c'))];
    expect((await Promise.allSettled(all)).map((r) => r.status)).toEqual([
      'fulfilled',
      'rejected',
      'fulfilled',
    ]);
    expect(seen).toEqual(['a begins', 'a ends', 'b begins', 'b ends', 'c begins', 'c ends']);
  });

  it('that are cancelled while waiting are never begun, and hold nobody up', async () => {
    const turns = new Turns();
    let release!: () => void;
    const first = turns.take(() => new Promise<void>((r) => (release = r)));
    const cancel = new AbortController();
    let begun = false;
    const second = turns.take(() => {
      begun = true;
    }, cancel.signal);
    const third = turns.take(() => 'third');
    cancel.abort(new Error('cancelled'));
    await expect(second).rejects.toThrow('cancelled');
    release();
    await first;
    expect(await third).toBe('third');
    expect(begun).toBe(false);
  });
});

describe('a budget', () => {
  it('gives its burst at once and then what time earns, to the whole number', () => {
    let now = 0;
    const budget = new Budget(100, 10, () => now);
    expect(budget.takeSome(50)).toBe(10);
    expect(budget.takeSome(50)).toBe(0);
    now = 55;
    expect(budget.takeSome(50)).toBe(5);
    now = 10_000;
    expect(budget.takeSome(50)).toBe(10);
  });

  it('makes who takes more wait until it is earned, and those after him as well', async () => {
    let now = 0;
    const budget = new Budget(1000, 10, () => now);
    await budget.take(10);
    const t0 = performance.now();
    await budget.take(60);
    expect(performance.now() - t0).toBeGreaterThanOrEqual(55);
    expect(budget.takeSome(1)).toBe(0);
    now = 61;
    expect(budget.takeSome(1)).toBe(1);
  });

  it('stops waiting with the signal', async () => {
    const budget = new Budget(1, 1, () => 0);
    await budget.take(1);
    const cancel = new AbortController();
    const waiting = budget.take(1000, cancel.signal);
    cancel.abort(new Error('cancelled'));
    await expect(waiting).rejects.toThrow('cancelled');
  });
});
