import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';

test('the bootstrap refuses what it does not know, in one line and with status 2', () => {
  const r = spawnSync(process.execPath, ['scripts/bootstrap.mjs', 'dance'], { encoding: 'utf8' });
  expect(r.status).toBe(2);
  expect(r.stderr).toBe('usage: node scripts/bootstrap.mjs demo|test|check [arguments]\n');
  expect(r.stdout).toBe('');
});
