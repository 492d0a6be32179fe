/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The arena: the memory that one L1 shares with its programs in L0. L1's module lays it out and describes
 * it here; programs read the offsets from the header and check every index against the size of the map.
 * All offsets are bytes from the start of the arena and multiples of 8; all words are little-endian u64.
 */
#ifndef HYPERTURTLE_ARENA_H
#define HYPERTURTLE_ARENA_H

#include "types.h"

#define HT_ARENA_MAGIC 0x414e455241544800ull /* "\0HTARENA" */
/* L0 writes this word at offset 0 before it gives the device away: L1's module binds no other ivshmem device */
#define HT_ARENA_OFFER 0x524546464f544800ull /* "\0HTOFFER" */
/*
 * 5 and 6: programs add to ht_l2.frames_taken before they compare (3 and 4: after). 3 and 4: struct ht_cpu is 64 bytes and
 * names a root (1 and 2: 32 bytes, without). A program acts only on versions it knows, so neither an old program under a
 * new module nor a new program under an old module does anything.
 */
#define HT_ARENA_VERSION 5
#define HT_ARENA_VERSION_LARGE 6 /* with 2 MiB pages: programs that know nothing of granules must not act on it */
#define HT_ARENA_MIN_BYTES (1ull << 20)
#define HT_ARENA_MAX_BYTES (256ull << 20)

/* The page index: one word per page of guest RAM. */
#define HT_WORD_EMPTY 0ull     /* nobody has given this page a frame */
#define HT_WORD_PRESENT 1ull   /* bits 51..12 are the L1 frame address */
#define HT_WORD_CLOSED 2ull    /* nobody may give this page a frame: beyond the file's end, or being taken away */
#define HT_WORD_AHEAD 4ull     /* with PRESENT: given ahead of its fault while `exact`, and nobody has been seen to use it */
#define HT_WORD_SMALL 8ull     /* of a granule only: its pages have words of their own */
#define HT_PREFETCH_PAGES 8    /* aligned pages that KVM in L0 maps at once when one of them is used */

/*
 * 2 MiB pages: one more word per granule (the 512 words of one page of the index), with the values of page words, and
 * SMALL. EMPTY: all 512 words are empty, and stay so until this word changes. PRESENT: the 512 pages are the 2 MiB frame;
 * anyone who finds a word of them empty fills it in. CLOSED: L1 is taking pages away, nobody acts on any of them.
 */
#define HT_LARGE_PAGES 512ull
#define HT_LARGE_ENTRIES 256   /* of the pool of 2 MiB frames */

/* The pool: a ring of zeroed frames. L1 fills at tail; anyone who takes frames moves head, then empties slots. */
/* A slot holds frame address | HT_WORD_PRESENT, or 0. */
/*
 * An L1 with several NUMA nodes has a pool for each, with as many slots: ring n follows ring n - 1, for 2 MiB frames as for
 * others. What of pool 0 is in the header, from pool_head on, is of pool n so many bytes further on as pool_stride says n
 * times (struct ht_pool), and so with spare frames in the table of struct ht_cpu and spare_stride. The last one is always
 * empty: for what no pool has, so that L1 gives the frame. Programs that know one pool only take from pool 0: wrong node,
 * right memory; so that is no other version.
 */
#define HT_MAX_POOLS 64        /* without the empty one */

#define HT_MAX_CPUS 1024       /* words of the table of running L2s, by APIC id of the L1 CPU */
#define HT_MAX_L2 256          /* L2 number 0 means none, so 1..255 */
#define HT_MAX_SLOTS 8         /* RAM ranges of one L2 */
#define HT_GROUP_MAX 64

struct ht_arena_header { /* 384 bytes at offset 0 */
	__u64 magic;           /* written last by L1, cleared first */
	__u32 version;
	__u32 header_bytes;
	__u64 arena_bytes;
	__u64 enabled;         /* kill switch of L1: 0 makes every program PASS */
	__u64 epoch;           /* changes with every load of L1's module */
	__u64 cpus_off;        /* struct ht_cpu[cpus_count], by APIC id */
	__u64 cpus_count;
	__u64 l2_off;          /* struct ht_l2[l2_count] */
	__u64 l2_count;
	__u64 pool_off;        /* u64[pool_entries] */
	__u64 pool_entries;    /* a power of two */
	__u64 index_off;       /* u64[index_words] */
	__u64 index_words;
	__u64 group_max;       /* 1..64: most neighbours in one fault */
	__u64 pool_low;        /* below this many frames in a pool programs map no neighbours ahead */
	__u64 exit_off;        /* struct ht_exit_cpu[exit_cpus], by APIC id; 0: there are none */
	__u64 pool_head __attribute__((aligned(128))); /* next slot to take; moved by programs and by L1 */
	__u64 pool_tail __attribute__((aligned(128))); /* next slot to fill; moved by L1 only */
	__u64 exit_cpus;
	__u64 exact;           /* 1: map pages ahead as not accessed, so that each one's first use is seen */
	__u64 large_off;       /* u64[index_words / HT_LARGE_PAGES], words of granules; 0: no 2 MiB pages */
	__u64 large_pool_off;  /* u64[large_entries], as the pool, of 2 MiB frames */
	__u64 large_entries;   /* a power of two */
	__u64 large_head;
	__u64 large_tail;
	__u64 pool_stride;     /* 0: there is pool 0 alone, or L1's module knows no other */
	__u64 spare_stride;    /* bytes from a table of struct ht_cpu to the next pool's, of which only spare, taken and spare_large are used */
	__u64 reserved1[6];
};
HT_STATIC_ASSERT(sizeof(struct ht_arena_header) == 384, "arena header");

struct ht_pool { /* 256 bytes; pool 0: the header's, from HT_POOL0_OFF on */
	__u64 head;
	__u64 reserved0[15];
	__u64 tail;
	__u64 reserved1[5];
	__u64 large_head;
	__u64 large_tail;
	__u64 reserved2[8];
};
HT_STATIC_ASSERT(sizeof(struct ht_pool) == 256, "pool");
#define HT_POOL0_OFF 128
#define HT_POOL0_SAME(in_pool, in_header)                                                              \
	HT_STATIC_ASSERT(__builtin_offsetof(struct ht_pool, in_pool) + HT_POOL0_OFF ==                 \
			 __builtin_offsetof(struct ht_arena_header, in_header), "pool 0")
HT_POOL0_SAME(head, pool_head);
HT_POOL0_SAME(tail, pool_tail);
HT_POOL0_SAME(large_head, large_head);
HT_POOL0_SAME(large_tail, large_tail);

struct ht_slot {
	__u64 gfn;             /* first guest frame number */
	__u64 npages;
	__u64 word_off;        /* arena offset of the first page's word */
	__u64 small;           /* 1: L1's KVM wants no large entries in it */
};

/*
 * One per L1 CPU, a cache line of its own: a program writes it several times a page. Only the program that runs in an
 * exit of this CPU touches spare, so it needs no lock: a frame that lost the race for its word waits there for the next
 * fault.
 */
struct ht_cpu { /* 64 bytes */
	__u64 l2;              /* number of the L2 that runs on this CPU now, or 0, and HT_CPU_LARGE; written by L1 */
	__u64 spare;           /* frame address | HT_WORD_PRESENT, or 0; written by programs */
	__u64 taken;           /* scratch of the running program */
	__u64 spare_large;     /* as spare, of 2 MiB */
	__u64 root;            /* nested root table that KVM enters that L2 with, without flags; means nothing while l2 is 0; written by L1 */
	__u8 pools[HT_MAX_SLOTS]; /* for each slot of that L2, number of the pool that programs on this CPU take from; written by L1 */
	__u64 reserved[2];
};
HT_STATIC_ASSERT(sizeof(struct ht_cpu) == 64, "L1 CPU");
#define HT_CPU_NUMBER 0xffffffffull
#define HT_CPU_LARGE (1ull << 32) /* L1's KVM may have large entries for it */

/*
 * Answers to CPUID and RDMSR of the L2 vCPU that runs on an L1 CPU, as L1's own KVM gives them. One per L1 CPU. The
 * program touches it only within an exit of that CPU, L1 only just before it enters an L2 there: never both.
 */
struct ht_exit_cpuid {
	__u32 leaf, subleaf;   /* EAX and ECX that were asked with */
	__u32 eax, ebx, ecx, edx;
	__u32 generation;      /* valid while it is the CPU's */
	__u32 reserved;
};

struct ht_exit_msr {
	__u32 msr;
	__u32 generation;      /* the same */
	__u64 value;
};

/* powers of two: the verifier of Linux 6.1 knows the bounds of a mask, and not of a remainder */
#define HT_EXIT_CPUIDS 32
#define HT_EXIT_MSR_SLOTS 32

struct ht_exit_cpu { /* 2048 bytes */
	/* written by L1 */
	__u64 l2;              /* number of the L2 whose vCPU the answers are of; 0: none may be used */
	__u64 root;            /* its nested root table, as the hardware gets it, without flags */
	__u32 generation;      /* another one: no slot is valid any more; never 0 */
	__u32 reserved0;
	/* written by the program, cleared by L1: what it had no answer for */
	__u32 want;            /* 1 + enum ht_exit_kind, or 0 */
	__u32 want_arg;        /* leaf, MSR */
	__u32 want_sub;        /* subleaf */
	__u32 reserved1;
	__u64 reserved2[3];
	/* written by L1 */
	struct ht_exit_cpuid cpuids[HT_EXIT_CPUIDS]; /* each at ht_exit_cpuid_slot() alone */
	struct ht_exit_msr msrs[HT_EXIT_MSR_SLOTS];  /* at the MSR's low bits */
	__u64 reserved3[56];
};
HT_STATIC_ASSERT(sizeof(struct ht_exit_cpu) == 2048, "exit answers");

static inline __u32 ht_exit_cpuid_slot(__u32 leaf, __u32 subleaf)
{
	/* basic leaves, extended ones from 16 on, hypervisors' from 8 on, subleaves spread over the rest */
	return (leaf ^ (leaf >> 31) << 4 ^ (leaf >> 30 & 1) << 3 ^ subleaf << 2) & (HT_EXIT_CPUIDS - 1);
}

/* A run of neighbouring first touches, up or down in guest physical memory. */
struct ht_stream {
	__u64 start;           /* first gfn of the last group */
	__u64 end;             /* gfn after it */
	__u64 size;            /* its size in pages; doubles while the run goes on */
};
#define HT_STREAMS 4

enum ht_l2_state {
	HT_L2_OFF = 0,
	HT_L2_ON = 1,
};

struct ht_l2 { /* 512 bytes */
	/* written by L1 */
	__u64 state;           /* enum ht_l2_state; OFF, then a grace period, before anything below changes */
	__u64 slot_count;
	__u64 frames_limit;    /* most frames the programs may take for this L2; L1 may lower it at any time */
	__u64 group_max;       /* 1..64, or 0 for the header's */
	struct ht_slot slots[HT_MAX_SLOTS];
	__u64 reserved0[4];
	/* written by the program; L1 clears them while OFF */
	__u64 template;        /* entry bits besides the frame, learned from a leaf that L1 made; 0 = none yet */
	__u64 frames_taken;    /* with those about to be: add first, then compare with frames_limit, subtract if over */
	__u64 faults;          /* runs of the program */
	__u64 mapped_existing; /* faults answered with a frame that was already there */
	__u64 mapped_new;      /* faults answered with a new frame */
	__u64 mapped_ahead;    /* neighbours that got a frame before they were touched */
	__u64 passes;
	struct ht_stream streams[HT_STREAMS];
	__u64 stream_hand;     /* which stream is replaced next */
	__u64 large_new;       /* faults answered with a new 2 MiB frame; they are in mapped_new too */
	__u64 large_existing;  /* faults answered with a 2 MiB frame that was already there; the same */
	__u64 reserved1[2];
};
HT_STATIC_ASSERT(sizeof(struct ht_l2) == 512, "l2 record");

#endif
