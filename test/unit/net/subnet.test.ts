/** Which networks can give addresses to guests. */
import { describe, expect, it } from 'vitest';
import { parseSubnet } from '../../../src/net/subnet.ts';

describe('a network of guests', () => {
  it.each(['10.1.0.0/24', '192.168.0.0/16', '100.64.0.0/10', '192.0.2.0/24', '172.16.0.4/30', '8.8.8.0/24'])(
    'may be %s',
    (text) => expect(parseSubnet(text)).toMatchObject({ version: 4 }),
  );
  it.each(['fd00:1::/64', '2001:db8::/64', '2600::/126'])('may be %s', (text) =>
    expect(parseSubnet(text)).toMatchObject({ version: 6 }),
  );

  it.each([
    ['abc', /a network of private addresses such as 10\.1\.0\.0\/24 or fd00:1::\/64 expected/],
    ['10.1.0.0', /a network of private addresses/],
    ['10.1.0.5/24', /bits are set behind the prefix: 10\.1\.0\.0\/24 meant/],
    ['10.1.0.0/33', /from 0 to 32 expected/],
    ['10.1.0.0/31', /at most 30 bits expected/],
    ['2001:db8::/127', /at most 126 bits expected/],
    ['2001:db8::/129', /from 0 to 128 expected/],
    ['224.0.0.0/24', /addresses of 224\.0\.0\.0\/24 are of multicast groups \(224\.0\.0\.0\/4\)/],
    ['240.0.0.0/8', /reserved, and broadcast/],
    ['255.255.255.0/24', /reserved, and broadcast/],
    ['169.254.7.0/24', /link-local/],
    ['127.1.0.0/16', /of the loopback device/],
    ['0.1.0.0/16', /of "this network"/],
    ['0.0.0.0/0', /addresses of 0\.0\.0\.0\/0 are/],
    ['64.0.0.0/2', /loopback/],
    ['128.0.0.0/1', /link-local/],
    ['::/0', /unspecified and loopback/],
    ['::/64', /unspecified and loopback/],
    ['::1/120', /bits are set/],
    ['::ffff:10.0.0.0/120', /IPv4 ones written as IPv6/],
    ['fe80::/64', /link-local/],
    ['ff02::/64', /of multicast groups/],
    ['fe00::/7', /link-local/],
  ])('cannot be %s', (text, why) => expect(parseSubnet(text)).toMatch(why));
});
