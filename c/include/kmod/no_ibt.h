/* SPDX-License-Identifier: GPL-2.0 */
/* Refuses kernels that enforce what our calls of functions by address do not keep. */
#ifndef HYPERTURTLE_NO_IBT_H
#define HYPERTURTLE_NO_IBT_H

#include <linux/cpufeature.h>
#include <linux/printk.h>

/*
 * With Indirect Branch Tracking an indirect call must land on ENDBR64. The kernel overwrites that where it makes no such call
 * itself (arch/x86/kernel/alternative.c, apply_seal_endbr; Linux 5.18 and later with CONFIG_X86_KERNEL_IBT): in
 * kallsyms_lookup_name and in functions of KVM that are hooked and then called on. Such a call is a #CP, so a BUG. To be
 * asked first thing, before a name is looked up. Always 0 where the kernel is built without.
 */
static inline int ht_refuse_ibt(void)
{
	if (!cpu_feature_enabled(X86_FEATURE_IBT))
		return 0;
	pr_err("hyperturtle: not loaded: this kernel enforces Indirect Branch Tracking (IBT), under which functions of KVM cannot be called by address: boot with ibt=off\n");
	return -EOPNOTSUPP;
}

#endif
