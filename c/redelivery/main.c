// SPDX-License-Identifier: GPL-2.0
/*
 * For the lab's emulated AMD processor, in L0 alone, and in no package. QEMU (helper_vmrun) delivers an interrupt that VMRUN
 * injects and leaves its vector in cpu->exception_index, where only the next exit, or an interrupt that is taken, clears it.
 * If QEMU's other threads want the processor to leave its loop meanwhile (cpu_exit, such as by `stop` of its
 * monitor), cpu_handle_interrupt finds an exception there, so it forgets that wish, and the vector is delivered a second
 * time, whatever the guest does by then, interrupts on or off. L1 then dies or hangs of an interrupt that came twice, and the
 * monitor waits for a processor that does not stop.
 *
 * Here each such VMRUN is followed by an exit before the guest's first instruction, as KVM itself asks for one
 * (kvm_x86_ops.request_immediate_exit): the interrupt that we send ourselves is pending when VMRUN is over, as KVM runs it
 * with interrupts on and GIF clear before it. One more exit to L0 for each injected interrupt; none of it reaches L1.
 */
#include <linux/irq_work.h>
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/tracepoint.h>
#include <asm/svm.h>

/* How often; lost counts do not matter */
static unsigned long htr_exits;
module_param_named(exits, htr_exits, ulong, 0444);

/* What the interrupt does: that it comes is all. */
static void htr_nothing(struct irq_work *work)
{
}

/* Set at load: a pointer in an initializer of a module's per-CPU data was NULL on 6.1, where nobody relocates that section. */
static DEFINE_PER_CPU(struct irq_work, htr_work);

/* struct vcpu_svm begins so in all kernels of the lab */
struct htr_svm {
	struct kvm_vcpu vcpu;
	struct vmcb *vmcb;
};

/* At the start of svm_vcpu_run(), interrupts off: by the thread of this vCPU, whose VMCB this is. */
static void htr_kvm_entry(void *data, struct kvm_vcpu *vcpu)
{
	u32 event = ((struct htr_svm *)vcpu)->vmcb->control.event_inj;

	if ((event & (SVM_EVTINJ_VALID | SVM_EVTINJ_TYPE_MASK)) != (SVM_EVTINJ_VALID | SVM_EVTINJ_TYPE_INTR))
		return;
	irq_work_queue(this_cpu_ptr(&htr_work)); /* pending already: then its interrupt is as well */
	htr_exits++;
}

extern struct tracepoint __tracepoint_kvm_entry;

static int __init htr_init(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		*per_cpu_ptr(&htr_work, cpu) = IRQ_WORK_INIT_HARD(htr_nothing);
	return tracepoint_probe_register(&__tracepoint_kvm_entry, htr_kvm_entry, NULL);
}

static void __exit htr_exit(void)
{
	int cpu;

	tracepoint_probe_unregister(&__tracepoint_kvm_entry, htr_kvm_entry, NULL);
	tracepoint_synchronize_unregister();
	for_each_possible_cpu(cpu)
		irq_work_sync(per_cpu_ptr(&htr_work, cpu));
}

module_init(htr_init);
module_exit(htr_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("HyperTurtle, for the lab: interrupts that QEMU's emulated AMD processor delivers twice");
