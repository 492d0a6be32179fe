/** Mirrors c/include/hyperturtle/net.h: values of the network programs' maps. Compared with it by test/unit/kernel/abi.test.ts. */
import { aligned, array, count, reserved, struct, u32, u64 } from './struct.ts';
import type { Codec } from './struct.ts';

export const HT_NET_OUT = 0;
export const HT_NET_IN = 1;
export const HT_NET_DIRECTIONS = 2;

export const HT_FW_RULES = 255;
export const HT_FW_WORDS = 4;
export const HT_FW_BOUNDS = 512;
export const HT_FW_SLOTS = 2048;
export const HT_FW_FIRST_SLOT = 16;
export const HT_FW_POLICY_BYTES = 65_528;

export const HT_FW_DEFAULT = 0;
export const HT_FW_NEIGHBOUR = 1;
export const HT_FW_NON_IP = 2;
export const HT_FW_MALFORMED = 3;
export const HT_FW_CHANGING = 4;

export const HT_FW_ALLOW_DEFAULT = 1;
export const HT_FW_ALLOW_NON_IP = 2;
export const HT_FW_ALLOW_NEIGHBOURS = 4;

export const HT_RATE_TIME_SHIFT = 6;
export const HT_RATE_COST_SHIFT = 14;
export const HT_FLOWS = 8192;

const scalar = (bytes: 1 | 2): Codec<number> => ({
  size: bytes,
  align: bytes,
  read: (v, at) => (bytes === 1 ? v.getUint8(at) : v.getUint16(at, true)),
  write: (v, at, x) => (bytes === 1 ? v.setUint8(at, x) : v.setUint16(at, x, true)),
});
const u8 = scalar(1);
const u16 = scalar(2);

export const GENERATION = struct('struct ht_generation', { number: u64, zero: u64 });

export const FW_CONTROL = struct('struct ht_fw_control', { number: u64, zero: u64, filled: u64 });

export const PACKET_COUNT = struct('struct ht_packet_count', {
  packets: count,
  segments: count,
  bytes: count,
});

export const FW_RULES_SET = struct('struct ht_fw_rules_set', { word: array(u64, HT_FW_WORDS) });
export const FW_ADDRESS = struct('struct ht_fw_address', {
  high: u64,
  middle: u64,
  low: u64,
  reserved: reserved(1),
});
const sets = (n: number): Codec<unknown> => array(FW_RULES_SET, n);

export const FW_TABLE = struct('struct ht_fw_table', {
  flags: u64,
  allow: FW_RULES_SET,
  any_port: FW_RULES_SET,
  slot: array(u16, HT_FW_RULES + 1),
  protocol: sets(256),
  source_port: array(u16, HT_FW_BOUNDS),
  source_port_set: sets(HT_FW_BOUNDS),
  destination_port: array(u16, HT_FW_BOUNDS),
  destination_port_set: sets(HT_FW_BOUNDS),
  source4: array(u32, HT_FW_BOUNDS),
  source4_set: sets(HT_FW_BOUNDS),
  destination4: array(u32, HT_FW_BOUNDS),
  destination4_set: sets(HT_FW_BOUNDS),
  source6: array(FW_ADDRESS, HT_FW_BOUNDS),
  source6_set: sets(HT_FW_BOUNDS),
  destination6: array(FW_ADDRESS, HT_FW_BOUNDS),
  destination6_set: sets(HT_FW_BOUNDS),
});

export const FW_POLICY = struct('struct ht_fw_policy', {
  bytes: u32,
  reserved: u32,
  text: array(u8, HT_FW_POLICY_BYTES),
});

export const FW_HITS = struct('struct ht_fw_hits', { packets: count, bytes: count });

export const RATE_LIMIT = struct('struct ht_rate_limit', {
  byte_cost: u64,
  byte_burst: u64,
  packet_cost: u64,
  packet_burst: u64,
});

export const RATE_STATE = struct('struct ht_rate_state', {
  byte_full_at: u64,
  packet_full_at: u64,
  reserved: reserved(6),
});

export const RATE_COUNT = struct('struct ht_rate_count', {
  passed_packets: count,
  passed_bytes: count,
  dropped_packets: count,
  dropped_bytes: count,
  contended: count,
});

export const FLOW_KEY = struct('struct ht_flow_key', {
  local: array(u8, 16),
  remote: array(u8, 16),
  local_port: u16,
  remote_port: u16,
  protocol: u8,
  version: u8,
  reserved: aligned(1, array(u8, 2)),
});

export const FLOW = struct('struct ht_flow', {
  packets: array(count, HT_NET_DIRECTIONS),
  bytes: array(count, HT_NET_DIRECTIONS),
  first_ns: count,
  last_ns: count,
});
