/** NICs of this L1, as its agent gets them from the host. */
import { isHyperturtleError } from '../core/errors.ts';
import type { AgentResult } from '../guest/agent/schema.ts';
import type { NicHost } from '../guest/nic/nic.ts';
import { NETWORK_PROGRAMS, networkObject } from '../net/programs.ts';
import type { AgentClient } from './session.ts';

/** The host behind the agent. */
export function nicHost({ peer, signal, timeoutMs }: AgentClient): NicHost {
  const options = { signal, timeoutMs };
  return {
    add: (params) => peer.request('nic.add', params, options),
    del: (id) => peer.request('nic.del', { id }, options),
    list: () => peer.request('nic.list', {}, options),
  };
}

/** Links and objects that were wanted for a NIC. */
export type Unwanted = AgentResult<'agent.unwant'>;

/**
 * Has the agent give up what is wanted for a NIC: links to it, and its network programs. An agent of an earlier version, which
 * does not know how, is asked for each of these programs; links of other objects stay wanted there.
 */
export async function unwantNic(
  { peer, signal, timeoutMs }: Pick<AgentClient, 'peer' | 'signal' | 'timeoutMs'>,
  id: string,
): Promise<Unwanted> {
  const to = { signal, timeoutMs };
  try {
    return await peer.request('agent.unwant', { target: id }, to);
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_UNSUPPORTED')) throw e;
  }
  const objects: string[] = [];
  for (const name of NETWORK_PROGRAMS.map((p) => networkObject(p.name, id)))
    try {
      await peer.request('unload', { name, force: true }, to);
      objects.push(name);
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
    }
  return { links: [], objects };
}
