// SPDX-License-Identifier: GPL-2.0
/*
 * turtlefs: a file system whose files are guest RAM. A page of a file is found through one 64-bit word, in
 * the arena, so that a program in L0 can give the page a frame, or find the frame it has, without L1
 * running. The word is the truth: the one that needs the page first sets it with compare-and-exchange.
 *
 * Lock order: inode lock, mmap_lock, htg_lock, htg_file.sem, page lock. Programs in L0 take no lock: what
 * excludes them is an L2 turned off, or a cleared word, each followed by a grace period.
 */
#include <linux/types.h>
#include <linux/falloc.h>
#include <linux/fs_context.h>
#include <linux/highmem.h>
#include <linux/magic.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/statfs.h>
#include <linux/vmalloc.h>
#include "guest.h"

#define HTG_FS_MAGIC 0x7475726c	/* "turl" */
#define HTG_SIZE_SHIFT 4	/* a file may be 16 times as large as all memory */

static LIST_HEAD(htg_arena_files);	/* under htg_lock */
static const struct file_operations htg_file_fops;
static const struct inode_operations htg_dir_iops;

struct htg_file *htg_file_of(struct file *file)
{
	return file->f_op == &htg_file_fops ? file_inode(file)->i_private : NULL;
}

static unsigned long htg_pages(loff_t size)
{
	return DIV_ROUND_UP(size, PAGE_SIZE);
}

/* What the word of a page says when it is part of its granule's 2 MiB frame. */
static u64 htg_word_in_large(u64 large, unsigned long page)
{
	return large + ((u64)(page & (HTG_GRANULE - 1)) << HT_PAGE_SHIFT);
}

/* The word of every page of a 2 MiB frame: programs write the same at the same time. */
static void htg_fill_large(struct htg_file *f, unsigned long granule, u64 large)
{
	unsigned long i;

	for (i = granule * HTG_GRANULE; i < (granule + 1) * HTG_GRANULE; i++)
		WRITE_ONCE(f->words[i], htg_word_in_large(large, i));
}

/* A 2 MiB frame as the memory policy wants it, or 0. Interleaved are granules of the file. Under RCU. */
static u64 htg_large_for(struct htg_arena *a, unsigned long granule, struct vm_fault *vmf)
{
	struct htg_policy own = {};

	if (vmf)
		own = htg_policy_of(vmf->vma);
	return htg_large_take(a, htg_policy_pool(a, &own, granule % a->pools));
}

/*
 * Before an empty page gets a frame of its own: sees to it that its granule is one of small pages. False: look at its
 * word again. A granule that has no page yet gets a 2 MiB frame if there is one, as a program would give it. Caller
 * holds f->sem for reading, so no granule is closed.
 */
static bool htg_granule_small(struct htg_file *f, unsigned long page, struct vm_fault *vmf)
{
	unsigned long granule = page / HTG_GRANULE;
	u64 word = f->granules ? READ_ONCE(f->granules[granule]) : HT_WORD_SMALL, large = 0;
	struct htg_arena *a;

	if (word & HT_WORD_PRESENT) {
		htg_fill_large(f, granule, word);
		return false;
	}
	if (word != HT_WORD_EMPTY)
		return true;
	rcu_read_lock();
	a = rcu_dereference(htg_arena);
	/*
	 * With `exact` each page's first use is to be seen, so none is given with others. In the thread of a vCPU whose L2 may
	 * have no more of them, the fault is here since its program gave none: then L1 gives none either.
	 */
	if (a && !f->small && !READ_ONCE(a->h->exact) && (!vmf || htg_l2_running_large()) &&
	    !htg_account_charge(f->account, HTG_GRANULE, GFP_NOWAIT | __GFP_NOWARN)) {
		large = htg_large_for(a, granule, vmf);
		if (!large)
			htg_account_uncharge(f->account, HTG_GRANULE);
	}
	rcu_read_unlock();
	word = large ?: HT_WORD_SMALL;
	if (cmpxchg64(&f->granules[granule], HT_WORD_EMPTY, word) != HT_WORD_EMPTY) {
		if (large) {
			htg_put_large(large);
			htg_account_uncharge(f->account, HTG_GRANULE);
		}
		return false;
	}
	if (large) {
		htg_fill_large(f, granule, large);
		htg_l2_look_soon();
	}
	return !large;
}

/* What a program has claimed as a 2 MiB frame, and not written all words of: all, before granules have no words any more. */
static void htg_write_claimed(struct htg_file *f)
{
	unsigned long g;

	for (g = 0; f->granules && g < f->n / HTG_GRANULE; g++) {
		u64 word = READ_ONCE(f->granules[g]);

		if (word & HT_WORD_PRESENT)
			htg_fill_large(f, g, word);
		if (!(g % 64))
			cond_resched();
	}
}

/* Pages that have a frame: of a 2 MiB frame all, though their words may not be written yet. Caller holds f->sem. */
static unsigned long htg_frames(const struct htg_file *f)
{
	unsigned long g, i, n = 0;

	for (g = 0; g < f->n / HTG_GRANULE; g++) { /* f->n is whole granules */
		if (f->granules && (READ_ONCE(f->granules[g]) & HT_WORD_PRESENT)) {
			n += HTG_GRANULE;
			continue;
		}
		for (i = g * HTG_GRANULE; i < (g + 1) * HTG_GRANULE; i++)
			n += READ_ONCE(f->words[i]) & HT_WORD_PRESENT;
		if (!(g % 64))
			cond_resched();
	}
	return n;
}

/*
 * Sees to it that f has an account: that of the process whose mapping is touched first. f->sem is not held. Returns the
 * account with a reference, or NULL.
 */
static struct htg_account *htg_file_account(struct htg_file *f, struct mm_struct *mm)
{
	struct htg_account *acc, *mine = NULL;

	if (!READ_ONCE(f->account)) {
		mine = htg_account_of(mm);
		if (!mine)
			return NULL;
	}
	down_read(&f->sem);	/* so it does not change, but for the first */
	acc = cmpxchg(&f->account, NULL, mine);
	if (!acc && mine) {
		acc = mine;
		mine = NULL;
	}
	if (acc)
		htg_account_get(acc);
	up_read(&f->sem);
	htg_account_put(mine);
	return acc;
}

/*
 * From now on f's frames are charged to acc: also those that it has, from the purse or without waiting. 0, or the
 * HTG_LEFT_OUT_* that says why not. Caller holds htg_lock.
 */
u32 htg_file_charge_to(struct htg_file *f, struct htg_account *acc, struct htg_purse *purse)
{
	struct htg_account *had;
	u32 ret = HTG_LEFT_OUT_OTHER;
	u64 n, paid;

	if (READ_ONCE(f->account) == acc) /* it stays so while we hold htg_lock: others set only the first */
		return 0;
	down_write(&f->sem);
	had = f->account;
	if (f->exports)
		goto out;
	n = had ? htg_frames(f) : 0;
	paid = min(n, purse->charged);
	ret = HTG_LEFT_OUT_NO_ROOM;
	if (htg_account_charge(acc, n - paid, GFP_NOWAIT | __GFP_NOWARN)) {
		purse->missing += n - paid;
		goto out;
	}
	ret = 0;
	purse->charged -= paid;
	f->account = htg_account_get(acc);
	htg_account_uncharge(had, n);
	htg_account_put(had);
out:
	up_write(&f->sem);
	return ret;
}

/* A frame that a fault may need, and what it is charged to. */
struct htg_fresh {
	struct page *page;	/* locked */
	struct htg_account *account;
};

static void htg_fresh_put(struct htg_fresh *fresh)
{
	if (fresh->page) {
		unlock_page(fresh->page);
		htg_put_frame(fresh->page);
		htg_account_uncharge(fresh->account, 1);
	}
	htg_account_put(fresh->account);
	*fresh = (struct htg_fresh){};
}

/*
 * In the VMM's thread, without f->sem: charging may wait, reclaim, and have the OOM killer end a process of that cgroup,
 * which may be the one that we are in; an end of it needs f->sem.
 */
static bool htg_fresh_get(struct htg_fresh *fresh, struct htg_file *f, struct vm_fault *vmf)
{
	gfp_t gfp = GFP_HIGHUSER | __GFP_ZERO;

	fresh->account = htg_file_account(f, vmf ? vmf->vma->vm_mm : current->mm);
	if (!fresh->account || htg_account_charge_one(fresh->account))
		goto fail;
	/* by the mapping's memory policy, if it has one, else by the thread's */
	fresh->page = vmf ? alloc_page_vma(gfp, vmf->vma, vmf->address) : alloc_page(gfp);
	if (!fresh->page) {
		htg_account_uncharge(fresh->account, 1);
		goto fail;
	}
	atomic64_inc(&htg_count.frames_allocated);
	lock_page(fresh->page);
	htg_l2_running_credit(fresh->account);
	return true;
fail:
	htg_fresh_put(fresh);
	return false;
}

/* A mapping gets a page that had a frame: maybe L0's, which is in the VMM's count of resident pages twice from now on. */
static void htg_fault_found(void)
{
	atomic64_inc(&htg_count.faults_found);
	if (htg_l2_count())
		htg_l2_recount_soon();
}

/*
 * Page i, locked and with a reference; if it has no frame it gets one, charged to the file's account or, if that is the
 * first, to that of the process. -EFAULT behind the end, -ENOMEM. `vmf`: for this fault of a mapping, which is counted;
 * else NULL. The caller holds no lock of this module.
 */
struct page *htg_page_get(struct htg_file *f, unsigned long i, struct vm_fault *vmf)
{
	struct htg_fresh fresh = {};
	struct page *page;
	u64 *slot, word;

	down_read(&f->sem);
	for (;;) {
		page = ERR_PTR(-EFAULT);
		if (i >= f->n)
			break;
		slot = &f->words[i];
		word = READ_ONCE(*slot);
		if (word & HT_WORD_CLOSED)
			break;
		if (!word) {
			if (!fresh.page || fresh.account != f->account) {
				up_read(&f->sem);
				htg_fresh_put(&fresh);
				if (!htg_fresh_get(&fresh, f, vmf))
					return ERR_PTR(-ENOMEM);
				down_read(&f->sem);
				continue;
			}
			if (!htg_granule_small(f, i, vmf))
				continue;
			get_page(fresh.page); /* the caller's reference, besides the word's */
			if (cmpxchg64(slot, HT_WORD_EMPTY, htg_word(fresh.page)) == HT_WORD_EMPTY) {
				page = fresh.page;
				fresh.page = NULL; /* and its charge is the file's */
				break;
			}
			put_page(fresh.page);
			if (vmf)
				atomic64_inc(&htg_count.faults_lost);
			continue;
		}
		page = htg_word_page(word);
		if (!get_page_unless_zero(page)) {
			cpu_relax();
			continue;
		}
		lock_page(page);
		if (word & HT_WORD_AHEAD) { /* the VMM uses it */
			u64 was = cmpxchg64(slot, word, word & ~HT_WORD_AHEAD);

			if (was == word)
				word &= ~HT_WORD_AHEAD;
		}
		if (READ_ONCE(*slot) == word) {
			if (vmf)
				htg_fault_found();
			break;
		}
		unlock_page(page);
		put_page(page);
	}
	up_read(&f->sem);
	htg_fresh_put(&fresh);
	return page;
}

/*
 * The frame of page i with a reference, or NULL if it has none: nobody takes frames away while f->sem is held. One of a
 * 2 MiB frame may have bytes of the guest before its own word is written: the granule's says so first.
 */
struct page *htg_page_find(struct htg_file *f, unsigned long i)
{
	struct page *page = NULL;
	u64 word;

	down_read(&f->sem);
	word = i < f->n ? READ_ONCE(f->words[i]) : HT_WORD_CLOSED;
	if (word == HT_WORD_EMPTY && f->granules) {
		u64 large = READ_ONCE(f->granules[i / HTG_GRANULE]);

		/* its words may not be written yet; else this page has got one of its own meanwhile, or is a hole */
		word = large & HT_WORD_PRESENT ? htg_word_in_large(large, i) : READ_ONCE(f->words[i]);
	}
	if (word & HT_WORD_PRESENT) {
		page = htg_word_page(word);
		get_page(page);
	}
	up_read(&f->sem);
	return page;
}

/*
 * A page that a mapping is about to get belongs to its file's address space from now on, as in the page cache: fast GUP of
 * Linux 6.12 takes no page without one (gup_fast_folio_allowed), and each fault of L1's KVM would take mmap_lock. It is
 * in no page cache and on no LRU list: what goes by those (truncation, reclaim, migration, writeback) does not meet it.
 * The page is locked and its word known to be right, so htg_drop_some() waits, unmaps, and then takes it away. Dirty from
 * the start: else the kernel lets go of mmap_lock at the first write, to see whether much is dirty (fault_dirty_shared_page).
 */
static void htg_page_mapped(struct page *page, struct inode *inode, pgoff_t index)
{
	struct folio *folio = page_folio(page);

	folio->index = index;
	folio_set_dirty(folio);
	WRITE_ONCE(folio->mapping, inode->i_mapping);
}

static vm_fault_t htg_fault(struct vm_fault *vmf)
{
	struct htg_file *f = file_inode(vmf->vma->vm_file)->i_private;
	struct htg_arena *a;
	struct page *page;

	atomic64_inc(&htg_count.faults);
	rcu_read_lock();
	a = rcu_dereference(htg_arena);
	if (a)
		htg_pool_poke(a, HTG_ALL_POOLS); /* L1 runs anyway: see whether the pool is low */
	rcu_read_unlock();
	page = htg_page_get(f, vmf->pgoff, vmf);
	if (IS_ERR(page))
		return PTR_ERR(page) == -ENOMEM ? VM_FAULT_OOM : VM_FAULT_SIGBUS;
	htg_page_mapped(page, file_inode(vmf->vma->vm_file), vmf->pgoff);
	/* locked until it is mapped: anyone who clears the word now waits for this lock before it unmaps */
	vmf->page = page;
	return VM_FAULT_LOCKED;
}

/* How many pages are taken away at once: 128 MiB, a few milliseconds; f->sem is free in between */
#define HTG_DROP_PAGES (64 * HTG_GRANULE)

/* The grace period of a file: of the L2s that use it, so of none if there are none. Caller holds f->sem for writing. */
static void htg_grace_file(const struct htg_file *f)
{
	if (f->arena)
		htg_grace_l2s(f->l2s);
}

/*
 * From here to htg_open() no program acts on any page of the granules of pages [first, last): so L1 may empty some,
 * and a 2 MiB frame is 512 pages of their own from now on. Caller holds f->sem for writing.
 */
static void htg_close(struct htg_file *f, unsigned long first, unsigned long last)
{
	unsigned long g;

	if (!f->granules || first >= last)
		return;
	for (g = first / HTG_GRANULE; g <= (last - 1) / HTG_GRANULE; g++) {
		u64 word = xchg(&f->granules[g], HT_WORD_CLOSED);

		/* the one that claimed it may not have written all words, and will not any more after the grace period */
		if (word & HT_WORD_PRESENT)
			htg_fill_large(f, g, word);
		cond_resched();
	}
	htg_grace_file(f);
}

static void htg_open(struct htg_file *f, unsigned long first, unsigned long last)
{
	unsigned long g, i;

	if (!f->granules || first >= last)
		return;
	for (g = first / HTG_GRANULE; g <= (last - 1) / HTG_GRANULE; g++) {
		u64 any = 0;

		for (i = g * HTG_GRANULE; i < (g + 1) * HTG_GRANULE; i++)
			any |= f->words[i];
		WRITE_ONCE(f->looks[g], HTG_LOOK_NEW);
		smp_store_release(&f->granules[g], any ? HT_WORD_SMALL : HT_WORD_EMPTY);
		cond_resched();
	}
}

/*
 * --- 2 MiB frames of which little is used ---
 *
 * Anyone who gives a 2 MiB frame for one touch bets that the other 511 pages are wanted soon. Nothing shows which of them
 * are: the entry is one. But a frame is zeroed when it is given, so a page of it that is all zeros, and that is in no
 * table of a process, holds nothing that anybody would miss. Linux judges its own huge pages so (thp_underused() in 6.12).
 * A frame is looked at once, some seconds after it was given. If more than a twentieth of it is so, these pages are given
 * back, and the rest stays as 4 KiB pages: a hole as the VMM might have punched it, where there were zeros anyway.
 */
#define HTG_UNUSED_MOST (HTG_GRANULE / 20)

/*
 * Caller holds f->sem for writing, so no fault, read() or write() of L1 gets hold of the page meanwhile. One that did
 * before has a reference still, as has the one that pinned it (vfio, io_uring), also where it is in no table any more. What
 * a process has mapped it asked for, maybe by touching it (prealloc, mlock), and zeros may be what it wrote. A page with a
 * memory failure is not read.
 */
static bool htg_page_unused(struct page *page)
{
	void *at;
	bool zeros;

	if (page_count(page) != 1 || folio_mapped(page_folio(page)) || PageHWPoison(page))
		return false;
	at = kmap_local_page(page);
	zeros = !memchr_inv(at, 0, PAGE_SIZE);
	kunmap_local(at);
	return zeros;
}

/*
 * The 2 MiB frame of granule g becomes pages of their own, without those of `unused` that still are. In the order of
 * htg_drop_some(): the granule closed, and a grace period of the L2s that use the file, so that no program acts on any page
 * of it; all its mappings gone, through the MMU notifier also the entry that L0 has made. From then on nobody at all can
 * write into a page without reference: programs and L1's KVM know none, and faults of L1 wait for f->sem, which the caller
 * holds for writing. So now a page is zeros for good, and may go; or it is not, and stays, under the word that it had all
 * the time. Returns how many went.
 *
 * The granule is one of small pages from now on also where none of it is left: or it would get a 2 MiB frame at the next
 * touch, to be looked at and taken away, again and again. Where nothing went it is what it was.
 */
static unsigned long htg_split(struct htg_file *f, unsigned long g, const unsigned long *unused)
{
	unsigned long first = g * HTG_GRANULE, i, n = 0;
	u64 large = READ_ONCE(f->granules[g]);

	htg_close(f, first, first + HTG_GRANULE); /* writes all words, too */
	unmap_mapping_pages(f->inode->i_mapping, first, HTG_GRANULE, false);
	for_each_set_bit(i, unused, HTG_GRANULE) {
		struct page *page = htg_word_page(htg_word_in_large(large, i));

		if (!htg_page_unused(page))
			continue;
		WRITE_ONCE(f->words[first + i], HT_WORD_EMPTY);
		WRITE_ONCE(page_folio(page)->mapping, NULL); /* as in htg_drop_some() */
		htg_put_frame(page);
		n++;
	}
	htg_account_uncharge(f->account, n);
	smp_store_release(&f->granules[g], n ? HT_WORD_SMALL : large);
	return n;
}

/* Looks at the 2 MiB frame of granule g. Caller holds f->sem for writing. */
static void htg_look_at(struct htg_file *f, unsigned long g, u64 large, struct htg_found *found)
{
	DECLARE_BITMAP(unused, HTG_GRANULE) = {};
	unsigned long i, n, back = 0;

	for (i = 0; i < HTG_GRANULE; i++)
		if (htg_page_unused(htg_word_page(htg_word_in_large(large, i))))
			__set_bit(i, unused);
	n = bitmap_weight(unused, HTG_GRANULE);
	if (n > HTG_UNUSED_MOST)
		back = htg_split(f, g, unused);
	WRITE_ONCE(f->looks[g], HTG_LOOK_DONE);
	found->frames++;
	found->kept += !back;
	found->unused += n;
	found->back += back;
	atomic64_add(back, &htg_count.large_back);
}

/* The file's granules that pages [first, last) are of, wholly or in part: a look at one is of the file, not of an L2. */
#define htg_for_each_granule(g, f, first, last) \
	for ((g) = (first) / HTG_GRANULE; (f)->looks && (g) < DIV_ROUND_UP(min(last, (f)->n), HTG_GRANULE); (g)++)

static bool htg_is_waiting(const struct htg_file *f, unsigned long g)
{
	return f->looks[g] != HTG_LOOK_DONE && (READ_ONCE(f->granules[g]) & HT_WORD_PRESENT);
}

/* 2 MiB frames of pages [first, last) that are to be looked at, now or later. */
u64 htg_file_waiting(struct htg_file *f, unsigned long first, unsigned long last)
{
	unsigned long g;
	u64 n = 0;

	down_read(&f->sem);
	htg_for_each_granule(g, f, first, last)
		n += htg_is_waiting(f, g);
	up_read(&f->sem);
	return n;
}

/*
 * Time has passed: 2 MiB frames of pages [first, last) that were there before become due. Returns how many are there for
 * later. For an L2 that exports these pages: caller holds htg_lock.
 */
u64 htg_file_age(struct htg_file *f, unsigned long first, unsigned long last)
{
	unsigned long g;
	u64 later = 0;

	down_write(&f->sem);
	htg_for_each_granule(g, f, first, last) {
		if (!htg_is_waiting(f, g) || f->looks[g] == HTG_LOOK_DUE)
			continue;
		WRITE_ONCE(f->looks[g], f->looks[g] + 1);
		later += f->looks[g] != HTG_LOOK_DUE;
	}
	up_write(&f->sem);
	return later;
}

/*
 * Looks at one 2 MiB frame that is due. False: there is none. The same callers: with htg_lock, which nobody waits for who
 * holds what is waited for here: f->sem; i_mmap_rwsem and the MMU notifiers' own locks, under which the kernel calls
 * no function of this module that takes htg_lock (but at the end of an address space, and then it holds neither). That takes
 * as long as reading 2 MiB, and a grace period.
 */
bool htg_file_look(struct htg_file *f, unsigned long first, unsigned long last, struct htg_found *found)
{
	unsigned long g;
	bool due = false;

	down_write(&f->sem);
	htg_for_each_granule(g, f, first, last) {
		u64 large;

		if (f->looks[g] != HTG_LOOK_DUE)
			continue;
		large = READ_ONCE(f->granules[g]);
		due = true;
		if (large & HT_WORD_PRESENT)
			htg_look_at(f, g, large, found);
		else
			WRITE_ONCE(f->looks[g], HTG_LOOK_NEW);
		break;
	}
	up_write(&f->sem);
	return due;
}

/* Frames of pages [first, last) were asked for ahead: they stay, used or not. */
static void htg_keep(struct htg_file *f, unsigned long first, unsigned long last)
{
	unsigned long g;

	down_write(&f->sem);
	htg_for_each_granule(g, f, first, last)
		WRITE_ONCE(f->looks[g], HTG_LOOK_DONE);
	up_write(&f->sem);
}

/* All callers hold htg_lock, under which alone it is written: without a change no fault of the file waits. */
void htg_file_small(struct htg_file *f, bool small)
{
	if (f->small == small)
		return;
	down_write(&f->sem);
	f->small = small;
	up_write(&f->sem);
}

/*
 * mprotect() of [start, end), before it happens and under mmap_lock for writing. The kernel tells MMU notifiers, so
 * KVM and us, only where the VMM has page tables; entries that only L0 has made it does not know. So the L2 is off
 * first, and all mappings go, by a notifier call in any case, also those of other processes: they come back by faults.
 * From here on KVM asks for pages by mmap_lock, so after the change; and what may be exported then is looked at then.
 */
static int htg_mprotect(struct vm_area_struct *vma, unsigned long start, unsigned long end, unsigned long newflags)
{
	if (!((vma->vm_flags ^ newflags) & (VM_READ | VM_WRITE)))
		return 0;
	htg_l2_protecting(vma->vm_mm);
	unmap_mapping_pages(vma->vm_file->f_mapping, linear_page_index(vma, start), (end - start) >> PAGE_SHIFT, false);
	return 0;
}

#ifdef CONFIG_NUMA
/* mbind() of a mapping, before it happens and under mmap_lock for writing; the policy is the mapping's, not the file's. */
static int htg_set_policy(struct vm_area_struct *vma, struct mempolicy *new)
{
	htg_l2_mapped(vma->vm_mm);
	return 0;
}
#endif

static const struct vm_operations_struct htg_vm_ops = {
	.fault = htg_fault,
	.mprotect = htg_mprotect,
#ifdef CONFIG_NUMA
	.set_policy = htg_set_policy,
#endif
};

static int htg_mmap(struct file *file, struct vm_area_struct *vma)
{
	file_accessed(file);
	vma->vm_ops = &htg_vm_ops;
	htg_l2_mapped(vma->vm_mm); /* a slot may point here already */
	return 0;
}

/*
 * Takes the frames of pages [first, last) away and leaves `mark` in their words. In this order: words closed; grace
 * period of the L2s that use the file, so that no program still writes an entry for what it read before; the locks of
 * pages that a fault of L1 is about to map; all mappings, through the MMU notifier also the entries that only L0 has
 * made (so the range is unmapped even when L1 itself has no mapping); words to `mark`; frames. What a VMM has copied
 * for itself from a private mapping stays after a hole and goes with the file's end, as with any file. Caller holds
 * f->sem for writing.
 */
static void htg_drop_some(struct htg_file *f, unsigned long first, unsigned long last, u64 mark, struct page **pages,
			  unsigned long max)
{
	unsigned long i, from, n, k;

	htg_close(f, first, last);
	for (i = first; i < last; ) {
		from = i;
		for (n = 0; i < last && n < max; i++) {
			u64 word = READ_ONCE(f->words[i]);

			if (word == mark)
				continue;
			word = xchg(&f->words[i], HT_WORD_CLOSED);
			if (word & HT_WORD_PRESENT)
				pages[n++] = htg_word_page(word);
		}
		if (n && !f->granules) /* else there was one, in htg_close(); without a frame nobody can have mapped one */
			htg_grace_file(f);
		for (k = 0; k < n; k++) {
			lock_page(pages[k]);
			unlock_page(pages[k]);
		}
		if (n || mark == HT_WORD_CLOSED)
			unmap_mapping_pages(f->inode->i_mapping, from, i - from, mark == HT_WORD_CLOSED);
		/*
		 * Not before: a vCPU of L1 that has looked the old frame up would find a new one in its table, which
		 * KVM takes for a missing notifier (__handle_changed_spte, BUG). From the notifier on it looks again.
		 */
		if (n && mark != HT_WORD_CLOSED)
			for (k = from; k < i; k++)
				cmpxchg64(&f->words[k], HT_WORD_CLOSED, mark);
		for (k = 0; k < n; k++) {
			WRITE_ONCE(page_folio(pages[k])->mapping, NULL); /* as of a truncated page that somebody still holds */
			htg_put_frame(pages[k]);
		}
		htg_account_uncharge(f->account, n);
		if (n && htg_l2_count()) /* of one that is dirty-logged too, which f->l2s does not name */
			htg_l2_recount_soon();
		cond_resched();
	}
	htg_open(f, first, last);
}

/*
 * The same for any number of pages: in pieces of whole granules, between which f->sem is given to who waits for it (an
 * export, which holds htg_lock; faults). The file's end does not move meanwhile: the caller holds the inode's lock, or
 * is the last who knows it.
 */
static void htg_drop(struct htg_file *f, unsigned long first, unsigned long last, u64 mark)
{
	unsigned long max = min(HTG_DROP_PAGES, last > first ? last - first : 0), i, next;
	struct page *few[32], **pages;

	last = min(last, f->n);
	if (first >= last)
		return;
	pages = kvmalloc_array(max, sizeof(*pages), GFP_KERNEL | __GFP_NOWARN);
	if (!pages) {
		pages = few;
		max = ARRAY_SIZE(few);
	}
	for (i = first; i < last; i = next) {
		next = min(last, round_down(i, HTG_DROP_PAGES) + HTG_DROP_PAGES);
		htg_drop_some(f, i, next, mark, pages, max);
		if (next < last) {
			up_write(&f->sem);
			cond_resched();
			down_write(&f->sem);
		}
	}
	if (pages != few)
		kvfree(pages);
}

static void htg_mark(u64 *words, unsigned long first, unsigned long last, u64 mark)
{
	unsigned long i;

	for (i = first; i < last; i++) {
		WRITE_ONCE(words[i], mark);
		if (!(i % (64 * HTG_GRANULE)))
			cond_resched();
	}
}

/* The word of a granule whose pages have these words: they still are one 2 MiB frame, or not, or nobody has used it yet. */
static u64 htg_granule_of(const u64 *words)
{
	u64 first = words[0], any = 0;
	unsigned long i;

	if ((first & ((HT_PAGE_SIZE << HTG_LARGE_ORDER) - 1)) == HT_WORD_PRESENT) {
		for (i = 1; i < HTG_GRANULE && words[i] == htg_word_in_large(first, i); i++)
			;
		if (i == HTG_GRANULE)
			return first;
	}
	for (i = 0; i < HTG_GRANULE; i++)
		any |= words[i];
	return any ? HT_WORD_SMALL : HT_WORD_EMPTY;
}

/*
 * f's granules, from now on those of `words` in the arena, `cap` of them, of which `n` have been copied there; else it has
 * none any more. Whether a 2 MiB frame that moves was asked for ahead is not known: it is not looked at.
 */
static void htg_granules(struct htg_file *f, u64 *words, unsigned long n, unsigned long cap)
{
	struct htg_arena *a = rcu_dereference_protected(htg_arena, lockdep_is_held(&htg_lock));
	const u64 *old = f->granules;
	unsigned long g, first;

	f->granules = NULL;
	f->looks = NULL;
	if (!words || !a->granule_words)
		return;
	first = (words - a->index) / HTG_GRANULE;
	f->granules = &a->granule_words[first];
	f->looks = &a->looks[first];
	for (g = 0; g < cap / HTG_GRANULE; g++) {
		u64 word = HT_WORD_SMALL;

		if (g < n / HTG_GRANULE)
			word = old ? old[g] : htg_granule_of(&words[g * HTG_GRANULE]);
		WRITE_ONCE(f->granules[g], word);
		WRITE_ONCE(f->looks[g], word & HT_WORD_PRESENT ? HTG_LOOK_DONE : HTG_LOOK_NEW);
		if (!(g % 64))
			cond_resched();
	}
}

/*
 * Gives f at least n words, and `spare` more if there is room in the index; those it has are kept. -EBUSY while an L2
 * uses them: they would move.
 */
static int htg_reserve(struct htg_file *f, unsigned long n, unsigned long spare)
{
	unsigned long cap = round_up(n, HTG_GRANULE), more = round_up(n + spare, HTG_GRANULE);
	bool arena = true;
	u64 *words;

	if (cap <= f->n)
		return 0;
	if (f->exports)
		return -EBUSY;
	words = htg_index_alloc(more);
	if (words)
		cap = more;
	else
		words = htg_index_alloc(cap);
	if (!words) {
		/* no arena, or no room in it: RAM as good as any, but not accelerated */
		words = vmalloc(array_size(more, sizeof(u64)));
		if (words)
			cap = more;
		else
			words = vmalloc(array_size(cap, sizeof(u64)));
		if (!words)
			return -ENOMEM;
		arena = false;
	}
	/* no program can see these words yet, nor f's old ones, and f->sem keeps L1's faults out */
	if (!arena)
		htg_write_claimed(f);
	memcpy(words, f->words, f->n * sizeof(u64));
	htg_mark(words, f->n, cap, HT_WORD_CLOSED);
	if (f->arena) {
		list_del(&f->node);
		htg_index_free(f->words, f->n);
		htg_l2_index_freed();
	} else {
		vfree(f->words);
	}
	htg_granules(f, arena ? words : NULL, f->n, cap);
	f->words = words;
	f->n = cap;
	f->arena = arena;
	if (arena)
		list_add(&f->node, &htg_arena_files);
	return 0;
}

/* Zeroes bytes [from, to) of one page, if it has a frame. Caller holds f->sem for writing. */
static void htg_zero_part(struct htg_file *f, loff_t from, loff_t to)
{
	unsigned long i = from >> PAGE_SHIFT;
	u64 word = i < f->n ? READ_ONCE(f->words[i]) : 0;

	if (from < to && (word & HT_WORD_PRESENT))
		memzero_page(htg_word_page(word), offset_in_page(from), to - from);
}

/*
 * More pages for a file that has `had`, and if they must be moved, room for as many more as `spare` says. Caller holds
 * htg_lock, as they come from the index, and f->sem.
 */
static int htg_grow(struct htg_file *f, unsigned long had, unsigned long n, unsigned long spare)
{
	int ret = htg_reserve(f, n, spare);

	if (ret)
		return ret;
	htg_close(f, had, n);
	htg_mark(f->words, had, n, HT_WORD_EMPTY);
	htg_open(f, had, n);
	return 0;
}

/* The inode is locked, or nobody else knows it. `spare`: how many pages are likely to come soon. */
int htg_resize(struct inode *inode, loff_t size, unsigned long spare)
{
	struct htg_file *f = inode->i_private;
	unsigned long had = htg_pages(i_size_read(inode)), n = htg_pages(size);
	bool grows = n > had;
	int ret = 0;

	if (grows)
		mutex_lock(&htg_lock);
	down_write(&f->sem);
	if (grows)
		ret = htg_grow(f, had, n, spare);
	if (!ret) {
		if (size < i_size_read(inode)) /* what is behind the end does not come back when the file grows */
			htg_zero_part(f, size, round_up(size, PAGE_SIZE));
		i_size_write(inode, size);
		htg_drop(f, n, had, HT_WORD_CLOSED);
	}
	up_write(&f->sem);
	if (grows)
		mutex_unlock(&htg_lock);
	return ret;
}

static int htg_setattr(struct ht_idmap *idmap, struct dentry *dentry, struct iattr *attr)
{
	struct inode *inode = d_inode(dentry);
	int ret = setattr_prepare(idmap, dentry, attr);

	if (!ret && (attr->ia_valid & ATTR_SIZE))
		ret = htg_resize(inode, attr->ia_size, 0);
	if (ret)
		return ret;
	setattr_copy(idmap, inode, attr);
	return 0;
}

/* st_blocks counts the frames, so that du tells what a guest really uses. */
static int htg_getattr(struct ht_idmap *idmap, const struct path *path, struct kstat *stat, u32 mask,
		       unsigned int flags)
{
	struct inode *inode = d_inode(path->dentry);
	struct htg_file *f = inode->i_private;

	ht_generic_fillattr(idmap, mask, inode, stat);
	down_read(&f->sem);
	stat->blocks = (u64)htg_frames(f) << (PAGE_SHIFT - 9);
	up_read(&f->sem);
	return 0;
}

/* Pages [first, last) get the frames that they lack, as of tmpfs. The inode is locked, so the file's end stays. */
static int htg_allocate(struct htg_file *f, unsigned long first, unsigned long last)
{
	unsigned long i;

	htg_keep(f, first, last);
	for (i = first; i < last; i++) {
		struct page *page = htg_page_get(f, i, NULL);

		if (IS_ERR(page)) /* of a full memory cgroup too: a file has no room then */
			return PTR_ERR(page) == -ENOMEM ? -ENOSPC : PTR_ERR(page);
		unlock_page(page);
		put_page(page);
		if (signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

/* Bytes [off, end), end not behind the file's, read as zeros from now on, and whole pages of them lose their frames. */
static void htg_punch(struct htg_file *f, loff_t off, loff_t end)
{
	loff_t first = round_up(off, PAGE_SIZE), last = round_down(end, PAGE_SIZE);

	down_write(&f->sem);
	if (first > last) {	/* within one page */
		htg_zero_part(f, off, end);
	} else {
		htg_zero_part(f, off, first);
		htg_zero_part(f, last, end);
		htg_drop(f, first >> PAGE_SHIFT, last >> PAGE_SHIFT, HT_WORD_EMPTY);
	}
	up_write(&f->sem);
}

/*
 * Holes, zeros (which are holes here), and frames ahead. Behind the end there are no pages to give frames to: with
 * FALLOC_FL_KEEP_SIZE that is refused.
 */
static long htg_fallocate(struct file *file, int mode, loff_t off, loff_t len)
{
	struct inode *inode = file_inode(file);
	struct htg_file *f = inode->i_private;
	bool keep = mode & FALLOC_FL_KEEP_SIZE;
	int what = mode & ~FALLOC_FL_KEEP_SIZE;
	loff_t end = off + len;
	long ret = 0;

	if (what && what != FALLOC_FL_ZERO_RANGE && (what != FALLOC_FL_PUNCH_HOLE || !keep))
		return -EOPNOTSUPP;
	inode_lock(inode);
	if (end > i_size_read(inode) && !keep) {
		ret = inode_newsize_ok(inode, end);
		if (!ret)
			ret = htg_resize(inode, end, 0);
	} else if (end > i_size_read(inode) && !what) {
		ret = -EOPNOTSUPP;
	}
	if (!ret && what)
		htg_punch(f, off, min(end, round_up(i_size_read(inode), PAGE_SIZE)));
	else if (!ret)
		ret = htg_allocate(f, off >> PAGE_SHIFT, htg_pages(end));
	ht_inode_touch(inode);
	inode_unlock(inode);
	return ret;
}

/* Whether page i has a frame; what a program does meanwhile may be seen or not. Caller holds f->sem. */
static bool htg_has_frame(const struct htg_file *f, unsigned long i)
{
	if (i >= f->n)
		return false;
	/* of a 2 MiB frame the granule's word is first, see htg_page_find() */
	return (READ_ONCE(f->words[i]) & HT_WORD_PRESENT) ||
	       (f->granules && (READ_ONCE(f->granules[i / HTG_GRANULE]) & HT_WORD_PRESENT)) ||
	       (READ_ONCE(f->words[i]) & HT_WORD_PRESENT);
}

/* SEEK_DATA and SEEK_HOLE: what has no frame is a hole. In pieces, between which f->sem is free. */
static loff_t htg_llseek(struct file *file, loff_t off, int whence)
{
	struct inode *inode = file_inode(file);
	struct htg_file *f = inode->i_private;
	loff_t size = i_size_read(inode);
	unsigned long i, last = htg_pages(size);
	bool found = false;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return generic_file_llseek(file, off, whence);
	if (off < 0 || off >= size)
		return -ENXIO;
	for (i = off >> PAGE_SHIFT; i < last && !found; ) {
		unsigned long piece = min(last, i + HTG_DROP_PAGES);

		down_read(&f->sem);
		while (i < piece && !found) {
			found = htg_has_frame(f, i) == (whence == SEEK_DATA);
			i += !found;
		}
		up_read(&f->sem);
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	if (!found && whence == SEEK_DATA)
		return -ENXIO;
	return vfs_setpos(file, found ? max(off, (loff_t)i << PAGE_SHIFT) : size, inode->i_sb->s_maxbytes);
}

/*
 * /proc/PID/fdinfo: what smaps cannot say, as it counts what is in the tables of the process, and pages that a program in
 * L0 has given are in none.
 */
static void htg_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct htg_file *f = file_inode(file)->i_private;
	char path[HTG_CGROUP_PATH];

	down_read(&f->sem);
	seq_printf(m, "turtlefs-held:\t%lu kB\n", htg_frames(f) << (PAGE_SHIFT - 10));
	htg_account_path(f->account, path, sizeof(path));
	up_read(&f->sem);
	if (path[0])
		seq_printf(m, "turtlefs-memory-cgroup:\t%s\n", path);
}

static const struct file_operations htg_file_fops = {
	.owner = THIS_MODULE,
	.mmap = htg_mmap,
	.fallocate = htg_fallocate,
	.llseek = htg_llseek,
	.read_iter = htg_read_iter,
	.write_iter = htg_write_iter,
	.splice_read = ht_splice_read,
	.splice_write = iter_file_splice_write,
	.fsync = noop_fsync,
	.show_fdinfo = htg_show_fdinfo,
};

static const struct inode_operations htg_file_iops = {
	.setattr = htg_setattr,
	.getattr = htg_getattr,
};

/* Nothing is ever written back. */
static const struct address_space_operations htg_aops = { .dirty_folio = noop_dirty_folio };

static struct inode *htg_inode(struct super_block *sb, struct inode *dir, umode_t mode)
{
	struct inode *inode = new_inode(sb);
	struct htg_file *f;

	if (!inode)
		return NULL;
	inode->i_ino = get_next_ino();
	inode_init_owner(ht_nop_idmap, inode, dir, mode);
	ht_inode_init_times(inode);
	if (S_ISDIR(mode)) {
		inode->i_op = &htg_dir_iops;
		inode->i_fop = &simple_dir_operations;
		inc_nlink(inode);
		return inode;
	}
	f = kzalloc(sizeof(*f), GFP_KERNEL);
	if (!f) {
		iput(inode);
		return NULL;
	}
	inode->i_mapping->a_ops = &htg_aops;
	init_rwsem(&f->sem);
	INIT_LIST_HEAD(&f->node);
	f->inode = inode;
	inode->i_private = f;
	inode->i_op = &htg_file_iops;
	inode->i_fop = &htg_file_fops;
	return inode;
}

static int htg_mknod(struct inode *dir, struct dentry *dentry, umode_t mode)
{
	struct inode *inode = htg_inode(dir->i_sb, dir, mode);

	if (!inode)
		return -ENOSPC;
	ht_d_keep(dentry, inode);	/* files live in memory only */
	ht_inode_touch(dir);
	return 0;
}

/* O_EXCL, of which newer kernels do not tell any more, concerns those who share files with other machines */
static int __maybe_unused htg_create_excl(struct ht_idmap *idmap, struct inode *dir, struct dentry *dentry,
					  umode_t mode, bool excl)
{
	return htg_mknod(dir, dentry, S_IFREG | (mode & S_IALLUGO));
}

static int __maybe_unused htg_create(struct ht_idmap *idmap, struct inode *dir, struct dentry *dentry, umode_t mode)
{
	return htg_mknod(dir, dentry, S_IFREG | (mode & S_IALLUGO));
}

/* O_TMPFILE: a file that never had a name, and ends with the last that has it open or mapped. */
static int htg_tmpfile(struct ht_idmap *idmap, struct inode *dir, struct file *file, umode_t mode)
{
	struct inode *inode = htg_inode(dir->i_sb, dir, mode);

	if (inode)
		d_tmpfile(file, inode);
	return finish_open_simple(file, inode ? 0 : -ENOSPC);
}

static int htg_make_dir(struct inode *dir, struct dentry *dentry, umode_t mode)
{
	int ret = htg_mknod(dir, dentry, S_IFDIR | (mode & S_IALLUGO));

	if (!ret)
		inc_nlink(dir);
	return ret;
}

#ifdef HT_HAS_MKDIR_DENTRY	/* NULL: the one that was given */
static struct dentry *htg_mkdir(struct ht_idmap *idmap, struct inode *dir, struct dentry *dentry, umode_t mode)
{
	return ERR_PTR(htg_make_dir(dir, dentry, mode));
}
#else
static int htg_mkdir(struct ht_idmap *idmap, struct inode *dir, struct dentry *dentry, umode_t mode)
{
	return htg_make_dir(dir, dentry, mode);
}
#endif

static const struct inode_operations htg_dir_iops = {
	.create = _Generic(((struct inode_operations *)NULL)->create, typeof(&htg_create): htg_create,
			   default: htg_create_excl),
	.mkdir = htg_mkdir,
	.tmpfile = htg_tmpfile,
	.lookup = simple_lookup,
	.unlink = simple_unlink,
	.rmdir = simple_rmdir,
};

static void htg_evict(struct inode *inode)
{
	struct htg_file *f = inode->i_private;

	truncate_inode_pages_final(&inode->i_data);
	clear_inode(inode);
	if (!f)
		return;
	/*
	 * Slots of L2s hold the file open, so none refers to it, no CPU is interrupted for it, and nothing maps it. Without
	 * htg_lock: the arena may go meanwhile, but not while the file holds words of it (htg_fs_leave_arena waits for sem).
	 */
	down_write(&f->sem);
	htg_drop(f, 0, f->n, HT_WORD_CLOSED);
	up_write(&f->sem);
	mutex_lock(&htg_lock);
	if (f->arena) {
		list_del(&f->node);
		htg_index_free(f->words, f->n);
		htg_l2_index_freed();
	} else {
		vfree(f->words);
	}
	mutex_unlock(&htg_lock);
	htg_account_put(f->account);
	kfree(f);
}

static int htg_statfs(struct dentry *dentry, struct kstatfs *st)
{
	struct htg_arena *a;

	simple_statfs(dentry, st);
	st->f_type = HTG_FS_MAGIC;
	mutex_lock(&htg_lock);
	a = rcu_dereference_protected(htg_arena, lockdep_is_held(&htg_lock));
	if (a) {	/* room for guest RAM in the index; without an arena only memory limits */
		st->f_blocks = a->h->index_words;
		st->f_bfree = st->f_bavail = a->h->index_words - htg_index_used();
	}
	mutex_unlock(&htg_lock);
	return 0;
}

static const struct super_operations htg_sops = {
	.statfs = htg_statfs,
	.drop_inode = ht_inode_drop,
	.evict_inode = htg_evict,
};

static int htg_fill_super(struct super_block *sb, struct fs_context *fc)
{
	/* words of a file take L1's memory, which no cgroup is charged for: at most a 32nd of it for one file */
	sb->s_maxbytes = min_t(u64, MAX_LFS_FILESIZE, (u64)totalram_pages() << (PAGE_SHIFT + HTG_SIZE_SHIFT));
	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_magic = HTG_FS_MAGIC;
	sb->s_op = &htg_sops;
	sb->s_time_gran = 1;
	sb->s_root = d_make_root(htg_inode(sb, NULL, S_IFDIR | 0700));
	return sb->s_root ? 0 : -ENOMEM;
}

static int htg_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, htg_fill_super);
}

static const struct fs_context_operations htg_context_ops = { .get_tree = htg_get_tree };

static int htg_init_fs_context(struct fs_context *fc)
{
	fc->ops = &htg_context_ops;
	return 0;
}

static struct file_system_type htg_fs_type = {
	.owner = THIS_MODULE,
	.name = "turtlefs",
	.init_fs_context = htg_init_fs_context,
	.kill_sb = ht_kill_super,
};
MODULE_ALIAS_FS("turtlefs");

/*
 * The arena goes away: L2s are off, no program runs. Words move to our own memory; the RAM stays as it is, and words of a
 * 2 MiB frame that somebody claimed and did not write are written now, as the granule's word goes.
 */
void htg_fs_leave_arena(void)
{
	struct htg_file *f, *next;

	list_for_each_entry_safe(f, next, &htg_arena_files, node) {
		u64 *words = __vmalloc(array_size(f->n, sizeof(u64)), GFP_KERNEL | __GFP_NOFAIL);

		down_write(&f->sem);
		htg_write_claimed(f);
		memcpy(words, f->words, f->n * sizeof(u64));
		list_del_init(&f->node);
		f->words = words;
		htg_granules(f, NULL, 0, 0);
		f->arena = false;
		up_write(&f->sem);
	}
}

/*
 * A file of before this arena, or that had no room in it, gets words there, as they are: its guest may be running. False if
 * there is no room. Caller holds htg_lock, and not f->sem.
 *
 * Nobody but L1 knows a file whose words are in our own memory: no L2 exports it (htg_l2_export_range() asks for words in
 * the arena), so no program has read its words or writes them, and none reads the new ones before an export after us.
 * L1's faults, holes and truncations, which may change words at any time, hold f->sem; so do we, for writing, as
 * htg_reserve() does when a file moves because it grows. The new place was free, so no program knows it either.
 */
bool htg_file_enter_arena(struct htg_file *f)
{
	unsigned long g;
	u64 *words;

	if (f->arena || !f->n) /* it stays so while we hold htg_lock */
		return true;
	words = htg_index_alloc(f->n);
	if (!words)
		return false;
	down_write(&f->sem);
	for (g = 0; g < f->n / HTG_GRANULE; g++) { /* f->n is whole granules */
		memcpy(&words[g * HTG_GRANULE], &f->words[g * HTG_GRANULE], HTG_GRANULE * sizeof(u64));
		if (!(g % 64))
			cond_resched();
	}
	htg_granules(f, words, f->n, f->n);
	vfree(f->words);
	f->words = words;
	f->arena = true;
	list_add(&f->node, &htg_arena_files);
	up_write(&f->sem);
	return true;
}

int htg_fs_init(void)
{
	return register_filesystem(&htg_fs_type);
}

void htg_fs_exit(void)
{
	unregister_filesystem(&htg_fs_type);
	rcu_barrier();	/* inodes are freed after a grace period */
}
