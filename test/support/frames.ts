/** Frames of every kind for tests of the network programs, and a firewall in plain TypeScript to compare with. */
import { parseAddress } from '../../src/net/address.ts';
import type { Prefix } from '../../src/net/address.ts';
import type { Action, Direction, Policy, PortRange } from '../../src/net/firewall-rules.ts';

export interface PacketSpec {
  from: string;
  to: string;
  protocol: number;
  fromPort?: number;
  toPort?: number;
  /** In units of 8 bytes; more follow when `more`. */
  fragment?: { offset: number; more: boolean };
  /** VLAN ids from the outermost on. */
  vlans?: number[];
  /** IPv6 extension headers by number, in order. */
  extensions?: number[];
  /** IPv4 options, in words of 4 bytes. */
  optionWords?: number;
  hopLimit?: number;
  payloadBytes?: number;
}

const u16 = (n: number): number[] => [(n >> 8) & 255, n & 255];

function addressBytes(text: string): { version: 4 | 6; bytes: number[] } {
  const a = parseAddress(text);
  if (!a) throw new Error(`no address: ${text}`);
  const n = a.version === 4 ? 4 : 16;
  return {
    version: a.version,
    bytes: Array.from({ length: n }, (_, i) => Number((a.address >> BigInt(8 * (n - 1 - i))) & 255n)),
  };
}

export function ethernet(
  type: number,
  payload: readonly number[],
  vlans: readonly number[] = [],
): Uint8Array {
  const tags = vlans.flatMap((id, i) => [...u16(i === 0 && vlans.length > 1 ? 0x88a8 : 0x8100), ...u16(id)]);
  return Uint8Array.from([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, ...tags, ...u16(type), ...payload]);
}

/** The whole frame. */
export function frame(p: PacketSpec): Uint8Array {
  const [from, to] = [addressBytes(p.from), addressBytes(p.to)];
  const transport = [
    ...u16(p.fromPort ?? 0),
    ...u16(p.toPort ?? 0),
    ...Array<number>(16 + (p.payloadBytes ?? 0)).fill(0),
  ];
  const { fragment: f } = p;
  if (from.version === 4) {
    const options = Array<number>(4 * (p.optionWords ?? 0)).fill(1);
    const header = 20 + options.length;
    const ip = [
      0x40 | (header / 4),
      0,
      ...u16(header + transport.length),
      ...[0, 1, ...u16((f?.more ? 0x2000 : 0) | (f?.offset ?? 0))],
      ...[p.hopLimit ?? 64, p.protocol, 0, 0],
      ...from.bytes,
      ...to.bytes,
      ...options,
    ];
    return ethernet(0x0800, [...ip, ...transport], p.vlans);
  }
  const chain = [...(p.extensions ?? []), ...(f ? [44] : [])];
  const headers = chain.flatMap((kind, i) => {
    const next = chain[i + 1] ?? p.protocol;
    if (kind === 44) return [next, 0, ...u16(((f?.offset ?? 0) << 3) | (f?.more ? 1 : 0)), 0, 0, 0, 1];
    return kind === 51 ? [next, 1, ...Array<number>(10).fill(0)] : [next, 1, ...Array<number>(14).fill(0)];
  });
  const length = headers.length + transport.length;
  const ip = [
    0x60,
    0,
    0,
    0,
    ...u16(length),
    chain[0] ?? p.protocol,
    p.hopLimit ?? 64,
    ...from.bytes,
    ...to.bytes,
  ];
  return ethernet(0x86dd, [...ip, ...headers, ...transport], p.vlans);
}

/** What the firewall must do with a packet that is whole: every rule in turn. */
export function judge(policy: Policy, direction: Direction, p: PacketSpec): Action {
  const [from, to] = [parseAddress(p.from)!, parseAddress(p.to)!];
  const ported = [6, 17, 33, 132, 136].includes(p.protocol) && !p.fragment?.offset;
  const inside = (list: Prefix[], a: typeof from): boolean =>
    list.length === 0 ||
    list.some((x) => {
      const low = BigInt((x.version === 4 ? 32 : 128) - x.bits);
      return x.version === a.version && x.address >> low === a.address >> low;
    });
  const port = (list: PortRange[], n: number): boolean =>
    list.length === 0 || (ported && list.some((r) => r.first <= n && n <= r.last));
  for (const r of policy.rules)
    if (
      (r.direction === 'both' || r.direction === direction) &&
      (r.protocol === null || r.protocol === p.protocol) &&
      inside(r.from, from) &&
      inside(r.to, to) &&
      port(r.fromPorts, p.fromPort ?? 0) &&
      port(r.toPorts, p.toPort ?? 0)
    )
      return r.action;
  return policy.default[direction];
}
