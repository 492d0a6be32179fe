/** What the configuration says about the NICs that a VM may be given. */
import { own } from '../../core/own.ts';
import { nicPorts } from '../config.ts';
import type { HostConfig, VmSpec } from '../config.ts';
import type { NicSettings } from '../nics/allocate.ts';

export function nicSettings(spec: VmSpec, networks: HostConfig['networks']): NicSettings {
  const allowed = spec.nics.networks.flatMap((name) => {
    const network = own(networks, name);
    return network ? [[name, network] as const] : [];
  });
  return {
    networks: Object.fromEntries(allowed),
    ports: nicPorts(spec),
    max: spec.quotas.nics,
    hooks: spec.policy.hooks,
    macs: spec.nics.macs,
  };
}
