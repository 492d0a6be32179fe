/** `bench idle`: each service is there when it is weighed, and none stays. */
import path from 'node:path';
import { expect, test } from 'vitest';
import { silentProgress } from '../../src/core/progress.ts';
import { runIdle } from '../../src/bench/idle/run.ts';
import { compiledSources } from '../support/compiled.ts';

test('weighs services that run, each beside Node.js alone', { timeout: 600_000 }, async () => {
  const main = path.join(compiledSources(), 'cli/main.js');
  const o = { version: '0.0.0', progress: silentProgress, signal: AbortSignal.timeout(500_000), main };
  const { services } = await runIdle({ afterS: 10 }, o);
  expect(services.map((s) => s.what)).toEqual([
    ...['Node.js alone', 'daemon', 'agent', 'device plugin', 'node-status'],
    ...['reconcile, in a pod', 'reconcile, with a kubeconfig'],
  ]);
  const [alone, ...others] = services;
  for (const { what, anonymousKib } of others)
    expect(anonymousKib, what).toBeGreaterThan(alone?.anonymousKib ?? Infinity);
});

test('says what a service said that has ended', { timeout: 60_000 }, async () => {
  const o = { version: '0.0.0', progress: silentProgress, signal: AbortSignal.timeout(50_000) };
  await expect(runIdle({ afterS: 10 }, { ...o, main: '/nonexistent/main.cjs' })).rejects.toMatchObject({
    code: 'HT_CRASHED',
    message: expect.stringMatching(/^daemon has ended: [^]*Cannot find module/) as string,
  });
});
