/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the patch puts in place of KVM's functions: counts, and goes on in the body of the function itself, behind its
 * ftrace call. All registers but the flags are the caller's. The kernel goes here by a return: no ENDBR.
 */
#include <asm/unwind_hints.h>
#include <linux/linkage.h>
#include <linux/objtool.h>

.macro PATCHED name:req
	.text
	.p2align 4
	.globl	htlp_\name
	.type	htlp_\name, @function
htlp_\name:
	ANNOTATE_NOENDBR
	incq	htlp_\name\()_calls(%rip)
	pushq	htlp_\name\()_body(%rip)
	UNWIND_HINT_FUNC
	RET
	.size	htlp_\name, . - htlp_\name
.endm

PATCHED fault
PATCHED vmexit
PATCHED vmrun
