// SPDX-License-Identifier: GPL-2.0
/*
 * Answers to CPUID and RDMSR of registered L2s, for programs in L0 (c/bpf/exit). They are not guessed, copied from the
 * VMM or watched: the very functions of KVM that answer such an exit here, kvm_cpuid() and kvm_get_msr(), are asked, for
 * that vCPU and those arguments, just before it is entered; the program has left word of what it had no answer for.
 *
 * What they answer from cannot change while the vCPU runs, only here in L1, and every way back to it leads through
 * kvm_entry. So each entry compares all of it with what the answers were made from (struct htg_exit_key), and drops
 * them when anything differs. Read in Linux 6.1 and 6.12, arch/x86/kvm: cpuid.c kvm_cpuid, kvm_emulate_cpuid,
 * kvm_update_cpuid_runtime, kvm_set_cpuid (refuses changes once a vCPU has run); x86.c kvm_get_msr_common,
 * kvm_emulate_rdmsr. What they take from anywhere else is not answered (htg_exit_leaf_ok, htg_exit_msr_ok).
 */
#include <asm/msr-index.h>
#include <asm/processor.h>
#include <linux/smp.h>
#include "guest.h"
#include "kvm_calls.h"
#include "hyperturtle/exit.h"

/* All that the answers depend on. Compared as bytes, so made from zeroed memory. */
struct htg_exit_key {
	struct kvm_vcpu *vcpu;
	u64 epoch;		/* no two VMs have one vCPU pointer in one epoch */
	u64 number;
	const void *cpuid, *msr_filter;
	u64 cpuid_count, cr4, xcr0, xss, apic_base, misc_enable, misc_features, microcode, platform_info,
		arch_capabilities, hwcr, platform_info_readable;
};

static DEFINE_PER_CPU(struct htg_exit_key, htg_exit_keys);
static atomic64_t htg_exit_epoch;

void htg_exit_forget(void)
{
	atomic64_inc(&htg_exit_epoch);
}

static void htg_exit_key_of(const struct kvm_vcpu *vcpu, u64 number, struct htg_exit_key *k)
{
	const struct kvm_vcpu_arch *a = &vcpu->arch;

	memset(k, 0, sizeof(*k));
	k->vcpu = (struct kvm_vcpu *)vcpu;
	k->epoch = atomic64_read(&htg_exit_epoch);
	k->number = number;
	k->cpuid = a->cpuid_entries;
	k->cpuid_count = a->cpuid_nent;
	k->msr_filter = rcu_access_pointer(vcpu->kvm->arch.msr_filter);
	k->cr4 = a->cr4 & (X86_CR4_OSXSAVE | X86_CR4_PKE); /* always L1's to write */
	k->xcr0 = a->xcr0;
	k->xss = a->ia32_xss;
	k->apic_base = a->apic_base;
	k->misc_enable = a->ia32_misc_enable_msr;
	k->misc_features = a->msr_misc_features_enables;
	k->microcode = a->microcode_version;
	k->platform_info = a->msr_platform_info;
	k->arch_capabilities = a->arch_capabilities;
	k->hwcr = a->msr_hwcr;
	k->platform_info_readable = vcpu->kvm->arch.guest_can_read_msr_platform_info;
}

/* Leaves whose answers KVM makes from nothing but the key. */
static bool htg_exit_leaf_ok(u32 leaf, u32 subleaf)
{
	/* RTM and HLE go by an MSR that kvm-intel keeps for itself */
	if (leaf == 7 && boot_cpu_data.x86_vendor == X86_VENDOR_INTEL)
		return false;
	/* of hypervisors: Xen's and Hyper-V's have clocks in them */
	if (leaf >= 0x40000000 && leaf < 0x80000000)
		return leaf <= 0x40000001;
	return true;
}

/* MSRs that KVM answers from nothing but the key. */
static bool htg_exit_msr_ok(u32 msr)
{
	switch (msr) {
	case MSR_IA32_APICBASE:
	case MSR_IA32_UCODE_REV:
	case MSR_PLATFORM_INFO:
	case MSR_MTRRcap:
	case MSR_IA32_ARCH_CAPABILITIES:
	case MSR_MISC_FEATURES_ENABLES:
	case MSR_IA32_MISC_ENABLE:
	case MSR_K7_HWCR:
		return true;
	}
	return false;
}

static void htg_exit_fill(struct kvm_vcpu *vcpu, struct ht_exit_cpu *e)
{
	if (e->want == HT_EXIT_CPUID + 1 && htg_exit_leaf_ok(e->want_arg, e->want_sub)) {
		struct ht_exit_cpuid *c = &e->cpuids[ht_exit_cpuid_slot(e->want_arg, e->want_sub)];
		u32 eax = e->want_arg, ebx, ecx = e->want_sub, edx;

		htg_kvm(kvm_cpuid)(vcpu, &eax, &ebx, &ecx, &edx, false);
		*c = (struct ht_exit_cpuid){ .leaf = e->want_arg, .subleaf = e->want_sub, .eax = eax, .ebx = ebx,
					     .ecx = ecx, .edx = edx, .generation = e->generation };
	} else if (e->want == HT_EXIT_RDMSR + 1 && htg_exit_msr_ok(e->want_arg) &&
		   htg_kvm(kvm_msr_allowed)(vcpu, e->want_arg, KVM_MSR_FILTER_READ)) {
		struct ht_exit_msr *m = &e->msrs[e->want_arg & (HT_EXIT_MSR_SLOTS - 1)];
		u64 value;

		/* one that L2 has not: L1 injects the fault */
		if (!htg_kvm(ht_kvm_get_msr_fn)(vcpu, e->want_arg, &value))
			*m = (struct ht_exit_msr){ .msr = e->want_arg, .generation = e->generation,
						   .value = value };
	}
}

/*
 * Before each entry of a guest, interrupts off: number is that of its L2, or 0 where programs have no business. The
 * next exit on this CPU is of this vCPU, unless another hypervisor than KVM runs guests here: root tells.
 */
void htg_exit_entry(struct htg_arena *a, unsigned int apicid, struct kvm_vcpu *vcpu, u64 number)
{
	struct htg_exit_key key, *have = this_cpu_ptr(&htg_exit_keys);
	struct ht_exit_cpu *e;

	if (apicid >= a->exit_cpus)
		return;
	e = &a->exits[apicid];
	/* steps, and CPUID that faults outside the kernel, are more than an answer; Hyper-V's clock is in a leaf */
	if (!number || vcpu->guest_debug || vcpu->arch.hyperv_enabled ||
	    (vcpu->arch.msr_misc_features_enables & MSR_MISC_FEATURES_ENABLES_CPUID_FAULT)) {
		if (e->l2)
			WRITE_ONCE(e->l2, 0);
		return;
	}
	htg_exit_key_of(vcpu, number, &key);
	if (memcmp(&key, have, sizeof(key)) || e->l2 != number) {
		*have = key;
		if (!++e->generation) {
			memset(e->cpuids, 0, sizeof(e->cpuids));
			memset(e->msrs, 0, sizeof(e->msrs));
			e->generation = 1;
		}
		e->l2 = number;
	}
	if (e->want) {
		htg_exit_fill(vcpu, e);
		e->want = 0;
	}
	e->root = vcpu->arch.mmu->root.hpa & HT_PFN_MASK;
}
