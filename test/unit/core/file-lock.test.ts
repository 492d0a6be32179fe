import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { withFileLock } from '../../../src/core/file-lock.ts';
import { sleep } from '../../../src/core/wait.ts';

let root: string;
beforeEach(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'ht-lock-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

describe('the lock between processes', () => {
  const file = (): string => path.join(root, 'l');

  test('lets one in at a time', async () => {
    let inside = 0;
    let most = 0;
    const body = async (): Promise<void> => {
      most = Math.max(most, ++inside);
      await sleep(5);
      inside -= 1;
    };
    await Promise.all([1, 2, 3].map(() => withFileLock(file(), {}, body)));
    expect(most).toBe(1);
  });

  test('is taken over from a process that is gone', async () => {
    const dead = { pid: 999_999_999, boot: 'x', pidNs: 'y', startTicks: '1' };
    // the same boot and namespace, so that it is the pid that tells
    await withFileLock(file(), {}, async () => {
      const mine = JSON.parse(await readFile(file(), 'utf8')) as typeof dead;
      Object.assign(dead, { boot: mine.boot, pidNs: mine.pidNs });
    });
    await writeFile(file(), JSON.stringify(dead));
    expect(await withFileLock(file(), { timeoutMs: 500 }, () => Promise.resolve('in'))).toBe('in');
    expect(await readdir(root)).toEqual([]);
  });

  test('is not taken over from a pid that was given to another process only if the start time differs', async () => {
    await withFileLock(file(), {}, async () => {
      const mine = JSON.parse(await readFile(file(), 'utf8')) as { startTicks: string };
      await rm(file());
      await writeFile(file(), JSON.stringify({ ...mine, startTicks: `${mine.startTicks}0` }));
      expect(await withFileLock(file(), { timeoutMs: 500 }, () => Promise.resolve('in'))).toBe('in');
    });
  });

  test('of a living process is waited for, says so, and gives up at the deadline or the signal', async () => {
    await withFileLock(file(), {}, async () => {
      const waited: string[] = [];
      const onWait = (holder: string): void => void waited.push(holder);
      const never = (): Promise<void> => Promise.reject(new Error('entered'));
      await expect(withFileLock(file(), { timeoutMs: 1, onWait }, never)).rejects.toMatchObject({
        code: 'HT_BUSY',
      });
      expect(waited).toEqual([`process ${process.pid}`]);
      const signal = AbortSignal.timeout(20);
      await expect(withFileLock(file(), { signal }, never)).rejects.toThrow(/abort|timeout/i);
    });
    expect(await readdir(root)).toEqual([]);
  });
});
