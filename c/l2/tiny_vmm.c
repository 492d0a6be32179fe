// SPDX-License-Identifier: GPL-2.0
/*
 * The smallest VMM that is of use for testing a hypervisor's memory: one vCPU in 64-bit mode, no devices, no kernel.
 * Its guest lives for as many instructions as the test needs, so that an emulated machine can run it.
 *
 *   tiny_vmm FILE PAGES STEP...
 *     touch:FIRST:COUNT              writes into each of these pages once, in order
 *     scattered:FIRST:COUNT          the same in an order without runs; COUNT is a power of two
 *     cpuid:COUNT                    executes CPUID (leaf 1) that often; its last answer is in `registers`, others
 *                                    than the first are mismatches
 *     calls:COUNT                    a loop of that many turns, in the innermost of three functions that keep frame
 *                                    pointers
 *     log:1|0                        this program has KVM log the guest's writes from now on, as for a migration, or
 *                                    no more
 *     cpu:N                          this thread, so the vCPU, runs on that CPU from now on
 *     policy:MODE:NODES              its memory policy from now on: a number MPOL_* and a bitmap of nodes, as
 *                                    set_mempolicy() has it
 *     mbind:MODE:NODES:FIRST:COUNT   the same of these pages, by mbind()
 *     discard:FIRST:COUNT            this program gives these pages back, as a balloon has it do; mismatches are those
 *                                    of them, of each 64th, that do not read as zeros after that
 *     share:FIRST:COUNT:ROLE:VISITS  visits random ones of these pages, checks and writes them as `pattern share` does
 *
 * FILE is the guest's RAM, `-` anonymous shared memory, `:private` anonymous private memory, `:memfd` a memfd; page 0
 * of the steps lies at 4 MiB in it. When the VM is there, prints {"ready":...}. Each step waits for SIGUSR1, so that
 * the VM can be registered and counters be read, and prints one JSON line. Exit status 0: every page as it must be;
 * 1: mismatches; 2: usage or system.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <linux/kvm.h>

#define PROGRAM "tiny_vmm"
#include "tiny_machine.h"

#define MAX_PAGES ((1ull << 30) / PAGE - TEST_GPA / PAGE)
#define SHARE_MAGIC 0x5ea5000000000000ull
#define ROLE_SHIFT 40

/*
 * In: rdi first page, rsi number of pages or times, r8 step between pages in pages. `share` also: rdx visits, rcx what
 * a word of page 0 in our role is, r9 the same without a role, r10 start of the random numbers. Out: r12 mismatches
 * (not of `touch`), r13 pages with a word that was ours.
 */
extern const char guest_touch[], guest_cpuid[], guest_calls[], guest_share[], guest_end[];
asm(".pushsection .rodata\n"
    "guest_touch:\n"
    "	xorl %eax, %eax\n"		/* number of the page */
    "	movq %rsi, %rcx\n"
    "1:	movq %rax, %rbx\n"
    "	shlq $12, %rbx\n"
    "	leaq 1(%rax), %rdx\n"
    "	movq %rdx, (%rdi,%rbx)\n"
    "	addq %r8, %rax\n"
    "	cmpq %rsi, %rax\n"
    "	jb 2f\n"
    "	subq %rsi, %rax\n"
    "2:	decq %rcx\n"
    "	jnz 1b\n"
    "	hlt\n"
    "guest_cpuid:\n"
    "	xorl %r12d, %r12d\n"
    "	xorl %r9d, %r9d\n"		/* EAX:EBX and ECX:EDX of the first answer: r9, r10 */
    "1:	movl $1, %eax\n"
    "	xorl %ecx, %ecx\n"
    "	cpuid\n"
    "	movq %rax, %r14\n"
    "	shlq $32, %r14\n"
    "	orq %rbx, %r14\n"
    "	movq %rcx, %r15\n"
    "	shlq $32, %r15\n"
    "	orq %rdx, %r15\n"
    "	testq %r9, %r9\n"
    "	jnz 2f\n"
    "	movq %r14, %r9\n"
    "	movq %r15, %r10\n"
    "2:	xorq %r9, %r14\n"
    "	xorq %r10, %r15\n"
    "	orq %r15, %r14\n"
    "	cmpq $1, %r14\n"		/* carry: as the first */
    "	sbbq $-1, %r12\n"
    "	decq %rsi\n"
    "	jnz 1b\n"
    "	hlt\n"
    "guest_calls:\n"
    "	xorl %ebp, %ebp\n"		/* the outermost frame */
    "	call 1f\n"
    "	xorl %r12d, %r12d\n"
    "	hlt\n"
    "1:	pushq %rbp\n"
    "	movq %rsp, %rbp\n"
    "	call 2f\n"
    "	popq %rbp\n"
    "	ret\n"
    "2:	pushq %rbp\n"
    "	movq %rsp, %rbp\n"
    "	call 3f\n"
    "	popq %rbp\n"
    "	ret\n"
    "3:	pushq %rbp\n"
    "	movq %rsp, %rbp\n"
    "4:	decq %rsi\n"
    "	jnz 4b\n"
    "	popq %rbp\n"
    "	ret\n"
    "guest_share:\n"
    "	movq %rcx, %r14\n"
    "	movq %rdx, %r15\n"
    "	xorl %r12d, %r12d\n"
    "	xorl %r13d, %r13d\n"
    "1:	movq %r10, %rax\n"		/* xorshift64 */
    "	shlq $13, %rax\n"
    "	xorq %rax, %r10\n"
    "	movq %r10, %rax\n"
    "	shrq $7, %rax\n"
    "	xorq %rax, %r10\n"
    "	movq %r10, %rax\n"
    "	shlq $17, %rax\n"
    "	xorq %rax, %r10\n"
    "	movq %r10, %rax\n"
    "	xorl %edx, %edx\n"
    "	divq %rsi\n"			/* rdx: which page */
    "	movq %rdx, %rbx\n"
    "	shlq $12, %rbx\n"
    "	addq %rdi, %rbx\n"
    "	leaq (%r14,%rdx), %r8\n"	/* our word for it */
    "	leaq (%r9,%rdx), %r11\n"	/* anybody's, without the role */
    "	movl $512, %ecx\n"
    "	xorl %ebp, %ebp\n"		/* bit 0: a wrong word, bit 1: one of our words */
    "2:	movq (%rbx), %rax\n"
    "	testq %rax, %rax\n"
    "	jz 4f\n"
    "	cmpq %r8, %rax\n"
    "	jne 3f\n"
    "	orl $2, %ebp\n"
    "	jmp 4f\n"
    "3:	movq $0xf0000000000, %rdx\n"
    "	notq %rdx\n"
    "	andq %rdx, %rax\n"
    "	cmpq %r11, %rax\n"
    "	je 4f\n"
    "	orl $1, %ebp\n"
    "4:	movq %r8, (%rbx)\n"
    "	addq $8, %rbx\n"
    "	decl %ecx\n"
    "	jnz 2b\n"
    "	movl %ebp, %eax\n"
    "	andl $1, %eax\n"
    "	addq %rax, %r12\n"
    "	shrl $1, %ebp\n"
    "	addq %rbp, %r13\n"
    "	decq %r15\n"
    "	jnz 1b\n"
    "	hlt\n"
    "guest_end:\n"
    ".popsection\n");

static void usage(void)
{
	fprintf(stderr, "usage: tiny_vmm FILE|- PAGES STEP...\n"
			"steps: touch:FIRST:COUNT scattered:FIRST:COUNT cpuid:COUNT calls:COUNT log:1|0 cpu:N policy:MODE:NODES\n"
			"       mbind:MODE:NODES:FIRST:COUNT discard:FIRST:COUNT share:FIRST:COUNT:ROLE:VISITS\n");
	exit(2);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int run_to_halt(int cpu, const struct kvm_run *run)
{
	int exits = 0;

	for (;;) {
		if (ioctl(cpu, KVM_RUN, 0)) {
			if (errno == EINTR)
				continue;
			die("KVM_RUN");
		}
		exits++;
		if (run->exit_reason == KVM_EXIT_HLT)
			return exits;
		fprintf(stderr, "tiny_vmm: exit %u (suberror %u) instead of HLT\n", run->exit_reason,
			run->internal.suberror);
		exit(2);
	}
}

struct step {
	/* from LOG on, of this program alone */
	enum { TOUCH, SCATTERED, CPUID, CALLS, SHARE, LOG, CPU, POLICY, MBIND, DISCARD } kind;
	unsigned long long first, count, role, visits;
	unsigned long mode, nodes;
};

static const char *const kinds[] = {
	"touch", "scattered", "cpuid", "calls", "share", "log", "cpu", "policy", "mbind", "discard",
};

static struct step parse_step(const char *text, uint64_t pages)
{
	struct step s = { .kind = CPUID };

	if (sscanf(text, "touch:%llu:%llu", &s.first, &s.count) == 2)
		s.kind = TOUCH;
	else if (sscanf(text, "scattered:%llu:%llu", &s.first, &s.count) == 2 && !(s.count & (s.count - 1)))
		s.kind = SCATTERED;
	else if (sscanf(text, "share:%llu:%llu:%llu:%llu", &s.first, &s.count, &s.role, &s.visits) == 4 &&
		 s.visits && s.role >= 1 && s.role <= 15)
		s.kind = SHARE;
	else if (sscanf(text, "discard:%llu:%llu", &s.first, &s.count) == 2)
		s.kind = DISCARD;
	else if (sscanf(text, "calls:%llu", &s.count) == 1)
		s.kind = CALLS;
	else if (sscanf(text, "log:%llu", &s.role) == 1 && s.role <= 1)
		s = (struct step){ .kind = LOG, .count = 1, .role = s.role };
	else if (sscanf(text, "cpu:%llu", &s.role) == 1)
		s = (struct step){ .kind = CPU, .count = 1, .role = s.role };
	else if (sscanf(text, "policy:%lu:%lu", &s.mode, &s.nodes) == 2)
		s = (struct step){ .kind = POLICY, .count = 1, .mode = s.mode, .nodes = s.nodes };
	else if (sscanf(text, "mbind:%lu:%lu:%llu:%llu", &s.mode, &s.nodes, &s.first, &s.count) == 4)
		s.kind = MBIND;
	else if (sscanf(text, "cpuid:%llu", &s.count) != 1)
		usage();
	if (!s.count || (s.kind != CPUID && s.kind != CALLS && (s.first >= pages || s.count > pages - s.first)))
		usage();
	return s;
}

/* Gives the number of pages that were not as they must be. */
static uint64_t run_step(int cpu, const struct kvm_run *run, char *ram, const struct step *s)
{
	static const char *const code[] = { guest_touch, guest_touch, guest_cpuid, guest_calls, guest_share };
	struct kvm_regs regs = {
		.rip = CODE + (uint64_t)(code[s->kind] - guest_touch),
		.rflags = 2,
		.rsp = STACK,
		.rdi = TEST_GPA + s->first * PAGE,
		.rsi = s->count,
		.rdx = s->visits,
		.rcx = SHARE_MAGIC | s->role << ROLE_SHIFT,
		.r8 = s->kind == SCATTERED ? (s->count * 633 / 1024 | 1) : 1, /* golden ratio: no neighbours soon */
		.r9 = SHARE_MAGIC,
		.r10 = 0x9e3779b97f4a7c15ull * (s->role + 1),
	};
	uint64_t t0, ns, i, bad = 0;
	int exits;

	if (ioctl(cpu, KVM_SET_REGS, &regs))
		die("KVM_SET_REGS");
	t0 = now_ns();
	exits = run_to_halt(cpu, run);
	ns = now_ns() - t0;
	if (ioctl(cpu, KVM_GET_REGS, &regs))
		die("KVM_GET_REGS");
	if (s->kind == TOUCH || s->kind == SCATTERED)
		for (i = 0; i < s->count; i++)
			bad += *(uint64_t *)(ram + TEST_GPA + (s->first + i) * PAGE) != i + 1;
	else
		bad = regs.r12;
	printf("{\"step\":\"%s\",\"count\":%llu,\"visits\":%llu,\"userExits\":%d,\"ns\":%llu,\"readBackOwn\":%llu,"
	       "\"registers\":[%llu,%llu,%llu,%llu],\"mismatches\":%llu}\n",
	       kinds[s->kind], s->count, s->visits, exits, (unsigned long long)ns,
	       s->kind == SHARE ? (unsigned long long)regs.r13 : 0ull, regs.rax, regs.rbx, regs.rcx, regs.rdx,
	       (unsigned long long)bad);
	fflush(stdout);
	return bad;
}

/* On which NUMA node memory is, from now on: by the CPU, or a policy of this thread or of some pages. */
static void place_memory(char *ram, const struct step *s)
{
	const unsigned long *nodes = s->nodes ? &s->nodes : NULL;
	unsigned long bits = s->nodes ? 8 * sizeof(s->nodes) : 0;
	cpu_set_t one;

	if (s->kind == CPU) {
		CPU_ZERO(&one);
		CPU_SET((size_t)s->role, &one);
		if (sched_setaffinity(0, sizeof(one), &one))
			die("sched_setaffinity");
	} else if (s->kind == POLICY) {
		if (syscall(SYS_set_mempolicy, s->mode, nodes, bits))
			die("set_mempolicy");
	} else if (syscall(SYS_mbind, ram + TEST_GPA + s->first * PAGE, s->count * PAGE, s->mode, nodes, bits, 0)) {
		die("mbind");
	}
}

/* Gives the number of pages that were looked at and are not zero. */
static uint64_t discard(char *ram, const struct step *s)
{
	char *from = ram + TEST_GPA + s->first * PAGE;
	uint64_t i, bad = 0;

	if (madvise(from, s->count * PAGE, MADV_DONTNEED))
		die("madvise");
	for (i = 0; i < s->count; i += 64)
		bad += *(uint64_t *)(from + i * PAGE) != 0;
	return bad;
}

int main(int argc, char **argv)
{
	struct kvm_userspace_memory_region region = { 0 };
	int kvm, vm, cpu, i, signal_number;
	uint64_t pages, wrong, bad = 0;
	struct kvm_run *run;
	sigset_t wanted;
	char *ram;

	if (argc < 4)
		usage();
	pages = strtoull(argv[2], NULL, 10);
	if (!pages || pages > MAX_PAGES)
		usage();
	for (i = 3; i < argc; i++)
		parse_step(argv[i], pages);
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGUSR1);
	sigprocmask(SIG_BLOCK, &wanted, NULL);

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		die("/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		die("KVM_CREATE_VM");
	ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul); /* for Intel processors without unrestricted guests */
	region.memory_size = TEST_GPA + pages * PAGE;
	ram = map_ram(argv[1], region.memory_size);
	fill_low_memory(ram, guest_touch, (size_t)(guest_end - guest_touch));
	region.userspace_addr = (uint64_t)(uintptr_t)ram;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		die("KVM_SET_USER_MEMORY_REGION");
	cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (cpu < 0)
		die("KVM_CREATE_VCPU");
	set_cpuid(kvm, cpu);
	run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
	if (run == MAP_FAILED)
		die("mmap of the vCPU");
	enter_long_mode(cpu);

	printf("{\"ready\":%d}\n", getpid());
	fflush(stdout);
	for (i = 3; i < argc; i++) {
		struct step s = parse_step(argv[i], pages);

		while (sigwait(&wanted, &signal_number))
			;
		if (s.kind >= LOG) {
			wrong = 0;
			if (s.kind == DISCARD) {
				wrong = discard(ram, &s);
				bad += wrong;
			} else if (s.kind == LOG) {
				region.flags = s.role ? KVM_MEM_LOG_DIRTY_PAGES : 0;
				if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
					die("KVM_SET_USER_MEMORY_REGION");
			} else {
				place_memory(ram, &s);
			}
			printf("{\"step\":\"%s\",\"count\":%llu,\"visits\":0,\"userExits\":0,\"ns\":0,\"readBackOwn\":0,"
			       "\"registers\":[0,0,0,0],\"mismatches\":%llu}\n", kinds[s.kind],
			       s.kind == LOG ? s.role : s.count, (unsigned long long)wrong);
			fflush(stdout);
			continue;
		}
		bad += run_step(cpu, run, ram, &s);
	}
	return bad != 0;
}
