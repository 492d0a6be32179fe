/* SPDX-License-Identifier: GPL-2.0 */
/* The context of the npf hook: an L2 nested page fault whose last-level entry in L1's table is empty. */
#ifndef HYPERTURTLE_NPF_H
#define HYPERTURTLE_NPF_H

#include "types.h"

enum ht_npf_action {
	HT_NPF_PASS = 0,       /* L1 handles the fault */
	HT_NPF_MAP = 1,        /* write entries for the group that begins at first_gfn */
	HT_NPF_LEARN = 2,      /* run again with a present leaf of the same table in sibling */
};

#define HT_NPF_MAP_EXACT 1u    /* entries of words with HT_WORD_AHEAD are written as not accessed */
#define HT_NPF_MAP_LARGE 2u    /* one entry one level up for the 512 pages of a 2 MiB frame; only and always at level 2 */

/*
 * KVM in L0 shall fill its own table for all of the group in this exit, as far as the module's budget goes, so that no use of
 * these pages is a fault. Says nothing with EXACT or LARGE.
 */
#define HT_NPF_MAP_FILL 4u

#define HT_NPF_ERR_WRITE 2ull  /* error_code: the access was a write (x86 PFERR, for EPT as well) */

/*
 * Why a fault went to L1. One numbering for the module (1..15) and programs (16..31), so that a single
 * array counts both.
 */
enum ht_npf_reason {
	HT_NPF_R_NONE = 0,
	HT_NPF_R_LOW_GPA = 1,         /* below 1 MiB */
	HT_NPF_R_NO_TABLE = 2,        /* no last-level table page yet */
	HT_NPF_R_LARGE_LEAF = 3,      /* covered by a large page */
	HT_NPF_R_PRESENT = 4,         /* L1's entry is there already: not a fault for L1 at all */
	HT_NPF_R_SPECIAL = 5,         /* not empty, not present: MMIO, removed, access-tracked */
	HT_NPF_R_READ_ERROR = 6,      /* L1's table could not be read */
	HT_NPF_R_WRITE_ERROR = 7,     /* L1's table could not be written */
	HT_NPF_R_LOST = 8,            /* somebody else filled the entry first */
	HT_NPF_R_BAD_ANSWER = 9,      /* the program's answer was out of range */
	HT_NPF_R_NO_SIBLING = 10,     /* nothing to learn flags from in this table */
	HT_NPF_R_NO_ARENA = 11,
	HT_NPF_R_PROGRAM = 16,        /* the program gave no reason */
	HT_NPF_R_DISABLED = 17,       /* kill switch, or L1's module not loaded */
	HT_NPF_R_NO_L2 = 18,          /* no registered L2 runs on this vCPU */
	HT_NPF_R_L2_OFF = 19,
	HT_NPF_R_NO_SLOT = 20,        /* not RAM that turtlefs backs */
	HT_NPF_R_CLOSED = 21,
	HT_NPF_R_POOL_EMPTY = 22,
	HT_NPF_R_LIMIT = 23,          /* frames_limit of the L2 reached */
	HT_NPF_R_NO_TEMPLATE = 24,
	HT_NPF_R_RACE = 25,           /* gave up after bounded retries */
	HT_NPF_R_LAYOUT = 26,         /* offsets in the arena are out of range */
	HT_NPF_R_SMALL = 27,          /* no last-level table yet, and no 2 MiB page there: L1 makes the table */
	HT_NPF_R_OTHER_ROOT = 28,     /* not the table that KVM in L1 runs its L2 with: of another hypervisor there */
	HT_NPF_REASONS = 32,
};

/* ht_hook_stats.counts of the hook. */
enum ht_npf_count {
	HT_NPF_C_FILLS = 0,           /* further faults of a group that KVM handled in the exit of the first one */
	HT_NPF_C_FILL_BUDGET = 1,     /* exits in which the rest of a group was left out: no time left */
	HT_NPF_C_FILL_PENDING = 2,    /* the same: a signal, a request, an interrupt or another thread waited */
	HT_NPF_C_FILL_FAILED = 3,     /* the same: KVM did not map the page, as L1's entry or its memory had changed */
	HT_NPF_C_FILL_ABSENT = 4,     /* pages left out, with their neighbours: no memory of L1's that L0 has at hand */
	HT_NPF_C_FILL_NS = 5,         /* time that all of it took, together */
	HT_NPF_C_FILL_MAX_NS = 6,     /* longest time from the hook to the last fill of an exit */
	HT_NPF_C_FILL_LIMIT_NS = 7,   /* fill_us of the module: none begins later in an exit; 0: none at all */
};

struct ht_npf_ctx { /* 128 bytes; programs may write all of it, the module reads only the outputs back */
	/* in */
	__u64 gpa;             /* L2 physical address of the fault */
	__u64 error_code;      /* x86 page fault error code bits */
	__u64 root;            /* L1 physical address of the root table (NCR3, EPTP without its low bits) */
	__u64 entry;           /* as found: empty, or present and not accessed yet (then nothing is asked, only told) */
	__u64 sibling;         /* with HT_NPF_LEARN: a present leaf of the same table, else 0 */
	__u64 sibling_gfn;
	__u32 vcpu;            /* id of the L1 vCPU, which is the APIC id that L1 sees */
	__u32 root_level;      /* 4 or 5 */
	__u64 level;           /* 1: of the empty entry; 2: there is no last-level table, the entry for one is empty */
	/* out */
	__u32 action;          /* enum ht_npf_action, set to PASS before the program runs */
	__u32 reason;          /* enum ht_npf_reason >= 16, with PASS */
	__u64 template;        /* with MAP: entry bits besides the frame */
	__u64 words_off;       /* with MAP: arena offset of the page index word of first_gfn */
	__u64 first_gfn;       /* with MAP: first page of the group, in the 2 MiB of gpa */
	__u32 count;           /* with MAP: pages in the group, 1..64; absent ones are left out. LARGE: 512 */
	__u32 flags;           /* with MAP: HT_NPF_MAP_*, or 0 */
	__u64 reserved[3];
};
HT_STATIC_ASSERT(sizeof(struct ht_npf_ctx) == 128, "npf context");

#endif
