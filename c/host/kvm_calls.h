/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What this module calls in KVM: every such call is a static one (kmod/lookup_name.h), of a function found by its name.
 * Since 6.18 kvm.ko exports to its own modules only, and kvm-amd and kvm-intel have always exported nothing.
 */
#ifndef HYPERTURTLE_HOST_KVM_CALLS_H
#define HYPERTURTLE_HOST_KVM_CALLS_H

#include <linux/kvm_host.h>
#include <asm/desc_defs.h>
#include "kmod/lookup_name.h"

/* declared in headers of KVM's own or nowhere: x86.c, svm/svm.c, vmx/vmx.c. The same in 6.1 and 6.12 */
unsigned long kvm_get_linear_rip(struct kvm_vcpu *vcpu);
int kvm_skip_emulated_instruction(struct kvm_vcpu *vcpu);
int kvm_cpu_has_interrupt(struct kvm_vcpu *vcpu);
void svm_get_exit_info(struct kvm_vcpu *vcpu, u32 *reason, u64 *info1, u64 *info2, u32 *intr_info, u32 *error_code);
int svm_get_cpl(struct kvm_vcpu *vcpu);
void svm_get_cs_db_l_bits(struct kvm_vcpu *vcpu, int *db, int *l);
void vmx_get_exit_info(struct kvm_vcpu *vcpu, u32 *reason, u64 *info1, u64 *info2, u32 *intr_info, u32 *error_code);
int vmx_get_cpl(struct kvm_vcpu *vcpu);
void vmx_get_cs_db_l_bits(struct kvm_vcpu *vcpu, int *db, int *l);
void vmx_cache_reg(struct kvm_vcpu *vcpu, enum kvm_reg reg);
u64 vmx_get_segment_base(struct kvm_vcpu *vcpu, int seg);
void vmx_get_idt(struct kvm_vcpu *vcpu, struct desc_ptr *dt);

#define HT_KVM_CALLS(each)            \
	each(file_is_kvm)             \
	each(kvm_cpu_has_interrupt)   \
	each(kvm_get_kvm)             \
	each(kvm_put_kvm)             \
	each(kvm_get_running_vcpu)    \
	each(kvm_get_linear_rip)      \
	each(kvm_skip_emulated_instruction) \
	each(kvm_vcpu_gfn_to_hva)     \
	each(kvm_vcpu_mark_page_dirty) \
	each(kvm_vcpu_read_guest)

#define HT_SVM_CALLS(each)            \
	each(svm_get_exit_info)       \
	each(svm_get_cpl)             \
	each(svm_get_cs_db_l_bits)

#define HT_VMX_CALLS(each)            \
	each(vmx_get_exit_info)       \
	each(vmx_get_cpl)             \
	each(vmx_get_cs_db_l_bits)    \
	each(vmx_cache_reg)           \
	each(vmx_get_segment_base)    \
	each(vmx_get_idt)

#define HT_KVM_DECLARE(fn) DECLARE_STATIC_CALL(ht_##fn, fn);
HT_KVM_CALLS(HT_KVM_DECLARE)
HT_SVM_CALLS(HT_KVM_DECLARE)
HT_VMX_CALLS(HT_KVM_DECLARE)

/* Call of a function of KVM's: ht_kvm(kvm_put_kvm)(kvm). Of kvm-amd or kvm-intel: while that is held. */
#define ht_kvm(fn) static_call(ht_##fn)

/* Before anything calls them, and while their module is held. -ENOENT: one is not there, as the kernel log says. */
int ht_kvm_bind(void);
int ht_svm_bind(void);
int ht_vmx_bind(void);

#endif
