/** Which nodes a set reaches. */
import { describe, expect, it } from 'vitest';
import { choiceFor, placeOf } from '../../../src/fleet/rollout.ts';
import type { SetSpec } from '../../../src/fleet/spec.ts';

const at = (name: string): { configMap: { name: string; key: string } } => ({
  configMap: { name, key: 'npf.bpf.o' },
});
const nodes = Array.from({ length: 10_000 }, (_, i) => ({ name: `node-${i}`, labels: {} }));
const versions = (spec: SetSpec, set = 'npf'): (string | undefined)[] =>
  nodes.map((n) => choiceFor({ name: set, spec }, n)?.version);
const reached = (percent: number, set = 'npf'): Set<string> => {
  const got = versions({ object: at('v1'), rollout: { object: at('v2'), percent } }, set);
  return new Set(nodes.filter((_, i) => got[i] === 'rollout').map((n) => n.name));
};

describe('a rollout', () => {
  it.each([0, 1, 10, 50, 100])('to %i percent reaches that many of the nodes', (percent) => {
    const { size } = reached(percent);
    // four standard deviations
    const off = 4 * Math.sqrt(nodes.length * (percent / 100) * (1 - percent / 100));
    expect(Math.abs(size - (nodes.length * percent) / 100)).toBeLessThanOrEqual(off);
  });

  it('reaches again what it reached before, and the same everywhere', () => {
    const [one, ten, half] = [reached(1), reached(10), reached(50)];
    expect([...one].filter((n) => !ten.has(n))).toEqual([]);
    expect([...ten].filter((n) => !half.has(n))).toEqual([]);
    // the number is that of any other machine and version of this program
    expect(placeOf('npf', 'node-0').toFixed(6)).toBe('44.112509');
  });

  it('of another set reaches others first', () => {
    const others = reached(10, 'firewall');
    const both = [...reached(10)].filter((n) => others.has(n));
    expect(both.length).toBeLessThan(200);
  });

  it('reaches nodes by labels as well, and no others without a percentage', () => {
    const spec = { object: at('v1'), rollout: { object: at('v2'), labels: { canary: 'true' } } };
    const choose = (labels: Record<string, string>): string | undefined =>
      choiceFor({ name: 'npf', spec }, { name: 'node-0', labels })?.version;
    expect(choose({ canary: 'true', other: 'x' })).toBe('rollout');
    expect(choose({ canary: 'false' })).toBe('object');
    expect(choose({})).toBe('object');
  });

  it('without percentage and labels is for all', () => {
    expect(new Set(versions({ rollout: { object: at('v2') } }))).toEqual(new Set(['rollout']));
  });

  it('of a first version leaves the others without one', () => {
    const got = versions({ rollout: { object: at('v1'), percent: 10 } });
    expect(new Set(got)).toEqual(new Set(['rollout', undefined]));
  });

  it('is for nodes of the selector alone', () => {
    const spec = { object: at('v1'), nodeSelector: { pool: 'a' } };
    const choose = (labels: Record<string, string>): unknown =>
      choiceFor({ name: 'npf', spec }, { name: 'node-0', labels });
    expect(choose({ pool: 'a' })).toEqual({ version: 'object', object: at('v1') });
    expect(choose({ pool: 'b' })).toBeUndefined();
    // what every object inherits is no label
    expect(
      choiceFor({ name: 'npf', spec: { ...spec, nodeSelector: { constructor: '' } } }, nodes[0]!),
    ).toBeUndefined();
  });
});
