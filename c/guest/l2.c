// SPDX-License-Identifier: GPL-2.0
/*
 * Registered L2s: which RAM each has (KVM's memory slots that turtlefs files back). Programs in L0 see it in
 * the arena, beside which of them runs on which CPU now (entry.c). We follow KVM by hooking, by name, its
 * functions that change slots and destroy VMs; the address space by an MMU notifier and by turtlefs' mmap and
 * mprotect.
 *
 * Turning an L2 off: state OFF, then a grace period; from then on no program acts for it. That comes before
 * any change of what programs have been told, and needs no lock. Who turns it off for a while queues `again`,
 * which waits for kvm->slots_lock, so for the end of a slot change whether that succeeds or fails, and for
 * mmap_lock, so for the end of mprotect() and the like, and then exports what KVM and the address space say.
 * Exports happen under kvm->slots_lock only: none comes between two steps of one slot change.
 *
 * Lock order: kvm->slots_lock, kvm->slots_arch_lock, mmap_lock, htg_lock, htg_file.sem. What the kernel calls under
 * mmap_lock (MMU notifier, mmap, mprotect) takes only htg_l2.ranges_lock.
 *
 * htg_lock is everybody's, so who holds it waits for no VMM. A fault of turtlefs may sleep for seconds with mmap_lock of its
 * VMM: above memory.high, or until the OOM killer's victim is gone, which may be another VMM that waits for htg_lock in its
 * htg_mn_release(). So an export takes mmap_lock first: then only this VM's slot changes and its registration wait for its
 * faults, with its own slots_lock. Under htg_lock memory is charged with GFP_NOWAIT only (account.c), no flag of a mapping
 * is changed (which waits for faults that hold that mapping alone), and htg_file.sem is waited for, which nobody holds
 * while he charges. What is allocated under htg_lock is charged to no cgroup.
 */
#include <linux/anon_inodes.h>
#include <linux/cc_platform.h>
#include <linux/context_tracking_state.h>
#include <linux/file.h>
#include <linux/hashtable.h>
#include <linux/idr.h>
#include <linux/mmu_notifier.h>
#include <linux/poll.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>
#include <asm/smp.h>
#include "guest.h"
#include "kvm_calls.h"
#include "kmod/direct_hook.h"

/* kernel.ftrace_enabled, if its name is known */
static const int *htg_ftrace_enabled;

/* Guest frames below 1 MiB have legacy holes: L1 handles them (c/host/npf.c) */
#define HTG_LOW_GFN 256ull

struct htg_range {
	struct file *file;	/* held: the file does not go away, nor do its words while exported */
	unsigned long start, end; /* in the address space of the VMM */
	unsigned long pgoff;	/* of start */
	const u64 *words;	/* of its pages; NULL: not exported, and only counted */
};

static u64 htg_range_pages(const struct htg_range *r)
{
	return (r->end - r->start) >> PAGE_SHIFT;
}

/* Besides those that are exported, of which the arena has room for so many, as many that must fault. */
#define HTG_RANGES (2 * HT_MAX_SLOTS)

struct htg_l2 {
	struct hlist_node node;	/* in htg_l2s until its VM or address space is gone */
	struct kvm *kvm;	/* compared only; valid while hashed */
	struct mm_struct *mm;
	struct mmu_notifier mn;
	struct htg_running running;
	u64 frames_limit, group_max;
	struct htg_account *account; /* of the VMM's memory */
	struct htg_purse purse;	/* under htg_lock */
	u64 pages_left_out, left_out; /* of the last export; under htg_lock */
	unsigned long words_missing; /* of the smallest file that had no room in the index then */
	/* what looks at its 2 MiB frames have found; under htg_lock: in all, in this round, and lately */
	struct htg_found found, round, lately;
	bool small;		/* it gets none for a while: too little of them was used */
	unsigned long small_until, small_for; /* jiffies */
	u64 small_times;
	char name[32];
	struct ht_l2 *rec;	/* in the arena; NULL when dead; written under htg_lock */
	bool dead;		/* its VM, its address space or the arena is gone */
	bool stale;		/* what is exported is to be looked at again; set by anybody, cleared by an export */
	struct work_struct again;
	u64 slot_changes;
	struct htg_l2_status last; /* what programs did, once dead */
	spinlock_t ranges_lock;
	unsigned int nranges, nslots; /* nslots of them are exported */
	struct htg_range ranges[HTG_RANGES];
	wait_queue_head_t wait;
};

static DEFINE_HASHTABLE(htg_l2s, 6);	/* readers: RCU; writers: htg_lock */
static DEFINE_IDA(htg_l2_ida);
static atomic_t htg_l2_n;

u64 htg_l2_count(void)
{
	return atomic_read(&htg_l2_n);
}

static struct htg_l2 *htg_l2_find(struct kvm *kvm)
{
	struct htg_l2 *l2;

	hash_for_each_possible_rcu(htg_l2s, l2, node, (unsigned long)kvm, lockdep_is_held(&htg_lock))
		if (l2->kvm == kvm)
			return l2;
	return NULL;
}

struct htg_running *htg_l2_running(struct kvm *kvm)
{
	struct htg_l2 *l2 = htg_l2_find(kvm);

	return l2 ? &l2->running : NULL;
}

/*
 * For the hooks: the L2 that is this VM, with htg_lock held, or NULL without it. VMs that nobody registered
 * cost no lock. Registration holds kvm->slots_lock, so it does not come between two calls for one slot change.
 */
static struct htg_l2 *htg_l2_lock(struct kvm *kvm)
{
	struct htg_l2 *l2;

	rcu_read_lock();
	l2 = htg_l2_find(kvm);
	rcu_read_unlock();
	if (!l2)
		return NULL;
	mutex_lock(&htg_lock);
	l2 = htg_l2_find(kvm);
	if (!l2)
		mutex_unlock(&htg_lock);
	return l2;
}

/*
 * After this no program acts for the L2. Lock-free; interrupts on. One that is off already waits too: anyone who
 * turned it off may not have seen the end of its grace period yet.
 */
static void htg_l2_off(struct htg_l2 *l2)
{
	DECLARE_BITMAP(this, HT_MAX_L2) = {};
	struct ht_l2 *rec;

	rcu_read_lock();	/* the arena is unmapped a grace period after rec is cleared */
	rec = READ_ONCE(l2->rec);
	if (rec)
		xchg(&rec->state, HT_L2_OFF);
	rcu_read_unlock();
	__set_bit(l2->running.number, this);
	if (rec)
		htg_grace_l2s(this);
}

/* Exports again when those who hold slots_lock and mmap_lock now are done. Lock-free. */
static void htg_l2_look_again(struct htg_l2 *l2)
{
	WRITE_ONCE(l2->stale, true);
	schedule_work(&l2->again);
}

/* Off, until what happens now is over. The L2 is hashed, or its MMU notifier registered. Lock-free as htg_l2_off(). */
static void htg_l2_pause(struct htg_l2 *l2)
{
	htg_l2_off(l2);
	htg_l2_look_again(l2);
}

/*
 * The index has more room than before: a file may have a place now that had none. To look again turns an L2 off for a
 * moment, so not for what is still too little. Caller holds htg_lock.
 */
void htg_l2_index_freed(void)
{
	struct htg_l2 *l2;
	int bkt;

	hash_for_each(htg_l2s, bkt, l2, node)
		if ((l2->left_out & HTG_LEFT_OUT_INDEX) && htg_index_has_room(l2->words_missing))
			htg_l2_look_again(l2);
}

/* A turtlefs mapping of this address space has come. Lock-free. */
void htg_l2_mapped(struct mm_struct *mm)
{
	struct htg_l2 *l2;
	int bkt;

	rcu_read_lock();
	hash_for_each_rcu(htg_l2s, bkt, l2, node)
		if (l2->mm == mm)
			htg_l2_look_again(l2);
	rcu_read_unlock();
}

/* A turtlefs mapping of this address space is about to get other protections. Caller holds mmap_lock for writing. */
void htg_l2_protecting(struct mm_struct *mm)
{
	struct htg_l2 *l2;
	int bkt;

	rcu_read_lock();
	hash_for_each_rcu(htg_l2s, bkt, l2, node)
		if (l2->mm == mm)
			htg_l2_pause(l2);
	rcu_read_unlock();
}

/* Off, and nothing of it exported any more. Caller holds htg_lock. */
static void htg_l2_unexport(struct htg_l2 *l2)
{
	unsigned int i, n;

	htg_l2_off(l2);
	spin_lock(&l2->ranges_lock);
	n = l2->nranges; /* what is in them stays: only exports write there, under htg_lock */
	l2->nranges = l2->nslots = 0;
	spin_unlock(&l2->ranges_lock);
	if (l2->rec)
		l2->rec->slot_count = 0;
	smp_mb(); /* anyone who sees the bit gone sees what programs have done */
	for (i = 0; i < n; i++) {
		struct htg_file *f = htg_file_of(l2->ranges[i].file);

		if (l2->ranges[i].words) {
			clear_bit(l2->running.number, f->l2s);
			f->exports--;
		}
		fput(l2->ranges[i].file);
	}
}

/*
 * Whether KVM allows large pages within all of [gfn, gfn + n): it does not where addresses of guest and VMM do not lie
 * alike, and where pages are tracked. Of 2 MiB that belong to the range in part nobody asks.
 */
static bool htg_slot_large(const struct kvm_memory_slot *ms, u64 gfn, unsigned long n)
{
	const struct kvm_lpage_info *info = ms->arch.lpage_info[0];
	u64 i, first = ms->base_gfn >> HTG_LARGE_ORDER;

	for (i = DIV_ROUND_UP_ULL(gfn, HTG_GRANULE); i < (gfn + n) >> HTG_LARGE_ORDER; i++)
		if (READ_ONCE(info[i - first].disallow_lpage))
			return false;
	return true;
}

/* A mapping of a turtlefs file, and not of a copy of it. */
static bool htg_vma_shared(const struct vm_area_struct *vma)
{
	return vma->vm_file && htg_file_of(vma->vm_file) && (vma->vm_flags & VM_SHARED);
}

/* L2 may write into it without asking anybody, as far as slot and VMM are concerned. */
static bool htg_piece_open(const struct kvm_memory_slot *ms, const struct vm_area_struct *vma)
{
	return htg_vma_shared(vma) && (vma->vm_flags & VM_WRITE) && !(ms->flags & KVM_MEM_LOG_DIRTY_PAGES);
}

/*
 * Whether nobody asks which pages of it are written. clear_refs takes VM_SOFTDIRTY from mappings, after which only faults of
 * the VMM and of L1's KVM count: such a mapping is exported when it has the flag back (htg_mark_written()).
 */
static bool htg_vma_unwatched(const struct vm_area_struct *vma)
{
	return (vma->vm_flags & VM_SOFTDIRTY) == VM_SOFTDIRTY; /* 0 where kernels do not have that */
}

typedef void (*htg_piece_fn)(struct htg_l2 *l2, const struct kvm_memory_slot *ms, struct vm_area_struct *vma, u64 gfn,
			     unsigned long start, unsigned long end);

/*
 * Calls fn for each piece of a memory slot that lies in one mapping. Slots are left out that are read-only, about to go, or
 * without memory of the VMM's; those that are dirty-logged are not, but must fault as well (htg_piece_open()). Caller holds
 * kvm->slots_lock and mmap_lock.
 */
static void htg_l2_pieces(struct htg_l2 *l2, htg_piece_fn fn)
{
	struct kvm_memory_slot *ms;
	int bkt, idx;

	lockdep_assert_held(&l2->kvm->slots_lock);
	lockdep_assert_held(&l2->mm->mmap_lock); /* mmap_assert_locked() is not for modules where DEBUG_VM is on */
	idx = srcu_read_lock(&l2->kvm->srcu);
	kvm_for_each_memslot(ms, bkt, __kvm_memslots(l2->kvm, 0)) {
		u64 gfn = max_t(u64, ms->base_gfn, HTG_LOW_GFN), end = ms->base_gfn + ms->npages;
		unsigned long addr, stop;
		struct vm_area_struct *vma;

		if (gfn >= end || ht_memslot_is_gmem(ms) ||
		    (ms->flags & (KVM_MEM_READONLY | KVM_MEMSLOT_INVALID)))
			continue;
		addr = ms->userspace_addr + ((gfn - ms->base_gfn) << PAGE_SHIFT);
		stop = ms->userspace_addr + (ms->npages << PAGE_SHIFT);
		while (addr < stop && (vma = find_vma(l2->mm, addr)) && vma->vm_start < stop) {
			unsigned long from = max(addr, vma->vm_start), to = min(stop, vma->vm_end);

			fn(l2, ms, vma, gfn + ((from - addr) >> PAGE_SHIFT), from, to);
			gfn += (to - addr) >> PAGE_SHIFT;
			addr = to;
		}
	}
	srcu_read_unlock(&l2->kvm->srcu, idx);
}

/*
 * pagemap says of all its pages that they may have been written, from now on. Caller holds mmap_lock for writing, and not
 * htg_lock.
 */
static void htg_mark_written(struct htg_l2 *l2, const struct kvm_memory_slot *ms, struct vm_area_struct *vma, u64 gfn,
			     unsigned long start, unsigned long end)
{
	if (htg_piece_open(ms, vma) && !htg_vma_unwatched(vma))
		ht_vm_flags_set(vma, VM_SOFTDIRTY);
}

/* `words`: it is exported. Caller holds htg_lock, and the file through its mapping. */
static void htg_l2_add_range(struct htg_l2 *l2, const struct vm_area_struct *vma, unsigned long start, unsigned long n,
			     const u64 *words)
{
	if (!words && l2->nranges - l2->nslots == HTG_RANGES - HT_MAX_SLOTS)
		return;
	spin_lock(&l2->ranges_lock);
	l2->ranges[l2->nranges++] = (struct htg_range){
		.file = get_file(vma->vm_file), .start = start, .end = start + (n << PAGE_SHIFT),
		.pgoff = vma->vm_pgoff + ((start - vma->vm_start) >> PAGE_SHIFT), .words = words,
	};
	l2->nslots += !!words;
	spin_unlock(&l2->ranges_lock);
}

/* One piece of a memory slot. Caller holds kvm->slots_lock, mmap_lock and htg_lock. */
static void htg_l2_export_range(struct htg_l2 *l2, const struct kvm_memory_slot *ms, struct vm_area_struct *vma,
				u64 gfn, unsigned long start, unsigned long end)
{
	struct htg_arena *a = rcu_dereference_protected(htg_arena, lockdep_is_held(&htg_lock));
	unsigned long pgoff = vma->vm_pgoff + ((start - vma->vm_start) >> PAGE_SHIFT);
	unsigned long n = (end - start) >> PAGE_SHIFT;
	struct ht_slot *slot;
	struct htg_file *f;
	u32 why;

	if (!htg_vma_shared(vma))
		return;
	if (!htg_piece_open(ms, vma) || l2->nslots == HT_MAX_SLOTS) {
		htg_l2_add_range(l2, vma, start, n, NULL);
		return;
	}
	if (!htg_vma_unwatched(vma)) {
		htg_l2_add_range(l2, vma, start, n, NULL);
		htg_l2_look_again(l2);
		return;
	}
	f = htg_file_of(vma->vm_file);
	htg_file_small(f, l2->small);
	why = htg_file_charge_to(f, l2->account, &l2->purse);
	if (!why && !htg_file_enter_arena(f)) {
		why = HTG_LEFT_OUT_INDEX;
		l2->words_missing = min(l2->words_missing, f->n);
	}
	if (why) { /* what L1 hands out is charged as before */
		l2->left_out |= why;
		l2->pages_left_out += n;
		htg_l2_add_range(l2, vma, start, n, NULL);
		return;
	}
	down_read(&f->sem);
	if (pgoff < f->n) {
		n = min(n, f->n - pgoff);
		slot = &l2->rec->slots[l2->nslots];
		slot->gfn = gfn;
		slot->npages = n;
		slot->word_off = (u64)((void *)&f->words[pgoff] - a->va);
		slot->small = !htg_slot_large(ms, gfn, n);
		l2->running.policy[l2->nslots] = htg_policy_of(vma);
		f->exports++;
		set_bit(l2->running.number, f->l2s); /* before it is on; who takes pages away holds f->sem for writing */
		htg_l2_add_range(l2, vma, start, n, &f->words[pgoff]);
	}
	up_read(&f->sem);
}

/*
 * Tells programs the L2's RAM as KVM has it now. Caller holds kvm->slots_lock, mmap_lock, so that no mapping changes until
 * programs may act on what we read, and htg_lock.
 */
static void htg_l2_export(struct htg_l2 *l2)
{
	if (l2->dead || !l2->rec)
		return;
	WRITE_ONCE(l2->stale, false); /* before we look: what changes from now on sets it again */
	htg_l2_unexport(l2);
	l2->left_out = l2->pages_left_out = 0;
	l2->words_missing = ULONG_MAX;
	l2->purse.missing = 0;
	l2->rec->template = 0;	/* learned again: what L1's KVM puts in a leaf may have changed with the slots */
	htg_l2_pieces(l2, htg_l2_export_range);
	if (htg_pool_count > 1)
		htg_l2_off(l2); /* again: CPUs that publish it already do that once more, by the policies as they are now */
	if (l2->nslots) {
		WRITE_ONCE(l2->rec->slot_count, l2->nslots);
		smp_store_release(&l2->rec->state, HT_L2_ON);
	}
	htg_l2_recount_soon(); /* the VMM's mappings may have changed */
	htg_account_uncharge(l2->account, l2->purse.charged);
	l2->purse.charged = 0;
}

/* The same where nothing may be reclaimed: the work does that. */
static void htg_l2_export_now(struct htg_l2 *l2)
{
	htg_l2_export(l2);
	if (l2->purse.missing)
		htg_l2_look_again(l2);
}

/* Exports if that is due. Caller holds no lock. Returns frames for which the cgroup had no room without waiting. */
static u64 htg_l2_export_again(struct htg_l2 *l2, struct kvm *kvm)
{
	u64 missing = 0;

	mutex_lock(&kvm->slots_lock);
	if (READ_ONCE(l2->stale)) { /* else the one that sets it queues us once more */
		mmap_write_lock(l2->mm);
		htg_l2_pieces(l2, htg_mark_written);
		mmap_write_downgrade(l2->mm); /* nobody else can have it for writing in between */
		mutex_lock(&htg_lock);
		if (READ_ONCE(l2->stale)) {
			htg_l2_export(l2);
			missing = l2->dead ? 0 : l2->purse.missing;
		}
		mutex_unlock(&htg_lock);
		mmap_read_unlock(l2->mm);
	}
	mutex_unlock(&kvm->slots_lock);
	return missing;
}

/*
 * What turned the L2 off for a while may be over: see. The VM is kept, as slots_lock is in it; if we are its last
 * user it ends here, as it does in KVM's own works. A file that comes with frames is paid for here, without locks and
 * without the OOM killer; if there is no room it stays left out until slots change again, and the status says so.
 */
static void htg_l2_again(struct work_struct *work)
{
	struct htg_l2 *l2 = container_of(work, struct htg_l2, again);
	struct kvm *kvm = NULL;
	u64 missing;

	mutex_lock(&htg_lock);
	if (!l2->dead && htg_kvm(kvm_get_kvm_safe)(l2->kvm)) /* it is memory until htg_destroy_vm() has made us dead */
		kvm = l2->kvm;
	mutex_unlock(&htg_lock);
	if (!kvm)
		return;
	if (mmget_not_zero(l2->mm)) {
		missing = htg_l2_export_again(l2, kvm);
		if (missing && !htg_account_charge(l2->account, missing, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN)) {
			mutex_lock(&htg_lock);
			l2->purse.charged += missing;
			WRITE_ONCE(l2->stale, true);
			mutex_unlock(&htg_lock);
			htg_l2_export_again(l2, kvm);
		}
		mmput(l2->mm);
	}
	htg_kvm(kvm_put_kvm)(kvm);
}

/* Frames of the RAM that is exported now. Caller holds htg_lock, as for all of ranges. */
static void htg_l2_pages(const struct htg_l2 *l2, struct htg_l2_status *st)
{
	struct htg_arena *a = rcu_dereference_protected(htg_arena, lockdep_is_held(&htg_lock));
	unsigned int i;
	u64 k;

	st->pages_held = 0;
	st->pages_unused = 0;
	for (i = 0; a && i < l2->nranges; i++) {
		const u64 *words = l2->ranges[i].words;
		u64 n = htg_range_pages(&l2->ranges[i]);

		for (k = 0; words && k < n; k++) {
			u64 word = READ_ONCE(words[k]);

			if (!(k % (64 * HTG_GRANULE)))
				cond_resched();
			st->pages_held += !!(word & HT_WORD_PRESENT);
			st->pages_unused += (word & (HT_WORD_PRESENT | HT_WORD_AHEAD)) ==
					    (HT_WORD_PRESENT | HT_WORD_AHEAD);
		}
	}
}

/*
 * Frames of its RAM that is not exported, as slots are dirty-logged, mappings protected or the index full: programs gave
 * some of them when it was, in this arena or another. Such a file may grow, and then its words move, so f->sem. Caller
 * holds htg_lock.
 */
static u64 htg_l2_pages_logged(const struct htg_l2 *l2)
{
	unsigned int i;
	u64 held = 0;

	for (i = 0; i < l2->nranges; i++) {
		const struct htg_range *r = &l2->ranges[i];
		struct htg_file *f = htg_file_of(r->file);
		u64 k, end = r->pgoff + htg_range_pages(r);

		if (r->words)
			continue;
		down_read(&f->sem);
		for (k = r->pgoff; k < min_t(u64, end, f->n); k++) {
			if (!(k % (64 * HTG_GRANULE)))
				cond_resched();
			held += !!(READ_ONCE(f->words[k]) & HT_WORD_PRESENT);
		}
		up_read(&f->sem);
	}
	return held;
}

static unsigned long htg_recount_took; /* jiffies */

/* What the VMM's count of resident pages should say. Holds htg_lock for about a millisecond for each GiB of guests. */
static void htg_l2_recount(struct work_struct *work)
{
	struct htg_l2_status st;
	unsigned long began = jiffies;
	struct htg_l2 *l2;
	u64 taken;
	int bkt;

	mutex_lock(&htg_lock);
	hash_for_each(htg_l2s, bkt, l2, node) {
		taken = READ_ONCE(l2->rec->frames_taken); /* first: what is taken meanwhile counts twice, until next time */
		htg_l2_pages(l2, &st);
		htg_credit_recount(&l2->running.credit, st.pages_held + htg_l2_pages_logged(l2), taken);
	}
	mutex_unlock(&htg_lock);
	WRITE_ONCE(htg_recount_took, jiffies - began);
}

static DECLARE_DELAYED_WORK(htg_recount_work, htg_l2_recount);

/* After two seconds, or more with so many words that it would be more than a hundredth of a CPU's time. */
void htg_l2_recount_soon(void)
{
	if (!delayed_work_pending(&htg_recount_work))
		schedule_delayed_work(&htg_recount_work, 2 * HZ + 100 * READ_ONCE(htg_recount_took));
	htg_l2_look_soon();
}

/*
 * --- 2 MiB frames of which little is used ---
 *
 * turtlefs looks at each once (htg_look_at()), between one and two ticks after it was given, and gives back what nobody uses.
 * An L2 that uses less than half of what it was given so, lately, gets none for a while, twice as long each time: making
 * and judging them was in vain, and what it has at a moment is more than it uses. Only where nobody has asked for a number
 * of 2 MiB frames. For an L2 that is new and has touched much, a bound on what may lie there before that is HTG_LARGE_AHEAD.
 */
#define HTG_LOOK_TICK (5 * HZ)
#define HTG_LARGE_AHEAD 256ull	/* 512 MiB, and as much again as it has been seen to use */
#define HTG_SMALL_FIRST (60 * HZ)
#define HTG_SMALL_MOST (16 * HTG_SMALL_FIRST)

static void htg_l2_set_small(struct htg_l2 *l2, bool small)
{
	unsigned int i;

	l2->small = small;
	for (i = 0; i < l2->nranges; i++)
		if (l2->ranges[i].words)
			htg_file_small(htg_file_of(l2->ranges[i].file), small);
}

/* The file and pages of an exported range. */
static struct htg_file *htg_range_file(const struct htg_range *r, unsigned long *first, unsigned long *last)
{
	*first = r->pgoff;
	*last = r->pgoff + htg_range_pages(r);
	return htg_file_of(r->file);
}

/* A tick has passed. Caller holds htg_lock. Returns whether to come again for this L2. */
static bool htg_l2_age(struct htg_l2 *l2)
{
	unsigned long first, last;
	unsigned int i;
	u64 later = 0;

	for (i = 0; i < l2->nranges; i++) {
		struct htg_file *f = htg_range_file(&l2->ranges[i], &first, &last);

		if (l2->ranges[i].words)
			later += htg_file_age(f, first, last);
	}
	if (l2->small && time_after_eq(jiffies, l2->small_until)) {
		l2->lately = (struct htg_found){};
		htg_l2_set_small(l2, false);
	}
	if (l2->small)
		WRITE_ONCE(l2->running.large_most, 0);
	else
		WRITE_ONCE(l2->running.large_most, READ_ONCE(l2->rec->large_new) + l2->found.kept + HTG_LARGE_AHEAD -
						   min(later, l2->found.kept + HTG_LARGE_AHEAD));
	return later || l2->small;
}

/* The next 2 MiB frame that is due. False: there is none, and what this round has found is judged. Caller holds htg_lock. */
static bool htg_l2_look_one(struct htg_l2 *l2)
{
	struct htg_found *lately = &l2->lately, *round = &l2->round;
	unsigned long first, last;
	unsigned int i;

	for (i = 0; i < l2->nranges; i++) {
		struct htg_file *f = htg_range_file(&l2->ranges[i], &first, &last);

		if (l2->ranges[i].words && htg_file_look(f, first, last, round))
			return true;
	}
	if (!round->frames)
		return false;
	l2->found.frames += round->frames;
	l2->found.kept += round->kept;
	l2->found.unused += round->unused;
	l2->found.back += round->back;
	lately->frames = lately->frames / 2 + round->frames;
	lately->unused = lately->unused / 2 + round->unused;
	if (round->back)
		htg_l2_recount_soon();
	*round = (struct htg_found){};
	if (lately->unused * 2 <= lately->frames * HTG_GRANULE) {
		l2->small_for = HTG_SMALL_FIRST;
	} else if (!l2->small) {
		l2->small_until = jiffies + l2->small_for;
		l2->small_for = min(2 * l2->small_for, HTG_SMALL_MOST);
		l2->small_times++;
		WRITE_ONCE(l2->running.large_most, 0);
		htg_l2_set_small(l2, true);
	}
	return false;
}

/* In pieces of one frame, between which htg_lock is free. */
static void htg_l2_look(struct work_struct *work);
static DECLARE_DELAYED_WORK(htg_look_work, htg_l2_look);

static void htg_l2_look(struct work_struct *work)
{
	bool more, again = false;
	struct htg_l2 *l2;
	int bkt;

	mutex_lock(&htg_lock);
	hash_for_each(htg_l2s, bkt, l2, node)
		again |= htg_l2_age(l2);
	mutex_unlock(&htg_lock);
	do {
		cond_resched();
		more = false;
		mutex_lock(&htg_lock);
		hash_for_each(htg_l2s, bkt, l2, node)
			if (!more)
				more = htg_l2_look_one(l2);
		hash_for_each(htg_l2s, bkt, l2, node)
			again |= l2->small;
		mutex_unlock(&htg_lock);
	} while (more);
	/* always a tick: neither sooner, for frames that have just come, nor later, as others' may come */
	if (again)
		queue_delayed_work(ht_unbound_wq, &htg_look_work, HTG_LOOK_TICK);
}

void htg_l2_look_soon(void)
{
	if (htg_large_frames == HTG_LARGE_AUTO && !delayed_work_pending(&htg_look_work))
		queue_delayed_work(ht_unbound_wq, &htg_look_work, HTG_LOOK_TICK);
}

/* What programs have written about the L2. Caller holds htg_lock. */
static void htg_l2_counters(const struct htg_l2 *l2, struct htg_l2_status *st)
{
	const struct ht_l2 *rec = l2->rec;

	st->template = READ_ONCE(rec->template);
	st->frames_taken = READ_ONCE(rec->frames_taken);
	st->faults = READ_ONCE(rec->faults);
	st->mapped_existing = READ_ONCE(rec->mapped_existing);
	st->mapped_new = READ_ONCE(rec->mapped_new);
	st->mapped_ahead = READ_ONCE(rec->mapped_ahead);
	st->passes = READ_ONCE(rec->passes);
	st->large_new = READ_ONCE(rec->large_new);
	st->large_existing = READ_ONCE(rec->large_existing);
	st->large_seen = l2->found.frames + l2->round.frames;
	st->large_kept = l2->found.kept + l2->round.kept;
	st->pages_vain = l2->found.unused + l2->round.unused - l2->found.back - l2->round.back;
	st->pages_back = l2->found.back + l2->round.back;
	st->small = l2->small;
	st->small_times = l2->small_times;
}

/* 2 MiB frames that are to be looked at. Caller holds htg_lock. */
static u64 htg_l2_waiting(const struct htg_l2 *l2)
{
	unsigned long first, last;
	unsigned int i;
	u64 n = 0;

	for (i = 0; i < l2->nranges && htg_large_frames == HTG_LARGE_AUTO; i++) {
		struct htg_file *f = htg_range_file(&l2->ranges[i], &first, &last);

		if (l2->ranges[i].words)
			n += htg_file_waiting(f, first, last);
	}
	return n;
}

/* The VM or its address space goes: off, forgotten by the hooks. Caller holds htg_lock. */
static void htg_l2_kill(struct htg_l2 *l2)
{
	if (l2->dead)
		return;
	hash_del_rcu(&l2->node);
	htg_exit_forget();
	htg_l2_pages(l2, &l2->last);
	htg_l2_unexport(l2);
	htg_l2_counters(l2, &l2->last);
	htg_credit_close(&l2->running.credit);
	WRITE_ONCE(l2->rec, NULL); /* the arena may go while our owner still holds the file */
	WRITE_ONCE(l2->dead, true);
	wake_up_all(&l2->wait);
}

/* --- what KVM does --- */

/*
 * Whether KVM is one that we know, as user space finds by comparing its types (src/bpf/kvm-abi.ts) before it registers an L2
 * or asks to be told of VMs. Until then hooks compare their first argument with VMs that were registered, so with none, and
 * follow no argument. Never unset: KVM is held while the hooks are armed.
 */
static bool htg_known;

void htg_l2_known(void)
{
	WRITE_ONCE(htg_known, true);
}

bool htg_l2_is_known(void)
{
	return READ_ONCE(htg_known);
}

/*
 * A slot is about to be zapped, because it goes or moves: the first that KVM does with it besides marking it invalid
 * (kvm_invalidate_memslot). Until the commit, or the failure, programs do not act: KVM's own faults on that slot are
 * retried, and what a program wrote after the zap nothing would ever zap again.
 */
static int htg_flush_shadow_memslot(struct ht_call *call)
{
	struct htg_l2 *l2 = htg_l2_lock((struct kvm *)call->args[0]);

	if (l2) {
		htg_l2_pause(l2);
		mutex_unlock(&htg_lock);
	}
	return HT_GO_ON;
}

/* Before slots come or change flags; those that go or move are off already. */
static int htg_prepare_memory_region(struct ht_call *call)
{
	struct htg_l2 *l2 = htg_l2_lock((struct kvm *)call->args[0]);

	if (l2) {
		htg_l2_pause(l2);
		l2->slot_changes++;
		mutex_unlock(&htg_lock);
	}
	return HT_GO_ON;
}

/* Whether any of a slot's memory is of a turtlefs file. Caller holds kvm->slots_lock. */
static bool htg_slot_is_ours(struct kvm *kvm, const struct kvm_memory_slot *slot)
{
	unsigned long stop = slot->userspace_addr + (slot->npages << PAGE_SHIFT);
	struct vm_area_struct *vma;
	bool ours = false;

	mmap_read_lock(kvm->mm);
	for (vma = find_vma(kvm->mm, slot->userspace_addr); vma && vma->vm_start < stop && !ours;
	     vma = find_vma(kvm->mm, vma->vm_end))
		ours = vma->vm_file && htg_file_of(vma->vm_file);
	mmap_read_unlock(kvm->mm);
	return ours;
}

static int htg_commit_later(struct ht_call *call)
{
	return htg_l2_is_known() ? HT_AROUND : HT_GO_ON;
}

/* (struct kvm *, struct kvm_memory_slot *old, const struct kvm_memory_slot *new, enum kvm_mr_change) */
static void htg_commit_memory_region(struct ht_call *call)
{
	struct kvm *kvm = (struct kvm *)call->args[0];
	struct htg_l2 *l2;

	rcu_read_lock();
	l2 = htg_l2_find(kvm); /* none comes, as that takes slots_lock, but one may go */
	rcu_read_unlock();
	if (l2) {
		mmap_read_lock(kvm->mm); /* ours: KVM lets no other process change slots */
		l2 = htg_l2_lock(kvm);
		if (l2) {
			htg_l2_export_now(l2);
			mutex_unlock(&htg_lock);
		}
		mmap_read_unlock(kvm->mm);
	} else if ((u32)call->args[3] == KVM_MR_CREATE &&
		   htg_slot_is_ours(kvm, (const struct kvm_memory_slot *)call->args[2])) {
		htg_watch_note(HTG_EVENT_VM, task_tgid(current));
	}
}

/*
 * The VM is about to have a page write-protected since it is an upper table of a guest of its own: kvm->arch.indirect_shadow_pages
 * is not 0 any more, and this is where it became so, as the first table that is shadowed is always a root, so above the
 * last level (account_shadowed; 6.1: kvm_slot_page_track_add_page, later __kvm_write_track_add_gfn). No vCPU of the VM is
 * published from here on (kvm_entry looks at the count). Those that were, and are in the guest, are interrupted now: until
 * then a program might answer their write to that very page with an entry that is not write-protected, and KVM would
 * never see what they change in that table, so a guest of L2's would keep memory that L2 has taken from it. What was
 * written before this KVM finds in its own tables.
 *
 * KVM holds kvm->mmu_lock for writing. We wait for CPUs with it as KVM does when it flushes their TLBs
 * (kvm_flush_remote_tlbs): nobody waits for that lock with interrupts off. The full barrier between the count and our look
 * at what CPUs have published is in srcu_read_lock() of the hook, and again in htg_grace_l2s(). An L2 that is registered
 * meanwhile is either found here, or is published by nobody before its count was other than 0.
 */
static int htg_track_page(struct ht_call *call)
{
	DECLARE_BITMAP(this, HT_MAX_L2) = {};
	struct htg_running *r;

	rcu_read_lock();
	r = htg_l2_running((struct kvm *)call->args[0]);
	if (r)
		__set_bit(r->number, this);
	rcu_read_unlock();
	htg_grace_l2s(this);
	return HT_GO_ON;
}

static int htg_destroy_vm(struct ht_call *call)
{
	struct htg_l2 *l2 = htg_l2_lock((struct kvm *)call->args[0]);

	if (l2) {
		htg_l2_kill(l2);
		mutex_unlock(&htg_lock);
	}
	return HT_GO_ON;
}

/* Memory safety rests on each of them: none can be switched off while L2s may be registered (ht_hooks_stay_on). */
HT_HOOK(htg_flush, "kvm_arch_flush_shadow_memslot", htg_flush_shadow_memslot, ht_no_after);
HT_HOOK(htg_prepare, "kvm_arch_prepare_memory_region", htg_prepare_memory_region, ht_no_after);
HT_HOOK(htg_commit, "kvm_arch_commit_memory_region", htg_commit_later, htg_commit_memory_region);
HT_HOOK(htg_destroy, "kvm_arch_destroy_vm", htg_destroy_vm, ht_no_after);
HT_HOOK(htg_track, "kvm_slot_page_track_add_page", htg_track_page, ht_no_after);

/* --- what the VMM's address space does --- */

static void htg_mn_release(struct mmu_notifier *mn, struct mm_struct *mm)
{
	struct htg_l2 *l2 = container_of(mn, struct htg_l2, mn);

	mutex_lock(&htg_lock);
	htg_l2_kill(l2);
	mutex_unlock(&htg_lock);
}

/*
 * A mapping of exported RAM is taken away, or somebody starts to watch for writes into it: off before KVM drops its
 * entries (we were registered after KVM, so are called before it), on again with what is left when that is over.
 *
 * Other events keep the mapping's meaning. Our own unmapping of punched pages is MMU_NOTIFY_CLEAR. Protections
 * (MMU_NOTIFY_PROTECTION_VMA) are either those of mprotect(), for which htg_mprotect() has turned us off already, and
 * also where this notifier is not called because the VMM has touched nothing; or the hints of automatic NUMA
 * balancing, which takes and gives back permission for a page to see who uses it. A frame of turtlefs is on no LRU
 * list and so never migrated for that: what the word says stays so, and L2 may go on.
 */
static int htg_mn_invalidate(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct htg_l2 *l2 = container_of(mn, struct htg_l2, mn);
	bool hit = false;
	unsigned int i;

	if (range->event != MMU_NOTIFY_UNMAP && range->event != MMU_NOTIFY_SOFT_DIRTY)
		return 0;
	spin_lock(&l2->ranges_lock);
	for (i = 0; i < l2->nranges; i++) /* those that are only counted too: their files are held */
		hit |= range->start < l2->ranges[i].end && l2->ranges[i].start < range->end;
	spin_unlock(&l2->ranges_lock);
	if (hit)
		htg_l2_pause(l2);
	return 0;
}

static const struct mmu_notifier_ops htg_mn_ops = {
	.release = htg_mn_release,
	.invalidate_range_start = htg_mn_invalidate,
};

/* --- the file that owns a registration --- */

static long htg_l2_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct htg_l2 *l2 = file->private_data;
	struct htg_l2_status st;
	unsigned int i;

	if (cmd != HTG_L2_STATUS)
		return -ENOTTY;
	mutex_lock(&htg_lock);
	st = l2->last;
	st.number = l2->running.number;
	st.dead = l2->dead;
	st.slots = l2->nslots;
	for (i = 0; i < l2->nranges; i++)
		st.pages += l2->ranges[i].words ? htg_range_pages(&l2->ranges[i]) : 0;
	st.slot_changes = l2->slot_changes;
	memcpy(st.name, l2->name, sizeof(st.name));
	if (l2->rec) {
		st.state = READ_ONCE(l2->rec->state);
		htg_l2_counters(l2, &st);
		htg_l2_pages(l2, &st);
		st.frames_credit = htg_credit_left(&l2->running.credit);
		st.large_waiting = htg_l2_waiting(l2);
	}
	st.frames_charged = htg_account_charged(l2->account);
	st.left_out = l2->left_out;
	st.pages_left_out = l2->pages_left_out;
	if (!l2->dead && READ_ONCE(l2->kvm->arch.indirect_shadow_pages)) /* it is memory until htg_destroy_vm() has run */
		st.left_out |= HTG_LEFT_OUT_GUESTS;
	htg_account_path(l2->account, st.cgroup, sizeof(st.cgroup));
	mutex_unlock(&htg_lock);
	return copy_to_user((void __user *)arg, &st, sizeof(st)) ? -EFAULT : 0;
}

static __poll_t htg_l2_poll(struct file *file, struct poll_table_struct *wait)
{
	struct htg_l2 *l2 = file->private_data;

	poll_wait(file, &l2->wait, wait);
	return READ_ONCE(l2->dead) ? EPOLLHUP : 0;
}

static void htg_l2_unregister(struct htg_l2 *l2)
{
	mutex_lock(&htg_lock);
	htg_l2_kill(l2);
	mutex_unlock(&htg_lock);
	mmu_notifier_unregister(&l2->mn, l2->mm);
	synchronize_rcu();	/* kvm_entry and the hooks look at hashed L2s */
	cancel_work_sync(&l2->again); /* nobody is left who would queue it */
	mmdrop(l2->mm);
	htg_account_uncharge(l2->account, l2->purse.charged); /* of an export that did not come */
	htg_account_put(l2->account);
	/* only now may another L2 have the number: no CPU publishes it any more */
	ida_free(&htg_l2_ida, l2->running.number);
	atomic_dec(&htg_l2_n);
	kfree(l2);
}

static int htg_l2_release(struct inode *inode, struct file *file)
{
	htg_l2_unregister(file->private_data);
	return 0;
}

static const struct file_operations htg_l2_fops = {
	.owner = THIS_MODULE,
	.release = htg_l2_release,
	.unlocked_ioctl = htg_l2_ioctl,
	.poll = htg_l2_poll,
	.llseek = noop_llseek,
};

/* What a machine and a VM must have; the reasons are said in the kernel log, once each. */
static int htg_l2_check(struct kvm *kvm)
{
	bool tdp_mmu;

#ifndef HT_HAS_KVM_TDP_MMU_ENABLED
	bool *flag = ht_lookup_variable("tdp_mmu_enabled");

	tdp_mmu = flag && *flag;
#else
	tdp_mmu = kvm->arch.tdp_mmu_enabled;
#endif
	if (htg_ftrace_enabled && !READ_ONCE(*htg_ftrace_enabled)) { /* it ends itself when it finds a mistake of its own */
		pr_err_once("hyperturtle: ftrace is off, so slot changes of KVM are not seen\n");
		return -EOPNOTSUPP;
	}
	if (!tdp_mmu) {
		pr_err_once("hyperturtle: KVM must use its TDP MMU (kvm.tdp_mmu=Y, nested paging on)\n");
		return -EOPNOTSUPP;
	}
	if (context_tracking_enabled()) {
		/* there (nohz_full) RCU takes a CPU in a guest for quiescent, and may free table pages under a program */
		pr_err_once("hyperturtle: does not work with nohz_full, nor with user context tracking forced\n");
		return -EOPNOTSUPP;
	}
	if (cc_platform_has(CC_ATTR_MEM_ENCRYPT) || ht_kvm_private_mem(kvm)) {
		pr_err_once("hyperturtle: does not work with encrypted or private guest memory\n");
		return -EOPNOTSUPP;
	}
	return 0;
}

/*
 * Returns a file descriptor that owns the registration: EBADF not a KVM vm, ENODEV no arena, EBUSY registered
 * already, EOPNOTSUPP see above, EXDEV not a VM of the address space it was made in.
 */
long htg_l2_register(const struct htg_register *req)
{
	struct htg_arena *a;
	struct file *kvm_file, *file;
	struct htg_l2 *l2;
	struct kvm *kvm;
	int ret, fd;

	if (req->flags || req->group_max > HT_GROUP_MAX)
		return -EINVAL;
	kvm_file = fget(req->vm_fd);
	if (!kvm_file)
		return -EBADF;
	ret = -EBADF;
	if (!htg_kvm(file_is_kvm)(kvm_file))
		goto put_kvm;
	kvm = kvm_file->private_data;	/* stays while we hold the file */
	ret = htg_l2_check(kvm);
	if (ret)
		goto put_kvm;
	ret = -ENOMEM;
	l2 = kzalloc(sizeof(*l2), GFP_KERNEL);
	if (!l2)
		goto put_kvm;
	l2->kvm = kvm;
	l2->mm = kvm->mm;
	l2->account = htg_account_of(l2->mm);
	if (!l2->account)
		goto free;
	l2->frames_limit = req->frames_limit ?: U64_MAX;
	l2->group_max = req->group_max;
	l2->running.large_most = htg_large_frames == HTG_LARGE_AUTO ? HTG_LARGE_AHEAD : U64_MAX;
	l2->small_for = HTG_SMALL_FIRST;
	strscpy(l2->name, req->name, sizeof(l2->name));
	spin_lock_init(&l2->ranges_lock);
	init_waitqueue_head(&l2->wait);
	INIT_WORK(&l2->again, htg_l2_again);
	l2->mn.ops = &htg_mn_ops;
	ret = l2->running.number = ida_alloc_range(&htg_l2_ida, 1, HT_MAX_L2 - 1, GFP_KERNEL);
	if (ret < 0)
		goto free;
	ret = -ESRCH;
	if (!mmget_not_zero(l2->mm))
		goto number;
	mmgrab(l2->mm);
	ret = mmu_notifier_register(&l2->mn, l2->mm);
	if (ret)
		goto mm;

	mutex_lock(&kvm->slots_lock);
	mmap_read_lock(l2->mm);
	mutex_lock(&htg_lock);
	a = rcu_dereference_protected(htg_arena, lockdep_is_held(&htg_lock));
	ret = -ENODEV;
	if (a) {
		ret = -EBUSY;
		if (!htg_l2_find(kvm)) {
			l2->rec = &a->l2[l2->running.number];
			memset(l2->rec, 0, sizeof(*l2->rec));
			htg_credit_open(&l2->running.credit, l2->rec, l2->account, l2->mm, l2->frames_limit);
			l2->rec->group_max = l2->group_max;
			atomic_inc(&htg_l2_n);
			htg_exit_forget();
			hash_add_rcu(htg_l2s, &l2->node, (unsigned long)kvm);
			htg_l2_export_now(l2);
			htg_l2_pages(l2, &l2->last);
			htg_credit_mapped(&l2->running.credit, l2->last.pages_held + htg_l2_pages_logged(l2));
			htg_pool_poke(a, HTG_ALL_POOLS);
			ret = 0;
		}
	}
	mutex_unlock(&htg_lock);
	mmap_read_unlock(l2->mm);
	mutex_unlock(&kvm->slots_lock);
	mmput(l2->mm);
	if (ret) {
		l2->dead = true;
		mmu_notifier_unregister(&l2->mn, l2->mm);
		cancel_work_sync(&l2->again);
		mmdrop(l2->mm);
		goto number;
	}
	fput(kvm_file);
	file = anon_inode_getfile("hyperturtle-l2", &htg_l2_fops, l2, O_RDWR);
	if (IS_ERR(file)) {
		htg_l2_unregister(l2);
		return PTR_ERR(file);
	}
	/* from here the file owns the registration */
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		fput(file);
	else
		fd_install(fd, file);
	return fd;

mm:
	mmdrop(l2->mm);
	mmput(l2->mm);
number:
	ida_free(&htg_l2_ida, l2->running.number);
free:
	htg_account_put(l2->account);
	kfree(l2);
put_kvm:
	fput(kvm_file);
	return ret;
}

bool htg_l2_running_large(void)
{
	struct kvm_vcpu *vcpu = htg_kvm(kvm_get_running_vcpu)();
	const struct ht_l2 *rec;
	struct htg_l2 *l2;
	bool left = true;

	if (!vcpu)
		return true;
	rcu_read_lock();
	l2 = htg_l2_find(vcpu->kvm);
	rec = l2 ? READ_ONCE(l2->running.credit.rec) : NULL; /* the arena is there for a grace period more */
	if (rec)
		left = READ_ONCE(rec->large_new) < READ_ONCE(l2->running.large_most);
	rcu_read_unlock();
	return left;
}

/*
 * A fault of turtlefs in a vCPU's thread, where waiting and reclaiming are allowed: more credit for its L2, since a
 * program that had none has left the fault to us. Charged between two looks at the L2, which may go meanwhile.
 */
void htg_l2_running_credit(struct htg_account *acc)
{
	struct kvm_vcpu *vcpu = htg_kvm(kvm_get_running_vcpu)();
	u64 n = 0, serial = 0, back;
	struct htg_l2 *l2;
	bool charged;

	if (!vcpu)
		return;
	rcu_read_lock();
	l2 = htg_l2_find(vcpu->kvm);
	if (l2 && l2->account == acc) {
		serial = l2->running.credit.serial;
		n = htg_credit_wanted(&l2->running.credit, true);
	}
	rcu_read_unlock();
	if (!n)
		return;
	charged = !htg_account_charge(acc, n, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
	back = charged ? n : 0;
	rcu_read_lock();
	l2 = htg_l2_find(vcpu->kvm);
	if (l2)
		back = htg_credit_settle(&l2->running.credit, serial, n, charged);
	rcu_read_unlock();
	htg_account_uncharge(acc, back);
}

/* Their owners get POLLHUP, and may register them again when there is another arena. */
void htg_l2_arena_gone(void)
{
	struct hlist_node *next;
	struct htg_l2 *l2;
	int bkt;

	hash_for_each_safe(htg_l2s, bkt, next, l2, node)
		htg_l2_kill(l2);
}

static struct ht_kvm_hook *const htg_hooks[] = {
	&htg_flush_hook, &htg_prepare_hook, &htg_commit_hook, &htg_destroy_hook, &htg_track_hook,
};

int htg_l2_init(void)
{
	int ret;

	htg_ftrace_enabled = ht_lookup_variable("ftrace_enabled");
	htg_track_hook.newer_name = "__kvm_write_track_add_gfn";
	ret = ht_hooks_arm(htg_hooks, ARRAY_SIZE(htg_hooks));
	if (ret) {
		if (ret == -ENOENT)
			pr_err("hyperturtle: kvm has no functions to hook: is it loaded?\n");
		return ret;
	}
	/* now that kvm.ko is held, and before an L2 can be registered: until then hooks call nothing in it */
	ret = htg_kvm_bind();
	ret = ret ?: htg_entry_init();
	if (!ret)
		return 0;
	ht_hooks_disarm(htg_hooks, ARRAY_SIZE(htg_hooks));
	return ret;
}

void htg_l2_exit(void)
{
	htg_entry_exit();
	ht_hooks_disarm(htg_hooks, ARRAY_SIZE(htg_hooks));
	cancel_delayed_work_sync(&htg_look_work);
	cancel_delayed_work_sync(&htg_recount_work); /* which the look may have queued, and it this one; none has an L2 now */
	ida_destroy(&htg_l2_ida);
}
