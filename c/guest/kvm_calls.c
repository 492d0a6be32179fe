// SPDX-License-Identifier: GPL-2.0
#include "kvm_calls.h"

#define HTG_KVM_DEFINE(fn) HTG_KVM_DEFINE_(fn)
#define HTG_KVM_DEFINE_(fn) DEFINE_STATIC_CALL_NULL(htg_##fn, fn);
HTG_KVM_CALLS(HTG_KVM_DEFINE)

#define HTG_KVM_BIND(fn) HTG_KVM_BIND_(fn)
#define HTG_KVM_BIND_(fn) ret = ret ?: ht_bind(htg_##fn, #fn);

int htg_kvm_bind(void)
{
	int ret = 0;

	HTG_KVM_CALLS(HTG_KVM_BIND)
	return ret;
}
