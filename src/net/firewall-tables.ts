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
  const view = new DataView(bytes.buffer);
  const { offsets } = FW_TABLE;
  const all = (1n << BigInt(rules.length)) - 1n;
  const setOf = (matches: (r: Rule) => boolean): bigint =>
    rules.reduce((set, r, i) => (matches(r) ? set | (1n << BigInt(i)) : set), 0n);
  const writeSet = (at: number, set: bigint): void => {
    for (let w = 0; w < HT_FW_WORDS; w++)
      view.setBigUint64(at + 8 * w, BigInt.asUintN(64, set >> BigInt(64 * w)), true);
  };

  const flags =
    (policy.default[direction] === 'allow' ? HT_FW_ALLOW_DEFAULT : 0) |
    (policy.nonIp[direction] === 'allow' ? HT_FW_ALLOW_NON_IP : 0) |
    (policy.neighbours ? HT_FW_ALLOW_NEIGHBOURS : 0);
  view.setBigUint64(offsets.flags, BigInt(flags), true);
  writeSet(
    offsets.allow,
    setOf((r) => r.action === 'allow'),
  );
  writeSet(
    offsets.any_port,
    setOf((r) => r.fromPorts.length === 0 && r.toPorts.length === 0),
  );
  rules.forEach((_, i) => view.setUint16(offsets.slot + 2 * i, slots[i] ?? 0, true));
  for (let p = 0; p < 256; p++)
    writeSet(
      offsets.protocol + SET_BYTES * p,
      setOf((r) => r.protocol === null || r.protocol === p),
    );

  /** `rangesOf` says null for a rule without a condition on the field. */
  const field = (
    name: string,
    [boundsAt, setsAt]: readonly [number, number],
    width: number,
    boundBytes: number,
    rangesOf: (r: Rule) => Range[] | null,
  ): void => {
    const max = (1n << BigInt(width)) - 1n;
    const ranges = rules.map(rangesOf);
    // at each bound some rules begin to match and others end
    const changes = new Map<bigint, bigint>([[0n, 0n]]);
    const wanted: bigint = ranges.reduce<bigint>(
      (set, r, i) => (r === null ? set | (1n << BigInt(i)) : set),
      0n,
    );
    const toggle = (at: bigint, i: number): void => {
      changes.set(at, (changes.get(at) ?? 0n) ^ (1n << BigInt(i)));
    };
    ranges.forEach((list, i) => {
      for (const r of merged(list ?? [])) {
        toggle(r.first, i);
        if (r.last < max) toggle(r.last + 1n, i);
      }
    });
    const bounds = [...changes.keys()].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
    if (bounds.length > HT_FW_BOUNDS)
      throw new HyperturtleError(
        'HT_NO_SPACE',
        `direction ${direction}: the rules' ${name}s make ${bounds.length} ranges; at most ${HT_FW_BOUNDS} fit`,
      );
    let set = wanted;
    for (let i = 0; i < HT_FW_BOUNDS; i++) {
      const bound = bounds[i] ?? max;
      if (i < bounds.length) set ^= changes.get(bound) ?? 0n;
      const at = boundsAt + boundBytes * i;
      if (boundBytes === 2) view.setUint16(at, Number(bound), true);
      else if (boundBytes === 4) view.setUint32(at, Number(bound), true);
      else {
        view.setBigUint64(at + FW_ADDRESS.offsets.high, bound >> 80n, true);
        view.setBigUint64(at + FW_ADDRESS.offsets.middle, BigInt.asUintN(48, bound >> 32n), true);
        view.setBigUint64(at + FW_ADDRESS.offsets.low, BigInt.asUintN(32, bound), true);
      }
      writeSet(setsAt + SET_BYTES * i, set & all);
    }
  };
  const ports = (list: Rule['toPorts']): Range[] | null =>
    list.length === 0 ? null : list.map((p) => ({ first: BigInt(p.first), last: BigInt(p.last) }));
  const addresses =
    (version: 4 | 6, side: 'from' | 'to') =>
    (r: Rule): Range[] | null =>
      r[side].length === 0 ? null : r[side].filter((p) => p.version === version).map(rangeOf);

  const o = offsets;
  field('source port', [o.source_port, o.source_port_set], 16, 2, (r) => ports(r.fromPorts));
  field('destination port', [o.destination_port, o.destination_port_set], 16, 2, (r) => ports(r.toPorts));
  field('source address', [o.source4, o.source4_set], 32, 4, addresses(4, 'from'));
  field('destination address', [o.destination4, o.destination4_set], 32, 4, addresses(4, 'to'));
  field('source address', [o.source6, o.source6_set], 128, FW_ADDRESS.size, addresses(6, 'from'));
  field(
    'destination address',
    [o.destination6, o.destination6_set],
    128,
    FW_ADDRESS.size,
    addresses(6, 'to'),
  );
  return bytes;
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
