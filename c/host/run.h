/* SPDX-License-Identifier: GPL-2.0 */
/* Runs of programs, each of them measured. */
#ifndef HYPERTURTLE_RUN_H
#define HYPERTURTLE_RUN_H

#include <linux/hardirq.h>
#include <linux/kernel_stat.h>
#include <asm/msr.h>
#include "host.h"

/* What the runs of one linked program took on one CPU, in cycles of the TSC. Written by runs on that CPU only. */
struct ht_run_cpu {
	u64 slow_above;		/* the lower of `longest` and the limit: longer runs are looked at */
	u64 longest;
};

int ht_run_init(void);
int ht_run_alloc(struct ht_linked *l);
void ht_run_free(struct ht_linked *l);
u64 ht_run_longest_ns(const struct ht_linked *l);
u64 ht_run_limit_ns(u32 hook);
void ht_run_slow(const struct ht_linked *l, u64 took, unsigned long interrupts, bool softirqs_off);
void ht_run_watched(const struct ht_linked *l, void *ctx);

/*
 * Interrupts that this CPU has served: devices', and those of the local APIC that come often. Preemption is off. The rare
 * ones (thermal, machine checks), NMIs, and SMIs, which nothing counts, are missing: docs/hooks.md.
 */
static __always_inline unsigned long ht_interrupts(void)
{
#ifdef HT_HAS_IRQ_COUNTS
#define ht_irq_count(counter, index) __this_cpu_read(irq_stat.counts[index])
#else
#define ht_irq_count(counter, index) __this_cpu_read(irq_stat.counter)
#endif
	unsigned long n = __this_cpu_read(kstat.irqs_sum) + ht_irq_count(apic_timer_irqs, IRQ_COUNT_APIC_TIMER);

#ifdef CONFIG_SMP
	n += ht_irq_count(irq_resched_count, IRQ_COUNT_RESCHEDULE) +
	     ht_irq_count(irq_call_count, IRQ_COUNT_CALL_FUNCTION);
#endif
	return n;
}

/*
 * Runs a program of type RAW_TRACEPOINT_WRITABLE as a tracepoint would, under RCU, not preemptible. The verifier has bounded
 * its accesses to ctx by max_tp_access, which LINK has checked against ctx's size. The two reads of the TSC are on one
 * CPU: whether TSCs of different CPUs agree does not matter. LFENCE lets nothing that comes before it be under way when
 * it is read, nor anything that comes after have begun.
 */
static __always_inline void ht_run_measured(const struct ht_linked *l, void *ctx, bool softirqs_off)
{
	/* the verifier lets a program read as many as a tracepoint may have: none may be what is on our stack */
	u64 args[MAX_BPF_FUNC_ARGS] = { (u64)(unsigned long)ctx };
	unsigned long interrupts = ht_interrupts();
	u64 took = rdtsc_ordered();

	(void)bpf_prog_run(l->prog, args);
	took = rdtsc_ordered() - took;
	if (unlikely(took > __this_cpu_read(l->cpu->slow_above)))
		ht_run_slow(l, took, interrupts, softirqs_off);
}

/* In a thread, with interrupts on. A program that was ended does not run: ctx stays as it is, which is PASS. */
static inline void ht_run(const struct ht_linked *l, void *ctx)
{
	if (unlikely(READ_ONCE(l->state))) {
		ht_run_watched(l, ctx);
		return;
	}
	rcu_read_lock();
	preempt_disable();
	ht_run_measured(l, ctx, false);
	preempt_enable();
	rcu_read_unlock();
}

/* In a hard interrupt: there are no others meanwhile. */
static inline void ht_run_in_interrupt(const struct ht_linked *l, void *ctx)
{
	if (unlikely(READ_ONCE(l->state) == HT_RUN_ENDED))
		return;
	rcu_read_lock();
	ht_run_measured(l, ctx, true);
	rcu_read_unlock();
}

#endif
