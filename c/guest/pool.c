// SPDX-License-Identifier: GPL-2.0
/*
 * The pool of zeroed frames that programs take from. We alone put frames in, many take: programs in L0, and
 * the shrinker. Refilled when its level is seen to be low while L1 runs anyway: at the entry of an L2, at a
 * page fault of turtlefs; never by polling.
 *
 * Zeroing frames costs the CPU time that L2s would have. So a pool that is merely not full is refilled by a
 * thread that runs when nothing else wants to (nice 19); one that is nearly empty, when an L2 would soon wait
 * for L1 at each fault, by an ordinary worker, and only so far that the thread can go on.
 */
#include <linux/highmem.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/minmax.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include "guest.h"

static DEFINE_SPINLOCK(htg_push_lock);	/* anyone who puts a frame in; never held while one is made */
static u64 htg_low, htg_high;
static unsigned long htg_pressure_until; /* jiffies: no refill before, memory was short */
static unsigned long htg_large_until;	/* the same for 2 MiB frames, there were none */
static struct kthread_worker *htg_worker;

#define HTG_PRESSURE_PAUSE (5 * HZ)
#define HTG_POOL_MAX_PAGES ((512ul << 20) >> PAGE_SHIFT)

/* Frames in a ring. Programs move its head, so it may be anything. */
static u64 htg_ring_level(const u64 *ring_head, const u64 *ring_tail)
{
	u64 head = READ_ONCE(*ring_head), tail = READ_ONCE(*ring_tail);

	return tail > head ? tail - head : 0;
}

u64 htg_pool_level(const struct htg_arena *a)
{
	return htg_ring_level(&a->h->pool_head, &a->h->pool_tail);
}

u64 htg_pool_low(void)
{
	return READ_ONCE(htg_low);
}

u64 htg_pool_high(void)
{
	return READ_ONCE(htg_high);
}

/* Takes one frame as a program does; 0 if the ring is empty. */
static u64 htg_ring_take(u64 *ring_head, const u64 *ring_tail, u64 *slots, u64 entries)
{
	u64 head = READ_ONCE(*ring_head);

	while (head < READ_ONCE(*ring_tail)) {
		u64 seen = cmpxchg64(ring_head, head, head + 1);

		if (seen == head)
			return xchg(&slots[head & (entries - 1)], 0);
		head = seen;
	}
	return 0;
}

static u64 htg_pool_take(struct htg_arena *a)
{
	return htg_ring_take(&a->h->pool_head, &a->h->pool_tail, a->pool, a->h->pool_entries);
}

u64 htg_large_take(struct htg_arena *a)
{
	if (!a->large_pool)
		return 0;
	return htg_ring_take(&a->h->large_head, &a->h->large_tail, a->large_pool, HT_LARGE_ENTRIES);
}

static u64 htg_large_in_pool(const struct htg_arena *a)
{
	return htg_ring_level(&a->h->large_head, &a->h->large_tail);
}

u64 htg_large_level(const struct htg_arena *a)
{
	u64 i, n = htg_large_in_pool(a);

	for (i = 0; i < a->h->cpus_count; i++)
		n += READ_ONCE(a->cpus[i].spare_large) != 0;
	return n;
}

static u64 htg_large_wanted(const struct htg_arena *a)
{
	return a->large_pool ? min_t(u64, htg_large_frames, HT_LARGE_ENTRIES) : 0;
}

/* Nearly empty: programs map no neighbours ahead, and the ordinary worker refills. */
static u64 htg_reserve(u64 low, u64 high)
{
	return min(low, high / 8);
}

/* Anyone who holds htg_push_lock alone moves tail. */
static bool htg_ring_push(u64 *ring_tail, u64 *slots, u64 entries, struct page *page)
{
	u64 tail = *ring_tail, *slot = &slots[tail & (entries - 1)];

	if (READ_ONCE(*slot))
		return false; /* its taker has moved head but not fetched yet: later */
	WRITE_ONCE(*slot, htg_word(page));
	smp_store_release(ring_tail, tail + 1);
	return true;
}

/* Puts a zeroed frame in, unless the level is `upto` or its slot is still being taken from. */
static bool htg_pool_push(struct page *page, u64 upto)
{
	struct htg_arena *a;
	bool done;

	rcu_read_lock();
	spin_lock(&htg_push_lock);
	a = rcu_dereference(htg_arena);
	done = a && htg_pool_level(a) < upto && htg_ring_push(&a->h->pool_tail, a->pool, a->h->pool_entries, page);
	spin_unlock(&htg_push_lock);
	rcu_read_unlock();
	return done;
}

/* The same for 512 frames that lie side by side. */
static bool htg_large_push(struct page *page)
{
	struct htg_arena *a;
	bool done;

	rcu_read_lock();
	spin_lock(&htg_push_lock);
	a = rcu_dereference(htg_arena);
	done = a && htg_large_in_pool(a) < htg_large_wanted(a) &&
	       htg_ring_push(&a->h->large_tail, a->large_pool, HT_LARGE_ENTRIES, page);
	spin_unlock(&htg_push_lock);
	rcu_read_unlock();
	return done;
}

static void htg_pool_fill(u64 upto)
{
	gfp_t gfp = GFP_HIGHUSER | __GFP_ZERO | __GFP_NORETRY | __GFP_NOWARN | __GFP_NOMEMALLOC;
	u64 n = 0;

	while (!time_before(jiffies, READ_ONCE(htg_pressure_until))) {
		struct page *page = alloc_page(gfp);

		if (!page) {
			WRITE_ONCE(htg_pressure_until, jiffies + HTG_PRESSURE_PAUSE);
			break;
		}
		if (!htg_pool_push(page, upto)) {
			__free_page(page);
			break;
		}
		atomic64_inc(&htg_count.frames_allocated);
		n++;
		cond_resched();
	}
	if (n)
		atomic64_inc(&htg_count.refills);
}

/* Memory may be plenty and in pieces: then there is none for now, and pages are of 4 KiB. */
static void htg_refill_large_work(struct kthread_work *work)
{
	gfp_t gfp = GFP_HIGHUSER | __GFP_NORETRY | __GFP_NOWARN | __GFP_NOMEMALLOC;

	while (!time_before(jiffies, READ_ONCE(htg_pressure_until)) &&
	       !time_before(jiffies, READ_ONCE(htg_large_until))) {
		struct page *page = alloc_pages(gfp, HTG_LARGE_ORDER);
		unsigned int i;

		if (!page) {
			WRITE_ONCE(htg_large_until, jiffies + HTG_PRESSURE_PAUSE);
			break;
		}
		split_page(page, HTG_LARGE_ORDER);
		atomic64_add(HTG_GRANULE, &htg_count.frames_allocated);
		for (i = 0; i < HTG_GRANULE; i++) { /* page by page: 2 MiB in one go keep a CPU too long */
			clear_highpage(page + i);
			cond_resched();
		}
		if (!htg_large_push(page)) {
			htg_put_large(htg_word(page));
			break;
		}
	}
}

static void htg_refill_idle_work(struct kthread_work *work)
{
	htg_pool_fill(READ_ONCE(htg_high));
}

static void htg_refill_now_work(struct work_struct *work)
{
	u64 low = READ_ONCE(htg_low);

	htg_pool_fill(min(low, 2 * htg_reserve(low, READ_ONCE(htg_high))));
}

static DEFINE_KTHREAD_WORK(htg_refill_idle, htg_refill_idle_work);
static DEFINE_KTHREAD_WORK(htg_refill_large, htg_refill_large_work);
static DECLARE_WORK(htg_refill_now, htg_refill_now_work);

/* Queues a refill of 2 MiB frames, as htg_pool_poke() does it. */
void htg_large_poke(struct htg_arena *a)
{
	if (htg_large_in_pool(a) < htg_large_wanted(a) && !time_before(jiffies, READ_ONCE(htg_large_until)))
		kthread_queue_work(htg_worker, &htg_refill_large);
}

/* May be called with interrupts off, under RCU or htg_lock. */
void htg_pool_poke(struct htg_arena *a)
{
	u64 low = READ_ONCE(htg_low), level = htg_pool_level(a);

	if (time_before(jiffies, READ_ONCE(htg_pressure_until)))
		return;
	htg_large_poke(a);
	if (level >= low)
		return;
	if (level < htg_reserve(low, READ_ONCE(htg_high)) && !work_pending(&htg_refill_now))
		queue_work(ht_unbound_wq, &htg_refill_now);
	kthread_queue_work(htg_worker, &htg_refill_idle); /* nothing when it is queued already */
}

static void htg_pool_limits(struct htg_arena *a, u64 low, u64 high)
{
	WRITE_ONCE(htg_low, low);
	WRITE_ONCE(htg_high, high);
	WRITE_ONCE(a->h->pool_low, htg_reserve(low, high)); /* what is left then is for faults */
}

static void htg_refills_cancel(void)
{
	kthread_cancel_work_sync(&htg_refill_idle);
	kthread_cancel_work_sync(&htg_refill_large);
	cancel_work_sync(&htg_refill_now);
}

int htg_pool_set(u64 low, u64 high)
{
	struct htg_arena *a;
	int ret = -ENODEV;

	mutex_lock(&htg_lock);
	a = rcu_dereference_protected(htg_arena, lockdep_is_held(&htg_lock));
	if (a) {
		ret = -EINVAL;
		if (low <= high && high <= a->h->pool_entries) {
			htg_pool_limits(a, low, high);
			htg_pool_poke(a);
			ret = 0;
		}
	}
	mutex_unlock(&htg_lock);
	return ret;
}

/*
 * Defaults: up to 1/16 of memory in the pool (it is given back when memory is short), at most 512 MiB;
 * refilled when a quarter of that is gone.
 */
void htg_pool_start(struct htg_arena *a)
{
	u64 high = min_t(u64, a->h->pool_entries, min(totalram_pages() / 16, HTG_POOL_MAX_PAGES));

	htg_pool_limits(a, high - high / 4, high);
	htg_pressure_until = jiffies;
	htg_large_until = jiffies;
}

void htg_pool_stop(struct htg_arena *a)
{
	u64 i;

	htg_refills_cancel();
	/* no program runs: whatever is in a slot, taken or not, is ours again */
	for (i = 0; i < a->h->pool_entries; i++) {
		u64 word = xchg(&a->pool[i], 0);

		if (word)
			htg_put_frame(htg_word_page(word));
	}
	for (i = 0; i < a->h->cpus_count; i++) {
		u64 word = xchg(&a->cpus[i].spare, 0);

		if (word)
			htg_put_frame(htg_word_page(word));
		word = xchg(&a->cpus[i].spare_large, 0);
		if (word)
			htg_put_large(word);
	}
	for (i = 0; a->large_pool && i < HT_LARGE_ENTRIES; i++) {
		u64 word = xchg(&a->large_pool[i], 0);

		if (word)
			htg_put_large(word);
	}
}

static unsigned long htg_shrink_count(struct shrinker *s, struct shrink_control *sc)
{
	struct htg_arena *a;
	unsigned long n = 0;

	rcu_read_lock();
	a = rcu_dereference(htg_arena);
	if (a)
		n = htg_pool_level(a) + htg_large_in_pool(a) * HTG_GRANULE;
	rcu_read_unlock();
	return n ?: SHRINK_EMPTY;
}

static unsigned long htg_shrink_scan(struct shrinker *s, struct shrink_control *sc)
{
	struct htg_arena *a;
	unsigned long n = 0;

	WRITE_ONCE(htg_pressure_until, jiffies + HTG_PRESSURE_PAUSE);
	rcu_read_lock();
	a = rcu_dereference(htg_arena);
	while (a && n < sc->nr_to_scan) {
		u64 word = htg_pool_take(a);

		if (word) {
			htg_put_frame(htg_word_page(word));
			n++;
			continue;
		}
		word = htg_large_take(a);
		if (!word)
			break;
		htg_put_large(word);
		n += HTG_GRANULE;
	}
	rcu_read_unlock();
	atomic64_add(n, &htg_count.shrunk);
	return n ?: SHRINK_STOP;
}

#if HT_SHRINKER_DYNAMIC
static struct shrinker *htg_shrinker;

static int htg_shrinker_register(void)
{
	htg_shrinker = shrinker_alloc(0, "hyperturtle-pool");
	if (!htg_shrinker)
		return -ENOMEM;
	htg_shrinker->count_objects = htg_shrink_count;
	htg_shrinker->scan_objects = htg_shrink_scan;
	shrinker_register(htg_shrinker);
	return 0;
}

static void htg_shrinker_unregister(void)
{
	shrinker_free(htg_shrinker);
}
#else
static struct shrinker htg_shrinker = {
	.count_objects = htg_shrink_count,
	.scan_objects = htg_shrink_scan,
	.seeks = DEFAULT_SEEKS,
};

static int htg_shrinker_register(void)
{
	return register_shrinker(&htg_shrinker, "hyperturtle-pool");
}

static void htg_shrinker_unregister(void)
{
	unregister_shrinker(&htg_shrinker);
}
#endif

int htg_pool_init(void)
{
	int ret;

	htg_worker = ht_kthread_worker("hyperturtle_pool");
	if (IS_ERR(htg_worker))
		return PTR_ERR(htg_worker);
	set_user_nice(htg_worker->task, MAX_NICE);
	ret = htg_shrinker_register();
	if (ret)
		kthread_destroy_worker(htg_worker);
	return ret;
}

void htg_pool_exit(void)
{
	htg_shrinker_unregister();
	htg_refills_cancel();
	kthread_destroy_worker(htg_worker);
}
