/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of hyperturtle_host.ko share. */
#ifndef HYPERTURTLE_HOST_MODULE_H
#define HYPERTURTLE_HOST_MODULE_H

#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/kvm_host.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/srcu.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include "hyperturtle/arena.h"
#include "hyperturtle/host.h"
#include "hyperturtle/npf.h"
#include "hyperturtle/exit.h"
#include "hyperturtle/call.h"
#include "hyperturtle/sample.h"
#include "kmod/compat.h"

struct ht_hook_ops;
struct ht_run_cpu;
struct ht_fill_rest;

enum ht_run_state {
	HT_RUN_FREE,
	HT_RUN_WATCHED,		/* a run was long, and interrupts came in it: soft interrupts wait for the next ones */
	HT_RUN_ENDED,		/* runs took too long: it runs no more, and vm->end_work will take it off */
};

/* A linked program with the arena it uses. Immutable but for its state and what pointers point to; replaced as a whole. */
struct ht_linked {
	const struct ht_hook_ops *ops;
	struct ht_vm *vm;
	u32 hook;
	u32 state;		/* enum ht_run_state; from ENDED there is no way back */
	u64 watched_until;	/* ktime, while WATCHED */
	struct ht_run_cpu __percpu *cpu;
	struct bpf_prog *prog;
	struct bpf_map *arena;	/* NULL: none */
	u64 *words;		/* its memory */
	u64 bytes;
	void *priv;		/* the hook's own, from its link() to its unlink() */
};

/* Runs of a hook that took too long: the third within a minute ends the link. */
struct ht_overruns {
	u64 at[2];		/* of the last two before */
	u32 next;		/* the older of them */
	u64 took;		/* the last one, in ns */
};

/* An attached VM. Owned by its file; the hooks find it by its struct kvm. */
struct ht_vm {
	struct hlist_node node;
	struct kvm *kvm;	/* referenced */
	struct srcu_struct srcu; /* readers: hooks that use linked[] */
	struct mutex lock;	/* linked[] */
	struct ht_linked __rcu *linked[HT_HOOKS];
	struct ht_hook_stats __percpu *stats[HT_HOOKS];
	/*
	 * exit and call: links that want exits of L2s to L1. Written under lock, read without: an exit that sees it late is L1's,
	 * as it was before the link.
	 */
	u32 reflecting;
	bool *armed;		/* by vCPU, of whose thread alone it is: an exit of the hardware from L2 is being handled */
	struct ht_fill_rest __percpu *rest; /* npf: groups that were cut short */
	u64 longest_ns[HT_HOOKS]; /* run of the program that was linked last. Under lock */
	raw_spinlock_t overruns_lock; /* overruns. Taken in hard interrupts, holds nothing else */
	struct ht_overruns overruns[HT_HOOKS];
	struct work_struct end_work; /* takes off what has `ended`; may sleep, takes lock */
	spinlock_t ends_lock;	/* ends, fresh. In threads only */
	struct ht_link_ended ends[HT_HOOKS];
	unsigned long fresh;	/* bit of each of ends[] that nobody has read yet */
	wait_queue_head_t wait;	/* for fresh */
	pid_t pid;		/* of the process that made the VM, in the initial pid namespace */
};

/* Counters are per CPU and only ever added to: a racing preemption may lose one, never corrupt. */
#define ht_count(vm, hook, field, n) this_cpu_add((vm)->stats[hook]->field, n)

/*
 * What differs between hooks. link() takes the arguments of a LINK: it runs before the program can be seen (with
 * REPLACE while the old one still runs), may sleep, and refuses what it does not know. unlink() is called when no run
 * of the program is under way and none will begin. Both under vm->lock but for the closing of the VM.
 */
struct ht_hook_ops {
	u32 ctx_bytes;
	void (*reset)(void *ctx);	/* outputs as before a run, for HT_VM_RUN */
	int (*link)(struct ht_vm *vm, struct ht_linked *l, const struct ht_link *req);
	void (*unlink)(struct ht_vm *vm, struct ht_linked *l);
};

struct ht_vm *ht_vm_enter(struct kvm *kvm, int *idx);
void ht_vm_leave(struct ht_vm *vm, int idx);
int ht_vm_attach(const struct ht_attach_vm *req);
long ht_vm_stats(struct ht_vm *vm, struct ht_stats *st);
long ht_vm_stats_by_pid(struct ht_stats *st);

int ht_arena_init(void);
void ht_arena_exit(void);
int ht_arena_create(struct ht_arena_create *req);
bool ht_arena_in_use(const struct bpf_map *map);

extern const struct ht_hook_ops ht_npf_ops, ht_sample_ops;
int ht_npf_init(void);
void ht_npf_exit(void);

extern const struct ht_hook_ops ht_exit_ops;
void ht_exit_hooks_init(void);
void ht_exit_hooks_exit(void);

extern const struct ht_hook_ops ht_call_ops;
long ht_vm_call(struct ht_vm *vm, struct ht_vm_call *req);
void ht_call_hooks_exit(void);

#endif
