/**
 * What the cluster is told of this node: a label that pods' runtime class selects by, and a condition with the reason, by
 * server-side apply. A label that is not applied again goes, so only what this wrote is ever taken away.
 */
import { isHyperturtleError, messageOf } from '../core/errors.ts';
import { sleep } from '../core/wait.ts';
import { retryAfterMs } from '../fleet/kube.ts';
import type { AgentResult } from '../guest/agent/schema.ts';
import { ACCELERATED_LABEL } from './manifests/values.ts';

const CONDITION = 'HyperTurtleAccelerated';

export interface Verdict {
  /** `Unknown`: the agent does not answer. */
  status: 'True' | 'False' | 'Unknown';
  /** One word, for programs. */
  reason: string;
  message: string;
}

/** Whether faults of nested guests of this machine are answered in its host. */
export function verdict(
  status: AgentResult<'agent.status'>,
  links: AgentResult<'agent.desired'>['links'],
): Verdict {
  const no = (reason: string, message: string): Verdict => ({ status: 'False', reason, message });
  const { host, module, desired } = status;
  if (host.state !== 'connected')
    return no(
      'NotConnected',
      `the agent is not connected to the host${host.lastError ? `: ${host.lastError}` : ''}`,
    );
  if (module?.state !== 'present')
    return no('NoModule', `the guest module is ${module === null ? 'not used' : module.state}`);
  if (!module.arenaBound) return no('NoArena', 'the host has given this machine no arena');
  if (!module.enabled) return no('Disabled', 'the guest module lets programs answer no faults');
  if (!links.some((l) => l.hook === 'npf')) return no('NoProgram', 'no program is wanted at the hook npf');
  const [problem] = desired.problems;
  if (!desired.reached)
    return no(
      'NotInForce',
      problem ? `${problem.step}: ${problem.message}` : 'what is wanted is not in force yet',
    );
  return {
    status: 'True',
    reason: 'Linked',
    message: `the host answers faults, by ${host.vm ?? 'its'} programs`,
  };
}

/** What is asked of the agent and of the API. */
export interface NodeMeans {
  look(signal: AbortSignal): Promise<Verdict>;
  /** The node as the API has it. */
  node(signal: AbortSignal): Promise<unknown>;
  /** Server-side apply to the node, or to its status. */
  apply(part: 'node' | 'status', object: object, signal: AbortSignal): Promise<void>;
  log: { info(detail: object, text: string): void; warn(detail: object, text: string): void };
  signal: AbortSignal;
  now?: () => Date;
  everyMs?: number;
  heartbeatMs?: number;
  /** So long a node may look worse before it is said: an agent that is replaced is back by then. */
  graceMs?: number;
}

const EVERY_MS = 10_000;
const HEARTBEAT_MS = 300_000;
const GRACE_MS = 30_000;
const AGAIN_MAX_MS = 300_000;

/** Tells until the signal, whose reason it throws. One GET at first; two PATCHes at a change and every five minutes. */
export async function tellNodeStatus(name: string, means: NodeMeans): Promise<never> {
  const { log, signal, everyMs = EVERY_MS, heartbeatMs = HEARTBEAT_MS, graceMs = GRACE_MS } = means;
  let told: (Verdict & { since: string; at: number }) | undefined;
  let worseSince: number | undefined;
  for (let waitMs = everyMs; ; await sleep(waitMs, signal)) {
    try {
      const found = await looked(means);
      told ??= await earlier(means);
      const now = performance.now();
      worseSince = told?.status === 'True' && found.status !== 'True' ? (worseSince ?? now) : undefined;
      const same = told?.status === found.status && told.reason === found.reason;
      const waiting = worseSince !== undefined && now - worseSince < graceMs;
      if (!waiting && !(told && same && now - told.at < heartbeatMs)) {
        const time = (means.now?.() ?? new Date()).toISOString().replace(/\.\d+Z$/, 'Z');
        const since = told && told.status === found.status ? told.since : time;
        await means.apply('node', labelled(name, found), signal);
        await means.apply('status', conditioned(name, { ...found, since, time }), signal);
        if (!same) log.info(found, 'the node is marked');
        told = { ...found, since, at: now };
      }
      waitMs = everyMs;
    } catch (e) {
      if (signal.aborted) throw e;
      log.warn({}, `the cluster is not told: ${messageOf(e)}`);
      waitMs = Math.max(Math.min(2 * waitMs, AGAIN_MAX_MS), retryAfterMs(e));
    }
  }
}

async function looked(means: NodeMeans): Promise<Verdict> {
  try {
    return await means.look(means.signal);
  } catch (e) {
    if (means.signal.aborted || !isHyperturtleError(e)) throw e;
    return { status: 'Unknown', reason: 'NoAgent', message: messageOf(e) };
  }
}

/** What an earlier process told. */
async function earlier(means: NodeMeans): Promise<(Verdict & { since: string; at: number }) | undefined> {
  const node = (await means.node(means.signal)) as {
    status?: { conditions?: (Verdict & { type?: string; lastTransitionTime?: string })[] };
  };
  const found = node.status?.conditions?.find((c) => c.type === CONDITION);
  if (!found) return undefined;
  const { status, reason, message, lastTransitionTime = '' } = found;
  return { status, reason, message, since: lastTransitionTime, at: -Infinity };
}

const objectOf = (name: string, metadata: object = {}): object => ({
  apiVersion: 'v1',
  kind: 'Node',
  metadata: { name, ...metadata },
});

const labelled = (name: string, { status }: Verdict): object =>
  objectOf(name, status === 'True' ? { labels: { [ACCELERATED_LABEL]: 'true' } } : {});

const conditioned = (name: string, c: Verdict & { since: string; time: string }): object => ({
  ...objectOf(name),
  status: {
    conditions: [
      {
        type: CONDITION,
        status: c.status,
        reason: c.reason,
        message: c.message.slice(0, 1024),
        lastTransitionTime: c.since,
        lastHeartbeatTime: c.time,
      },
    ],
  },
});
