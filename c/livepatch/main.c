// SPDX-License-Identifier: GPL-2.0
/*
 * For tests, and in no package: a live patch of functions of KVM that hyperturtle_host.ko hooks, as a distribution's fix of
 * nested virtualization would be one. The patched functions count their calls, and are otherwise what they were.
 */
#include <linux/kprobes.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <asm/ftrace.h>

void htlp_fault(void);
void htlp_vmexit(void);
void htlp_vmrun(void);

/* patched.S. One CPU calls them in the lab's L0: counts may be lost elsewhere */
unsigned long htlp_fault_calls, htlp_vmexit_calls, htlp_vmrun_calls;
unsigned long htlp_fault_body, htlp_vmexit_body, htlp_vmrun_body;
module_param_named(fault_calls, htlp_fault_calls, ulong, 0444);
module_param_named(vmexit_calls, htlp_vmexit_calls, ulong, 0444);
module_param_named(vmrun_calls, htlp_vmrun_calls, ulong, 0444);

#ifdef CONFIG_LIVEPATCH
static struct klp_func htlp_kvm[] = {
	{ .old_name = "paging64_page_fault", .new_func = htlp_fault },
	{ },
};

static struct klp_func htlp_kvm_amd[] = {
	{ .old_name = "nested_svm_vmexit", .new_func = htlp_vmexit },
	{ .old_name = "nested_svm_vmrun", .new_func = htlp_vmrun },
	{ },
};

static struct klp_object htlp_objects[] = {
	{ .name = "kvm", .funcs = htlp_kvm },
	{ .name = "kvm_amd", .funcs = htlp_kvm_amd },
	{ },
};

static struct klp_patch htlp_patch = { .mod = THIS_MODULE, .objs = htlp_objects };

/* A kprobe on a function sits on its ftrace call. */
static unsigned long htlp_body_of(const char *name)
{
	struct kprobe kp = { .symbol_name = name };

	if (register_kprobe(&kp))
		return 0;
	unregister_kprobe(&kp);
	return (unsigned long)kp.addr + MCOUNT_INSN_SIZE;
}

static int __init htlp_init(void)
{
	htlp_fault_body = htlp_body_of(htlp_kvm[0].old_name);
	htlp_vmexit_body = htlp_body_of(htlp_kvm_amd[0].old_name);
	htlp_vmrun_body = htlp_body_of(htlp_kvm_amd[1].old_name);
	if (!htlp_fault_body || !htlp_vmexit_body || !htlp_vmrun_body)
		return -ENOENT;
	return klp_enable_patch(&htlp_patch);
}
#else /* kernels with sanitizers, which the lab builds: it compiles */
static int __init htlp_init(void)
{
	return -EOPNOTSUPP;
}
#endif

/* Only a patch that was disabled by sysfs may go: the kernel holds it until then. */
static void __exit htlp_exit(void)
{
}

module_init(htlp_init);
module_exit(htlp_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
MODULE_DESCRIPTION("HyperTurtle, for tests: a live patch of functions that are hooked");
