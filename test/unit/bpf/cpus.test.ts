import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { countCpus, possibleCpus } from '../../../src/bpf/map-ops.ts';

it('CPUs are counted as the kernel lists them', () => {
  expect(countCpus('0\n')).toBe(1);
  expect(countCpus('0-3,8\n')).toBe(5);
  expect(countCpus('0-1,4-5,7')).toBe(5);
  for (const bad of ['', '\n', 'x', '0-', '0,,1', '5-3'])
    expect(() => countCpus(bad)).toThrow(/expected a list of CPUs such as 0-3,8/);
});

it('this machine has as many as it shows, or more', () => {
  const shown = readFileSync('/proc/cpuinfo', 'utf8').match(/^processor/gm)?.length ?? 0;
  expect(possibleCpus()).toBeGreaterThanOrEqual(shown);
});
