/* SPDX-License-Identifier: GPL-2.0 */
/* What the sample hook needs to know of an interrupted L2, for both vendors; and its stack. */
#ifndef HYPERTURTLE_SAMPLE_STATE_H
#define HYPERTURTLE_SAMPLE_STATE_H

#include "host.h"

/* How L2 translates addresses. */
struct ht_l2_paging {
	u64 cr3;
	bool long_mode;		/* four- or five-level tables */
	bool la57;
	u64 idt;		/* virtual address of its interrupt descriptor table */
};

int ht_state_init(void);
bool ht_state_read(struct kvm_vcpu *vcpu, struct ht_sample_ctx *ctx, struct ht_l2_paging *paging);
void ht_stack_walk(struct kvm_vcpu *vcpu, const struct ht_l2_paging *paging, u32 depth, bool entry,
		   struct ht_sample_ctx *ctx);

#endif
