// SPDX-License-Identifier: GPL-2.0
/*
 * The hook call: a guest calls the program of its L1 in L0 by a number of the link's (hyperturtle/call.h). Three ways lead
 * here.
 *
 * L1's own VMMCALL or VMCALL. KVM answers those in one function, kvm_emulate_hypercall(): the hook on it runs the program
 * first. It is armed by the first link that asks for L1's calls and stays until the module goes: on a host where nobody
 * ever linked one the function is as it was. Its trampoline has marks of its own, so that an L1 that has no such link pays
 * as much as a VM that nobody attached.
 *
 * An L2's. That is an exit that KVM hands to L1, so the hook exit has it in its hands already (exit.c), with all that it
 * knows of such exits: ht_call_l2() is asked before the program of that hook.
 *
 * The channel's: HT_VM_CALL, for a program that uses no arena.
 *
 * What a guest can write, and what it comes to. RAX picks the link or does not: it is compared with the link's numbers
 * and not used otherwise. The words are numbers that go to the program, whose every access the verifier has bounded;
 * they lead to no memory here. Code segment and privilege level are the processor's (VMCB or VMCS), not what a register
 * says. Results go into four general registers of the caller. Nothing else of the context is read back.
 *
 * Locks. Calls take none: the VM is held by its SRCU, the program runs under RCU with preemption off (run.h). A call from
 * a vCPU is made in KVM's handling of its exit, in the vCPU's thread, where sleeping is allowed: skipping the instruction
 * may read guest memory, and the hooks hold nothing then but SRCU. ht_call_lock is for links.
 *
 * Read in Linux 6.1, 6.12 and 7.3: arch/x86/kvm/x86.c kvm_emulate_hypercall; svm/svm.c svm_exit_handlers, recalc_intercepts
 * (an L2's VMMCALL that L1 does not intercept is no exit); svm/sev.c (exits by message); vmx/vmx.c kvm_vmx_exit_handlers.
 */
#include <linux/kvm_host.h>
#include <linux/module.h>
#include "run.h"
#include "exit.h"
#include "kvm_calls.h"
#include "kmod/direct_hook.h"

static bool ht_call_wanted = true;
module_param_named(call_hook, ht_call_wanted, bool, 0444);
MODULE_PARM_DESC(call_hook, "answer calls of guests (default: on); needs exit_hook");

/* By number of the instruction set: where the words come from, and where results go. */
static const u8 ht_call_word_regs[HT_CALL_WORDS] = { HT_RBX, HT_RCX, HT_RDX, HT_RSI, HT_RDI, HT_R8 };
static const u8 ht_call_result_regs[HT_CALL_RESULTS] = { HT_RAX, HT_RBX, HT_RCX, HT_RDX };

/* Read by the trampoline without a lock (direct_hook.h): VMs with a link that asks for L1's calls. */
u8 ht_call_marks[HT_MARKS];

/*
 * The hook's arming and ht_call_marks. Inside the lock of a VM, as links are; holds ftrace's locks. Never taken by a call, so
 * arming may wait for ftrace while vCPUs run; nobody waits for a vCPU under it.
 */
static DEFINE_MUTEX(ht_call_lock);

static bool ht_call_has(const struct ht_linked *l, u32 number)
{
	const struct ht_call_args *args = l->priv;
	u32 i;

	for (i = 0; i < args->number_count; i++)
		if (args->numbers[i] == number)
			return true;
	return false;
}

/* The link that wants a call with this RAX, or NULL. As it is asked at each hypercall, what is cheap comes first. */
static const struct ht_linked *ht_call_link_of(struct ht_vm *vm, struct kvm_vcpu *vcpu, u32 from)
{
	const struct ht_linked *l = srcu_dereference(vm->linked[HT_HOOK_CALL], &vm->srcu);
	const struct ht_call_args *args;

	if (!l)
		return NULL;
	args = l->priv;
	return (args->from & from) && ht_call_has(l, vcpu->arch.regs[VCPU_REGS_RAX]) ? l : NULL;
}

/* 0: ctx has results that are the answer; or the reason to pass. */
static int ht_call_run(const struct ht_linked *l, struct ht_call_ctx *ctx)
{
	ht_run(l, ctx);
	if (ctx->action == HT_CALL_PASS)
		return ctx->reason >= HT_CALL_R_PROGRAM && ctx->reason < HT_REASONS ? ctx->reason : HT_CALL_R_PROGRAM;
	return ctx->action == HT_CALL_HANDLED ? 0 : HT_CALL_R_BAD_ANSWER;
}

static void ht_call_count(struct ht_vm *vm, u32 count, int reason)
{
	ht_count(vm, HT_HOOK_CALL, runs, 1);
	if (reason) {
		ht_count(vm, HT_HOOK_CALL, reasons[reason], 1);
		return;
	}
	ht_count(vm, HT_HOOK_CALL, handled, 1);
	ht_count(vm, HT_HOOK_CALL, counts[count], 1);
}

/*
 * A call from a vCPU: fills ctx and runs the program. 0, the reason to pass, or -ENOENT: RAX has more than a number, so the
 * call is not of the link's, and is not counted.
 */
static int ht_call_vcpu(struct kvm_vcpu *vcpu, const struct ht_linked *l, const struct ht_exit_vendor *v, u32 from,
			struct ht_call_ctx *ctx)
{
	const struct ht_call_args *args = l->priv;
	u32 bits = ht_exit_bits(vcpu, v);
	u64 mask = bits == 64 ? U64_MAX : U32_MAX;
	const unsigned long *regs = vcpu->arch.regs;
	int i;

	if ((regs[VCPU_REGS_RAX] & mask) >> 32)
		return -ENOENT;
	*ctx = (struct ht_call_ctx){
		.number = regs[VCPU_REGS_RAX], .from = from, .cpl = v->get_cpl(vcpu), .bits = bits,
		.vcpu = vcpu->vcpu_id, .root = from == HT_CALL_L2 ? ht_exit_root(vcpu) : 0, .action = HT_CALL_PASS,
	};
	if (ctx->cpl && !(args->flags & HT_CALL_F_USER))
		return HT_CALL_R_USER;
	/* the instruction set's numbers are KVM's; below 64 bits R8 is what it was in another mode */
	for (i = 0; i < HT_CALL_WORDS; i++)
		ctx->words[i] = bits == 64 || i < HT_CALL_WORDS - 1 ? regs[ht_call_word_regs[i]] & mask : 0;
	for (i = 1; i < HT_CALL_RESULTS; i++)
		ctx->results[i] = regs[ht_call_result_regs[i]] & mask;
	return ht_call_run(l, ctx);
}

/* Below 64 bits an instruction that writes a register clears its upper half. */
static void ht_call_answer(struct kvm_vcpu *vcpu, const struct ht_call_ctx *ctx, u32 bits)
{
	int i;

	for (i = 0; i < HT_CALL_RESULTS; i++)
		vcpu->arch.regs[ht_call_result_regs[i]] = bits == 64 ? ctx->results[i] : (u32)ctx->results[i];
}

bool ht_call_l2(struct ht_vm *vm, struct kvm_vcpu *vcpu, const struct ht_exit_vendor *v, bool event)
{
	const struct ht_linked *l = ht_call_link_of(vm, vcpu, HT_CALL_L2);
	struct ht_call_ctx ctx;
	u32 bits;
	int ret;

	if (!l)
		return false;
	/* before the program runs, so that what it does is done for one caller once */
	if (event)
		ret = HT_CALL_R_EVENT;
	else if (vcpu->guest_debug)	/* stepping ends in L0's user space, which this way cannot reach */
		ret = HT_CALL_R_DEBUG;
	else
		ret = ht_call_vcpu(vcpu, l, v, HT_CALL_L2, &ctx);
	if (ret == -ENOENT)
		return false;
	if (!ret) {
		/* the code segment that the answer is for, not one that a fault of the skipping brings */
		bits = ht_exit_bits(vcpu, v);
		switch (ht_exit_skip(vcpu)) {
		case HT_SKIPPED:
			ht_call_answer(vcpu, &ctx, bits);
			break;
		case HT_SKIP_FAULTED:
			break;
		case HT_NOT_SKIPPED:
			ret = HT_CALL_R_NOT_SKIPPED;
			break;
		}
	}
	ht_call_count(vm, HT_CALL_C_L2, ret);
	return !ret;
}

/*
 * kvm_emulate_hypercall(vcpu). From L1, in place of KVM, and as KVM does it: registers, then the skipping, whose answer says
 * whether the vCPU goes on. A guest whose registers are its own (SEV-ES) calls by a message that its host copies into
 * arch.regs: what becomes of an answer there is KVM's business, so it goes on there. An L2's that KVM answers itself
 * (one that L1 did not ask for) is KVM's too.
 */
static int ht_call_l1(struct ht_call *call)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)call->args[0];
	const struct ht_exit_vendor *v = ht_exit_vendor();
	int idx, ret, verdict = HT_GO_ON;
	const struct ht_linked *l;
	struct ht_call_ctx ctx;
	struct ht_vm *vm;

	if (ht_in_l2(vcpu) || vcpu->arch.guest_state_protected)
		return HT_GO_ON;
	vm = ht_vm_enter(vcpu->kvm, &idx);
	if (!vm)
		return HT_GO_ON;
	l = ht_call_link_of(vm, vcpu, HT_CALL_L1);
	if (!l)
		goto leave;
	ret = ht_call_vcpu(vcpu, l, v, HT_CALL_L1, &ctx);
	if (ret == -ENOENT)
		goto leave;
	if (!ret) {
		ht_call_answer(vcpu, &ctx, ctx.bits);
		call->answer = ht_kvm(kvm_skip_emulated_instruction)(vcpu);
		verdict = HT_ANSWER;
	}
	ht_call_count(vm, HT_CALL_C_L1, ret);
leave:
	ht_vm_leave(vm, idx);
	return verdict;
}

HT_HOOK(ht_call_l1, "kvm_emulate_hypercall", ht_call_l1, ht_no_after);
static struct ht_kvm_hook *const ht_call_hooks[] = { &ht_call_l1_hook };

/* Lets L1's hypercalls of this VM through to us. May sleep. */
static int ht_call_begin(const struct kvm *kvm)
{
	int ret = 0;

	mutex_lock(&ht_call_lock);
	if (!ht_call_l1_hook.armed)
		ret = ht_hooks_arm(ht_call_hooks, ARRAY_SIZE(ht_call_hooks));
	if (!ret)
		ht_hook_mark(ht_call_marks, kvm);
	mutex_unlock(&ht_call_lock);
	return ret;
}

static void ht_call_end(const struct kvm *kvm)
{
	mutex_lock(&ht_call_lock);
	ht_hook_unmark(ht_call_marks, kvm);
	mutex_unlock(&ht_call_lock);
}

static bool ht_call_args_valid(const struct ht_call_args *args)
{
	u32 i;

	if (!args->from || args->from & ~(HT_CALL_L1 | HT_CALL_L2) || args->flags & ~HT_CALL_F_USER ||
	    !args->number_count || args->number_count > HT_CALL_NUMBERS || args->reserved)
		return false;
	for (i = 0; i < HT_CALL_NUMBERS; i++)
		if (i < args->number_count ? args->numbers[i] < HT_CALL_NUMBER_MIN : args->numbers[i])
			return false;
	return true;
}

static int ht_call_link(struct ht_vm *vm, struct ht_linked *l, const struct ht_link *req)
{
	const struct ht_call_args *args = (const struct ht_call_args *)req->args;
	void *copy;

	if (!ht_call_wanted || !ht_exit_vendor())
		return -EOPNOTSUPP;
	if (!ht_call_args_valid(args))
		return -EINVAL;
	copy = kmemdup(args, sizeof(*args), GFP_KERNEL_ACCOUNT);
	if (!copy)
		return -ENOMEM;
	/* the kernel's log has why; EBUSY would say that this VM has a program linked */
	if ((args->from & HT_CALL_L1) && ht_call_begin(vm->kvm)) {
		kfree(copy);
		return -EOPNOTSUPP;
	}
	if (args->from & HT_CALL_L2)
		WRITE_ONCE(vm->reflecting, vm->reflecting + 1);
	l->priv = copy;
	return 0;
}

static void ht_call_unlink(struct ht_vm *vm, struct ht_linked *l)
{
	const struct ht_call_args *args = l->priv;

	if (args->from & HT_CALL_L2)
		WRITE_ONCE(vm->reflecting, vm->reflecting - 1);
	if (args->from & HT_CALL_L1)
		ht_call_end(vm->kvm);
	kfree(l->priv);
}

static void ht_call_reset(void *ctx)
{
	struct ht_call_ctx *c = ctx;

	c->action = HT_CALL_PASS;
	c->reason = 0;
}

const struct ht_hook_ops ht_call_ops = {
	.ctx_bytes = sizeof(struct ht_call_ctx),
	.reset = ht_call_reset,
	.link = ht_call_link,
	.unlink = ht_call_unlink,
};

/* What L1 keeps in an arena rests on programs running in exits of its vCPUs only (ht_vm_run() of vm.c). */
static bool ht_call_has_arena(const struct ht_linked *l)
{
	u32 i;

	if (l->arena)
		return true;
	for (i = 0; i < l->prog->aux->used_map_cnt; i++)
		if (ht_arena_in_use(l->prog->aux->used_maps[i]))
			return true;
	return false;
}

/*
 * For the owner of the VM's file: a thread of its own choice. The program runs as on a vCPU, not preemptible and bounded, and
 * beside vCPUs that may run it as well, as those do beside each other. The link stays for as long as SRCU is held, the
 * VM for as long as its file is open. Who may call how often is the owner's to say.
 */
long ht_vm_call(struct ht_vm *vm, struct ht_vm_call *req)
{
	struct ht_call_ctx ctx = { .number = req->number, .from = HT_CALL_CHANNEL, .bits = 64,
				   .vcpu = HT_CALL_NO_VCPU, .action = HT_CALL_PASS };
	const struct ht_linked *l;
	long ret = -ENOENT;
	int idx;

	idx = srcu_read_lock(&vm->srcu);
	l = srcu_dereference(vm->linked[HT_HOOK_CALL], &vm->srcu);
	if (!l || READ_ONCE(l->state) == HT_RUN_ENDED || (req->prog_id && l->prog->aux->id != req->prog_id))
		goto leave;
	ret = -EINVAL;
	if (!ht_call_has(l, req->number))
		goto leave;
	ret = -EBUSY;
	if (ht_call_has_arena(l))
		goto leave;
	memcpy(ctx.words, req->words, sizeof(ctx.words));
	req->reason = ht_call_run(l, &ctx);
	req->action = req->reason ? HT_CALL_PASS : HT_CALL_HANDLED;
	memset(req->results, 0, sizeof(req->results));
	if (!req->reason)
		memcpy(req->results, ctx.results, sizeof(req->results));
	ht_call_count(vm, HT_CALL_C_CHANNEL, req->reason);
	ret = 0;
leave:
	srcu_read_unlock(&vm->srcu, idx);
	return ret;
}

void ht_call_hooks_exit(void)
{
	if (ht_call_l1_hook.armed)
		ht_hooks_disarm(ht_call_hooks, ARRAY_SIZE(ht_call_hooks));
}
