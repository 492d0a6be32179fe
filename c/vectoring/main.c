// SPDX-License-Identifier: GPL-2.0
/*
 * For the lab's emulated AMD processor, and in no package. After an event has been injected QEMU takes the valid bit of
 * EVENTINJ away and leaves the rest, and copies that to EXITINTINFO at the next exit: there was an exit while an event was
 * being delivered, says the type; there was none, says the valid bit. KVM since 6.14 asks the type alone before it emulates an
 * instruction, and ends the VM ("KVM internal error. Suberror: 3"): an L1 that touches a device's registers right after an
 * exception or NMI of its KVM's is lost. Here EXITINTINFO is 0 where it is not valid, as on a real processor.
 */
#include <linux/kprobes.h>
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <asm/svm.h>

/* How often; lost counts do not matter */
static unsigned long htv_cleared;
module_param_named(cleared, htv_cleared, ulong, 0444);

/* struct vcpu_svm begins so in every kernel that asks the type */
struct htv_svm {
	struct kvm_vcpu vcpu;
	struct vmcb *vmcb;
};

/*
 * svm_check_emulate_instruction(vcpu, ...), by the thread of this vCPU, which is not in guest mode: the VMCB in use is its own, and
 * nobody writes to it meanwhile.
 */
static int htv_before(struct kprobe *kp, struct pt_regs *regs)
{
	struct htv_svm *svm = (struct htv_svm *)regs->di;
	u32 *info = &svm->vmcb->control.exit_int_info;

	if (*info && !(*info & SVM_EXITINTINFO_VALID)) {
		*info = 0;
		htv_cleared++;
	}
	return 0;
}

static struct kprobe htv_probe = {
	.symbol_name = "svm_check_emulate_instruction",
	.pre_handler = htv_before,
};

static int __init htv_init(void)
{
	return register_kprobe(&htv_probe);
}

static void __exit htv_exit(void)
{
	unregister_kprobe(&htv_probe);
}

module_init(htv_init);
module_exit(htv_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("HyperTurtle, for the lab: EXITINTINFO of QEMU's emulated AMD processor");
