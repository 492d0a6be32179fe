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

/** The firewall runs before the limits: what it drops costs no tokens. */
const ORDER = { firewall: 50, 'rate-limiter': 60 } as const;
type Program = keyof typeof ORDER;

/** Throws what the host answers; then nothing of it is left that was not there before. */
export async function setNicPolicy(
  client: AgentClient,
  nic: string,
  policy: { firewall?: PolicyInput | undefined; rateLimit?: RateLimitInput | undefined },
): Promise<void> {
  const { firewall, rateLimit } = policy;
  try {
    if (firewall) await enable(client, 'firewall', nic, { firewall });
    if (rateLimit) await enable(client, 'rate-limiter', nic, { rateLimit });
  } catch (e) {
    await dropNicPolicy(client, nic).catch(() => undefined); // the first failure is the one to tell
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

async function enable(
  { peer, signal, timeoutMs }: AgentClient,
  program: Program,
  nic: string,
  policy: ObjectPolicy,
): Promise<void> {
  const to = { signal, timeoutMs };
  const file = NETWORK_PROGRAMS.find((p) => p.name === program)?.file ?? '';
  const object = networkObject(program, nic);
  await peer.request(
    'load',
    { name: object, ...(await readObject(await objectFile(file), { set: {} })) },
    to,
  );
  await peer.request('agent.policy.set', { object, policy }, to);
  for (const direction of DIRECTIONS) {
    const hook = HOOK_OF_DIRECTION[direction];
    await peer.request('link', { object, hook, target: nic, order: ORDER[program] }, to);
  }
}
