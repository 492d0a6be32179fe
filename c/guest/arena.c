// SPDX-License-Identifier: GPL-2.0
/*
 * Binds the arena: an ivshmem-plain device whose first word L0 has set to HT_ARENA_OFFER (or that we, in an
 * earlier life, had laid out). Maps its BAR write-back, checks that it really is, and lays it out.
 */
#include <linux/bitmap.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pm.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <asm/pgtable.h>
#include <asm/smp.h>
#include "guest.h"

#define HTG_BAR 2

struct htg_arena __rcu *htg_arena;
DEFINE_MUTEX(htg_lock);

static struct htg_arena *htg_arena_locked(void)
{
	return rcu_dereference_protected(htg_arena, lockdep_is_held(&htg_lock));
}

/*
 * Where in the index n words would have a place; a->granules: nowhere. A file's size is anybody's who may write to it, and
 * the kernel's functions for bitmaps take lengths of 32 bits: so compared first.
 */
static unsigned long htg_index_find(const struct htg_arena *a, unsigned long n)
{
	unsigned long want = DIV_ROUND_UP(n, HTG_GRANULE);

	if (want > a->granules)
		return a->granules;
	return min(bitmap_find_next_zero_area(a->used, a->granules, 0, want, 0), a->granules);
}

u64 *htg_index_alloc(unsigned long n)
{
	struct htg_arena *a = htg_arena_locked();
	unsigned long at;

	if (!a)
		return NULL;
	at = htg_index_find(a, n);
	if (at == a->granules)
		return NULL;
	bitmap_set(a->used, at, DIV_ROUND_UP(n, HTG_GRANULE));
	return a->index + at * HTG_GRANULE;
}

bool htg_index_has_room(unsigned long n)
{
	struct htg_arena *a = htg_arena_locked();

	return a && htg_index_find(a, n) < a->granules;
}

void htg_index_free(u64 *words, unsigned long n)
{
	struct htg_arena *a = htg_arena_locked();

	if (a)
		bitmap_clear(a->used, (words - a->index) / HTG_GRANULE, DIV_ROUND_UP(n, HTG_GRANULE));
}

unsigned long htg_index_used(void)
{
	struct htg_arena *a = htg_arena_locked();

	return a ? bitmap_weight(a->used, a->granules) * HTG_GRANULE : 0;
}

/*
 * An uncached arena would work, and be slower than no arena: BARs below 4 GiB are so by the firmware's
 * MTRRs. See that the page table entry of the mapping says write-back.
 */
static bool htg_mapped_wb(void *va)
{
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)va, &level);

	return pte && !(pte_val(*pte) & (_PAGE_PCD | _PAGE_PWT | (level == PG_LEVEL_4K ? _PAGE_PAT : _PAGE_PAT_LARGE)));
}

static bool htg_exit_answers = true;
module_param_named(exit_answers, htg_exit_answers, bool, 0444);
MODULE_PARM_DESC(exit_answers, "keep answers to CPUID and RDMSR for programs in L0 (default: on)");

/* One more than the highest APIC id, at most HT_MAX_CPUS. */
static unsigned int htg_cpus(void)
{
	unsigned int cpu, n = 0;

	for_each_present_cpu(cpu)
		n = max_t(unsigned int, n, cpu_physical_id(cpu) + 1);
	return min_t(unsigned int, n, HT_MAX_CPUS);
}

/*
 * A pool for each NUMA node, as far as their tables of spare frames take no more than an eighth of the arena (64 KiB each,
 * with that of the empty pool).
 */
static unsigned int htg_pools_that_fit(const struct htg_arena *a)
{
	return min_t(u64, htg_pool_count, max(1ull, a->bytes / 8 / HTG_CPU_TABLE));
}

static void htg_layout(struct htg_arena *a)
{
	unsigned int tables = a->pools > 1 ? a->pools + 1 : 1; /* one pool is always empty */
	struct ht_arena_header *h = a->h;
	u64 off, left;

	WRITE_ONCE(h->magic, 0);
	wmb();
	memset((u8 *)a->va + 8, 0, a->bytes - 8);
	h->version = htg_large_frames ? HT_ARENA_VERSION_LARGE : HT_ARENA_VERSION;
	h->header_bytes = sizeof(*h);
	h->arena_bytes = a->bytes;
	h->epoch = get_random_u64();
	if (a->pools > 1) {
		h->pool_stride = sizeof(struct ht_pool);
		h->spare_stride = HTG_CPU_TABLE;
	}
	h->cpus_off = PAGE_ALIGN(sizeof(*h) + (tables - 1) * sizeof(struct ht_pool));
	h->cpus_count = HT_MAX_CPUS;
	h->l2_off = h->cpus_off + tables * HTG_CPU_TABLE;
	h->l2_count = HT_MAX_L2;
	h->pool_off = h->l2_off + PAGE_ALIGN(HT_MAX_L2 * sizeof(struct ht_l2));
	/* an eighth for the pools' rings, the rest for the index */
	h->pool_entries = rounddown_pow_of_two(a->bytes / 8 / sizeof(u64) / a->pools);
	off = h->pool_off + a->pools * h->pool_entries * sizeof(u64);
	/* for the CPUs that there are, and at most an eighth */
	a->exit_cpus = !htg_exit_answers ? 0 : min_t(u64, htg_cpus(), a->bytes / 8 / sizeof(struct ht_exit_cpu));
	h->exit_off = ALIGN(off, PAGE_SIZE);
	h->exit_cpus = a->exit_cpus;
	a->exits = a->va + h->exit_off;
	off = h->exit_off + a->exit_cpus * sizeof(struct ht_exit_cpu);
	if (htg_large_frames) {
		h->large_pool_off = off;
		h->large_entries = HT_LARGE_ENTRIES;
		off += a->pools * HT_LARGE_ENTRIES * sizeof(u64);
		h->large_off = off;
		off += (a->bytes - off) / (HTG_GRANULE * sizeof(u64)) * sizeof(u64); /* enough for all that is left */
		a->large_pool = a->va + h->large_pool_off;
		a->granule_words = a->va + h->large_off;
	}
	h->index_off = ALIGN(off, PAGE_SIZE);
	left = a->bytes - h->index_off;
	h->index_words = rounddown(left / sizeof(u64), HTG_GRANULE);
	h->group_max = HT_GROUP_MAX;
	a->cpus = a->va + h->cpus_off;
	a->l2 = a->va + h->l2_off;
	a->pool = a->va + h->pool_off;
	a->index = a->va + h->index_off;
	a->granules = h->index_words / HTG_GRANULE;
}

static int htg_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct htg_arena *a;
	u64 magic;
	int ret;

	a = kzalloc(sizeof(*a), GFP_KERNEL);
	if (!a)
		return -ENOMEM;
	ret = pci_enable_device_mem(pdev);
	if (ret)
		goto free;
	ret = pci_request_region(pdev, HTG_BAR, KBUILD_MODNAME);
	if (ret)
		goto disable;
	a->bytes = pci_resource_len(pdev, HTG_BAR);
	ret = -ENODEV;
	if (a->bytes < HT_ARENA_MIN_BYTES || a->bytes > HT_ARENA_MAX_BYTES)
		goto release;
	ret = -ENOMEM;
	a->va = memremap(pci_resource_start(pdev, HTG_BAR), a->bytes, MEMREMAP_WB);
	if (!a->va)
		goto release;
	a->h = a->va;
	magic = READ_ONCE(a->h->magic);
	ret = -ENODEV;
	if (magic != HT_ARENA_OFFER && magic != HT_ARENA_MAGIC)
		goto unmap; /* somebody else's shared memory */
	if (!htg_mapped_wb(a->va)) {
		pci_err(pdev, "arena is not mapped write-back: give it a root port with a 64-bit prefetchable window (pref64-reserve)\n");
		goto unmap;
	}
	a->pools = htg_pools_that_fit(a);
	htg_layout(a);
	ret = -ENOMEM;
	a->used = bitmap_zalloc(a->granules, GFP_KERNEL);
	if (!a->used)
		goto unmap;
	a->looks = a->large_pool ? kvzalloc(a->granules, GFP_KERNEL) : NULL;
	if (a->large_pool && !a->looks)
		goto bitmap;
	mutex_lock(&htg_lock);
	ret = -EBUSY;
	if (!htg_arena_locked()) {
		htg_pool_start(a);
		rcu_assign_pointer(htg_arena, a);
		WRITE_ONCE(a->h->enabled, 1);
		smp_wmb(); /* programs look at the magic first */
		WRITE_ONCE(a->h->magic, HT_ARENA_MAGIC);
		htg_pool_poke(a, HTG_ALL_POOLS);
		ret = 0;
	}
	mutex_unlock(&htg_lock);
	if (ret) {
		pci_err(pdev, "an arena is bound already: this one stays unused\n");
		goto bitmap;
	}
	pci_set_drvdata(pdev, a);
	htg_watch_note(HTG_EVENT_ARENA, NULL);
	pci_info(pdev, "arena of %llu MiB: index for %llu MiB of guest RAM, pool of up to %llu frames\n",
		 a->bytes >> 20, a->h->index_words >> 8, a->h->pool_entries * a->pools);
	if (a->pools < htg_pool_count)
		pci_warn(pdev, "NUMA nodes with a pool: %u of %u, as the arena has no room for more\n", a->pools, htg_pool_count);
	return 0;

bitmap:
	WRITE_ONCE(a->h->magic, HT_ARENA_OFFER);
	kvfree(a->looks);
	bitmap_free(a->used);
unmap:
	memunmap(a->va);
release:
	pci_release_region(pdev, HTG_BAR);
disable:
	pci_disable_device(pdev);
free:
	kfree(a);
	return ret;
}

/* Module unload, unbind or unplug. Files and L2s go on without acceleration. */
static void htg_remove(struct pci_dev *pdev)
{
	struct htg_arena *a = pci_get_drvdata(pdev);

	mutex_lock(&htg_lock);
	WRITE_ONCE(a->h->enabled, 0);
	WRITE_ONCE(a->h->magic, 0);
	htg_l2_arena_gone();	/* all off */
	htg_grace();		/* no program runs any more, nor will one do more than read the magic */
	htg_fs_leave_arena();
	rcu_assign_pointer(htg_arena, NULL);
	mutex_unlock(&htg_lock);
	synchronize_rcu();
	htg_pool_stop(a);
	WRITE_ONCE(a->h->magic, HT_ARENA_OFFER);
	memunmap(a->va);
	pci_release_region(pdev, HTG_BAR);
	pci_disable_device(pdev);
	kvfree(a->looks);
	bitmap_free(a->used);
	kfree(a);
	htg_watch_note(HTG_EVENT_NO_ARENA, NULL);
}

/*
 * Reboot and kexec: the next kernel uses for other things what the arena says are frames of the pool and of L2s. No
 * program acts on it from here until that kernel's module has laid it out again.
 */
static void htg_shutdown(struct pci_dev *pdev)
{
	struct htg_arena *a = pci_get_drvdata(pdev);

	WRITE_ONCE(a->h->enabled, 0);
	WRITE_ONCE(a->h->magic, HT_ARENA_OFFER);
	htg_grace();
}

/*
 * Hibernation would bring back kernel and frames, but not the arena, which is memory of the host's: all RAM of L2s
 * would read as empty. Sleep that keeps memory is fine.
 */
static int htg_freeze(struct device *dev)
{
	dev_err(dev, "hyperturtle: no hibernation while an arena is bound, since it is not in the image: end the nested guests, then unload hyperturtle_guest\n");
	return -EBUSY;
}

static const struct dev_pm_ops htg_pm_ops = { .freeze = htg_freeze };

static const struct pci_device_id htg_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, 0x1110) },	/* ivshmem */
	{}
};
MODULE_DEVICE_TABLE(pci, htg_ids);

static struct pci_driver htg_driver = {
	.name = KBUILD_MODNAME,
	.id_table = htg_ids,
	.probe = htg_probe,
	.remove = htg_remove,
	.shutdown = htg_shutdown,
	.driver.pm = pm_sleep_ptr(&htg_pm_ops),
};

int htg_arena_init(void)
{
	return pci_register_driver(&htg_driver);
}

void htg_arena_exit(void)
{
	pci_unregister_driver(&htg_driver);
}
