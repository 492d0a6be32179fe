// SPDX-License-Identifier: GPL-2.0
/*
 * profile: counts samples of L2s by stack. The key of a stack is put together in memory of its own CPU, as it is
 * larger than a program's stack; a sample interrupts L2 and nothing else, so nobody shares that memory meanwhile.
 */
#include "../arena_map.h"
#include "hyperturtle/sample.h"

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HT_PROFILE_STACKS);
	__type(key, struct ht_profile_stack);
	__type(value, __u64);
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ht_profile_control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HT_PROFILE_L2S);
	__type(key, __u32);
	__type(value, __u64);
} kernels SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ht_profile_totals);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ht_profile_stack);
} scratch SEC(".maps");

/* Number of the registered L2 on this vCPU; 0 for another one, or before L1 has laid out its arena. */
static __always_inline __u32 running_l2(__u32 vcpu)
{
	struct ht_arena_header *h;
	struct ht_cpu *cpu;
	__u32 zero = 0;
	void *base = bpf_map_lookup_elem(&arena, &zero);

	if (!base)
		return 0;
	h = at(base, 0, sizeof(*h));
	if (!h || h->magic != HT_ARENA_MAGIC || vcpu >= h->cpus_count ||
	    (h->version != HT_ARENA_VERSION && h->version != HT_ARENA_VERSION_LARGE))
		return 0;
	cpu = at(base, h->cpus_off + vcpu * sizeof(*cpu), sizeof(*cpu));
	return cpu ? (__u32)cpu->l2 : 0;
}

SEC("raw_tp.w/hyperturtle_sample")
int profile(struct bpf_raw_tracepoint_args *args)
{
	struct ht_sample_ctx *ctx = (void *)args->args[0];
	__u32 zero = 0, l2 = running_l2(ctx->vcpu), flags;
	struct ht_profile_control *wanted = bpf_map_lookup_elem(&control, &zero);
	struct ht_profile_totals *t = bpf_map_lookup_elem(&totals, &zero);
	struct ht_profile_stack *s = bpf_map_lookup_elem(&scratch, &zero);
	__u64 *n, one = 1;

	if (!wanted || !t || !s)
		return 0;
	flags = wanted->flags;
	if ((wanted->l2 && wanted->l2 != l2) || ((flags & HT_PROFILE_F_NO_USER) && ctx->cpl == 3) ||
	    ((flags & HT_PROFILE_F_NO_KERNEL) && ctx->cpl != 3)) {
		ctx->reason = HT_SAMPLE_R_OTHER_L2;
		t->other++;
		return 0;
	}
	if (ctx->entry) {
		n = bpf_map_lookup_elem(&kernels, &l2);
		if (n)
			*n = ctx->entry;
	}
	s->l2 = l2;
	s->vcpu = ctx->vcpu;
	s->cpl = ctx->cpl;
	s->space = ctx->cpl == 3 && !(flags & HT_PROFILE_F_NO_SPACES) ? ctx->cr3 & HT_PFN_MASK : 0;
	s->count = ctx->count < HT_SAMPLE_FRAMES ? ctx->count : HT_SAMPLE_FRAMES - 1;
	s->end = ctx->end;
	/* the verifier wants constant offsets into a context; behind the last address there are zeros */
#pragma clang loop unroll(full)
	for (int i = 0; i < HT_SAMPLE_FRAMES - 1; i++)
		s->ips[i] = ctx->ips[i];

	n = bpf_map_lookup_elem(&stacks, s);
	if (!n) {
		/* another CPU may have been faster: then its entry is found */
		one = 0;
		bpf_map_update_elem(&stacks, s, &one, BPF_NOEXIST);
		n = bpf_map_lookup_elem(&stacks, s);
		if (!n) {
			ctx->reason = HT_SAMPLE_R_FULL;
			t->lost++;
			return 0;
		}
	}
	__sync_fetch_and_add(n, 1);
	t->samples++;
	return 0;
}
