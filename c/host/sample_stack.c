// SPDX-License-Identifier: GPL-2.0
/*
 * Walks the frame pointers of an interrupted L2, in interrupt context. Every word is read through L2's page table
 * and L1's nested table by hand, and at last through a memory slot of this VM: what lies in no slot is not read, so
 * nothing of the host's can be. Nothing is waited for, faulted in or changed (no accessed bits): a page that
 * is not there ends the walk. Reads of table entries are counted, and end it too when there are too many.
 */
#include <linux/uaccess.h>
#include "kvm_calls.h"
#include "sample_state.h"

#define HT_ENTRIES 512
#define HT_LARGE BIT_ULL(7)
/* 64 frames on two pages, all of whose tables are read for the first time, need some hundred */
#define HT_READS_MAX 512
#define HT_PAGES 8

struct ht_page_cache { u64 page[HT_PAGES]; u64 to[HT_PAGES]; };

struct ht_stack {
	struct kvm_vcpu *vcpu;
	const struct ht_l2_paging *paging;
	u64 root;		/* of L1's nested table */
	int root_level;		/* 0: L2's physical addresses are L1's */
	u64 present;		/* any of these bits in an entry of it */
	u32 reads;
	u32 end;		/* enum ht_sample_end: why a read failed */
	/* page + 1, so that zero is none */
	struct ht_page_cache l2;	/* L2 physical page -> hva */
	struct ht_page_cache va;	/* L2 virtual page -> hva */
};

static u64 *ht_cached(struct ht_page_cache *c, u64 page)
{
	return c->page[page % HT_PAGES] == page + 1 ? &c->to[page % HT_PAGES] : NULL;
}

static void ht_cache(struct ht_page_cache *c, u64 page, u64 to)
{
	c->page[page % HT_PAGES] = page + 1;
	c->to[page % HT_PAGES] = to;
}

static bool ht_read_hva(struct ht_stack *s, u64 hva, void *to, u32 bytes)
{
	if (!copy_from_user_nofault(to, (const void __user *)(unsigned long)hva, bytes))
		return true;
	s->end = HT_SAMPLE_END_MEMORY;
	return false;
}

static bool ht_l1_page(struct ht_stack *s, gfn_t gfn, u64 *hva)
{
	*hva = ht_kvm(kvm_vcpu_gfn_to_hva)(s->vcpu, gfn);
	if (!kvm_is_error_hva(*hva))
		return true;
	s->end = HT_SAMPLE_END_MEMORY;
	return false;
}

static bool ht_entry(struct ht_stack *s, u64 hva, u64 index, u64 *entry)
{
	if (++s->reads > HT_READS_MAX) {
		s->end = HT_SAMPLE_END_BUDGET;
		return false;
	}
	return ht_read_hva(s, hva + index * sizeof(u64), entry, sizeof(*entry));
}

/* The page that a leaf at this level has at an address. */
static u64 ht_leaf_page(u64 entry, u64 addr, int level)
{
	u64 mask = (1ull << (HT_PAGE_SHIFT + 9 * (level - 1))) - 1;

	return (((entry & HT_PFN_MASK) & ~mask) | (addr & mask)) >> HT_PAGE_SHIFT;
}

/* The memory behind an L2 physical page. */
static bool ht_l2_page(struct ht_stack *s, gfn_t gfn, u64 *hva)
{
	u64 addr = gfn << HT_PAGE_SHIFT, table = s->root, entry, *known = ht_cached(&s->l2, gfn);
	int level;

	if (known) {
		*hva = *known;
		return true;
	}
	for (level = s->root_level; level > 0; level--) {
		if (!ht_l1_page(s, table >> HT_PAGE_SHIFT, hva) ||
		    !ht_entry(s, *hva, (addr >> (HT_PAGE_SHIFT + 9 * (level - 1))) & (HT_ENTRIES - 1), &entry))
			return false;
		if (!(entry & s->present)) {
			s->end = HT_SAMPLE_END_MEMORY;
			return false;
		}
		if (level == 1 || (level <= 3 && (entry & HT_LARGE)))
			break;
		table = entry & HT_PFN_MASK;
	}
	if (!ht_l1_page(s, level > 0 ? ht_leaf_page(entry, addr, level) : gfn, hva))
		return false;
	ht_cache(&s->l2, gfn, *hva);
	return true;
}

/* The memory behind an L2 virtual page. */
static bool ht_va_page(struct ht_stack *s, u64 va, u64 *hva)
{
	u64 page = va >> HT_PAGE_SHIFT, table = s->paging->cr3 & HT_PFN_MASK, entry, *known = ht_cached(&s->va, page);
	int level;

	if (known) {
		*hva = *known;
		return true;
	}
	for (level = s->paging->la57 ? 5 : 4; level > 0; level--) {
		if (!ht_l2_page(s, table >> HT_PAGE_SHIFT, hva) ||
		    !ht_entry(s, *hva, (va >> (HT_PAGE_SHIFT + 9 * (level - 1))) & (HT_ENTRIES - 1), &entry))
			return false;
		if (!(entry & BIT_ULL(0))) {
			s->end = HT_SAMPLE_END_MEMORY;
			return false;
		}
		if (level == 1 || (level <= 3 && (entry & HT_LARGE)))
			break;
		table = entry & HT_PFN_MASK;
	}
	if (!ht_l2_page(s, ht_leaf_page(entry, va, level), hva))
		return false;
	ht_cache(&s->va, page, *hva);
	return true;
}

/* A naturally aligned word of L2's memory, so never across a page. */
static bool ht_word(struct ht_stack *s, u64 va, u32 bytes, u64 *word)
{
	u64 hva;

	*word = 0;
	return ht_va_page(s, va, &hva) && ht_read_hva(s, hva + (va & (HT_PAGE_SIZE - 1)), word, bytes);
}

/* Kernel addresses are negative. A stack stays on its side: what an entry to the kernel has interrupted is left out. */
static bool ht_same_side(u64 va, u64 other)
{
	return !((va ^ other) >> 63);
}

/* Where L2 handles page faults: vector 14, a gate of 16 bytes. */
static u64 ht_fault_entry(struct ht_stack *s)
{
	u64 gate = s->paging->idt + 14 * 16, low, high;

	if (gate % 8 || !ht_word(s, gate, 8, &low) || !ht_word(s, gate + 8, 8, &high) || !(low & BIT_ULL(47)))
		return 0;
	return (low & 0xffff) | (low >> 48) << 16 | high << 32;
}

/*
 * Fills ctx->ips, and ctx->entry where asked for. The caller holds kvm->srcu and has made sure that current->mm is the VM's. What L2 keeps in its
 * frame pointers is its own affair: each must lie above the one before, which bounds a ring, and depth bounds the rest.
 */
void ht_stack_walk(struct kvm_vcpu *vcpu, const struct ht_l2_paging *paging, u32 depth, bool entry,
		   struct ht_sample_ctx *ctx)
{
	struct kvm_mmu *mmu = vcpu->arch.mmu;
	struct ht_stack s = { .vcpu = vcpu, .paging = paging };
	u64 fp = ctx->regs[VCPU_REGS_RBP], sp = ctx->regs[VCPU_REGS_RSP];
	u32 word = ctx->bits == 64 ? 8 : 4, n = 1;

	ctx->ips[0] = ctx->ip;
	ctx->count = 1;
	ctx->end = HT_SAMPLE_END_DEPTH;
	if (n >= depth && !entry)
		return;
	ctx->end = HT_SAMPLE_END_MODE;
	if (!paging->long_mode || ctx->bits == 16)
		return;
	if (mmu == &vcpu->arch.guest_mmu) {
		s.root = ht_mmu_walk(mmu)->get_guest_pgd(vcpu) & HT_PFN_MASK;
		s.root_level = ht_mmu_walk(mmu)->cpu_role.base.level;
		if (s.root_level < 4 || s.root_level > 5)
			return;
	}
	s.present = boot_cpu_has(X86_FEATURE_SVM) ? BIT_ULL(0) : 7;
	ctx->root = s.root;
	if (entry)
		ctx->entry = ht_fault_entry(&s);
	s.end = n < depth ? HT_SAMPLE_END_FRAME : HT_SAMPLE_END_DEPTH;
	if (word == 4) {
		fp = (u32)fp;
		sp = (u32)sp;
	}
	while (n < depth) {
		u64 next, ret;

		if (fp < sp || fp % word || !ht_same_side(fp, ctx->ip) || fp > U64_MAX - 2 * word)
			break;
		if (!ht_word(&s, fp, word, &next) || !ht_word(&s, fp + word, word, &ret))
			break;
		if (!ret || !ht_same_side(ret, ctx->ip))
			break;
		ctx->ips[n++] = ret;
		/* the next frame lies above this one */
		sp = fp + 2 * word;
		fp = next;
		if (n == depth)
			s.end = HT_SAMPLE_END_DEPTH;
	}
	ctx->count = n;
	ctx->end = s.end;
}
