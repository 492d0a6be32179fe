/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The context of the exit hook: an L2 exit that KVM is about to hand to L1, because L1 asked for it. The program
 * may answer: general registers; the host skips the instruction as it would for its own guests.
 */
#ifndef HYPERTURTLE_EXIT_H
#define HYPERTURTLE_EXIT_H

#include "types.h"

/* What exited, the same for both vendors. A link asks for them by bit (1 << kind). */
enum ht_exit_kind {
	HT_EXIT_CPUID = 0,
	HT_EXIT_RDMSR = 1,     /* only MSRs that the link lists */
	HT_EXIT_WRMSR = 2,     /* the same */
	HT_EXIT_IO = 3,        /* IN and OUT; not their string forms */
	HT_EXIT_HYPERCALL = 4, /* VMMCALL, VMCALL */
	HT_EXIT_HLT = 5,
	HT_EXIT_PAUSE = 6,
	HT_EXIT_OTHER = 7,     /* every other exit to L1, and MSRs that are not listed: to be counted, never answered */
	HT_EXIT_KINDS = 8,
};

enum ht_exit_phase {
	HT_EXIT_BEFORE = 0,    /* L1 has not seen the exit yet: the program may answer */
	HT_EXIT_AFTER = 1,     /* L1 has handled it and is entering L2 again: to be seen only (HT_EXIT_F_AFTER) */
};

enum ht_exit_action {
	HT_EXIT_PASS = 0,      /* L1 handles the exit */
	HT_EXIT_HANDLED = 1,   /* take regs over, skip the instruction, resume L2 */
};

/* Numbers of regs[], as the instruction set numbers them. */
enum ht_exit_reg {
	HT_RAX = 0, HT_RCX = 1, HT_RDX = 2, HT_RBX = 3, HT_RSP = 4, HT_RBP = 5, HT_RSI = 6, HT_RDI = 7,
	HT_R8 = 8, HT_R9, HT_R10, HT_R11, HT_R12, HT_R13, HT_R14, HT_R15,
	HT_EXIT_REGS = 16,
};

/* Why an exit went to L1. One numbering for the module (1..15) and programs (16..31). */
enum ht_exit_reason {
	HT_EXIT_R_NONE = 0,
	HT_EXIT_R_OTHER = 1,          /* of a kind that cannot be answered */
	HT_EXIT_R_STRING_IO = 2,      /* INS or OUTS */
	HT_EXIT_R_EVENT = 3,          /* an event was being delivered */
	HT_EXIT_R_DEBUG = 4,          /* somebody debugs the VM */
	HT_EXIT_R_NOT_SKIPPED = 5,    /* the instruction could not be skipped */
	HT_EXIT_R_BAD_ANSWER = 6,     /* no action that exists */
	HT_EXIT_R_USER = 7,           /* a hypercall of L2's user space, which the link does not ask for */
	HT_EXIT_R_PROGRAM = 16,       /* the program gave no reason */
	HT_EXIT_R_DISABLED = 17,      /* kill switch, or L1's module not loaded */
	HT_EXIT_R_NO_L2 = 18,         /* no registered L2 runs on this vCPU */
	HT_EXIT_R_MISS = 19,          /* not in the cache yet */
	HT_EXIT_R_COUNTED = 20,       /* this program only counts */
	HT_EXIT_R_NOT_OURS = 21,      /* not what this program answers */
	HT_EXIT_R_LAYOUT = 22,        /* offsets in the arena are out of range */
};

/* ht_hook_stats.counts: HT_EXIT_COUNTS of each kind, from kind * HT_EXIT_COUNTS */
enum ht_exit_count {
	HT_EXIT_C_SEEN = 0,
	HT_EXIT_C_HANDLED = 1,
	HT_EXIT_C_RETURNED = 2,       /* went to L1, and L1 has entered L2 again */
	HT_EXIT_C_L1_NS = 3,          /* how long that took, together */
	HT_EXIT_C_L0_NS = 4,          /* how long answered exits took in the hook, together */
	HT_EXIT_COUNTS = 8,
};

#define HT_EXIT_MSRS 28

#define HT_EXIT_F_AFTER 1u     /* run the program also when L1 enters L2 again after an exit that it was asked for */
#define HT_EXIT_F_USER 2u      /* hypercalls of L2's user space are wanted too */

struct ht_exit_args { /* of a link */
	__u64 kinds;           /* wanted: 1 << enum ht_exit_kind */
	__u32 flags;           /* HT_EXIT_F_* */
	__u32 msr_count;
	__u32 msrs[HT_EXIT_MSRS];
};
HT_STATIC_ASSERT(sizeof(struct ht_exit_args) == 128, "exit arguments");

struct ht_exit_ctx { /* 232 bytes; programs may write all of it, the module reads only the outputs back */
	/* in */
	__u32 kind;            /* enum ht_exit_kind */
	__u32 phase;           /* enum ht_exit_phase */
	__u32 arg;             /* MSR or port */
	__u32 bytes;           /* IO: 1, 2 or 4 */
	__u32 write;           /* IO: 1 for OUT */
	__u32 cpl;             /* privilege level of L2 */
	__u32 bits;            /* 64, 32 or 16: what L2's code segment is; upper halves of registers mean nothing below 64 */
	__u32 vcpu;            /* id of the L1 vCPU, which is the APIC id that L1 sees */
	__u64 code;            /* the vendor's exit code: SVM EXITCODE, VMX basic reason */
	__u64 info1;           /* SVM EXITINFO1, VMX exit qualification */
	__u64 root;            /* L1 physical address of L2's root table (NCR3, EPTP without its low bits) */
	__u64 rip;             /* linear address of the instruction */
	__u64 now_ns;          /* of a monotonic clock of L0 */
	__u64 l1_ns;           /* AFTER: how long L1 took */
	/* in, and with HANDLED out but for RSP */
	__u64 regs[HT_EXIT_REGS]; /* by enum ht_exit_reg */
	/* out */
	__u32 action;          /* enum ht_exit_action, set to PASS before the program runs */
	__u32 reason;          /* enum ht_exit_reason >= 16, with PASS */
	__u64 reserved[1];
	__u64 scratch[1];      /* the program's */
};
HT_STATIC_ASSERT(sizeof(struct ht_exit_ctx) == 232, "exit context");

#endif
