/** Client of the firewall program: sets policies atomically, reads them back, and counts hits. */
import { HyperturtleError } from '../core/errors.ts';
import {
  FW_CONTROL,
  FW_HITS,
  FW_POLICY,
  GENERATION,
  HT_FW_CHANGING,
  HT_FW_DEFAULT,
  HT_FW_FIRST_SLOT,
  HT_FW_MALFORMED,
  HT_FW_NEIGHBOUR,
  HT_FW_NON_IP,
  HT_FW_POLICY_BYTES,
  HT_FW_SLOTS,
  HT_NET_DIRECTIONS,
} from '../kernel/net.ts';
import { DIRECTIONS, formatRule, inputOf, policyOf } from './firewall-rules.ts';
import type { Direction, Policy, PolicyInput } from './firewall-rules.ts';
import { compileTable, rulesOf } from './firewall-tables.ts';
import { entry, index, one } from './maps.ts';
import type { MapAccess } from './maps.ts';

/** What is kept beside the tables. */
interface Kept {
  policy: PolicyInput;
  /** Counter of each rule of the direction, in order. */
  slots: Record<Direction, number[]>;
}

interface Hits {
  packets: number;
  bytes: number;
}

export interface FirewallHits {
  rules: ({ direction: Direction; rule: string } & Hits)[];
  /** Frames that no rule decided, by what did. */
  others: ({ direction: Direction; what: string } & Hits)[];
}

const OTHERS = {
  default: HT_FW_DEFAULT,
  neighbours: HT_FW_NEIGHBOUR,
  'not IP': HT_FW_NON_IP,
  malformed: HT_FW_MALFORMED,
  'rules changing': HT_FW_CHANGING,
} as const;

async function generation(maps: MapAccess): Promise<bigint> {
  return GENERATION.decode(await one(maps, 'control', 0)).number;
}

async function kept(maps: MapAccess, number: bigint): Promise<Kept | undefined> {
  if (number === 0n) return undefined;
  const bytes = await one(maps, 'policy', Number(number & 1n));
  const n = new DataView(bytes.buffer, bytes.byteOffset).getUint32(FW_POLICY.offsets.bytes, true);
  const at = FW_POLICY.offsets.text;
  // written by applyFirewall alone
  return JSON.parse(Buffer.from(bytes.subarray(at, at + n)).toString('utf8')) as Kept;
}

/** The policy in force, rules as text; undefined when none was set yet (then everything is dropped). */
export async function readFirewall(maps: MapAccess): Promise<PolicyInput | undefined> {
  return (await kept(maps, await generation(maps)))?.policy;
}

/**
 * Sets all rules and defaults at once: every packet is judged by the old policy or by the new one. A rule that stays (the
 * same text) goes on counting. For one writer at a time. Throws HT_USAGE, HT_NO_SPACE, HT_BUSY when another writer won.
 */
export async function applyFirewall(maps: MapAccess, input: PolicyInput): Promise<void> {
  const policy = policyOf(input);
  const number = await generation(maps);
  const before = await kept(maps, number);
  const slots = assignSlots(policy, before);
  const tables = DIRECTIONS.map((d) => compileTable(policy, d, slots[d]));
  const text = Buffer.from(JSON.stringify({ policy: inputOf(policy), slots } satisfies Kept));
  if (text.length > HT_FW_POLICY_BYTES)
    throw new HyperturtleError(
      'HT_NO_SPACE',
      `the rules have ${text.length} bytes as text; at most ${HT_FW_POLICY_BYTES} fit: use wider prefixes`,
    );
  const next = number + 1n;
  const which = Number(next & 1n);
  const record = new Uint8Array(FW_POLICY.size);
  new DataView(record.buffer).setUint32(FW_POLICY.offsets.bytes, text.length, true);
  record.set(text, FW_POLICY.offsets.text);

  const used = new Set(before ? DIRECTIONS.flatMap((d) => before.slots[d]) : []);
  const nothing = new Uint8Array(FW_HITS.size);
  for (const slot of DIRECTIONS.flatMap((d) => slots[d]))
    if (!used.has(slot) && before !== undefined) await maps.set('hits', index(slot), nothing);
  // first of all: a program that still reads what is filled in now drops its packet
  await setControl(maps, { number, filled: next });
  for (const [i, table] of tables.entries())
    await maps.set('tables', index(which * HT_NET_DIRECTIONS + i), table);
  await maps.set('policy', index(which), record);
  if ((await generation(maps)) !== number)
    throw new HyperturtleError(
      'HT_BUSY',
      'someone else has changed the rules meanwhile: look, and try again',
    );
  await setControl(maps, { number: next, filled: next });
}

/** An object of an earlier version of the program has the first words only. */
async function setControl(maps: MapAccess, value: { number: bigint; filled: bigint }): Promise<void> {
  const { length } = await one(maps, 'control', 0);
  await maps.set('control', index(0), FW_CONTROL.encode(value).subarray(0, length));
}

/** Unchanged rules keep their counters; others get such as neither policy uses. */
function assignSlots(policy: Policy, before: Kept | undefined): Record<Direction, number[]> {
  const taken = new Set(before ? DIRECTIONS.flatMap((d) => before.slots[d]) : []);
  const old = before ? policyOf(before.policy) : undefined;
  let free = HT_FW_FIRST_SLOT;
  const fresh = (): number => {
    while (taken.has(free)) free++;
    if (free >= HT_FW_SLOTS) throw new HyperturtleError('HT_NO_SPACE', 'no counter is left for a rule');
    taken.add(free);
    return free;
  };
  const of = (direction: Direction): number[] => {
    const known = new Map<string, number[]>();
    if (old && before)
      rulesOf(old, direction).forEach((r, i) => {
        const slot = before.slots[direction][i];
        const text = formatRule(r);
        if (slot !== undefined) known.set(text, [...(known.get(text) ?? []), slot]);
      });
    return rulesOf(policy, direction).map((r) => known.get(formatRule(r))?.shift() ?? fresh());
  };
  return { out: of('out'), in: of('in') };
}

/** Over all CPUs, since the rule was set. */
export async function firewallHits(maps: MapAccess): Promise<FirewallHits> {
  const now = await kept(maps, await generation(maps));
  const count = async (slot: number): Promise<Hits> => {
    const each = (await entry(maps, 'hits', slot)).map((v) => FW_HITS.decode(v));
    return {
      packets: each.reduce((n, h) => n + h.packets, 0),
      bytes: each.reduce((n, h) => n + h.bytes, 0),
    };
  };
  const result: FirewallHits = { rules: [], others: [] };
  for (const [d, direction] of DIRECTIONS.entries()) {
    if (now) {
      const rules = rulesOf(policyOf(now.policy), direction);
      for (const [i, rule] of rules.entries())
        result.rules.push({
          direction,
          rule: formatRule(rule),
          ...(await count(now.slots[direction][i] ?? 0)),
        });
    }
    for (const [what, n] of Object.entries(OTHERS))
      result.others.push({ direction, what, ...(await count(8 * d + n)) });
  }
  return result;
}
