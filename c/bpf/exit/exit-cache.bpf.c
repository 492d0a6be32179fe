// SPDX-License-Identifier: GPL-2.0
/*
 * exit-cache: answers CPUID and RDMSR of L2s in L0 with what L1's own KVM answers, from the words that L1's module keeps
 * in the arena for the L2 vCPU that runs on this L1 CPU (c/guest/exits.c says why they are right). What is not there goes
 * to L1, and L1's module has the answer for the next time. Counts as exit-count does.
 */
#include "exit_common.h"

char LICENSE[] SEC("license") = "GPL";

static __always_inline __u32 answer(struct ht_exit_ctx *ctx, struct ht_arena_header *h, __u32 l2)
{
	struct ht_exit_cpuid *c;
	struct ht_exit_cpu *e;
	struct ht_exit_msr *m;

	if (!h)
		return HT_EXIT_R_DISABLED;
	if (!l2 || !h->exit_off || ctx->vcpu >= h->exit_cpus)
		return HT_EXIT_R_NO_L2;
	e = at(h, h->exit_off + (__u64)ctx->vcpu * sizeof(*e), sizeof(*e));
	if (!e)
		return HT_EXIT_R_LAYOUT;
	/* the answers are of the vCPU that KVM entered last; a guest of another hypervisor has another root */
	if (e->l2 != l2 || e->root != ctx->root || !ctx->root)
		return HT_EXIT_R_NO_L2;
	switch (ctx->kind) {
	case HT_EXIT_CPUID: {
		__u32 leaf = ctx->regs[HT_RAX], subleaf = ctx->regs[HT_RCX];
		__u64 slot = ht_exit_cpuid_slot(leaf, subleaf);

		asm volatile("" : "+r"(slot)); /* the mask below must stay, for the verifier */
		slot &= HT_EXIT_CPUIDS - 1;
		c = &e->cpuids[slot];
		if (c->generation == e->generation && c->leaf == leaf && c->subleaf == subleaf) {
			ctx->regs[HT_RAX] = c->eax;
			ctx->regs[HT_RBX] = c->ebx;
			ctx->regs[HT_RCX] = c->ecx;
			ctx->regs[HT_RDX] = c->edx;
			ctx->action = HT_EXIT_HANDLED;
			return 0;
		}
		e->want_arg = leaf;
		e->want_sub = subleaf;
		break;
	}
	case HT_EXIT_RDMSR: {
		__u64 slot = ctx->arg & (HT_EXIT_MSR_SLOTS - 1);

		m = &e->msrs[slot];
		if (m->generation == e->generation && m->msr == ctx->arg) {
			ctx->regs[HT_RAX] = (__u32)m->value;
			ctx->regs[HT_RDX] = m->value >> 32;
			ctx->action = HT_EXIT_HANDLED;
			return 0;
		}
		e->want_arg = ctx->arg;
		break;
	}
	default:
		return HT_EXIT_R_NOT_OURS;
	}
	e->want = 1 + ctx->kind;
	return HT_EXIT_R_MISS;
}

SEC("raw_tp.w/hyperturtle_exit")
int exit_cache(struct bpf_raw_tracepoint_args *args)
{
	struct ht_exit_ctx *ctx = (void *)args->args[0];
	struct ht_arena_header *h;
	__u32 l2, leaf;

	if (ctx->phase == HT_EXIT_AFTER) {
		count_after(ctx);
		return 0;
	}
	h = arena_header();
	l2 = l2_of(h, ctx->vcpu);
	leaf = ctx->regs[HT_RAX];
	ctx->action = HT_EXIT_PASS;
	ctx->reason = answer(ctx, h, l2);
	count_before(ctx, l2, leaf);
	return 0;
}
