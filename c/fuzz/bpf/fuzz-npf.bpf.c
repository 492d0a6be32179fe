// SPDX-License-Identifier: GPL-2.0
/*
 * fuzz-npf: a hostile program for the npf hook, admitted by every rule. Answers as the real one would, with one field
 * wrong; or with all of them made up. The words that its answers name are written by a hostile L1 (c/fuzz).
 */
#include "answers.h"
#include "hyperturtle/npf.h"

char LICENSE[] SEC("license") = "GPL";

SEC("raw_tp.w/hyperturtle_npf")
int fuzz_npf(struct bpf_raw_tracepoint_args *args)
{
	struct ht_npf_ctx *ctx = (void *)args->args[0];
	__u64 gfn = ctx->gpa >> HT_PAGE_SHIFT, r, count, *word;
	struct ht_arena_header *h;
	struct fuzz_state *s;
	__u32 zero = 0;

	s = bpf_map_lookup_elem(&fuzz_state, &zero);
	h = bpf_map_lookup_elem(&arena, &zero);
	if (!s || !h)
		return 0;
	s->runs++;
	r = draw(s);
	/* words change also while L0 is between two looks at them */
	word = at(h, r % arena_bytes, 8);
	if (word && !(r >> 40 & 3))
		__sync_fetch_and_xor(word, 1ull << (r >> 34 & 63));

	count = ctx->level == 2 ? HT_LARGE_PAGES : 1ull << (r >> 48 & 7);
	if (count > HT_GROUP_MAX && ctx->level != 2)
		count = HT_GROUP_MAX;
	ctx->action = HT_NPF_MAP;
	ctx->flags = ctx->level == 2 ? HT_NPF_MAP_LARGE : r >> 56 & (HT_NPF_MAP_EXACT | HT_NPF_MAP_FILL);
	ctx->count = count;
	ctx->first_gfn = gfn & ~(count - 1);
	ctx->words_off = READ(h->index_off) + ((ctx->first_gfn - 512) & 2047) * 8;
	ctx->template = 0x867 | (r & 0x600); /* present, writable, user, accessed, dirty; what KVM keeps in the rest */
	if (ctx->sibling)
		ctx->template = ctx->sibling & ~HT_PFN_MASK;

	switch (r & 15) {
	case 0:
		ctx->first_gfn = edge(s, ctx->first_gfn);
		break;
	case 1:
		ctx->count = edge(s, count);
		break;
	case 2:
	case 3:
	case 4:
		ctx->words_off = edge(s, ctx->words_off);
		break;
	case 5:
		ctx->template = edge(s, ctx->template);
		break;
	case 6:
		ctx->flags = draw(s);
		break;
	case 7:
		ctx->action = HT_NPF_LEARN;
		break;
	case 8:
		ctx->action = HT_NPF_PASS;
		ctx->reason = edge(s, 20);
		break;
	case 9:
		ctx->action = draw(s);
		break;
	case 10: /* also what it was given */
		ctx->gpa = edge(s, ctx->gpa);
		ctx->entry = edge(s, ctx->entry);
		ctx->level = edge(s, ctx->level);
		ctx->root = edge(s, ctx->root);
		ctx->first_gfn = edge(s, ctx->first_gfn);
		ctx->words_off = edge(s, ctx->words_off);
		ctx->count = edge(s, count);
		ctx->template = draw(s);
		ctx->flags = draw(s) & 3;
		break;
	}
	return 0;
}
