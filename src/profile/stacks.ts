/** Stacks as the profile program counts them, read from its maps. */
import { HT_PROFILE_CONTROL, HT_PROFILE_STACK, HT_PROFILE_TOTALS } from '../kernel/sample.ts';
import { count } from '../kernel/struct.ts';
import { viewOf } from '../kernel/struct.ts';
import type { MapAccess } from '../net/maps.ts';
import { entry, index } from '../net/maps.ts';

export interface Stack {
  /** Number of the L2; 0 for one that is not registered. */
  l2: number;
  vcpu: number;
  kernel: boolean;
  /** Page table of the process; 0 for the kernel. */
  space: bigint;
  /** Innermost first: where it was, then return addresses. */
  ips: bigint[];
  samples: number;
}

export interface Totals {
  samples: number;
  /** Samples of other L2s, or not wanted. */
  other: number;
  /** There was no room for another stack. */
  lost: number;
}

export interface Wanted {
  /** Number of the L2, 0 for all. */
  l2: number;
  flags: number;
}

export async function setWanted(maps: MapAccess, wanted: Wanted): Promise<void> {
  await maps.set('control', index(0), HT_PROFILE_CONTROL.encode(wanted));
}

export async function readStacks(maps: MapAccess): Promise<Stack[]> {
  return (await maps.dump('stacks')).flatMap(({ key, values }) => {
    const value = values[0];
    if (!value) return []; // went between its key and its value
    const s = HT_PROFILE_STACK.decode(key);
    return [
      {
        l2: s.l2,
        vcpu: s.vcpu,
        kernel: s.cpl !== 3,
        space: s.space,
        ips: s.ips.slice(0, s.count),
        samples: count.read(viewOf(value), 0),
      },
    ];
  });
}

/** Where the page fault handler of each L2's kernel is, by its number. */
export async function readEntries(maps: MapAccess): Promise<Map<number, bigint>> {
  const entries = new Map<number, bigint>();
  for (const { key, values } of await maps.dump('kernels')) {
    const value = values[0];
    const entry = value ? viewOf(value).getBigUint64(0, true) : 0n;
    if (entry !== 0n) entries.set(viewOf(key).getUint32(0, true), entry);
  }
  return entries;
}

export async function readTotals(maps: MapAccess): Promise<Totals> {
  const total = { samples: 0, other: 0, lost: 0 };
  for (const value of await entry(maps, 'totals', 0)) {
    const t = HT_PROFILE_TOTALS.decode(value);
    total.samples += t.samples;
    total.other += t.other;
    total.lost += t.lost;
  }
  return total;
}

/** What was added between two looks at the same counts. */
export function stacksBetween(before: readonly Stack[], after: readonly Stack[]): Stack[] {
  const id = (s: Stack): string => [s.l2, s.vcpu, s.kernel, s.space, ...s.ips].join(' ');
  const was = new Map(before.map((s) => [id(s), s.samples]));
  return after
    .map((s) => ({ ...s, samples: s.samples - (was.get(id(s)) ?? 0) }))
    .filter((s) => s.samples > 0);
}
