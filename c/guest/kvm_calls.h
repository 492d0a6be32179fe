/* SPDX-License-Identifier: GPL-2.0 */
/* What this module calls in KVM: by static calls, as the host's (c/host/kvm_calls.h says why). */
#ifndef HYPERTURTLE_GUEST_KVM_CALLS_H
#define HYPERTURTLE_GUEST_KVM_CALLS_H

#include <linux/kvm_host.h>
#include "kmod/compat.h"
#include "kmod/lookup_name.h"

/* declared in headers of KVM's own (cpuid.h, x86.h); the same in 6.1 and 6.12 */
bool kvm_cpuid(struct kvm_vcpu *vcpu, u32 *eax, u32 *ebx, u32 *ecx, u32 *edx, bool exact_only);
bool kvm_msr_allowed(struct kvm_vcpu *vcpu, u32 index, u32 type);

#define HTG_KVM_CALLS(each)     \
	each(file_is_kvm)       \
	each(kvm_get_kvm_safe)  \
	each(kvm_put_kvm)       \
	each(kvm_get_running_vcpu) \
	each(kvm_cpuid)         \
	each(kvm_msr_allowed)   \
	each(ht_kvm_get_msr_fn)

/* names may be macros: these see what they stand for */
#define HTG_KVM_DECLARE(fn) HTG_KVM_DECLARE_(fn)
#define HTG_KVM_DECLARE_(fn) DECLARE_STATIC_CALL(htg_##fn, fn);
HTG_KVM_CALLS(HTG_KVM_DECLARE)

/* Call of a function of KVM's: htg_kvm(kvm_put_kvm)(kvm) */
#define htg_kvm(fn) htg_kvm_(fn)
#define htg_kvm_(fn) static_call(htg_##fn)

/* Before anything calls them, and while kvm.ko is held. -ENOENT: one is not there, as the kernel log says. */
int htg_kvm_bind(void);

#endif
