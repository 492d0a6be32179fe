// SPDX-License-Identifier: GPL-2.0
/*
 * The npf hook: an L2 nested page fault that stock KVM is about to hand to L1 because L1's own nested page
 * table has no entry. The VM's program may give one or more entries; we write them into L1's table by
 * compare-and-exchange from the exact empty value, and then let KVM's own function run: it walks L1's
 * table again, validates what it finds and fills the table that the hardware uses, all in the same exit. For the rest of
 * a group it is called before that, where the program asks for it: fill.c.
 *
 * Read in Linux 6.1 and 6.12, arch/x86/kvm/mmu: paging_tmpl.h FNAME(page_fault), FNAME(fetch),
 * FNAME(pte_prefetch); tdp_mmu.c (the L1 side): tdp_mmu_set_spte_atomic, handle_removed_tdp_mmu_page.
 * Whenever in doubt: PASS, and L1 handles the fault as it always did.
 */
#include <linux/module.h>
#include <linux/uaccess.h>
#include "run.h"
#include "fill.h"
#include "kvm_calls.h"
#include "kmod/direct_hook.h"

/* What differs between the two table formats. */
struct ht_fmt {
	u64 present;		/* any of these bits: present */
	u64 leaf_rw;		/* all of these bits: a leaf that may be read and written */
	u64 accessed;
};
static const struct ht_fmt ht_fmt_npt = { .present = BIT_ULL(0), .leaf_rw = BIT_ULL(0) | BIT_ULL(1),
					   .accessed = BIT_ULL(5) };
static const struct ht_fmt ht_fmt_ept = { .present = 7, .leaf_rw = 3, .accessed = BIT_ULL(8) };

#define HT_LARGE BIT_ULL(7)
#define HT_ENTRIES 512
/*
 * Below are legacy holes, ROMs and the fixed MTRRs, so L1's entries differ from those of RAM. The rest of the same table, from
 * 1 to 2 MiB, is RAM as any other. KVM takes no memory type from the entries that it shadows: make_spte() asks
 * get_mt_mask() of L0's own vendor module for it (spte.c in 6.1 and 6.12).
 */
#define HT_LOW_GPA (1ull << 20)
#define HT_SIBLING_OFFERS 8

/* 0, or SUPPRESS_VE where KVM uses it (SHADOW_NONPRESENT_VALUE since 6.11): nothing else is "empty" */
static bool ht_entry_empty(u64 entry)
{
	return entry == 0 || entry == BIT_ULL(63);
}

/* The last-level table of gpa in L1's nested page table, or the one above it where that has an empty entry for it. */
struct ht_table {
	gfn_t gfn;		/* L1 frame that holds it */
	u64 __user *hva;
	int level;		/* 1 or 2 */
};

static u64 ht_entry_index(gpa_t gpa, int level)
{
	return (gpa >> (HT_PAGE_SHIFT + 9 * (level - 1))) & (HT_ENTRIES - 1);
}

/* Walks L1's table; 0 and *t, or the reason to pass. Without `large` only a last-level table will do. */
static int ht_walk(struct kvm_vcpu *vcpu, const struct ht_fmt *fmt, gpa_t gpa, u64 root, int level, bool large,
		   struct ht_table *t)
{
	gpa_t table = root & HT_PFN_MASK;
	unsigned long hva;
	u64 entry;

	for (; level > 1; level--) {
		u64 idx = ht_entry_index(gpa, level);

		if (ht_kvm(kvm_vcpu_read_guest)(vcpu, table + idx * sizeof(u64), &entry, sizeof(entry)))
			return HT_NPF_R_READ_ERROR;
		if (level == 2 && large && ht_entry_empty(entry))
			break;
		if (!(entry & fmt->present))
			return HT_NPF_R_NO_TABLE;
		if (entry & HT_LARGE)
			return HT_NPF_R_LARGE_LEAF;
		table = entry & HT_PFN_MASK;
	}
	t->level = level;
	t->gfn = gpa_to_gfn(table);
	hva = ht_kvm(kvm_vcpu_gfn_to_hva)(vcpu, t->gfn); /* an error for read-only memory */
	if (kvm_is_error_hva(hva) || !access_ok((void __user *)hva, PAGE_SIZE))
		return HT_NPF_R_READ_ERROR;
	t->hva = (u64 __user *)hva;
	return 0;
}

/* Replaces an entry only while it is exactly *old: 0 done, 1 it was something else, -EFAULT. */
static int ht_entry_cas(u64 __user *entry, u64 old, u64 new)
{
	return __try_cmpxchg_user(entry, &old, new, fault);
}

/* Offers writable leaves of the same table until the program has learned from one. */
static int ht_learn(struct ht_vm *vm, const struct ht_linked *l, const struct ht_fmt *fmt,
		    const struct ht_table *t, const struct ht_npf_ctx *in, struct ht_npf_ctx *ctx)
{
	gfn_t base = gpa_to_gfn(in->gpa) & ~(u64)(HT_ENTRIES - 1);
	int i = base < gpa_to_gfn(HT_LOW_GPA) ? gpa_to_gfn(HT_LOW_GPA) - base : 0, offers = 0;
	u64 entry;

	for (; i < HT_ENTRIES && offers < HT_SIBLING_OFFERS; i++) {
		if (get_user(entry, &t->hva[i]))
			return HT_NPF_R_READ_ERROR;
		if ((entry & fmt->leaf_rw) != fmt->leaf_rw)
			continue;
		offers++;
		*ctx = *in;
		ctx->sibling = entry;
		ctx->sibling_gfn = base + i;
		ht_run(l, ctx);
		ht_count(vm, HT_HOOK_NPF, learned, 1);
		if (ctx->action != HT_NPF_LEARN)
			return 0;
	}
	return HT_NPF_R_NO_SIBLING;
}

/*
 * Writes the group's entries from the page index. Nothing of the program's answer is trusted further than
 * into L1's own table: a wrong frame or flag hurts the L1 that asked for it, and KVM checks them as it
 * checks all that L1 writes. 0 if the entry of gpa is there now.
 */
static int ht_map(struct kvm_vcpu *vcpu, struct ht_vm *vm, const struct ht_linked *l, const struct ht_fmt *fmt,
		  const struct ht_table *t, gpa_t gpa, const struct ht_npf_ctx *ctx, struct ht_fill *fill)
{
	u64 gfn = gpa_to_gfn(gpa), first = ctx->first_gfn, flags = ctx->template & ~HT_PFN_MASK;
	u32 count = ctx->count, i, written = 0;
	int result = HT_NPF_R_LOST;

	if (!l->words)
		return HT_NPF_R_NO_ARENA;
	if (!count || count > HT_GROUP_MAX || first < gpa_to_gfn(HT_LOW_GPA) || gfn < first || gfn - first >= count ||
	    (first ^ gfn) >> 9 || ((first + count - 1) ^ gfn) >> 9 || !(flags & fmt->present) ||
	    (flags & HT_LARGE) != 0 || ctx->words_off % sizeof(u64) || ctx->words_off > l->bytes ||
	    count * sizeof(u64) > l->bytes - ctx->words_off)
		return HT_NPF_R_BAD_ANSWER;

	for (i = 0; i < count; i++) {
		u64 __user *entry = &t->hva[(first + i) & (HT_ENTRIES - 1)];
		u64 word = READ_ONCE(l->words[ctx->words_off / sizeof(u64) + i]);
		/* KVM prefetches no entry that was not accessed, and sets the bit when the page is: then we are run */
		u64 bits = (ctx->flags & HT_NPF_MAP_EXACT) && (word & HT_WORD_AHEAD) ? flags & ~fmt->accessed : flags;
		u64 old;
		int ret;

		if (!(word & HT_WORD_PRESENT))
			continue;
		if (get_user(old, entry)) {
			result = HT_NPF_R_READ_ERROR;	/* what is written already is L1's to know */
			break;
		}
		if (!ht_entry_empty(old))
			continue;
		ret = ht_entry_cas(entry, old, bits | (word & HT_PFN_MASK));
		if (ret < 0) {
			result = HT_NPF_R_WRITE_ERROR;
			break;
		}
		if (ret)
			continue;
		written++;
		if (first + i == gfn)
			result = 0;
		else if ((ctx->flags & (HT_NPF_MAP_FILL | HT_NPF_MAP_EXACT)) == HT_NPF_MAP_FILL)
			ht_fill_note(fill, gfn, first + i, word & HT_PFN_MASK);
	}
	if (written) {
		/* L1's own migration must see the write; going from not present to present needs no flush */
		ht_kvm(kvm_vcpu_mark_page_dirty)(vcpu, t->gfn);
		ht_count(vm, HT_HOOK_NPF, entries, written);
	}
	return result;
}

/*
 * Writes one entry for a 2 MiB frame: the words of all its pages must say that it is one, whatever the program
 * answered. What is true of the last level (see ht_map) is so of this one: KVM in L1 fills, splits and removes its
 * entries by compare-and-exchange from what they were, and finds what to zap by walking.
 */
static int ht_map_large(struct kvm_vcpu *vcpu, struct ht_vm *vm, const struct ht_linked *l, const struct ht_fmt *fmt,
			const struct ht_table *t, gpa_t gpa, const struct ht_npf_ctx *ctx)
{
	u64 gfn = gpa_to_gfn(gpa), flags = ctx->template & ~HT_PFN_MASK, old, frame;
	u64 __user *entry = &t->hva[ht_entry_index(gpa, 2)];
	const u64 *words;
	u32 i;
	int ret;

	if (!l->words)
		return HT_NPF_R_NO_ARENA;
	/* a whole entry below HT_LOW_GPA too: the first 2 MiB have none of these */
	if (ctx->flags != HT_NPF_MAP_LARGE || ctx->count != HT_LARGE_PAGES || ctx->first_gfn < gpa_to_gfn(HT_LOW_GPA) ||
	    ctx->first_gfn != (gfn & ~(HT_LARGE_PAGES - 1)) || !(flags & fmt->present) || (flags & HT_LARGE) ||
	    ctx->words_off % sizeof(u64) || ctx->words_off > l->bytes ||
	    HT_LARGE_PAGES * sizeof(u64) > l->bytes - ctx->words_off)
		return HT_NPF_R_BAD_ANSWER;
	words = &l->words[ctx->words_off / sizeof(u64)];
	frame = READ_ONCE(words[0]) & HT_PFN_MASK;
	if (frame & (HT_LARGE_PAGES * HT_PAGE_SIZE - 1))
		return HT_NPF_R_BAD_ANSWER;
	for (i = 0; i < HT_LARGE_PAGES; i++)
		if ((READ_ONCE(words[i]) & (HT_PFN_MASK | HT_WORD_PRESENT)) !=
		    (frame + i * HT_PAGE_SIZE) + HT_WORD_PRESENT)
			return HT_NPF_R_BAD_ANSWER;
	if (get_user(old, entry))
		return HT_NPF_R_READ_ERROR;
	if (!ht_entry_empty(old))
		return HT_NPF_R_LOST;
	ret = ht_entry_cas(entry, old, flags | HT_LARGE | frame);
	if (ret)
		return ret < 0 ? HT_NPF_R_WRITE_ERROR : HT_NPF_R_LOST;
	ht_kvm(kvm_vcpu_mark_page_dirty)(vcpu, t->gfn);
	ht_count(vm, HT_HOOK_NPF, entries, 1);
	return 0;
}

/* Whether L1 has a pool of 2 MiB frames: without, nobody is asked for them. */
static bool ht_large_wanted(const struct ht_linked *l)
{
	const struct ht_arena_header *h = (const void *)l->words;

	return h && l->bytes >= sizeof(*h) && READ_ONCE(h->large_off);
}

/* 0 if L1 need not be entered for this fault, else the reason why it must. */
static int ht_npf_try(struct kvm_vcpu *vcpu, struct ht_vm *vm, const struct ht_linked *l,
		      const struct ht_fmt *fmt, gpa_t gpa, u64 error_code, struct ht_fill *fill)
{
	struct kvm_mmu *mmu = vcpu->arch.mmu;
	struct ht_npf_ctx in = {}, ctx;
	struct ht_table t;
	u64 entry;
	int ret;

	if (gpa < HT_LOW_GPA)
		return HT_NPF_R_LOW_GPA;
	fill->root = in.root = ht_mmu_walk(mmu)->get_guest_pgd(vcpu) & HT_PFN_MASK;
	in.root_level = ht_mmu_walk(mmu)->cpu_role.base.level;
	if (in.root_level < 4 || in.root_level > 5)
		return HT_NPF_R_NO_TABLE;
	ret = ht_walk(vcpu, fmt, gpa, in.root, in.root_level, ht_large_wanted(l), &t);
	if (ret)
		return ret;
	if (get_user(entry, &t.hva[ht_entry_index(gpa, t.level)]))
		return HT_NPF_R_READ_ERROR;
	if (t.level == 2 && !ht_entry_empty(entry)) /* not any more */
		return HT_NPF_R_LOST;
	if (!ht_entry_empty(entry) && !(entry & fmt->present))
		return HT_NPF_R_SPECIAL;

	/* nothing to be told: in use before. What was mapped with EXACT is not accessed until its first use. */
	if ((entry & fmt->present) && (entry & fmt->accessed))
		return HT_NPF_R_PRESENT;

	in.gpa = gpa;
	in.error_code = error_code;
	in.entry = entry;
	in.level = t.level;
	in.vcpu = vcpu->vcpu_id;
	in.action = HT_NPF_PASS;
	ctx = in;
	ht_run(l, &ctx);
	if (entry & fmt->present)	/* told, not asked: a page that was mapped ahead is used now */
		return HT_NPF_R_PRESENT;
	if (t.level == 2) {
		if (ctx.action == HT_NPF_MAP)
			return ht_map_large(vcpu, vm, l, fmt, &t, gpa, &ctx);
		if (ctx.action == HT_NPF_LEARN) /* there are no leaves to learn from */
			return HT_NPF_R_NO_TABLE;
		return ctx.reason >= HT_NPF_R_PROGRAM && ctx.reason < HT_NPF_REASONS ? ctx.reason : HT_NPF_R_NO_TABLE;
	}
	if (ctx.action == HT_NPF_LEARN) {
		ret = ht_learn(vm, l, fmt, &t, &in, &ctx);
		if (ret)
			return ret;
	}
	if (ctx.action == HT_NPF_MAP)
		return ht_map(vcpu, vm, l, fmt, &t, gpa, &ctx, fill);
	return ctx.reason >= HT_NPF_R_PROGRAM && ctx.reason < HT_NPF_REASONS ? ctx.reason : HT_NPF_R_PROGRAM;
}

static void ht_npf_before(const struct ht_call *call, const struct ht_fmt *fmt)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)call->args[0];
	const struct ht_kvm_page_fault *fault = (const struct ht_kvm_page_fault *)call->args[1];
	struct ht_fill fill = { .count = 0 };
	const struct ht_linked *l;
	struct ht_vm *vm;
	int idx, ret;

	/*
	 * Only L2's own nested paging: without it these functions serve ordinary shadow paging, where the
	 * address is a virtual one and the tables are the guest kernel's.
	 */
	if (!(vcpu->arch.hflags & HF_GUEST_MASK) || vcpu->arch.mmu != &vcpu->arch.guest_mmu)
		return;
	vm = ht_vm_enter(vcpu->kvm, &idx);
	if (!vm)
		return;
	l = srcu_dereference(vm->linked[HT_HOOK_NPF], &vm->srcu);
	if (l) {
		fill.began = ktime_get_ns();
		ret = ht_npf_try(vcpu, vm, l, fmt, fault->addr, fault->error_code, &fill);
		ht_count(vm, HT_HOOK_NPF, runs, 1);
		if (!ret)
			ht_count(vm, HT_HOOK_NPF, handled, 1);
		else
			ht_count(vm, HT_HOOK_NPF, reasons[ret], 1);
		if (ret == HT_NPF_R_PRESENT)
			ht_fill_resume(vm, vcpu, gpa_to_gfn(fault->addr), &fill);
		if (fill.count && (!ret || ret == HT_NPF_R_PRESENT))
			ht_fill_group(call, vm, &fill);
	}
	ht_vm_leave(vm, idx);
}

static int ht_npt_fault(struct ht_call *call)
{
	ht_npf_before(call, &ht_fmt_npt);
	return HT_GO_ON;
}

static int ht_ept_fault(struct ht_call *call)
{
	ht_npf_before(call, &ht_fmt_ept);
	return HT_GO_ON;
}

HT_HOOK(ht_npt, "paging64_page_fault", ht_npt_fault, ht_no_after);
HT_HOOK(ht_ept, "ept_page_fault", ht_ept_fault, ht_no_after);
static struct ht_kvm_hook *const ht_npf_hooks[] = { &ht_npt_hook, &ht_ept_hook };

static void ht_npf_reset(void *ctx)
{
	struct ht_npf_ctx *c = ctx;

	c->action = HT_NPF_PASS;
	c->reason = 0;
}

static int ht_npf_link(struct ht_vm *vm, struct ht_linked *l, const struct ht_link *req)
{
	return memchr_inv(req->args, 0, sizeof(req->args)) ? -EINVAL : 0;
}

static void ht_npf_unlink(struct ht_vm *vm, struct ht_linked *l)
{
}

const struct ht_hook_ops ht_npf_ops = {
	.ctx_bytes = sizeof(struct ht_npf_ctx),
	.reset = ht_npf_reset,
	.link = ht_npf_link,
	.unlink = ht_npf_unlink,
};

int ht_npf_init(void)
{
	int ret = ht_hooks_arm(ht_npf_hooks, ARRAY_SIZE(ht_npf_hooks));

	if (ret == -ENOENT)
		pr_err("hyperturtle: kvm has no %s and %s to hook: is it loaded?\n", ht_npt_hook.name, ht_ept_hook.name);
	return ret;
}

void ht_npf_exit(void)
{
	ht_hooks_disarm(ht_npf_hooks, ARRAY_SIZE(ht_npf_hooks));
}
