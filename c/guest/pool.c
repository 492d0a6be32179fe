// SPDX-License-Identifier: GPL-2.0
/*
 * The pool of zeroed frames that programs take from. We alone put frames in, many take: programs in L0, and
 * the shrinker. Refilled when its level is seen to be low while L1 runs anyway: at the entry of an L2, at a
 * page fault of turtlefs; never by polling.
 *
 * Zeroing frames costs the CPU time that L2s would have. So a pool that is merely not full is refilled by a
 * thread that runs when nothing else wants to (nice 19); one that is nearly empty, when an L2 would soon wait
 * for L1 at each fault, by an ordinary worker, and only so far that the thread can go on.
 *
 * There is one for each NUMA node, with frames of that node alone; which one a program takes from says policy.c.
 */
#include <linux/highmem.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/mmzone.h>
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>
#include "guest.h"

static DEFINE_SPINLOCK(htg_push_lock);	/* anyone who puts a frame in; never held while one is made */
static struct kthread_worker *htg_worker;

unsigned int htg_pool_count;
int htg_pool_nodes[HT_MAX_POOLS];

/* Of each pool; low, high and large are its shares. */
static struct {
	u64 low, high, large;
	unsigned long pressure_until;	/* jiffies: no refill before, memory was short */
	unsigned long large_until;	/* the same for 2 MiB frames, there were none */
} htg_state[HT_MAX_POOLS];
static u64 htg_low, htg_high;		/* of all together */

#define HTG_PRESSURE_PAUSE (5 * HZ)
#define HTG_POOL_MAX_PAGES ((512ul << 20) >> PAGE_SHIFT)
#define HTG_LARGE_MOST ((u64)HT_LARGE_ENTRIES) /* of all pools together */

/*
 * With -1 the pool of 2 MiB frames takes what is free and nobody misses: at most an eighth of memory, and nothing
 * that would leave a node less than an eighth free above its watermarks; and none for a while after memory was short.
 */
#define HTG_LARGE_SHARE 8
#define HTG_LARGE_PAUSE (30 * HZ)

int htg_large_frames;
module_param_named(large_frames, htg_large_frames, int, 0444);
MODULE_PARM_DESC(large_frames, "2 MiB frames to keep for nested guests, at most 256; -1: as many as free memory allows (default: 0, all pages are of 4 KiB)");

static bool htg_large_auto(void)
{
	return htg_large_frames < 0;
}

/* Frames in a ring. Programs move its head, so it may be anything. */
static u64 htg_ring_level(const u64 *ring_head, const u64 *ring_tail)
{
	u64 head = READ_ONCE(*ring_head), tail = READ_ONCE(*ring_tail);

	return tail > head ? tail - head : 0;
}

static u64 htg_pool_level_of(const struct htg_arena *a, unsigned int pool)
{
	return htg_ring_level(&htg_pool_words(a, pool)->head, &htg_pool_words(a, pool)->tail);
}

u64 htg_pool_level(const struct htg_arena *a)
{
	unsigned int pool;
	u64 n = 0;

	for (pool = 0; pool < a->pools; pool++)
		n += htg_pool_level_of(a, pool);
	return n;
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

static u64 *htg_pool_slots(const struct htg_arena *a, unsigned int pool)
{
	return a->pool + pool * a->h->pool_entries;
}

static u64 *htg_large_slots(const struct htg_arena *a, unsigned int pool)
{
	return a->large_pool + pool * HT_LARGE_ENTRIES;
}

static u64 htg_pool_take(struct htg_arena *a, unsigned int pool)
{
	struct ht_pool *p = htg_pool_words(a, pool);

	return htg_ring_take(&p->head, &p->tail, htg_pool_slots(a, pool), a->h->pool_entries);
}

u64 htg_large_take(struct htg_arena *a, unsigned int pool)
{
	struct ht_pool *p = htg_pool_words(a, pool);

	if (!a->large_pool)
		return 0;
	return htg_ring_take(&p->large_head, &p->large_tail, htg_large_slots(a, pool), HT_LARGE_ENTRIES);
}

static u64 htg_large_in_pool(const struct htg_arena *a, unsigned int pool)
{
	return htg_ring_level(&htg_pool_words(a, pool)->large_head, &htg_pool_words(a, pool)->large_tail);
}

static u64 htg_large_level_of(const struct htg_arena *a, unsigned int pool)
{
	u64 i, n = htg_large_in_pool(a, pool);

	for (i = 0; i < HT_MAX_CPUS; i++)
		n += READ_ONCE(htg_pool_hand(a, pool, i)->spare_large) != 0;
	return n;
}

u64 htg_large_level(const struct htg_arena *a)
{
	unsigned int pool;
	u64 n = 0;

	for (pool = 0; pool < a->pools; pool++)
		n += htg_large_level_of(a, pool);
	return n;
}

static u64 htg_large_wanted(const struct htg_arena *a, unsigned int pool)
{
	return a->large_pool ? READ_ONCE(htg_state[pool].large) : 0;
}

u64 htg_large_most(const struct htg_arena *a)
{
	unsigned int pool;
	u64 n = 0;

	for (pool = 0; pool < a->pools; pool++)
		n += htg_large_wanted(a, pool);
	return n;
}

/* Nearly empty: programs map no neighbours ahead, and the ordinary worker refills. */
static u64 htg_reserve(u64 low, u64 high)
{
	return min(low, high / 8);
}

static u64 htg_reserve_of(unsigned int pool)
{
	return htg_reserve(READ_ONCE(htg_state[pool].low), READ_ONCE(htg_state[pool].high));
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
static bool htg_pool_push(unsigned int pool, struct page *page, u64 upto)
{
	struct htg_arena *a;
	bool done;

	rcu_read_lock();
	spin_lock(&htg_push_lock);
	a = rcu_dereference(htg_arena);
	done = a && pool < a->pools && htg_pool_level_of(a, pool) < upto &&
	       htg_ring_push(&htg_pool_words(a, pool)->tail, htg_pool_slots(a, pool), a->h->pool_entries, page);
	spin_unlock(&htg_push_lock);
	rcu_read_unlock();
	return done;
}

/* The same for 512 frames that lie side by side. */
static bool htg_large_push(unsigned int pool, struct page *page)
{
	struct htg_arena *a;
	bool done;

	rcu_read_lock();
	spin_lock(&htg_push_lock);
	a = rcu_dereference(htg_arena);
	done = a && pool < a->pools && htg_large_in_pool(a, pool) < htg_large_wanted(a, pool) &&
	       htg_ring_push(&htg_pool_words(a, pool)->large_tail, htg_large_slots(a, pool), HT_LARGE_ENTRIES, page);
	spin_unlock(&htg_push_lock);
	rcu_read_unlock();
	return done;
}

static bool htg_paused(unsigned int pool)
{
	return time_before(jiffies, READ_ONCE(htg_state[pool].pressure_until));
}

/* Frames of this node and no other: where it has none, L1 gives what the policy allows when there is a fault. */
#define HTG_POOL_GFP (GFP_HIGHUSER | __GFP_THISNODE | __GFP_NORETRY | __GFP_NOWARN | __GFP_NOMEMALLOC)

static void htg_pool_fill(unsigned int pool, u64 upto)
{
	u64 n = 0;

	while (!htg_paused(pool)) {
		struct page *page = alloc_pages_node(htg_pool_nodes[pool], HTG_POOL_GFP | __GFP_ZERO, 0);

		if (!page) {
			WRITE_ONCE(htg_state[pool].pressure_until, jiffies + HTG_PRESSURE_PAUSE);
			break;
		}
		if (!htg_pool_push(pool, page, upto)) {
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

/*
 * The same where nobody has asked for a number: only what is free in one piece now. Nothing is reclaimed or compacted for it,
 * neither here nor by kswapd and kcompactd, which are not woken: no flag of __GFP_RECLAIM.
 */
#define HTG_LARGE_AUTO_GFP (HTG_POOL_GFP & ~(__GFP_RECLAIM | __GFP_NORETRY))

/*
 * Whether the node can spare 2 MiB of memory that the kernel may have: counts of the moment, which others change; wrong by a
 * little they cost a little.
 */
static bool htg_node_spares_large(int node)
{
	struct pglist_data *data = NODE_DATA(node);
	u64 is_free = 0, keep = node_present_pages(node) / HTG_LARGE_SHARE + HTG_GRANULE;
	unsigned int i;

	for (i = 0; i <= gfp_zone(HTG_LARGE_AUTO_GFP); i++) {
		struct zone *zone = &data->node_zones[i];

		if (!managed_zone(zone))
			continue;
		is_free += zone_page_state(zone, NR_FREE_PAGES);
		keep += high_wmark_pages(zone);
	}
	return is_free > keep;
}

static struct page *htg_large_alloc(int node)
{
	if (!htg_large_auto())
		return alloc_pages_node(node, HTG_POOL_GFP, HTG_LARGE_ORDER);
	return htg_node_spares_large(node) ? alloc_pages_node(node, HTG_LARGE_AUTO_GFP, HTG_LARGE_ORDER) : NULL;
}

/* Memory may be plenty and in pieces: then there is none for now, and pages are of 4 KiB. */
static void htg_large_fill(unsigned int pool)
{
	while (!htg_paused(pool) && !time_before(jiffies, READ_ONCE(htg_state[pool].large_until))) {
		struct page *page = htg_large_alloc(htg_pool_nodes[pool]);
		unsigned int i;

		if (!page) {
			WRITE_ONCE(htg_state[pool].large_until, jiffies + HTG_PRESSURE_PAUSE);
			break;
		}
		split_page(page, HTG_LARGE_ORDER);
		atomic64_add(HTG_GRANULE, &htg_count.frames_allocated);
		for (i = 0; i < HTG_GRANULE; i++) { /* page by page: 2 MiB in one go keep a CPU too long */
			clear_highpage(page + i);
			cond_resched();
		}
		if (!htg_large_push(pool, page)) {
			htg_put_large(htg_word(page));
			break;
		}
	}
}

static void htg_refill_large_work(struct kthread_work *work)
{
	unsigned int pool;

	for (pool = 0; pool < htg_pool_count; pool++)
		htg_large_fill(pool);
}

static void htg_refill_idle_work(struct kthread_work *work)
{
	unsigned int pool;

	for (pool = 0; pool < htg_pool_count; pool++)
		htg_pool_fill(pool, READ_ONCE(htg_state[pool].high));
}

static void htg_refill_now_work(struct work_struct *work)
{
	unsigned int pool;

	for (pool = 0; pool < htg_pool_count; pool++)
		htg_pool_fill(pool, min(READ_ONCE(htg_state[pool].low), 2 * htg_reserve_of(pool)));
}

static DEFINE_KTHREAD_WORK(htg_refill_idle, htg_refill_idle_work);
static DEFINE_KTHREAD_WORK(htg_refill_large, htg_refill_large_work);
static DECLARE_WORK(htg_refill_now, htg_refill_now_work);

/* Queues a refill of 2 MiB frames, as htg_pool_poke() does it. */
static void htg_large_poke_one(struct htg_arena *a, unsigned int pool)
{
	if (htg_large_in_pool(a, pool) < htg_large_wanted(a, pool) &&
	    !time_before(jiffies, READ_ONCE(htg_state[pool].large_until)))
		kthread_queue_work(htg_worker, &htg_refill_large);
}

void htg_large_poke(struct htg_arena *a)
{
	unsigned int pool;

	for (pool = 0; pool < a->pools; pool++)
		htg_large_poke_one(a, pool);
}

/* May be called with interrupts off, under RCU or htg_lock. */
void htg_pool_poke(struct htg_arena *a, u64 pools)
{
	unsigned int pool;

	for (pool = 0; pool < a->pools; pool++) {
		u64 level;

		if (!(pools >> pool & 1) || htg_paused(pool))
			continue;
		htg_large_poke_one(a, pool);
		level = htg_pool_level_of(a, pool);
		if (level >= READ_ONCE(htg_state[pool].low))
			continue;
		if (level < htg_reserve_of(pool) && !work_pending(&htg_refill_now))
			queue_work(ht_unbound_wq, &htg_refill_now);
		kthread_queue_work(htg_worker, &htg_refill_idle); /* nothing when it is queued already */
	}
}

static u64 htg_node_pages(unsigned int pool)
{
	return max(1ul, node_present_pages(htg_pool_nodes[pool]));
}

/* A pool's share of n, by its node's memory; all of them together are n. */
static u64 htg_share(const struct htg_arena *a, unsigned int pool, u64 n)
{
	u64 all = 0, before = 0, own = htg_node_pages(pool);
	unsigned int i;

	for (i = 0; i < a->pools; i++) {
		all += htg_node_pages(i);
		before += i < pool ? htg_node_pages(i) : 0;
	}
	return div64_u64(n * (before + own), all) - div64_u64(n * before, all);
}

static void htg_pool_limits(struct htg_arena *a, u64 low, u64 high)
{
	u64 reserve = U64_MAX;
	unsigned int pool;

	WRITE_ONCE(htg_low, low);
	WRITE_ONCE(htg_high, high);
	for (pool = 0; pool < a->pools; pool++) {
		WRITE_ONCE(htg_state[pool].high, min(htg_share(a, pool, high), a->h->pool_entries));
		WRITE_ONCE(htg_state[pool].low, min(htg_share(a, pool, low), htg_state[pool].high));
		reserve = min(reserve, htg_reserve_of(pool));
	}
	WRITE_ONCE(a->h->pool_low, reserve); /* what is left then is for faults */
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
		if (low <= high && high <= a->h->pool_entries * a->pools) {
			htg_pool_limits(a, low, high);
			htg_pool_poke(a, HTG_ALL_POOLS);
			ret = 0;
		}
	}
	mutex_unlock(&htg_lock);
	return ret;
}

/* Fills in what there is of pool `number`. */
int htg_pool_get(struct htg_pool *to)
{
	u32 pool = to->number;
	struct htg_arena *a;
	int ret = -ENODEV;

	mutex_lock(&htg_lock);
	a = rcu_dereference_protected(htg_arena, lockdep_is_held(&htg_lock));
	if (a)
		ret = pool < a->pools ? 0 : -ENOENT;
	if (!ret)
		*to = (struct htg_pool){
			.number = pool, .node = htg_pool_nodes[pool], .level = htg_pool_level_of(a, pool),
			.low = htg_state[pool].low, .high = htg_state[pool].high,
			.large_frames = htg_large_wanted(a, pool), .large_level = htg_large_level_of(a, pool),
		};
	mutex_unlock(&htg_lock);
	return ret;
}

/*
 * Defaults: up to 1/16 of memory in the pools (it is given back when memory is short), at most 512 MiB;
 * refilled when a quarter of that is gone.
 */
void htg_pool_start(struct htg_arena *a)
{
	u64 large = htg_large_auto() ? totalram_pages() / HTG_LARGE_SHARE / HTG_GRANULE : htg_large_frames;
	u64 high = min_t(u64, a->h->pool_entries * a->pools, min(totalram_pages() / 16, HTG_POOL_MAX_PAGES));
	unsigned int pool;

	htg_pool_limits(a, high - high / 4, high);
	for (pool = 0; pool < a->pools; pool++) {
		htg_state[pool].large = min_t(u64, htg_share(a, pool, min(large, HTG_LARGE_MOST)), HT_LARGE_ENTRIES);
		htg_state[pool].pressure_until = jiffies;
		htg_state[pool].large_until = jiffies;
	}
}

/* The frames of `n` slots, or large ones. */
static void htg_ring_empty(u64 *slots, u64 n, bool large)
{
	u64 i, word;

	for (i = 0; i < n; i++) {
		word = xchg(&slots[i], 0);
		if (word && large)
			htg_put_large(word);
		else if (word)
			htg_put_frame(htg_word_page(word));
	}
}

void htg_pool_stop(struct htg_arena *a)
{
	unsigned int pool;
	u64 i;

	htg_refills_cancel();
	/* no program runs: whatever is in a slot, taken or not, is ours again */
	htg_ring_empty(a->pool, a->pools * a->h->pool_entries, false);
	if (a->large_pool)
		htg_ring_empty(a->large_pool, a->pools * HT_LARGE_ENTRIES, true);
	for (pool = 0; pool < a->pools; pool++)
		for (i = 0; i < HT_MAX_CPUS; i++) {
			htg_ring_empty(&htg_pool_hand(a, pool, i)->spare, 1, false);
			htg_ring_empty(&htg_pool_hand(a, pool, i)->spare_large, 1, true);
		}
}

/* The pool whose frames are of this node. Under RCU. */
static bool htg_pool_of_node(const struct htg_arena *a, int node, unsigned int *pool)
{
	for (*pool = 0; a && *pool < a->pools; ++*pool)
		if (htg_pool_nodes[*pool] == node)
			return true;
	return false;
}

/*
 * Two shrinkers: one gives back frames, the other 2 MiB frames. Where nobody has asked for a number of the latter they go
 * first: `seeks` of 0 says that an object costs nothing to make again, and then the kernel asks for half of them each time
 * that it shrinks anything (do_shrink_slab() in 6.1 and 6.12), however little it is in need, and for caches in proportion.
 */
static unsigned long htg_shrink_count(struct shrinker *s, struct shrink_control *sc, bool large)
{
	struct htg_arena *a;
	unsigned long n = 0;
	unsigned int pool;

	rcu_read_lock();
	a = rcu_dereference(htg_arena);
	if (htg_pool_of_node(a, sc->nid, &pool))
		n = large ? htg_large_in_pool(a, pool) * HTG_GRANULE : htg_pool_level_of(a, pool);
	rcu_read_unlock();
	return n ?: SHRINK_EMPTY;
}

/* Takes one frame of either kind out of a pool, and says how many pages that were. */
static unsigned long htg_shrink_one(struct htg_arena *a, unsigned int pool, bool large)
{
	u64 word = large ? htg_large_take(a, pool) : htg_pool_take(a, pool);

	if (!word)
		return 0;
	if (!large) {
		htg_put_frame(htg_word_page(word));
		return 1;
	}
	htg_put_large(word);
	return HTG_GRANULE;
}

static unsigned long htg_shrink_scan(struct shrinker *s, struct shrink_control *sc, bool large)
{
	unsigned long n = 0, some = 1;
	struct htg_arena *a;
	unsigned int pool;

	rcu_read_lock();
	a = rcu_dereference(htg_arena);
	if (htg_pool_of_node(a, sc->nid, &pool)) {
		/* the other one's scan comes whenever there is a 2 MiB frame: no reason to stop 4 KiB ones */
		if (!large || !htg_large_auto())
			WRITE_ONCE(htg_state[pool].pressure_until, jiffies + HTG_PRESSURE_PAUSE);
		if (htg_large_auto())
			WRITE_ONCE(htg_state[pool].large_until, jiffies + HTG_LARGE_PAUSE);
		for (; some && n < sc->nr_to_scan; n += some)
			some = htg_shrink_one(a, pool, large);
	}
	rcu_read_unlock();
	atomic64_add(n, &htg_count.shrunk);
	sc->nr_scanned = n; /* a 2 MiB frame is more than what was asked for */
	return n ?: SHRINK_STOP;
}

static unsigned long htg_small_count(struct shrinker *s, struct shrink_control *sc)
{
	return htg_shrink_count(s, sc, false);
}

static unsigned long htg_small_scan(struct shrinker *s, struct shrink_control *sc)
{
	return htg_shrink_scan(s, sc, false);
}

static unsigned long htg_large_count(struct shrinker *s, struct shrink_control *sc)
{
	return htg_shrink_count(s, sc, true);
}

static unsigned long htg_large_scan(struct shrinker *s, struct shrink_control *sc)
{
	return htg_shrink_scan(s, sc, true);
}

#if HT_SHRINKER_DYNAMIC
static struct shrinker *htg_small_shrinker, *htg_large_shrinker;

static void htg_shrinkers_unregister(void)
{
	shrinker_free(htg_small_shrinker); /* NULL does nothing */
	shrinker_free(htg_large_shrinker);
}

static int htg_shrinkers_register(void)
{
	htg_small_shrinker = shrinker_alloc(SHRINKER_NUMA_AWARE, "hyperturtle-pool");
	htg_large_shrinker = shrinker_alloc(SHRINKER_NUMA_AWARE, "hyperturtle-large");
	if (!htg_small_shrinker || !htg_large_shrinker) {
		htg_shrinkers_unregister();
		return -ENOMEM;
	}
	htg_small_shrinker->count_objects = htg_small_count;
	htg_small_shrinker->scan_objects = htg_small_scan;
	htg_large_shrinker->count_objects = htg_large_count;
	htg_large_shrinker->scan_objects = htg_large_scan;
	if (htg_large_auto())
		htg_large_shrinker->seeks = 0;
	shrinker_register(htg_large_shrinker);
	shrinker_register(htg_small_shrinker);
	return 0;
}
#else
static struct shrinker htg_small_shrinker = {
	.count_objects = htg_small_count,
	.scan_objects = htg_small_scan,
	.seeks = DEFAULT_SEEKS,
	.flags = SHRINKER_NUMA_AWARE,
};
static struct shrinker htg_large_shrinker = {
	.count_objects = htg_large_count,
	.scan_objects = htg_large_scan,
	.seeks = DEFAULT_SEEKS,
	.flags = SHRINKER_NUMA_AWARE,
};

static int htg_shrinkers_register(void)
{
	int ret;

	if (htg_large_auto())
		htg_large_shrinker.seeks = 0;
	ret = register_shrinker(&htg_large_shrinker, "hyperturtle-large");
	if (ret)
		return ret;
	ret = register_shrinker(&htg_small_shrinker, "hyperturtle-pool");
	if (ret)
		unregister_shrinker(&htg_large_shrinker);
	return ret;
}

static void htg_shrinkers_unregister(void)
{
	unregister_shrinker(&htg_small_shrinker);
	unregister_shrinker(&htg_large_shrinker);
}
#endif

int htg_pool_init(void)
{
	int ret, node;

	if (htg_large_frames < HTG_LARGE_AUTO) {
		pr_err("hyperturtle_guest: large_frames=%d: a number from 0 to 256, or -1, expected\n", htg_large_frames);
		return -EINVAL;
	}
	for_each_node_state(node, N_MEMORY)
		if (htg_pool_count < HT_MAX_POOLS)
			htg_pool_nodes[htg_pool_count++] = node;
	htg_worker = ht_kthread_worker("hyperturtle_pool");
	if (IS_ERR(htg_worker))
		return PTR_ERR(htg_worker);
	set_user_nice(htg_worker->task, MAX_NICE);
	ret = htg_shrinkers_register();
	if (ret)
		kthread_destroy_worker(htg_worker);
	return ret;
}

void htg_pool_exit(void)
{
	htg_shrinkers_unregister();
	htg_refills_cancel();
	kthread_destroy_worker(htg_worker);
}
