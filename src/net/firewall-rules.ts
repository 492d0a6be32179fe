/** Firewall rules and policies: as text for people, as objects for JSON and YAML, and parsed. */
import { z } from 'zod';
import { HyperturtleError } from '../core/errors.ts';
import { HT_FW_RULES } from '../kernel/net.ts';
import { formatPrefix, parsePrefix } from './address.ts';
import type { Prefix } from './address.ts';
import { own } from '../core/own.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

/** Directions of the nested guest: `out` is what it sends. */
export const DIRECTIONS = ['out', 'in'] as const;
export type Direction = (typeof DIRECTIONS)[number];
export const Action = lazy(() => z.enum(['allow', 'deny']));
export type Action = Output<typeof Action>;

const PROTOCOLS: Readonly<Record<string, number>> = {
  icmp: 1,
  igmp: 2,
  tcp: 6,
  udp: 17,
  dccp: 33,
  gre: 47,
  esp: 50,
  ah: 51,
  icmpv6: 58,
  sctp: 132,
  udplite: 136,
};
const WITH_PORTS: ReadonlySet<number> = new Set([6, 17, 33, 132, 136]);
const PORTED = 'tcp, udp, sctp, dccp or udplite';

export interface PortRange {
  first: number;
  last: number;
}

/** An empty list: any. A rule matches when each of its conditions does. */
export interface Rule {
  action: Action;
  direction: Direction | 'both';
  protocol: number | null;
  from: Prefix[];
  fromPorts: PortRange[];
  to: Prefix[];
  toPorts: PortRange[];
}

const List = <T extends z.ZodType>(of: T) => z.union([of, z.array(of).min(1).max(256)]).optional();
const PortText = lazy(() => z.union([z.int().min(0).max(65_535), z.string().max(16)]));

/** A rule as an object; each field but the action may be left out, which means any (of the direction: both). */
const RuleFields = lazy(() =>
  z.strictObject({
    action: Action(),
    direction: z.enum(['in', 'out', 'both']).optional(),
    protocol: z.union([z.int().min(0).max(255), z.string().max(16)]).optional(),
    from: List(z.string().max(64)),
    fromPort: List(PortText()),
    to: List(z.string().max(64)),
    toPort: List(PortText()),
  }),
);
/** One text (`allow out tcp to 10.0.0.0/8 port 80-443`) or an object. */
export const RuleInput = lazy(() => z.union([z.string().max(8192), RuleFields()]));

const EachWay = lazy(() =>
  z.union([Action(), z.strictObject({ in: Action().optional(), out: Action().optional() })]),
);

export const PolicyInput = lazy(() =>
  z.strictObject({
    /** What no rule matches; deny when left out. */
    default: EachWay().optional(),
    /** Frames that are neither IP nor ARP; the direction's default when left out. */
    nonIp: EachWay().optional(),
    /** ARP and IPv6 neighbour discovery pass whatever the rules say; true when left out. */
    neighbours: z.boolean().optional(),
    rules: z
      .array(RuleInput())
      .max(2 * HT_FW_RULES)
      .optional(),
  }),
);
export type PolicyInput = Output<typeof PolicyInput>;

export interface Policy {
  default: Record<Direction, Action>;
  nonIp: Record<Direction, Action>;
  neighbours: boolean;
  rules: Rule[];
}

const usage = (what: string, why: string): HyperturtleError =>
  new HyperturtleError('HT_USAGE', `rule '${what}': ${why}`);

function protocolOf(text: string | number, what: string): number | null {
  if (text === 'any') return null;
  const n =
    typeof text === 'number' || /^\d{1,3}$/.test(text) ? Number(text) : own(PROTOCOLS, text.toLowerCase());
  if (n === undefined || n > 255)
    throw usage(
      what,
      `protocol '${text}': any, a number to 255 or one of ${Object.keys(PROTOCOLS).join(', ')} expected`,
    );
  return n;
}

function prefixesOf(texts: readonly string[], what: string): Prefix[] {
  if (texts.length === 0 || (texts.length === 1 && texts[0] === 'any')) return [];
  return texts.map((t) => {
    const p = parsePrefix(t);
    if (typeof p === 'string') throw usage(what, `'${t}': ${p}`);
    return p;
  });
}

function portsOf(texts: readonly (string | number)[], what: string): PortRange[] {
  if (texts.length === 0 || (texts.length === 1 && texts[0] === 'any')) return [];
  return texts.map((t) => {
    const [, a = '', b = a] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(String(t)) ?? [];
    const [first, last] = [Number(a), Number(b)];
    if (a === '' || first > last || last > 65_535)
      throw usage(what, `port '${t}': a port or an ascending range like 80-443 expected`);
    return { first, last };
  });
}

/** What no single field shows. */
function checked(rule: Rule, what: string): Rule {
  const ports = rule.fromPorts.length + rule.toPorts.length > 0;
  if (ports && (rule.protocol === null || !WITH_PORTS.has(rule.protocol)))
    throw usage(what, `ports need a protocol that has some: ${PORTED}`);
  const versions = (list: Prefix[]): Set<number> => new Set(list.map((p) => p.version));
  const [from, to] = [versions(rule.from), versions(rule.to)];
  if (from.size > 0 && to.size > 0 && ![...from].some((v) => to.has(v)))
    throw usage(what, 'one side is IPv4 and the other IPv6: no packet can match');
  return rule;
}

const SYNTAX =
  'allow|deny [in|out|both] [PROTOCOL] [from PREFIXES [port PORTS]] [to PREFIXES [port PORTS]] [port PORTS] expected';

/**
 * `allow out tcp from any to 10.0.0.0/8,fd00::/8 port 80-443,8080`. A `port` belongs to the address before it; without one
 * to the destination. Throws HT_USAGE, which names the word.
 */
export function parseRule(text: string): Rule {
  const what = text.trim();
  const words = what
    .replaceAll(/\s*,\s*/g, ',')
    .split(/\s+/)
    .filter(Boolean);
  const next = (): string | undefined => words.shift();
  const action = next();
  if (action !== 'allow' && action !== 'deny') throw usage(what, `'${action ?? ''}': ${SYNTAX}`);
  const rule: Rule = {
    action,
    direction: 'both',
    protocol: null,
    from: [],
    fromPorts: [],
    to: [],
    toPorts: [],
  };
  if (words[0] === 'in' || words[0] === 'out' || words[0] === 'both')
    rule.direction = next() as Rule['direction'];
  if (words[0] !== undefined && !['from', 'to', 'port'].includes(words[0]))
    rule.protocol = protocolOf(next()!, what);
  const seen = new Set<string>();
  let side: 'from' | 'to' = 'to';
  for (let word = next(); word !== undefined; word = next()) {
    const list = words.shift()?.split(',');
    if (word === 'from' || word === 'to') side = word;
    else if (word !== 'port') throw usage(what, `'${word}': ${SYNTAX}`);
    const key = word === 'port' ? `port of ${side}` : word;
    if (seen.has(key)) throw usage(what, `'${key}' stands there twice`);
    seen.add(key);
    if (list === undefined) throw usage(what, `nothing stands behind '${word}'`);
    if (word === 'port') rule[side === 'from' ? 'fromPorts' : 'toPorts'] = portsOf(list, what);
    else rule[side] = prefixesOf(list, what);
  }
  return checked(rule, what);
}

const listOf = <T>(x: T | T[] | undefined): T[] => (x === undefined ? [] : Array.isArray(x) ? x : [x]);

export function ruleOf(input: Output<typeof RuleInput>): Rule {
  if (typeof input === 'string') return parseRule(input);
  const what = JSON.stringify(input);
  return checked(
    {
      action: input.action,
      direction: input.direction ?? 'both',
      protocol: input.protocol === undefined ? null : protocolOf(input.protocol, what),
      from: prefixesOf(listOf(input.from), what),
      fromPorts: portsOf(listOf(input.fromPort), what),
      to: prefixesOf(listOf(input.to), what),
      toPorts: portsOf(listOf(input.toPort), what),
    },
    what,
  );
}

/** The text that parseRule() reads as the same rule, always written the same way. */
export function formatRule(r: Rule): string {
  const name = (n: number): string => Object.entries(PROTOCOLS).find(([, v]) => v === n)?.[0] ?? String(n);
  const ports = (list: PortRange[]): string =>
    list.length === 0
      ? ''
      : ` port ${list.map((p) => (p.first === p.last ? `${p.first}` : `${p.first}-${p.last}`)).join(',')}`;
  const side = (list: Prefix[]): string => (list.length === 0 ? 'any' : list.map(formatPrefix).join(','));
  return [
    r.action,
    r.direction,
    r.protocol === null ? 'any' : name(r.protocol),
    `from ${side(r.from)}${ports(r.fromPorts)}`,
    `to ${side(r.to)}${ports(r.toPorts)}`,
  ].join(' ');
}

function eachWay(
  input: Output<typeof EachWay> | undefined,
  otherwise: Record<Direction, Action>,
): Record<Direction, Action> {
  if (input === undefined) return otherwise;
  if (typeof input === 'string') return { in: input, out: input };
  return { in: input.in ?? otherwise.in, out: input.out ?? otherwise.out };
}

/** Throws HT_USAGE for a rule that is none. */
export function policyOf(input: PolicyInput): Policy {
  const byDefault = eachWay(input.default, { in: 'deny', out: 'deny' });
  return {
    default: byDefault,
    nonIp: eachWay(input.nonIp, byDefault),
    neighbours: input.neighbours ?? true,
    rules: (input.rules ?? []).map(ruleOf),
  };
}

/** The form that is kept and shown: every rule as text. */
export function inputOf(policy: Policy): PolicyInput {
  return {
    default: policy.default,
    nonIp: policy.nonIp,
    neighbours: policy.neighbours,
    rules: policy.rules.map(formatRule),
  };
}
