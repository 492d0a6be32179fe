/**
 * A pod's own firewall rules, from its annotation: runtimes that know the capability give a plugin the annotations of its pod
 * (containerd, CRI-O). The configuration's rules go first, so that a pod cannot take back what they deny.
 */
import { messageOf } from '../core/errors.ts';
import { PolicyInput, policyOf } from '../net/firewall-rules.ts';
import type { Action, Direction } from '../net/firewall-rules.ts';
import { CniError } from './errors.ts';

/** The capability, which a configuration asks for: `"capabilities": {"io.kubernetes.cri.pod-annotations": true}`. */
const CAPABILITY = 'io.kubernetes.cri.pod-annotations';
const FIREWALL = 'hyperturtle.io/firewall';
/** All annotations of a pod have 256 KiB at most. */
const TEXT_MAX = 256 << 10;

/** What of a configuration is looked at. */
interface Ruled {
  policy?: { firewall?: PolicyInput | undefined; pod: 'refuse' | 'after' } | undefined;
  runtimeConfig?: Readonly<Record<string, unknown>> | undefined;
}

/** The configuration with the pod's rules behind its own. Throws CniError POLICY. */
export function withPodPolicy<C extends Ruled>(config: C): C {
  const annotations: unknown = config.runtimeConfig?.[CAPABILITY];
  const text: unknown =
    annotations instanceof Object ? new Map(Object.entries(annotations)).get(FIREWALL) : undefined;
  if (text === undefined) return config;
  const { policy } = config;
  if (policy?.pod !== 'after')
    throw new CniError(
      'POLICY',
      `annotation ${FIREWALL}: this network takes no rules of pods (policy.pod is not 'after')`,
    );
  return { ...config, policy: { ...policy, firewall: after(policy.firewall, parsed(text)) } };
}

/** One rule a line, or a policy as JSON. */
function parsed(text: unknown): PolicyInput {
  try {
    if (typeof text !== 'string' || text.length > TEXT_MAX) throw new Error('rules as text expected');
    const lines = text.split(/[\n;]/).map((l) => l.trim());
    const input: unknown = text.trimStart().startsWith('{')
      ? JSON.parse(text)
      : { rules: lines.filter((l) => l !== '' && !l.startsWith('#')) };
    const checked = PolicyInput().safeParse(input);
    if (!checked.success)
      throw new Error(checked.error.issues.map((i) => `${i.path.join('.')}: ${i.message}`).join('; '));
    policyOf(checked.data); // throws
    return checked.data;
  } catch (e) {
    throw new CniError('POLICY', `annotation ${FIREWALL}: ${messageOf(e)}`);
  }
}

/** The configuration's rules are asked first; what no rule matches passes where both let it pass. */
function after(first: PolicyInput | undefined, pod: PolicyInput): PolicyInput {
  if (!first) return pod;
  const [a, b] = [policyOf(first), policyOf(pod)];
  const both = (of: 'default' | 'nonIp', way: Direction): Action =>
    a[of][way] === 'allow' && b[of][way] === 'allow' ? 'allow' : 'deny';
  return {
    rules: [...(first.rules ?? []), ...(pod.rules ?? [])],
    default: { in: both('default', 'in'), out: both('default', 'out') },
    nonIp: { in: both('nonIp', 'in'), out: both('nonIp', 'out') },
    neighbours: a.neighbours && b.neighbours,
  };
}
