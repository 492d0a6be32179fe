import { describe, expect, it } from 'vitest';
import { chosenHugePages, reserveHugePages, setHugePages } from '../../../src/testbed/huge-pages.ts';
import type { Level } from '../../../src/lab/levels.ts';

describe('transparent huge pages of a level', () => {
  it('are the word in brackets, and anything else is told', () => {
    expect(chosenHugePages('always [madvise] never\n')).toBe('madvise');
    expect(() => chosenHugePages('none\n')).toThrow(/one word in brackets expected, 'none' found/);
  });

  it('are set, and set back to what they were', async () => {
    let set = 'madvise';
    const level = {
      name: 'L1',
      exec: (argv: readonly string[]) => {
        const script = argv.at(-1)!;
        const to = /^echo (\w+) > /.exec(script)?.[1];
        if (to !== undefined) set = to;
        const stdout = ['always', 'madvise', 'never'].map((w) => (w === set ? `[${w}]` : w)).join(' ');
        return Promise.resolve({ status: 0, stdout: Buffer.from(stdout), stderr: Buffer.alloc(0) });
      },
    } as unknown as Level;
    const back = await setHugePages(level, 'never');
    expect(set).toBe('never');
    await back();
    expect(set).toBe('madvise');
  });
});

describe('huge pages set aside', () => {
  /** A level with memory for 100 of them. */
  const levelWith = (scripts: string[], fails: RegExp): Level => {
    let reserved = 0;
    return {
      name: 'L1',
      exec: (argv: readonly string[]) => {
        const script = argv.at(-1)!;
        scripts.push(script);
        const to = /^echo (\d+) > /.exec(script)?.[1];
        if (to !== undefined) reserved = Math.min(Number(to), 100);
        const status = fails.test(script) ? 1 : 0;
        return Promise.resolve({ status, stdout: Buffer.from(`${reserved}\n`), stderr: Buffer.alloc(0) });
      },
    } as unknown as Level;
  };
  const NR = '/proc/sys/vm/nr_hugepages';

  it('are given back when they are not wanted any more, after their file system', async () => {
    const scripts: string[] = [];
    const free = await reserveHugePages(levelWith(scripts, /never/), 64);
    expect(scripts.slice(0, 2)).toEqual([`cat ${NR}`, `echo 64 > ${NR}; cat ${NR}`]);
    scripts.length = 0;
    await free();
    expect(scripts).toEqual([expect.stringMatching(/umount \/dev\/hugepages; fi$/), `echo 0 > ${NR}`]);
  });

  it('are given back even where their file system is still in use', async () => {
    const scripts: string[] = [];
    const free = await reserveHugePages(levelWith(scripts, /umount/), 64);
    await expect(free()).rejects.toThrow();
    expect(scripts.at(-1)).toBe(`echo 0 > ${NR}`);
  });

  it('are given back at once where there are fewer, and where their file system is not mounted', async () => {
    const scripts: string[] = [];
    await expect(reserveHugePages(levelWith(scripts, /never/), 128)).rejects.toThrow(
      'L1 has memory for 100 of 128 pages of 2 MiB: give it more',
    );
    expect(scripts.at(-1)).toBe(`echo 0 > ${NR}`);
    await expect(reserveHugePages(levelWith(scripts, /mkdir/), 64)).rejects.toThrow();
    expect(scripts.at(-1)).toBe(`echo 0 > ${NR}`);
  });
});
