import { describe, expect, it } from 'vitest';
import { chaosProblems } from '../../../../src/bench/chaos/run.ts';
import { generator } from '../../../../src/testbed/random.ts';
import type { ChaosReport } from '../../../../src/bench/chaos/run.ts';

const good: Omit<ChaosReport, 'problems'> = {
  seed: 1,
  rounds: [{ victim: 'daemon', atMs: 5, recoveredMs: 9, pagesChecked: 100, mismatches: 0 }],
  killed: { daemon: 1, agent: 0, qemu: 0 },
  pagesChecked: 100,
  mismatches: 0,
  handledInL0: 50,
  leftAttached: [],
  kernelTroubles: [],
  durationSeconds: 1,
};

describe('a report of chaos', () => {
  it('has no problem when memory is whole, L0 answers again and nothing was left', () => {
    expect(chaosProblems(good)).toEqual([]);
  });

  it.each([
    [{ mismatches: 2 }, /2 pages changed/],
    [{ pagesChecked: 0 }, /no page was checked/],
    [{ handledInL0: 0 }, /answers no faults/],
    [{ leftAttached: ['anon_inode:hyperturtle-vm'] }, /left after the daemon/],
    [{ kernelTroubles: ['L0: WARNING'] }, /1 complaints/],
  ])('names what is wrong: %o', (change, text) => {
    expect(chaosProblems({ ...good, ...change })).toEqual([expect.stringMatching(text)]);
  });
});

describe('the order of kills', () => {
  it('is the same for the same seed, and another for another', () => {
    const draw = (seed: number): number[] => Array.from({ length: 20 }, generator(seed));
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
    expect(draw(7).every((x) => x >= 0 && x < 1)).toBe(true);
  });
});
