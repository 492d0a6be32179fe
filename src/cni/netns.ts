/** A network device in a container's network namespace, by iproute2's ip and util-linux's nsenter. */
import { exec } from '../core/exec.ts';
import type { DeviceFound } from './device.ts';
import type { CniResult } from './result.ts';

const IP_MS = 20_000;

export interface MoveSpec {
  netns: string;
  /** As it is called now, in our own namespace. */
  device: string;
  ifname: string;
  mtu: number;
}

/** Moves the device in, named and with its MTU, but still down. */
export async function moveIn(spec: MoveSpec, signal: AbortSignal): Promise<void> {
  const { netns, device, ifname, mtu } = spec;
  // a name that is free there: the final one may still be taken by something that goes
  await ip(['link', 'set', 'dev', device, 'down'], signal);
  await ip(['link', 'set', 'dev', device, 'mtu', String(mtu)], signal);
  await ip(['link', 'set', 'dev', device, 'netns', netns, 'name', ifname], signal);
}

/** Addresses and routes of an IPAM plugin's result; up. */
export async function configure(
  netns: string,
  ifname: string,
  result: CniResult,
  signal: AbortSignal,
): Promise<void> {
  const inside = (...args: string[]): Promise<string> => ipIn(netns, args, signal);
  for (const { address } of result.ips ?? []) {
    const v6 = address.includes(':') ? ['nodad'] : [];
    await inside('address', 'add', address, 'dev', ifname, ...v6);
  }
  await inside('link', 'set', 'dev', ifname, 'up');
  for (const { dst, gw } of result.routes ?? []) {
    const via = gw ?? gatewayFor(dst, result);
    await inside('route', 'add', dst, ...(via === undefined ? [] : ['via', via]), 'dev', ifname);
  }
}

/** The device as it is now; undefined without it. */
export async function inspect(
  netns: string,
  ifname: string,
  signal: AbortSignal,
): Promise<DeviceFound | undefined> {
  const text = await ipIn(netns, ['-j', 'address', 'show', 'dev', ifname], signal, [0, 1]);
  if (text.trim() === '') return undefined;
  const [link] = JSON.parse(text) as {
    address?: string;
    flags?: string[];
    addr_info?: { local: string; prefixlen: number }[];
  }[];
  if (!link) return undefined;
  const routes = await Promise.all(['-4', '-6'].map((family) => routesOf(netns, ifname, family, signal)));
  return {
    mac: link.address ?? '',
    up: link.flags?.includes('UP') ?? false,
    addresses: (link.addr_info ?? []).map((a) => `${a.local}/${a.prefixlen}`),
    routes: routes.flat(),
  };
}

/** Destinations with prefix lengths: ip writes `default`, and single addresses without. */
async function routesOf(
  netns: string,
  ifname: string,
  family: string,
  signal: AbortSignal,
): Promise<string[]> {
  const text = await ipIn(netns, ['-j', family, 'route', 'show', 'dev', ifname], signal);
  const routes = text.trim() === '' ? [] : (JSON.parse(text) as { dst: string }[]);
  const v6 = family === '-6';
  return routes.map(({ dst }) => {
    if (dst === 'default') return v6 ? '::/0' : '0.0.0.0/0';
    return dst.includes('/') ? dst : `${dst}/${v6 ? 128 : 32}`;
  });
}

function gatewayFor(dst: string, result: CniResult): string | undefined {
  const v6 = dst.includes(':');
  return result.ips?.find((i) => i.gateway !== undefined && i.gateway.includes(':') === v6)?.gateway;
}

async function ip(args: readonly string[], signal: AbortSignal): Promise<void> {
  await exec('ip', args, { timeoutMs: IP_MS, signal });
}

async function ipIn(
  netns: string,
  args: readonly string[],
  signal: AbortSignal,
  okStatus: readonly number[] = [0],
): Promise<string> {
  const r = await exec('nsenter', [`--net=${netns}`, 'ip', ...args], { timeoutMs: IP_MS, signal, okStatus });
  return r.stdout.toString('utf8');
}
