// SPDX-License-Identifier: GPL-2.0
/*
 * HTG_CALL: this L1 calls its program in L0 (hyperturtle/call.h), in its kernel, as the host wants it unless the link says
 * otherwise. For programs of L1, which ask by /dev/hyperturtle-guest (root's); a module of L1 makes the call itself.
 */
#include <linux/cpufeature.h>
#include <linux/kvm_para.h>
#include <linux/ktime.h>
#include <linux/sched/signal.h>
#include "guest.h"

#define HTG_CALLS_MAX 1000000
#define HTG_CALLS_AT_ONCE 256	/* then others have a turn */

/*
 * The words are the caller's, as are all registers that come back; a host changes no others. "memory": a program in L0 may
 * write to an arena. The kernel puts the processor's own instruction there (kvm_para.h has the same for four words).
 */
static void htg_call_once(struct htg_call *c)
{
	unsigned long a = c->number, b = c->words[0], cx = c->words[1], d = c->words[2];
	register unsigned long r8 asm("r8") = c->words[5];

	asm volatile(KVM_HYPERCALL
		     : "+a"(a), "+b"(b), "+c"(cx), "+d"(d)
		     : "S"(c->words[3]), "D"(c->words[4]), "r"(r8)
		     : "memory");
	c->results[0] = a;
	c->results[1] = b;
	c->results[2] = cx;
	c->results[3] = d;
}

/*
 * EINVAL: not a number of the hook's (lower ones are KVM's own, which are none of a program's), or too many times. ENODEV: no
 * KVM is below, and the instruction would be a fault here. May sleep; holds nothing.
 */
int htg_call(struct htg_call *c)
{
	u64 since;
	u32 i;

	if (c->number < HT_CALL_NUMBER_MIN || !c->repeat || c->repeat > HTG_CALLS_MAX)
		return -EINVAL;
	if (!kvm_para_available())
		return -ENODEV;
	since = ktime_get_ns();
	for (i = 0; i < c->repeat; i++) {
		htg_call_once(c);
		if (i % HTG_CALLS_AT_ONCE)
			continue;
		cond_resched();
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	c->ns = ktime_get_ns() - since;
	return 0;
}
