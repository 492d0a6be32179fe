// SPDX-License-Identifier: GPL-2.0
/*
 * A guest that does nothing but exit: CPUID, RDMSR, WRMSR, port I/O, VMMCALL, HLT and PAUSE in loops, with the time that
 * they took by its TSC, and all answers in words. Started by PVH in 32-bit protected mode without paging; no kernel, no
 * timer, no interrupts, so that whatever exits is what was asked for. Its command line is a list of steps, each OP or
 * OP:A:B:..., numbers in hexadecimal:
 *
 *   dump             every leaf and subleaf of CPUID with its answer
 *   cpuid:LEAF:SUB:N loop, then the last answer; "changed" when one was another
 *   rdmsr:MSR:N      loop, then the last answer; "gp" when it faults
 *   wrmsr:MSR:LO:HI  once                               in:PORT:N      loop of byte reads
 *   call:AX:BX:CX:DX:N VMMCALL or VMCALL in a loop      hlt:N pause:N  loops
 *   work:0|1         never ends, in function work_0 or work_1
 *   osxsave:0|1      CR4.OSXSAVE, then CPUID 1 and 0xd  xcr0:LO        XSETBV, then CPUID 0xd; where there is XSAVE
 *
 * Output: lines on COM1, in one string instruction each. Ends by the debug exit port with status 33.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define COM1 0x3f8
#define EXIT_PORT 0xf4
#define START_INFO_CMDLINE 24

__asm__(
	".section .note.pvh, \"a\", @note\n"
	".long 4, 4, 18\n"
	".asciz \"Xen\"\n"
	".long start\n"
	".text\n"
	".globl start\n"
	"start:\n"
	"	movl $stack_top, %esp\n"
	"	pushl %ebx\n"
	"	call guest_main\n"
	"1:	hlt\n"
	"	jmp 1b\n"
	/* #GP: the faulting instructions here (RDMSR, WRMSR) are two bytes long */
	".globl gp_entry\n"
	"gp_entry:\n"
	"	addl $4, %esp\n"
	"	addl $2, (%esp)\n"
	"	movl $1, faulted\n"
	"	iret\n"
	".bss\n"
	".balign 16\n"
	"	.skip 8192\n"
	"stack_top:\n"
	".text\n");

void gp_entry(void);
volatile u32 faulted;

static char line[512];
static u32 used;

static void flush(void)
{
	const char *from = line;
	u32 n = used;

	__asm__ volatile("rep outsb" : "+S"(from), "+c"(n) : "d"(COM1) : "memory");
	used = 0;
}

static void text(const char *s)
{
	while (*s && used < sizeof(line) - 1)
		line[used++] = *s++;
}

static void number(u32 n)
{
	text(" ");
	for (int shift = 28; shift >= 0; shift -= 4)
		line[used++] = "0123456789abcdef"[n >> shift & 15];
}

static void end(void)
{
	text("\n");
	flush();
}

static u64 tsc(void)
{
	u32 lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

static void cpuid(u32 leaf, u32 sub, u32 r[4])
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

static u32 rdmsr(u32 msr, u32 *lo, u32 *hi)
{
	faulted = 0;
	__asm__ volatile("rdmsr" : "=a"(*lo), "=d"(*hi) : "c"(msr), "a"(0), "d"(0) : "memory");
	return faulted;
}

/* Asked twice: anyone who remembers answers has to remember this one by then. */
static void say_cpuid(u32 leaf, u32 sub)
{
	u32 r[4];

	cpuid(leaf, sub, r);
	cpuid(leaf, sub, r);
	text("leaf");
	number(leaf);
	number(sub);
	for (int i = 0; i < 4; i++)
		number(r[i]);
	end();
}

static void dump_range(u32 first, u32 subs)
{
	u32 r[4], last;

	cpuid(first, 0, r);
	last = r[0] >= first && r[0] - first < 0x40 ? r[0] : first;
	/* one more: out of range has an answer too */
	for (u32 leaf = first; leaf <= last + 1; leaf++)
		for (u32 sub = 0; sub < (leaf == 0xd ? 2 * subs : subs); sub++)
			say_cpuid(leaf, sub);
}

static void times(u64 begin, u32 n)
{
	u64 t = tsc() - begin;

	text(" n");
	number(n);
	text(" ticks");
	number(t >> 32);
	number(t);
}

static u32 hex(const char **s)
{
	u32 n = 0;

	if (**s == ':')
		++*s;
	for (;; ++*s) {
		char c = **s;

		if (c >= '0' && c <= '9')
			n = n << 4 | (u32)(c - '0');
		else if (c >= 'a' && c <= 'f')
			n = n << 4 | (u32)(c - 'a' + 10);
		else
			return n;
	}
}

/* The rest of s behind word, or 0 */
static const char *after(const char *s, const char *word)
{
	while (*word)
		if (*s++ != *word++)
			return 0;
	return s;
}

static void call_loop(u32 a, u32 b, u32 c, u32 d, u32 n)
{
	u32 r[4], x = a, y = b, z = c, w = d;
	u64 t;

	cpuid(0, 0, r);
	t = tsc();
	for (u32 i = 0; i < n; i++) {
		x = a, y = b, z = c, w = d;
		if (r[2] == 0x6c65746e) /* ...ntel */
			__asm__ volatile("vmcall" : "+a"(x), "+b"(y), "+c"(z), "+d"(w) : : "memory");
		else
			__asm__ volatile("vmmcall" : "+a"(x), "+b"(y), "+c"(z), "+d"(w) : : "memory");
	}
	text("call");
	number(x);
	number(y);
	number(z);
	number(w);
	times(t, n);
	end();
}

static u32 have_xsave(void)
{
	u32 r[4];

	cpuid(1, 0, r);
	if (r[2] & 1u << 26)
		return 1;
	text("no xsave");
	end();
	return 0;
}

/* What a profiler is to tell apart: no exits, no calls. */
__attribute__((noinline)) void work_0(void)
{
	for (volatile u32 n = 0;; n++)
		;
}

__attribute__((noinline)) void work_1(void)
{
	for (volatile u32 n = 0;; n += 3)
		;
}

static void step(const char *s)
{
	const char *p;
	u32 a, b = 0, c = 0, d = 0, n, i, r[4];
	u64 t;

	if ((p = after(s, "dump"))) {
		dump_range(0, 4);
		dump_range(0x40000000, 1);
		dump_range(0x80000000, 2);
		say_cpuid(0x12345678, 0);
	} else if ((p = after(s, "cpuid"))) {
		u32 first[4];

		a = hex(&p), b = hex(&p), n = hex(&p);
		cpuid(a, b, first);
		t = tsc();
		for (i = 0; i < n; i++) {
			cpuid(a, b, r);
			d |= (r[0] ^ first[0]) | (r[1] ^ first[1]) | (r[2] ^ first[2]) | (r[3] ^ first[3]);
		}
		text(d ? "cpuid changed" : "cpuid");
		times(t, n);
		end();
		say_cpuid(a, b);
	} else if ((p = after(s, "rdmsr"))) {
		a = hex(&p), n = hex(&p);
		t = tsc();
		for (i = 0; i < n; i++)
			d |= rdmsr(a, &b, &c);
		text("rdmsr");
		times(t, n);
		end();
		text("msr");
		number(a);
		if (d)
			text(" gp");
		else
			number(c), number(b);
		end();
	} else if ((p = after(s, "wrmsr"))) {
		a = hex(&p), b = hex(&p), c = hex(&p);
		faulted = 0;
		__asm__ volatile("wrmsr" : : "c"(a), "a"(b), "d"(c) : "memory");
		text(faulted ? "wrmsr gp" : "wrmsr ok");
		end();
	} else if ((p = after(s, "in"))) {
		a = hex(&p), n = hex(&p);
		t = tsc();
		for (i = 0, b = 0; i < n; i++)
			__asm__ volatile("inb %%dx, %%al" : "=a"(b) : "d"(a), "a"(0));
		text("in");
		number(b & 0xff);
		times(t, n);
		end();
	} else if ((p = after(s, "call"))) {
		a = hex(&p), b = hex(&p), c = hex(&p), d = hex(&p), n = hex(&p);
		call_loop(a, b, c, d, n);
	} else if ((p = after(s, "hlt"))) {
		n = hex(&p);
		t = tsc();
		for (i = 0; i < n; i++)
			__asm__ volatile("hlt");
		text("hlt");
		times(t, n);
		end();
	} else if ((p = after(s, "pause"))) {
		n = hex(&p);
		t = tsc();
		for (i = 0; i < n; i++)
			__asm__ volatile("pause");
		text("pause");
		times(t, n);
		end();
	} else if ((p = after(s, "work"))) {
		if (hex(&p))
			work_1();
		else
			work_0();
	} else if ((p = after(s, "osxsave"))) {
		a = hex(&p);
		if (!have_xsave())
			return;
		__asm__ volatile("mov %%cr4, %0" : "=r"(b));
		b = a ? b | 1u << 18 : b & ~(1u << 18);
		__asm__ volatile("mov %0, %%cr4" : : "r"(b));
		say_cpuid(1, 0);
		say_cpuid(0xd, 0);
	} else if ((p = after(s, "xcr0"))) {
		a = hex(&p);
		if (!have_xsave())
			return;
		__asm__ volatile("xsetbv" : : "a"(a), "d"(0), "c"(0));
		say_cpuid(0xd, 0);
		say_cpuid(0xd, 1);
	} else {
		text("unknown step");
		end();
	}
}

static u64 gdt[3] = { 0, 0x00cf9b000000ffffull, 0x00cf93000000ffffull };
static u64 idt[14];

static void tables(void)
{
	struct { unsigned short size; u32 at; } __attribute__((packed)) g = { sizeof(gdt) - 1, (u32)gdt },
									i = { sizeof(idt) - 1, (u32)idt };
	u32 at = (u32)gp_entry;

	idt[13] = (u64)(at >> 16) << 48 | 0x8e00ull << 32 | 8ull << 16 | (at & 0xffff);
	__asm__ volatile(
		"lgdt %0\n"
		"lidt %1\n"
		"ljmp $8, $1f\n"
		"1:	movl $16, %%eax\n"
		"	movl %%eax, %%ds\n"
		"	movl %%eax, %%es\n"
		"	movl %%eax, %%ss\n"
		: : "m"(g), "m"(i) : "eax", "memory");
}

void guest_main(const u8 *info)
{
	const char *s = *(const char *const *)(info + START_INFO_CMDLINE);

	tables();
	while (*s) {
		while (*s == ' ')
			s++;
		if (!*s)
			break;
		step(s);
		while (*s && *s != ' ')
			s++;
	}
	text("end");
	end();
	__asm__ volatile("outb %%al, %%dx" : : "a"(16), "d"(EXIT_PORT));
}
