/** What doctor says of a kernel must be known, not guessed. */
import { describe, expect, it } from 'vitest';
import { SHADOW_MMU_FIXED_IN, shadowMmuFixed } from '../../../src/core/nested-kvm.ts';

describe('the fix of the shadow MMU', () => {
  it('is there from one release of each listed series on', () => {
    expect(SHADOW_MMU_FIXED_IN).toBe('6.1.177, 6.6.144, 6.12.95, 6.18.38');
    for (const last of ['6.1.176', '6.6.143', '6.12.94', '6.18.37', '6.18.0', '6.1.9'])
      expect([last, shadowMmuFixed(last)]).toEqual([last, false]);
    for (const first of ['6.1.177', '6.6.144', '6.12.95', '6.18.38', '6.1.1000', '6.12.95-custom'])
      expect([first, shadowMmuFixed(first)]).toEqual([first, true]);
  });

  it("is not known of another series, newer ones too, nor of a distribution's own number, nor of no number", () => {
    for (const r of ['5.15.190', '6.2.16', '6.19.3', '7.0.1', '7.4.0', '6.12.0-55.el10', '6.18', 'x', ''])
      expect([r, shadowMmuFixed(r)]).toEqual([r, undefined]);
  });

  it("goes by Debian's version of the package, not by the name of its release", () => {
    const of = (v: string): string => `#1 SMP PREEMPT_DYNAMIC Debian ${v} (2026-08-01)`;
    expect(shadowMmuFixed('6.1.0-51-amd64', of('6.1.170-3'))).toBe(false);
    expect(shadowMmuFixed('6.1.0-55-amd64', of('6.1.177-1'))).toBe(true);
    expect(shadowMmuFixed('6.12.90+deb13-amd64', of('6.12.95-1'))).toBe(true);
    expect(shadowMmuFixed('6.19.1+deb14-amd64', of('6.19.1-1'))).toBe(undefined);
  });
});
