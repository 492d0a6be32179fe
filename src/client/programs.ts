/** The network programs that come with this package, on a NIC of this L1. */
import { HyperturtleError } from '../core/errors.ts';
import { readYaml } from '../core/yaml.ts';
import { PolicyInput } from '../net/firewall-rules.ts';
import { wireMaps } from '../net/maps.ts';
import type { MapAccess } from '../net/maps.ts';
import { NETWORK_PROGRAMS, networkObject } from '../net/programs.ts';
import type { NetworkHook, NetworkProgram } from '../net/programs.ts';
import type { ObjectParams } from './object.ts';
import type { AgentClient } from './session.ts';
import { loadAndLink } from './transaction.ts';
import type { LoadedAndLinked } from './transaction.ts';

/** Throws HT_USAGE. */
export function programOf(name: string): NetworkProgram {
  const found = NETWORK_PROGRAMS.find((p) => p.name === name);
  if (found) return found;
  throw new HyperturtleError(
    'HT_USAGE',
    `program '${name}': one of ${NETWORK_PROGRAMS.map((p) => p.name).join(', ')} expected`,
  );
}

/** The maps of a NIC's program. Throws HT_NOT_FOUND when it is not enabled there. */
export async function programMaps(
  { peer, signal, timeoutMs }: AgentClient,
  program: string,
  nic: string,
): Promise<MapAccess> {
  const name = networkObject(program, nic);
  const { objects } = await peer.request('list', {}, { signal, timeoutMs });
  if (!objects.some((o) => o.name === name))
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `${program} is not enabled on NIC '${nic}': 'hyperturtle enable ${program} --nic ${nic}' does it`,
    );
  return wireMaps((method, params) => peer.request(method, params as never, { signal, timeoutMs }), name);
}

/** A policy from a YAML or JSON file; every mistake with its line. Throws HT_NOT_FOUND, HT_CONFIG. */
export function readPolicy(file: string): PolicyInput {
  return readYaml(file, PolicyInput());
}

/**
 * Loads a program for a NIC, does `before` while no packet meets it, and links it to the hooks. Throws what the host
 * answers to the part that failed; what it loaded and linked goes again.
 */
export function enableProgram(
  client: AgentClient,
  program: string,
  nic: string,
  how: {
    object: ObjectParams;
    hooks: readonly NetworkHook[];
    /** Among the programs of a hook; left out: the host's default. */
    order?: number | undefined;
    before?: () => Promise<void>;
  },
): Promise<LoadedAndLinked> {
  const order = how.order === undefined ? {} : { order: how.order };
  return loadAndLink(
    client,
    { name: networkObject(program, nic), ...how.object },
    {
      ...(how.before ? { before: how.before } : {}),
      links: () => how.hooks.map((hook) => ({ hook, target: nic, ...order })),
    },
  );
}

/** Throws HT_NOT_FOUND when it is not enabled there. */
export async function disableProgram(
  { peer, signal, timeoutMs }: AgentClient,
  program: string,
  nic: string,
): Promise<void> {
  await peer.request('unload', { name: networkObject(program, nic), force: true }, { signal, timeoutMs });
}
