/** What a doctor says of loading a module where the kernel wants it signed. */
import { describe, expect, it } from 'vitest';
import { howToLoad } from '../../../src/core/signed-modules.ts';

const free = { lockdown: undefined, secureBoot: false, enforced: false, certificate: undefined };

describe('a module is loaded', () => {
  it.each([
    ['no lockdown', free],
    ['a lockdown that is off', { ...free, lockdown: 'none', certificate: '/var/lib/dkms/mok.pub' }],
  ])('by modprobe alone with %s', (_, s) => {
    expect(howToLoad('hyperturtle_host', s)).toBe('modprobe hyperturtle_host');
  });

  it.each([
    ['Secure Boot', { ...free, secureBoot: true }, /was started by Secure Boot/],
    ['a lockdown', { ...free, lockdown: 'integrity' }, /is locked down \(integrity\)/],
    ['module.sig_enforce', { ...free, enforced: true }, /module\.sig_enforce/],
  ])('with %s, after a key of dkms was made and enrolled', (_, s, why) => {
    const text = howToLoad('hyperturtle_host', s);
    expect(text).toMatch(why);
    expect(text).toMatch(/install dkms.*mokutil --import \/var\/lib\/dkms\/mok\.pub.*Enroll MOK/);
  });

  it("with the machine's own key, after that was enrolled", () => {
    const s = { ...free, secureBoot: true, certificate: '/var/lib/shim-signed/mok/MOK.der' };
    expect(howToLoad('hyperturtle_guest', s)).toMatch(
      /^modprobe hyperturtle_guest;.*mokutil --import \/var\/lib\/shim-signed\/mok\/MOK\.der/,
    );
  });
});
