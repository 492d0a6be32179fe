/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Replaces a static function of another module by ours, by name, with ftrace's IPMODIFY (as livepatch does);
 * a call from within our own module reaches the original. So a replacement calls hook->addr to go on, and
 * must not do so as a tail call: the return address is how the thunk tells who calls
 * (build with -fno-optimize-sibling-calls).
 */
#ifndef HYPERTURTLE_FTRACE_HOOK_H
#define HYPERTURTLE_FTRACE_HOOK_H

#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include "lookup_name.h"

struct ht_ftrace_hook {
	const char *name;
	void *replacement;
	unsigned long addr;	/* the original, to be called by the replacement */
	unsigned long from, to;	/* only calls out of this code are replaced; to 0: all */
	bool permanent;		/* while it is armed kernel.ftrace_enabled=0 is refused; arming is -EBUSY while it is 0 */
	struct ftrace_ops ops;
	bool armed;
};

static void notrace ht_ftrace_thunk(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
				    struct ftrace_regs *fregs)
{
	struct ht_ftrace_hook *hook = container_of(ops, struct ht_ftrace_hook, ops);

	if (hook->to && (parent_ip < hook->from || parent_ip >= hook->to))
		return;
	if (!within_module(parent_ip, THIS_MODULE))
		instruction_pointer_set(ftrace_get_regs(fregs), (unsigned long)hook->replacement);
}

/* From now on only calls by this function are replaced. Before the hook is armed. */
static int __maybe_unused ht_hook_only_from(struct ht_ftrace_hook *hook, const char *caller)
{
	int (*size_of)(unsigned long addr, unsigned long *size, unsigned long *offset);
	unsigned long size, offset;

	size_of = (void *)ht_lookup_name("kallsyms_lookup_size_offset");
	hook->from = ht_lookup_name(caller);
	if (!size_of || !hook->from || !size_of(hook->from, &size, &offset) || offset)
		return -ENOENT;
	hook->to = hook->from + size;
	return 0;
}

/* -ENOENT where this kernel has no such function: its module is not loaded, or inlined it */
static int ht_hook_arm(struct ht_ftrace_hook *hook)
{
	int ret;

	hook->addr = ht_lookup_name(hook->name);
	if (!hook->addr)
		return -ENOENT;
	hook->ops.func = ht_ftrace_thunk;
	hook->ops.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_RECURSION | FTRACE_OPS_FL_IPMODIFY;
	if (hook->permanent)
		hook->ops.flags |= FTRACE_OPS_FL_PERMANENT;
	ret = ftrace_set_filter_ip(&hook->ops, hook->addr, 0, 0);
	if (ret)
		return ret;
	ret = register_ftrace_function(&hook->ops);
	if (ret) {
		ftrace_set_filter_ip(&hook->ops, hook->addr, 1, 0);
		return ret;
	}
	hook->armed = true;
	return 0;
}

/*
 * After this no call enters the replacement any more; calls that are in it are the caller's to wait for
 * (ht_hooks_drain).
 */
static void ht_hook_disarm(struct ht_ftrace_hook *hook)
{
	if (!hook->armed)
		return;
	unregister_ftrace_function(&hook->ops);
	ftrace_set_filter_ip(&hook->ops, hook->addr, 1, 0);
	hook->armed = false;
}

/*
 * Replacements hold srcu from their first to their last instructions but a few. The tasks-RCU grace periods
 * cover those few (a task preempted there has not switched voluntarily), SRCU covers sleeping in between.
 */
static void ht_hooks_drain(struct srcu_struct *srcu)
{
	synchronize_rcu_tasks();
	synchronize_srcu(srcu);
	synchronize_rcu_tasks();
}

#endif
