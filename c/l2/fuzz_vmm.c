// SPDX-License-Identifier: GPL-2.0
/*
 * Two small VMMs for `hyperturtle fuzz`, without devices and kernel as tiny_vmm.
 *
 *   fuzz_vmm wild STATUS PAGES SEED
 *     The nested guest of a hostile L1: touches PAGES pages in random order forever and executes what exits. Whatever
 *     happens to it, it is set up again. Memory slots are added, moved, logged and deleted meanwhile (SIGUSR2: no more;
 *     SIGUSR1: again). STATUS is a file with one JSON line of counters, about every second.
 *
 *   fuzz_vmm watch FILE PAGES
 *     A nested guest that must not notice anything. FILE (of turtlefs) is its RAM. Over and over its pages are taken
 *     away, the guest touches each of them once, the times that took are noted, and every byte of every page is
 *     checked; as many pages again are written once and only checked, from both sides. At SIGUSR1 prints one JSON line
 *     of all since the last one, with the times as [nanoseconds, how many].
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
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <linux/falloc.h>
#include <linux/kvm.h>

#define PAGE 4096ull
#define TEST_GPA (2ull << 20)
#define MAX_PAGES 16384ull
/* what the wild guest keeps in memory, since its registers may be anything after an exit */
#define G_RANDOM 0x7000
#define G_MASK 0x7008
#define PML4 0x1000
#define PDPT 0x2000
#define PD 0x3000
#define STACK 0x8000
#define CODE 0x10000
#define DELTAS 0x20000		/* of the watched guest: u32 for each page */
#define EXTRA_GPA (64ull << 20)
#define EXTRA_SLOTS 4
#define EXTRA_BYTES (4ull << 20)

extern const char guest_wild[], guest_touch[], guest_check[], guest_end[];
asm(".pushsection .rodata\n"
    "guest_wild:\n"
    "	movq 0x7000, %r10\n"		/* xorshift64 */
    "	movq %r10, %rax\n"
    "	shlq $13, %rax\n"
    "	xorq %rax, %r10\n"
    "	movq %r10, %rax\n"
    "	shrq $7, %rax\n"
    "	xorq %rax, %r10\n"
    "	movq %r10, %rax\n"
    "	shlq $17, %rax\n"
    "	xorq %rax, %r10\n"
    "	movq %r10, 0x7000\n"
    "	movq %r10, %rbx\n"
    "	shrq $20, %rbx\n"
    "	andq 0x7008, %rbx\n"
    "	shlq $12, %rbx\n"
    "	addq $0x200000, %rbx\n"
    "	btq $11, %r10\n"
    "	jc 1f\n"
    "	movq %r10, 8(%rbx)\n"
    "1:	movq (%rbx), %rcx\n"
    "	movq %r10, %rax\n"
    "	shrq $56, %rax\n"
    "	cmpl $6, %eax\n"
    "	ja guest_wild\n"
    "	je 6f\n"
    "	cmpl $1, %eax\n"
    "	jb 2f\n"
    "	je 3f\n"
    "	cmpl $3, %eax\n"
    "	jb 4f\n"
    "	je 5f\n"
    "	cmpl $5, %eax\n"
    "	jb 7f\n"
    "	hlt\n"
    "	jmp guest_wild\n"
    "2:	movl %r10d, %eax\n"
    "	andl $0x8000001f, %eax\n"
    "	xorl %ecx, %ecx\n"
    "	cpuid\n"
    "	jmp guest_wild\n"
    "3:	movl $0xc0000080, %ecx\n"
    "	rdmsr\n"
    "	jmp guest_wild\n"
    "4:	inb $0x80, %al\n"
    "	jmp guest_wild\n"
    "5:	outb %al, $0x80\n"
    "	jmp guest_wild\n"
    "6:	movq %r10, %rbx\n"		/* memory that comes and goes */
    "	andq $0xfff000, %rbx\n"
    "	addq $0x4000000, %rbx\n"
    "	movq %r10, (%rbx)\n"
    "	jmp guest_wild\n"
    "7:	btq $12, %r10\n"
    "	jc 8f\n"
    "	vmmcall\n"
    "	jmp guest_wild\n"
    "8:	pause\n"
    "	jmp guest_wild\n"
    /* rdi first page, rsi how many, r8 step in pages, r9 word of page 0; r11 where cycles go. r12: wrong pages */
    "guest_touch:\n"
    "	xorl %r13d, %r13d\n"
    "	movq %rsi, %rcx\n"
    "1:	movq %r13, %rbx\n"
    "	shlq $12, %rbx\n"
    "	addq %rdi, %rbx\n"
    "	leaq (%r9,%r13), %r10\n"
    "	lfence\n"
    "	rdtsc\n"
    "	movl %eax, %r14d\n"
    "	movq %r10, (%rbx)\n"
    "	lfence\n"
    "	rdtsc\n"
    "	subl %r14d, %eax\n"
    "	movl %eax, (%r11)\n"
    "	addq $4, %r11\n"
    "	movq %r10, 4088(%rbx)\n"
    "	addq %r8, %r13\n"
    "	cmpq %rsi, %r13\n"
    "	jb 2f\n"
    "	subq %rsi, %r13\n"
    "2:	decq %rcx\n"
    "	jnz 1b\n"
    "	hlt\n"
    "guest_check:\n"
    "	xorl %r12d, %r12d\n"
    "1:	cmpq %r9, (%rdi)\n"
    "	jne 2f\n"
    "	cmpq %r9, 4088(%rdi)\n"
    "	je 3f\n"
    "2:	incq %r12\n"
    "3:	incq %r9\n"
    "	addq $4096, %rdi\n"
    "	decq %rsi\n"
    "	jnz 1b\n"
    "	hlt\n"
    "guest_end:\n"
    ".popsection\n");

static int kvm;
static struct vm {
	int vm, cpu;
	char *ram;
	struct kvm_run *run;
	size_t run_bytes;
} vm = { .vm = -1, .cpu = -1 };

static void die(const char *what)
{
	fprintf(stderr, "fuzz_vmm: %s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static char *map_ram(int fd, uint64_t bytes)
{
	char *ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	if (ram == MAP_FAILED)
		die("mmap");
	return ram;
}

/* Identity mapping of 1 GiB by large pages, and the guest's code. */
static void fill_low_memory(char *ram)
{
	uint64_t *pml4 = (uint64_t *)(ram + PML4), *pdpt = (uint64_t *)(ram + PDPT), *pd = (uint64_t *)(ram + PD);
	int i;

	pml4[0] = PDPT | 3;
	pdpt[0] = PD | 3;
	for (i = 0; i < 512; i++)
		pd[i] = (uint64_t)i << 21 | 0x83;
	memcpy(ram + CODE, guest_wild, (size_t)(guest_end - guest_wild));
}

/* 0, or -1 where KVM has had enough of this vCPU. */
static int start_at(const char *code, struct kvm_regs regs)
{
	struct kvm_segment cs = { .limit = 0xffffffff, .selector = 8, .present = 1, .type = 11, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment ds = { .limit = 0xffffffff, .selector = 16, .present = 1, .type = 3, .s = 1, .db = 1, .g = 1 };
	struct kvm_sregs s;

	if (ioctl(vm.cpu, KVM_GET_SREGS, &s))
		return -1;
	s.cs = cs;
	s.ds = s.es = s.fs = s.gs = s.ss = ds;
	s.cr3 = PML4;
	s.cr4 = 0x20;		/* PAE */
	s.cr0 = 0x80050033;	/* PG, AM, WP, NE, ET, MP, PE */
	s.efer = 0x500;		/* LME, LMA */
	regs.rip = CODE + (uint64_t)(code - guest_wild);
	regs.rflags = 2;
	regs.rsp = STACK;
	return ioctl(vm.cpu, KVM_SET_SREGS, &s) || ioctl(vm.cpu, KVM_SET_REGS, &regs) ? -1 : 0;
}

static int set_slot(uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t bytes, char *memory)
{
	struct kvm_userspace_memory_region r = { .slot = slot, .flags = flags, .guest_phys_addr = gpa,
						 .memory_size = bytes, .userspace_addr = (uint64_t)(uintptr_t)memory };

	return ioctl(vm.vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static void make_vm(char *ram, uint64_t bytes)
{
	enum { MOST = 256 };
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MOST * sizeof(c->entries[0]));

	vm.ram = ram;
	vm.vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm.vm < 0)
		die("KVM_CREATE_VM");
	if (set_slot(0, 0, 0, bytes, ram))
		die("KVM_SET_USER_MEMORY_REGION");
	vm.cpu = ioctl(vm.vm, KVM_CREATE_VCPU, 0);
	if (vm.cpu < 0)
		die("KVM_CREATE_VCPU");
	if (!c)
		die("calloc");
	c->nent = MOST;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c) || ioctl(vm.cpu, KVM_SET_CPUID2, c))
		die("CPUID");
	free(c);
	vm.run_bytes = (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	vm.run = mmap(NULL, vm.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm.cpu, 0);
	if (vm.run == MAP_FAILED)
		die("mmap of the vCPU");
}

static void end_vm(void)
{
	munmap(vm.run, vm.run_bytes);
	close(vm.cpu);
	close(vm.vm);
}

/* --- wild --- */

static volatile sig_atomic_t slots_wanted = 1;

static void on_signal(int number)
{
	if (number == SIGUSR1 || number == SIGUSR2)
		slots_wanted = number == SIGUSR1;
}

/*
 * Another size or address than before: added, moved, deleted, or refused. Between two runs of the vCPU: what the module
 * has overwritten for L2's time is put back only when the vCPU's thread gets to it, and KVM would walk it before.
 */
static int change_slot(char *memory, uint64_t r)
{
	return !set_slot(1 + (r & 3), r >> 8 & 3, EXTRA_GPA + (r >> 16 & 15) * EXTRA_BYTES / 4,
			 r >> 24 & 1 ? EXTRA_BYTES : 0, memory + (r & 3) * EXTRA_BYTES);
}

static _Noreturn void run_wild(const char *status, uint64_t pages, uint64_t seed)
{
	struct itimerspec second = { { 1, 0 }, { 1, 0 } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	uint64_t exits = 0, halts = 0, restarts = 0, vms = 1, bytes = TEST_GPA + pages * PAGE, last = 0, seen = 0;
	struct kvm_regs regs = { 0 };
	unsigned int still = 0, failures = 0;
	char *ram = map_ram(-1, bytes), *extra = map_ram(-1, EXTRA_SLOTS * EXTRA_BYTES), line[256];
	uint64_t slot_seed = seed * 0x9e3779b97f4a7c15ull | 1, slot_changes = 0;
	timer_t timer;
	int out = open(status, O_WRONLY | O_CREAT, 0600);

	if (out < 0)
		die(status);
	make_vm(ram, bytes);
	fill_low_memory(ram);
	*(uint64_t *)(ram + G_RANDOM) = seed | 1;
	*(uint64_t *)(ram + G_MASK) = pages - 1;
	if (start_at(guest_wild, regs) || timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &second, NULL))
		die("start");
	for (;;) {
		int ret = ioctl(vm.cpu, KVM_RUN, 0), why = ret ? -errno : (int)vm.run->exit_reason;
		uint64_t now = now_ns();

		exits++;
		if (slots_wanted && !(exits & 7))
			slot_changes += (uint64_t)change_slot(extra, next_random(&slot_seed));
		if (now - last > 1000000000ull) {
			int n = snprintf(line, sizeof(line),
					 "{\"exits\":%-12llu,\"halts\":%-12llu,\"restarts\":%-12llu,\"vms\":%-12llu,\"slots\":%-12llu}\n",
					 (unsigned long long)exits, (unsigned long long)halts, (unsigned long long)restarts,
					 (unsigned long long)vms, (unsigned long long)slot_changes);

			if (pwrite(out, line, (size_t)n, 0) != n)
				die(status);
			still = *(volatile uint64_t *)(ram + G_RANDOM) == seen ? still + 1 : 0;
			seen = *(volatile uint64_t *)(ram + G_RANDOM);
			last = now;
		}
		if (why == KVM_EXIT_HLT)
			halts++;
		if (still < 3 && (why == KVM_EXIT_HLT || why == KVM_EXIT_IO || why == -EINTR)) {
			failures = 0;
			continue;
		}
		if (still < 3 && why == KVM_EXIT_MMIO && ++failures < 1000)
			continue;
		/* it has crashed, or runs in circles */
		still = 0;
		restarts++;
		if (++failures > 3 && failures != 1001) {
			end_vm();
			make_vm(ram, bytes);
			vms++;
			failures = 0;
		}
		fill_low_memory(ram);
		*(uint64_t *)(ram + G_RANDOM) = next_random(&seed) | 1;
		*(uint64_t *)(ram + G_MASK) = pages - 1;
		if (start_at(guest_wild, regs))
			failures = 1000;
	}
}

/* --- watch --- */

#define BUCKETS (40 << 5)
static uint64_t times[BUCKETS];	/* of cycles: five bits of each power of two */

static unsigned int bucket_of(uint32_t cycles)
{
	unsigned int power = cycles < 32 ? 0 : 26 - (unsigned int)__builtin_clz(cycles);

	return power << 5 | (power ? cycles >> (power - 1) & 31 : cycles);
}

static double cycles_of(unsigned int bucket)
{
	unsigned int power = bucket >> 5;

	return power ? (double)(32 + (bucket & 31)) * (double)(1ull << (power - 1)) : bucket;
}

static double cycles_per_ns(void)
{
	uint64_t t0 = now_ns(), c0 = __builtin_ia32_rdtsc();

	usleep(300000);
	return (double)(__builtin_ia32_rdtsc() - c0) / (double)(now_ns() - t0);
}

static uint64_t run_guest(const char *code, uint64_t first, uint64_t count, uint64_t word)
{
	struct kvm_regs regs = { .rdi = TEST_GPA + first * PAGE, .rsi = count, .r8 = count * 633 / 1024 | 1,
				 .r9 = word, .r11 = DELTAS };

	if (start_at(code, regs))
		die("start of the vCPU");
	while (ioctl(vm.cpu, KVM_RUN, 0))
		if (errno != EINTR)
			die("KVM_RUN");
	if (vm.run->exit_reason != KVM_EXIT_HLT) {
		fprintf(stderr, "fuzz_vmm: exit %u instead of HLT\n", vm.run->exit_reason);
		exit(2);
	}
	if (ioctl(vm.cpu, KVM_GET_REGS, &regs))
		die("KVM_GET_REGS");
	return regs.r12;
}

/* Every byte, as the VMM sees it. */
static uint64_t wrong_pages(uint64_t first, uint64_t count, uint64_t word)
{
	uint64_t i, k, bad = 0, other;

	for (i = 0; i < count; i++) {
		const uint64_t *page = (const uint64_t *)(vm.ram + TEST_GPA + (first + i) * PAGE);

		other = (page[0] ^ (word + i)) | (page[511] ^ (word + i));
		for (k = 1; k < 511; k++)
			other |= page[k];
		bad += other != 0;
	}
	return bad;
}

static volatile sig_atomic_t report_wanted;

static void on_report(int number)
{
	(void)number;
	report_wanted = 1;
}

static _Noreturn void run_watch(const char *path, uint64_t pages)
{
	uint64_t bytes = TEST_GPA + 2 * pages * PAGE, round, checked = 0, bad = 0, faults = 0, i, held = 0x4e1d000000000000ull;
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	double rate = cycles_per_ns();

	if (fd < 0 || ftruncate(fd, (off_t)bytes))
		die(path);
	make_vm(map_ram(fd, bytes), bytes);
	fill_low_memory(vm.ram);
	run_guest(guest_touch, pages, pages, held);
	printf("{\"ready\":%d}\n", getpid());
	fflush(stdout);
	for (round = 1;; round++) {
		uint64_t word = round << 32;

		if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)TEST_GPA, (off_t)(pages * PAGE)))
			die("fallocate");
		run_guest(guest_touch, 0, pages, word);
		for (i = 0; i < pages; i++)
			times[bucket_of(((uint32_t *)(vm.ram + DELTAS))[i])]++;
		bad += run_guest(guest_check, 0, pages, word) + run_guest(guest_check, pages, pages, held);
		bad += wrong_pages(0, pages, word) + wrong_pages(pages, pages, held);
		checked += 4 * pages;
		faults += pages;
		if (report_wanted) {
			const char *comma = "";

			report_wanted = 0;
			printf("{\"rounds\":%llu,\"checked\":%llu,\"mismatches\":%llu,\"faults\":%llu,\"times\":[",
			       (unsigned long long)round, (unsigned long long)checked, (unsigned long long)bad,
			       (unsigned long long)faults);
			for (i = 0; i < BUCKETS; i++) {
				if (times[i]) {
					printf("%s[%.0f,%llu]", comma, cycles_of((unsigned int)i) / rate, (unsigned long long)times[i]);
					comma = ",";
				}
			}
			printf("]}\n");
			fflush(stdout);
			memset(times, 0, sizeof(times));
			checked = bad = faults = 0;
		}
		usleep(50000);
	}
}

int main(int argc, char **argv)
{
	struct sigaction wild = { .sa_handler = on_signal }, watch = { .sa_handler = on_report };
	uint64_t pages = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;

	if (argc < 4 || !pages || pages > MAX_PAGES || (pages & (pages - 1))) {
		fprintf(stderr, "usage: fuzz_vmm wild STATUS PAGES SEED | watch FILE PAGES; PAGES is a power of two\n");
		return 2;
	}
	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		die("/dev/kvm");
	if (!strcmp(argv[1], "wild") && argc == 5) {
		sigaction(SIGUSR1, &wild, NULL);
		sigaction(SIGUSR2, &wild, NULL);
		sigaction(SIGALRM, &wild, NULL);
		run_wild(argv[2], pages, strtoull(argv[4], NULL, 10));
	}
	sigaction(SIGUSR1, &watch, NULL);
	run_watch(argv[2], pages);
}
