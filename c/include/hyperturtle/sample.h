/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The context of the sample hook: a timer or a performance counter has interrupted a vCPU of this VM while it ran
 * an L2. The program sees where L2 was and who called whom there; it answers nothing.
 */
#ifndef HYPERTURTLE_SAMPLE_H
#define HYPERTURTLE_SAMPLE_H

#include "types.h"

#define HT_SAMPLE_HZ_MAX 10000 /* of the module; a host may allow a VM less */
#define HT_SAMPLE_FRAMES 64

#define HT_SAMPLE_F_CLOCK 1u   /* the vCPU thread's CPU clock, also where there is a cycle counter */

struct ht_sample_args { /* of a link */
	__u32 hz;              /* samples a second of each vCPU thread, 1..HT_SAMPLE_HZ_MAX */
	__u32 flags;           /* HT_SAMPLE_F_* */
	__u32 depth;           /* most addresses of one stack, 1..HT_SAMPLE_FRAMES; 1: no stack is walked */
	__u32 reserved;
};
HT_STATIC_ASSERT(sizeof(struct ht_sample_args) == 16, "sample arguments");

/* What interrupted. */
enum ht_sample_source {
	HT_SAMPLE_CYCLES = 1,  /* the cycle counter of the CPU, counting in guests only */
	HT_SAMPLE_CLOCK = 2,   /* the CPU clock of the vCPU's thread */
};

/* Why a stack has no further address. */
enum ht_sample_end {
	HT_SAMPLE_END_FRAME = 0,      /* the frame pointer does not lead on: outermost frame, or none is kept */
	HT_SAMPLE_END_DEPTH = 1,      /* as many as were asked for */
	HT_SAMPLE_END_MEMORY = 2,     /* a page that is not there, or that is no memory of this VM */
	HT_SAMPLE_END_BUDGET = 3,     /* too many page table entries were read for one sample */
	HT_SAMPLE_END_MODE = 4,       /* no stack is walked in this mode of L2 or of its paging */
};

/* Why an interrupt in an L2 became no sample. One numbering for the module (1..15) and programs (16..31). */
enum ht_sample_reason {
	HT_SAMPLE_R_NONE = 0,
	HT_SAMPLE_R_THROTTLED = 1,    /* samples took half of this vCPU's time */
	HT_SAMPLE_R_STATE = 2,        /* L2's registers could not be read on this kernel */
	HT_SAMPLE_R_LATE = 3,         /* the vCPU had left L2 before the sample could be taken */
	HT_SAMPLE_R_OTHER_L2 = 16,    /* not the L2 that is wanted */
	HT_SAMPLE_R_FULL = 17,        /* no room for another stack */
	HT_SAMPLE_R_LAYOUT = 18,      /* offsets in the arena are out of range */
};

/* ht_hook_stats.counts */
enum ht_sample_count {
	HT_SAMPLE_C_CYCLES = 0,       /* samples by the cycle counter */
	HT_SAMPLE_C_CLOCK = 1,        /* samples by the CPU clock */
	HT_SAMPLE_C_KERNEL = 2,       /* samples of L2's kernel */
	HT_SAMPLE_C_USER = 3,         /* samples of L2's user space */
	HT_SAMPLE_C_FRAMES = 4,       /* addresses of all their stacks */
	HT_SAMPLE_C_NS = 5,           /* time that taking them took */
	HT_SAMPLE_C_OUTSIDE = 6,      /* interrupts while the thread ran L0 or L1: no samples */
	HT_SAMPLE_C_BROKEN = 7,       /* stacks that ended at memory that is not there, or at the budget */
};

struct ht_sample_ctx { /* 768 bytes; programs may write all of it, the module reads only reason back */
	/* in */
	__u64 ip;              /* linear address */
	__u64 cr3;             /* L2 physical address of L2's page table, with its low bits */
	__u64 root;            /* L1 physical address of L2's nested root table (NCR3, EPTP without its low bits) */
	__u64 now_ns;          /* of a monotonic clock of L0 */
	__u32 vcpu;            /* id of the L1 vCPU, which is the APIC id that L1 sees */
	__u32 cpl;             /* privilege level of L2: 0 kernel, 3 user */
	__u32 bits;            /* 64, 32 or 16: what L2's code segment is */
	__u32 source;          /* enum ht_sample_source */
	__u32 hz;              /* of the link */
	__u32 count;           /* addresses in ips */
	__u32 end;             /* enum ht_sample_end */
	__u32 reserved_in;
	__u64 entry;           /* L2's handler of page faults, from its IDT; 0: not known. Tells where its kernel was loaded */
	__u64 regs[16];        /* RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 ... R15 */
	__u64 ips[HT_SAMPLE_FRAMES]; /* ip, then return addresses; 0 behind them */
	/* out */
	__u32 reason;          /* enum ht_sample_reason >= 16, or 0 for a sample that was taken */
	__u32 reserved_out;
	__u64 reserved[6];
};
HT_STATIC_ASSERT(sizeof(struct ht_sample_ctx) == 768, "sample context");

/*
 * The maps of the shipped program (c/bpf/profile). One entry of `stacks` for each different one, with the number of
 * samples; `control` says which L2 is wanted.
 */
#define HT_PROFILE_STACKS 8192
#define HT_PROFILE_L2S 256     /* entries of `kernels`: ht_sample_ctx.entry by number of the L2 */

struct ht_profile_stack { /* 536 bytes: key of `stacks` */
	__u32 l2;              /* number of the L2 in the arena; 0: none that is registered */
	__u32 vcpu;
	__u64 space;           /* user space: CR3 without its low bits, one for each process; kernel: 0 */
	__u32 cpl;
	__u32 count;           /* addresses */
	__u64 ips[HT_SAMPLE_FRAMES - 1];
	__u64 end;             /* enum ht_sample_end */
};
HT_STATIC_ASSERT(sizeof(struct ht_profile_stack) == 536, "profile stack");

struct ht_profile_control { /* value of `control` */
	__u32 l2;              /* wanted, or 0 for all */
	__u32 flags;           /* HT_PROFILE_F_* */
};

#define HT_PROFILE_F_NO_USER 1u   /* samples of user space are not wanted */
#define HT_PROFILE_F_NO_KERNEL 2u
#define HT_PROFILE_F_NO_SPACES 4u /* all user spaces as one */

struct ht_profile_totals { /* value of `totals`, per CPU */
	__u64 samples;         /* in stacks */
	__u64 other;           /* of other L2s, or not wanted */
	__u64 lost;            /* no room for another stack */
};

#endif
