/** The network policy of one NIC: firewall and limits, loaded, filled and only then linked. */
import { isHyperturtleError } from '../core/errors.ts';
import { DIRECTIONS } from '../net/firewall-rules.ts';
import type { PolicyInput } from '../net/firewall-rules.ts';
import type { ObjectPolicy } from '../net/policy.ts';
import { HOOK_OF_DIRECTION, networkObject } from '../net/programs.ts';
import type { RateLimitInput } from '../net/rate-limit.ts';
import { objectFile, readObject } from './object.ts';
import { disableProgram, enableProgram, programOf } from './programs.ts';
import type { AgentClient } from './session.ts';
import { UNDO_MS } from './transaction.ts';

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
export async function dropNicPolicy(client: AgentClient, nic: string): Promise<void> {
  for (const program of Object.keys(ORDER))
    await disableProgram(client, program, nic).catch((e: unknown) => {
      if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
    });
}

/** True: it was there before. */
async function enable(
  client: AgentClient,
  program: Program,
  nic: string,
  policy: ObjectPolicy,
): Promise<boolean> {
  const { peer, signal, timeoutMs } = client;
  const { existed } = await enableProgram(client, program, nic, {
    object: readObject(objectFile(programOf(program).file)),
    hooks: DIRECTIONS.map((d) => HOOK_OF_DIRECTION[d]),
    order: ORDER[program],
    before: async () => {
      const object = networkObject(program, nic);
      await peer.request('agent.policy.set', { object, policy }, { signal, timeoutMs });
    },
  });
  return existed;
}
