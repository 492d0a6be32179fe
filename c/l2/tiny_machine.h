// SPDX-License-Identifier: GPL-2.0
/* What the VMMs for tests share: a machine without devices whose vCPUs begin in 64-bit mode. PROGRAM is their name. */
#ifndef TINY_MACHINE_H
#define TINY_MACHINE_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/kvm.h>

#define PAGE 4096ull
#define LARGE (2ull << 20)
/* page 0 of what steps name */
#define TEST_GPA (4ull << 20)

/* where things lie in the guest's first 64 KiB */
#define PML4 0x1000
#define PDPT 0x2000
#define PD 0x3000
#define STACK 0x8000
#define CODE 0x10000

static void die(const char *what)
{
	fprintf(stderr, PROGRAM ": %s: %s\n", what, strerror(errno));
	exit(2);
}

/*
 * A file that is named, `-` for shared anonymous memory, `:private` for private, `:memfd` for a memfd with seals: the
 * ways in which VMMs have it. At a multiple of 2 MiB: KVM uses no large pages for memory that its VMM has at odd
 * addresses.
 */
static char *map_ram(const char *path, uint64_t bytes)
{
	int fd = -1, flags = MAP_SHARED | MAP_FIXED;
	char *ram, *room;

	if (!strcmp(path, ":private")) {
		flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE;
	} else if (!strcmp(path, ":memfd")) {
		fd = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		if (fd < 0 || ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL))
			die(path);
	} else if (strcmp(path, "-")) {
		fd = open(path, O_RDWR | O_CREAT, 0600);
		if (fd < 0 || ftruncate(fd, (off_t)bytes))
			die(path);
	} else {
		flags |= MAP_ANONYMOUS;
	}
	room = mmap(NULL, bytes + LARGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		die("mmap");
	room += -(uintptr_t)room & (LARGE - 1);
	ram = mmap(room, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (ram == MAP_FAILED)
		die("mmap");
	if (fd >= 0)
		close(fd);
	return ram;
}

/* Identity mapping of 1 GiB by large pages, and the guest's code. */
static void fill_low_memory(char *ram, const char *code, size_t bytes)
{
	uint64_t *pml4 = (uint64_t *)(ram + PML4), *pdpt = (uint64_t *)(ram + PDPT), *pd = (uint64_t *)(ram + PD);
	int i;

	pml4[0] = PDPT | 3;
	pdpt[0] = PD | 3;
	for (i = 0; i < 512; i++)
		pd[i] = (uint64_t)i << 21 | 0x83;
	memcpy(ram + CODE, code, bytes);
}

static void enter_long_mode(int cpu)
{
	struct kvm_segment code = { .limit = 0xffffffff, .selector = 8, .present = 1, .type = 11, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .limit = 0xffffffff, .selector = 16, .present = 1, .type = 3, .s = 1, .db = 1, .g = 1 };
	struct kvm_sregs s;

	if (ioctl(cpu, KVM_GET_SREGS, &s))
		die("KVM_GET_SREGS");
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr3 = PML4;
	s.cr4 = 0x20;		/* PAE */
	s.cr0 = 0x80050033;	/* PG, AM, WP, NE, ET, MP, PE */
	s.efer = 0x500;		/* LME, LMA */
	if (ioctl(cpu, KVM_SET_SREGS, &s))
		die("KVM_SET_SREGS");
}

/* What the processor offers, as any VMM passes it on: without it CPUID says nothing. */
static void set_cpuid(int kvm, int cpu)
{
	enum { MOST = 256 };
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MOST * sizeof(c->entries[0]));

	if (!c)
		die("calloc");
	c->nent = MOST;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c) || ioctl(cpu, KVM_SET_CPUID2, c))
		die("CPUID");
	free(c);
}

#endif
