/** Networks that can give addresses to guests. */
import { addressBits, formatPrefix, parsePrefix } from './address.ts';
import type { Prefix } from './address.ts';

/** Room for a gateway and a guest, as host-local wants it. */
const MOST_BITS = { 4: 30, 6: 126 } as const;

/** Addresses that no station of a network can have, by the registries of IANA for special purposes. */
const SPECIAL: readonly (readonly [prefix: string, what: string])[] = [
  ['0.0.0.0/8', 'of "this network"'],
  ['127.0.0.0/8', 'of the loopback device'],
  ['169.254.0.0/16', 'link-local'],
  ['224.0.0.0/4', 'of multicast groups'],
  ['240.0.0.0/4', 'reserved, and broadcast'],
  ['::/127', 'unspecified and loopback'],
  ['::ffff:0:0/96', 'IPv4 ones written as IPv6'],
  ['fe80::/10', 'link-local'],
  ['ff00::/8', 'of multicast groups'],
];

const EXAMPLE = 'a network of private addresses such as 10.1.0.0/24 or fd00:1::/64 expected';

/** A text that says why it is none. */
export function parseSubnet(text: string): Prefix | string {
  if (!text.includes('/')) return EXAMPLE;
  const prefix = parsePrefix(text);
  if (typeof prefix === 'string') return prefix;
  const most = MOST_BITS[prefix.version];
  if (prefix.bits > most) return `a prefix of at most ${most} bits expected, or no address is left to give`;
  const taken = SPECIAL.find(([special]) => overlap(prefix, parsePrefix(special)));
  return taken === undefined
    ? prefix
    : `${EXAMPLE}; addresses of ${formatPrefix(prefix)} are ${taken[1]} (${taken[0]})`;
}

function overlap(a: Prefix, b: Prefix | string): boolean {
  if (typeof b === 'string' || a.version !== b.version) return false;
  const below = BigInt(addressBits(a.version) - Math.min(a.bits, b.bits));
  return a.address >> below === b.address >> below;
}
