// SPDX-License-Identifier: GPL-2.0
/* slow-exit: as slow as admission lets a program of the exit hook be, and of no use to anybody. */
#include "slow.h"
#include "hyperturtle/exit.h"

char LICENSE[] SEC("license") = "GPL";

SEC("raw_tp.w/hyperturtle_exit")
int slow_exit(struct bpf_raw_tracepoint_args *args)
{
	slow();
	return 0;
}
