/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of hyperturtle_fuzz.ko share. */
#ifndef HYPERTURTLE_FUZZ_H
#define HYPERTURTLE_FUZZ_H

#include <linux/atomic.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include "hyperturtle/arena.h"

/* Kinds of operations, each counted. */
enum htf_kind {
	HTF_HEADER, HTF_CPU, HTF_L2, HTF_POOL, HTF_INDEX, HTF_GRANULE, HTF_EXIT,	/* words of the arena */
	HTF_ZAP,		/* leaves of the nested page table emptied: L2 faults again */
	HTF_LEAF, HTF_UPPER,	/* entries of the nested page table overwritten until L2's next exit */
	HTF_KINDS,
};
extern const char *const htf_kind_names[HTF_KINDS];

/* Numbers from a seed, the same for the same seed; one for each thread of execution. */
struct htf_random {
	u64 state;
};

static inline u64 htf_next(struct htf_random *r)	/* xorshift64* */
{
	u64 x = r->state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	r->state = x;
	return x * 0x2545f4914f6cdd1dull;
}

static inline u64 htf_below(struct htf_random *r, u64 n)
{
	return (htf_next(r) >> 32) % n;
}

/* Numbers of pages that L2 touches, and where they begin. */
extern u64 htf_first_gfn, htf_pages;

/* arena.c: an arena that this module alone has, laid out as L1's real module does it. */
int htf_arena_init(void);
void htf_arena_exit(void);
void htf_arena_repair(struct htf_random *r, unsigned int apicid, u64 root); /* as it must be for the L2 of this root */
void htf_arena_template(u64 flags);	/* what a leaf of L1's KVM has beside its frame */
bool htf_arena_op(struct htf_random *r, enum htf_kind kind, unsigned int apicid);
u64 htf_frame(struct htf_random *r);	/* address of a page that nobody misses */
u64 htf_bad_frame(struct htf_random *r); /* of one that is not this L1's to give, or is nothing */

/* npt.c */
bool htf_npt_op(struct htf_random *r, enum htf_kind kind, struct kvm_vcpu *vcpu);
void htf_npt_remember(struct kvm_vcpu *vcpu);	/* before the operations of an entry */
void htf_npt_restore(struct kvm_vcpu *vcpu);	/* after L2 ran; NULL: the one that was there before */

#endif
