/** What is known of kernel releases that matters to nested virtualization, for `doctor` on both levels. */

/** CVE-2026-53359: use after free in KVM's shadow MMU; a nested guest can reach it. First good release of each series. */
const FIXED: Readonly<Record<string, number>> = { '6.1': 177, '6.6': 144, '6.12': 95, '6.18': 38 };
/** Series after the last one that was mended have it mended from the start. */
const FIXED_FROM: readonly [number, number] = [6, 19];

export const SHADOW_MMU_CVE = 'CVE-2026-53359';

/**
 * Whether a kernel has the mend: by its version as the distribution gives it (`#1 SMP ... Debian 6.1.170-3` in
 * `uname -v` counts before `uname -r`). Undefined: not known from the number, the distribution must say.
 */
export function shadowMmuFixed(release: string, version = ''): boolean | undefined {
  const text = /Debian (\d+\.\d+\.\d+)/.exec(version)?.[1] ?? release;
  const m = /^(\d+)\.(\d+)\.(\d+)/.exec(text);
  if (!m) return undefined;
  const [major, minor, patch] = [Number(m[1]), Number(m[2]), Number(m[3])];
  if (major > FIXED_FROM[0] || (major === FIXED_FROM[0] && minor >= FIXED_FROM[1])) return true;
  const first = FIXED[`${major}.${minor}`];
  if (first === undefined) return undefined;
  return patch >= first;
}
