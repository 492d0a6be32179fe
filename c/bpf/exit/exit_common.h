/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What programs for the exit hook share: the arena, which L2 it was, and counts by L2 and cause in the map `exits`, which
 * `hyperturtle exits` reads.
 */
#ifndef HYPERTURTLE_EXIT_COMMON_H
#define HYPERTURTLE_EXIT_COMMON_H

#include "../arena_map.h"
#include "hyperturtle/exit.h"

struct exit_key {
	__u32 l2;              /* number, 0: of none that is registered */
	__u32 kind;            /* enum ht_exit_kind */
	__u32 code;            /* the vendor's; of HT_EXIT_OTHER, else 0 */
	__u32 arg;             /* MSR, port, leaf of CPUID */
};

struct exit_counts {
	__u64 seen;
	__u64 handled;         /* answered by the program */
	__u64 returned;        /* went to L1, which has entered L2 again */
	__u64 l1_ns;           /* how long that took, together */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct exit_key);
	__type(value, struct exit_counts);
} exits SEC(".maps");

/* By vCPU of L1: what it exited for last. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HT_MAX_CPUS);
	__type(key, __u32);
	__type(value, struct exit_key);
} last SEC(".maps");

/* The arena as laid out by L1's module, or NULL: not laid out, or L1's kill switch. */
static __always_inline struct ht_arena_header *arena_header(void)
{
	struct ht_arena_header *h;
	__u32 zero = 0;

	h = bpf_map_lookup_elem(&arena, &zero);
	if (!h || READ(h->magic) != HT_ARENA_MAGIC || !READ(h->enabled) ||
	    (h->version != HT_ARENA_VERSION && h->version != HT_ARENA_VERSION_LARGE))
		return 0;
	return h;
}

/* Number of the L2 that runs on this vCPU of L1, or 0. */
static __always_inline __u32 l2_of(struct ht_arena_header *h, __u32 vcpu)
{
	struct ht_cpu *cpu;

	if (!h || vcpu >= h->cpus_count)
		return 0;
	cpu = at(h, h->cpus_off + (__u64)vcpu * sizeof(*cpu), sizeof(*cpu));
	return cpu ? READ(cpu->l2) & HT_CPU_NUMBER : 0;
}

static __always_inline struct exit_counts *counts_of(const struct exit_key *key)
{
	struct exit_counts *c = bpf_map_lookup_elem(&exits, key), none = {};

	if (c)
		return c;
	bpf_map_update_elem(&exits, key, &none, BPF_NOEXIST); /* a full map counts no more kinds */
	return bpf_map_lookup_elem(&exits, key);
}

/* Before L1, once it is known who answers. */
static __always_inline void count_before(struct ht_exit_ctx *ctx, __u32 l2, __u32 cpuid_leaf)
{
	struct exit_key key = { .l2 = l2, .kind = ctx->kind, .arg = ctx->arg };
	struct exit_counts *c;
	__u32 vcpu = ctx->vcpu;

	if (ctx->kind == HT_EXIT_OTHER)
		key.code = ctx->code;
	if (ctx->kind == HT_EXIT_CPUID)
		key.arg = cpuid_leaf;
	c = counts_of(&key);
	if (c) {
		__sync_fetch_and_add(&c->seen, 1);
		if (ctx->action == HT_EXIT_HANDLED)
			__sync_fetch_and_add(&c->handled, 1);
	}
	if (ctx->action != HT_EXIT_HANDLED)
		bpf_map_update_elem(&last, &vcpu, &key, BPF_ANY);
}

/* L1 has entered an L2 again. */
static __always_inline void count_after(struct ht_exit_ctx *ctx)
{
	__u32 vcpu = ctx->vcpu;
	struct exit_key *key = bpf_map_lookup_elem(&last, &vcpu), copy;
	struct exit_counts *c;

	if (!key)
		return;
	copy = *key;
	c = bpf_map_lookup_elem(&exits, &copy);
	if (c) {
		__sync_fetch_and_add(&c->returned, 1);
		__sync_fetch_and_add(&c->l1_ns, ctx->l1_ns);
	}
}

#endif
