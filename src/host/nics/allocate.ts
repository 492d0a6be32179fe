/** What a NIC that is asked for gets: network, name and address, by the VM's settings and the NICs that it has. */
import { HyperturtleError } from '../../core/errors.ts';
import { own } from '../../core/own.ts';
import type { NicInfo, Params } from '../../wire/schema.ts';
import type { NetworkSpec } from './backend.ts';
import { checkedMac, macOf } from './mac.ts';

export interface NicSettings {
  /** Networks of the configuration that this VM may have NICs in, by name; the first is the default. */
  networks: Readonly<Record<string, NetworkSpec>>;
  /** QEMU's ids of root ports into which NICs may be plugged. */
  ports: readonly string[];
  max: number;
  /** Hooks that this VM's policy allows. */
  hooks: readonly string[] | undefined;
  /** The addresses that its NICs may have; undefined: any. */
  macs?: readonly string[] | undefined;
}

/** The network that is asked for, or the first. Throws HT_NOT_FOUND. */
export function networkFor(
  { networks }: NicSettings,
  asked: string | undefined,
): { name: string; network: NetworkSpec } {
  const name = asked ?? Object.keys(networks)[0];
  const network = name === undefined ? undefined : own(networks, name);
  if (name === undefined || !network)
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `there is no network '${name ?? ''}' for this VM; there are: ${Object.keys(networks).join(', ') || 'none'}`,
    );
  return { name, network };
}

/** The first of `nic0`, `nic1`, ... that none of these has. */
export function freeId(nics: readonly NicInfo[]): string {
  for (let n = 0; ; n++) if (!nics.some((x) => x.id === `nic${n}`)) return `nic${n}`;
}

/** The NIC that is there, asked for again. Throws HT_EXISTS when another one is wanted. */
export function sameNic(nic: NicInfo, params: Params<'nic.add'>): NicInfo {
  const network = params.network ?? nic.network;
  const mac = params.mac ?? nic.mac;
  if (network === nic.network && mac === nic.mac) return nic;
  throw new HyperturtleError(
    'HT_EXISTS',
    `NIC '${nic.id}' exists with MAC ${nic.mac} in network ${nic.network}: remove it first, or choose another id`,
  );
}

/** Throws HT_QUOTA. */
export function checkQuotas(
  { max }: NicSettings,
  nics: readonly NicInfo[],
  name: string,
  { maxPerVm = max }: NetworkSpec,
): void {
  if (nics.length >= max)
    throw new HyperturtleError('HT_QUOTA', `quota exceeded: nics (${max} of ${max} used)`, {
      detail: { quota: 'nics', limit: max },
    });
  if (nics.filter((n) => n.network === name).length >= maxPerVm)
    throw new HyperturtleError(
      'HT_QUOTA',
      `quota exceeded: nics in network ${name} (${maxPerVm} of ${maxPerVm} used)`,
      { detail: { quota: 'nics', limit: maxPerVm } },
    );
}

/**
 * The address that is asked for, the first unused one of the VM's list, or one that VM and NIC always get. Throws HT_USAGE
 * for what it may not have, HT_QUOTA when its list is used up, HT_EXISTS when another NIC has it in this network.
 */
export function macFor(
  { macs }: NicSettings,
  nics: readonly NicInfo[],
  of: { vm: string; id: string; network: string; asked: string | undefined },
): string {
  const mac = macs ? listed(macs, nics, of.asked) : checkedMac(of.asked ?? macOf(of.vm, of.id));
  const twin = nics.find((n) => n.mac === mac && n.network === of.network);
  if (twin)
    throw new HyperturtleError(
      'HT_EXISTS',
      `NIC '${twin.id}' has MAC ${mac} in network ${of.network}: choose another`,
    );
  return mac;
}

function listed(macs: readonly string[], nics: readonly NicInfo[], asked: string | undefined): string {
  if (asked !== undefined && !macs.includes(asked))
    throw new HyperturtleError('HT_USAGE', `${asked} is none of the ${macs.length} MAC addresses of this VM`);
  const mac = asked ?? macs.find((m) => !nics.some((n) => n.mac === m));
  if (mac === undefined)
    throw new HyperturtleError('HT_QUOTA', `nics: all ${macs.length} MAC addresses of this VM are used`, {
      detail: { quota: 'nics', limit: macs.length },
    });
  return mac;
}
