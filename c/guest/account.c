// SPDX-License-Identifier: GPL-2.0
/*
 * Who answers for the frames of nested guests: the memory cgroup of their VMM. A file has an account, that of the
 * process which gave it its first frame or registered its VM; every frame in a word of the file is charged there, and
 * uncharged when a hole or the end of the file takes it away. The pool is charged to nobody.
 *
 * A program in L0 takes frames while L1 does not run, so they are charged ahead: an L2's credit is what is charged and
 * not yet taken, and ht_l2.frames_limit, which programs honour, is the number of frames that are paid for. Out of
 * credit, a fault goes to L1, where the VMM's own thread charges, reclaims, or meets the OOM killer, as for any other
 * memory (htg_fault()); an entry of an L2 tops the credit up as long as its cgroup has room, without waiting. Credit that
 * nobody uses is given back after a second or two.
 *
 * For each account: charged frames = frames in words of its files + credit of its L2s + what is charged now to become
 * credit + what faults are about to use, and what an export that found no room has charged for its next attempt.
 *
 * A charge that becomes credit may take seconds (it reclaims, or sleeps above memory.high), and other vCPUs of the same L2 may
 * find that it needs more meanwhile. So what is under way counts as if it were there: htg_credit_wanted() adds it to
 * htg_credit.coming under the lock under which it has decided, and htg_credit_settle() takes it away, charged or not. Both
 * belong to one registration, told by its serial number: in between the L2 may go, and another one come in its place.
 *
 * Locks under which charges are made, and how: under mmap_lock of the VMM for reading (a fault), with all that waiting
 * means: to reclaim, to sleep for up to two seconds above memory.high, to wait for the OOM killer's victim. So nobody may
 * wait for an mmap_lock with a lock that others need, which htg_lock is (l2.c). Under our locks, those of KVM's slots and
 * with interrupts off only GFP_NOWAIT: nothing is reclaimed, nobody sleeps or is killed.
 *
 * The OOM killer goes by resident pages, and those that L0 has given are in no page table of the VMM's. So they are added
 * to its pages of shared memory (RssShmem), at the entry of the L2 as programs count them, and made exact by what its
 * words say some time after that, after a hole, or when the VMM has mapped pages that were there (htg_l2_recount()).
 *
 * The kernel's functions that charge bytes are not exported: kmod/lookup_name.h.
 */
#include <linux/cgroup.h>
#include <linux/memcontrol.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include "guest.h"
#include "kmod/lookup_name.h"

/* 6.11 has one option for both */
#if defined(CONFIG_MEMCG_KMEM) || (defined(CONFIG_MEMCG) && !defined(HT_HAS_MEMCG_KMEM_OPTION))
#define HTG_MEMCG 1
#else
#define HTG_MEMCG 0
#endif

struct htg_account {
	struct obj_cgroup *objcg; /* NULL: nobody counts, neither do we */
	refcount_t refs;
	atomic64_t charged;	/* frames */
	struct list_head node;	/* in htg_accounts; under htg_accounts_lock */
};

/* Processes outside of all cgroups, and kernels that have none. Never freed. */
static struct htg_account htg_nobody = { .refs = REFCOUNT_INIT(1) };
static LIST_HEAD(htg_accounts);		/* one for each objcg */
static DEFINE_MUTEX(htg_accounts_lock);	/* taken last, but for credit locks */
static u64 htg_memcg_state = HTG_MEMCG_NONE;

/* One call charges less than 4 GiB: 6.1 and 6.12 count bytes in 32 bits (refill_obj_stock()). */
#define HTG_CHARGE_STEP (1ull << 18)

/* The credit of an L2, in frames: a 64th of what its cgroup holds of our frames, within these. */
#define HTG_CREDIT_MIN 512ull
#define HTG_CREDIT_MIN_LARGE (4 * HT_LARGE_PAGES) /* half of it, when it is topped up, is enough for a 2 MiB frame */
#define HTG_CREDIT_MAX 8192ull
#define HTG_CREDIT_SHARE 64
#define HTG_CREDIT_LEAST 64ull	/* less than that is not worth a charge: one group of a program */
#define HTG_IDLE_TICK HZ

/* With cgroup.memory=nokmem, and as long as there is no cgroup but the root, nobody counts what is charged as we do it. */
u64 htg_memcg(void)
{
	return htg_memcg_state == HTG_MEMCG_CHARGED && !ht_memcg_kmem() ? HTG_MEMCG_OFF : htg_memcg_state;
}

#if HTG_MEMCG
DEFINE_STATIC_CALL_NULL(htg_objcg_charge, obj_cgroup_charge);
DEFINE_STATIC_CALL_NULL(htg_objcg_uncharge, obj_cgroup_uncharge);

/* The objcg that a process charges now, with a reference; NULL at the root. As get_obj_cgroup_from_current(). */
static struct obj_cgroup *htg_objcg_of(struct mm_struct *mm)
{
	struct mem_cgroup *memcg, *at;
	struct obj_cgroup *objcg = NULL;

	if (htg_memcg_state != HTG_MEMCG_CHARGED)
		return NULL;
	memcg = get_mem_cgroup_from_mm(mm);
	rcu_read_lock();
	for (at = memcg; at && parent_mem_cgroup(at); at = parent_mem_cgroup(at)) {
		objcg = ht_memcg_objcg(at);
		if (objcg && obj_cgroup_tryget(objcg))
			break;
		objcg = NULL;
	}
	rcu_read_unlock();
	mem_cgroup_put(memcg);
	return objcg;
}

/* Frames that may be charged before something has to be reclaimed or waited for. */
static u64 htg_account_room(const struct htg_account *acc)
{
	struct mem_cgroup *memcg;
	u64 room = U64_MAX;

	rcu_read_lock();
	for (memcg = obj_cgroup_memcg(acc->objcg); memcg; memcg = parent_mem_cgroup(memcg)) {
		u64 most = min(READ_ONCE(memcg->memory.max), READ_ONCE(memcg->memory.high));
		u64 used = page_counter_read(&memcg->memory);

		room = min(room, most > used ? most - used : 0);
	}
	rcu_read_unlock();
	return room;
}

void htg_account_path(const struct htg_account *acc, char *buf, size_t bytes)
{
	buf[0] = 0;
	if (!acc || !acc->objcg)
		return;
	rcu_read_lock();
	cgroup_path(obj_cgroup_memcg(acc->objcg)->css.cgroup, buf, bytes);
	rcu_read_unlock();
}

static void htg_memcg_find(void)
{
	htg_memcg_state = HTG_MEMCG_OFF;
	if (mem_cgroup_disabled())
		return;
	htg_memcg_state = HTG_MEMCG_NONE;
	if (!ht_bind(htg_objcg_charge, "obj_cgroup_charge") && !ht_bind(htg_objcg_uncharge, "obj_cgroup_uncharge"))
		htg_memcg_state = HTG_MEMCG_CHARGED;
}
#else
#define htg_objcg_of(mm) ((struct obj_cgroup *)NULL)
#define htg_account_room(acc) U64_MAX
#define htg_memcg_find() do { } while (0)
void htg_account_path(const struct htg_account *acc, char *buf, size_t bytes)
{
	buf[0] = 0;
}
#endif

/* The account that this process's memory belongs to, with a reference; NULL: no memory for it. Sleeps. */
struct htg_account *htg_account_of(struct mm_struct *mm)
{
	struct obj_cgroup *objcg = htg_objcg_of(mm);
	struct htg_account *acc;

	if (!objcg)
		return htg_account_get(&htg_nobody);
	mutex_lock(&htg_accounts_lock);
	list_for_each_entry(acc, &htg_accounts, node)
		if (acc->objcg == objcg) {
			refcount_inc(&acc->refs);	/* not 0: anyone who makes it so holds our lock */
			mutex_unlock(&htg_accounts_lock);
			obj_cgroup_put(objcg);
			return acc;
		}
	acc = kzalloc(sizeof(*acc), GFP_KERNEL);
	if (acc) {
		acc->objcg = objcg;
		refcount_set(&acc->refs, 1);
		list_add(&acc->node, &htg_accounts);
	}
	mutex_unlock(&htg_accounts_lock);
	if (!acc)
		obj_cgroup_put(objcg);
	return acc;
}

struct htg_account *htg_account_get(struct htg_account *acc)
{
	refcount_inc(&acc->refs);
	return acc;
}

void htg_account_put(struct htg_account *acc)
{
	if (!acc || !refcount_dec_and_mutex_lock(&acc->refs, &htg_accounts_lock))
		return;
	list_del(&acc->node);
	mutex_unlock(&htg_accounts_lock);
	htg_account_uncharge(acc, U64_MAX);	/* nothing, unless a program took what it must not */
	obj_cgroup_put(acc->objcg);
	kfree(acc);
}

u64 htg_account_charged(const struct htg_account *acc)
{
	return acc ? atomic64_read(&acc->charged) : 0;
}

/* Charges n frames: 0, or -ENOMEM with none charged. Sleeps as gfp says; with GFP_NOWAIT callable with interrupts off. */
int htg_account_charge(struct htg_account *acc, u64 n, gfp_t gfp)
{
#if HTG_MEMCG
	u64 step, done;

	if (!acc->objcg)
		return 0;
	for (done = 0; done < n; done += step) {
		step = min(n - done, HTG_CHARGE_STEP);
		if (static_call(htg_objcg_charge)(acc->objcg, gfp, step << PAGE_SHIFT)) {
			htg_account_uncharge(acc, done);
			return -ENOMEM;
		}
		atomic64_add(step, &acc->charged);
	}
#endif
	return 0;
}

/*
 * The number of frames a program has taken is its own word. One that took more than it was allowed to makes its cgroup's
 * count too low, never the kernel's counters negative.
 */
void htg_account_uncharge(struct htg_account *acc, u64 n)
{
#if HTG_MEMCG
	s64 had, less;

	if (!acc || !acc->objcg || !n)
		return;
	had = atomic64_read(&acc->charged);
	do
		less = min_t(u64, n, had);
	while (!atomic64_try_cmpxchg(&acc->charged, &had, had - less));
	while (less > 0) {
		s64 step = min_t(s64, less, HTG_CHARGE_STEP);

		static_call(htg_objcg_uncharge)(acc->objcg, step << PAGE_SHIFT);
		less -= step;
	}
#endif
}

/* --- credit --- */

static atomic64_t htg_credit_serial;
static LIST_HEAD(htg_credits);		/* those that are open */
static DEFINE_MUTEX(htg_credits_lock);	/* within htg_lock and mmap_lock; only locks of credits within it */
static void htg_credits_idle(struct work_struct *work);
static DECLARE_DELAYED_WORK(htg_idle_work, htg_credits_idle);

/* Caller holds c->lock. */
static void htg_credit_resident(struct htg_credit *c, u64 pages)
{
	pages = min_t(u64, pages, totalram_pages()); /* what programs say may be anything */
	if (c->mm && pages != c->resident) {
		ht_mm_counter_add(c->mm, MM_SHMEMPAGES, (long)pages - (long)c->resident);
		c->resident = pages;
	}
}

/*
 * What the L2's words say: `held` frames, when programs had taken `taken` in all. Some of them the VMM has mapped, and
 * those are in its count of file pages already, with the pages of its program.
 */
void htg_credit_recount(struct htg_credit *c, u64 held, u64 taken)
{
	unsigned long flags;
	u64 files;

	raw_spin_lock_irqsave(&c->lock, flags);
	if (c->rec) {
		files = get_mm_counter(c->mm, MM_FILEPAGES);
		c->counted = taken;
		htg_credit_resident(c, held - min(held, files > c->files ? files - c->files : 0));
	}
	raw_spin_unlock_irqrestore(&c->lock, flags);
}

void htg_credit_mapped(struct htg_credit *c, u64 pages)
{
	c->files -= min(c->files, pages);
}

/* More frames than when we last looked. */
static void htg_credit_count(struct htg_credit *c)
{
	unsigned long flags;
	u64 taken;

	raw_spin_lock_irqsave(&c->lock, flags);
	if (c->rec) {
		taken = READ_ONCE(c->rec->frames_taken);
		if (taken > c->counted)
			htg_credit_resident(c, c->resident + (taken - c->counted));
		c->counted = taken;
	}
	raw_spin_unlock_irqrestore(&c->lock, flags);
	htg_l2_recount_soon();
}

static void htg_credit_publish(struct htg_credit *c)
{
	WRITE_ONCE(c->rec->frames_limit, min(c->paid, c->own_limit));
}

/*
 * Takes back what is paid and not taken, while programs may run. They add to frames_taken and only then look at the
 * limit, we clear the limit and only then look at frames_taken, both with full barriers: so each program either sees
 * that nothing is allowed, or is counted in what we read. Caller holds c->lock. Returns frames to uncharge.
 */
static u64 htg_credit_take_back(struct htg_credit *c)
{
	u64 taken, back;

	xchg(&c->rec->frames_limit, 0);
	taken = READ_ONCE(c->rec->frames_taken);
	back = c->paid - min(c->paid, taken);
	c->paid -= back;
	c->seen = taken;
	htg_credit_publish(c);
	return back;
}

/* The address space stays until its MMU notifier's release, before which the credit is closed. */
void htg_credit_open(struct htg_credit *c, struct ht_l2 *rec, struct htg_account *acc, struct mm_struct *mm,
		     u64 own_limit)
{
	raw_spin_lock_init(&c->lock);
	c->account = acc;
	c->mm = mm;
	c->files = get_mm_counter(mm, MM_FILEPAGES);
	c->own_limit = own_limit;
	c->limited = acc->objcg;
	c->paid = c->limited ? 0 : U64_MAX;
	c->serial = atomic64_inc_return(&htg_credit_serial);
	c->low = HTG_CREDIT_LEAST;
	c->rec = rec;
	htg_credit_publish(c);
	mutex_lock(&htg_credits_lock);
	list_add(&c->node, &htg_credits);
	mutex_unlock(&htg_credits_lock);
}

/* Its L2 is off, a grace period ago. */
void htg_credit_close(struct htg_credit *c)
{
	unsigned long flags;
	u64 back = 0;

	mutex_lock(&htg_credits_lock);
	list_del(&c->node);
	mutex_unlock(&htg_credits_lock);
	raw_spin_lock_irqsave(&c->lock, flags);
	if (c->limited)
		back = htg_credit_take_back(c);
	htg_credit_resident(c, 0);
	c->rec = NULL;
	raw_spin_unlock_irqrestore(&c->lock, flags);
	htg_account_uncharge(c->account, back);
}

u64 htg_credit_left(struct htg_credit *c)
{
	unsigned long flags;
	u64 left = 0;

	raw_spin_lock_irqsave(&c->lock, flags);
	if (c->rec && c->limited)
		left = max_t(s64, 0, c->paid - READ_ONCE(c->rec->frames_taken));
	raw_spin_unlock_irqrestore(&c->lock, flags);
	return left;
}

/*
 * Frames to charge now, as credit under way until htg_credit_settle(); 0: none. `press`: some even where that may mean to
 * reclaim. What a program says to have taken beyond what was paid is charged after the fact, within reason.
 *
 * Whatever the number of vCPUs that ask at once, credit and what is under way stay within a quarter of the room that there
 * would be without both, or HTG_CREDIT_LEAST where that is less and `press`: all is read and decided under one lock.
 * (What is under way may be in the cgroup's count already or not; we take it for not yet, so err to the safe side.)
 */
u64 htg_credit_wanted(struct htg_credit *c, bool press)
{
	s64 credit, coming, want, quarter, own, n = 0;
	unsigned long flags;
	u64 taken;

	if (!c->limited)
		return 0;
	want = clamp(htg_account_charged(c->account) / HTG_CREDIT_SHARE,
		     htg_large_frames ? HTG_CREDIT_MIN_LARGE : HTG_CREDIT_MIN, HTG_CREDIT_MAX);
	raw_spin_lock_irqsave(&c->lock, flags);
	if (!c->rec)
		goto out;
	taken = READ_ONCE(c->rec->frames_taken);
	c->seen = taken;
	credit = c->paid - taken;
	coming = c->coming;
	WRITE_ONCE(c->low, want / 2);
	if (credit + coming >= want / 2 || credit < -(s64)HTG_CREDIT_MAX || c->paid + coming >= c->own_limit)
		goto out;
	own = min_t(u64, c->own_limit - c->paid - coming, S64_MAX);
	quarter = min_t(u64, htg_account_room(c->account), S64_MAX / 2);
	quarter = (quarter + max(credit, 0ll)) / 4;
	if (press)
		quarter = max_t(s64, quarter, HTG_CREDIT_LEAST);
	n = min(min(want, quarter) - credit - coming, own);
	if (n < min_t(s64, HTG_CREDIT_LEAST, own)) /* the last of a limit of frames may be less */
		n = 0;
	c->coming += n;
out:
	raw_spin_unlock_irqrestore(&c->lock, flags);
	return n;
}

/*
 * The end of what htg_credit_wanted() has begun: n frames were charged, or could not be. Returns what of them is not the
 * L2's now, and so the caller's to uncharge.
 */
u64 htg_credit_settle(struct htg_credit *c, u64 serial, u64 n, bool charged)
{
	unsigned long flags;
	bool done;

	raw_spin_lock_irqsave(&c->lock, flags);
	if (c->serial == serial)
		c->coming -= n;
	done = charged && c->rec && c->serial == serial;
	if (done) {
		c->paid += n;
		htg_credit_publish(c);
	}
	raw_spin_unlock_irqrestore(&c->lock, flags);
	if (done && !delayed_work_pending(&htg_idle_work))
		schedule_delayed_work(&htg_idle_work, HTG_IDLE_TICK);
	return charged && !done ? n : 0;
}

/*
 * At an entry of the L2, interrupts off: more credit while its cgroup has room. In the thread of the VMM, so that
 * memory.high slows the right one down. With PREEMPT_RT nothing can be charged here, so htg_fault() alone does it.
 */
void htg_credit_top_up(struct htg_credit *c)
{
	u64 n = 0;

	htg_credit_count(c);
	if (!IS_ENABLED(CONFIG_PREEMPT_RT))
		n = htg_credit_wanted(c, false);
	if (!n) /* no other L2 is here meanwhile: the caller is within RCU */
		return;
	n = htg_credit_settle(c, c->serial, n, !htg_account_charge(c->account, n, GFP_NOWAIT | __GFP_NOWARN));
	htg_account_uncharge(c->account, n);
}

/* Credit of which nothing was used since the last time. Its L2 gets some again when it next faults in L1. */
static void htg_credits_idle(struct work_struct *work)
{
	struct htg_credit *c;
	bool some = false;

	mutex_lock(&htg_credits_lock);
	list_for_each_entry(c, &htg_credits, node) {
		u64 taken, back = 0;

		if (!c->limited)
			continue;
		raw_spin_lock_irq(&c->lock);
		if (c->rec) {
			taken = READ_ONCE(c->rec->frames_taken);
			if (taken == c->idle)
				back = htg_credit_take_back(c);
			else
				some |= c->paid > taken;
			c->idle = taken;
		}
		raw_spin_unlock_irq(&c->lock);
		htg_account_uncharge(c->account, back);
	}
	mutex_unlock(&htg_credits_lock);
	if (some)
		schedule_delayed_work(&htg_idle_work, HTG_IDLE_TICK);
}

/*
 * All credit of an account back, used or not: before its cgroup meets the OOM killer for the lack of that. Its L2s get
 * some again as those whose credit was idle.
 */
static void htg_credits_call_in(struct htg_account *acc)
{
	struct htg_credit *c;

	mutex_lock(&htg_credits_lock);
	list_for_each_entry(c, &htg_credits, node) {
		u64 back = 0;

		if (!c->limited || c->account != acc)
			continue;
		raw_spin_lock_irq(&c->lock);
		if (c->rec)
			back = htg_credit_take_back(c);
		raw_spin_unlock_irq(&c->lock);
		htg_account_uncharge(acc, back);
	}
	mutex_unlock(&htg_credits_lock);
}

/*
 * A frame for a fault, charged with all that a fault's memory may do: wait, reclaim, and in the end call the OOM killer.
 * Caller may sleep. It holds mmap_lock of the VMM for reading (a fault), or the lock of the file's inode (write(): then
 * what else needs that lock, as a hole in the same file, waits too). Nobody holds htg_lock or a file's sem who waits for these.
 */
int htg_account_charge_one(struct htg_account *acc)
{
	if (!htg_account_charge(acc, 1, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN))
		return 0;
	htg_credits_call_in(acc);
	return htg_account_charge(acc, 1, GFP_KERNEL);
}

void htg_account_init(void)
{
	htg_memcg_find();
}

/* No file and no L2 is left. */
void htg_account_exit(void)
{
	cancel_delayed_work_sync(&htg_idle_work);
}
