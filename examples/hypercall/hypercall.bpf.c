// SPDX-License-Identifier: GPL-2.0
/*
 * A service for nested guests that never enters L1: counters that all L2s of this L1 share, by hypercall. docs/hooks.md
 * builds it step by step. VMMCALL (AMD) or VMCALL (Intel) in the kernel of an L2:
 *
 *   RAX 0x48540001, RBX 0: add RDX to counter RCX (0..15)    -> RAX 0, RBX its new value
 *   RAX 0x48540001, RBX 1: read counter RCX                  -> RAX 0, RBX its value
 *   anything else of that RAX                                -> RAX -1
 *
 * Another RAX is not ours: L1 gets it, as without the program.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "hyperturtle/exit.h"

char LICENSE[] SEC("license") = "GPL";

#define SERVICE 0x48540001u
#define COUNTERS 16

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

SEC("raw_tp.w/hyperturtle_exit")
int hypercall(struct bpf_raw_tracepoint_args *args)
{
	struct ht_exit_ctx *ctx = (void *)args->args[0];
	/* below 64 bits the upper halves of registers mean nothing */
	__u32 service = ctx->regs[HT_RAX], op = ctx->regs[HT_RBX], index = ctx->regs[HT_RCX];
	__u64 by = ctx->bits == 64 ? ctx->regs[HT_RDX] : (__u32)ctx->regs[HT_RDX];
	__u64 *counter;

	if (ctx->phase != HT_EXIT_BEFORE || ctx->kind != HT_EXIT_HYPERCALL || service != SERVICE) {
		ctx->reason = HT_EXIT_R_NOT_OURS;
		return 0;
	}
	ctx->action = HT_EXIT_HANDLED;
	ctx->regs[HT_RAX] = -1;
	counter = bpf_map_lookup_elem(&counters, &index);
	if (!counter || op > 1)
		return 0;
	ctx->regs[HT_RAX] = 0;
	ctx->regs[HT_RBX] = op == 0 ? __sync_fetch_and_add(counter, by) + by : *counter;
	return 0;
}
