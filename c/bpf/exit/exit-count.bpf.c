// SPDX-License-Identifier: GPL-2.0
/* exit-count: who exits to L1 why, by L2 and cause, and how long L1 has the vCPU then. Answers nothing. */
#include "exit_common.h"

char LICENSE[] SEC("license") = "GPL";

SEC("raw_tp.w/hyperturtle_exit")
int exit_count(struct bpf_raw_tracepoint_args *args)
{
	struct ht_exit_ctx *ctx = (void *)args->args[0];

	if (ctx->phase == HT_EXIT_AFTER) {
		count_after(ctx);
		return 0;
	}
	ctx->action = HT_EXIT_PASS;
	ctx->reason = HT_EXIT_R_COUNTED;
	count_before(ctx, l2_of(arena_header(), ctx->vcpu), ctx->regs[HT_RAX]);
	return 0;
}
