/** IP addresses and prefixes as numbers. */
import { isIPv4, isIPv6 } from 'node:net';

export interface Prefix {
  version: 4 | 6;
  /** Host order; bits below the prefix are zero. */
  address: bigint;
  bits: number;
}

export const addressBits = (version: 4 | 6): number => (version === 4 ? 32 : 128);

/** Undefined when it is no address. */
export function parseAddress(text: string): { version: 4 | 6; address: bigint } | undefined {
  if (isIPv4(text)) return { version: 4, address: v4(text) };
  if (!isIPv6(text) || text.includes('%')) return undefined;
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  const plain = dotted
    ? `${dotted[1]}${(v4(dotted[2]!) >> 16n).toString(16)}:${(v4(dotted[2]!) & 0xffffn).toString(16)}`
    : text;
  const [head = '', tail] = plain.split('::');
  const groups = (s: string): string[] => (s === '' ? [] : s.split(':'));
  const [a, b] = [groups(head), groups(tail ?? '')];
  const all = tail === undefined ? a : [...a, ...Array<string>(8 - a.length - b.length).fill('0'), ...b];
  return { version: 6, address: all.reduce((n, g) => (n << 16n) | BigInt(`0x${g}`), 0n) };
}

const v4 = (text: string): bigint => text.split('.').reduce((n, b) => (n << 8n) | BigInt(b), 0n);

/** `10.0.0.0/8`, `fd00::/8`, or an address. A text that says why not. */
export function parsePrefix(text: string): Prefix | string {
  const [address = '', length, ...rest] = text.split('/');
  const parsed = parseAddress(address);
  if (!parsed || rest.length > 0) return 'an address or prefix like 10.0.0.0/8 or fd00::/8 expected';
  const width = addressBits(parsed.version);
  if (length !== undefined && (!/^\d{1,3}$/.test(length) || Number(length) > width))
    return `a prefix length from 0 to ${width} expected`;
  const bits = length === undefined ? width : Number(length);
  const low = (1n << BigInt(width - bits)) - 1n;
  if ((parsed.address & low) !== 0n)
    return `bits are set behind the prefix: ${formatAddress(parsed.version, parsed.address & ~low)}/${bits} meant?`;
  return { version: parsed.version, address: parsed.address, bits };
}

/** IPv6 in the form of RFC 5952. */
export function formatAddress(version: 4 | 6, address: bigint): string {
  if (version === 4) return [24n, 16n, 8n, 0n].map((s) => String((address >> s) & 255n)).join('.');
  const groups = Array.from({ length: 8 }, (_, i) => (address >> BigInt(112 - 16 * i)) & 0xffffn);
  let [start, length] = [0, 1];
  for (let i = 0; i < 8; i++) {
    let n = 0;
    while (groups[i + n] === 0n) n++;
    if (n > length) [start, length] = [i, n];
  }
  const text = (part: bigint[]): string => part.map((g) => g.toString(16)).join(':');
  return length < 2 ? text(groups) : `${text(groups.slice(0, start))}::${text(groups.slice(start + length))}`;
}

export function formatPrefix({ version, address, bits }: Prefix): string {
  return `${formatAddress(version, address)}${bits === addressBits(version) ? '' : `/${bits}`}`;
}
