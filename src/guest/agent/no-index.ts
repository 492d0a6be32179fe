/** Why no fault of a registered nested guest is answered in L0, where its RAM has no place in the arena. */
import { HTG_LEFT_OUT_INDEX } from '../../kernel/guest.ts';
import type { L2Status } from '../device.ts';
import { turtlefsUseOf } from './vms.ts';
import type { TurtlefsUse } from './vms.ts';

/** What of the page index there is, and what files have of it. */
export interface IndexUse {
  words: number;
  used: number;
}

type Without = Pick<L2Status, 'slots' | 'dead' | 'left_out'>;

const WHAT = 'no page of its RAM has a place in the arena, so no fault of it is answered in L0';

/** What ends it, for people. */
export const END_NO_INDEX =
  "a nested guest whose RAM is not on turtlefs must be ended and started again with it there; one that is being migrated is left alone until that is over; a full index needs a larger arena ('hyperturtle guest status')";

/** Undefined for one that has an index, or has ended. */
export function noIndex(
  l2: Without,
  ram: TurtlefsUse | undefined,
  index: IndexUse | undefined,
): string | undefined {
  return l2.slots > 0 || l2.dead !== 0 ? undefined : `${WHAT}: ${why(l2, ram, index)}`;
}

/** The same with what /proc says of its process now. */
export function noIndexOf(pid: number, l2: Without, index: IndexUse | undefined): string | undefined {
  return l2.slots > 0 ? undefined : noIndex(l2, turtlefsUseOf(pid), index);
}

function why(l2: Without, ram: TurtlefsUse | undefined, index: IndexUse | undefined): string {
  if ((l2.left_out & HTG_LEFT_OUT_INDEX) !== 0) {
    const use = index ? `, of which ${index.used} of ${index.words} words are used` : '';
    return `the page index had no room for it in one piece${use}`;
  }
  if (ram === 'none') return 'its RAM is no file on turtlefs';
  if (ram === 'private') return 'its RAM is a private copy of a file on turtlefs';
  return l2.left_out === 0
    ? 'KVM logs what it writes (it is being migrated)'
    : 'its memory cgroup has no room for it, or is not that of another nested guest with the same file';
}
