/* SPDX-License-Identifier: GPL-2.0 */
/* Addresses of what the kernel does not export, and how to call it. */
#ifndef HYPERTURTLE_LOOKUP_NAME_H
#define HYPERTURTLE_LOOKUP_NAME_H

#include <linux/static_call.h>

struct module;

int ht_lookup_init(void);

/*
 * -ENOEXEC, as the kernel log says, unless this is the kernel that the module was built for. With CONFIG_MODVERSIONS the kernel
 * compares checksums of the symbols that a module uses in place of its release, and ours use none of KVM's: what KVM's public
 * headers said (struct kvm_vcpu, struct kvm) would not be compared at all.
 */
int ht_check_kernel(void);
/* Where a function can be called, 0 where there is none. Kernels that enforce IBT: by a direct call only (ht_bind). */
unsigned long ht_lookup_function(const char *name);
/* The same for a variable. */
void *ht_lookup_variable(const char *name);
/* How long a function is, from what ht_lookup_function() gave; 0: not known. */
unsigned long ht_function_size(unsigned long addr);
/* Says in the kernel log that there is no such function. -ENOENT */
int ht_not_found(const char *name);
/* The module that has this address, held; NULL: the kernel itself; ERR_PTR(-ENOENT): it is going. */
struct module *ht_hold_module_of(unsigned long addr);

/*
 * A function of the kernel's is called through a static call, which is a call instruction that the kernel writes: no
 * pointer is read and no indirect branch taken, so it costs what a call of an exported function does, needs no retpoline, and
 * no ENDBR at its target (which the kernel takes from functions that it does not call by pointer itself). Declared by
 * DEFINE_STATIC_CALL_NULL(call, PROTOTYPE), bound by this before anything can call it, and while the module that has
 * the function is held. PROTOTYPE is any function that has the type.
 */
#define ht_bind(call, name)                                                                   \
	({                                                                                    \
		unsigned long __addr = ht_lookup_function(name);                              \
											      \
		if (__addr)                                                                   \
			static_call_update(call, (typeof(&STATIC_CALL_TRAMP(call)))__addr);   \
		__addr ? 0 : ht_not_found(name);                                              \
	})

#endif
