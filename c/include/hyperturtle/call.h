/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The hook call: a guest calls the program of its L1 in L0, by VMMCALL (AMD) or VMCALL (Intel), in one exit. The caller may
 * be L1 itself, a nested guest where L1's link says so, or L1's agent on the channel.
 *
 * RAX has the number, RBX, RCX, RDX, RSI, RDI and R8 the words; the answer comes in RAX, RBX, RCX and RDX. Below 64 bits
 * the lower halves count, and there is no R8: the sixth word is 0. A call that nobody answers goes where it went without a
 * program: of an L2 to its L1; of L1 to KVM, which says -1000 (ENOSYS) in RAX.
 */
#ifndef HYPERTURTLE_CALL_H
#define HYPERTURTLE_CALL_H

#include "types.h"

/* Who calls. A link asks for L1 and L2 by bit; the channel is open to the owner of every link. */
#define HT_CALL_L1 1u
#define HT_CALL_L2 2u
#define HT_CALL_CHANNEL 4u

enum ht_call_action {
	HT_CALL_PASS = 0,      /* not answered: the call goes where it went */
	HT_CALL_HANDLED = 1,   /* results are the answer */
};

/* Why a call of a number of the link was not answered. 1..15 are the module's, 16..31 programs'. */
enum ht_call_reason {
	HT_CALL_R_NONE = 0,
	HT_CALL_R_USER = 1,           /* of user space, which the link does not ask for */
	HT_CALL_R_EVENT = 2,          /* an event was being delivered to L2 */
	HT_CALL_R_DEBUG = 3,          /* somebody debugs the VM, and L2 calls */
	HT_CALL_R_NOT_SKIPPED = 4,    /* L2's instruction could not be skipped */
	HT_CALL_R_BAD_ANSWER = 5,     /* no action that exists */
	HT_CALL_R_PROGRAM = 16,       /* the program gave no reason */
	HT_CALL_R_DISABLED = 17,      /* kill switch, or L1's module not loaded */
	HT_CALL_R_NO_L2 = 18,         /* no registered L2 runs on this vCPU, or not one that may call */
	HT_CALL_R_NOT_OURS = 19,      /* not what this program answers */
};

/* ht_hook_stats.counts: answered, by who called */
enum ht_call_count {
	HT_CALL_C_L1 = 0,
	HT_CALL_C_L2 = 1,
	HT_CALL_C_CHANNEL = 2,
};

#define HT_CALL_NUMBERS 28
/* Lower ones are those of KVM and Xen: taken from an L1 they would break it. */
#define HT_CALL_NUMBER_MIN 256

#define HT_CALL_F_USER 1u      /* calls of user space are wanted too */

struct ht_call_args { /* of a link */
	__u32 from;            /* HT_CALL_L1, HT_CALL_L2 or both */
	__u32 flags;           /* HT_CALL_F_* */
	__u32 number_count;    /* 1.. */
	__u32 reserved;        /* 0 */
	__u32 numbers[HT_CALL_NUMBERS]; /* HT_CALL_NUMBER_MIN.. */
};
HT_STATIC_ASSERT(sizeof(struct ht_call_args) == 128, "call arguments");

#define HT_CALL_WORDS 6
#define HT_CALL_RESULTS 4
#define HT_CALL_NO_VCPU 0xffffffffu

struct ht_call_ctx { /* 144 bytes; programs may write all of it, the module reads only the outputs back */
	/* in */
	__u32 number;
	__u32 from;            /* one of HT_CALL_L1, HT_CALL_L2, HT_CALL_CHANNEL */
	__u32 cpl;             /* privilege level of the caller */
	__u32 bits;            /* 64, 32 or 16: of the caller's code segment */
	__u32 vcpu;            /* id of the L1 vCPU, which is the APIC id that L1 sees; HT_CALL_NO_VCPU on the channel */
	__u32 reserved_in;
	__u64 root;            /* L2: L1 physical address of its root table (NCR3, EPTP without its low bits), else 0 */
	__u64 words[HT_CALL_WORDS];
	/* out, with HANDLED: what the program leaves alone is 0 for RAX, and of the other registers what they were */
	__u64 results[HT_CALL_RESULTS];
	__u32 action;          /* enum ht_call_action, set to PASS before the program runs */
	__u32 reason;          /* enum ht_call_reason >= 16, with PASS */
	__u64 reserved[2];
	__u64 scratch[1];      /* the program's */
};
HT_STATIC_ASSERT(sizeof(struct ht_call_ctx) == 144, "call context");

#endif
