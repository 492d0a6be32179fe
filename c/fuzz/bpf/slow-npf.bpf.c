// SPDX-License-Identifier: GPL-2.0
/* slow-npf: as slow as admission lets a program of the npf hook be, and of no use to anybody. */
#include "slow.h"
#include "hyperturtle/npf.h"

char LICENSE[] SEC("license") = "GPL";

SEC("raw_tp.w/hyperturtle_npf")
int slow_npf(struct bpf_raw_tracepoint_args *args)
{
	slow();
	return 0;
}
