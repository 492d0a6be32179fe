// SPDX-License-Identifier: GPL-2.0
/* fuzz-exit: a hostile program for the exit hook, admitted by every rule: made-up registers, actions and reasons. */
#include "answers.h"
#include "hyperturtle/exit.h"

char LICENSE[] SEC("license") = "GPL";

/* Read again each time: the verifier does not know this pointer any more once it was on the stack. */
#define CTX ((struct ht_exit_ctx *)READ(args->args[0]))

SEC("raw_tp.w/hyperturtle_exit")
int fuzz_exit(struct bpf_raw_tracepoint_args *args)
{
	struct fuzz_state *s;
	__u64 r, *word, v;
	__u32 zero = 0;
	void *base;

	s = bpf_map_lookup_elem(&fuzz_state, &zero);
	base = bpf_map_lookup_elem(&arena, &zero);
	if (!s || !base)
		return 0;
	s->runs++;
	r = draw(s);
	word = at(base, r % arena_bytes, 8);
	if (word && !(r >> 40 & 7))
		__sync_lock_test_and_set(word, r);
	v = edge(s, 20);
	if ((r & 7) == 0) {
		CTX->action = HT_EXIT_PASS;
		CTX->reason = v;
		return 0;
	}
	CTX->action = (r & 7) == 1 ? v : HT_EXIT_HANDLED;
	v = edge(s, r);
	CTX->regs[HT_RAX] = v;
	CTX->regs[HT_RDX] = v >> 32;
	CTX->kind = v;
	v = edge(s, r >> 7);
	CTX->regs[HT_RCX] = v;
	CTX->regs[HT_RSP] = v;
	CTX->rip = v;
	v = draw(s);
	CTX->regs[HT_RBX] = v;
	CTX->regs[HT_RBP] = v;
	CTX->regs[HT_RDI] = ~v;
	CTX->regs[HT_R10] = v << 32;
	CTX->vcpu = v;
	return 0;
}
