// SPDX-License-Identifier: GPL-2.0
/*
 * The sample hook: a perf event on each vCPU thread of the VM, by the CPU's cycle counter where there is one that works
 * (counting in guests only), else by the thread's CPU clock. What interrupts an L2 becomes a sample; what interrupts L1
 * or L0 is counted and no more.
 *
 * Where a sample is taken. A cycle counter overflows as an NMI, a CPU clock as a timer's interrupt. Both throw L2 out;
 * KVM then lets what is pending in at known places of vcpu_enter_guest(), and says so in handling_intr_from_guest. There
 * L2's registers are whole and KVM has not begun to handle the exit. In the NMI we only raise an irq_work: it
 * comes as an interrupt of its own when KVM next turns them on, which is in the same function and still before the exit is
 * handled. So stacks are walked and programs run in hard interrupt context only, never in an NMI, and only when the
 * interrupt came from L2: nothing on this CPU, in particular no map's lock, is in anybody's hands. A task work would run
 * where one may sleep, but cannot be added in an NMI on these kernels, nor by a module, and events may have been put into
 * L2 by then.
 *
 * What it costs is bounded: hz by the link, the stack by its depth and a budget of reads, the program by the verifier and
 * the daemon; and samples of a vCPU never take more than half of its time, whatever goes wrong (quiet_until).
 */
#include <linux/irq_work.h>
#include <linux/perf_event.h>
#include <linux/pid.h>
#include <linux/sched/clock.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include "run.h"
#include "kvm_calls.h"
#include "sample_state.h"

/* vCPUs that are added, and threads that take one over, are found by looking: it is rare and nobody tells. */
#define HT_SCAN_INTERVAL msecs_to_jiffies(200)

/* Where L2's kernel is changes only when another one is booted; it is looked up for one sample in so many. */
#define HT_ENTRY_EVERY 64

/* What one link has. Only its link(), its scan and, when that is cancelled, its unlink() touch the list. */
struct ht_sampler {
	struct ht_vm *vm;
	struct ht_linked *linked;
	u32 hz, depth;
	bool clock;		/* there is no cycle counter, or it is not wanted */
	struct list_head vcpus;
	struct delayed_work scan;
};

/* A vCPU whose thread has an event. */
struct ht_sampled {
	struct list_head node;
	struct ht_sampler *sampler;
	struct kvm_vcpu *vcpu;	/* lives as long as the VM, which is referenced */
	struct pid *thread;	/* referenced */
	struct perf_event *event;
	struct irq_work work;
	u64 quiet_until;
	u32 samples;
	struct ht_sample_ctx ctx; /* only used in interrupts on the thread itself */
};

/* Ran this vCPU an L2 when we interrupted it, and is nothing of that exit handled yet? */
static bool ht_in_l2(const struct ht_sampled *v)
{
	struct kvm_vcpu *vcpu = v->vcpu;

	return ht_kvm(kvm_get_running_vcpu)() == vcpu && vcpu->arch.handling_intr_from_guest &&
	       (vcpu->arch.hflags & HF_GUEST_MASK) && current->mm == vcpu->kvm->mm;
}

static u32 ht_take(struct ht_sampled *v, const struct ht_linked *l, u64 now)
{
	struct ht_sampler *s = v->sampler;
	struct ht_sample_ctx *ctx = &v->ctx;
	struct ht_l2_paging paging;
	int idx;

	memset(ctx, 0, sizeof(*ctx));
	if (!ht_state_read(v->vcpu, ctx, &paging))
		return HT_SAMPLE_R_STATE;
	ctx->now_ns = now;
	ctx->vcpu = v->vcpu->vcpu_id;
	ctx->hz = s->hz;
	ctx->source = s->clock ? HT_SAMPLE_CLOCK : HT_SAMPLE_CYCLES;
	idx = srcu_read_lock(&v->vcpu->kvm->srcu);	/* memory slots */
	ht_stack_walk(v->vcpu, &paging, s->depth, v->samples++ % HT_ENTRY_EVERY == 0, ctx);
	srcu_read_unlock(&v->vcpu->kvm->srcu, idx);
	if (s->clock)
		ht_count(s->vm, HT_HOOK_SAMPLE, counts[HT_SAMPLE_C_CLOCK], 1);
	else
		ht_count(s->vm, HT_HOOK_SAMPLE, counts[HT_SAMPLE_C_CYCLES], 1);
	if (ctx->cpl == 3)
		ht_count(s->vm, HT_HOOK_SAMPLE, counts[HT_SAMPLE_C_USER], 1);
	else
		ht_count(s->vm, HT_HOOK_SAMPLE, counts[HT_SAMPLE_C_KERNEL], 1);
	ht_count(s->vm, HT_HOOK_SAMPLE, counts[HT_SAMPLE_C_FRAMES], ctx->count);
	if (ctx->end == HT_SAMPLE_END_MEMORY || ctx->end == HT_SAMPLE_END_BUDGET)
		ht_count(s->vm, HT_HOOK_SAMPLE, counts[HT_SAMPLE_C_BROKEN], 1);
	ht_run_in_interrupt(l, ctx);
	return ctx->reason >= HT_REASONS || (ctx->reason && ctx->reason < 16) ? HT_SAMPLE_R_OTHER_L2 : ctx->reason;
}

/* In hard interrupt context on the vCPU's thread, which KVM lets in after L2's exit. */
static void ht_sample(struct ht_sampled *v)
{
	struct ht_sampler *s = v->sampler;
	struct ht_vm *vm = s->vm;
	struct ht_linked *l;
	u64 begin, end;
	u32 reason;
	int idx = srcu_read_lock(&vm->srcu);

	/* being linked, replaced or unlinked: another one's turn, or nobody's */
	l = srcu_dereference(vm->linked[HT_HOOK_SAMPLE], &vm->srcu);
	if (l != s->linked)
		goto out;
	ht_count(vm, HT_HOOK_SAMPLE, runs, 1);
	begin = local_clock();
	if (begin < v->quiet_until) {
		reason = HT_SAMPLE_R_THROTTLED;
	} else {
		reason = ht_take(v, l, begin);
		end = local_clock();
		v->quiet_until = end + (end - begin);
		ht_count(vm, HT_HOOK_SAMPLE, counts[HT_SAMPLE_C_NS], end - begin);
	}
	if (reason)
		ht_count(vm, HT_HOOK_SAMPLE, reasons[reason], 1);
	else
		ht_count(vm, HT_HOOK_SAMPLE, handled, 1);
out:
	srcu_read_unlock(&vm->srcu, idx);
}

static void ht_sample_later(struct irq_work *work)
{
	struct ht_sampled *v = container_of(work, struct ht_sampled, work);

	if (ht_in_l2(v))
		ht_sample(v);
	else
		ht_count(v->sampler->vm, HT_HOOK_SAMPLE, reasons[HT_SAMPLE_R_LATE], 1);
}

static void ht_overflow(struct perf_event *event, struct perf_sample_data *data, struct pt_regs *regs)
{
	struct ht_sampled *v = event->overflow_handler_context;

	if (!ht_in_l2(v))
		ht_count(v->sampler->vm, HT_HOOK_SAMPLE, counts[HT_SAMPLE_C_OUTSIDE], 1);
	else if (in_nmi())
		irq_work_queue(&v->work);
	else
		ht_sample(v);
}

static struct perf_event *ht_event(struct ht_sampler *s, struct ht_sampled *v, struct task_struct *thread)
{
	struct perf_event_attr cycles = {
		.type = PERF_TYPE_HARDWARE,
		.config = PERF_COUNT_HW_CPU_CYCLES,
		.size = sizeof(cycles),
		.exclude_host = 1,
		.freq = 1,
		.sample_freq = s->hz,
	};
	struct perf_event_attr clock = {
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.size = sizeof(clock),
		.sample_period = NSEC_PER_SEC / s->hz,
	};
	struct perf_event *event;

	if (!s->clock) {
		event = perf_event_create_kernel_counter(&cycles, -1, thread, ht_overflow, v);
		if (!IS_ERR(event) || PTR_ERR(event) == -ESRCH)
			return event;
		/* no performance monitoring unit, or none that interrupts or tells guests apart */
		s->clock = true;
	}
	return perf_event_create_kernel_counter(&clock, -1, thread, ht_overflow, v);
}

static void ht_sampled_end(struct ht_sampled *v)
{
	/* off the thread's CPU, by an interrupt there, when this returns: no overflow is under way */
	perf_event_release_kernel(v->event);
	irq_work_sync(&v->work);
	list_del(&v->node);
	put_pid(v->thread);
	kfree(v);
}

static int ht_sampled_begin(struct ht_sampler *s, struct kvm_vcpu *vcpu, struct pid *thread)
{
	struct task_struct *task = get_pid_task(thread, PIDTYPE_PID);
	struct ht_sampled *v;
	int ret = 0;

	if (!task)
		return 0;	/* it has ended */
	v = kzalloc(sizeof(*v), GFP_KERNEL);
	if (!v) {
		put_task_struct(task);
		return -ENOMEM;
	}
	v->sampler = s;
	v->vcpu = vcpu;
	v->thread = get_pid(thread);
	v->work = IRQ_WORK_INIT_HARD(ht_sample_later);
	v->event = ht_event(s, v, task);
	put_task_struct(task);
	if (IS_ERR(v->event)) {
		ret = PTR_ERR(v->event);
		put_pid(v->thread);
		kfree(v);
		return ret == -ESRCH ? 0 : ret;
	}
	list_add(&v->node, &s->vcpus);
	return 0;
}

static struct ht_sampled *ht_sampled_of(struct ht_sampler *s, const struct kvm_vcpu *vcpu)
{
	struct ht_sampled *v;

	list_for_each_entry(v, &s->vcpus, node)
		if (v->vcpu == vcpu)
			return v;
	return NULL;
}

/* Gives each vCPU that a thread runs an event on that thread, and on no other. */
static int ht_sampler_scan(struct ht_sampler *s)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;
	int ret = 0;

	kvm_for_each_vcpu(i, vcpu, s->vm->kvm) {
		struct ht_sampled *v = ht_sampled_of(s, vcpu);
		struct pid *thread = ht_vcpu_thread(vcpu);

		if (v && v->thread != thread) {
			ht_sampled_end(v);
			v = NULL;
		}
		if (!v && thread)
			ret = ht_sampled_begin(s, vcpu, thread) ?: ret;
		put_pid(thread);
	}
	return ret;
}

static void ht_sampler_work(struct work_struct *work)
{
	struct ht_sampler *s = container_of(to_delayed_work(work), struct ht_sampler, scan);

	ht_sampler_scan(s);	/* what fails now may succeed at the next look */
	schedule_delayed_work(&s->scan, HT_SCAN_INTERVAL);
}

static void ht_sampler_free(struct ht_sampler *s)
{
	struct ht_sampled *v, *next;

	list_for_each_entry_safe(v, next, &s->vcpus, node)
		ht_sampled_end(v);
	kfree(s);
}

static int ht_sample_link(struct ht_vm *vm, struct ht_linked *l, const struct ht_link *req)
{
	const struct ht_sample_args *args = (const struct ht_sample_args *)req->args;
	struct ht_sampler *s;
	int ret;

	if (!args->hz || args->hz > HT_SAMPLE_HZ_MAX || !args->depth || args->depth > HT_SAMPLE_FRAMES ||
	    (args->flags & ~HT_SAMPLE_F_CLOCK) || args->reserved ||
	    memchr_inv(args + 1, 0, sizeof(req->args) - sizeof(*args)))
		return -EINVAL;
	if (ht_state_init())
		return -EOPNOTSUPP;
	s = kzalloc(sizeof(*s), GFP_KERNEL);
	if (!s)
		return -ENOMEM;
	s->vm = vm;
	s->linked = l;
	s->hz = args->hz;
	s->depth = args->depth;
	s->clock = args->flags & HT_SAMPLE_F_CLOCK;
	INIT_LIST_HEAD(&s->vcpus);
	INIT_DELAYED_WORK(&s->scan, ht_sampler_work);
	ret = ht_sampler_scan(s);
	if (ret) {
		ht_sampler_free(s);
		return ret;
	}
	l->priv = s;
	schedule_delayed_work(&s->scan, HT_SCAN_INTERVAL);
	return 0;
}

static void ht_sample_unlink(struct ht_vm *vm, struct ht_linked *l)
{
	struct ht_sampler *s = l->priv;

	cancel_delayed_work_sync(&s->scan);
	ht_sampler_free(s);
}

static void ht_sample_reset(void *ctx)
{
	((struct ht_sample_ctx *)ctx)->reason = 0;
}

const struct ht_hook_ops ht_sample_ops = {
	.ctx_bytes = sizeof(struct ht_sample_ctx),
	.reset = ht_sample_reset,
	.link = ht_sample_link,
	.unlink = ht_sample_unlink,
};
