import { describe, expect, it } from 'vitest';
import { chosenHugePages, setHugePages } from '../../../src/testbed/huge-pages.ts';
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
