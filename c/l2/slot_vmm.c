// SPDX-License-Identifier: GPL-2.0
/*
 * A VMM that changes its guest's memory slots and the protection of its memory while the guest writes to it.
 *
 *   slot_vmm FILE small|large STEP...
 *     changes:COUNT        two vCPUs write to a hot slot, which comes, is logged, moves and goes, COUNT changes in all;
 *                          at the end it is gone
 *     protect:read|none    mprotect() of pages that the guest has written and this program has never touched
 *     nest:COUNT           runs a guest in the guest (AMD), COUNT times, each time after a slot change: vCPU 0 enters it to read a
 *                          word, vCPU 1 then changes the upper nested table that leads to it, and so on; words that were not what the
 *                          table says are mismatches
 *     touch                the guest writes 32 pages, which this program then reads
 *     busy                 a vCPU on CPU 1 writes 32 pages again and again until the next SIGUSR1; prints a line first
 *     register[:LIMIT]     registers the VM, with a limit of frames; it stays so until the end
 *     rush:TIMES           prints a line and waits for SIGUSR1; then, each time when nothing is charged ahead, three vCPUs touch a
 *                          page each for the first time, all at once. `credit` is the most that was charged ahead meanwhile
 *     crowd                a thread has pages of RAM that nobody needs given and taken away, again and again until the next
 *                          SIGUSR1, while the VM is registered, slots come and go and protections change; prints a line first
 *     fills:MS:PID         the guest writes 32 pages again and again, on CPU 0, for so long
 *     holes:COUNT:PID      the same, and each of its pages is taken away by itself after each time
 *                          `watched` are exits of the VM of process PID meanwhile, by KVM's count
 *
 * FILE is the guest's RAM, FILE.hot that of the hot slot: in the same 2 MiB as other RAM (small), or two ranges of 2 MiB
 * of their own (large). When the VM is there, prints {"ready":...}. Each step waits for SIGUSR1 and prints one JSON line:
 * `slowest` is the longest that a slot change, registration, mprotect() or question to our module took, in milliseconds,
 * `slots` what our module said of its RAM when it was registered, `taken` frames that programs have taken since, `left_out` why pages
 * of it are left out, `on` whether programs may act for it at the end, `stale` counts writes that reached memory which no slot had any more, `graces` and `interrupted` what our module has
 * counted meanwhile: grace periods, and CPUs of L1 that it has interrupted for them. After the last step it waits for one more
 * SIGUSR1. Exit status 0: no stale write and no mismatch; 1: some; 2: usage or system.
 */
#define _GNU_SOURCE
#include <glob.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

#define PROGRAM "slot_vmm"
#include "tiny_machine.h"
#include "hyperturtle/arena.h"
#include "hyperturtle/guest.h"

#define VCPUS 3
#define ROAMERS 2
#define HOT_SLOT 1
#define RAM_PAGES 64ull
#define NEIGHBOUR TEST_GPA	/* keeps a table, in the same 2 MiB as a small hot slot */
#define WRITES 8ull		/* of a pass over the hot slot */
#define PROTECTED 16ull		/* the first of the pages that only the guest writes, and how many */
#define PROTECTED_PAGES 32ull
#define RUSH_STEP 12ull		/* pages between those of CROWD that `rush` touches: none continues a run */
#define CROWD (2ull << 20)	/* in RAM below TEST_GPA: pages that nobody uses */
#define CROWD_PAGES 320ull
/* for `nest`, in RAM of which programs know: what vCPU 1 touches first, and the tables, which nobody in the guest has touched */
#define NEST_WARM 0x3c0000ull
#define NEST_WARM_STEP 0x10000ull
#define NEST_VMCB 0x3e1000ull
#define NEST_HSAVE 0x3e2000ull
#define NEST_PML4 0x380000ull
#define NEST_PDPT 0x381000ull
#define NEST_PD(which) (0x382000ull + (which) * PAGE)
#define NEST_READ (4 * LARGE)	/* what the inner guest reads, at NEST_OFFSET in it, is in 2 MiB at NEST_FROM */
#define NEST_OFFSET 0x3f000ull
#define NEST_FROM(which) ((which) ? LARGE : TEST_GPA)
#define NEST_ROUNDS 4ull
#define NEST_CELL 0xa000ull	/* turn, turn done, mismatches, passes of vCPU 1, unexpected exit */
#define CELL(cpu) (0x9000ull + (cpu) * 64)	/* in RAM: whether to stop, passes so far */

/*
 * roam: rdi and r11 the two places of the hot slot, rsi writes, r8 bytes between them, r9 cell, r10 neighbour. Each word
 * gets its own address. fill: rdi first page, rsi pages, r10 what to write. nest: rdi what is read, rsi times, r8 VMCB, r9
 * cells, r10 and r11 what is to be read in turn, r12 where the inner guest begins. flip: rdi the entry, rsi and rdx pages to touch
 * first and bytes between them, r9 cells, r10 and r11 values of the entry in turn.
 */
extern const char guest_roam[], guest_fill[], guest_nest[], guest_inner[], guest_flip[], guest_end[];
asm(".pushsection .rodata\n"
    "guest_roam:\n"
    "1:	cmpq $0, (%r9)\n"
    "	jne 3f\n"
    "	movq %r9, (%r10)\n"
    "	xorl %eax, %eax\n"
    "	movq %rsi, %rcx\n"
    "2:	leaq (%rdi,%rax), %rbx\n"
    "	movq %rbx, (%rbx)\n"
    "	leaq (%r11,%rax), %rbx\n"
    "	movq %rbx, (%rbx)\n"
    "	addq %r8, %rax\n"
    "	decq %rcx\n"
    "	jnz 2b\n"
    "	incq 8(%r9)\n"
    "	jmp 1b\n"
    "3:	hlt\n"
    "guest_fill:\n"
    "	movq %r10, (%rdi)\n"
    "	addq $4096, %rdi\n"
    "	decq %rsi\n"
    "	jnz guest_fill\n"
    "	hlt\n"
    "guest_nest:\n"
    "	xorl %r13d, %r13d\n"
    "	xorl %r14d, %r14d\n"
    "1:	movq %r12, 0x578(%r8)\n"	/* RIP */
    "	movl $1, 0x5c(%r8)\n"		/* all of the TLB is flushed */
    "	movl $0, 0xc0(%r8)\n"		/* nothing of the VMCB is as it was */
    "	movq %r8, %rax\n"
    "	vmrun %rax\n"
    "	stgi\n"
    "	cmpq $0x81, 0x70(%r8)\n"	/* VMMCALL */
    "	jne 4f\n"
    "	cmpq %r10, 0x5f8(%r8)\n"	/* RAX */
    "	je 2f\n"
    "	incq %r13\n"
    "2:	xchgq %r10, %r11\n"
    "	incq %r14\n"
    "	movq %r14, (%r9)\n"
    "3:	pause\n"
    "	cmpq %r14, 8(%r9)\n"
    "	jne 3b\n"
    "	decq %rsi\n"
    "	jnz 1b\n"
    "	movq %r13, 16(%r9)\n"
    "	jmp 5f\n"
    "4:	movq 0x70(%r8), %rax\n"
    "	movq %rax, 32(%r9)\n"
    "5:	movq $-1, (%r9)\n"
    "	hlt\n"
    "guest_inner:\n"
    "	movq (%rdi), %rax\n"
    "	vmmcall\n"
    "guest_flip:\n"
    "	movl $3, %ecx\n"
    "1:	movq %rsi, (%rsi)\n"
    "	addq %rdx, %rsi\n"
    "	decl %ecx\n"
    "	jnz 1b\n"
    "	xorl %r14d, %r14d\n"
    "2:	incq 24(%r9)\n"
    "	pause\n"
    "	movq (%r9), %rax\n"
    "	cmpq %r14, %rax\n"
    "	je 2b\n"
    "	cmpq $-1, %rax\n"
    "	je 3f\n"
    "	movq %rax, %r14\n"
    "	movq %r10, (%rdi)\n"
    "	xchgq %r10, %r11\n"
    "	movq %r14, 8(%r9)\n"
    "	jmp 2b\n"
    "3:	hlt\n"
    "guest_end:\n"
    ".popsection\n");

static struct {
	char *ram, *hot;
	int vm, cpus[VCPUS], ram_fd, hot_fd, l2;
	struct kvm_run *runs[VCPUS];
	uint64_t place[2], hot_bytes, step, stale;
	struct {
		uint64_t at[2], count, step;
	} roam; /* what guest_roam writes */
	uint64_t watched; /* exits of another VM, during a step */
	uint64_t slowest, slots, credit;
	pthread_barrier_t rush;
	uint64_t rushes;
	volatile uint64_t rushed; /* touches that are done */
	volatile uint64_t mmio; /* exits for writes to where no slot is */
	volatile uint64_t crowds; /* how often the pages of CROWD were given */
	volatile bool crowded;	/* enough of that */
} m;

/* this program, by the linker */
extern char __executable_start, end;

static volatile uint64_t *cell(int cpu)
{
	return (volatile uint64_t *)(m.ram + CELL((uint64_t)cpu));
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void took_since(uint64_t from)
{
	uint64_t ms = now_ms() - from;

	if (ms > m.slowest)
		m.slowest = ms;
}

static void set_slot(uint32_t slot, uint64_t gpa, uint64_t bytes, char *at, uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = bytes,
		.userspace_addr = (uint64_t)(uintptr_t)at,
	};
	uint64_t from = now_ms();

	if (ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &r))
		die("KVM_SET_USER_MEMORY_REGION");
	took_since(from);
}

/* 0, or the errno that ended it */
static int run_to_halt(int cpu)
{
	for (;;) {
		if (ioctl(m.cpus[cpu], KVM_RUN, 0)) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			return errno;
		}
		if (m.runs[cpu]->exit_reason == KVM_EXIT_HLT)
			return 0;
		if (m.runs[cpu]->exit_reason != KVM_EXIT_MMIO) {
			fprintf(stderr, PROGRAM ": exit %u (suberror %u)\n", m.runs[cpu]->exit_reason,
				m.runs[cpu]->internal.suberror);
			exit(2);
		}
		__atomic_add_fetch(&m.mmio, 1, __ATOMIC_RELAXED);
	}
}

static void set_regs(int cpu, const struct kvm_regs *regs)
{
	if (ioctl(m.cpus[cpu], KVM_SET_REGS, regs))
		die("KVM_SET_REGS");
}

/* One CPU for each: what L1 publishes of a CPU is of its last vCPU there. */
static void stay_on(int cpu)
{
	cpu_set_t own;

	CPU_ZERO(&own);
	CPU_SET((size_t)cpu, &own);
	pthread_setaffinity_np(pthread_self(), sizeof(own), &own);
}

static void *roam(void *arg)
{
	int cpu = (int)(intptr_t)arg;
	struct kvm_regs regs = {
		.rip = CODE, .rflags = 2, .rsp = STACK, .rdi = m.roam.at[0], .r11 = m.roam.at[1],
		.rsi = m.roam.count, .r8 = m.roam.step, .r9 = CELL((uint64_t)cpu),
		.r10 = NEIGHBOUR + PAGE * (uint64_t)cpu,
	};

	stay_on(cpu);
	set_regs(cpu, &regs);
	errno = run_to_halt(cpu);
	if (errno)
		die("KVM_RUN");
	return NULL;
}

/* Until each vCPU has begun and ended a pass over the hot slot since now, at least `passes` of them. */
static void wait_passes(uint64_t passes)
{
	int cpu;

	for (cpu = 0; cpu < ROAMERS; cpu++) {
		uint64_t from = cell(cpu)[1];

		while (cell(cpu)[1] < from + passes + 1)
			usleep(200);
	}
}

static volatile uint64_t *hot_word(uint64_t i)
{
	return (volatile uint64_t *)(m.hot + i * m.step);
}

/* The slot is not at `place` any more: no write to there may come to its memory. */
static void expect_gone(int place)
{
	uint64_t i;

	for (i = 0; i < WRITES; i++)
		*hot_word(i) = 0;
	wait_passes(1);
	for (i = 0; i < WRITES; i++)
		m.stale += *hot_word(i) == m.place[place] + i * m.step;
}

static void punch(int fd, uint64_t at, uint64_t bytes)
{
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes))
		die("fallocate");
}

static uint64_t changes(uint64_t count)
{
	pthread_t threads[ROAMERS];
	uint64_t done;
	int cpu;

	m.roam.at[0] = m.place[0];
	m.roam.at[1] = m.place[1];
	m.roam.count = WRITES;
	m.roam.step = m.step;
	for (cpu = 0; cpu < ROAMERS; cpu++) {
		cell(cpu)[0] = 0;
		if (pthread_create(&threads[cpu], NULL, roam, (void *)(intptr_t)cpu))
			die("pthread_create");
	}
	for (done = 0; done < count; done += 5) {
		set_slot(HOT_SLOT, m.place[0], m.hot_bytes, m.hot, 0);
		wait_passes(1);
		set_slot(HOT_SLOT, m.place[0], m.hot_bytes, m.hot, KVM_MEM_LOG_DIRTY_PAGES);
		set_slot(HOT_SLOT, m.place[0], m.hot_bytes, m.hot, 0);
		wait_passes(1);
		set_slot(HOT_SLOT, m.place[1], m.hot_bytes, m.hot, 0);
		expect_gone(0);
		set_slot(HOT_SLOT, m.place[1], 0, m.hot, 0);
		expect_gone(1);
		/* its frames are somebody else's now, until the next ones */
		punch(m.hot_fd, 0, m.hot_bytes);
	}
	for (cpu = 0; cpu < ROAMERS; cpu++) {
		cell(cpu)[0] = 1;
		pthread_join(threads[cpu], NULL);
	}
	return done;
}

static int fill_at(int cpu, uint64_t gpa, uint64_t count, uint64_t value)
{
	struct kvm_regs regs = {
		.rip = CODE + (uint64_t)(guest_fill - guest_roam), .rflags = 2, .rsp = STACK,
		.rdi = gpa, .rsi = count, .r10 = value,
	};

	set_regs(cpu, &regs);
	return run_to_halt(cpu);
}

static int fill(uint64_t value)
{
	return fill_at(0, TEST_GPA + PROTECTED * PAGE, PROTECTED_PAGES, value);
}

static uint64_t wrong_pages(uint64_t value)
{
	uint64_t i, bad = 0;

	for (i = 0; i < PROTECTED_PAGES; i++)
		bad += *(volatile uint64_t *)(m.ram + TEST_GPA + (PROTECTED + i) * PAGE) != value;
	return bad;
}

static void protect(int prot)
{
	uint64_t from = now_ms();

	if (mprotect(m.ram + TEST_GPA + PROTECTED * PAGE, PROTECTED_PAGES * PAGE, prot))
		die("mprotect");
	took_since(from);
}

/* Gives the number of pages that were not as they must be. */
static uint64_t protect_step(int prot, int *refused)
{
	uint64_t bad;

	if (fill(1))
		die("KVM_RUN");
	protect(prot);
	*refused = fill(2);
	if (prot == PROT_NONE)
		protect(PROT_READ);
	bad = wrong_pages(1); /* only now this program looks at them */
	protect(PROT_READ | PROT_WRITE);
	if (fill(3))
		die("KVM_RUN");
	return bad + wrong_pages(3);
}

/* Writes to nothing but RAM that stays, so leaves the guest only when L1 wants the CPU. Gives the passes over it. */
static uint64_t busy(const sigset_t *wanted)
{
	uint64_t from = cell(1)[1];
	pthread_t thread;
	int got;

	m.roam.at[0] = m.roam.at[1] = TEST_GPA + PROTECTED * PAGE;
	m.roam.count = PROTECTED_PAGES;
	m.roam.step = PAGE;
	cell(1)[0] = 0;
	if (pthread_create(&thread, NULL, roam, (void *)(intptr_t)1))
		die("pthread_create");
	while (cell(1)[1] == from)
		usleep(200);
	printf("{\"busy\":true}\n");
	fflush(stdout);
	while (sigwait(wanted, &got))
		;
	cell(1)[0] = 1;
	pthread_join(thread, NULL);
	return cell(1)[1] - from;
}

/* Of a guest's RAM, for this program. */
static uint64_t *ram_at(uint64_t gpa)
{
	return (uint64_t *)(m.ram + gpa);
}

static uint64_t guest_code(const char *at)
{
	return CODE + (uint64_t)(at - guest_roam);
}

static void vmcb_segment(uint8_t *at, uint16_t selector, uint16_t attributes)
{
	uint32_t limit = 0xffffffff;

	memcpy(at, &selector, 2);
	memcpy(at + 2, &attributes, 2);
	memcpy(at + 4, &limit, 4);
}

/*
 * The inner guest has the outer's own tables and code: its memory is the outer's but for 2 MiB, which the upper nested
 * table leads to one of two places. Nothing of this the guest writes itself.
 */
static void nest_tables(void)
{
	uint8_t *vmcb = (uint8_t *)ram_at(NEST_VMCB), *save = vmcb + 0x400;
	uint64_t i, which, word[2] = { 0x5eed0000, 0x5eed0001 };

	memset(vmcb, 0, PAGE);
	*(uint32_t *)(vmcb + 0x0c) = 1u << 31;	/* a shutdown exits */
	*(uint32_t *)(vmcb + 0x10) = 3;		/* VMRUN, VMMCALL */
	*(uint32_t *)(vmcb + 0x58) = 1;		/* ASID */
	*(uint64_t *)(vmcb + 0x90) = 1;		/* nested paging */
	*(uint64_t *)(vmcb + 0xb0) = NEST_PML4;
	vmcb_segment(save, 16, 0xc93);
	vmcb_segment(save + 0x10, 8, 0xa9b);
	vmcb_segment(save + 0x20, 16, 0xc93);
	vmcb_segment(save + 0x30, 16, 0xc93);
	*(uint64_t *)(save + 0xd0) = 0x1500;	/* EFER: SVME, LMA, LME */
	*(uint64_t *)(save + 0x148) = 0x20;	/* CR4 */
	*(uint64_t *)(save + 0x150) = PML4;
	*(uint64_t *)(save + 0x158) = 0x80050033; /* CR0 */
	*(uint64_t *)(save + 0x160) = 0x400;	/* DR7 */
	*(uint64_t *)(save + 0x168) = 0xffff0ff0; /* DR6 */
	*(uint64_t *)(save + 0x170) = 2;	/* RFLAGS */
	*(uint64_t *)(save + 0x1d8) = STACK - 256;
	*(uint64_t *)(save + 0x268) = 0x0007040600070406; /* PAT */
	memset(ram_at(NEST_PML4), 0, PAGE);
	memset(ram_at(NEST_PDPT), 0, PAGE);
	*ram_at(NEST_PML4) = NEST_PDPT | 7;
	*ram_at(NEST_PDPT) = NEST_PD(0) | 7;
	for (which = 0; which < 2; which++) {
		for (i = 0; i < 512; i++)
			ram_at(NEST_PD(which))[i] = i << 21 | 0x87;
		ram_at(NEST_PD(which))[NEST_READ / LARGE] = NEST_FROM(which) | 0x87;
		*ram_at(NEST_FROM(which) + NEST_OFFSET) = word[which];
	}
	memset(ram_at(NEST_CELL), 0, 64);
}

/* Two vCPUs may: KVM takes both only from a vCPU that says it has SVM. */
static void allow_nesting(int cpu)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} hsave = { .head.nmsrs = 1, .entry = { .index = 0xc0010117, .data = NEST_HSAVE } };
	struct kvm_sregs s;

	if (ioctl(m.cpus[cpu], KVM_GET_SREGS, &s))
		die("KVM_GET_SREGS");
	s.efer |= 0x1000;
	if (ioctl(m.cpus[cpu], KVM_SET_SREGS, &s))
		die("KVM_SET_SREGS with EFER.SVME");
	if (ioctl(m.cpus[cpu], KVM_SET_MSRS, &hsave) != 1)
		die("KVM_SET_MSRS");
}

static void *nest_flip(void *arg)
{
	struct kvm_regs regs = {
		.rip = guest_code(guest_flip), .rflags = 2, .rsp = STACK, .rdi = NEST_PDPT, .rsi = NEST_WARM,
		.rdx = NEST_WARM_STEP, .r9 = NEST_CELL, .r10 = NEST_PD(1) | 7, .r11 = NEST_PD(0) | 7,
	};

	stay_on(1);
	set_regs(1, &regs);
	if (run_to_halt(1))
		die("KVM_RUN");
	return arg;
}

static void *nest_enter(void *arg)
{
	struct kvm_regs regs = {
		.rip = guest_code(guest_nest), .rflags = 2, .rsp = STACK, .rdi = NEST_READ + NEST_OFFSET, .rsi = NEST_ROUNDS,
		.r8 = NEST_VMCB, .r9 = NEST_CELL, .r10 = *ram_at(NEST_FROM(0) + NEST_OFFSET),
		.r11 = *ram_at(NEST_FROM(1) + NEST_OFFSET), .r12 = guest_code(guest_inner),
	};

	stay_on(0);
	set_regs(0, &regs);
	if (run_to_halt(0))
		die("KVM_RUN");
	return arg;
}

/* Gives the number of words that were not as they must be. */
static uint64_t nest(uint64_t count)
{
	volatile uint64_t *cells = ram_at(NEST_CELL);
	uint64_t i, bad = 0;
	pthread_t threads[2];

	allow_nesting(0);
	for (i = 0; i < count; i++) {
		/* with it go all of KVM's tables: those of the guest, and what it has shadowed */
		set_slot(HOT_SLOT, m.place[0], m.hot_bytes, m.hot, 0);
		set_slot(HOT_SLOT, m.place[0], 0, m.hot, 0);
		nest_tables();
		if (pthread_create(&threads[1], NULL, nest_flip, NULL))
			die("pthread_create");
		while (cells[3] < 1000)
			usleep(500);
		if (pthread_create(&threads[0], NULL, nest_enter, NULL))
			die("pthread_create");
		pthread_join(threads[0], NULL);
		pthread_join(threads[1], NULL);
		if (cells[4]) {
			fprintf(stderr, PROGRAM ": the inner guest left with %#llx\n", (unsigned long long)cells[4]);
			exit(2);
		}
		bad += cells[2];
	}
	return bad;
}

static struct htg_l2_status l2_status(void)
{
	struct htg_l2_status st = {0};
	uint64_t from = now_ms();

	if (m.l2 && ioctl(m.l2, HTG_L2_STATUS, &st))
		die("HTG_L2_STATUS");
	took_since(from);
	return st;
}

static void register_vm(uint64_t limit)
{
	struct htg_register r = { .vm_fd = m.vm, .frames_limit = limit, .name = PROGRAM };
	int fd = open("/dev/hyperturtle-guest", O_RDWR);
	uint64_t from = now_ms();

	if (fd >= 0)
		m.l2 = ioctl(fd, HTG_REGISTER, &r);
	if (fd < 0 || m.l2 < 0)
		die("HTG_REGISTER");
	close(fd);
	took_since(from);
	m.slots = l2_status().slots;
}

static void *crowd_faults(void *arg)
{
	while (!m.crowded) {
		punch(m.ram_fd, CROWD, CROWD_PAGES * PAGE);
		if (madvise(m.ram + CROWD, CROWD_PAGES * PAGE, MADV_POPULATE_WRITE))
			die("MADV_POPULATE_WRITE");
		m.crowds++;
	}
	return arg;
}

/* All of these faults are one call, which has the address space locked meanwhile. Gives the slot changes. */
static uint64_t crowd(const sigset_t *wanted)
{
	const struct timespec pause = { .tv_nsec = 10000000 };
	uint64_t done = 0, from = m.crowds;
	pthread_t thread;

	m.crowded = false;
	if (pthread_create(&thread, NULL, crowd_faults, NULL))
		die("pthread_create");
	while (m.crowds == from)
		usleep(200);
	register_vm(0);
	protect(PROT_READ); /* after this our module must look at the mappings, so wait for the thread */
	printf("{\"busy\":true}\n");
	fflush(stdout);
	do {
		protect(PROT_READ | PROT_WRITE);
		set_slot(HOT_SLOT, m.place[0], m.hot_bytes, m.hot, 0);
		set_slot(HOT_SLOT, m.place[0], 0, m.hot, 0);
		protect(PROT_READ);
		done += 2;
	} while (sigtimedwait(wanted, NULL, &pause) < 0);
	protect(PROT_READ | PROT_WRITE);
	m.crowded = true;
	pthread_join(thread, NULL);
	return done;
}

static void *rush_vcpu(void *arg)
{
	uint64_t i, first = CROWD + (uint64_t)(intptr_t)arg * RUSH_STEP * PAGE;
	int cpu = (int)(intptr_t)arg;

	/* has run before, in a page that is there */
	if (fill_at(cpu, TEST_GPA + PROTECTED * PAGE, 1, 4))
		die("KVM_RUN");
	pthread_barrier_wait(&m.rush);
	for (i = 0; i < m.rushes; i++) {
		pthread_barrier_wait(&m.rush);
		if (fill_at(cpu, first + i * VCPUS * RUSH_STEP * PAGE, 1, 5))
			die("KVM_RUN");
		__atomic_add_fetch(&m.rushed, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void rush(uint64_t times, const sigset_t *wanted)
{
	pthread_t threads[VCPUS];
	uint64_t i;
	int cpu, got;

	/* above memory.high the kernel would take it from us, and have us wait for each page of it */
	if (mlock(&__executable_start, (size_t)(&end - &__executable_start)))
		die("mlock");
	pthread_barrier_init(&m.rush, NULL, VCPUS + 1);
	m.rushed = 0;
	m.rushes = times < CROWD_PAGES / RUSH_STEP / VCPUS ? times : CROWD_PAGES / RUSH_STEP / VCPUS;
	for (cpu = 0; cpu < VCPUS; cpu++)
		if (pthread_create(&threads[cpu], NULL, rush_vcpu, (void *)(intptr_t)cpu))
			die("pthread_create");
	pthread_barrier_wait(&m.rush);
	printf("{\"busy\":true}\n");
	fflush(stdout);
	while (sigwait(wanted, &got))
		;
	for (i = 1; i <= m.rushes; i++) {
		while (l2_status().frames_credit)
			usleep(100000);
		pthread_barrier_wait(&m.rush);
		while (m.rushed < i * VCPUS) {
			uint64_t credit = l2_status().frames_credit;

			if (credit > m.credit)
				m.credit = credit;
			usleep(2000);
		}
	}
	for (cpu = 0; cpu < VCPUS; cpu++)
		pthread_join(threads[cpu], NULL);
}

/* Exits of a VM from KVM's files in debugfs. */
static uint64_t exits_of(int pid)
{
	unsigned long long n = 0;
	char path[128];
	glob_t found;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-*/exits", pid);
	if (glob(path, 0, NULL, &found))
		die(path);
	f = fopen(found.gl_pathv[0], "r");
	if (!f || fscanf(f, "%llu", &n) != 1)
		die(path);
	fclose(f);
	globfree(&found);
	return n;
}

static struct htg_info module_info(void)
{
	int fd = open("/dev/hyperturtle-guest", O_RDWR);
	uint64_t from = now_ms();
	struct htg_info info;

	if (fd < 0 || ioctl(fd, HTG_GET_INFO, &info))
		die("/dev/hyperturtle-guest");
	took_since(from);
	close(fd);
	return info;
}

/* As a balloon does it, a page at a time: gives how many holes, or how often without any. */
static uint64_t give_back(uint64_t holes, uint64_t ms, int pid)
{
	uint64_t done = 0, i, until = now_ms() + ms;

	stay_on(0);
	m.watched = exits_of(pid);
	while (holes ? done < holes : now_ms() < until) {
		if (fill(4))
			die("KVM_RUN");
		for (i = 0; holes && i < PROTECTED_PAGES; i++)
			punch(m.ram_fd, TEST_GPA + (PROTECTED + i) * PAGE, PAGE);
		done += holes ? PROTECTED_PAGES : 1;
	}
	m.watched = exits_of(pid) - m.watched;
	return done;
}

static uint64_t run_step(const char *text, const sigset_t *wanted)
{
	uint64_t bad = 0, done = 0, mmio = m.mmio, stale = m.stale, from = now_ms();
	struct htg_info before, after;
	unsigned long long count;
	int refused = 0, pid;

	m.slowest = m.watched = m.credit = 0;
	before = module_info();
	if (sscanf(text, "changes:%llu", &count) == 1) {
		done = changes(count);
	} else if (!strcmp(text, "touch")) {
		if (fill(4))
			die("KVM_RUN");
		bad = wrong_pages(4);
	} else if (!strcmp(text, "busy")) {
		done = busy(wanted);
	} else if (!strcmp(text, "register") || sscanf(text, "register:%llu", &count) == 1) {
		register_vm(strcmp(text, "register") ? count : 0);
	} else if (sscanf(text, "nest:%llu", &count) == 1) {
		bad = nest(count);
		done = count;
	} else if (sscanf(text, "rush:%llu", &count) == 1) {
		rush(count, wanted);
		done = m.rushed;
	} else if (!strcmp(text, "crowd")) {
		done = crowd(wanted);
	} else if (sscanf(text, "fills:%llu:%d", &count, &pid) == 2) {
		done = give_back(0, count, pid);
	} else if (sscanf(text, "holes:%llu:%d", &count, &pid) == 2) {
		done = give_back(count, 0, pid);
	} else if (!strcmp(text, "protect:read") || !strcmp(text, "protect:none")) {
		bad = protect_step(strcmp(text, "protect:none") ? PROT_READ : PROT_NONE, &refused);
		bad += refused != EFAULT;
	} else {
		fprintf(stderr, PROGRAM ": no step '%s'\n", text);
		exit(2);
	}
	after = module_info();
	printf("{\"step\":\"%s\",\"changes\":%llu,\"mmio\":%llu,\"stale\":%llu,\"refused\":%d,\"mismatches\":%llu,\"ms\":%llu,"
	       "\"watched\":%llu,\"graces\":%llu,\"interrupted\":%llu,\"slowest\":%llu,\"slots\":%llu,\"credit\":%llu,\"taken\":%llu,\"left_out\":%llu,\"on\":%s}\n",
	       text, (unsigned long long)done, (unsigned long long)(m.mmio - mmio),
	       (unsigned long long)(m.stale - stale), refused, (unsigned long long)bad,
	       (unsigned long long)(now_ms() - from),
	       (unsigned long long)m.watched, (unsigned long long)(after.grace_periods - before.grace_periods),
	       (unsigned long long)(after.interrupted - before.interrupted), (unsigned long long)m.slowest,
	       (unsigned long long)m.slots, (unsigned long long)m.credit, (unsigned long long)l2_status().frames_taken,
	       (unsigned long long)l2_status().left_out, l2_status().state == HT_L2_ON ? "true" : "false");
	fflush(stdout);
	return bad + m.stale;
}

static void make_machine(const char *path, bool large)
{
	int kvm = open("/dev/kvm", O_RDWR), i;
	uint64_t bytes = TEST_GPA + RAM_PAGES * PAGE;
	char hot[4096];

	if (kvm < 0)
		die("/dev/kvm");
	m.vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (m.vm < 0)
		die("KVM_CREATE_VM");
	m.hot_bytes = large ? 2 * LARGE : WRITES * PAGE;
	m.step = m.hot_bytes / WRITES;
	m.place[0] = large ? 4 * LARGE : bytes;
	m.place[1] = m.place[0] + m.hot_bytes;
	m.ram = map_ram(path, bytes);
	fill_low_memory(m.ram, guest_roam, (size_t)(guest_end - guest_roam));
	snprintf(hot, sizeof(hot), "%s.hot", path);
	m.hot = map_ram(hot, m.hot_bytes);
	m.hot_fd = open(hot, O_RDWR);
	m.ram_fd = open(path, O_RDWR);
	set_slot(0, 0, bytes, m.ram, 0);
	for (i = 0; i < VCPUS; i++) {
		m.cpus[i] = ioctl(m.vm, KVM_CREATE_VCPU, i);
		if (m.cpus[i] < 0)
			die("KVM_CREATE_VCPU");
		set_cpuid(kvm, m.cpus[i]);
		m.runs[i] = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
				 MAP_SHARED, m.cpus[i], 0);
		if (m.runs[i] == MAP_FAILED)
			die("mmap of a vCPU");
		enter_long_mode(m.cpus[i]);
	}
}

int main(int argc, char **argv)
{
	uint64_t bad = 0;
	sigset_t wanted;
	int i, got;

	if (argc < 4 || (strcmp(argv[2], "small") && strcmp(argv[2], "large"))) {
		fprintf(stderr, "usage: slot_vmm FILE small|large STEP...\n");
		return 2;
	}
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGUSR1);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	make_machine(argv[1], !strcmp(argv[2], "large"));
	printf("{\"ready\":%d,\"places\":[%llu,%llu],\"bytes\":%llu}\n", getpid(), (unsigned long long)m.place[0],
	       (unsigned long long)m.place[1], (unsigned long long)m.hot_bytes);
	fflush(stdout);
	for (i = 3; i < argc; i++) {
		while (sigwait(&wanted, &got))
			;
		bad += run_step(argv[i], &wanted);
	}
	/* anyone who looks at the VM still can */
	while (sigwait(&wanted, &got))
		;
	return bad != 0;
}
