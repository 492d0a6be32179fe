/* SPDX-License-Identifier: GPL-2.0 */
/* Of the hooks of npf.c, exit.c and call.c. All have a vCPU as their first argument. */
#include "kmod/trampoline.h"

HT_HOOK_CALL_ON
HT_HOOK_CALL_WITH
HT_TRAMPOLINE_VCPU ht_npt
HT_TRAMPOLINE_VCPU ht_ept
HT_TRAMPOLINE_VCPU ht_svm_around
HT_TRAMPOLINE_VCPU ht_svm_vmexit
HT_TRAMPOLINE_VCPU ht_svm_vmentry
HT_TRAMPOLINE_VCPU ht_vmx_around
HT_TRAMPOLINE_VCPU ht_vmx_vmexit
HT_TRAMPOLINE_VCPU ht_vmx_vmentry
HT_TRAMPOLINE_VCPU ht_call_l1 ht_call_marks
