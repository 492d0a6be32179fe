/** Ctrl-C in `npm run demo`, in one phase after the other: how long it takes, and that nothing is left. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { sleep, waitFor } from '../../src/core/wait.ts';
import { ROOT, processesNaming } from '../support/lab.ts';

const LIMIT_MS = 10_000;
let state: string;
beforeAll(() => {
  state = mkdtempSync(path.join(os.tmpdir(), 'ht-demo-'));
});
afterAll(() => rmSync(state, { recursive: true }));

/** Starts the demo, waits for a line, and then a little. Gives the time from Ctrl-C to its end, in ms. */
async function interrupted(after: RegExp, waitMs: number): Promise<number> {
  // a process group of its own, as a terminal's foreground job has
  const demo = spawn('npm', ['run', 'demo', '--', '--report', path.join(state, 'report.html')], {
    ...{ cwd: ROOT, detached: true, stdio: ['ignore', 'ignore', 'pipe'] },
    env: { ...process.env, XDG_STATE_HOME: state },
  });
  let said = '';
  const exited = once(demo, 'exit') as Promise<[number | null]>;
  await new Promise<void>((resolve, reject) => {
    demo.stderr.on('data', (d: Buffer) => {
      said += d.toString();
      if (after.test(said)) resolve();
    });
    void exited.then(() => reject(new Error(`ended before ${after}: ${said}`)));
  });
  await sleep(waitMs);
  const t0 = performance.now();
  process.kill(-demo.pid!, 'SIGINT');
  // npm ends itself by the signal; what counts is the end of all that it started
  await exited;
  await waitFor('the end of its process group', () => (groupThere(demo.pid!) ? undefined : true), {
    timeoutMs: 60_000,
    intervalMs: 20,
  });
  const tookMs = performance.now() - t0;
  expect(said).toMatch(/interrupted/);
  return tookMs;
}

function groupThere(pid: number): boolean {
  try {
    process.kill(-pid, 0);
    return true;
  } catch {
    return false;
  }
}

it.each([
  ['while the levels get ready', /restore snapshot/, 500],
  ['while daemon and agent start', /levels ready/, 8000],
  ['while L2 boots', /daemon in L0, agent in L1/, 4000],
  ['while L2 is measured', /\[1\/\d+\] round/, 15_000],
] as const)('Ctrl-C in npm run demo %s cleans up within 10 s', async (_, after, waitMs) => {
  const tookMs = await interrupted(after, waitMs);
  process.stderr.write(`${after}: ${Math.round(tookMs)} ms\n`);
  expect(tookMs).toBeLessThan(LIMIT_MS);
  expect(processesNaming(`${state}/`)).toEqual([]);
  const labs = path.join(state, 'hyperturtle');
  expect(readdirSync(labs, { recursive: true, encoding: 'utf8' }).filter((f) => f.includes('run-'))).toEqual(
    [],
  );
});
