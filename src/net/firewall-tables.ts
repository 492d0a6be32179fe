/** A policy as the tables that c/bpf/net/firewall.bpf.c searches: for each field, intervals and who matches there. */
import { HyperturtleError } from '../core/errors.ts';
import {
  FW_ADDRESS,
  FW_TABLE,
  HT_FW_ALLOW_DEFAULT,
  HT_FW_ALLOW_NEIGHBOURS,
  HT_FW_ALLOW_NON_IP,
  HT_FW_BOUNDS,
  HT_FW_RULES,
  HT_FW_WORDS,
} from '../kernel/net.ts';
import { addressBits } from './address.ts';
import type { Prefix } from './address.ts';
import type { Direction, Policy, Rule } from './firewall-rules.ts';

interface Range {
  first: bigint;
  last: bigint;
}

const SET_BYTES = 8 * HT_FW_WORDS;

export function rulesOf(policy: Policy, direction: Direction): Rule[] {
  return policy.rules.filter((r) => r.direction === direction || r.direction === 'both');
}

/** `slots`: the counter of each rule of this direction. Throws HT_NO_SPACE for too many rules or ranges. */
export function compileTable(policy: Policy, direction: Direction, slots: readonly number[]): Uint8Array {
  const rules = rulesOf(policy, direction);
  if (rules.length > HT_FW_RULES)
    throw new HyperturtleError(
      'HT_NO_SPACE',
      `${rules.length} rules for direction ${direction}: at most ${HT_FW_RULES} fit`,
    );
  const bytes = new Uint8Array(FW_TABLE.size);
  const table: Table = { view: new DataView(bytes.buffer), rules, direction };
  writeFlags(table, policy);
  rules.forEach((_, i) => table.view.setUint16(FW_TABLE.offsets.slot + 2 * i, slots[i] ?? 0, true));
  writeConditions(table);
  for (const field of FIELDS) writeField(table, field);
  return bytes;
}

interface Table {
  view: DataView;
  rules: readonly Rule[];
  direction: Direction;
}

/** Bit i of a set is rule i. */
function setOf(rules: readonly Rule[], matches: (r: Rule) => boolean): bigint {
  return rules.reduce((set, r, i) => (matches(r) ? set | (1n << BigInt(i)) : set), 0n);
}

function writeSet(view: DataView, at: number, set: bigint): void {
  for (let w = 0; w < HT_FW_WORDS; w++)
    view.setBigUint64(at + 8 * w, BigInt.asUintN(64, set >> BigInt(64 * w)), true);
}

function writeFlags({ view, direction }: Table, policy: Policy): void {
  const flags =
    (policy.default[direction] === 'allow' ? HT_FW_ALLOW_DEFAULT : 0) |
    (policy.nonIp[direction] === 'allow' ? HT_FW_ALLOW_NON_IP : 0) |
    (policy.neighbours ? HT_FW_ALLOW_NEIGHBOURS : 0);
  view.setBigUint64(FW_TABLE.offsets.flags, BigInt(flags), true);
}

/** What of the rules is no interval: their action, whether they name ports, and their protocol. */
function writeConditions({ view, rules }: Table): void {
  const { offsets } = FW_TABLE;
  const write = (at: number, matches: (r: Rule) => boolean): void =>
    writeSet(view, at, setOf(rules, matches));
  write(offsets.allow, (r) => r.action === 'allow');
  write(offsets.any_port, (r) => r.fromPorts.length === 0 && r.toPorts.length === 0);
  for (let p = 0; p < 256; p++)
    write(offsets.protocol + SET_BYTES * p, (r) => r.protocol === null || r.protocol === p);
}

interface Field {
  name: string;
  boundsAt: number;
  setsAt: number;
  /** Bits of a value. */
  width: number;
  boundBytes: number;
  /** Null for a rule without a condition on the field. */
  rangesOf: (r: Rule) => Range[] | null;
}

const portsOf = (list: Rule['toPorts']): Range[] | null =>
  list.length === 0 ? null : list.map((p) => ({ first: BigInt(p.first), last: BigInt(p.last) }));

const addressesOf =
  (version: 4 | 6, side: 'from' | 'to') =>
  (r: Rule): Range[] | null =>
    r[side].length === 0 ? null : r[side].filter((p) => p.version === version).map(rangeOf);

const O = FW_TABLE.offsets;
const PORT = { width: 16, boundBytes: 2 };
const ADDRESS4 = { width: 32, boundBytes: 4 };
const ADDRESS6 = { width: 128, boundBytes: FW_ADDRESS.size };
const FIELDS: readonly Field[] = [
  {
    ...PORT,
    name: 'source port',
    boundsAt: O.source_port,
    setsAt: O.source_port_set,
    rangesOf: (r) => portsOf(r.fromPorts),
  },
  {
    ...PORT,
    name: 'destination port',
    boundsAt: O.destination_port,
    setsAt: O.destination_port_set,
    rangesOf: (r) => portsOf(r.toPorts),
  },
  {
    ...ADDRESS4,
    name: 'source address',
    boundsAt: O.source4,
    setsAt: O.source4_set,
    rangesOf: addressesOf(4, 'from'),
  },
  {
    ...ADDRESS4,
    name: 'destination address',
    boundsAt: O.destination4,
    setsAt: O.destination4_set,
    rangesOf: addressesOf(4, 'to'),
  },
  {
    ...ADDRESS6,
    name: 'source address',
    boundsAt: O.source6,
    setsAt: O.source6_set,
    rangesOf: addressesOf(6, 'from'),
  },
  {
    ...ADDRESS6,
    name: 'destination address',
    boundsAt: O.destination6,
    setsAt: O.destination6_set,
    rangesOf: addressesOf(6, 'to'),
  },
];

function writeField({ view, rules, direction }: Table, field: Field): void {
  const { boundsAt, setsAt, boundBytes } = field;
  const max = (1n << BigInt(field.width)) - 1n;
  const all = (1n << BigInt(rules.length)) - 1n;
  const changes = changesOf(rules.map(field.rangesOf), max);
  const bounds = [...changes.keys()].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  if (bounds.length > HT_FW_BOUNDS)
    throw new HyperturtleError(
      'HT_NO_SPACE',
      `direction ${direction}: the rules' ${field.name}s make ${bounds.length} ranges; at most ${HT_FW_BOUNDS} fit`,
    );
  let set = setOf(rules, (r) => field.rangesOf(r) === null);
  for (let i = 0; i < HT_FW_BOUNDS; i++) {
    const bound = bounds[i] ?? max;
    if (i < bounds.length) set ^= changes.get(bound) ?? 0n;
    writeBound(view, boundsAt + boundBytes * i, boundBytes, bound);
    writeSet(view, setsAt + SET_BYTES * i, set & all);
  }
}

/** By bound the rules that begin or end to match there. */
function changesOf(ranges: readonly (Range[] | null)[], max: bigint): Map<bigint, bigint> {
  const changes = new Map<bigint, bigint>([[0n, 0n]]);
  const toggle = (at: bigint, i: number): void => {
    changes.set(at, (changes.get(at) ?? 0n) ^ (1n << BigInt(i)));
  };
  ranges.forEach((list, i) => {
    for (const r of merged(list ?? [])) {
      toggle(r.first, i);
      if (r.last < max) toggle(r.last + 1n, i);
    }
  });
  return changes;
}

function writeBound(view: DataView, at: number, bytes: number, bound: bigint): void {
  if (bytes === 2) view.setUint16(at, Number(bound), true);
  else if (bytes === 4) view.setUint32(at, Number(bound), true);
  else {
    view.setBigUint64(at + FW_ADDRESS.offsets.high, bound >> 80n, true);
    view.setBigUint64(at + FW_ADDRESS.offsets.middle, BigInt.asUintN(48, bound >> 32n), true);
    view.setBigUint64(at + FW_ADDRESS.offsets.low, BigInt.asUintN(32, bound), true);
  }
}

function rangeOf(p: Prefix): Range {
  return { first: p.address, last: p.address + (1n << BigInt(addressBits(p.version) - p.bits)) - 1n };
}

/** Overlapping and adjacent ranges as one. */
function merged(ranges: readonly Range[]): Range[] {
  const out: Range[] = [];
  for (const r of [...ranges].sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0))) {
    const last = out.at(-1);
    if (last && r.first <= last.last + 1n) last.last = r.last > last.last ? r.last : last.last;
    else out.push({ ...r });
  }
  return out;
}
