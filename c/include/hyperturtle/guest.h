/* SPDX-License-Identifier: GPL-2.0 */
/* /dev/hyperturtle-guest of L1. */
#ifndef HYPERTURTLE_GUEST_H
#define HYPERTURTLE_GUEST_H

#include <linux/ioctl.h>
#include "types.h"
#include "call.h"

#define HTG_ABI 3
#define HTG_IOC 0xB8

/* Whether frames of nested guests count in memory cgroups. */
enum htg_memcg {
	HTG_MEMCG_NONE = 0,    /* the kernel has none, or not as we know them */
	HTG_MEMCG_CHARGED = 1,
	HTG_MEMCG_OFF = 2,     /* turned off (cgroup_disable=memory, cgroup.memory=nokmem), or there are no cgroups */
};
#define HTG_CGROUP_PATH 256

/* Why pages of an L2's RAM have no place in the arena, though turtlefs has one for them; bits. Faults on them go to L1. */
enum htg_left_out {
	HTG_LEFT_OUT_NO_ROOM = 1, /* its memory cgroup has no room for what the file holds already */
	HTG_LEFT_OUT_OTHER = 2,   /* an L2 of another memory cgroup uses the file */
	HTG_LEFT_OUT_GUESTS = 4,  /* it runs guests of its own, whose tables KVM shadows: no fault, whatever the pages, until these are gone */
	HTG_LEFT_OUT_INDEX = 8,   /* the page index has no room for the file's words, until another file's go */
};

struct htg_info {
	__u32 abi;
	__u32 arena_bound;     /* an arena is there */
	__u64 arena_bytes;
	__u64 enabled;
	__u64 group_max;
	__u64 pool_entries;
	__u64 pool_low;        /* refill below this many frames */
	__u64 pool_high;       /* refill up to this many frames */
	__u64 pool_level;      /* frames in the pool now */
	__u64 index_words;
	__u64 index_used;      /* words that belong to files */
	__u64 l2_count;        /* registered L2s */
	/* frames, exact since load: allocated == freed when no file has pages and the pool is empty */
	__u64 frames_allocated;
	__u64 frames_freed;
	__u64 faults;          /* page faults of turtlefs in L1 */
	__u64 faults_lost;     /* of these, lost the race for the word to a program */
	__u64 faults_found;    /* of these, found a frame that was there */
	__u64 refills;
	__u64 shrunk;          /* frames given back under memory pressure */
	__u64 grace_periods;
	__u64 large_frames;    /* 2 MiB frames to keep in the pool, or with large_auto at most; 0: no 2 MiB pages */
	__u64 large_level;     /* 2 MiB frames that no file has */
	__u64 interrupted;     /* CPUs that were interrupted for a grace period of single L2s */
	__u64 memcg;           /* enum htg_memcg */
	__u64 large_auto;      /* 1: as many 2 MiB frames as free memory allows, and looked at for what of them is used */
	__u64 large_back;      /* pages of 2 MiB frames that nobody used, and that were given back */
};

/* One pool: the frames of one NUMA node. */
struct htg_pool {
	__u32 number;          /* in: 0, 1, ... until ENOENT */
	__s32 node;
	__u64 level;           /* frames in it now */
	__u64 low;             /* its share of the limits */
	__u64 high;
	__u64 large_frames;    /* 2 MiB frames to keep in it */
	__u64 large_level;     /* that no file has */
	__u64 reserved[2];
};

/* SET: fields whose bit is in mask */
#define HTG_SET_ENABLED   1u
#define HTG_SET_GROUP_MAX 2u
#define HTG_SET_POOL      4u   /* low and high */
#define HTG_SET_EXACT     8u   /* from now on, see the first use of each page that is given ahead; slower */
#define HTG_SET_INEXACT   16u
struct htg_set {
	__u32 mask;
	__u32 enabled;         /* 0 or 1 */
	__u64 group_max;       /* 1..64 */
	__u64 pool_low;
	__u64 pool_high;       /* low <= high <= pool_entries */
};

struct htg_register {
	__s32 vm_fd;           /* KVM vm fd of a VM whose RAM is a turtlefs file */
	__u32 flags;           /* 0 */
	__u64 frames_limit;    /* most frames that programs may take; 0 = as many as its RAM has pages */
	__u64 group_max;       /* 1..64, or 0 for the default */
	char name[32];         /* for listings */
};

struct htg_l2_status {
	__u32 number;          /* in the arena, 1.. */
	__u32 state;           /* enum ht_l2_state */
	__u32 dead;            /* its VM or its address space is gone */
	__u32 slots;           /* RAM ranges exported */
	__u64 pages;           /* pages in them */
	__u64 slot_changes;    /* changes followed since registration */
	__u64 template;
	__u64 frames_taken;
	__u64 faults;
	__u64 mapped_existing;
	__u64 mapped_new;
	__u64 mapped_ahead;
	__u64 passes;
	char name[32];
	__u64 pages_held;      /* pages that have a frame now */
	__u64 pages_unused;    /* of these, given ahead of their fault while `exact`, and not seen to be used; none of a 2 MiB page */
	__u64 large_new;       /* faults answered with a new 2 MiB frame */
	__u64 large_existing;  /* with one that was there */
	__u64 large_waiting;   /* 2 MiB frames that it has, and that will be looked at for what of them is used */
	__u64 large_seen;      /* that have been */
	__u64 large_kept;      /* of these, left as they are, since most of each is used */
	__u64 pages_vain;      /* pages of those that nobody used then */
	__u64 pages_back;      /* pages of the others that nobody used: given back */
	__u64 small;           /* 1: no 2 MiB frames now, as less than half of them was used */
	__u64 small_times;     /* so often did that begin */
	__u64 frames_charged;  /* to its memory cgroup, for all turtlefs files and credits of that; 0: to none */
	__u64 frames_credit;   /* of these, charged ahead of a program that takes them */
	__u64 pages_left_out;
	__u64 left_out;        /* enum htg_left_out */
	char cgroup[HTG_CGROUP_PATH]; /* path in the hierarchy of its memory cgroup; empty: none, or the root */
};

enum htg_event_kind {
	HTG_EVENT_VM = 1,      /* a VM that is not registered got RAM of a turtlefs file; pid is its process */
	HTG_EVENT_ARENA = 2,   /* an arena was bound */
	HTG_EVENT_NO_ARENA = 3, /* it is gone, and every registration with it */
	HTG_EVENT_LOST = 4,    /* events were lost: look at everything */
};

/* read() from the file that WATCH returns: whole records, oldest first; EAGAIN or waits when there is none */
struct htg_vm_event {
	__s32 pid;             /* in the pid namespace of anyone who opened the file, or 0 */
	__u32 kind;            /* enum htg_event_kind */
	__u64 seq;             /* 1, 2, 3, ... for each file */
};

/*
 * Calls this L1's program in L0 from its kernel, `repeat` times with the same words. Nobody answers: -1000 in results[0],
 * the others as they were.
 */
struct htg_call {
	__u32 number;          /* in: HT_CALL_NUMBER_MIN.. */
	__u32 repeat;          /* in: 1..1000000 */
	__u64 words[HT_CALL_WORDS]; /* in */
	__u64 results[HT_CALL_RESULTS]; /* out: of the last one */
	__u64 ns;              /* out: of all together */
};

#define HTG_GET_INFO   _IOR(HTG_IOC, 0x00, struct htg_info)
#define HTG_SET        _IOW(HTG_IOC, 0x01, struct htg_set)
#define HTG_REGISTER   _IOW(HTG_IOC, 0x02, struct htg_register) /* returns the L2's fd; closing unregisters */
#define HTG_WATCH_VMS  _IO(HTG_IOC, 0x03) /* returns a file to read struct htg_vm_event from */
#define HTG_GET_POOL   _IOWR(HTG_IOC, 0x04, struct htg_pool) /* ENOENT: there are not so many; ENODEV: no arena */
#define HTG_CALL       _IOWR(HTG_IOC, 0x05, struct htg_call) /* ENODEV: there is no KVM below */
/* on an L2's fd; poll() gives POLLHUP when the L2 is gone */
#define HTG_L2_STATUS  _IOR(HTG_IOC, 0x10, struct htg_l2_status)

#endif
