// SPDX-License-Identifier: GPL-2.0
/*
 * How long programs run. Admission bounds it; here it is measured, and a link whose runs take several times
 * what admission allows is ended: its program does not run again from the moment of the third such run within
 * a minute, and a work item takes it off and tells the owner of the VM's file.
 *
 * Whose time a run's is. Preemption is off, so no other thread's. npf, exit and call run with interrupts on, and each
 * hard interrupt that the CPU counted in a run is taken off with HT_INTERRUPT_US, and with HT_SOFTIRQ_US when soft
 * interrupts may have followed it. As that is much, a long run with interrupts in it has its link watched for a minute: its
 * runs then keep soft interrupts waiting, and only the former is taken off. So an innocent program is not ended
 * by a storm of interrupts of this host, and a slow one is not saved by those that must come while it runs (the timer's:
 * 250 to 1,000 a second). A CPU that stands still (SMI, a host below this one that runs something else) cannot be
 * told from a slow program: that is why it takes three within a minute, and why the limit is far higher where this
 * host is a virtual machine itself.
 */
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/workqueue.h>
#include <asm/tsc.h>
#include "run.h"

#define HT_HOOKS_LIMITED 4
#define HT_INTERRUPT_US 100
/* __do_softirq() (kernel/softirq.c): it goes on for 2 ms, and a handler that has begun is let end */
#define HT_SOFTIRQ_US 3000
#define HT_OVERRUN_WINDOW (60 * NSEC_PER_SEC)
/* of a host that is a virtual machine: stalls of some 100 ms are common where emulators share CPUs */
#define HT_VIRTUAL_LIMIT_US USEC_PER_SEC

/* four times what admission lets a run take on a slow core (docs/admission.md): npf, exit, sample, call */
static const u32 ht_default_limit_us[HT_HOOKS_LIMITED] = { 4 * 50, 4 * 50, 4 * 10, 4 * 50 };

static unsigned int ht_run_limit_us[HT_HOOKS_LIMITED];
module_param_array_named(run_limit_us, ht_run_limit_us, uint, NULL, 0444);
MODULE_PARM_DESC(run_limit_us,
		 "microseconds of a run of npf,exit,sample,call; at the third longer one within a minute its link is ended (default: 200,200,40,200; in a virtual machine 1000000 each)");

static u64 ht_limit_cycles[HT_HOOKS] __read_mostly;
static u64 ht_interrupt_cycles __read_mostly, ht_softirq_cycles __read_mostly;

static u64 ht_cycles_of_us(u64 us)
{
	return mul_u64_u32_div(us, tsc_khz, USEC_PER_MSEC);
}

/* A TSC that changes its rate, as on CPUs of before 2008, makes this wrong by the ratio of the rates. */
static u64 ht_ns_of_cycles(u64 cycles)
{
	return mul_u64_u32_div(cycles, USEC_PER_SEC, tsc_khz);
}

u64 ht_run_limit_ns(u32 hook)
{
	return ht_ns_of_cycles(ht_limit_cycles[hook]);
}

int ht_run_init(void)
{
	int i;

	if (!tsc_khz) {
		pr_err("hyperturtle: runs of programs are measured by the TSC, whose rate this kernel does not know: not loaded\n");
		return -EOPNOTSUPP;
	}
	for (i = 0; i < HT_HOOKS_LIMITED; i++) {
		if (!ht_run_limit_us[i])
			ht_run_limit_us[i] = boot_cpu_has(X86_FEATURE_HYPERVISOR) ? HT_VIRTUAL_LIMIT_US :
										    ht_default_limit_us[i];
		ht_limit_cycles[i] = ht_cycles_of_us(ht_run_limit_us[i]);
	}
	ht_interrupt_cycles = ht_cycles_of_us(HT_INTERRUPT_US);
	ht_softirq_cycles = ht_cycles_of_us(HT_SOFTIRQ_US);
	return 0;
}

/* per CPU zeros: the first run on each CPU is the longest so far */
int ht_run_alloc(struct ht_linked *l)
{
	l->cpu = alloc_percpu(struct ht_run_cpu);
	return l->cpu ? 0 : -ENOMEM;
}

void ht_run_free(struct ht_linked *l)
{
	free_percpu(l->cpu);
}

u64 ht_run_longest_ns(const struct ht_linked *l)
{
	u64 longest = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		longest = max(longest, READ_ONCE(per_cpu_ptr(l->cpu, cpu)->longest));
	return ht_ns_of_cycles(longest);
}

/*
 * The overruns of a hook are its VM's and not its program's, so that linking another or the same one does not
 * begin again. In any context but an NMI.
 */
static void ht_overrun(const struct ht_linked *l, u64 took)
{
	struct ht_overruns *o = &l->vm->overruns[l->hook];
	u64 now = ktime_get_ns(), before;
	unsigned long flags;

	ht_count(l->vm, l->hook, overruns, 1);
	raw_spin_lock_irqsave(&l->vm->overruns_lock, flags);
	o->took = took;
	before = o->at[o->next];
	o->at[o->next] = now;
	o->next = (o->next + 1) % ARRAY_SIZE(o->at);
	if (before && now - before < HT_OVERRUN_WINDOW && READ_ONCE(l->state) != HT_RUN_ENDED) {
		WRITE_ONCE(((struct ht_linked *)l)->state, HT_RUN_ENDED);
		/* sleeping is the work's; VM and module are there until release has waited for it */
		queue_work(ht_unbound_wq, &l->vm->end_work);
	}
	raw_spin_unlock_irqrestore(&l->vm->overruns_lock, flags);
}

/* The next runs of a link keep soft interrupts waiting. Nothing else changes a state but the end, which wins. */
static void ht_watch(const struct ht_linked *l)
{
	struct ht_linked *watched = (struct ht_linked *)l;

	WRITE_ONCE(watched->watched_until, ktime_get_ns() + HT_OVERRUN_WINDOW);
	cmpxchg(&watched->state, HT_RUN_FREE, HT_RUN_WATCHED);
}

/* A run longer than any before on this CPU, or than the limit. Preemption is off. */
noinline void ht_run_slow(const struct ht_linked *l, u64 took, unsigned long interrupts, bool softirqs_off)
{
	struct ht_run_cpu *c = this_cpu_ptr(l->cpu);
	u64 limit = ht_limit_cycles[l->hook];
	/* a counter of 32 bits that wraps makes this large: then the run is not counted */
	u64 served = min_t(u64, ht_interrupts() - interrupts, U32_MAX);
	u64 others = served * (ht_interrupt_cycles + (softirqs_off ? 0 : ht_softirq_cycles));

	if (took > limit && served && !softirqs_off)
		ht_watch(l);
	took = took > others ? took - others : 0;
	if (took > c->longest) {
		WRITE_ONCE(c->longest, took);
		WRITE_ONCE(c->slow_above, min(took, limit));
	}
	if (took > limit)
		ht_overrun(l, ht_ns_of_cycles(took));
}

/* ht_run() of a link that is watched or has been ended. Real-time kernels have soft interrupts in threads. */
noinline void ht_run_watched(const struct ht_linked *l, void *ctx)
{
	if (READ_ONCE(l->state) == HT_RUN_ENDED)
		return;
	rcu_read_lock();
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		preempt_disable();
	else
		local_bh_disable();
	ht_run_measured(l, ctx, true);
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		preempt_enable();
	else
		local_bh_enable();
	rcu_read_unlock();
	if (ktime_get_ns() > READ_ONCE(l->watched_until))
		cmpxchg(&((struct ht_linked *)l)->state, HT_RUN_WATCHED, HT_RUN_FREE);
}
