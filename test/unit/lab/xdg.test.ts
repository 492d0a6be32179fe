import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { labsRoot } from '../../../src/lab/registry.ts';
import {
  cacheEntry,
  cacheRoot,
  contentKey,
  dropUnusedEntries,
  needSpace,
  openCache,
} from '../../../src/lab/xdg.ts';
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

  test('that is being made is left alone by who makes another one, whatever date it has', async () => {
    const packed = new Date('2024-02-02');
    const other = { ...spec, name: 'other' };
    const made = await cacheEntry(root, spec, async (staging) => {
      await mkdir(staging);
      await writeFile(path.join(staging, 'a'), 'a');
      // as a package is unpacked; and beside it, as files that are collected for an image
      await utimes(staging, packed, packed);
      await mkdir(`${staging}.tree`);
      await utimes(`${staging}.tree`, packed, packed);
      await cacheEntry(root, other, (to) => writeFile(to, 'o'));
      await writeFile(path.join(staging, 'b'), 'b');
      await utimes(staging, packed, packed);
      expect(await readdir(`${staging}.tree`)).toEqual([]);
      await rm(`${staging}.tree`, { recursive: true });
    });
    expect((await readdir(made)).sort()).toEqual(['a', 'b']);
  });

  test('half-made by a killed process goes when another one is made', async () => {
    await mkdir(path.join(root, 'things'));
    const left = `.gone-${contentKey('g')}.txt.staging`;
    for (const name of [left, `${left}.tree`]) await writeFile(path.join(root, 'things', name), 'half');
    await cacheEntry(root, spec, (to) => writeFile(to, 'whole'));
    expect(await readdir(path.join(root, 'things'))).toEqual([`thing-${spec.key}.txt`]);
    expect(await readdir(path.join(root, 'locks'))).toEqual([]);
  });

  test('of a name that nobody asks for any more goes after a month, or by `lab clean` after a week', async () => {
    const days = (n: number): Date => new Date(Date.now() - n * 86_400_000);
    const images = { ...spec, folder: 'images' };
    const made = async (name: string, used: Date): Promise<string> => {
      const file = await cacheEntry(root, { ...images, name }, (to) => writeFile(to, name));
      await utimes(file, used, used);
      return path.basename(file);
    };
    await made('base-6.1.0-55', days(31));
    const week = await made('base-6.1.0-56', days(8));
    const now = await made('base-6.1.0-57', days(1));
    expect((await readdir(path.join(root, 'images'))).sort()).toEqual([week, now].sort());
    expect(await dropUnusedEntries(root, 7)).toBe(1);
    expect(await readdir(path.join(root, 'images'))).toEqual([now]);
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
