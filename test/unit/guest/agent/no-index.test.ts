/** A nested guest that is registered and has no index: what says so, and why. */
import { expect, it } from 'vitest';
import { statusText } from '../../../../src/cli/guest/status.ts';
import { topText } from '../../../../src/cli/top/command.ts';
import { noIndex } from '../../../../src/guest/agent/no-index.ts';
import { HTG_LEFT_OUT_INDEX, HTG_LEFT_OUT_OTHER } from '../../../../src/kernel/guest.ts';

const index = { words: 1000, used: 10 };

it('without an index the reason is told as far as it can be seen, and none for one that has it or has ended', () => {
  const without = { slots: 0, dead: 0, left_out: 0 };
  const full = { ...without, left_out: HTG_LEFT_OUT_INDEX };
  expect(noIndex(full, 'shared', index)).toMatch(
    /no room for it in one piece, of which 10 of 1000 words are used$/,
  );
  expect(noIndex(full, undefined, undefined)).toMatch(/no room for it in one piece$/);
  expect(noIndex(without, 'none', index)).toMatch(/L0: its RAM is no file on turtlefs$/);
  expect(noIndex(without, 'private', index)).toMatch(/a private copy/);
  expect(noIndex(without, 'shared', index)).toMatch(/being migrated/);
  const other = { ...without, left_out: HTG_LEFT_OUT_OTHER };
  expect(noIndex(other, 'shared', index)).toMatch(/another nested guest with the same file$/);
  expect(noIndex({ ...without, slots: 1 }, 'shared', index)).toBeUndefined();
  expect(noIndex({ ...without, dead: 1 }, 'shared', index)).toBeUndefined();
});

it('status and top say which nested guest has no index and why', () => {
  const l2 = { name: 'web', pid: 7, since: 's', faults: 0, mappedExisting: 0, mappedNew: 0, mappedAhead: 0 };
  const status = {
    version: '1',
    module: null,
    l2Problems: [],
    host: { state: 'waiting', since: 's', lastError: null, vm: null, daemon: null },
    desired: { objects: 0, links: 0, reached: false, checked: null, problems: [] },
    l2s: [{ ...l2, slots: 0, noIndex: 'no place in the arena' }],
  } as never;
  expect(statusText(status)).toContain('  web: no place in the arena');
  expect(topText(undefined, { atMs: 0, hooks: [], status })).toContain('! web: no place in the arena');
});
