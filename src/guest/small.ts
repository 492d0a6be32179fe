/** Why a nested guest on turtlefs gets no 2 MiB frames for a while, in words. */
import type { HtgL2Status } from '../kernel/guest.ts';

/** Undefined: nothing keeps it from them. */
export function smallText(
  s: Pick<HtgL2Status, 'small' | 'small_times' | 'large_seen' | 'large_kept' | 'pages_back'>,
): string | undefined {
  return s.small === 0
    ? undefined
    : `it gets pages of 4 KiB alone for a while (time ${s.small_times}), as it used less than half of the 2 MiB frames that it got: of ${s.large_seen} looked at ${s.large_kept} were in use, and ${s.pages_back} pages of the others were given back`;
}
