/** Which nodes a set is for, and which of its objects a node is to have. Pure: by names and labels alone. */
import { createHash } from 'node:crypto';
import type { ObjectSpec, SetSpec } from './spec.ts';

export interface Node {
  name: string;
  labels: Readonly<Record<string, string>>;
}

/** `object`: what a set has for all; `rollout`: another version, on a part of the nodes. */
export interface Choice {
  version: 'object' | 'rollout';
  object: ObjectSpec;
}

/** Undefined: the set is not for this node, or has nothing for it yet. */
export function choiceFor(set: { name: string; spec: SetSpec }, node: Node): Choice | undefined {
  const { object, rollout, nodeSelector = {} } = set.spec;
  if (!hasAll(node.labels, nodeSelector)) return undefined;
  if (rollout && reached(set.name, rollout, node)) return { version: 'rollout', object: rollout.object };
  return object && { version: 'object', object };
}

function reached(set: string, rollout: NonNullable<SetSpec['rollout']>, node: Node): boolean {
  const { labels, percent = labels === undefined ? 100 : 0 } = rollout;
  return (labels !== undefined && hasAll(node.labels, labels)) || placeOf(set, node.name) < percent;
}

/**
 * Where a node stands among all, from 0 to below 100, by the names of set and node: the same at all times and on every machine, and
 * for another set another one. Nodes that 1 percent reaches are among those that 10 percent reach.
 */
export function placeOf(set: string, node: string): number {
  const digest = createHash('sha256').update(`${set}\n${node}`).digest();
  return (digest.readUInt32BE(0) / 2 ** 32) * 100;
}

const hasAll = (
  labels: Readonly<Record<string, string>>,
  wanted: Readonly<Record<string, string>>,
): boolean => {
  const has = new Map(Object.entries(labels));
  return Object.entries(wanted).every(([name, value]) => has.get(name) === value);
};
