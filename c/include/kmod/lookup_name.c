// SPDX-License-Identifier: GPL-2.0
/*
 * Addresses by name. A kprobe finds any function by its name, and may be registered by a module: what it says is where
 * the kernel's own table has the function, behind an ENDBR if it begins with one. Variables have no kprobes: for them the
 * table is asked itself, by a function that is found so and called by a static call.
 */
#include <linux/err.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/string.h>
#include <linux/utsname.h>
#include <generated/utsrelease.h>
#include "lookup_name.h"

/* prototypes: kallsyms.h and module.h, the same from 6.1 to 7.3 */
unsigned long ht_kallsyms_lookup_name_proto(const char *name);
int ht_kallsyms_lookup_size_offset_proto(unsigned long addr, unsigned long *size, unsigned long *offset);
struct module *ht_module_address_proto(unsigned long addr);

DEFINE_STATIC_CALL_NULL(ht_kallsyms_lookup_name, ht_kallsyms_lookup_name_proto);
DEFINE_STATIC_CALL_NULL(ht_kallsyms_lookup_size_offset, ht_kallsyms_lookup_size_offset_proto);
DEFINE_STATIC_CALL_NULL(ht_module_address, ht_module_address_proto);

unsigned long ht_lookup_function(const char *name)
{
	struct kprobe kp = { .symbol_name = name };

	if (register_kprobe(&kp))
		return 0;
	unregister_kprobe(&kp);
	return (unsigned long)kp.addr;
}

int ht_not_found(const char *name)
{
	pr_err("hyperturtle: this kernel has no function %s that can be called\n", name);
	return -ENOENT;
}

void *ht_lookup_variable(const char *name)
{
	return (void *)static_call(ht_kallsyms_lookup_name)(name);
}

unsigned long ht_function_size(unsigned long addr)
{
	unsigned long size, offset;

	if (!static_call(ht_kallsyms_lookup_size_offset)(addr, &size, &offset) || offset >= size)
		return 0;
	return size - offset;
}

struct module *ht_hold_module_of(unsigned long addr)
{
	struct module *owner;

	preempt_disable();	/* no module is freed meanwhile */
	owner = static_call(ht_module_address)(addr);
	if (owner && !try_module_get(owner))
		owner = ERR_PTR(-ENOENT);
	preempt_enable();
	return owner;
}

int ht_lookup_init(void)
{
	int ret = ht_bind(ht_kallsyms_lookup_name, "kallsyms_lookup_name");

	ret = ret ?: ht_bind(ht_kallsyms_lookup_size_offset, "kallsyms_lookup_size_offset");
	ret = ret ?: ht_bind(ht_module_address, "__module_address");
	return ret;
}

int ht_check_kernel(void)
{
	const char *built_for = UTS_RELEASE;

	OPTIMIZER_HIDE_VAR(built_for); /* stays a text in the module's file, which a test changes */
	if (!strcmp(init_utsname()->release, built_for))
		return 0;
	pr_err("hyperturtle: built for Linux %s, and this is %s: build it for this kernel\n", built_for,
	       init_utsname()->release);
	return -ENOEXEC;
}
