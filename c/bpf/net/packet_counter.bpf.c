// SPDX-License-Identifier: GPL-2.0
/* packet-counter: packets and bytes in both directions. */
#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HT_NET_DIRECTIONS);
	__type(key, __u32);
	__type(value, struct ht_packet_count);
} counts SEC(".maps");

static __always_inline int run(void *ctx, int is_xdp, __u32 direction)
{
	struct ht_packet_count *c = bpf_map_lookup_elem(&counts, &direction);

	if (c) {
		c->packets++;
		c->segments += frame_segments(ctx, is_xdp);
		c->bytes += frame_bytes(ctx, is_xdp);
	}
	return 1;
}

NETWORK_PROGRAMS(packet_counter, run);
