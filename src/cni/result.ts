/** Results of CNI plugins: shaped as 1.x, written as the client's version has them. */
import { z } from 'zod';
import { CniError } from './errors.ts';
import type { CniVersion } from './versions.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

export const CniResult = lazy(() =>
  z.looseObject({
    interfaces: z
      .array(z.looseObject({ name: z.string(), mac: z.string().optional(), sandbox: z.string().optional() }))
      .optional(),
    ips: z
      .array(
        z.looseObject({ address: z.string(), gateway: z.string().optional(), interface: z.int().optional() }),
      )
      .optional(),
    routes: z.array(z.looseObject({ dst: z.string(), gw: z.string().optional() })).optional(),
    dns: z.looseObject({}).optional(),
  }),
);
export type CniResult = Output<typeof CniResult>;

export type Interface = {
  name: string;
  mac: string;
  /** Network namespace; left out: it is not in one (a device for a VM). */
  sandbox?: string;
  mtu?: number;
  /** PCI address. */
  pciID?: string;
};

/** Throws CniError UNDECODABLE. */
export function parseResult(text: string, what: string): CniResult {
  try {
    return CniResult().parse(JSON.parse(text));
  } catch (e) {
    throw new CniError('UNDECODABLE', `${what}: a CNI result expected`, String(e));
  }
}

/** Attributes that came with 1.1.0. */
const NEW_IN_1_1 = {
  interface: ['mtu', 'pciID', 'socketPath'],
  route: ['mtu', 'advmss', 'priority', 'table', 'scope'],
};

function without<T extends object>(value: T, keys: readonly string[]): T {
  return Object.fromEntries(Object.entries(value).filter(([k]) => !keys.includes(k))) as T;
}

/** A result as `version` has it: 0.4.0 has the family in each address; some attributes came with 1.1.0. */
export function formatResult(result: CniResult, version: CniVersion): Record<string, unknown> {
  const newest = version === '1.1.0';
  const interfaces = result.interfaces?.map((i) => (newest ? i : without(i, NEW_IN_1_1.interface)));
  const routes = result.routes?.map((r) => (newest ? r : without(r, NEW_IN_1_1.route)));
  const ips = result.ips?.map((ip) => {
    const plain = without(ip, ['version']);
    return version === '0.4.0' ? { version: ip.address.includes(':') ? '6' : '4', ...plain } : plain;
  });
  return {
    cniVersion: version,
    ...(interfaces ? { interfaces } : {}),
    ...(ips ? { ips } : {}),
    ...(routes ? { routes } : {}),
    dns: result.dns ?? {},
  };
}
