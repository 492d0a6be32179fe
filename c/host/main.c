// SPDX-License-Identifier: GPL-2.0
/*
 * hyperturtle_host.ko: lets a daemon in L0 attach VMs and link their programs to hooks in stock KVM.
 * /dev/hyperturtle is root's; every object is owned by the file descriptor that its making returned.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include "fill.h"
#include "run.h"
#include "kvm_calls.h"
#include "kmod/direct_hook.h"

static long ht_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *up = (void __user *)arg;
	union {
		struct ht_arena_create arena;
		struct ht_attach_vm attach;
		struct ht_stats stats;
		u32 abi;
	} u;
	long ret;

	if (_IOC_TYPE(cmd) != HT_IOC || _IOC_SIZE(cmd) > sizeof(u))
		return -ENOTTY;
	if (copy_from_user(&u, up, _IOC_SIZE(cmd)))
		return -EFAULT;
	switch (cmd) {
	case HT_GET_ABI:
		u.abi = HT_HOST_ABI;
		ret = 0;
		break;
	case HT_ATTACH_VM:
		return ht_vm_attach(&u.attach);
	case HT_ARENA_CREATE:
		/* the name goes back before the caller can lose the descriptor: a fault is the caller's bug */
		ret = ht_arena_create(&u.arena);
		if (ret >= 0 && copy_to_user(up, &u, sizeof(u.arena)))
			ret = -EFAULT;
		return ret;
	case HT_GET_STATS:
		ret = ht_vm_stats_by_pid(&u.stats);
		break;
	default:
		return -ENOTTY;
	}
	if (!ret && copy_to_user(up, &u, _IOC_SIZE(cmd)))
		ret = -EFAULT;
	return ret;
}

static const struct file_operations ht_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = ht_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice ht_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "hyperturtle",
	.fops = &ht_fops,
	.mode = 0600,
};

static int __init ht_init(void)
{
	int ret = ht_check_kernel();

	ret = ret ?: ht_hooks_stay_on();
	if (ret)
		return ret;
	ht_fill_init();
	ret = ht_lookup_init();
	ret = ret ?: ht_run_init();
	ret = ret ?: ht_arena_init();
	if (ret)
		goto ftrace;
	ret = ht_npf_init();
	if (ret)
		goto arena;
	/* now that kvm.ko is held, and before a VM can be attached: until then hooks call nothing in it */
	ret = ht_kvm_bind();
	if (ret)
		goto npf;
	ht_exit_hooks_init();
	ret = misc_register(&ht_misc);
	if (ret)
		goto hooks;
	return 0;
hooks:
	ht_call_hooks_exit();
	ht_exit_hooks_exit();
npf:
	ht_npf_exit();
arena:
	ht_arena_exit();
ftrace:
	ht_hooks_stay_off();
	return ret;
}

/* Open files, and so attached VMs and arenas, hold the module: here nothing is left but the hooks. */
static void __exit ht_exit(void)
{
	misc_deregister(&ht_misc);
	ht_call_hooks_exit();
	ht_exit_hooks_exit();
	ht_npf_exit();
	ht_arena_exit();
	ht_hooks_stay_off();
}

module_init(ht_init);
module_exit(ht_exit);
MODULE_INFO(import_ns, "BPF_INTERNAL"); /* bpf_map_get, since 6.12.y. What MODULE_IMPORT_NS takes has changed */
MODULE_SOFTDEP("pre: kvm_amd kvm_intel"); /* no symbol of theirs is used, so modprobe would not know */
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("HyperTurtle: hyperupcalls of nested hypervisors, host side");
