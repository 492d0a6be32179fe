/** The programs of c/bpf/exit as their users see them: what their links ask for, and the counts in their map `exits`. */
import { EXIT_KIND, EXIT_KINDS } from '../kernel/exit.ts';
import type { ExitKind } from '../kernel/exit.ts';
import type { ExitOptions } from '../wire/link-options.ts';
import { count, struct, u32 } from '../kernel/struct.ts';

/** What exit-cache can answer, and L1's own KVM is asked for (c/guest/exits.c). */
export const CACHED_MSRS: readonly number[] = [0x1b, 0x8b, 0xce, 0xfe, 0x10a, 0x140, 0x1a0, 0xc001_0015];

/** Both count all exits; what exit-cache has no answer for is counted all the same. */
export const EXIT_LINK_OPTIONS: ExitOptions = {
  exits: [...EXIT_KINDS],
  msrs: [...CACHED_MSRS],
  after: true,
};

/** struct exit_key and struct exit_counts of c/bpf/exit/exit_common.h. */
export const EXIT_KEY = struct('struct exit_key', { l2: u32, kind: u32, code: u32, arg: u32 });
export const EXIT_COUNTS = struct('struct exit_counts', {
  seen: count,
  handled: count,
  returned: count,
  l1_ns: count,
});

export interface ExitCount {
  /** Number of the nested guest; 0: none that is registered. */
  l2: number;
  kind: ExitKind;
  code: number;
  arg: number;
  /** For people: `cpuid`, or of others the vendor's own name where it is known. */
  cause: string;
  /** Leaf, MSR or port. */
  what: string;
  seen: number;
  handled: number;
  returned: number;
  l1Ns: number;
}

/** Exit codes of AMD's and Intel's processors that L1 gets most; the two ranges hardly meet (0x40 and above are AMD's). */
const OTHER_CODES: Readonly<Record<number, string>> = {
  0x60: 'interrupt',
  0x64: 'interrupt-window',
  0x7c: 'msr',
  0x87: 'rdtscp',
  0x8d: 'xsetbv',
  0x400: 'page-fault',
  1: 'interrupt',
  7: 'interrupt-window',
  28: 'control-register',
  31: 'msr-read',
  32: 'msr-write',
  48: 'page-fault',
  55: 'xsetbv',
};

const hex = (n: number): string => `0x${n.toString(16)}`;

function whatOf(kind: ExitKind, arg: number): string {
  if (kind === 'cpuid') return `leaf ${hex(arg)}`;
  if (kind === 'rdmsr' || kind === 'wrmsr') return `MSR ${hex(arg)}`;
  if (kind === 'io') return `port ${hex(arg)}`;
  return arg === 0 ? '' : hex(arg);
}

/** Entries of the map as `map.dump` gives them. */
export function parseExitCounts(
  entries: readonly { key: string; value?: string | undefined }[],
): ExitCount[] {
  return entries.flatMap(({ key, value }) => {
    if (value === undefined) return [];
    const { l2, kind: n, code, arg } = EXIT_KEY.decode(Buffer.from(key, 'base64'));
    const c = EXIT_COUNTS.decode(Buffer.from(value, 'base64'));
    const kind = EXIT_KINDS.find((k) => EXIT_KIND[k] === n) ?? 'other';
    const cause = kind === 'other' ? (OTHER_CODES[code] ?? `exit-${hex(code)}`) : kind;
    const { seen, handled, returned, l1_ns } = c;
    return [{ l2, kind, code, arg, cause, what: whatOf(kind, arg), seen, handled, returned, l1Ns: l1_ns }];
  });
}
