// SPDX-License-Identifier: GPL-2.0
/*
 * The pool of zeroed frames that programs take from. We alone put frames in (one worker), many take: programs
 * in L0, and the shrinker. Refilled when its level is seen to be low while L1 runs anyway: at the entry of an
 * L2, at a page fault of turtlefs; never by polling.
 */
#include <linux/jiffies.h>
#include <linux/minmax.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/workqueue.h>
#include "guest.h"

static DEFINE_MUTEX(htg_pool_lock);	/* whoever puts frames in */
static u64 htg_low, htg_high;
static unsigned long htg_pressure_until; /* jiffies: no refill before, memory was short */

#define HTG_PRESSURE_PAUSE (5 * HZ)

u64 htg_pool_level(const struct htg_arena *a)
{
	u64 head = READ_ONCE(a->h->pool_head), tail = READ_ONCE(a->h->pool_tail);

	return tail > head ? tail - head : 0;
}

u64 htg_pool_low(void)
{
	return READ_ONCE(htg_low);
}

u64 htg_pool_high(void)
{
	return READ_ONCE(htg_high);
}

static u64 *htg_pool_slot(const struct htg_arena *a, u64 n)
{
	return &a->pool[n & (a->h->pool_entries - 1)];
}

/* Takes one frame as a program does; 0 if the pool is empty. */
static u64 htg_pool_take(struct htg_arena *a)
{
	u64 head = READ_ONCE(a->h->pool_head);

	while (head < READ_ONCE(a->h->pool_tail)) {
		u64 seen = cmpxchg64(&a->h->pool_head, head, head + 1);

		if (seen == head)
			return xchg(htg_pool_slot(a, head), 0);
		head = seen;
	}
	return 0;
}

static void htg_refill_work(struct work_struct *work)
{
	gfp_t gfp = GFP_HIGHUSER | __GFP_ZERO | __GFP_NORETRY | __GFP_NOWARN | __GFP_NOMEMALLOC;
	struct htg_arena *a;
	u64 n = 0;

	mutex_lock(&htg_pool_lock);
	for (;;) {
		struct page *page;
		u64 *slot;
		bool more = false;

		if (time_before(jiffies, READ_ONCE(htg_pressure_until)))
			break;
		page = alloc_page(gfp);
		if (!page) {
			WRITE_ONCE(htg_pressure_until, jiffies + HTG_PRESSURE_PAUSE);
			break;
		}
		rcu_read_lock();
		a = rcu_dereference(htg_arena);
		if (a && htg_pool_level(a) < READ_ONCE(htg_high)) {
			u64 tail = a->h->pool_tail; /* ours alone */

			slot = htg_pool_slot(a, tail);
			if (!READ_ONCE(*slot)) { /* else its taker has moved head but not fetched yet: later */
				WRITE_ONCE(*slot, htg_word(page));
				smp_store_release(&a->h->pool_tail, tail + 1);
				more = true;
			}
		}
		rcu_read_unlock();
		if (!more) {
			__free_page(page);
			break;
		}
		atomic64_inc(&htg_count.frames_allocated);
		n++;
		cond_resched();
	}
	mutex_unlock(&htg_pool_lock);
	if (n)
		atomic64_inc(&htg_count.refills);
}

static DECLARE_WORK(htg_refill, htg_refill_work);

/* May be called with interrupts off, under RCU or htg_lock. */
void htg_pool_poke(struct htg_arena *a)
{
	if (htg_pool_level(a) < READ_ONCE(htg_low) && !work_pending(&htg_refill) &&
	    !time_before(jiffies, READ_ONCE(htg_pressure_until)))
		queue_work(system_unbound_wq, &htg_refill);
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
			WRITE_ONCE(htg_low, low);
			WRITE_ONCE(htg_high, high);
			WRITE_ONCE(a->h->pool_low, low / 4);
			htg_pool_poke(a);
			ret = 0;
		}
	}
	mutex_unlock(&htg_lock);
	return ret;
}

/* Defaults: up to 1/64 of memory in the pool; refilled when half of that is gone. */
void htg_pool_start(struct htg_arena *a)
{
	htg_high = min_t(u64, a->h->pool_entries, totalram_pages() / 64);
	htg_low = htg_high / 2;
	a->h->pool_low = htg_low / 4; /* below this programs map no neighbours ahead: keep what is left for faults */
	htg_pressure_until = jiffies;
}

void htg_pool_stop(struct htg_arena *a)
{
	u64 i;

	cancel_work_sync(&htg_refill);
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
	}
}

static unsigned long htg_shrink_count(struct shrinker *s, struct shrink_control *sc)
{
	struct htg_arena *a;
	unsigned long n = 0;

	rcu_read_lock();
	a = rcu_dereference(htg_arena);
	if (a)
		n = htg_pool_level(a);
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

		if (!word)
			break;
		htg_put_frame(htg_word_page(word));
		n++;
	}
	rcu_read_unlock();
	atomic64_add(n, &htg_count.shrunk);
	return n ?: SHRINK_STOP;
}

#if HT_SHRINKER_DYNAMIC
static struct shrinker *htg_shrinker;

int htg_pool_init(void)
{
	htg_shrinker = shrinker_alloc(0, "hyperturtle-pool");
	if (!htg_shrinker)
		return -ENOMEM;
	htg_shrinker->count_objects = htg_shrink_count;
	htg_shrinker->scan_objects = htg_shrink_scan;
	shrinker_register(htg_shrinker);
	return 0;
}

void htg_pool_exit(void)
{
	shrinker_free(htg_shrinker);
	cancel_work_sync(&htg_refill);
}
#else
static struct shrinker htg_shrinker = {
	.count_objects = htg_shrink_count,
	.scan_objects = htg_shrink_scan,
	.seeks = DEFAULT_SEEKS,
};

int htg_pool_init(void)
{
	return register_shrinker(&htg_shrinker, "hyperturtle-pool");
}

void htg_pool_exit(void)
{
	unregister_shrinker(&htg_shrinker);
	cancel_work_sync(&htg_refill);
}
#endif
