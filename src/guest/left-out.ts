/** Why faults of a nested guest on turtlefs are not answered in L0, in words. */
import {
  HTG_LEFT_OUT_GUESTS,
  HTG_LEFT_OUT_INDEX,
  HTG_LEFT_OUT_NO_ROOM,
  HTG_LEFT_OUT_OTHER,
} from '../kernel/guest.ts';
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
  [
    HTG_LEFT_OUT_INDEX,
    "the page index has no room for them until other files on turtlefs have gone ('hyperturtle guest status'): a larger arena has",
  ],
] as const;

const OWN_GUESTS =
  'it runs guests of its own, so none of its faults is answered in L0 until KVM has dropped the tables of these';

/** Undefined: nothing was left out. */
export function leftOutText(
  s: Pick<HtgL2Status, 'left_out' | 'pages_left_out' | 'cgroup'>,
): string | undefined {
  const all: string[] = [];
  if ((s.left_out & HTG_LEFT_OUT_GUESTS) !== 0) all.push(OWN_GUESTS);
  const why = REASONS.filter(([bit]) => (s.left_out & bit) !== 0).map(([, text]) => text);
  if (why.length > 0)
    all.push(
      `${s.pages_left_out} pages of its RAM have no place in the arena, so faults on them are not answered in L0 (memory cgroup ${s.cgroup || '/'}): ${why.join('; ')}`,
    );
  return all.length === 0 ? undefined : all.join('; ');
}
