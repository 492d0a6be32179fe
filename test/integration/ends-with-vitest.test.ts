/** A vitest that is killed takes its tests with it: a lab that outlives them would hold memory and a CPU forever. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { identify, isRunning } from '../../src/core/process.ts';
import { sleep, waitFor } from '../../src/core/wait.ts';
import { ROOT } from '../support/lab.ts';

it.each(['SIGKILL', 'SIGINT', 'SIGTERM'] as const)('tests end when vitest is ended by %s', async (how) => {
  const dir = mkdtempSync(path.join(tmpdir(), 'ht-vitest-'));
  const pid = path.join(dir, 'pid');
  const setup = path.join(ROOT, 'test/support/ends-with-vitest.ts');
  const modules = path.join(ROOT, 'node_modules');
  writeFileSync(
    path.join(dir, 'waits.test.mjs'),
    `import { spawn } from 'node:child_process';
    import { once } from 'node:events';
    import { writeFileSync } from 'node:fs';
    import { test } from '${modules}/vitest/dist/index.js';
    test('waits for a program, as for a lab', async () => {
      const program = spawn('sleep', ['20'], { stdio: ['ignore', 'pipe', 'ignore'] });
      writeFileSync('${pid}', String(process.pid));
      await once(program, 'close');
    }, 60_000);`,
  );
  writeFileSync(
    path.join(dir, 'vitest.config.mjs'),
    `export default { test: { setupFiles: ['${setup}'], include: ['*.test.mjs'] } };`,
  );
  const vitest = spawn(process.execPath, [`${modules}/vitest/vitest.mjs`, 'run', '--root', dir], {
    stdio: 'ignore',
  });
  try {
    const worker = await waitFor(
      'a test that waits',
      () => (existsSync(pid) ? identify(Number(readFileSync(pid, 'utf8'))) : undefined),
      { timeoutMs: 40_000, intervalMs: 50 },
    );
    expect(isRunning(worker)).toBe(true);
    // a worker that has something to say ends by that
    await sleep(1500);
    vitest.kill(how);
    await waitFor('its end', () => !isRunning(worker) || undefined, { timeoutMs: 10_000, intervalMs: 50 });
  } finally {
    vitest.kill('SIGKILL');
    rmSync(dir, { recursive: true });
  }
});
