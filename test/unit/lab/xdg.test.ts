import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { labsRoot } from '../../../src/lab/registry.ts';
import { cacheEntry, cacheRoot, contentKey, needSpace, openCache } from '../../../src/lab/xdg.ts';
import { withCacheLock } from '../../../src/lab/xdg-lock.ts';
import { sleep } from '../../../src/core/wait.ts';

let root: string;
beforeEach(async () => {
  root = await openCache(0, await mkdtemp(path.join(tmpdir(), 'ht-xdg-')));
});
afterEach(() => rm(root, { recursive: true, force: true }));

const spec = { folder: 'things', name: 'thing', key: contentKey('a'), suffix: '.txt' };

describe('the cache directory', () => {
  test('follows XDG_CACHE_HOME, unless that is relative', () => {
    expect(cacheRoot({ XDG_CACHE_HOME: '/x' })).toBe('/x/hyperturtle');
    expect(cacheRoot({ XDG_CACHE_HOME: 'x' })).toMatch(/\/\.cache\/hyperturtle$/);
    expect(cacheRoot({})).toMatch(/\/\.cache\/hyperturtle$/);
  });

  test('that cannot be made, or that make could not work in, is refused with what to do', async () => {
    await expect(openCache(0, '/proc/nowhere/hyperturtle')).rejects.toThrow(/set XDG_CACHE_HOME/);
  });

  test.each([
    [' ', 'a blank'],
    ['\n', 'U+000A'],
    ...[...';%&()\\*=,:"\'$#?[]<>|`'].map((c): [string, string] => [c, c]),
  ])('with %j in its name is refused in one line before anything is made', async (character, named) => {
    const dir = path.join(root, `a${character}b`, 'hyperturtle');
    const refused = openCache(0, dir);
    await expect(refused).rejects.toMatchObject({ code: 'HT_USAGE' });
    await expect(refused).rejects.toThrow(
      new RegExp(
        `^cache directory '.*' has ${named.replace(/\W/, '\\$&')} in its name, .*set XDG_CACHE_HOME`,
      ),
    );
    expect(await readdir(root)).toEqual(['locks']);
  });

  test('may have letters of all languages, and what means nothing to make and shells', async () => {
    const dir = path.join(root, 'ä-日本_1.0+@~^{}!');
    expect(await openCache(0, dir)).toBe(dir);
  });

  test('is an absolute path, by the list of users where HOME is empty', () => {
    expect(cacheRoot({ HOME: '/h' })).toBe('/h/.cache/hyperturtle');
    expect(cacheRoot({ HOME: '' })).toMatch(/^\/.*\.cache\/hyperturtle$/);
    expect(cacheRoot({ HOME: 'h', XDG_CACHE_HOME: '/x' })).toBe('/x/hyperturtle');
    expect(() => cacheRoot({ HOME: 'h', XDG_CACHE_HOME: 'x' })).toThrow(
      "HOME is 'h': expected an absolute path; set it, or set XDG_CACHE_HOME to one",
    );
    expect(labsRoot({ HOME: '/h' })).toBe('/h/.local/state/hyperturtle/labs');
    expect(() => labsRoot({ HOME: './h' })).toThrow(/set XDG_STATE_HOME to one/);
  });

  test('with too little room is refused with both numbers', async () => {
    await expect(needSpace(root, 2 ** 60)).rejects.toMatchObject({
      code: 'HT_NO_SPACE',
      message: expect.stringMatching(/1099511627776 MiB free space needed, \d+ MiB found/) as string,
    });
  });
});

describe('a cache entry', () => {
  test('is made once by several who want it at once', async () => {
    let made = 0;
    const make = async (to: string): Promise<void> => {
      made += 1;
      await sleep(20);
      await writeFile(to, 'x');
    };
    const paths = await Promise.all([1, 2, 3].map(() => cacheEntry(root, spec, make)));
    expect(made).toBe(1);
    expect(new Set(paths)).toEqual(new Set([path.join(root, `things/thing-${spec.key}.txt`)]));
    expect(await readdir(path.join(root, 'locks'))).toEqual([]);
  });

  test('that fails leaves nothing, and is made again the next time', async () => {
    const failing = cacheEntry(root, spec, async (to) => {
      await writeFile(to, 'half');
      throw new Error('no');
    });
    await expect(failing).rejects.toThrow('no');
    expect(await readdir(path.join(root, 'things'))).toEqual([]);
    expect(await readFile(await cacheEntry(root, spec, (to) => writeFile(to, 'whole')), 'utf8')).toBe(
      'whole',
    );
  });

  test('half-made by a killed process is never taken for a good one', async () => {
    const staging = path.join(root, `things/.thing-${spec.key}.txt.staging`);
    await mkdir(path.dirname(staging), { recursive: true });
    await writeFile(staging, 'half');
    expect(await readFile(await cacheEntry(root, spec, (to) => writeFile(to, 'whole')), 'utf8')).toBe(
      'whole',
    );
    expect(await readdir(path.join(root, 'things'))).toEqual([`thing-${spec.key}.txt`]);
  });

  test('goes when it is old and newer ones are enough', async () => {
    const paths: string[] = [];
    for (const [i, k] of ['a', 'b', 'c'].entries()) {
      const p = await cacheEntry(root, { ...spec, key: contentKey(k), keep: 2 }, (to) => writeFile(to, k));
      const old = new Date(Date.now() - (10 - i) * 86_400_000);
      await utimes(p, old, old);
      paths.push(path.basename(p));
    }
    await cacheEntry(root, { ...spec, key: contentKey('d'), keep: 2 }, (to) => writeFile(to, 'd'));
    const left = await readdir(path.join(root, 'things'));
    expect(left).toContain(paths[2]);
    expect(left).not.toContain(paths[0]);
  });
});

describe('the lock between processes', () => {
  const file = (): string => path.join(root, 'locks/l');

  test('lets one in at a time', async () => {
    let inside = 0;
    let most = 0;
    const body = async (): Promise<void> => {
      most = Math.max(most, ++inside);
      await sleep(5);
      inside -= 1;
    };
    await Promise.all([1, 2, 3].map(() => withCacheLock(file(), {}, body)));
    expect(most).toBe(1);
  });

  test('is taken over from a process that is gone', async () => {
    const dead = { pid: 999_999_999, boot: 'x', pidNs: 'y', startTicks: '1' };
    // the same boot and namespace, so that it is the pid that tells
    await withCacheLock(file(), {}, async () => {
      const mine = JSON.parse(await readFile(file(), 'utf8')) as typeof dead;
      Object.assign(dead, { boot: mine.boot, pidNs: mine.pidNs });
    });
    await writeFile(file(), JSON.stringify(dead));
    expect(await withCacheLock(file(), { timeoutMs: 500 }, () => Promise.resolve('in'))).toBe('in');
    expect(await readdir(path.join(root, 'locks'))).toEqual([]);
  });

  test('is not taken over from a pid that was given to another process only if the start time differs', async () => {
    await withCacheLock(file(), {}, async () => {
      const mine = JSON.parse(await readFile(file(), 'utf8')) as { startTicks: string };
      await rm(file());
      await writeFile(file(), JSON.stringify({ ...mine, startTicks: `${mine.startTicks}0` }));
      expect(await withCacheLock(file(), { timeoutMs: 500 }, () => Promise.resolve('in'))).toBe('in');
    });
  });

  test('of a living process is waited for, says so, and gives up at the deadline or the signal', async () => {
    await withCacheLock(file(), {}, async () => {
      const waited: string[] = [];
      const onWait = (holder: string): void => void waited.push(holder);
      const never = (): Promise<void> => Promise.reject(new Error('entered'));
      await expect(withCacheLock(file(), { timeoutMs: 1, onWait }, never)).rejects.toMatchObject({
        code: 'HT_BUSY',
      });
      expect(waited).toEqual([`process ${process.pid}`]);
      const signal = AbortSignal.timeout(20);
      await expect(withCacheLock(file(), { signal }, never)).rejects.toThrow(/abort|timeout/i);
    });
    expect(await readdir(path.join(root, 'locks'))).toEqual([]);
  });
});
