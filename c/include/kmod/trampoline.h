/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For assembly: what a hooked function's ftrace call calls (direct_hook.h). The function has run nothing yet: all
 * argument registers and RBP are its caller's, the stack has the address where it goes on and then its caller's. RAX, R10 and
 * R11 are free. Nobody calls these by pointer (ftrace goes to them by call or by return), so they have no ENDBR.
 *
 * The function is called on by a return to where it goes on: an indirect call would have to land on ENDBR, and the
 * function's is behind it. Stack traces show it twice then, as with the kernel's own trampolines of BPF. Functions with
 * arguments on the stack, or that answer in RDX too, cannot be hooked so.
 *
 * Not counted for call depth tracking (retbleed=stuff): one return more than calls refills the return stack earlier.
 */
#include <asm/unwind_hints.h>
#include <linux/linkage.h>
#include <linux/objtool.h>
#include "direct_hook.h"

#define HT_CALL_ARGS	48
#define HT_CALL_BYTES	96	/* without what is on the stack already and RBP */
#define HT_CALL_GO_ON	8	/* from RBP */

.macro HT_TRAMPOLINE_FRAME name:req
	pushq	%rbp
	movq	%rsp, %rbp
	subq	$HT_CALL_BYTES, %rsp
	movq	%rdi, HT_CALL_ARGS(%rsp)
	movq	%rsi, HT_CALL_ARGS+8(%rsp)
	movq	%rdx, HT_CALL_ARGS+16(%rsp)
	movq	%rcx, HT_CALL_ARGS+24(%rsp)
	movq	%r8, HT_CALL_ARGS+32(%rsp)
	movq	%r9, HT_CALL_ARGS+40(%rsp)
	movq	%rsp, %rdi
	call	\name\()_before
	cmpl	$HT_ANSWER, %eax
	je	.Lanswer\@
	movq	HT_CALL_ARGS(%rsp), %rdi
	movq	HT_CALL_ARGS+8(%rsp), %rsi
	movq	HT_CALL_ARGS+16(%rsp), %rdx
	movq	HT_CALL_ARGS+24(%rsp), %rcx
	movq	HT_CALL_ARGS+32(%rsp), %r8
	movq	HT_CALL_ARGS+40(%rsp), %r9
	ja	.Laround\@
	leave
	RET
.Laround\@:
	call	ht_hook_call_on
	movq	%rax, (%rsp)
	movq	%rsp, %rdi
	call	\name\()_after
.Lanswer\@:
	movq	(%rsp), %rax
	leave
	/* past the function, to its caller */
	addq	$8, %rsp
	UNWIND_HINT_FUNC
	RET
.endm

.macro HT_TRAMPOLINE_BEGIN name:req
	.text
	.p2align 4
	.globl	\name\()_trampoline
	.type	\name\()_trampoline, @function
\name\()_trampoline:
	ANNOTATE_NOENDBR
.endm

.macro HT_TRAMPOLINE_END name:req
	.size	\name\()_trampoline, . - \name\()_trampoline
.endm

/* For all calls of the function. */
.macro HT_TRAMPOLINE name:req
	HT_TRAMPOLINE_BEGIN \name
	HT_TRAMPOLINE_FRAME \name
	HT_TRAMPOLINE_END \name
.endm

/*
 * For those whose first argument is a vCPU of a VM that is marked: struct kvm_vcpu begins with the pointer to its struct kvm, of
 * which 16 bits say that it is not. A VM that is not pays five instructions and the call of them, and no more but
 * where another one that is has the same bits: what we call then finds out.
 */
.macro HT_TRAMPOLINE_VCPU name:req, marks=ht_hook_marks
	HT_TRAMPOLINE_BEGIN \name
	movzwl	(HT_MARKS_SHIFT / 8)(%rdi), %eax
	cmpb	$0, \marks\()(%rax)
	jne	.Lmarked\@
	RET
.Lmarked\@:
	HT_TRAMPOLINE_FRAME \name
	HT_TRAMPOLINE_END \name
.endm

/*
 * Once a module that does it: ht_hook_call_with() of direct_hook.h. Goes on where the first argument says, with the other two
 * as the function's first ones, so that it returns to the caller of this.
 */
.macro HT_HOOK_CALL_WITH
	.text
SYM_FUNC_START(ht_hook_call_with)
	pushq	%rdi
	movq	%rsi, %rdi
	movq	%rdx, %rsi
	UNWIND_HINT_FUNC
	RET
SYM_FUNC_END(ht_hook_call_with)
.endm

/* Once a module: goes on with the function whose trampoline calls this, so that it returns to that. */
.macro HT_HOOK_CALL_ON
	.text
SYM_FUNC_START(ht_hook_call_on)
	pushq	HT_CALL_GO_ON(%rbp)
	UNWIND_HINT_FUNC
	RET
SYM_FUNC_END(ht_hook_call_on)
.endm
