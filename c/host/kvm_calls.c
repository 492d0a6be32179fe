// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>
#include "kvm_calls.h"

#define HT_KVM_DEFINE(fn) DEFINE_STATIC_CALL_NULL(ht_##fn, fn);
HT_KVM_CALLS(HT_KVM_DEFINE)
HT_SVM_CALLS(HT_KVM_DEFINE)
HT_VMX_CALLS(HT_KVM_DEFINE)

#define HT_KVM_BIND(fn) ret = ret ?: ht_bind(ht_##fn, #fn);

int ht_kvm_bind(void)
{
	int ret = 0;

	HT_KVM_CALLS(HT_KVM_BIND)
	return ret;
}

int ht_svm_bind(void)
{
	int ret = 0;

	HT_SVM_CALLS(HT_KVM_BIND)
	return ret;
}

int ht_vmx_bind(void)
{
	int ret = 0;

	HT_VMX_CALLS(HT_KVM_BIND)
	return ret;
}
