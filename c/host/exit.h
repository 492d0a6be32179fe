/* SPDX-License-Identifier: GPL-2.0 */
/* What the hooks exit and call share: the vendor's functions, and how a nested guest is let go on. */
#ifndef HYPERTURTLE_HOST_EXIT_H
#define HYPERTURTLE_HOST_EXIT_H

#include "host.h"

struct ht_exit_info {
	u32 kind, arg, bytes, write;
	bool string, event;
	u64 code, info1;
};

struct ht_exit_vendor {
	const char *name;
	const char *sign;	/* a function that it has: it is loaded */
	struct ht_kvm_hook *const *hooks;
	int (*find)(void);	/* what is called in it */
	int (*get_cpl)(struct kvm_vcpu *vcpu);
	void (*get_cs_db_l_bits)(struct kvm_vcpu *vcpu, int *db, int *l);
	void (*classify)(struct kvm_vcpu *vcpu, struct ht_exit_info *e);
	bool armed;
};

static inline bool ht_in_l2(const struct kvm_vcpu *vcpu)
{
	return vcpu->arch.hflags & HF_GUEST_MASK;
}

/* That of this host, once its exits are hooked; from then on until the module goes. Else NULL. */
const struct ht_exit_vendor *ht_exit_vendor(void);
/* 64, 32 or 16: of the code segment that the vCPU runs, L1's or an L2's. */
u32 ht_exit_bits(struct kvm_vcpu *vcpu, const struct ht_exit_vendor *v);
/* Of the L2 that the vCPU runs: where its root table is in L1's memory. 0 without nested paging. */
u64 ht_exit_root(struct kvm_vcpu *vcpu);

/* What became of an instruction of an L2. */
enum ht_exit_skip {
	HT_SKIPPED,		/* L2 is behind it */
	HT_SKIP_FAULTED,	/* L2 or L1 has a fault now, so nothing is to be changed, and it goes on */
	HT_NOT_SKIPPED,
};
enum ht_exit_skip ht_exit_skip(struct kvm_vcpu *vcpu);

/*
 * call.c: an L2's VMMCALL or VMCALL that is L1's, before the hook exit has a look at it. `event`: one was being delivered.
 * True: it was answered, and L2 goes on. The VM is held.
 */
bool ht_call_l2(struct ht_vm *vm, struct kvm_vcpu *vcpu, const struct ht_exit_vendor *v, bool event);

#endif
