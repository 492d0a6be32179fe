/* SPDX-License-Identifier: GPL-2.0 */
/*
 * /dev/hyperturtle of L0. Every ioctl that makes something returns a file descriptor that owns it: closing
 * the descriptor, also by the death of its process, undoes it.
 */
#ifndef HYPERTURTLE_HOST_H
#define HYPERTURTLE_HOST_H

#include <linux/ioctl.h>
#include "types.h"
#include "npf.h"
#include "exit.h"
#include "call.h"
#include "sample.h"

#define HT_HOST_ABI 3
#define HT_IOC 0xB7

enum ht_hook {
	HT_HOOK_NPF = 0,
	HT_HOOK_EXIT = 1,
	HT_HOOK_SAMPLE = 2,
	HT_HOOK_CALL = 3,
	HT_HOOKS = 4,
};

struct ht_arena_create {
	__s32 map_fd;          /* in: BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, one entry */
	__u32 flags;           /* in: 0 */
	__u64 bytes;           /* out: size of the device, a multiple of the page size */
	char name[32];         /* out: the device is /dev/NAME */
};

struct ht_attach_vm {
	__s32 vm_fd;           /* in: a KVM vm file, as pidfd_getfd gives it */
	__u32 flags;           /* in: 0 */
};

#define HT_LINK_ARGS_BYTES 128

struct ht_link {
	__u32 hook;            /* in: enum ht_hook */
	__s32 prog_fd;         /* in: BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE; LINK only */
	__s32 arena_fd;        /* in: the arena's map fd, or -1; LINK only */
	__u32 flags;           /* in: 0 or HT_LINK_REPLACE; LINK only */
	/* in, LINK only: struct ht_exit_args, ht_sample_args or ht_call_args by hook; what the hook does not know must be 0 */
	__u64 args[HT_LINK_ARGS_BYTES / 8];
};
HT_STATIC_ASSERT(sizeof(struct ht_exit_args) <= HT_LINK_ARGS_BYTES, "arguments of the exit hook");
HT_STATIC_ASSERT(sizeof(struct ht_sample_args) <= HT_LINK_ARGS_BYTES, "arguments of the sample hook");
HT_STATIC_ASSERT(sizeof(struct ht_call_args) <= HT_LINK_ARGS_BYTES, "arguments of the call hook");

/* takes the place of a linked program at once: each event runs the one or the other; none of the old when LINK returns */
#define HT_LINK_REPLACE 1u

#define HT_REASONS 32
#define HT_COUNTS 64

struct ht_hook_stats {
	__u64 runs;            /* events seen by the hook for this VM and its L2s: faults, exits, samples, calls */
	__u64 handled;         /* answered without L1 */
	__u64 entries;         /* npf: entries written into L1's tables */
	__u64 learned;         /* npf: program runs that asked for a template */
	__u64 overruns;        /* runs of programs that took longer than limit_ns */
	__u64 max_ns;          /* longest run of the program that is or was last linked; interrupts taken off */
	__u64 limit_ns;        /* run_limit_us of the module: at the third longer run within a minute a link is ended */
	__u64 reserved;
	__u64 reasons[HT_REASONS]; /* why not, by the hook's own numbers: enum ht_npf_reason, ht_exit_reason, ... */
	__u64 counts[HT_COUNTS];   /* what else the hook counts: enum ht_npf_count, ht_exit_count, ... */
};

struct ht_stats {
	__u32 hook;            /* in */
	__s32 pid;             /* in, on /dev/hyperturtle: process that owns the VM; ignored on a VM file */
	__u32 linked;          /* out: a program is linked */
	__u32 prog_id;         /* out: its BPF id */
	struct ht_hook_stats s; /* out */
};

/*
 * read() from a VM file, whole ones, when it is readable: the module has ended a link, as its runs took too long. A later
 * end of the same hook takes the place of one that was not read; `ends` tells.
 */
struct ht_link_ended {
	__u32 hook;
	__u32 prog_id;         /* BPF id of the program */
	__u32 ends;            /* links of this hook that were ended since the VM was attached */
	__u32 reserved;
	__u64 overruns;        /* runs of this hook over the limit since then */
	__u64 ns;              /* the last one's */
	__u64 limit_ns;
};

#define HT_CTX_MAX_BYTES 2048

struct ht_run {
	/* in: runs the linked program on a context of the caller's. EBUSY when the VM has vCPUs or the arena is in use */
	__u32 hook;
	__u32 repeat;          /* in: 1..1000000 */
	__u64 ns;              /* out: all runs together */
	__u64 ctx[HT_CTX_MAX_BYTES / 8]; /* in and out: the last run's; as much as the hook's context has */
};
HT_STATIC_ASSERT(sizeof(struct ht_npf_ctx) <= HT_CTX_MAX_BYTES, "npf context");
HT_STATIC_ASSERT(sizeof(struct ht_exit_ctx) <= HT_CTX_MAX_BYTES, "exit context");
HT_STATIC_ASSERT(sizeof(struct ht_sample_ctx) <= HT_CTX_MAX_BYTES, "sample context");
HT_STATIC_ASSERT(sizeof(struct ht_call_ctx) <= HT_CTX_MAX_BYTES, "call context");

/*
 * Calls the program that is linked to the hook call, as the channel does it for L1: one run, on this thread, beside those of
 * the VM's vCPUs. ENOENT: none is linked, or another than prog_id; EINVAL: not a number of the link; EBUSY: it uses an arena
 * that a VM has, where programs may run in exits of its vCPUs only.
 */
struct ht_vm_call {
	__u32 prog_id;         /* in: BPF id of the program that is meant, or 0 */
	__u32 number;          /* in */
	__u64 words[HT_CALL_WORDS]; /* in */
	__u64 results[HT_CALL_RESULTS]; /* out, with HANDLED */
	__u32 action;          /* out: enum ht_call_action */
	__u32 reason;          /* out: enum ht_call_reason, with PASS */
};

#define HT_GET_ABI       _IOR(HT_IOC, 0x00, __u32)
#define HT_ARENA_CREATE  _IOWR(HT_IOC, 0x01, struct ht_arena_create) /* returns the arena's fd */
#define HT_ATTACH_VM     _IOW(HT_IOC, 0x02, struct ht_attach_vm)     /* returns the VM's fd; EBUSY if attached */
#define HT_GET_STATS     _IOWR(HT_IOC, 0x03, struct ht_stats)        /* on /dev/hyperturtle or a VM fd */
/* on a VM fd */
#define HT_VM_LINK       _IOW(HT_IOC, 0x10, struct ht_link)          /* EBUSY if the hook has a program and REPLACE is not asked */
#define HT_VM_UNLINK     _IOW(HT_IOC, 0x11, struct ht_link)          /* no run is under way when it returns */
#define HT_VM_RUN        _IOWR(HT_IOC, 0x12, struct ht_run)
#define HT_VM_CALL       _IOWR(HT_IOC, 0x13, struct ht_vm_call)

#endif
