/** RAM of a nested guest that its memory cgroup has no room for is told with the cgroup and what to do. */
import { describe, expect, it } from 'vitest';
import { leftOutText } from '../../../src/guest/left-out.ts';
import {
  HTG_LEFT_OUT_GUESTS,
  HTG_LEFT_OUT_INDEX,
  HTG_LEFT_OUT_NO_ROOM,
  HTG_LEFT_OUT_OTHER,
} from '../../../src/kernel/guest.ts';

describe('pages that are left to L1', () => {
  it('are no problem when there are none', () => {
    expect(leftOutText({ left_out: 0, pages_left_out: 0, cgroup: '/a' })).toBeUndefined();
  });

  it('are told with their number, the cgroup and each reason', () => {
    const both = { left_out: HTG_LEFT_OUT_NO_ROOM | HTG_LEFT_OUT_OTHER, pages_left_out: 6656, cgroup: '/a' };
    expect(leftOutText(both)).toMatch(
      /^6656 pages .*memory cgroup \/a\): .*raise memory\.max.*; .*one cgroup$/,
    );
  });

  it('are of the root when the kernel names no cgroup', () => {
    const root = { left_out: HTG_LEFT_OUT_OTHER, pages_left_out: 1, cgroup: '' };
    expect(leftOutText(root)).toContain('memory cgroup /)');
  });

  it('are told with what would give them a place when the index is full', () => {
    const full = { left_out: HTG_LEFT_OUT_INDEX, pages_left_out: 32256, cgroup: '/a' };
    expect(leftOutText(full)).toMatch(/^32256 pages .*the page index has no room .*a larger arena has$/);
  });

  it('are all of them while it runs guests of its own, whatever else there is', () => {
    const own = { left_out: HTG_LEFT_OUT_GUESTS, pages_left_out: 0, cgroup: '/a' };
    expect(leftOutText(own)).toMatch(/^it runs guests of its own, .* of these$/);
    const both = { left_out: HTG_LEFT_OUT_GUESTS | HTG_LEFT_OUT_OTHER, pages_left_out: 7, cgroup: '/a' };
    expect(leftOutText(both)).toMatch(/^it runs guests of its own, .* of these; 7 pages .*one cgroup$/);
  });
});
