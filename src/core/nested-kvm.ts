/** What is known of kernel releases that matters to nested virtualization, for `doctor` on both levels. */
import { own } from './own.ts';

/** CVE-2026-53359: use after free in KVM's shadow MMU; a nested guest can reach it. First good release of each series. */
const FIXED: Readonly<Record<string, number>> = { '6.1': 177, '6.6': 144, '6.12': 95, '6.18': 38 };

export const SHADOW_MMU_CVE = 'CVE-2026-53359';
/** For messages: `6.1.177, 6.6.144, ...`. */
export const SHADOW_MMU_FIXED_IN = Object.entries(FIXED)
  .map(([series, patch]) => `${series}.${patch}`)
  .join(', ');

/**
 * Whether a kernel has the fix: by its version as the distribution gives it (`#1 SMP ... Debian 6.1.170-3` in
 * `uname -v` counts before `uname -r`). Undefined: not known from the number, the distribution must say. That is so for
 * every other series, newer ones too: 6.18 was fixed 38 releases after its first, and by then there were newer series
 * without the fix. It is also so for numbers of a distribution's own (`6.12.0-55.el10`), which takes fixes over.
 */
export function shadowMmuFixed(release: string, version = ''): boolean | undefined {
  const debian = /Debian (\d+\.\d+\.\d+)/.exec(version)?.[1];
  const m = /^(\d+\.\d+)\.(\d+)/.exec(debian ?? release);
  if (!m) return undefined;
  const first = own(FIXED, m[1] ?? '');
  if (first === undefined) return undefined;
  if (debian === undefined && /^\d+\.\d+\.0-/.test(release)) return undefined;
  return Number(m[2]) >= first;
}

/** Series of kernels on which both modules and all programs are tried by the tests of the lab. */
export const TRIED_SERIES = ['6.1', '6.12', '7.3'] as const;

/** The order of kernel series: 6.12 comes after 6.2. */
export const byNumbers = (a: string, b: string): number => a.localeCompare(b, 'en', { numeric: true });

/** A finding of `doctor`, on either level. */
export const triedFinding = (
  release: string,
): { level: 'ok'; what: string } | { level: 'warn'; what: string; mend: string } => {
  const all = TRIED_SERIES.join(', ');
  const series = /^\d+\.\d+/.exec(release)?.[0];
  if ((TRIED_SERIES as readonly (string | undefined)[]).includes(series))
    return { level: 'ok', what: `the modules have been tried on kernels ${all}` };
  return {
    level: 'warn',
    what: `the modules have not been tried on kernel ${release}`,
    mend: `use one of the kernels ${all}, or try it where nothing depends on it`,
  };
};
