// SPDX-License-Identifier: GPL-2.0
/*
 * Entries of the nested page table that KVM in this L1 made for L2 (AMD's format). Leaves that are emptied stay so: KVM
 * fills them at the next fault. Others are overwritten for the time that L2 runs, and put back before KVM looks at them:
 * it believes its own tables, and would end this machine at once, with nothing learned about L0. What L0 wrote meanwhile
 * is taken out again for the same reason: KVM stops the machine when it finds another frame than its own where it wants
 * to write an entry.
 *
 * Callers hold htf_lock.
 */
#include <linux/pfn.h>
#include "fuzz.h"

#define NPT_PRESENT BIT_ULL(0)
#define NPT_AD (BIT_ULL(5) | BIT_ULL(6)) /* which L0 sets */
#define NPT_LARGE BIT_ULL(7)
#define NPT_KVM BIT_ULL(11)	/* in every entry that KVM holds to be present (SPTE_MMU_PRESENT_MASK) */
#define NPT_RESERVED (HT_PFN_MASK & ~((1ull << 40) - 1)) /* address bits that no emulated CPU has, most of them */
#define HTF_SAVED 64
#define HTF_ZAP_RUN 8
#define HTF_TABLES 48		/* of one L2: its memory, slots that come and go, the APIC's page */

static struct htf_saved {
	u64 *entry;	/* its page is referenced: KVM may have freed the table meanwhile */
	u64 old;
} htf_saved[HTF_SAVED];
static unsigned int htf_saved_n;
static struct kvm_vcpu *htf_saved_vcpu;

/* All tables below the root, as they were when L2 was entered; their pages are referenced as well. */
static struct htf_table {
	u64 *entries;
	u64 was[HT_LARGE_PAGES];
} htf_tables[HTF_TABLES];
static unsigned int htf_tables_n;

static bool htf_empty(u64 value)
{
	return !value || value == BIT_ULL(63);	/* the latter on newer kernels */
}

void htf_npt_restore(struct kvm_vcpu *vcpu)
{
	int i;

	if (vcpu && vcpu != htf_saved_vcpu)
		return;
	while (htf_saved_n) {
		struct htf_saved *s = &htf_saved[--htf_saved_n];

		WRITE_ONCE(*s->entry, s->old);
		put_page(virt_to_page(s->entry));
	}
	/*
	 * L0 writes into empty entries only, so these are its answers, right or wrong: L2 gets no further by them than to its
	 * next exit. What has become empty is KVM's work, on another CPU, and stays.
	 */
	while (htf_tables_n) {
		struct htf_table *t = &htf_tables[--htf_tables_n];

		for (i = 0; i < HT_LARGE_PAGES; i++)
			if (htf_empty(t->was[i]) && !htf_empty(READ_ONCE(t->entries[i])))
				WRITE_ONCE(t->entries[i], t->was[i]);
		put_page(virt_to_page(t->entries));
	}
	htf_saved_vcpu = NULL;
}

static void htf_remember_table(hpa_t table, int level)
{
	unsigned long pfn = PHYS_PFN(table & HT_PFN_MASK);
	struct htf_table *t;
	int i;

	if (!pfn_valid(pfn) || htf_tables_n == HTF_TABLES)
		return;
	t = &htf_tables[htf_tables_n++];
	t->entries = pfn_to_kaddr(pfn);
	get_page(virt_to_page(t->entries));
	for (i = 0; i < HT_LARGE_PAGES; i++) {
		t->was[i] = READ_ONCE(t->entries[i]);
		if (level > 1 && (t->was[i] & NPT_PRESENT) && !(t->was[i] & NPT_LARGE))
			htf_remember_table(t->was[i], level - 1); /* five levels at most */
	}
}

void htf_npt_remember(struct kvm_vcpu *vcpu)
{
	htf_saved_vcpu = vcpu;
	if (VALID_PAGE(vcpu->arch.mmu->root.hpa))
		htf_remember_table(vcpu->arch.mmu->root.hpa, vcpu->arch.mmu->root_role.level);
}

static bool htf_save(u64 *entry, u64 new)
{
	if (htf_saved_n == HTF_SAVED)
		return false;
	get_page(virt_to_page(entry));
	htf_saved[htf_saved_n++] = (struct htf_saved){ .entry = entry, .old = READ_ONCE(*entry) };
	WRITE_ONCE(*entry, new);
	return true;
}

/* The entry of gfn at `stop`, or NULL where there is no table: it is never made up. */
static u64 *htf_walk(struct kvm_vcpu *vcpu, gfn_t gfn, int stop)
{
	int level = vcpu->arch.mmu->root_role.level;
	hpa_t table = vcpu->arch.mmu->root.hpa;

	if (level < 4 || level > 5 || !VALID_PAGE(table))
		return NULL;
	for (;; level--) {
		unsigned long pfn = PHYS_PFN(table & HT_PFN_MASK);
		u64 *entry, value;

		if (!pfn_valid(pfn))
			return NULL;
		entry = (u64 *)pfn_to_kaddr(pfn) + ((gfn >> (9 * (level - 1))) & 511);
		if (level == stop)
			return entry;
		value = READ_ONCE(*entry);
		if (!(value & NPT_PRESENT) || (value & NPT_LARGE))
			return NULL;
		table = value;
	}
}

static u64 htf_bad_entry(struct htf_random *r, u64 *entry, u64 old)
{
	u64 flags = old & ~HT_PFN_MASK;

	switch (htf_below(r, 12)) {
	case 0:
		return 0;
	case 1:
		return BIT_ULL(63);		/* empty as well, on newer kernels */
	case 2:
		return htf_next(r);
	case 3:
		/* flags, and address bits above this L1's memory: L2 must not get any page of its kernel */
		return old ^ BIT_ULL((32 + htf_below(r, 44)) & 63);
	case 4:
		return old | NPT_LARGE;
	case 5:
		return old | (htf_next(r) & NPT_RESERVED) | NPT_PRESENT;
	case 6:
		return flags | NPT_PRESENT | htf_frame(r);
	case 7:
	case 8:
		return flags | NPT_PRESENT | htf_bad_frame(r);
	case 9:
		return 0x5a0;			/* as KVM marks what it is removing */
	case 10:
		return (htf_next(r) & ~NPT_PRESENT) | BIT_ULL(51); /* not present, as KVM marks MMIO */
	default:
		/* L2 gets the very table: seldom, as it ends this L1 */
		return htf_below(r, 2048) ? old & ~BIT_ULL(1) : 
		       flags | NPT_PRESENT | virt_to_phys((void *)((unsigned long)entry & PAGE_MASK));
	}
}

static bool htf_is_saved(u64 *entry)
{
	unsigned int i;

	for (i = 0; i < htf_saved_n; i++)
		if (htf_saved[i].entry == entry)
			return true;
	return false;
}

/* It is empty from now on. */
static void htf_forget(u64 *entry)
{
	unsigned int i;

	for (i = 0; i < htf_tables_n; i++)
		if (((unsigned long)entry & PAGE_MASK) == (unsigned long)htf_tables[i].entries)
			htf_tables[i].was[offset_in_page(entry) / sizeof(u64)] = 0;
}

static bool htf_zap(struct htf_random *r, struct kvm_vcpu *vcpu)
{
	gfn_t gfn = htf_first_gfn + (htf_below(r, htf_pages) & ~(HTF_ZAP_RUN - 1ull));
	u64 *entry = htf_walk(vcpu, gfn, 1);
	bool some = false;
	int i;

	for (i = 0; entry && i < HTF_ZAP_RUN; i++) {
		u64 old = READ_ONCE(entry[i]);

		/* one that was overwritten for this entry of L2 is put back at its exit, and is not KVM's to empty */
		if (!(old & NPT_PRESENT) || htf_is_saved(&entry[i]))
			continue;
		if (old & BIT_ULL(1))
			htf_arena_template(old & ~HT_PFN_MASK);
		WRITE_ONCE(entry[i], 0);
		htf_forget(&entry[i]);
		some = true;
	}
	return some;
}

bool htf_npt_op(struct htf_random *r, enum htf_kind kind, struct kvm_vcpu *vcpu)
{
	gfn_t gfn = htf_first_gfn + htf_below(r, htf_pages);
	int level = 1;
	u64 *entry;

	if (kind == HTF_ZAP)
		return htf_zap(r, vcpu);
	if (kind == HTF_UPPER)
		level = htf_below(r, 8) ? 2 : 2 + htf_below(r, vcpu->arch.mmu->root_role.level - 1);
	entry = htf_walk(vcpu, gfn, level);
	return entry && htf_save(entry, htf_bad_entry(r, entry, READ_ONCE(*entry)));
}
