/** Answers as older versions of the protocol have them: an agent of version 1 refuses members that it does not know. */
import type { HookStats } from './schema.ts';

export function statsOfVersion1(stats: HookStats): HookStats {
  const known = { ...stats };
  delete known.fills;
  delete known.calls;
  return known;
}
