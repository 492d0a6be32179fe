/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Hooks on functions of KVM. The function's ftrace call goes straight to our trampoline (trampoline.h), which may
 * let it go on, answer in its place, or call it and look at what it did. Nothing is replaced: a live patch of the same
 * function may come before or after us, and its function is the one that goes on.
 */
#ifndef HYPERTURTLE_DIRECT_HOOK_H
#define HYPERTURTLE_DIRECT_HOOK_H

/* What a hook says before the function. The numbers are trampoline.h's. */
#define HT_GO_ON	0	/* the function runs and returns to its caller */
#define HT_ANSWER	1	/* it does not run: its caller gets call->answer */
#define HT_AROUND	2	/* it runs, and then our after() */

/* u8 counters, by bits 8 to 23 of a pointer: see ht_hook_mark() */
#define HT_MARKS_SHIFT	8
#define HT_MARKS	(1 << 16)

#ifndef __ASSEMBLY__

#include <linux/ftrace.h>
#include <linux/srcu.h>
#include <linux/types.h>

/* One call of a hooked function, on its caller's stack: the trampoline has pushed it. Arguments as registers have them. */
struct ht_call {
	unsigned long answer;	/* with HT_AROUND, in after(): what the function returned */
	unsigned long hold;	/* direct_hook.c's */
	unsigned long priv[4];	/* before()'s for after() */
	unsigned long args[6];
	unsigned long frame;	/* the caller's frame pointer */
	unsigned long go_on;	/* where the function goes on */
	unsigned long parent;	/* where it returns to; the function graph tracer puts itself there */
};

struct ht_kvm_hook {
	const char *name;
	const char *newer_name;	/* NULL, or counts where there is one of that name */
	void (*trampoline)(void);
	struct ftrace_ops ops;
	unsigned long addr;
	struct module *owner;	/* of the function; held from arming until nobody is in our code */
	bool armed;
};

extern struct srcu_struct ht_hook_srcu;
/* Of all hooks but those whose trampoline says otherwise (HT_TRAMPOLINE_VCPU). */
extern u8 ht_hook_marks[HT_MARKS];

/*
 * Makes HOOK##_hook on the function SYMBOL: BEFORE(call) gives one of the three above, AFTER(call) is only called for
 * HT_AROUND. Both may sleep as the function may. The file's trampoline is HT_TRAMPOLINE HOOK (trampoline.h).
 */
#define HT_HOOK(hook, symbol, before, after)                                                    \
	void hook##_trampoline(void);                                                         \
	int hook##_before(struct ht_call *call);                                              \
	void hook##_after(struct ht_call *call);                                              \
	int hook##_before(struct ht_call *call)                                               \
	{                                                                                     \
		int idx = srcu_read_lock(&ht_hook_srcu), verdict = before(call);              \
											      \
		if (verdict == HT_AROUND)                                                     \
			call->hold = idx;                                                     \
		else                                                                          \
			srcu_read_unlock(&ht_hook_srcu, idx);                                 \
		return verdict;                                                               \
	}                                                                                     \
	void hook##_after(struct ht_call *call)                                               \
	{                                                                                     \
		after(call);                                                                  \
		srcu_read_unlock(&ht_hook_srcu, call->hold);                                  \
	}                                                                                     \
	static struct ht_kvm_hook hook##_hook = { .name = symbol, .trampoline = hook##_trampoline }

static inline void ht_no_after(struct ht_call *call)
{
}

/*
 * Calls the rest of a hooked function once more, from its before(), with other arguments; go_on is ht_call's. It begins behind
 * the function's ftrace call, so it meets neither this hook nor a tracer; a live patch of the function it does, as the call
 * that is under way. A module that calls it has HT_HOOK_CALL_WITH among its trampolines.
 */
unsigned long ht_hook_call_with(unsigned long go_on, unsigned long arg0, unsigned long arg1);

/*
 * Keeps kernel.ftrace_enabled at 1 until ht_hooks_stay_off(); -EBUSY while it is 0, as the kernel log says. Before any name
 * is looked up: a kprobe that comes and goes while it is 0 leaves flags in ftrace's records, of which it warns later, and
 * then stays in the kernel's list when its memory is gone.
 */
int ht_hooks_stay_on(void);
void ht_hooks_stay_off(void);

/* All of them or none. -ENOENT: this kernel has no such function, or inlined it; its module may be missing. */
int ht_hooks_arm(struct ht_kvm_hook *const hooks[], unsigned int n);
/* When it returns nobody is in their code, and nobody will be. Those that are not armed are left alone. */
void ht_hooks_disarm(struct ht_kvm_hook *const hooks[], unsigned int n);

/* What a filtered trampoline lets through, in its table. Callers with the same table take turns. */
void ht_hook_mark(u8 marks[HT_MARKS], const void *p);
void ht_hook_unmark(u8 marks[HT_MARKS], const void *p);

#endif
#endif
