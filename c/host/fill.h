/* SPDX-License-Identifier: GPL-2.0 */
/* The rest of a group in the exit of its first fault (fill.c). */
#ifndef HYPERTURTLE_HOST_FILL_H
#define HYPERTURTLE_HOST_FILL_H

#include "host.h"
#include "kmod/direct_hook.h"

/*
 * A group has pages of at most nine eights, and the fault stands for one of them. Eights are what KVM maps by itself around a
 * fault (PTE_PREFETCH_NUM, private to mmu.c): were it another number, that would cost time and nothing else.
 */
#define HT_FILL_MAX (HT_GROUP_MAX / HT_PREFETCH_PAGES)

/* What a program has entered into L1's table: one page of each eight but the fault's own, in rising order. */
struct ht_fill {
	u64 began;		/* ktime of the hook */
	u64 root;		/* of that table */
	u32 count;
	struct {
		u64 gfn;	/* of L2 */
		u64 frame;	/* L1 physical address that was entered for it */
	} page[HT_FILL_MAX];
};

/* What an exit of this CPU has left out of its group, for the next fault there. */
struct ht_fill_rest {
	const struct kvm_vcpu *vcpu; /* NULL: nothing */
	struct ht_fill fill;
};

/* Notes a page that was entered, in rising order; gfn is the fault's. */
static inline void ht_fill_note(struct ht_fill *fill, u64 gfn, u64 page, u64 frame)
{
	u64 eight = page / HT_PREFETCH_PAGES;

	if (eight == gfn / HT_PREFETCH_PAGES || fill->count == HT_FILL_MAX ||
	    (fill->count && fill->page[fill->count - 1].gfn / HT_PREFETCH_PAGES == eight))
		return;
	fill->page[fill->count].gfn = page;
	fill->page[fill->count++].frame = frame;
}

void ht_fill_init(void);
u64 ht_fill_limit_ns(void);
void ht_fill_group(const struct ht_call *call, struct ht_vm *vm, const struct ht_fill *fill);
void ht_fill_resume(struct ht_vm *vm, const struct kvm_vcpu *vcpu, u64 gfn, struct ht_fill *fill);

#endif
