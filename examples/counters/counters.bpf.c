// SPDX-License-Identifier: GPL-2.0
/*
 * A service of L1 in its host, by the hook call: sixteen counters that L1 and all of its nested guests share, such as tickets,
 * sequence numbers, or how much of something each has used. One call is one exit, and L1 does not run for its guests'. In a
 * kernel, VMMCALL (AMD) or VMCALL (Intel) with RAX 0x48540010 and
 *
 *   RBX 0: add RDX to counter RCX   -> RAX 0, RBX its new value: nobody else gets the same when RDX is 1
 *   RBX 1: read counter RCX         -> RAX 0, RBX its value
 *   RBX 2: set counter RCX to RDX   -> RAX 0, RBX what it was; from L1 or by the channel, not from an L2
 *   anything else                   -> RAX -1
 *
 *   hyperturtle load counters.bpf.o --link --option numbers=0x48540010 --option from=both
 *   hyperturtle call counters --words 0,3,2
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "hyperturtle/call.h"

char LICENSE[] SEC("license") = "GPL";

#define COUNTERS 16

enum operation { ADD = 0, READ = 1, SET = 2 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

SEC("raw_tp.w/hyperturtle_call")
int count(struct bpf_raw_tracepoint_args *args)
{
	struct ht_call_ctx *ctx = (void *)args->args[0];
	__u64 operation = ctx->words[0], by = ctx->words[2], *counter;
	__u32 index = ctx->words[1];

	/* what is not answered here goes where it went without this program; a service says no instead */
	ctx->action = HT_CALL_HANDLED;
	ctx->results[0] = -1;
	counter = bpf_map_lookup_elem(&counters, &index);
	if (!counter || ctx->words[1] >= COUNTERS)
		return 0;
	if (operation == ADD)
		ctx->results[1] = __sync_fetch_and_add(counter, by) + by;
	else if (operation == READ)
		ctx->results[1] = *counter;
	else if (operation == SET && ctx->from != HT_CALL_L2)
		ctx->results[1] = __sync_lock_test_and_set(counter, by);
	else
		return 0;
	ctx->results[0] = 0;
	return 0;
}
