// SPDX-License-Identifier: GPL-2.0
/* tcptop: bytes and packets of each TCP and UDP flow; when there are too many, the longest unused go. */
#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, HT_FLOWS);
	__type(key, struct ht_flow_key);
	__type(value, struct ht_flow);
} flows SEC(".maps");

/* what has no ports: other protocols, later fragments, malformed packets */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HT_NET_DIRECTIONS);
	__type(key, __u32);
	__type(value, struct ht_packet_count);
} others SEC(".maps");

static __always_inline int run(void *ctx, int is_xdp, __u32 direction)
{
	__u32 segments = frame_segments(ctx, is_xdp);
	struct packet p = { .bytes = frame_bytes(ctx, is_xdp) };
	struct ht_flow_key key = {};
	struct ht_flow *flow;
	__u64 now;

	parse(ctx, is_xdp, &p);
	if (!p.has_ports || (p.protocol != PROTO_TCP && p.protocol != PROTO_UDP) || p.kind == PACKET_MALFORMED) {
		__u32 index = direction;
		struct ht_packet_count *c = bpf_map_lookup_elem(&others, &index);

		if (c) {
			c->packets++;
			c->segments += segments;
			c->bytes += p.bytes;
		}
		return 1;
	}
	key.protocol = p.protocol;
	key.version = p.kind == PACKET_IPV4 ? 4 : 6;
	if (direction == HT_NET_OUT) {
		__builtin_memcpy(key.local, p.source, 16);
		__builtin_memcpy(key.remote, p.destination, 16);
		key.local_port = p.source_port;
		key.remote_port = p.destination_port;
	} else {
		__builtin_memcpy(key.local, p.destination, 16);
		__builtin_memcpy(key.remote, p.source, 16);
		key.local_port = p.destination_port;
		key.remote_port = p.source_port;
	}
	now = bpf_ktime_get_ns();
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow) {
		struct ht_flow fresh = { .first_ns = now };

		/* another CPU may have been faster: then its entry is found */
		bpf_map_update_elem(&flows, &key, &fresh, BPF_NOEXIST);
		flow = bpf_map_lookup_elem(&flows, &key);
		if (!flow)
			return 1;
	}
	__sync_fetch_and_add(&flow->packets[direction], segments);
	__sync_fetch_and_add(&flow->bytes[direction], p.bytes);
	flow->last_ns = now;
	return 1;
}

NETWORK_PROGRAMS(tcptop, run);
