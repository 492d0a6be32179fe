import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
// @ts-expect-error: a script without types, since nothing is installed when it starts
import * as suites from '../../../scripts/suites.mjs';
import { waitFor } from '../../../src/core/wait.ts';
import config from '../../../vitest.config.ts';

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}
const { SUITES, chosen, count, failures, table } = suites as {
  SUITES: Record<string, unknown>;
  chosen: (args: string[]) => { names: string[]; rest: string[] };
  count: (report: unknown, status: number) => Counts;
  failures: (name: string, report: unknown) => string[];
  table: (rows: (Counts & { name: string; seconds: number })[]) => string;
};

const whyNoFlock = spawnSync('flock', ['--version']).error?.message;

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

test('what failed is told in a line each, also a file that does not load', () => {
  const ok = { status: 'passed', fullName: 'x', failureMessages: [] };
  const wrong = { status: 'failed', fullName: 'two L1s share', failureMessages: ['Error: 2\n    at y'] };
  const report = {
    testResults: [
      { name: '/a/tenants.test.ts', status: 'failed', message: '', assertionResults: [ok, wrong] },
      { name: '/a/broken.test.ts', status: 'failed', message: 'no such module\nat', assertionResults: [] },
      { name: '/a/good.test.ts', status: 'passed', message: '', assertionResults: [ok] },
    ],
  };
  expect(failures('lab', report)).toEqual([
    'lab: tenants.test.ts: two L1s share: Error: 2',
    'lab: broken.test.ts: no such module',
  ]);
  expect(failures('lab', undefined)).toEqual([]);
});

test.skipIf(whyNoFlock !== undefined)(
  `two runs in one clone take turns${whyNoFlock === undefined ? '' : ` (skipped: ${whyNoFlock})`}`,
  async () => {
    const dir = mkdtempSync(path.join(tmpdir(), 'ht-turns-'));
    try {
      cpSync('scripts', path.join(dir, 'scripts'), { recursive: true });
      const begun = path.join(dir, 'begun');
      // one that works there for as long as the file is there
      writeFileSync(begun, '');
      const hold = `while [ -e "${begun}" ]; do sleep 0.05; done`;
      const first = spawn('flock', ['--no-fork', dir, 'sh', '-c', hold], { stdio: 'ignore' });
      await new Promise((resolve) => setTimeout(resolve, 200));
      const second = spawn(process.execPath, ['scripts/bootstrap.mjs', 'check', '--', 'types'], {
        cwd: dir,
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      let said = '';
      second.stderr.setEncoding('utf8').on('data', (s: string) => (said += s));
      const ended = once(second, 'close') as Promise<[number | null]>;
      await waitFor(
        'the second to wait',
        () => said.includes('another run prepares this clone') || undefined,
        {
          timeoutMs: 8000,
          intervalMs: 20,
        },
      );
      expect(second.exitCode).toBeNull();
      rmSync(begun);
      await once(first, 'close');
      // there is nothing to install from: it has come to that by itself
      expect((await ended)[0]).toBe(2);
      expect(said).toContain('npm ci failed');
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  },
  20_000,
);
