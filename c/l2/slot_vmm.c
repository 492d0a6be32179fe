// SPDX-License-Identifier: GPL-2.0
/*
 * A VMM that changes its guest's memory slots and the protection of its memory while the guest writes to it.
 *
 *   slot_vmm FILE small|large STEP...
 *     changes:COUNT        two vCPUs write to a hot slot, which comes, is logged, moves and goes, COUNT changes in all;
 *                          at the end it is gone
 *     protect:read|none    mprotect() of pages that the guest has written and this program has never touched
 *     touch                the guest writes 32 pages, which this program then reads
 *     busy                 a vCPU on CPU 1 writes 32 pages again and again until the next SIGUSR1; prints a line first
 *     register             registers the VM; it stays so until the end
 *     crowd                a thread has pages of RAM that nobody needs given and taken away, again and again until the next
 *                          SIGUSR1, while the VM is registered, slots come and go and protections change; prints a line first
 *     fills:MS:PID         the guest writes 32 pages again and again, on CPU 0, for so long
 *     holes:COUNT:PID      the same, and each of its pages is taken away by itself after each time
 *                          `watched` are exits of the VM of process PID meanwhile, by KVM's count
 *
 * FILE is the guest's RAM, FILE.hot that of the hot slot: in the same 2 MiB as other RAM (small), or two ranges of 2 MiB
 * of their own (large). When the VM is there, prints {"ready":...}. Each step waits for SIGUSR1 and prints one JSON line:
 * `slowest` is the longest that a slot change, registration, mprotect() or question to our module took, in milliseconds,
 * `slots` what our module said of its RAM when it was registered, `on` whether programs may act for it at the end, `stale` counts writes that reached memory which no slot had any more, `graces` and `interrupted` what our module has
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

#define VCPUS 2
#define HOT_SLOT 1
#define RAM_PAGES 64ull
#define NEIGHBOUR TEST_GPA	/* keeps a table, in the same 2 MiB as a small hot slot */
#define WRITES 8ull		/* of a pass over the hot slot */
#define PROTECTED 16ull		/* the first of the pages that only the guest writes, and how many */
#define PROTECTED_PAGES 32ull
#define CROWD (2ull << 20)	/* in RAM below TEST_GPA: pages that nobody uses */
#define CROWD_PAGES 320ull
#define CELL(cpu) (0x9000ull + (cpu) * 64)	/* in RAM: whether to stop, passes so far */

/*
 * roam: rdi and r11 the two places of the hot slot, rsi writes, r8 bytes between them, r9 cell, r10 neighbour. Each word
 * gets its own address. fill: rdi first page, rsi pages, r10 what to write.
 */
extern const char guest_roam[], guest_fill[], guest_end[];
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
	uint64_t slowest, slots;
	volatile uint64_t mmio; /* exits for writes to where no slot is */
	volatile uint64_t crowds; /* how often the pages of CROWD were given */
	volatile bool crowded;	/* enough of that */
} m;

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

	for (cpu = 0; cpu < VCPUS; cpu++) {
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
	pthread_t threads[VCPUS];
	uint64_t done;
	int cpu;

	m.roam.at[0] = m.place[0];
	m.roam.at[1] = m.place[1];
	m.roam.count = WRITES;
	m.roam.step = m.step;
	for (cpu = 0; cpu < VCPUS; cpu++) {
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
	for (cpu = 0; cpu < VCPUS; cpu++) {
		cell(cpu)[0] = 1;
		pthread_join(threads[cpu], NULL);
	}
	return done;
}

static int fill(uint64_t value)
{
	struct kvm_regs regs = {
		.rip = CODE + (uint64_t)(guest_fill - guest_roam), .rflags = 2, .rsp = STACK,
		.rdi = TEST_GPA + PROTECTED * PAGE, .rsi = PROTECTED_PAGES, .r10 = value,
	};

	set_regs(0, &regs);
	return run_to_halt(0);
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

static struct htg_l2_status l2_status(void)
{
	struct htg_l2_status st = {0};
	uint64_t from = now_ms();

	if (m.l2 && ioctl(m.l2, HTG_L2_STATUS, &st))
		die("HTG_L2_STATUS");
	took_since(from);
	return st;
}

static void register_vm(void)
{
	struct htg_register r = { .vm_fd = m.vm, .name = PROGRAM };
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
	register_vm();
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

	m.slowest = m.watched = 0;
	before = module_info();
	if (sscanf(text, "changes:%llu", &count) == 1) {
		done = changes(count);
	} else if (!strcmp(text, "touch")) {
		if (fill(4))
			die("KVM_RUN");
		bad = wrong_pages(4);
	} else if (!strcmp(text, "busy")) {
		done = busy(wanted);
	} else if (!strcmp(text, "register")) {
		register_vm();
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
	       "\"watched\":%llu,\"graces\":%llu,\"interrupted\":%llu,\"slowest\":%llu,\"slots\":%llu,\"on\":%s}\n",
	       text, (unsigned long long)done, (unsigned long long)(m.mmio - mmio),
	       (unsigned long long)(m.stale - stale), refused, (unsigned long long)bad,
	       (unsigned long long)(now_ms() - from),
	       (unsigned long long)m.watched, (unsigned long long)(after.grace_periods - before.grace_periods),
	       (unsigned long long)(after.interrupted - before.interrupted), (unsigned long long)m.slowest,
	       (unsigned long long)m.slots, l2_status().state == HT_L2_ON ? "true" : "false");
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
