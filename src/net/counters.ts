/** Clients of packet-counter and tcptop. */
import { FLOW, FLOW_KEY, PACKET_COUNT } from '../kernel/net.ts';
import { formatAddress } from './address.ts';
import type { Direction } from './firewall-rules.ts';
import { entry } from './maps.ts';
import type { MapAccess } from './maps.ts';

export interface PacketCount {
  /** Frames as the host sees them. */
  packets: number;
  /** Packets as the wire would see them: a GSO frame is many. */
  segments: number;
  bytes: number;
}

async function counted(maps: MapAccess, map: string): Promise<Record<Direction, PacketCount>> {
  const of = async (d: number): Promise<PacketCount> => {
    const total = { packets: 0, segments: 0, bytes: 0 };
    for (const value of await entry(maps, map, d)) {
      const c = PACKET_COUNT.decode(value);
      total.packets += c.packets;
      total.segments += c.segments;
      total.bytes += c.bytes;
    }
    return total;
  };
  return { out: await of(0), in: await of(1) };
}

export const packetCounts = (maps: MapAccess): Promise<Record<Direction, PacketCount>> =>
  counted(maps, 'counts');

/** `local` is the nested guest's side. */
export interface Flow {
  protocol: 'tcp' | 'udp';
  version: 4 | 6;
  local: string;
  localPort: number;
  remote: string;
  remotePort: number;
  outPackets: number;
  outBytes: number;
  inPackets: number;
  inBytes: number;
  /** CLOCK_MONOTONIC of L0. */
  firstNs: number;
  lastNs: number;
}

/** All flows that the program still has, and what has no ports. */
export async function readFlows(
  maps: MapAccess,
): Promise<{ flows: Flow[]; others: Record<Direction, PacketCount> }> {
  const flows: Flow[] = [];
  for (const { key, values } of await maps.dump('flows')) {
    const value = values[0];
    if (!value) continue; // went between its key and its value
    const k = FLOW_KEY.decode(key);
    const f = FLOW.decode(value);
    const version = k.version === 4 ? 4 : 6;
    const address = (bytes: readonly number[]): string =>
      formatAddress(
        version,
        bytes.slice(0, version === 4 ? 4 : 16).reduce((n, b) => (n << 8n) | BigInt(b), 0n),
      );
    flows.push({
      protocol: k.protocol === 6 ? 'tcp' : 'udp',
      version,
      local: address(k.local),
      localPort: k.local_port,
      remote: address(k.remote),
      remotePort: k.remote_port,
      outPackets: f.packets[0] ?? 0,
      outBytes: f.bytes[0] ?? 0,
      inPackets: f.packets[1] ?? 0,
      inBytes: f.bytes[1] ?? 0,
      firstNs: f.first_ns,
      lastNs: f.last_ns,
    });
  }
  return { flows, others: await counted(maps, 'others') };
}
