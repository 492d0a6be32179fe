/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of hyperturtle_guest.ko share. */
#ifndef HYPERTURTLE_GUEST_MODULE_H
#define HYPERTURTLE_GUEST_MODULE_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/smp.h>
#include "hyperturtle/arena.h"
#include "hyperturtle/guest.h"
#include "kmod/compat.h"

/* The bound arena. Readers: under RCU, or holding htg_lock. One per L1. */
struct htg_arena {
	void *va;
	u64 bytes;
	struct ht_arena_header *h;
	struct ht_cpu *cpus;
	struct ht_l2 *l2;
	unsigned int pools;	/* of the nodes htg_pool_nodes[], in this order; one more is always empty if there are several */
	u64 *pool;		/* rings of all pools, one after the other */
	u64 *large_pool;	/* the same; NULL: no 2 MiB pages */
	u64 *granule_words;	/* the same */
	u64 *index;
	struct ht_exit_cpu *exits;
	u64 exit_cpus;
	unsigned long *used;	/* bitmap of index granules */
	u8 *looks;		/* enum htg_look of each of them; NULL: no 2 MiB pages */
	unsigned long granules;
};

/* Index words are given out in granules: 2 MiB of guest RAM, 4 KiB of index. */
#define HTG_GRANULE 512ul
#define HTG_LARGE_ORDER 9

extern struct htg_arena __rcu *htg_arena;
extern struct mutex htg_lock;	/* the arena's coming and going, registration */

/* Counters that must be exact: frames in and out of the kernel's allocator. */
struct htg_counters {
	atomic64_t frames_allocated, frames_freed;
	atomic64_t faults, faults_lost, faults_found;
	atomic64_t refills, shrunk, grace_periods, interrupted;
	atomic64_t large_back;	/* pages of 2 MiB frames that nobody used, and that were given back */
};
extern struct htg_counters htg_count;

/*
 * The grace period of everything (htg_grace_l2s() is that of some L2s): when every CPU has answered an interrupt sent
 * now, no hyperupcall that began before is still running, because each runs within an exit of one of these CPUs.
 * Sleeps not; interrupts must be on.
 */
static inline void htg_grace(void)
{
	kick_all_cpus_sync();
	atomic64_inc(&htg_count.grace_periods);
}

static inline u64 htg_word(struct page *page)
{
	return ((u64)page_to_pfn(page) << HT_PAGE_SHIFT) | HT_WORD_PRESENT;
}

static inline struct page *htg_word_page(u64 word)
{
	return pfn_to_page((word & HT_PFN_MASK) >> HT_PAGE_SHIFT);
}

static inline void htg_put_frame(struct page *page)
{
	put_page(page);
	atomic64_inc(&htg_count.frames_freed);
}

/* The 512 frames that a 2 MiB frame is: each is a page of its own, they only lie side by side. */
static inline void htg_put_large(u64 word)
{
	struct page *page = htg_word_page(word);
	unsigned int i;

	for (i = 0; i < HTG_GRANULE; i++)
		htg_put_frame(page + i);
}

/* arena.c */
int htg_arena_init(void);
void htg_arena_exit(void);
/* words for n pages from the arena's index: their first, or NULL. Caller holds htg_lock. */
u64 *htg_index_alloc(unsigned long n);
bool htg_index_has_room(unsigned long n);
void htg_index_free(u64 *words, unsigned long n);
unsigned long htg_index_used(void);

/* The words of a pool. */
static inline struct ht_pool *htg_pool_words(const struct htg_arena *a, unsigned int pool)
{
	return a->va + HT_POOL0_OFF + pool * sizeof(struct ht_pool);
}

#define HTG_CPU_TABLE PAGE_ALIGN(HT_MAX_CPUS * sizeof(struct ht_cpu))

/* What programs on the CPU with this APIC id have in hand of a pool. */
static inline struct ht_cpu *htg_pool_hand(const struct htg_arena *a, unsigned int pool, unsigned int apicid)
{
	return (void *)&a->cpus[apicid] + pool * HTG_CPU_TABLE;
}

/* pool.c */
#define HTG_LARGE_AUTO (-1)
extern int htg_large_frames;	/* how many 2 MiB frames the pool holds; HTG_LARGE_AUTO; 0: no 2 MiB pages */
extern unsigned int htg_pool_count;	/* NUMA nodes that had memory when the module was loaded */
extern int htg_pool_nodes[HT_MAX_POOLS];
int htg_pool_init(void);
void htg_pool_exit(void);
void htg_pool_start(struct htg_arena *a);
void htg_pool_stop(struct htg_arena *a); /* after all programs were stopped: takes every frame back */
#define HTG_ALL_POOLS (~0ull)
void htg_pool_poke(struct htg_arena *a, u64 pools); /* queues a refill if the level of one of them is low; any context */
void htg_large_poke(struct htg_arena *a); /* of 2 MiB frames alone */
u64 htg_pool_level(const struct htg_arena *a);
u64 htg_pool_low(void);
u64 htg_pool_high(void);
u64 htg_large_level(const struct htg_arena *a); /* 2 MiB frames that no file has */
u64 htg_large_most(const struct htg_arena *a); /* as many as all pools may hold */
u64 htg_large_take(struct htg_arena *a, unsigned int pool); /* one of them, as a word, or 0 */
int htg_pool_set(u64 low, u64 high);
struct htg_pool;
int htg_pool_get(struct htg_pool *pool);

/* call.c */
int htg_call(struct htg_call *call);

/* policy.c */
struct mempolicy;
/* What a mapping's own memory policy says. `pools` are those of its nodes. */
struct htg_policy {
	u64 pools;
	int home;		/* node to be near to, or NUMA_NO_NODE: the CPU's */
	unsigned short mode;	/* MPOL_*; MPOL_DEFAULT: it has none, so the process's holds */
};
struct htg_policy htg_policy_of(const struct vm_area_struct *vma);
unsigned int htg_policy_pool(const struct htg_arena *a, const struct htg_policy *own, unsigned int turn);

/* account.c */
struct htg_account;
void htg_account_init(void);
void htg_account_exit(void);
u64 htg_memcg(void);	/* HTG_MEMCG_* */
struct htg_account *htg_account_of(struct mm_struct *mm);
struct htg_account *htg_account_get(struct htg_account *acc);
void htg_account_put(struct htg_account *acc);
int htg_account_charge(struct htg_account *acc, u64 n, gfp_t gfp);
int htg_account_charge_one(struct htg_account *acc);
void htg_account_uncharge(struct htg_account *acc, u64 n);
u64 htg_account_charged(const struct htg_account *acc);
void htg_account_path(const struct htg_account *acc, char *buf, size_t bytes);

/* So many frames more, and the VMM's count of resident pages follows. */
#define HTG_COUNT_STEP 64

/* What programs may take for an L2, paid by its account. */
struct htg_credit {
	raw_spinlock_t lock;	/* taken in kvm_entry, with interrupts off. For rec, paid, coming, seen, resident, counted */
	struct ht_l2 *rec;	/* NULL: nothing is taken any more */
	struct htg_account *account; /* its L2's */
	bool limited;		/* somebody counts; else everything is paid for */
	u64 own_limit;		/* asked for at registration */
	u64 paid;		/* programs may have taken that many since registration */
	u64 coming;		/* frames that are being charged, to be paid ones if that succeeds */
	u64 serial;		/* no other registration has the same */
	u64 seen;		/* frames_taken when we last looked whether it needs more */
	u64 idle;		/* and when we last looked whether it uses what it has */
	u64 low;		/* below this it needs more */
	struct mm_struct *mm;	/* of the VMM */
	u64 resident;		/* pages that we have added to its count of resident ones */
	u64 counted;		/* frames_taken when we did */
	u64 files;		/* its resident pages of files at registration: its program, mostly */
	struct list_head node;
};
void htg_credit_open(struct htg_credit *c, struct ht_l2 *rec, struct htg_account *acc, struct mm_struct *mm,
		     u64 own_limit);
void htg_credit_close(struct htg_credit *c);
u64 htg_credit_left(struct htg_credit *c);
u64 htg_credit_wanted(struct htg_credit *c, bool press);
u64 htg_credit_settle(struct htg_credit *c, u64 serial, u64 n, bool charged);
void htg_credit_top_up(struct htg_credit *c);
void htg_credit_recount(struct htg_credit *c, u64 held, u64 taken);
void htg_credit_mapped(struct htg_credit *c, u64 pages); /* at registration, of what it holds */

/* What a kvm_entry looks at of an L2. */
struct htg_running {
	int number;		/* in the arena, 1.. */
	struct htg_credit credit;
	u64 large_most;		/* no 2 MiB frame by a program any more once ht_l2.large_new is this; written under htg_lock */
	struct htg_policy policy[HT_MAX_SLOTS]; /* of the mappings that slots are of; used where there are several pools */
};

/*
 * At an entry of the L2, under RCU. Not where something was given back, until it is used again: htg_fault() sees to the
 * first.
 */
static inline void htg_credit_poke(struct htg_credit *c)
{
	const struct ht_l2 *rec = READ_ONCE(c->rec); /* the arena is there for a grace period more */
	u64 taken;

	if (!rec)
		return;
	taken = READ_ONCE(rec->frames_taken);
	if (taken - READ_ONCE(c->counted) >= HTG_COUNT_STEP ||
	    (c->limited && (s64)(READ_ONCE(c->paid) - taken) < (s64)READ_ONCE(c->low) && taken != READ_ONCE(c->seen)))
		htg_credit_top_up(c);
}

/* turtlefs.c */
struct htg_file {
	struct rw_semaphore sem;	/* words, n, arena, account */
	u64 *words;			/* n of them; beyond the end of the file all are closed */
	unsigned long n;
	bool arena;			/* they are in the arena, else in our own memory */
	u64 *granules;			/* one for each HTG_GRANULE words, in the arena; NULL: no 2 MiB pages */
	u8 *looks;			/* enum htg_look of each of these; NULL with granules */
	bool small;			/* L1 gives it no 2 MiB frame either: its L2 has fallen back */
	unsigned int exports;		/* slots of L2s that refer to words; under htg_lock */
	/*
	 * Numbers of those L2s: set under htg_lock with sem held, before the L2 is on; cleared under htg_lock when it is
	 * off and its grace period over. So who holds sem for writing sees all L2s that programs act for on these words.
	 */
	DECLARE_BITMAP(l2s, HT_MAX_L2);
	struct list_head node;		/* files whose words are in the arena; under htg_lock */
	struct inode *inode;
	struct htg_account *account;	/* all its frames are charged there; NULL only while it has none */
};
/* What is known of the use of a granule's 2 MiB frame. Read and written with htg_file.sem held. */
enum htg_look {
	HTG_LOOK_NEW = 0,	/* nothing; all granules without a 2 MiB frame, too */
	HTG_LOOK_AGED = 1,	/* it was there when we last came by */
	HTG_LOOK_DUE = 2,	/* and the time before: is to be looked at */
	HTG_LOOK_DONE = 3,	/* most of it is used, or it is not ours to judge: stays as it is */
};
/* What looks at 2 MiB frames have found. */
struct htg_found {
	u64 frames, kept;	/* looked at; of these, as they are, since most of their pages are used */
	u64 unused, back;	/* pages that nobody used; of these, given back */
};
int htg_fs_init(void);
void htg_fs_exit(void);
struct htg_file *htg_file_of(struct file *file); /* NULL: not a turtlefs file */
/* For files that an L2 takes over with frames in them: charged before locks are taken, and what was missing. */
struct htg_purse {
	u64 charged, missing;
};
int htg_resize(struct inode *inode, loff_t size, unsigned long spare);
struct page *htg_page_get(struct htg_file *f, unsigned long i, struct vm_fault *vmf);
struct page *htg_page_find(struct htg_file *f, unsigned long i);
u32 htg_file_charge_to(struct htg_file *f, struct htg_account *acc, struct htg_purse *purse);
bool htg_file_enter_arena(struct htg_file *f);
void htg_file_small(struct htg_file *f, bool small); /* see htg_file.small */
u64 htg_file_age(struct htg_file *f, unsigned long first, unsigned long last);
u64 htg_file_waiting(struct htg_file *f, unsigned long first, unsigned long last);
bool htg_file_look(struct htg_file *f, unsigned long first, unsigned long last, struct htg_found *found);
void htg_fs_leave_arena(void); /* moves all words to our own memory; no program may run. Holds htg_lock. */

/* rw.c */
ssize_t htg_read_iter(struct kiocb *iocb, struct iov_iter *to);
ssize_t htg_write_iter(struct kiocb *iocb, struct iov_iter *from);

/* l2.c */
int htg_l2_init(void);
void htg_l2_exit(void);
long htg_l2_register(const struct htg_register *req);
void htg_l2_known(void);	/* who calls has compared KVM's types with what we rely on */
bool htg_l2_is_known(void);
void htg_l2_running_credit(struct htg_account *acc); /* in a fault of turtlefs: of the L2 that runs in this thread */
void htg_l2_arena_gone(void);	/* ends all registrations; caller holds htg_lock */
void htg_l2_mapped(struct mm_struct *mm); /* a turtlefs file has been mapped there; under mmap_lock */
void htg_l2_protecting(struct mm_struct *mm); /* protections of such a mapping are about to change; the same */
void htg_l2_index_freed(void);
u64 htg_l2_count(void);
void htg_l2_recount_soon(void); /* frames have come or gone; any context */
bool htg_l2_running_large(void); /* whether the L2 whose vCPU's thread this is, if any, may have more 2 MiB frames */
void htg_l2_look_soon(void);	/* 2 MiB frames have come; any context */

struct kvm;
struct htg_running *htg_l2_running(struct kvm *kvm); /* NULL: not registered. Under RCU. */

/* entry.c */
int htg_entry_init(void);
void htg_entry_exit(void);
void htg_grace_l2s(const unsigned long *l2s); /* bitmap of HT_MAX_L2 numbers */

/* exits.c */
struct kvm_vcpu;
void htg_exit_entry(struct htg_arena *a, unsigned int apicid, struct kvm_vcpu *vcpu, u64 number);
void htg_exit_forget(void);	/* a VM has come or gone: what was answered for a vCPU is no other's answer */

/* watch.c */
struct pid;
int htg_watch_open(void);	/* a file that tells what happens, for HTG_WATCH_VMS */
void htg_watch_note(u32 kind, struct pid *tgid); /* tgid: NULL or the process that it is about */

#endif
