// SPDX-License-Identifier: GPL-2.0
/*
 * Which registered L2 runs on which CPU of L1, for programs in L0: published at every kvm_entry. And the reverse: the
 * grace period of some L2s, which interrupts only the CPUs that have one of them published.
 *
 * Read in Linux 6.1 and 6.12, arch/x86/kvm: x86.c vcpu_enter_guest, svm/svm.c svm_vcpu_run, vmx/vmx.c vmx_vcpu_run,
 * mmu/mmu.c kvm_init_shadow_npt_mmu, kvm_init_shadow_ept_mmu, account_shadowed; kernel/smp.c on_each_cpu_cond_mask.
 */
#include <linux/kvm_host.h>
#include <linux/mempolicy.h>
#include <linux/rcupdate.h>
#include <linux/tracepoint.h>
#include <asm/smp.h>
#include "guest.h"
#include "kmod/lookup_name.h"

/* The largest page that KVM uses here, if the processor has any; NULL: not known */
static const int *htg_kvm_max_level;
/* Whether processors have trouble with executable large pages; NULL: not known */
static const bool *htg_itlb_multihit;

/*
 * Whether KVM, as it is now, would give this VM large entries that may be written and executed: not where processors
 * have trouble with executable ones (all entries are dropped and every vCPU is kicked when that setting changes), nor
 * where types of memory may differ between pages (devices that do not snoop caches: kvm_mtrr_check_gfn_range_consistency
 * in 6.1), nor without large pages in the processor.
 */
static bool htg_large_ok(const struct kvm *kvm)
{
	return htg_kvm_max_level && htg_itlb_multihit && READ_ONCE(*htg_kvm_max_level) >= PG_LEVEL_2M &&
	       (!READ_ONCE(*htg_itlb_multihit) || kvm->arch.disable_nx_huge_pages) &&
	       !atomic_read(&kvm->arch.noncoherent_dma_count);
}

/* Whether it may get more 2 MiB frames: until it enters again a program may give some more than that. */
static bool htg_large_left(const struct htg_running *r)
{
	const struct ht_l2 *rec = READ_ONCE(r->credit.rec); /* the arena is there for a grace period more */

	return rec && READ_ONCE(rec->large_new) < READ_ONCE(r->large_most);
}

/*
 * From which pools programs on this CPU take: a byte for each slot. After the L2's number was published, with a full
 * barrier: an export that changes policies interrupts the CPUs that it sees published, and those that it does not see we
 * are on, and read what it has written.
 */
static u64 htg_publish_pools(const struct htg_arena *a, struct ht_cpu *cpu, const struct htg_running *r)
{
	union {
		u8 of_slot[HT_MAX_SLOTS];
		u64 word;
	} pools;
	u64 used = 0;
	unsigned int i, number = 0;

	BUILD_BUG_ON(sizeof(pools) != sizeof(cpu->pools));
	pools.word = READ_ONCE(*(u64 *)cpu->pools);
	for (i = 0; i < HT_MAX_SLOTS; i++) {
		if (!i || r->policy[i].mode != MPOL_DEFAULT || r->policy[i - 1].mode != MPOL_DEFAULT)
			number = htg_policy_pool(a, &r->policy[i], pools.of_slot[i]);
		pools.of_slot[i] = number;
		used |= 1ull << number;
	}
	WRITE_ONCE(*(u64 *)cpu->pools, pools.word);
	return used;
}

/*
 * Every entry into a guest: says which registered L2 runs on this CPU from now on. Interrupts are off from
 * here until the guest runs, so that anyone who answers a later interrupt has written this first. Nothing is
 * published while the vCPU is in SMM (its entries would go to roots of the other address space, which is
 * not the one whose slots we exported), runs a guest of its own, or its VM has tables shadowed (pages then are
 * write-protected one by one): those that are in the guest when the first one is are interrupted (htg_track_page() in l2.c). The root goes with the number: a hypervisor beside KVM enters guests without telling us,
 * and programs then find another root than the one that this CPU's last entry of KVM's was with. Both words are read in
 * L0 within an exit of this CPU, while it stands still, so they are always those of one entry.
 */
static void htg_kvm_entry(void *data, struct kvm_vcpu *vcpu)
{
	struct htg_arena *a;
	struct htg_running *r = NULL;
	struct ht_cpu *cpu;
	u64 number = 0, published;
	unsigned int apicid = cpu_physical_id(smp_processor_id());

	rcu_read_lock();
	a = rcu_dereference(htg_arena);
	if (!a || apicid >= HT_MAX_CPUS || !htg_l2_is_known())
		goto out;
	if (!(vcpu->arch.hflags & (HF_SMM_MASK | HF_GUEST_MASK)) &&
	    !READ_ONCE(vcpu->kvm->arch.indirect_shadow_pages)) {
		r = htg_l2_running(vcpu->kvm);
		if (r) {
			number = r->number;
			htg_credit_poke(&r->credit);
		}
	}
	cpu = &a->cpus[apicid];
	published = number && a->large_pool && htg_large_ok(vcpu->kvm) && htg_large_left(r) ? number | HT_CPU_LARGE : number;
	/*
	 * What the hardware is given from here on, without flags: kvm_mmu_reload() has seen to a valid root, and a root is
	 * loaded (svm_load_mmu_pgd, vmx_load_mmu_pgd) before interrupts go off; one that another CPU invalidates now makes
	 * a request that is seen at the next entry, and this vCPU runs with the old one until then.
	 */
	if (number)
		WRITE_ONCE(cpu->root, vcpu->arch.mmu->root.hpa & HT_PFN_MASK);
	if (READ_ONCE(cpu->l2) != published) {
		WRITE_ONCE(cpu->l2, published);
		smp_mb(); /* before a program reads states and words; pairs with that in htg_grace_l2s() */
		/* the same for the count of shadowed tables: who made it other than 0 has looked for our number, or we see it */
		if (number && READ_ONCE(vcpu->kvm->arch.indirect_shadow_pages)) {
			WRITE_ONCE(cpu->l2, 0);
			number = 0;
		}
	}
	if (number)
		htg_pool_poke(a, a->pools > 1 ? htg_publish_pools(a, cpu, r) : HTG_ALL_POOLS);
	htg_exit_entry(a, apicid, vcpu, number);
out:
	rcu_read_unlock();
}

extern struct tracepoint __tracepoint_kvm_entry;

struct htg_kick {
	const struct htg_arena *a;
	const unsigned long *l2s;
};

/* The word may be anything that a program of this L1's has left there: only compared. */
static bool htg_kick_wanted(int cpu, void *info)
{
	const struct htg_kick *k = info;
	unsigned int apicid = cpu_physical_id(cpu);
	u64 number;

	if (apicid >= HT_MAX_CPUS) /* publishes nothing */
		return false;
	number = READ_ONCE(k->a->cpus[apicid].l2) & HT_CPU_NUMBER;
	return number && number < HT_MAX_L2 && test_bit(number, k->l2s);
}

/*
 * In an interrupt no guest runs on this CPU, and kvm_entry publishes again before one does (with interrupts off, so it
 * is not us who interrupt it there). Cleared, the word spares a CPU that has long left the guest the next interrupt.
 */
static void htg_kicked(void *info)
{
	const struct htg_kick *k = info;

	WRITE_ONCE(k->a->cpus[cpu_physical_id(smp_processor_id())].l2, 0);
	atomic64_inc(&htg_count.interrupted);
}

/*
 * The grace period of the L2s whose bits are set. What the caller wrote before (a state, words) every program for one
 * of them has seen that still runs when we return. For a CPU of L1, one of these is so:
 * - we read the number of one of them: it is interrupted, and answers only when L1 runs there again, so after the
 *   program, which runs within an exit of that CPU;
 * - we read another number, or none, that was written after it had one of them: kvm_entry or htg_kicked() ran there,
 *   so L1 did, so the program was over;
 * - it writes such a number only after we have read: then a program there reads what the caller wrote, as on both
 *   sides a full barrier lies between writing and reading.
 * A CPU that is going offline has left guests before it is taken out of cpu_online_mask (KVM's hotplug callback).
 * Sleeps not, so may be called with spinlocks held that nobody takes with interrupts off; these must be on.
 */
void htg_grace_l2s(const unsigned long *l2s)
{
	struct htg_kick k = { .l2s = l2s };

	if (bitmap_empty(l2s, HT_MAX_L2))
		return;
	smp_mb(); /* pairs with that in htg_kvm_entry() */
	rcu_read_lock();
	k.a = rcu_dereference(htg_arena); /* NULL: htg_remove() has waited for all programs since they last ran */
	if (k.a)
		on_each_cpu_cond(htg_kick_wanted, htg_kicked, &k, true);
	rcu_read_unlock();
	atomic64_inc(&htg_count.grace_periods);
}

int htg_entry_init(void)
{
	htg_kvm_max_level = ht_lookup_variable("max_huge_page_level");
	htg_itlb_multihit = ht_lookup_variable("itlb_multihit_kvm_mitigation");
	return tracepoint_probe_register(&__tracepoint_kvm_entry, htg_kvm_entry, NULL);
}

void htg_entry_exit(void)
{
	tracepoint_probe_unregister(&__tracepoint_kvm_entry, htg_kvm_entry, NULL);
	tracepoint_synchronize_unregister();
}
