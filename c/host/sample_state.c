// SPDX-License-Identifier: GPL-2.0
/*
 * Registers and mode of the L2 that an interrupt has just thrown out of the CPU, before KVM handles that exit.
 *
 * AMD: KVM has copied RAX, RSP and RIP out of the VMCB (svm_vcpu_run), but takes CR3 over only in svm_handle_exit. So
 * the VMCB itself is read. struct vcpu_svm is private to kvm-amd; that the pointer to the current VMCB follows its
 * struct kvm_vcpu was read in 6.1 and 6.12 (svm.h), and each sample checks it: the VMCB must have the RIP and RSP that
 * KVM has just copied from it. Intel: KVM's own accessors read the loaded VMCS and keep what they read until the next
 * exit, as KVM does itself when perf asks it for the guest's address in the same place (kvm_guest_get_ip).
 */
#include <linux/kvm_host.h>
#include <linux/uaccess.h>
#include <asm/svm.h>
#include "kvm_calls.h"
#include "sample_state.h"

#define HT_CS_L BIT(9)	/* of a VMCB's segment attributes: 64-bit code */
#define HT_CS_DB BIT(10)

int ht_state_init(void)
{
	if (boot_cpu_has(X86_FEATURE_SVM))
		return 0;
	/* the attached VM whose link this is holds kvm-intel: bound again, they are where they were for other VMs' links */
	return ht_vmx_bind();
}

static u32 ht_code_bits(bool lma, bool l, bool db)
{
	return lma && l ? 64 : db ? 32 : 16;
}

static bool ht_svm_state(struct kvm_vcpu *vcpu, struct ht_sample_ctx *ctx, struct ht_l2_paging *paging)
{
	const unsigned long *regs = vcpu->arch.regs;
	u64 rip, rsp, rip_base = 0;
	struct vmcb *vmcb;
	bool lma;

	/* never trusted to be a pointer before it has been compared */
	if (get_kernel_nofault(vmcb, (struct vmcb **)(vcpu + 1)) || !vmcb ||
	    get_kernel_nofault(rip, &vmcb->save.rip) || get_kernel_nofault(rsp, &vmcb->save.rsp) ||
	    rip != ht_vcpu_rip(vcpu) || rsp != regs[VCPU_REGS_RSP])
		return false;
	lma = vmcb->save.efer & EFER_LMA;
	ctx->cpl = vmcb->save.cpl;
	ctx->bits = ht_code_bits(lma, vmcb->save.cs.attrib & HT_CS_L, vmcb->save.cs.attrib & HT_CS_DB);
	if (ctx->bits != 64)
		rip_base = vmcb->save.cs.base;
	ctx->ip = ctx->bits == 64 ? rip : (u32)(rip + rip_base);
	paging->cr3 = vmcb->save.cr3;
	paging->la57 = vmcb->save.cr4 & X86_CR4_LA57;
	paging->idt = vmcb->save.idtr.base;
	paging->long_mode = lma && (vmcb->save.cr0 & X86_CR0_PG);
	return true;
}

/* as kvm_register_read_raw() and kvm_read_cr3() of kvm_cache_regs.h */
static void ht_vmx_cache(struct kvm_vcpu *vcpu, enum kvm_reg reg)
{
	if (!test_bit(reg, ht_vcpu_regs_avail(vcpu)))
		ht_kvm(vmx_cache_reg)(vcpu, reg);
}

static bool ht_vmx_state(struct kvm_vcpu *vcpu, struct ht_sample_ctx *ctx, struct ht_l2_paging *paging)
{
	bool lma = vcpu->arch.efer & EFER_LMA;
	struct desc_ptr idt;
	int db, l;

	ht_vmx_cache(vcpu, HT_REG_RIP);
	ht_vmx_cache(vcpu, VCPU_REGS_RSP);
	ht_vmx_cache(vcpu, HT_REG_CR3);
	ctx->cpl = ht_kvm(vmx_get_cpl)(vcpu);
	ht_kvm(vmx_get_cs_db_l_bits)(vcpu, &db, &l);
	ctx->bits = ht_code_bits(lma, l, db);
	ctx->ip = ht_vcpu_rip(vcpu);
	if (ctx->bits != 64)
		ctx->ip = (u32)(ctx->ip + ht_kvm(vmx_get_segment_base)(vcpu, VCPU_SREG_CS));
	ht_kvm(vmx_get_idt)(vcpu, &idt);
	paging->idt = idt.address;
	paging->cr3 = vcpu->arch.cr3;
	/* a guest cannot own CR4.LA57, and EFER.LMA is set only with paging on */
	paging->la57 = vcpu->arch.cr4 & X86_CR4_LA57;
	paging->long_mode = lma;
	return true;
}

/* False where this kernel keeps L2's state otherwise than expected: then nothing is known of it. */
bool ht_state_read(struct kvm_vcpu *vcpu, struct ht_sample_ctx *ctx, struct ht_l2_paging *paging)
{
	if (!(boot_cpu_has(X86_FEATURE_SVM) ? ht_svm_state(vcpu, ctx, paging) : ht_vmx_state(vcpu, ctx, paging)))
		return false;
	BUILD_BUG_ON(HT_GENERAL_REGS < ARRAY_SIZE(ctx->regs) || VCPU_REGS_RBP != 5 || VCPU_REGS_R15 != 15);
	memcpy(ctx->regs, vcpu->arch.regs, sizeof(ctx->regs));
	ctx->cr3 = paging->cr3;
	return true;
}
