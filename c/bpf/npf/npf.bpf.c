// SPDX-License-Identifier: GPL-2.0
/*
 * npf: answers first-touch page faults of L2s in L0. Finds the L2 that runs on this vCPU, the slot and the
 * page's word in the arena; a page that has a frame is mapped, one that has none gets one from the pool.
 * Where pages are touched in a run, whole aligned groups are mapped at once.
 *
 * All loops are bounded; besides the arena it reads nothing. Every offset that comes from the arena is
 * checked against its size: the verifier insists, and a broken layout only makes it PASS.
 */
#include "../arena_map.h"
#include "hyperturtle/npf.h"

char LICENSE[] SEC("license") = "GPL";

#define WRITE(x, v) (*(volatile typeof(x) *)&(x) = (v))
/*
 * Tries to move head. The value that a lost one finds is the next one's: some ten cycles lie between the two, in which
 * this CPU mostly keeps the cache line, so that a second loss is rare. All of them are reckoned for each page of a group.
 */
#define TAKE_TRIES 4
/* a fault this near to a run's edge continues it: KVM maps up to 8 neighbours by itself */
#define RUN_GAP 8

static __always_inline int pass(struct ht_npf_ctx *ctx, struct ht_l2 *l2, __u32 reason)
{
	ctx->action = HT_NPF_PASS;
	ctx->reason = reason;
	if (l2)
		__sync_fetch_and_add(&l2->passes, 1);
	return 0;
}

/*
 * One zeroed frame from a ring, or 0 when it is empty (or too many others take at the same moment). Who loses head to
 * another one tries with what it found there. tail only grows, so that the first look at it does for all tries.
 */
static __always_inline __u64 take_from(void *base, __u64 *ring_head, __u64 *ring_tail, __u64 ring, __u64 entries)
{
	__u64 tail = READ(*ring_tail), head = READ(*ring_head), found, *slot;

	for (int i = 0; i < TAKE_TRIES; i++) {
		if (head >= tail)
			return 0;
		found = __sync_val_compare_and_swap(ring_head, head, head + 1);
		asm volatile("" : "+r"(found)); /* or clang makes two branches of what follows */
		if (found == head) {
			slot = at(base, ring + (head & (entries - 1)) * 8, 8);
			/* beyond the arena: a layout that is broken has no frame there to lose */
			return slot ? __sync_lock_test_and_set(slot, 0) : 0;
		}
		head = found;
	}
	return 0;
}

/* Where a fault's frames come from: the pool that L1 has named for its slot, and frames of that pool which this CPU has in hand. */
struct source {
	__u64 number;
	__u64 ring;
	struct ht_pool *pool;
	struct ht_cpu *hand;
};

static __always_inline __u64 take(void *base, struct ht_arena_header *h, const struct source *from)
{
	return take_from(base, &from->pool->head, &from->pool->tail, from->ring, h->pool_entries);
}

/*
 * Whether n more frames may be taken for the L2: they are paid for. Counted first, and then compared: so never more are
 * taken than allowed, however many CPUs run this, and L1 can lower the limit while we do (htg_credit_take_back()).
 */
static __always_inline int reserve(struct ht_l2 *l2, __u64 n)
{
	if (__sync_fetch_and_add(&l2->frames_taken, n) + n <= READ(l2->frames_limit))
		return 1;
	__sync_fetch_and_add(&l2->frames_taken, -n);
	return 0;
}

/* The word of the granule that the page word at off belongs to, or NULL. */
static __always_inline __u64 *granule_at(void *base, struct ht_arena_header *h, __u64 off)
{
	return at(base, h->large_off + (off - h->index_off) / (HT_LARGE_PAGES * 8) * 8, 8);
}

/*
 * There is no last-level table: the whole 2 MiB range gets a 2 MiB frame with one entry one level up, where L1 allows it
 * and nobody has given any of its pages a frame; or the one it has. The claim is one compare-and-exchange of the
 * granule's word; the words of the pages follow from it, and anyone who finds one missing writes the same.
 */
static __always_inline int large(struct ht_npf_ctx *ctx, void *base, struct ht_arena_header *h, struct ht_l2 *l2,
				 struct ht_cpu *cpu, const struct source *from, const struct ht_slot *slot, __u64 gfn)
{
	__u64 first = gfn & ~(HT_LARGE_PAGES - 1), off, frame, *granule, *words, page, won = 0;

	if (!h->large_off || !(READ(cpu->l2) & HT_CPU_LARGE) || slot->small || READ(h->exact) || first < slot->gfn ||
	    first - slot->gfn + HT_LARGE_PAGES > slot->npages)
		return pass(ctx, l2, HT_NPF_R_SMALL);
	if (!l2->template)
		return pass(ctx, l2, HT_NPF_R_NO_TEMPLATE);
	off = slot->word_off + (first - slot->gfn) * 8;
	if (off & (HT_LARGE_PAGES * 8 - 1)) /* the range and the granule do not begin together */
		return pass(ctx, l2, HT_NPF_R_SMALL);
	words = at(base, off, HT_LARGE_PAGES * 8);
	if (!words) /* at once: admission would follow an empty `words` to where it is written to */
		return pass(ctx, l2, HT_NPF_R_LAYOUT);
	granule = granule_at(base, h, off);
	if (!granule)
		return pass(ctx, l2, HT_NPF_R_LAYOUT);
	__sync_fetch_and_add(&l2->faults, 1);

	frame = READ(*granule);
	if (frame == HT_WORD_EMPTY) {
		if (READ(l2->frames_taken) + HT_LARGE_PAGES > READ(l2->frames_limit))
			return pass(ctx, l2, HT_NPF_R_LIMIT);
		frame = READ(from->hand->spare_large);
		if (!frame) {
			frame = take_from(base, &from->pool->large_head, &from->pool->large_tail,
					  h->large_pool_off + from->number * h->large_entries * 8, h->large_entries);
			if (!frame)
				return pass(ctx, l2, HT_NPF_R_POOL_EMPTY);
			WRITE(from->hand->spare_large, frame);
		}
		if (!reserve(l2, HT_LARGE_PAGES))
			return pass(ctx, l2, HT_NPF_R_LIMIT);
		if (__sync_val_compare_and_swap(granule, HT_WORD_EMPTY, frame) == HT_WORD_EMPTY) {
			WRITE(from->hand->spare_large, 0);
			won = 1;
		} else {
			__sync_fetch_and_add(&l2->frames_taken, -HT_LARGE_PAGES);
			frame = READ(*granule);
		}
	}
	if (!(frame & HT_WORD_PRESENT))
		return pass(ctx, l2, frame & HT_WORD_CLOSED ? HT_NPF_R_CLOSED : HT_NPF_R_SMALL);
	if (won) {
		__sync_fetch_and_add(&l2->mapped_ahead, HT_LARGE_PAGES - 1);
		__sync_fetch_and_add(&l2->mapped_new, 1);
		__sync_fetch_and_add(&l2->large_new, 1);
	} else {
		__sync_fetch_and_add(&l2->mapped_existing, 1);
		__sync_fetch_and_add(&l2->large_existing, 1);
	}
	page = frame;
	for (int i = 0; i < HT_LARGE_PAGES; i++) {
		WRITE(words[i], page);
		page += HT_PAGE_SIZE;
	}

	ctx->flags = HT_NPF_MAP_LARGE;
	ctx->template = l2->template;
	ctx->words_off = off;
	ctx->first_gfn = first;
	ctx->count = HT_LARGE_PAGES;
	ctx->action = HT_NPF_MAP;
	return 0;
}

/*
 * Before a page of the group at off gets a frame of its own: the granule must be one of small pages, or becomes one.
 * 0, or why not.
 */
static __always_inline __u32 small(void *base, struct ht_arena_header *h, __u64 off, __u64 need)
{
	__u64 *granule, word;

	if (!h->large_off)
		return 0;
	granule = granule_at(base, h, off);
	if (!granule)
		return HT_NPF_R_LAYOUT;
	word = READ(*granule);
	if (word == HT_WORD_EMPTY && need)
		word = __sync_val_compare_and_swap(granule, HT_WORD_EMPTY, HT_WORD_SMALL) ? READ(*granule) : HT_WORD_SMALL;
	if (word & HT_WORD_CLOSED)
		return HT_NPF_R_CLOSED;
	/* a 2 MiB frame whose words are being written: L1 will find them */
	return need && !(word & HT_WORD_SMALL) ? HT_NPF_R_RACE : 0;
}

/* Group size for a fault on gfn: 1, or twice that of the run it continues. */
static __always_inline __u64 run_size(struct ht_l2 *l2, __u64 gfn, __u64 max)
{
	for (int i = 0; i < HT_STREAMS; i++) {
		struct ht_stream *s = &l2->streams[i];

		if (s->size && (gfn - s->end < RUN_GAP || s->start - gfn <= RUN_GAP)) {
			__u64 size = s->size * 2;

			return size > max ? max : size;
		}
	}
	return 1;
}

static __always_inline void run_note(struct ht_l2 *l2, __u64 gfn, __u64 start, __u64 end, __u64 size)
{
	__u64 hand;

	for (int i = 0; i < HT_STREAMS; i++) {
		struct ht_stream *s = &l2->streams[i];

		if (s->size && (gfn - s->end < RUN_GAP || s->start - gfn <= RUN_GAP)) {
			s->start = start;
			s->end = end;
			s->size = size;
			return;
		}
	}
	hand = l2->stream_hand++ & (HT_STREAMS - 1);
	l2->streams[hand].start = start;
	l2->streams[hand].end = end;
	l2->streams[hand].size = size;
}

/* The page of gfn is used now. Atomic, as L1 may take it away right now. */
static __always_inline void note_used(void *base, const struct ht_slot *slot, __u64 gfn)
{
	__u64 *word = at(base, slot->word_off + (gfn - slot->gfn) * 8, 8);

	if (word)
		__sync_fetch_and_and(word, ~HT_WORD_AHEAD);
}

/*
 * With exact, HT_WORD_AHEAD for the pages of the group of gfn but its own, else 0: KVM in L0 maps the whole group at once
 * then, and nobody sees which of its pages are used. 0 <= distance < 64. Without a branch.
 */
static __always_inline __u64 ahead_bit(__u64 gfn, __u64 page, __u64 exact)
{
	__u64 distance = (gfn ^ page) & (HT_GROUP_MAX - 1);
	__u64 mask = -(exact & 1);

	asm volatile("" : "+r"(mask)); /* or clang 19 makes a branch of it, and the verifier walks a million instructions */
	return ((distance & mask) + (HT_GROUP_MAX - 1)) / HT_GROUP_MAX * HT_WORD_AHEAD;
}

static __always_inline __u64 pow2_below(__u64 n)
{
	__u64 p = 1;

	for (int i = 0; i < 6; i++)
		if (p * 2 <= n)
			p *= 2;
	return p;
}

SEC("raw_tp.w/hyperturtle_npf")
int npf(struct bpf_raw_tracepoint_args *args)
{
	struct ht_npf_ctx *ctx = (void *)args->args[0];
	__u32 zero = 0;
	__u64 gfn = ctx->gpa >> HT_PAGE_SHIFT, number, slots, off, index, want, first, max, frame, taken;
	__u64 word_gfn = gfn, *word, *group, exact, ahead;
	struct ht_arena_header *h;
	struct ht_slot *slot = 0;
	struct source from = {};
	struct ht_cpu *cpu;
	struct ht_l2 *l2;
	void *base;
	__u32 why;

	base = bpf_map_lookup_elem(&arena, &zero);
	if (!base)
		return pass(ctx, 0, HT_NPF_R_LAYOUT);
	h = base;
	if (READ(h->magic) != HT_ARENA_MAGIC || !READ(h->enabled) ||
	    (h->version != HT_ARENA_VERSION && h->version != HT_ARENA_VERSION_LARGE))
		return pass(ctx, 0, HT_NPF_R_DISABLED);

	/* which L2 */
	if (ctx->vcpu >= h->cpus_count)
		return pass(ctx, 0, HT_NPF_R_NO_L2);
	cpu = at(base, h->cpus_off + (__u64)ctx->vcpu * sizeof(*cpu), sizeof(*cpu));
	if (!cpu)
		return pass(ctx, 0, HT_NPF_R_LAYOUT);
	number = READ(cpu->l2) & HT_CPU_NUMBER;
	if (!number || number >= h->l2_count)
		return pass(ctx, 0, HT_NPF_R_NO_L2);
	/*
	 * A hypervisor beside KVM in L1 publishes nothing: the number is then that of KVM's last L2 here. Both words are
	 * of one kvm_entry, as L1's CPU stands still until we are done.
	 */
	if (READ(cpu->root) != ctx->root)
		return pass(ctx, 0, HT_NPF_R_OTHER_ROOT);
	l2 = at(base, h->l2_off + number * sizeof(*l2), sizeof(*l2));
	if (!l2)
		return pass(ctx, 0, HT_NPF_R_LAYOUT);
	if (READ(l2->state) != HT_L2_ON)
		return pass(ctx, l2, HT_NPF_R_L2_OFF);

	/* a second run with a sibling goes the same way: where is the page, or the sibling? */
	if (ctx->sibling)
		word_gfn = ctx->sibling_gfn;
	slots = l2->slot_count;
	for (int i = 0; i < HT_MAX_SLOTS; i++) {
		if (i >= slots)
			break;
		if (gfn - l2->slots[i].gfn < l2->slots[i].npages) {
			slot = &l2->slots[i];
			from.number = READ(cpu->pools[i]);
			break;
		}
	}
	if (!slot || word_gfn - slot->gfn >= slot->npages)
		return pass(ctx, l2, HT_NPF_R_NO_SLOT);
	exact = READ(h->exact);
	if (ctx->entry & HT_WORD_PRESENT) { /* L1's entry is there: L0 goes on alone, we only learn of it */
		note_used(base, slot, gfn);
		return 0;
	}
	/* where there is one pool, or no other is known, both strides are 0 */
	from.pool = at(base, HT_POOL0_OFF + from.number * h->pool_stride, sizeof(*from.pool));
	if (!from.pool)
		return pass(ctx, l2, HT_NPF_R_LAYOUT);
	from.hand = at(base, h->cpus_off + from.number * h->spare_stride + (__u64)ctx->vcpu * sizeof(*cpu), sizeof(*cpu));
	if (!from.hand)
		return pass(ctx, l2, HT_NPF_R_LAYOUT);
	if (ctx->level == 2)
		return large(ctx, base, h, l2, cpu, &from, slot, gfn);

	if (!l2->template) {
		if (!ctx->sibling) {
			ctx->action = HT_NPF_LEARN;
			return 0;
		}
		/* learn only from a leaf of RAM that we know: a BAR in the same table has other memory types */
		word = at(base, slot->word_off + (word_gfn - slot->gfn) * 8, 8);
		if (!word)
			return pass(ctx, l2, HT_NPF_R_LAYOUT);
		if (((READ(*word) ^ ctx->sibling) & HT_PFN_MASK) || !(READ(*word) & HT_WORD_PRESENT)) {
			ctx->action = HT_NPF_LEARN;
			return 0;
		}
		l2->template = ctx->sibling & ~HT_PFN_MASK;
	}
	__sync_fetch_and_add(&l2->faults, 1);

	index = gfn - slot->gfn;
	word = at(base, slot->word_off + index * 8, 8);
	if (!word)
		return pass(ctx, l2, HT_NPF_R_LAYOUT);
	if (READ(*word) & HT_WORD_CLOSED)
		return pass(ctx, l2, HT_NPF_R_CLOSED);

	/* how many pages: a power of two, aligned, within the slot and so within one last-level table */
	max = l2->group_max ? l2->group_max : h->group_max;
	if (max > HT_GROUP_MAX)
		max = HT_GROUP_MAX;
	max = pow2_below(max);
	if (READ(*word) & HT_WORD_PRESENT) {
		want = max; /* costs no frame: map what is there around it */
	} else {
		__u64 head = READ(from.pool->head), level = READ(from.pool->tail) - head;

		if (READ(l2->frames_taken) >= READ(l2->frames_limit))
			return pass(ctx, l2, HT_NPF_R_LIMIT);
		want = ctx->error_code & HT_NPF_ERR_WRITE ? run_size(l2, gfn, max) : 1;
		if ((__s64)level < (__s64)(h->pool_low + want) || READ(l2->frames_taken) + want > READ(l2->frames_limit))
			want = 1;
	}
	first = gfn & ~(want - 1);
	if (first < slot->gfn || first - slot->gfn + want > slot->npages) {
		first = gfn;
		want = 1;
	}

	off = slot->word_off + (first - slot->gfn) * 8;
	group = at(base, off, HT_GROUP_MAX * 8);
	if (!group) { /* the last few words of the arena */
		group = word;
		off = slot->word_off + index * 8;
		first = gfn;
		want = 1;
	}
	if (h->large_off && ((off ^ (off + want * 8 - 8)) & ~(HT_LARGE_PAGES * 8 - 1))) { /* of two granules */
		group = word;
		off = slot->word_off + index * 8;
		first = gfn;
		want = 1;
	}
	why = small(base, h, off, !(READ(*word) & HT_WORD_PRESENT));
	if (why)
		return pass(ctx, l2, why);
	if (!(READ(*word) & HT_WORD_PRESENT)) {
		/*
		 * The frame in hand lives in from.hand->spare, which is ours while we run: one that loses the race for
		 * its word stays there for the next page or the next fault. (In memory, not in registers: so all
		 * paths through the loop look alike to the verifier.)
		 */
		if (!reserve(l2, want))
			return pass(ctx, l2, HT_NPF_R_LIMIT);
		from.ring = h->pool_off + from.number * h->pool_entries * 8;
		asm volatile("" : "+r"(from.ring)); /* or clang puts the sum into the loop */
		WRITE(from.hand->taken, 0);
		for (int i = 0; i < HT_GROUP_MAX; i++) {
			if (i >= want)
				break;
			if (READ(group[i]))
				continue;
			frame = READ(from.hand->spare);
			if (!frame) {
				frame = take(base, h, &from);
				if (!frame)
					break;
				WRITE(from.hand->spare, frame);
			}
			ahead = ahead_bit(gfn, first + i, exact);
			if (__sync_val_compare_and_swap(&group[i], HT_WORD_EMPTY, frame | ahead) == HT_WORD_EMPTY) {
				WRITE(from.hand->spare, 0);
				WRITE(from.hand->taken, READ(from.hand->taken) + 1);
			}
		}
		taken = READ(from.hand->taken);
		if (taken != want) /* what of it was not needed */
			__sync_fetch_and_add(&l2->frames_taken, taken - want);
		if (!(READ(*word) & HT_WORD_PRESENT))
			return pass(ctx, l2, HT_NPF_R_POOL_EMPTY);
		run_note(l2, gfn, first, first + want, want);
		__sync_fetch_and_add(&l2->mapped_new, 1);
		if (taken > 1)
			__sync_fetch_and_add(&l2->mapped_ahead, taken - 1);
	} else {
		__sync_fetch_and_add(&l2->mapped_existing, 1);
		note_used(base, slot, gfn);
	}

	ctx->flags = exact ? HT_NPF_MAP_EXACT : HT_NPF_MAP_FILL;
	ctx->template = l2->template;
	ctx->words_off = off;
	ctx->first_gfn = first;
	ctx->count = want;
	ctx->action = HT_NPF_MAP;
	return 0;
}
