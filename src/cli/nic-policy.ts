/** The network policy of one NIC: firewall and limits, loaded, filled and only then linked. */
import { isHyperturtleError } from '../core/errors.ts';
import type { PolicyInput } from '../net/firewall-rules.ts';
import { DIRECTIONS } from '../net/firewall-rules.ts';
import type { ObjectPolicy } from '../net/policy.ts';
import { HOOK_OF_DIRECTION, NETWORK_PROGRAMS, networkObject } from '../net/programs.ts';
import type { RateLimitInput } from '../net/rate-limit.ts';
import type { AgentClient } from './l1-client.ts';
import { objectFile } from './l1-net.ts';
import { readObject } from './l1-objects.ts';
import { UNDO_MS, loadAndLink } from './transaction.ts';

/** The firewall runs before the limits: what it drops costs no tokens. */
const ORDER = { firewall: 50, 'rate-limiter': 60 } as const;
type Program = keyof typeof ORDER;

/** Throws what the host answers; then no program is left that was not there before, and none is gone that was. */
export async function setNicPolicy(
  client: AgentClient,
  nic: string,
  policy: { firewall?: PolicyInput | undefined; rateLimit?: RateLimitInput | undefined },
): Promise<void> {
  const { firewall, rateLimit } = policy;
  const existed = firewall ? await enable(client, 'firewall', nic, { firewall }) : true;
  if (!rateLimit) return;
  try {
    await enable(client, 'rate-limiter', nic, { rateLimit });
  } catch (e) {
    // the first failure is the one to tell
    if (!existed)
      await client.peer
        .request('unload', { name: networkObject('firewall', nic), force: true }, { timeoutMs: UNDO_MS })
        .catch(() => undefined);
    throw e;
  }
}

/** Fine when there is none. */
export async function dropNicPolicy({ peer, signal, timeoutMs }: AgentClient, nic: string): Promise<void> {
  for (const program of Object.keys(ORDER)) {
    const name = networkObject(program, nic);
    try {
      await peer.request('unload', { name, force: true }, { signal, timeoutMs });
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
    }
  }
}

/** True: it was there before. */
async function enable(
  client: AgentClient,
  program: Program,
  nic: string,
  policy: ObjectPolicy,
): Promise<boolean> {
  const { peer, signal, timeoutMs } = client;
  const file = NETWORK_PROGRAMS.find((p) => p.name === program)?.file ?? '';
  const object = networkObject(program, nic);
  const { existed } = await loadAndLink(
    client,
    { name: object, ...(await readObject(await objectFile(file), { set: {} })) },
    {
      before: async () => {
        await peer.request('agent.policy.set', { object, policy }, { signal, timeoutMs });
      },
      links: () =>
        DIRECTIONS.map((d) => ({ hook: HOOK_OF_DIRECTION[d], target: nic, order: ORDER[program] })),
    },
  );
  return existed;
}
