/** The network device of a container, against what ADD gave it. */
import { isIPv6 } from 'node:net';
import { CniError } from './errors.ts';
import type { CniResult } from './result.ts';

/** A network device in a container. */
export interface DeviceFound {
  mac: string;
  up: boolean;
  /** With prefix lengths. */
  addresses: string[];
  /** Destinations of routes through it, with prefix lengths. */
  routes: string[];
}

/** Throws CniError CHANGED. */
export function compareDevice(
  there: DeviceFound | undefined,
  previous: CniResult | undefined,
  at: { ifname: string; netns: string },
): void {
  const { ifname } = at;
  const changed = (what: string): CniError => new CniError('CHANGED', `${ifname}: ${what}`);
  if (!there) throw new CniError('CHANGED', `there is no ${ifname} in ${at.netns}`);
  const mac = previous?.interfaces?.find((i) => i.name === ifname)?.mac;
  if (mac !== undefined && mac.toLowerCase() !== there.mac.toLowerCase())
    throw changed(`MAC ${mac} expected, ${there.mac} found`);
  if (!there.up) throw changed('expected to be up, it is down');
  for (const { address } of previous?.ips ?? [])
    if (!there.addresses.some((a) => sameAddress(a, address)))
      throw changed(`address ${address} expected, ${there.addresses.join(', ') || 'none'} found`);
  for (const { dst } of previous?.routes ?? [])
    if (!there.routes.some((r) => sameAddress(r, dst)))
      throw changed(`route to ${dst} expected, ${there.routes.join(', ') || 'none'} found`);
}

/** Compares addresses and prefixes as text: IPv6 is written in more than one way, and `0.0.0.0/0` is `default`. */
function sameAddress(a: string, b: string): boolean {
  return canonical(a) === canonical(b);
}

function canonical(text: string): string {
  const [ip = '', length] = text.split('/');
  const whole = ip.includes(':') && isIPv6(ip) ? new URL(`http://[${ip}]`).hostname : ip;
  return length === undefined ? whole : `${whole}/${length}`;
}
