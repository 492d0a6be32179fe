import { describe, expect, it } from 'vitest';
import {
  bucketUpperNs,
  cumulative,
  mean,
  mergeHistograms,
  ratio,
} from '../../../../src/bench/shared/statistics.ts';
import { subtractCounts, sumCounts } from '../../../../src/core/counts.ts';

describe('statistics of a benchmark', () => {
  it('have no mean of nothing', () => {
    expect(mean([])).toBeUndefined();
    expect(mean([1, 2, 6])).toBe(3);
  });

  it('give no ratio when a side is missing or the divisor is zero', () => {
    expect(ratio(6, 3)).toBe(2);
    expect(ratio(undefined, 3)).toBeUndefined();
    expect(ratio(1, undefined)).toBeUndefined();
    expect(ratio(1, 0)).toBeUndefined();
  });

  it('add counts by key', () => {
    expect(sumCounts([{ npf: 1, hlt: 2 }, { npf: 3 }])).toEqual({ npf: 4, hlt: 2 });
  });

  it('take differences of counters and leave out what stood still', () => {
    expect(subtractCounts({ npf: 10, hlt: 2, io: 1 }, { npf: 4, hlt: 2 })).toEqual({ npf: 6, io: 1 });
  });

  it('refuse counters that went backwards', () => {
    expect(() => subtractCounts({ npf: 1 }, { npf: 2 })).toThrow(/'npf' fell by 1/);
    expect(() => subtractCounts({}, { npf: 2 })).toThrow(RangeError);
  });

  it('merge histograms in ascending order', () => {
    expect(
      mergeHistograms([
        [
          [64, 1],
          [128, 2],
        ],
        [
          [32, 5],
          [128, 1],
        ],
      ]),
    ).toEqual([
      [32, 5],
      [64, 1],
      [128, 3],
    ]);
  });

  it('make a cumulative distribution that begins at 0 and ends at 1', () => {
    const points = cumulative([
      [1024, 3],
      [2048, 1],
    ]);
    expect(points.map((p) => p.share)).toEqual([0, 0.75, 1]);
    expect(points[0]!.ns).toBe(1024);
    expect(points[1]!.ns).toBeCloseTo(1024 * 2 ** 0.25);
    expect(bucketUpperNs(0)).toBeGreaterThan(0);
  });
});
