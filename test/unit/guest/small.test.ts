/** Why a nested guest gets no 2 MiB frames, in words. */
import { expect, it } from 'vitest';
import { smallText } from '../../../src/guest/small.ts';

const looked = { small_times: 2, large_seen: 40, large_kept: 3, pages_back: 17_000 };

it('says since what it is so, and nothing where it is not', () => {
  expect(smallText({ ...looked, small: 0 })).toBeUndefined();
  expect(smallText({ ...looked, small: 1 })).toMatch(
    /^it gets pages of 4 KiB alone for a while \(time 2\), .* of 40 looked at 3 were in use, and 17000 pages /,
  );
});
