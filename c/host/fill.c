// SPDX-License-Identifier: GPL-2.0
/*
 * The rest of a group in the exit of its first fault. KVM's fault function maps the page that it is called for and up to
 * seven aligned neighbours (FNAME(pte_prefetch)), so a group of 64 pages in L1's table would still cost eight exits. Here
 * the function is called once more for each further eight of the group, before it goes on with the fault itself.
 *
 * What such a call is. The same as KVM makes for a page that has become there while L2 ran (kvm_arch_async_page_ready(),
 * x86.c): kvm_mmu_do_page_fault() with another address and `prefetch`. As there, KVM makes all checks itself: it walks L1's
 * table again, takes what it finds there now, finds the memory slot, and maps under mmu_lock, after is_page_fault_stale()
 * has looked for invalidations since and FNAME(fetch) has compared the entries with what was walked. What L1 writes to its
 * table meanwhile, from another vCPU, is seen by one of these (then that is mapped, or nothing), or it comes later and is
 * L1's to flush, as after any fault: its flush reaches this vCPU when the exit is over. So nothing can come of it that L2
 * could not bring about by touching that page, and less: with `prefetch` a failed walk injects no fault into L1, and no
 * asynchronous page fault begins. Not kvm_arch_async_page_ready() itself: in 6.1 its error code is 0, which is a
 * supervisor's read, and fails where L1 has SMAP.
 *
 * What L1 can choose: the entries (above), and frames in its index. Those are looked up in L1's memory slots, and are left out
 * where there is no writable memory that L0 has mapped right now (ht_fill_there()): no device, no ROM, nothing to be read from
 * a disk, no poisoned page, whose SIGBUS is for who uses it. It can change between that look and KVM's, and then KVM
 * does what it does for a fault, once: after it the time is over. How often: at most HT_FILL_MAX times an exit.
 *
 * The arguments. KVM's function writes to struct kvm_page_fault, so each call gets one of its own, made of the one that
 * KVM has made for the fault and that nobody has worked on yet: its first HT_FAULT_INPUTS bytes, which have all inputs, and
 * zeros, as kvm_mmu_do_page_fault() has it. Were one used twice, a page size found for one address would be taken for the next
 * one's, which KVM answers with a warning. The fault's own is never written. Each is a read, whatever L2 did at the
 * fault's own address: L2 has not written to the others, and L1 is not to be told so. A walk for a write sets D in L1's entry,
 * and where L1 has page modification logging it writes to L1's log, and remembers that a full one is to be told when it
 * injects (nested_vmx_write_pml_buffer()), which with `prefetch` it never does. Nothing is lost by it: KVM maps what is
 * read for writing as well where L1's entry is writable and dirty, and read-only where it is not dirty, as L1 wants it then.
 * Besides the copy the function writes to the vCPU what each fault writes again (caches of pages for tables, which it
 * fills up itself, exit_qualification after a failed walk, the last MMIO address; run->exit_reason, which only counts
 * where KVM returns to its user, and then is written by what made it), and the fault itself comes last.
 *
 * Locks and sleeping. Where the function is hooked KVM holds kvm->srcu and nothing else, may sleep, and so may we; the calls
 * take mmu_lock each by itself. The VM's SRCU and the hooks' are held: an unlink waits for this exit, as it would
 * for a page fault in L1's table. The calls begin behind the function's ftrace call (ht_hook_call_with), so they never meet
 * this hook.
 *
 * How long. None begins when fill_us have gone by since the hook began, the program's time included, or when anybody waits
 * for this CPU or vCPU. ktime and not the TSC: preemption is on. What is left out then is kept, for each CPU of L0, and filled
 * in by the next fault of the same vCPU and table that finds its entry among it: else each further eight would cost
 * an exit. It names pages and no more: what is in L1's table by then is what KVM finds, as above.
 */
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include "fill.h"
#include "kvm_calls.h"

/*
 * A call with eight pages is some 13,500 instructions in 6.1 (docs/results/faults.md), so 3 to 5 us: 30 us and the last call
 * and the fault itself stay below 50. A host that is a virtual machine may be emulated, and stand still itself: run.c
 */
#define HT_FILL_US 30
#define HT_FILL_VIRTUAL_US (30 * USEC_PER_MSEC)
#define HT_FILL_UNSET UINT_MAX

static unsigned int ht_fill_us = HT_FILL_UNSET;
module_param_named(fill_us, ht_fill_us, uint, 0644);
MODULE_PARM_DESC(fill_us,
		 "microseconds of a fault's exit after which no further pages of its group are filled in; 0: none are (default: 30; in a virtual machine 30000)");

/*
 * What this was compiled for, to be read: kvm_page_fault.error_code is private to KVM, and features.mk can only guess its width
 * by what came with the change. The daemon compares it with the running kernel's types (src/bpf/kvm-abi.ts).
 */
static unsigned int ht_fault_error_bytes;
module_param_named(fault_error_bytes, ht_fault_error_bytes, uint, 0444);
MODULE_PARM_DESC(fault_error_bytes, "bytes of kvm_page_fault.error_code that this module was compiled for; only to be read");

/* struct kvm_page_fault: the daemon compares with the running kernel's types that it is so (src/bpf/kvm-abi.ts) */
#define HT_FAULT_INPUTS 64	/* up to pfn, and all of the shortest: what kvm_mmu_do_page_fault() sets, but for hva of 6.12, which KVM sets before it reads it */
#define HT_FAULT_MOST 128	/* bytes of the whole, at most */

/* What L2 did at the fault's own address, which it has not done at another */
#define HT_FAULT_ACCESS \
	((__typeof__(((struct ht_kvm_page_fault *)0)->error_code))(PFERR_PRESENT_MASK | PFERR_WRITE_MASK | PFERR_RSVD_MASK | \
								   PFERR_FETCH_MASK))

/*
 * What KVM returns for a fault that is to be made again: RET_PF_RETRY (mmu_internal.h) or an error. What it leaves to others
 * (RET_PF_EMULATE, ...) has larger numbers and counts as filled in: only counted by.
 */
#define HT_FAULT_RETRY 1

union ht_fault_copy {
	struct ht_kvm_page_fault fault;
	u8 bytes[HT_FAULT_MOST];
};

void ht_fill_init(void)
{
	ht_fault_error_bytes = sizeof_field(struct ht_kvm_page_fault, error_code); /* whatever was given at loading */
	if (ht_fill_us == HT_FILL_UNSET)
		ht_fill_us = boot_cpu_has(X86_FEATURE_HYPERVISOR) ? HT_FILL_VIRTUAL_US : HT_FILL_US;
}

u64 ht_fill_limit_ns(void)
{
	return (u64)READ_ONCE(ht_fill_us) * NSEC_PER_USEC;
}

/* Whether a frame of L1 is memory that may be written and that L0 has mapped now. kvm->srcu holds slots, and so the address. */
static bool ht_fill_there(struct kvm_vcpu *vcpu, u64 frame)
{
	unsigned long hva = ht_kvm(kvm_vcpu_gfn_to_hva)(vcpu, gpa_to_gfn(frame)); /* an error for read-only memory */
	struct page *page;

	if (kvm_is_error_hva(hva) || !get_user_page_fast_only(hva, FOLL_WRITE, &page))
		return false;
	put_page(page);
	return true;
}

/* Somebody waits for this CPU or vCPU. Interrupts that a device posts make no request while L2 does not run. */
static bool ht_fill_pending(struct kvm_vcpu *vcpu)
{
	return need_resched() || signal_pending(current) || kvm_request_pending(vcpu) ||
	       ht_kvm(kvm_cpu_has_interrupt)(vcpu);
}

/* One further fault; whether KVM has done with it, and need not be asked again. */
static bool ht_fill_one(const struct ht_call *call, u64 gfn)
{
	union ht_fault_copy copy = { .bytes = { 0 } };

	memcpy(copy.bytes, (const void *)call->args[1], HT_FAULT_INPUTS);
	copy.fault.addr = gfn << HT_PAGE_SHIFT;
	copy.fault.prefetch = true;
	/* a read, see above; user, as all accesses of L2 are in NPT, where EPT has no such thing */
	copy.fault.error_code &= ~HT_FAULT_ACCESS;
	copy.fault.error_code |= PFERR_USER_MASK;
	copy.fault.exec = copy.fault.write = copy.fault.present = copy.fault.rsvd = false;
	copy.fault.user = true;
	return (int)ht_hook_call_with(call->go_on, call->args[0], (unsigned long)&copy) > HT_FAULT_RETRY;
}

/* Keeps what is left from page i on, in place of what another vCPU may have left there. */
static void ht_fill_keep(struct ht_vm *vm, const struct kvm_vcpu *vcpu, const struct ht_fill *fill, u32 i)
{
	struct ht_fill_rest *rest = get_cpu_ptr(vm->rest);

	rest->vcpu = vcpu;
	rest->fill = *fill;
	rest->fill.count = fill->count - i;
	memmove(rest->fill.page, &rest->fill.page[i], rest->fill.count * sizeof(rest->fill.page[0]));
	put_cpu_ptr(vm->rest);
}

/* Takes what was left out of the group of gfn, whose entry is in L1's table: fill has no pages yet, and its time and root. */
void ht_fill_resume(struct ht_vm *vm, const struct kvm_vcpu *vcpu, u64 gfn, struct ht_fill *fill)
{
	struct ht_fill_rest *rest = get_cpu_ptr(vm->rest);
	bool found = false;
	u32 i;

	if (rest->vcpu == vcpu && rest->fill.root == fill->root) {
		for (i = 0; i < rest->fill.count; i++)
			found |= rest->fill.page[i].gfn / HT_PREFETCH_PAGES == gfn / HT_PREFETCH_PAGES;
		for (i = 0; found && i < rest->fill.count; i++)
			ht_fill_note(fill, gfn, rest->fill.page[i].gfn, rest->fill.page[i].frame);
		if (found)
			rest->vcpu = NULL;
	}
	put_cpu_ptr(vm->rest);
}

/* A fault of L2's nested paging whose group is in L1's table now. Its exit goes on with the fault itself. */
noinline void ht_fill_group(const struct ht_call *call, struct ht_vm *vm, const struct ht_fill *fill)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)call->args[0];
	u64 limit = ht_fill_limit_ns(), from = ktime_get_ns(), now = from;
	u32 i;

	for (i = 0; i < fill->count && limit; i++, now = ktime_get_ns()) {
		if (now - fill->began >= limit) {
			ht_count(vm, HT_HOOK_NPF, counts[HT_NPF_C_FILL_BUDGET], 1);
			ht_fill_keep(vm, vcpu, fill, i);
			break;
		}
		/* no call leaves L2, as none injects; were it so, the rest would be faults of another table */
		if (ht_fill_pending(vcpu) || !(vcpu->arch.hflags & HF_GUEST_MASK) ||
		    vcpu->arch.mmu != &vcpu->arch.guest_mmu) {
			ht_count(vm, HT_HOOK_NPF, counts[HT_NPF_C_FILL_PENDING], 1);
			ht_fill_keep(vm, vcpu, fill, i);
			break;
		}
		if (!ht_fill_there(vcpu, fill->page[i].frame)) {
			ht_count(vm, HT_HOOK_NPF, counts[HT_NPF_C_FILL_ABSENT], 1);
			continue;
		}
		if (!ht_fill_one(call, fill->page[i].gfn)) {
			ht_count(vm, HT_HOOK_NPF, counts[HT_NPF_C_FILL_FAILED], 1);
			now = ktime_get_ns();
			break;
		}
		ht_count(vm, HT_HOOK_NPF, counts[HT_NPF_C_FILLS], 1);
	}
	ht_count(vm, HT_HOOK_NPF, counts[HT_NPF_C_FILL_NS], now - from);
	/* of this CPU, or of the one before: a longest one that is lost by that is no harm */
	if (now - fill->began > this_cpu_read(vm->stats[HT_HOOK_NPF]->counts[HT_NPF_C_FILL_MAX_NS]))
		this_cpu_write(vm->stats[HT_HOOK_NPF]->counts[HT_NPF_C_FILL_MAX_NS], now - fill->began);
}
