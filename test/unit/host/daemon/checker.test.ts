/** The thread that checks objects: whatever becomes of it costs one check, and the daemon's own thread goes on. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Checker } from '../../../../src/host/daemon/checker.ts';

const OPTIONS = { policy: { cpus: 4 } };
/** The first byte of what it is given says what it does. */
const THREAD = `
const { parentPort } = require('node:worker_threads');
const verdict = { ok: true, programs: [], maps: [], constants: [], refusals: [] };
parentPort.on('message', ({ elf }) => {
  if (elf[0] === 1) for (;;);
  if (elf[0] === 2) process.exit(3);
  if (elf[0] === 3) { const all = []; for (;;) all.push(new Array(1000).fill(all.length)); }
  if (elf[0] === 4) setTimeout(() => { throw new Error('broken'); });
  else if (elf[0] === 5) parentPort.postMessage({ bug: 'Error: our own mistake' });
  else parentPort.postMessage({ verdict: { ...verdict, constants: [String(elf[0])] } });
});
`;

let dir: string;
let checker: Checker;
beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'ht-checker-'));
  const threadPath = path.join(dir, 'thread.cjs');
  writeFileSync(threadPath, THREAD);
  checker = new Checker({ timeoutMs: 2000, threadPath, heapMib: 32 });
});
afterEach(async () => {
  await checker.close();
  rmSync(dir, { recursive: true });
});
const check = (what: number, signal?: AbortSignal): Promise<string | undefined> =>
  checker.check(Uint8Array.of(what), OPTIONS, signal).then((v) => v.constants[0]);

describe('the checking thread', () => {
  it('is killed at the deadline, and this thread runs meanwhile', async () => {
    let ticks = 0;
    const timer = setInterval(() => ticks++, 10);
    try {
      await expect(check(1)).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
    } finally {
      clearInterval(timer);
    }
    expect(ticks).toBeGreaterThan(10);
    expect(await check(7)).toBe('7');
  });

  it.each([
    ['ends', 2],
    ['eats memory', 3],
    ['throws where nobody catches', 4],
  ])('that %s is an error of that check alone', async (_, what) => {
    const all = await Promise.allSettled([check(6), check(what), check(7)]);
    expect(
      all.map((r) => (r.status === 'fulfilled' ? r.value : (r.reason as { code: string }).code)),
    ).toEqual(['6', 'HT_CRASHED', '7']);
  });

  it('tells our own mistake as one, and goes on', async () => {
    await expect(check(5)).rejects.toThrow('our own mistake');
    expect(await check(7)).toBe('7');
  });

  it('takes no turn for who has given up waiting', async () => {
    const gone = new AbortController();
    const first = check(6);
    const second = check(1, gone.signal);
    gone.abort(new Error('gave up'));
    await expect(second).rejects.toThrow('gave up');
    expect([await first, await check(7)]).toEqual(['6', '7']);
  });

  it('leaves nothing when it is closed, even in the middle of a check', async () => {
    const endless = check(1);
    const waiting = check(7);
    const outcome = Promise.allSettled([endless, waiting]);
    await check(7, AbortSignal.abort(new Error('x'))).catch(() => {});
    await checker.close();
    expect(
      (await outcome).map((r) => (r.status === 'rejected' ? (r.reason as { code: string }).code : r)),
    ).toEqual(['HT_INTERRUPTED', 'HT_INTERRUPTED']);
  });
});
