// SPDX-License-Identifier: GPL-2.0
/*
 * The arena of a hostile L1: laid out as the real module does it, with frames that nobody misses, then written over.
 * Nothing here believes what is in it. Words change without a lock, by several CPUs and by programs in L0.
 */
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <asm/smp.h>
#include "fuzz.h"

#define HTF_BAR 2
#define HTF_BLOCKS 4		/* of 2 MiB: frames to give away */
#define HTF_RING 1024ull
#define HTF_L2_NUMBER 1
#define HTF_CPUS 8

static struct {
	struct pci_dev *pdev;
	void *va;
	u64 bytes;
	struct ht_arena_header good;
	u64 template;
	struct page *blocks[HTF_BLOCKS];
} htf;

void htf_arena_template(u64 flags)
{
	WRITE_ONCE(htf.template, flags);
}

static u64 htf_block(struct htf_random *r)
{
	return page_to_phys(htf.blocks[htf_below(r, HTF_BLOCKS)]);
}

u64 htf_frame(struct htf_random *r)
{
	return htf_block(r) + (htf_below(r, HT_LARGE_PAGES) << HT_PAGE_SHIFT);
}

u64 htf_bad_frame(struct htf_random *r)
{
	static const u64 devices[] = { 0xfee00000, 0xfec00000, 0xb8000, 0xfffc0000, 0xb0000000, 0xfe000000 };

	switch (htf_below(r, 6)) {
	case 0:
		return pci_resource_start(htf.pdev, HTF_BAR) + (htf_next(r) & (htf.bytes - 1) & HT_PFN_MASK);
	case 1:
		return devices[htf_below(r, ARRAY_SIZE(devices))];
	case 2:
		return (1ull << 36) + (htf_below(r, 1 << 20) << HT_PAGE_SHIFT); /* beyond all memory */
	case 3:
		return htf_next(r) & HT_PFN_MASK;
	case 4:
		return HT_PFN_MASK - (htf_below(r, 4) << HT_PAGE_SHIFT);
	default:
		return 1ull << (32 + htf_below(r, 20)); /* not memory of this L1's, which would end it */
	}
}

static u64 htf_bad_word(struct htf_random *r)
{
	switch (htf_below(r, 10)) {
	case 0:
		return 0;
	case 1:
	case 2:
	case 3:
		return htf_frame(r) | HT_WORD_PRESENT;
	case 4:
	case 5:
		return htf_bad_frame(r) | HT_WORD_PRESENT;
	case 6:
		return htf_next(r);
	case 7:
		return htf_frame(r) | htf_below(r, 16);
	case 8:
		return htf_below(r, 16);
	default:
		return htf_block(r) | HT_WORD_PRESENT;
	}
}

/* Offsets, sizes and counts at the edges of what they may be. */
static u64 htf_bad_number(struct htf_random *r, u64 old)
{
	switch (htf_below(r, 12)) {
	case 0:
		return 0;
	case 1:
		return 1;
	case 2:
		return -1ull;
	case 3:
		return htf.bytes - 8 * htf_below(r, 520);
	case 4:
		return htf.bytes + 8 * htf_below(r, 520);
	case 5:
		return htf_next(r);
	case 6:
		return 1ull << htf_below(r, 64);
	case 7:
		return old + htf_below(r, 17) - 8;
	case 8:
		return -(8 * htf_below(r, 1024));
	case 9:
		return htf_below(r, htf.bytes) & ~7ull;
	case 10:
		return old ^ (1ull << htf_below(r, 64));
	default:
		return htf_below(r, 1024);
	}
}

static u64 *htf_at(u64 off)
{
	return htf.va + off;
}

static u64 *htf_index_word(u64 page)
{
	return htf_at(htf.good.index_off) + page;
}

static struct ht_l2 *htf_l2(void)
{
	return (struct ht_l2 *)htf_at(htf.good.l2_off) + HTF_L2_NUMBER;
}

/* Header, CPUs, slots and the next frames of the pool as L1's module would have them; some pages without a frame. */
void htf_arena_repair(struct htf_random *r, unsigned int apicid, u64 root)
{
	struct ht_exit_cpu *answers = (struct ht_exit_cpu *)htf_at(htf.good.exit_off) + apicid % HTF_CPUS;
	struct ht_arena_header *h = htf.va;
	struct ht_cpu *cpus = (struct ht_cpu *)htf_at(htf.good.cpus_off);
	struct ht_l2 *l2 = htf_l2();
	u64 i, head = READ_ONCE(h->pool_head) & (HTF_RING - 1), large = READ_ONCE(h->large_head) & (HT_LARGE_ENTRIES - 1);

	memcpy(h, &htf.good, sizeof(*h));
	WRITE_ONCE(h->pool_head, head);
	WRITE_ONCE(h->pool_tail, head + 64);
	for (i = head; i < head + 64; i++)
		WRITE_ONCE(htf_at(htf.good.pool_off)[i & (HTF_RING - 1)], htf_frame(r) | HT_WORD_PRESENT);
	WRITE_ONCE(h->large_head, large);
	WRITE_ONCE(h->large_tail, large + 2);
	for (i = large; i < large + 2; i++)
		WRITE_ONCE(htf_at(htf.good.large_pool_off)[i & (HT_LARGE_ENTRIES - 1)], htf_block(r) | HT_WORD_PRESENT);
	for (i = 0; i < HTF_CPUS; i++)
		WRITE_ONCE(cpus[i].l2, HTF_L2_NUMBER | (htf_below(r, 2) ? HT_CPU_LARGE : 0));
	WRITE_ONCE(cpus[apicid % HTF_CPUS].root, root);
	answers->l2 = HTF_L2_NUMBER;
	answers->root = root;
	l2->slot_count = 1;
	l2->frames_limit = -1ull;
	l2->group_max = 0;
	l2->template = READ_ONCE(htf.template);
	l2->slots[0] = (struct ht_slot){ .gfn = htf_first_gfn, .npages = htf_pages, .word_off = htf.good.index_off };
	WRITE_ONCE(l2->state, HT_L2_ON);
	for (i = 0; i < 32; i++)
		WRITE_ONCE(*htf_index_word(htf_below(r, htf_pages)), HT_WORD_EMPTY);
}

/* A granule of which all words are one frame of 2 MiB, or nearly. */
static void htf_granule(struct htf_random *r)
{
	u64 granule = htf_below(r, htf_pages / HT_LARGE_PAGES), block = htf_block(r), i;

	for (i = 0; i < HT_LARGE_PAGES; i++)
		WRITE_ONCE(*htf_index_word(granule * HT_LARGE_PAGES + i), (block + i * HT_PAGE_SIZE) | HT_WORD_PRESENT);
	WRITE_ONCE(htf_at(htf.good.large_off)[granule], block | HT_WORD_PRESENT);
}

bool htf_arena_op(struct htf_random *r, enum htf_kind kind, unsigned int apicid)
{
	u64 *word = htf.va;

	switch (kind) {
	case HTF_HEADER:
		word += htf_below(r, sizeof(struct ht_arena_header) / sizeof(u64));
		break;
	case HTF_CPU:
		word = htf_at(htf.good.cpus_off) + (apicid % HTF_CPUS) * (sizeof(struct ht_cpu) / sizeof(u64)) +
		       htf_below(r, sizeof(struct ht_cpu) / sizeof(u64));
		break;
	case HTF_L2:
		word = (u64 *)htf_l2() + htf_below(r, sizeof(struct ht_l2) / sizeof(u64));
		break;
	case HTF_EXIT:
		word = htf_at(htf.good.exit_off) + (apicid % HTF_CPUS) * (sizeof(struct ht_exit_cpu) / sizeof(u64)) +
		       htf_below(r, sizeof(struct ht_exit_cpu) / sizeof(u64));
		WRITE_ONCE(*word, htf_bad_number(r, *word));
		return true;
	case HTF_POOL:
		word = htf_at(htf.good.pool_off) +
		       ((READ_ONCE(((struct ht_arena_header *)htf.va)->pool_head) + htf_below(r, 64)) & (HTF_RING - 1));
		WRITE_ONCE(*word, htf_bad_word(r));
		return true;
	case HTF_INDEX:
		WRITE_ONCE(*htf_index_word(htf_below(r, htf_pages)), htf_bad_word(r));
		return true;
	case HTF_GRANULE:
		if (!htf_below(r, 8))
			htf_granule(r);
		else
			WRITE_ONCE(htf_at(htf.good.large_off)[htf_below(r, htf_pages / HT_LARGE_PAGES)], htf_bad_word(r));
		return true;
	default:
		return false;
	}
	WRITE_ONCE(*word, htf_below(r, 4) ? htf_bad_number(r, *word) : htf_bad_word(r));
	return true;
}

static int htf_layout(void)
{
	struct ht_arena_header *h = &htf.good;
	u64 off = PAGE_SIZE;

	*h = (struct ht_arena_header){
		.magic = HT_ARENA_MAGIC, .version = HT_ARENA_VERSION_LARGE, .header_bytes = sizeof(*h),
		.arena_bytes = htf.bytes, .enabled = 1, .epoch = 1, .cpus_count = HT_MAX_CPUS,
		.l2_count = HT_MAX_L2, .pool_entries = HTF_RING, .group_max = HT_GROUP_MAX, .exit_cpus = HTF_CPUS,
		.large_entries = HT_LARGE_ENTRIES,
	};
	h->cpus_off = off;
	off += PAGE_ALIGN(HT_MAX_CPUS * sizeof(struct ht_cpu));
	h->l2_off = off;
	off += PAGE_ALIGN(HT_MAX_L2 * sizeof(struct ht_l2));
	h->pool_off = off;
	off += HTF_RING * sizeof(u64);
	h->exit_off = off;
	off += HTF_CPUS * sizeof(struct ht_exit_cpu);
	h->large_pool_off = off;
	off += PAGE_ALIGN(HT_LARGE_ENTRIES * sizeof(u64));
	h->large_off = off;
	off += PAGE_SIZE;
	h->index_off = off;
	h->index_words = htf_pages;
	if (!htf_pages || htf_pages % HT_LARGE_PAGES || htf_pages > 64 * HT_LARGE_PAGES ||
	    off + htf_pages * sizeof(u64) > htf.bytes)
		return -EINVAL;
	memset(htf.va, 0, htf.bytes);
	memcpy(htf.va, h, sizeof(*h));
	return 0;
}

/* For good: anyone who was given one of these frames may have it still, so this kernel never gets them back. */
static int htf_blocks_alloc(void)
{
	int i, k;

	for (i = 0; i < HTF_BLOCKS; i++) {
		htf.blocks[i] = alloc_pages(GFP_KERNEL | __GFP_ZERO, 9);
		if (!htf.blocks[i])
			return -ENOMEM;
		split_page(htf.blocks[i], 9);
		for (k = 0; k < HT_LARGE_PAGES; k++)
			page_ref_add(htf.blocks[i] + k, 1 << 16);
	}
	return 0;
}

int htf_arena_init(void)
{
	struct pci_dev *pdev = pci_get_device(PCI_VENDOR_ID_REDHAT_QUMRANET, 0x1110, NULL);
	int ret = -ENODEV;

	if (!pdev) {
		pr_err("hyperturtle_fuzz: there is no arena: have the host attach this machine\n");
		return ret;
	}
	ret = pci_enable_device_mem(pdev);
	if (ret)
		goto put;
	ret = pci_request_region(pdev, HTF_BAR, KBUILD_MODNAME);
	if (ret) {
		pr_err("hyperturtle_fuzz: somebody has the arena: unload hyperturtle_guest\n");
		goto disable;
	}
	htf.pdev = pdev;
	htf.bytes = pci_resource_len(pdev, HTF_BAR);
	ret = -ENODEV;
	if (htf.bytes < HT_ARENA_MIN_BYTES || htf.bytes > HT_ARENA_MAX_BYTES)
		goto release;
	ret = -ENOMEM;
	htf.va = memremap(pci_resource_start(pdev, HTF_BAR), htf.bytes, MEMREMAP_WB);
	if (!htf.va)
		goto release;
	ret = htf_blocks_alloc();
	if (!ret)
		ret = htf_layout();
	if (!ret)
		return 0;
	memunmap(htf.va);
release:
	pci_release_region(pdev, HTF_BAR);
disable:
	pci_disable_device(pdev);
put:
	pci_dev_put(pdev);
	return ret;
}

void htf_arena_exit(void)
{
	memunmap(htf.va);
	pci_release_region(htf.pdev, HTF_BAR);
	pci_disable_device(htf.pdev);
	pci_dev_put(htf.pdev);
}
