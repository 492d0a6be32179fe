/* SPDX-License-Identifier: GPL-2.0 */
/* Addresses of what the kernel does not export. */
#ifndef HYPERTURTLE_LOOKUP_NAME_H
#define HYPERTURTLE_LOOKUP_NAME_H

#include <linux/kprobes.h>

/* kallsyms_lookup_name is not exported; a kprobe finds it, as it finds any function by name. */
static unsigned long ht_lookup_name(const char *name)
{
	static unsigned long (*lookup)(const char *name);

	if (!lookup) {
		struct kprobe kp = { .symbol_name = "kallsyms_lookup_name" };
		unsigned long addr;

		if (register_kprobe(&kp))
			return 0;
		addr = (unsigned long)kp.addr;
		unregister_kprobe(&kp);
#ifdef CONFIG_X86_KERNEL_IBT
		/* the probe sits behind endbr64; an indirect call must land on it */
		if (*(u32 *)(addr - 4) == 0xfa1e0ff3)
			addr -= 4;
#endif
		lookup = (void *)addr;
	}
	return lookup(name);
}

#endif
