import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
// @ts-expect-error: a script without types, since nothing is installed when it starts
import * as suites from '../../../scripts/suites.mjs';
import config from '../../../vitest.config.ts';

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}
const { SUITES, chosen, count, table } = suites as {
  SUITES: Record<string, unknown>;
  chosen: (args: string[]) => { names: string[]; rest: string[] };
  count: (report: unknown, status: number) => Counts;
  table: (rows: (Counts & { name: string; seconds: number })[]) => string;
};

test('the bootstrap refuses what it does not know, in one line and with status 2', () => {
  const r = spawnSync(process.execPath, ['scripts/bootstrap.mjs', 'dance'], { encoding: 'utf8' });
  expect(r.status).toBe(2);
  expect(r.stderr).toBe('usage: node scripts/bootstrap.mjs demo|test|check [arguments]\n');
  expect(r.stdout).toBe('');
});

test('npm test runs three suites, names choose others, all is every one, and the rest is for vitest', () => {
  expect(chosen([])).toEqual({ names: ['unit', 'integration', 'lab'], rest: [] });
  expect(chosen(['soak', 'lab', '-t', 'x'])).toEqual({ names: ['lab', 'soak'], rest: ['-t', 'x'] });
  expect(chosen(['all'])).toEqual({ names: Object.keys(SUITES), rest: [] });
  const { projects } = (config as { test: { projects: { test: { name: string } }[] } }).test;
  expect(Object.keys(SUITES).sort()).toEqual(projects.map((p) => p.test.name).sort());
});

test('a suite that failed without a failed test counts as one, and the table has a line for each', () => {
  const none = { numPassedTests: 3, numFailedTests: 0, numPendingTests: 1, numTodoTests: 0, testResults: [] };
  expect(count(none, 1)).toEqual({ passed: 3, failed: 1, skipped: 1 });
  expect(count(undefined, 0)).toEqual({ passed: 0, failed: 0, skipped: 0 });
  const broken = { ...none, testResults: [{ status: 'failed', assertionResults: [] }] };
  expect(count(broken, 1).failed).toBe(1);
  const rows = [{ name: 'unit', ...count(none, 0), seconds: 61 }];
  expect(table(rows)).toBe('suite  passed  failed  skipped  min:s\nunit        3       0        1   1:01');
});
