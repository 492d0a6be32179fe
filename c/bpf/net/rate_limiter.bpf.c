// SPDX-License-Identifier: GPL-2.0
/*
 * rate-limiter: a token bucket for bytes and one for packets in each direction. A bucket is one word, the time at which
 * it is full again: a packet passes while that is no more than the burst ahead, and moves it on by its cost. So the rate
 * holds over all CPUs together, and a frame that is larger than the burst passes once the bucket is not empty, and is
 * paid for afterwards.
 */
#include "packet.h"

#define TRIES 32

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ht_generation);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * HT_NET_DIRECTIONS);
	__type(key, __u32);
	__type(value, struct ht_rate_limit);
} limits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * HT_NET_DIRECTIONS);
	__type(key, __u32);
	__type(value, struct ht_rate_state);
} state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HT_NET_DIRECTIONS);
	__type(key, __u32);
	__type(value, struct ht_rate_count);
} counts SEC(".maps");

enum { TAKEN, EMPTY, CONTENDED };

static __always_inline int take(__u64 *full_at, __u64 now, __u64 burst, __u64 cost)
{
#pragma nounroll
	for (int i = 0; i < TRIES; i++) {
		__u64 old = *(volatile __u64 *)full_at, from = old > now ? old : now;

		if (from - now > burst)
			return EMPTY;
		if (__sync_val_compare_and_swap(full_at, old, from + cost) == old)
			return TAKEN;
	}
	return CONTENDED;
}

static __always_inline __u64 cost_of(__u64 units, __u64 each)
{
	return (units * each) >> HT_RATE_COST_SHIFT;
}

static __always_inline int run(void *ctx, int is_xdp, __u32 direction)
{
	__u32 zero = 0, key, bytes = frame_bytes(ctx, is_xdp), segments = frame_segments(ctx, is_xdp);
	struct ht_rate_limit *limit;
	struct ht_rate_state *s;
	struct ht_rate_count *c;
	int result = TAKEN;
	struct ht_generation *in_use;
	__u64 now;

	in_use = bpf_map_lookup_elem(&control, &zero);
	if (!in_use)
		return 0;
	key = (*(volatile __u64 *)&in_use->number & 1) * HT_NET_DIRECTIONS + direction;
	limit = bpf_map_lookup_elem(&limits, &key);
	s = bpf_map_lookup_elem(&state, &key);
	c = bpf_map_lookup_elem(&counts, &direction);
	if (!limit || !s || !c)
		return 0;
	now = bpf_ktime_get_ns() << HT_RATE_TIME_SHIFT;
	if (limit->byte_cost)
		result = take(&s->byte_full_at, now, limit->byte_burst, cost_of(bytes, limit->byte_cost));
	if (result == TAKEN && limit->packet_cost) {
		result = take(&s->packet_full_at, now, limit->packet_burst, cost_of(segments, limit->packet_cost));
		/* it does not pass: its bytes are given back */
		if (result != TAKEN && limit->byte_cost)
			__sync_fetch_and_add(&s->byte_full_at, -cost_of(bytes, limit->byte_cost));
	}
	if (result == TAKEN) {
		c->passed_packets += segments;
		c->passed_bytes += bytes;
		return 1;
	}
	c->dropped_packets += segments;
	c->dropped_bytes += bytes;
	c->contended += result == CONTENDED;
	return 0;
}

NETWORK_PROGRAMS(rate_limiter, run);
