// SPDX-License-Identifier: GPL-2.0
/*
 * The exit hook: an L2 exit that stock KVM is about to hand to L1. Which exits those are is KVM's own decision, made
 * from L1's intercepts by its own code: a hook around that code (nested_svm_exit_handled, nested_vmx_reflect_vmexit)
 * notes that an exit of the hardware is under way, and the hook on what it calls to enter L1 (nested_svm_vmexit,
 * nested_vmx_vmexit) runs the VM's program first. If that answers, the general registers are set, the instruction is
 * skipped by KVM's own function (length, interrupt shadow, single-stepping), and L2 goes on: KVM sees "handled".
 *
 * Read in Linux 6.1 and 6.12, arch/x86/kvm: svm/svm.c svm_handle_exit, svm_check_intercept, __svm_skip_emulated_
 * instruction; svm/nested.c nested_svm_exit_handled, nested_svm_vmrun; vmx/vmx.c __vmx_handle_exit; vmx/nested.c
 * nested_vmx_reflect_vmexit; x86.c kvm_skip_emulated_instruction. Whenever in doubt: PASS, and L1 gets its exit.
 */
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <asm/svm.h>
#include <asm/vmx.h>
#include "run.h"
#include "exit.h"
#include "kvm_calls.h"
#include "kmod/direct_hook.h"

static bool ht_exit_wanted = true;
module_param_named(exit_hook, ht_exit_wanted, bool, 0444);
MODULE_PARM_DESC(exit_hook, "hook L2 exits to L1 (default: on)");

/* Of one L1 vCPU. Only its own thread touches it. */
struct ht_exit_vcpu {
	bool in_l1;		/* L1 has an exit that was asked for: */
	u32 kind, arg;
	u64 since_ns;
};

/* priv of a link */
struct ht_exit {
	struct ht_exit_args args;
	u32 vcpu_count;
	struct ht_exit_vcpu vcpus[];
};

static struct ht_exit_vendor ht_svm, ht_vmx;

const struct ht_exit_vendor *ht_exit_vendor(void)
{
	return ht_svm.armed ? &ht_svm : ht_vmx.armed ? &ht_vmx : NULL;
}

static void ht_svm_classify(struct kvm_vcpu *vcpu, struct ht_exit_info *e)
{
	u32 code = 0, event = 0, error;
	u64 info1 = 0, info2;

	ht_kvm(svm_get_exit_info)(vcpu, &code, &info1, &info2, &event, &error);
	*e = (struct ht_exit_info){ .kind = HT_EXIT_OTHER, .code = code, .info1 = info1,
				    .event = event & SVM_EXITINTINFO_VALID };
	switch (code) {
	case SVM_EXIT_CPUID:
		e->kind = HT_EXIT_CPUID;
		break;
	case SVM_EXIT_MSR:
		e->kind = info1 & 1 ? HT_EXIT_WRMSR : HT_EXIT_RDMSR;
		break;
	case SVM_EXIT_IOIO:
		e->kind = HT_EXIT_IO;
		e->arg = info1 >> 16 & 0xffff;
		e->bytes = info1 >> 4 & 7;	/* SZ8, SZ16, SZ32: one of them is set */
		e->write = !(info1 & SVM_IOIO_TYPE_MASK);
		e->string = info1 & (SVM_IOIO_STR_MASK | SVM_IOIO_REP_MASK);
		break;
	case SVM_EXIT_VMMCALL:
		e->kind = HT_EXIT_HYPERCALL;
		break;
	case SVM_EXIT_HLT:
		e->kind = HT_EXIT_HLT;
		break;
	case SVM_EXIT_PAUSE:
		e->kind = HT_EXIT_PAUSE;
		break;
	}
}

static void ht_vmx_classify(struct kvm_vcpu *vcpu, struct ht_exit_info *e)
{
	u32 code = 0, intr, error;
	u64 info1 = 0, vectoring = 0;

	ht_kvm(vmx_get_exit_info)(vcpu, &code, &info1, &vectoring, &intr, &error);
	*e = (struct ht_exit_info){ .kind = HT_EXIT_OTHER, .code = code, .info1 = info1,
				    .event = vectoring & VECTORING_INFO_VALID_MASK };
	switch (code) { /* all of it: a failed entry has its high bit set */
	case EXIT_REASON_CPUID:
		e->kind = HT_EXIT_CPUID;
		break;
	case EXIT_REASON_MSR_READ:
		e->kind = HT_EXIT_RDMSR;
		break;
	case EXIT_REASON_MSR_WRITE:
		e->kind = HT_EXIT_WRMSR;
		break;
	case EXIT_REASON_IO_INSTRUCTION:
		e->kind = HT_EXIT_IO;
		e->arg = info1 >> 16 & 0xffff;
		e->bytes = (info1 & 7) + 1;
		e->write = !(info1 & 8);
		e->string = info1 & (BIT(4) | BIT(5));
		break;
	case EXIT_REASON_VMCALL:
		e->kind = HT_EXIT_HYPERCALL;
		break;
	case EXIT_REASON_HLT:
		e->kind = HT_EXIT_HLT;
		break;
	case EXIT_REASON_PAUSE_INSTRUCTION:
		e->kind = HT_EXIT_PAUSE;
		break;
	}
}

/* MSRs that are not listed are other exits. */
static void ht_exit_msr(struct kvm_vcpu *vcpu, const struct ht_exit_args *args, struct ht_exit_info *e)
{
	u32 i;

	if (e->kind != HT_EXIT_RDMSR && e->kind != HT_EXIT_WRMSR)
		return;
	e->arg = vcpu->arch.regs[VCPU_REGS_RCX];
	for (i = 0; i < args->msr_count; i++)
		if (args->msrs[i] == e->arg)
			return;
	e->kind = HT_EXIT_OTHER;
}

u32 ht_exit_bits(struct kvm_vcpu *vcpu, const struct ht_exit_vendor *v)
{
	int db = 0, l = 0;

	v->get_cs_db_l_bits(vcpu, &db, &l);
	if (l && (vcpu->arch.efer & EFER_LMA))
		return 64;
	return db ? 32 : 16;
}

u64 ht_exit_root(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu *mmu = vcpu->arch.mmu;

	/* without nested paging L1's table is an ordinary one: no L2 is known by it */
	return mmu == &vcpu->arch.guest_mmu ? ht_mmu_walk(mmu)->get_guest_pgd(vcpu) & HT_PFN_MASK : 0;
}

static void ht_exit_fill(struct kvm_vcpu *vcpu, const struct ht_exit_vendor *v, const struct ht_exit_info *e,
			 u64 now, struct ht_exit_ctx *ctx)
{
	int i;

	*ctx = (struct ht_exit_ctx){
		.kind = e->kind, .arg = e->arg, .bytes = e->bytes, .write = e->write, .code = e->code,
		.info1 = e->info1, .vcpu = vcpu->vcpu_id, .now_ns = now, .cpl = v->get_cpl(vcpu),
		.bits = ht_exit_bits(vcpu, v), .rip = ht_kvm(kvm_get_linear_rip)(vcpu), .action = HT_EXIT_PASS,
		.root = ht_exit_root(vcpu),
	};
	/* the instruction set's numbers are KVM's; RSP and RIP, which VMX reads late, are no business of programs */
	for (i = 0; i < HT_EXIT_REGS; i++)
		ctx->regs[i] = i == HT_RSP ? 0 : vcpu->arch.regs[i];
}

enum ht_exit_skip ht_exit_skip(struct kvm_vcpu *vcpu)
{
	unsigned long rip = ht_kvm(kvm_get_linear_rip)(vcpu);

	ht_kvm(kvm_skip_emulated_instruction)(vcpu);
	/* where the hardware does not tell the length KVM decodes, and fetching may fault: L2 or L1 has that fault now */
	if (!ht_in_l2(vcpu))
		return HT_SKIP_FAULTED;
	if (ht_kvm(kvm_get_linear_rip)(vcpu) != rip)
		return HT_SKIPPED;
	return vcpu->arch.exception.pending || vcpu->arch.exception_vmexit.pending ? HT_SKIP_FAULTED : HT_NOT_SKIPPED;
}

/* The answer's registers, behind the instruction. 0: L2 goes on; or the reason to pass. */
static int ht_exit_resume(struct kvm_vcpu *vcpu, const struct ht_exit_ctx *ctx)
{
	enum ht_exit_skip skip = ht_exit_skip(vcpu);
	int i;

	if (skip != HT_SKIPPED)
		return skip == HT_SKIP_FAULTED ? 0 : HT_EXIT_R_NOT_SKIPPED;
	for (i = 0; i < HT_EXIT_REGS; i++)
		if (i != HT_RSP)
			vcpu->arch.regs[i] = ctx->regs[i];
	return 0;
}

/* Runs the program; 0 when L2 goes on, or the reason to pass. */
static int ht_exit_try(struct kvm_vcpu *vcpu, const struct ht_linked *l, const struct ht_exit_vendor *v,
		       const struct ht_exit_info *e, u64 now)
{
	const struct ht_exit *x = l->priv;
	struct ht_exit_ctx ctx;

	if (e->string)
		return HT_EXIT_R_STRING_IO;
	if (e->kind == HT_EXIT_HYPERCALL && !(x->args.flags & HT_EXIT_F_USER) && v->get_cpl(vcpu))
		return HT_EXIT_R_USER;
	ht_exit_fill(vcpu, v, e, now, &ctx);
	ht_run(l, &ctx);
	if (e->kind == HT_EXIT_OTHER)
		return HT_EXIT_R_OTHER;
	if (ctx.action == HT_EXIT_PASS)
		return ctx.reason >= HT_EXIT_R_PROGRAM && ctx.reason < HT_REASONS ? ctx.reason :
										    HT_EXIT_R_PROGRAM;
	if (ctx.action != HT_EXIT_HANDLED)
		return HT_EXIT_R_BAD_ANSWER;
	if (e->event)
		return HT_EXIT_R_EVENT;
	if (vcpu->guest_debug)	/* stepping ends in L0's user space, which this way cannot reach */
		return HT_EXIT_R_DEBUG;
	return ht_exit_resume(vcpu, &ctx);
}

#define ht_exit_count(vm, kind, what, n) ht_count(vm, HT_HOOK_EXIT, counts[(kind) * HT_EXIT_COUNTS + (what)], n)

/* L1 is about to be entered; true when it need not be. */
static bool ht_exit_before(struct kvm_vcpu *vcpu, const struct ht_exit_vendor *v)
{
	struct ht_exit_vcpu *s;
	struct ht_exit_info e;
	struct ht_linked *l;
	bool handled = false;
	struct ht_exit *x;
	struct ht_vm *vm;
	int idx, ret;
	bool armed;
	u64 now;

	vm = ht_vm_enter(vcpu->kvm, &idx);
	if (!vm)
		return false;
	if (!READ_ONCE(vm->reflecting) || vcpu->vcpu_idx >= KVM_MAX_VCPUS)
		goto leave;
	armed = vm->armed[vcpu->vcpu_idx];
	vm->armed[vcpu->vcpu_idx] = false;
	l = srcu_dereference(vm->linked[HT_HOOK_EXIT], &vm->srcu);
	x = l ? l->priv : NULL;
	s = x ? &x->vcpus[vcpu->vcpu_idx] : NULL;
	if (s)
		s->in_l1 = false;
	if (!armed)
		goto leave;
	v->classify(vcpu, &e);
	if (e.kind == HT_EXIT_HYPERCALL && ht_call_l2(vm, vcpu, v, e.event)) {
		handled = true;
		goto leave;
	}
	if (!s)
		goto leave;
	ht_exit_msr(vcpu, &x->args, &e);
	if (!(x->args.kinds & BIT_ULL(e.kind)))
		goto leave;
	now = ktime_get_ns();
	ret = ht_exit_try(vcpu, l, v, &e, now);
	handled = !ret;
	ht_count(vm, HT_HOOK_EXIT, runs, 1);
	ht_exit_count(vm, e.kind, HT_EXIT_C_SEEN, 1);
	if (handled) {
		ht_count(vm, HT_HOOK_EXIT, handled, 1);
		ht_exit_count(vm, e.kind, HT_EXIT_C_HANDLED, 1);
		ht_exit_count(vm, e.kind, HT_EXIT_C_L0_NS, ktime_get_ns() - now);
	} else {
		ht_count(vm, HT_HOOK_EXIT, reasons[ret], 1);
		s->in_l1 = true;
		s->kind = e.kind;
		s->arg = e.arg;
		s->since_ns = now;
	}
leave:
	ht_vm_leave(vm, idx);
	return handled;
}

/* L1 has entered an L2. */
static void ht_exit_after(struct kvm_vcpu *vcpu, const struct ht_exit_vendor *v)
{
	struct ht_exit_vcpu *s;
	struct ht_linked *l;
	struct ht_exit *x;
	struct ht_vm *vm;
	int idx;
	u64 now;

	vm = ht_vm_enter(vcpu->kvm, &idx);
	if (!vm)
		return;
	l = srcu_dereference(vm->linked[HT_HOOK_EXIT], &vm->srcu);
	x = l ? l->priv : NULL;
	if (!x || vcpu->vcpu_idx >= x->vcpu_count)
		goto leave;
	s = &x->vcpus[vcpu->vcpu_idx];
	if (!s->in_l1)
		goto leave;
	s->in_l1 = false;
	now = ktime_get_ns();
	ht_exit_count(vm, s->kind, HT_EXIT_C_RETURNED, 1);
	ht_exit_count(vm, s->kind, HT_EXIT_C_L1_NS, now - s->since_ns);
	if (x->args.flags & HT_EXIT_F_AFTER) {
		struct ht_exit_info e = { .kind = s->kind, .arg = s->arg };
		struct ht_exit_ctx ctx;

		ht_exit_fill(vcpu, v, &e, now, &ctx);
		ctx.phase = HT_EXIT_AFTER;
		ctx.l1_ns = now - s->since_ns;
		ht_run(l, &ctx);
	}
leave:
	ht_vm_leave(vm, idx);
}

/* Whether the exit with which this vCPU left L2 is L1's now, and was asked for. */
static bool ht_exit_returns(struct kvm_vcpu *vcpu)
{
	struct ht_linked *l;
	struct ht_exit *x;
	struct ht_vm *vm;
	bool ret = false;
	int idx;

	vm = ht_vm_enter(vcpu->kvm, &idx);
	if (!vm)
		return false;
	l = srcu_dereference(vm->linked[HT_HOOK_EXIT], &vm->srcu);
	x = l ? l->priv : NULL;
	if (x && vcpu->vcpu_idx < x->vcpu_count)
		ret = x->vcpus[vcpu->vcpu_idx].in_l1;
	ht_vm_leave(vm, idx);
	return ret;
}

/*
 * An exit of the hardware from L2: from here to ht_exit_end() the vCPU is armed, for the hooks exit and call. The VM is held
 * all the while, so that what was armed is still there to be disarmed.
 */
static int ht_exit_begin(struct ht_call *call)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)call->args[0];
	struct ht_vm *vm;
	int idx;

	vm = ht_vm_enter(vcpu->kvm, &idx);
	if (!vm)
		return HT_GO_ON;
	if (!READ_ONCE(vm->reflecting) || vcpu->vcpu_idx >= KVM_MAX_VCPUS) {
		ht_vm_leave(vm, idx);
		return HT_GO_ON;
	}
	vm->armed[vcpu->vcpu_idx] = true;
	call->priv[0] = (unsigned long)&vm->armed[vcpu->vcpu_idx];
	call->priv[1] = (unsigned long)vm;
	call->priv[2] = idx;
	return HT_AROUND;
}

static void ht_exit_end(struct ht_call *call)
{
	*(bool *)call->priv[0] = false;
	ht_vm_leave((struct ht_vm *)call->priv[1], call->priv[2]);
}

/* The only function from which svm_around counts */
static unsigned long ht_svm_caller, ht_svm_caller_size;

/* Not from svm_check_intercept: there KVM's emulator is at work on the instruction. */
static int ht_svm_exit_begin(struct ht_call *call)
{
	return call->parent - ht_svm_caller < ht_svm_caller_size ? ht_exit_begin(call) : HT_GO_ON;
}

/* struct vcpu_svm begins with its struct kvm_vcpu (svm.h, 6.1 and 6.12: BUILD_BUG_ON in svm_vcpu_create) */
static int ht_svm_vmexit(struct ht_call *call)
{
	call->answer = 0;
	return ht_exit_before((struct kvm_vcpu *)call->args[0], &ht_svm) ? HT_ANSWER : HT_GO_ON;
}

static int ht_vmx_vmexit(struct ht_call *call)
{
	return ht_exit_before((struct kvm_vcpu *)call->args[0], &ht_vmx) ? HT_ANSWER : HT_GO_ON;
}

static int ht_svm_vmentry(struct ht_call *call)
{
	return ht_exit_returns((struct kvm_vcpu *)call->args[0]) ? HT_AROUND : HT_GO_ON;
}

/* bool from_vmentry is the second argument */
static int ht_vmx_vmentry(struct ht_call *call)
{
	return (u8)call->args[1] && ht_exit_returns((struct kvm_vcpu *)call->args[0]) ? HT_AROUND : HT_GO_ON;
}

static void ht_svm_vmentered(struct ht_call *call)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)call->args[0];

	if (ht_in_l2(vcpu))
		ht_exit_after(vcpu, &ht_svm);
}

static void ht_vmx_vmentered(struct ht_call *call)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)call->args[0];

	if (ht_in_l2(vcpu))
		ht_exit_after(vcpu, &ht_vmx);
}

HT_HOOK(ht_svm_around, "nested_svm_exit_handled", ht_svm_exit_begin, ht_exit_end);
HT_HOOK(ht_svm_vmexit, "nested_svm_vmexit", ht_svm_vmexit, ht_no_after);
HT_HOOK(ht_svm_vmentry, "nested_svm_vmrun", ht_svm_vmentry, ht_svm_vmentered);
HT_HOOK(ht_vmx_around, "nested_vmx_reflect_vmexit", ht_exit_begin, ht_exit_end);
HT_HOOK(ht_vmx_vmexit, "nested_vmx_vmexit", ht_vmx_vmexit, ht_no_after);
HT_HOOK(ht_vmx_vmentry, "nested_vmx_enter_non_root_mode", ht_vmx_vmentry, ht_vmx_vmentered);

#define HT_EXIT_HOOKS 3
static struct ht_kvm_hook *const ht_svm_hooks[HT_EXIT_HOOKS] = { &ht_svm_around_hook, &ht_svm_vmexit_hook, &ht_svm_vmentry_hook };
static struct ht_kvm_hook *const ht_vmx_hooks[HT_EXIT_HOOKS] = { &ht_vmx_around_hook, &ht_vmx_vmexit_hook, &ht_vmx_vmentry_hook };

static int ht_svm_find(void)
{
	int ret = ht_svm_bind();

	if (ret)
		return ret;
	ht_svm_caller = ht_lookup_function("svm_handle_exit");
	if (ht_svm_caller)
		ht_svm_caller_size = ht_function_size(ht_svm_caller);
	return ht_svm_caller_size ? 0 : -ENOENT;
}

/* What is called by pointer has our ENDBR: these. */
static int ht_svm_cpl(struct kvm_vcpu *vcpu)
{
	return ht_kvm(svm_get_cpl)(vcpu);
}

static void ht_svm_cs_db_l_bits(struct kvm_vcpu *vcpu, int *db, int *l)
{
	ht_kvm(svm_get_cs_db_l_bits)(vcpu, db, l);
}

static int ht_vmx_cpl(struct kvm_vcpu *vcpu)
{
	return ht_kvm(vmx_get_cpl)(vcpu);
}

static void ht_vmx_cs_db_l_bits(struct kvm_vcpu *vcpu, int *db, int *l)
{
	ht_kvm(vmx_get_cs_db_l_bits)(vcpu, db, l);
}

static struct ht_exit_vendor ht_svm = {
	.name = "kvm-amd",
	.hooks = ht_svm_hooks,
	.sign = "svm_get_cpl",
	.find = ht_svm_find,
	.get_cpl = ht_svm_cpl,
	.get_cs_db_l_bits = ht_svm_cs_db_l_bits,
	.classify = ht_svm_classify,
};

static struct ht_exit_vendor ht_vmx = {
	.name = "kvm-intel",
	.hooks = ht_vmx_hooks,
	.sign = "vmx_get_cpl",
	.find = ht_vmx_bind,
	.get_cpl = ht_vmx_cpl,
	.get_cs_db_l_bits = ht_vmx_cs_db_l_bits,
	.classify = ht_vmx_classify,
};

/* Hooks first: they hold kvm-amd or kvm-intel, so that what is found then stays. They call nothing while no VM is attached. */
static int ht_exit_arm(struct ht_exit_vendor *v)
{
	int ret;

	/* since 7.x the other is an inline function that calls it */
	ht_vmx_vmexit_hook.newer_name = "__nested_vmx_vmexit";
	if (!ht_lookup_function(v->sign))
		return -ENOENT;
	ret = ht_hooks_arm(v->hooks, HT_EXIT_HOOKS);
	if (ret) {
		pr_err("hyperturtle: cannot hook exits of %s (%d)\n", v->name, ret);
		return ret;
	}
	ret = v->find();
	if (ret)
		ht_hooks_disarm(v->hooks, HT_EXIT_HOOKS);
	v->armed = !ret;
	return ret;
}

static void ht_exit_reset(void *ctx)
{
	struct ht_exit_ctx *c = ctx;

	c->action = HT_EXIT_PASS;
	c->reason = 0;
}

static int ht_exit_link(struct ht_vm *vm, struct ht_linked *l, const struct ht_link *req)
{
	const struct ht_exit_args *args = (const struct ht_exit_args *)req->args;
	struct ht_exit *x;

	if (!ht_svm.armed && !ht_vmx.armed)
		return -EOPNOTSUPP;
	if (!args->kinds || args->kinds >> HT_EXIT_KINDS || args->msr_count > HT_EXIT_MSRS ||
	    (args->flags & ~(HT_EXIT_F_AFTER | HT_EXIT_F_USER)))
		return -EINVAL;
	x = kvzalloc(struct_size(x, vcpus, KVM_MAX_VCPUS), GFP_KERNEL_ACCOUNT);
	if (!x)
		return -ENOMEM;
	x->args = *args;
	x->vcpu_count = KVM_MAX_VCPUS;
	l->priv = x;
	WRITE_ONCE(vm->reflecting, vm->reflecting + 1);
	return 0;
}

static void ht_exit_unlink(struct ht_vm *vm, struct ht_linked *l)
{
	WRITE_ONCE(vm->reflecting, vm->reflecting - 1);
	kvfree(l->priv);
}

const struct ht_hook_ops ht_exit_ops = {
	.ctx_bytes = sizeof(struct ht_exit_ctx),
	.reset = ht_exit_reset,
	.link = ht_exit_link,
	.unlink = ht_exit_unlink,
};

/* A host has one of the two modules; without any the hook is not there, and LINK says so. */
void ht_exit_hooks_init(void)
{
	if (!ht_exit_wanted)
		return;
	ht_exit_arm(&ht_svm);
	ht_exit_arm(&ht_vmx);
	if (!ht_svm.armed && !ht_vmx.armed)
		pr_info("hyperturtle: no exit hook: neither kvm-amd nor kvm-intel has the functions it needs\n");
}

void ht_exit_hooks_exit(void)
{
	struct ht_exit_vendor *const vendors[] = { &ht_svm, &ht_vmx };
	int i;

	for (i = 0; i < ARRAY_SIZE(vendors); i++)
		if (vendors[i]->armed)
			ht_hooks_disarm(vendors[i]->hooks, HT_EXIT_HOOKS);
}
