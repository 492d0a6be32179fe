// SPDX-License-Identifier: GPL-2.0
/*
 * The smallest hyperupcall: counts the CPUIDs that nested guests execute, by the leaf that they ask for, and leaves each
 * to L1. docs/tutorial.md loads it, links it to the exit hook and reads its map.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "hyperturtle/exit.h"

char LICENSE[] SEC("license") = "GPL";

#define LEAVES 32

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LEAVES);
	__type(key, __u32);
	__type(value, __u64);
} leaves SEC(".maps");

SEC("raw_tp.w/hyperturtle_exit")
int count_cpuid(struct bpf_raw_tracepoint_args *args)
{
	struct ht_exit_ctx *ctx = (void *)args->args[0];
	__u32 leaf = ctx->regs[HT_RAX];
	__u64 *count;

	ctx->action = HT_EXIT_PASS;
	ctx->reason = HT_EXIT_R_COUNTED;
	count = bpf_map_lookup_elem(&leaves, &leaf);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}
