/** Why RAM of a nested guest on turtlefs has no place in the arena, in words. */
import { HTG_LEFT_OUT_NO_ROOM, HTG_LEFT_OUT_OTHER } from '../kernel/guest.ts';
import type { HtgL2Status } from '../kernel/guest.ts';

const REASONS = [
  [
    HTG_LEFT_OUT_NO_ROOM,
    'its memory cgroup has no room for what the file holds already: raise memory.max, then start the nested guest again',
  ],
  [
    HTG_LEFT_OUT_OTHER,
    'a nested guest of another memory cgroup uses the same file: give both VMMs one cgroup',
  ],
] as const;

/** Undefined: nothing was left out. */
export function leftOutText(
  s: Pick<HtgL2Status, 'left_out' | 'pages_left_out' | 'cgroup'>,
): string | undefined {
  const why = REASONS.filter(([bit]) => (s.left_out & bit) !== 0).map(([, text]) => text);
  if (why.length === 0) return undefined;
  return `${s.pages_left_out} pages of its RAM have no place in the arena, so faults on them are not answered in L0 (memory cgroup ${s.cgroup || '/'}): ${why.join('; ')}`;
}
