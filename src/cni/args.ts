/**
 * What a runtime may ask of one attachment besides the network's configuration: by the environment (CNI_ARGS), by the
 * conventions' `args.cni`, by capabilities (`runtimeConfig`). The later of these wins, as in the stock plugins
 * (containernetworking/plugins, plugins/main/bridge and plugins/meta/tuning, read in 1.1.1).
 */
import { z } from 'zod';
import { CniError } from './errors.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

const MAC = /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i;

export const ConventionArgs = lazy(() =>
  z.looseObject({
    cni: z.looseObject({ mac: z.string().optional(), ips: z.array(z.string()).optional() }).optional(),
  }),
);

/** CNI_ARGS that are known. IP and GATEWAY are the IPAM plugin's, which reads the environment itself. */
const KNOWN = ['IgnoreUnknown', 'MAC', 'IP', 'GATEWAY'] as const;
type Known = (typeof KNOWN)[number];
export type EnvironmentArgs = ReadonlyMap<Known, string>;

const isKnown = (key: string): key is Known => KNOWN.some((k) => k === key);

/** Pairs of CNI_ARGS: `KEY=VALUE;KEY=VALUE`. Throws CniError INVALID_ENVIRONMENT. */
export function parseCniArgs(text: string): EnvironmentArgs {
  const args = new Map<Known, string>();
  const unknown: string[] = [];
  for (const pair of text.split(';').filter((p) => p !== '')) {
    const [key, value, ...more] = pair.split('=');
    if (key === undefined || key === '' || value === undefined || more.length > 0)
      throw new CniError('INVALID_ENVIRONMENT', `CNI_ARGS: KEY=VALUE expected, '${pair}' found`);
    if (isKnown(key)) args.set(key, value);
    else unknown.push(key);
  }
  const ignore = args.get('IgnoreUnknown') ?? 'false';
  if (!/^(1|0|true|false)$/i.test(ignore))
    throw new CniError(
      'INVALID_ENVIRONMENT',
      `CNI_ARGS: IgnoreUnknown: 1, 0, true or false expected, '${ignore}' found`,
    );
  if (unknown.length > 0 && !/^(1|true)$/i.test(ignore))
    throw new CniError(
      'INVALID_ENVIRONMENT',
      `CNI_ARGS: ${unknown.join(', ')}: unknown, one of ${KNOWN.join(', ')} expected (or IgnoreUnknown=1)`,
    );
  return args;
}

interface Wishes {
  args?: Output<typeof ConventionArgs> | undefined;
  runtimeConfig?: { mac?: string | undefined; ips?: string[] | undefined } | undefined;
}

/** The MAC address that is asked for, in lower case; undefined: any. Throws CniError INVALID_CONFIG. */
export function macWanted(env: EnvironmentArgs, config: Wishes): string | undefined {
  const mac = config.runtimeConfig?.mac || config.args?.cni?.mac || env.get('MAC');
  if (mac === undefined || mac === '') return undefined;
  if (!MAC.test(mac))
    throw new CniError(
      'INVALID_CONFIG',
      `MAC: an address such as 02:00:00:00:00:01 expected, '${mac}' found`,
    );
  if (Number.parseInt(mac.slice(0, 2), 16) & 1)
    throw new CniError('INVALID_CONFIG', `MAC: the address of one station expected, '${mac}' is a group's`);
  return mac.toLowerCase();
}

/** The addresses that are asked for: they are the IPAM plugin's to give. */
export function ipsWanted(env: EnvironmentArgs, config: Wishes): string[] {
  const ip = env.get('IP');
  return (
    config.runtimeConfig?.ips ?? config.args?.cni?.ips ?? (ip === undefined || ip === '' ? [] : ip.split(','))
  );
}
