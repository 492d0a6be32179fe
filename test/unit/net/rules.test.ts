/** Rules as text and objects. */
import { describe, expect, it } from 'vitest';
import { formatAddress, formatPrefix, parseAddress, parsePrefix } from '../../../src/net/address.ts';
import {
  PolicyInput,
  formatRule,
  inputOf,
  parseRule,
  policyOf,
  ruleOf,
} from '../../../src/net/firewall-rules.ts';

describe('a rule', () => {
  it.each([
    ['allow', 'allow both any from any to any'],
    ['deny out', 'deny out any from any to any'],
    ['allow out tcp from any to 10.0.0.0/8 port 80-443', 'allow out tcp from any to 10.0.0.0/8 port 80-443'],
    ['allow in udp port 53', 'allow in udp from any to any port 53'],
    ['deny tcp from fd00::/8 port 1-2, 9', 'deny both tcp from fd00::/8 port 1-2,9 to any'],
    [
      'allow in 132 from 10.0.0.1 port 5 to 10.0.0.2, 10.1.0.0/16 port 6',
      'allow in sctp from 10.0.0.1 port 5 to 10.0.0.2,10.1.0.0/16 port 6',
    ],
    ['deny in icmpv6 from FD00:0::1', 'deny in icmpv6 from fd00::1 to any'],
  ])('%j reads as %j, and that as itself', (text, canonical) => {
    expect(formatRule(parseRule(text))).toBe(canonical);
    expect(formatRule(parseRule(canonical))).toBe(canonical);
  });

  it('as an object is the same as in words', () => {
    expect(
      ruleOf({
        action: 'allow',
        direction: 'out',
        protocol: 'tcp',
        to: '10.0.0.0/8',
        toPort: ['80-443', 8080],
      }),
    ).toEqual(parseRule('allow out tcp to 10.0.0.0/8 port 80-443,8080'));
  });

  it.each([
    ['', /allow\|deny/],
    ['permit tcp', /'permit'/],
    ['allow out tpc', /protocol 'tpc'/],
    ['allow out 256', /protocol '256'/],
    ['allow out port 80', /need a protocol/],
    ['allow out icmp port 80', /need a protocol/],
    ['allow tcp to 10.0.0.1/8', /10\.0\.0\.0\/8 meant/],
    ['allow tcp to 10.0.0.0/33', /0 to 32/],
    ['allow tcp to example.org', /address or prefix/],
    ['allow tcp from 10.0.0.1 to fd00::1', /no packet can match/],
    ['allow tcp port 90-80', /ascending/],
    ['allow tcp port 65536', /ascending/],
    ['allow tcp to', /behind 'to'/],
    ['allow tcp to any to any', /twice/],
    ['allow tcp via eth0', /'via'/],
  ])('%j is refused, saying why', (text, why) => {
    expect(() => parseRule(text)).toThrow(why);
    expect(() => parseRule(text)).toThrow(/^rule '/);
  });

  it('denies by default in a policy, and the policy reads back as itself', () => {
    const policy = policyOf(PolicyInput().parse({ rules: ['allow out tcp port 80'] }));
    expect(policy.default).toEqual({ in: 'deny', out: 'deny' });
    expect(policyOf(inputOf(policy))).toEqual(policy);
    expect(() => PolicyInput().parse({ rule: [] })).toThrow();
  });
});

it.each([
  ['::', '::'],
  ['::1', '::1'],
  ['1::', '1::'],
  ['2001:0db8::0001:0:0:1', '2001:db8::1:0:0:1'],
  ['1:0:0:2:0:0:0:3', '1:0:0:2::3'],
  ['1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7:8'],
  ['::ffff:192.0.2.1', '::ffff:c000:201'],
  ['192.0.2.255', '192.0.2.255'],
])('address %s is written %s', (text, canonical) => {
  const a = parseAddress(text)!;
  expect(formatAddress(a.version, a.address)).toBe(canonical);
  expect(parseAddress(canonical)).toEqual(a);
  expect(formatPrefix(parsePrefix(canonical) as never)).toBe(canonical);
});
