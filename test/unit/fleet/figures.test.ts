/** What is counted of rounds. */
import { expect, it } from 'vitest';
import { Convergence } from '../../../src/fleet/figures.ts';
import type { SetStatus } from '../../../src/fleet/spec.ts';

const set = (name: string, more: Partial<SetStatus> = {}): SetStatus => ({
  ...{ name, generation: 1, version: 'object', phase: 'Linked', links: 1, since: '2026-01-01T00:00:00.000Z' },
  ...more,
});
const now = (): number => performance.now();

it('takes the time from a change until all is linked, not from look to look', () => {
  const c = new Convergence();
  expect(c.figures).toMatchObject({ converged: false, convergenceMs: undefined });
  c.round([set('a', { phase: 'Pending' })], now() - 50);
  expect(c.figures.converged).toBe(false);
  c.round([set('a')], now());
  expect(c.figures.converged).toBe(true);

  const changedAt = now() - 4000;
  c.round([set('a', { generation: 2, phase: 'Pending' })], changedAt);
  expect(c.figures.converged).toBe(false);
  c.round([set('a', { generation: 2 })], now());
  const { converged, convergenceMs = 0 } = c.figures;
  expect(converged).toBe(true);
  expect(convergenceMs).toBeGreaterThanOrEqual(4000);
  // nothing changed
  c.round([set('a', { generation: 2 })], now() - 100_000);
  expect(c.figures.convergenceMs).toBe(convergenceMs);
});

it('is no longer converged when what was linked is not', () => {
  const c = new Convergence();
  c.round([set('a')], now());
  c.round([set('a', { phase: 'Pending' })], now());
  expect(c.figures.converged).toBe(false);
});

it('counts a refusal once while it stays the same, and sets by their phase', () => {
  const c = new Convergence();
  const refused = set('a', { phase: 'Refused', kind: 'REFUSED' });
  c.round([refused, set('b')], now());
  c.round([refused, set('b')], now());
  expect([...c.figures.refused]).toEqual([['REFUSED', 1]]);
  expect(Object.fromEntries(c.figures.phases)).toEqual({
    ...{ Pending: 0, Admitted: 0, Linked: 1, Refused: 1, Failed: 0 },
  });
  c.round([{ ...refused, generation: 2 }, set('b', { phase: 'Failed' })], now());
  expect(Object.fromEntries(c.figures.refused)).toEqual({ REFUSED: 2, none: 1 });
});
