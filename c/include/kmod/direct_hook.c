// SPDX-License-Identifier: GPL-2.0
/*
 * Arming and disarming of hooks (direct_hook.h). Read in Linux 6.1 and 6.12: kernel/trace/ftrace.c register_ftrace_direct
 * (register_ftrace_direct_multi before 6.5), prepare_direct_functions_for_ipmodify, __ftrace_hash_update_ipmodify,
 * ftrace_enable_sysctl; arch/x86/kernel/ftrace_64.S ftrace_regs_caller.
 *
 * Sharing. A function has one direct trampoline (a BPF program with fentry is one: -EBUSY, for the one that comes second), but
 * any number of tracers, and a live patch beside it. When there is only us the function calls us; else it calls ftrace, which
 * goes to our trampoline last, with the address on the stack where the function goes on, be that its body or the
 * patch. Our trampolines only ever go on there, so both orders of coming are fine: ht_hook_share() says so.
 *
 * kernel.ftrace_enabled=0 takes direct calls off as well (FTRACE_DISABLE_CALLS), and registering one overwrites the flags of
 * its ops, FTRACE_OPS_FL_PERMANENT with them. So an ops of its own on our own function that nobody calls has that flag:
 * while it is registered the kernel refuses the 0, and it cannot be registered while it is 0. It comes before the
 * hooks and goes after them.
 */
#include <linux/err.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/srcu.h>
#include "direct_hook.h"
#include "lookup_name.h"

/* Readers: from a trampoline's call of C to the end of that, and across the function itself for HT_AROUND. They may sleep. */
DEFINE_SRCU(ht_hook_srcu);

/* Read by filtered trampolines, without a lock: zero says that nobody with these bits is attached. */
u8 ht_hook_marks[HT_MARKS];

/* declared by headers before 6.5 only */
int register_ftrace_direct_multi(struct ftrace_ops *ops, unsigned long addr);
int unregister_ftrace_direct_multi(struct ftrace_ops *ops, unsigned long addr);
/* defined nowhere: the type of what headers have since 6.5 */
int ht_unregister_proto(struct ftrace_ops *ops, unsigned long addr, bool free_filters);

/* Before 6.5 the functions of these names take an address, and those that take an ops are called _multi. */
#define HT_TAKES_OPS __builtin_types_compatible_p(typeof(unregister_ftrace_direct), typeof(ht_unregister_proto))

static int ht_register_direct(struct ftrace_ops *ops, unsigned long addr)
{
	return _Generic(&register_ftrace_direct,
			typeof(&register_ftrace_direct_multi): register_ftrace_direct,
			default: register_ftrace_direct_multi)(ops, addr);
}

static int ht_unregister_direct(struct ftrace_ops *ops, unsigned long addr)
{
	if (HT_TAKES_OPS)
		return _Generic(&unregister_ftrace_direct,
				typeof(&ht_unregister_proto): unregister_ftrace_direct,
				default: ht_unregister_proto)(ops, addr, false);
	return unregister_ftrace_direct_multi(ops, addr);
}

/* A live patch has the function, or is about to: see above. Under ftrace's locks. The second for kernels that give an ip. */
static int __maybe_unused ht_hook_share(struct ftrace_ops *ops, enum ftrace_ops_cmd cmd)
{
	return 0;
}

static int __maybe_unused ht_hook_share_ip(struct ftrace_ops *ops, unsigned long ip, enum ftrace_ops_cmd cmd)
{
	return 0;
}

#define HT_HOOK_SHARE \
	_Generic((ftrace_ops_func_t)NULL, typeof(&ht_hook_share): ht_hook_share, default: ht_hook_share_ip)

static int ht_hook_arm(struct ht_kvm_hook *hook)
{
	unsigned long addr = hook->newer_name ? ht_lookup_function(hook->newer_name) : 0;
	struct module *owner;
	int ret;

	/* trampoline.h */
	BUILD_BUG_ON(offsetof(struct ht_call, args) != 48 || offsetof(struct ht_call, frame) != 96);
	if (!addr)
		addr = ht_lookup_function(hook->name);
	if (!addr)
		return -ENOENT;
	/* kvm-amd or kvm-intel may be reloaded while no VM runs, and kvm with them: a hook would hang in the air */
	owner = ht_hold_module_of(addr);
	if (IS_ERR(owner))
		return PTR_ERR(owner);
	hook->ops = (struct ftrace_ops){ .ops_func = HT_HOOK_SHARE };
	/* no kprobe sits elsewhere than on the ftrace call of a function that has one; -EINVAL: it has none */
	ret = ftrace_set_filter_ip(&hook->ops, addr, 0, 0);
	if (!ret) {
		ret = ht_register_direct(&hook->ops, (unsigned long)hook->trampoline);
		if (ret)
			ftrace_set_filter_ip(&hook->ops, addr, 1, 0);
	}
	if (ret) {
		module_put(owner);
		return ret;
	}
	hook->addr = addr;
	hook->owner = owner;
	hook->armed = true;
	return 0;
}

/*
 * After the ftrace calls are off, three kinds of tasks are left. Those that are in ftrace, or in a trampoline, before
 * srcu_read_lock(), or behind srcu_read_unlock(): a few instructions without a voluntary switch, so the tasks-RCU grace
 * periods wait for them; and those in between, which may sleep: SRCU's. The first grace period makes sure that nobody
 * is still on the way to srcu_read_lock() when SRCU looks, the last that all who are out of it have returned as well.
 */
static void ht_hooks_drain(void)
{
	synchronize_rcu_tasks();
	synchronize_srcu(&ht_hook_srcu);
	synchronize_rcu_tasks();
}

void ht_hooks_disarm(struct ht_kvm_hook *const hooks[], unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		if (!hooks[i]->armed)
			continue;
		ht_unregister_direct(&hooks[i]->ops, (unsigned long)hooks[i]->trampoline);
		ftrace_set_filter_ip(&hooks[i]->ops, hooks[i]->addr, 1, 0);
	}
	ht_hooks_drain();
	/* only now: who was in our code has returned into these modules */
	for (i = 0; i < n; i++) {
		if (hooks[i]->armed)
			module_put(hooks[i]->owner);
		hooks[i]->armed = false;
	}
}

int ht_hooks_arm(struct ht_kvm_hook *const hooks[], unsigned int n)
{
	const char *name;
	unsigned int i;
	int ret;

	for (i = 0; i < n; i++) {
		ret = ht_hook_arm(hooks[i]);
		if (!ret)
			continue;
		name = hooks[i]->newer_name && ht_lookup_function(hooks[i]->newer_name) ? hooks[i]->newer_name :
												hooks[i]->name;
		/* a link may arm one, and a tenant chooses how often */
		if (ret == -EBUSY)
			pr_err_ratelimited("hyperturtle: cannot hook %s: something else, such as a BPF program (fentry), has it: grep -w %s /sys/kernel/tracing/enabled_functions\n",
			       name, name);
		else if (ret != -ENOENT)
			pr_err_ratelimited("hyperturtle: cannot hook %s (%d)\n", name, ret);
		ht_hooks_disarm(hooks, i);
		return ret;
	}
	return 0;
}

/* Has an ftrace call, which is never made: nobody calls it. */
noinline void ht_hooks_nobody(void);
noinline void ht_hooks_nobody(void)
{
	barrier();
}

static void notrace ht_hooks_nothing(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
				     struct ftrace_regs *fregs)
{
}

static struct ftrace_ops ht_permanent_ops = { .func = ht_hooks_nothing, .flags = FTRACE_OPS_FL_PERMANENT };

int ht_hooks_stay_on(void)
{
	int ret = ftrace_set_filter_ip(&ht_permanent_ops, (unsigned long)ht_hooks_nobody, 0, 0);

	if (!ret) {
		ret = register_ftrace_function(&ht_permanent_ops);
		if (ret)
			ftrace_set_filter_ip(&ht_permanent_ops, (unsigned long)ht_hooks_nobody, 1, 0);
	}
	if (ret)
		pr_err("hyperturtle: cannot hook KVM (%d): %s\n", ret,
		       ret == -EBUSY ? "ftrace is off: sysctl kernel.ftrace_enabled=1, and load again" :
				       "ftrace does not work, see the kernel log");
	return ret;
}

void ht_hooks_stay_off(void)
{
	unregister_ftrace_function(&ht_permanent_ops);
	ftrace_set_filter_ip(&ht_permanent_ops, (unsigned long)ht_hooks_nobody, 1, 0);
}

static u8 *ht_hook_mark_of(u8 marks[HT_MARKS], const void *p)
{
	return &marks[(unsigned long)p >> HT_MARKS_SHIFT & (HT_MARKS - 1)];
}

/* At 255 it stays: then these bits are let through for good, which is slower and no more. */
void ht_hook_mark(u8 marks[HT_MARKS], const void *p)
{
	u8 *mark = ht_hook_mark_of(marks, p);

	WRITE_ONCE(*mark, *mark == U8_MAX ? U8_MAX : *mark + 1);
}

void ht_hook_unmark(u8 marks[HT_MARKS], const void *p)
{
	u8 *mark = ht_hook_mark_of(marks, p);

	WRITE_ONCE(*mark, *mark == U8_MAX ? U8_MAX : *mark - 1);
}
