/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The smallest guest that is of use for testing a hypervisor's memory: started by PVH in 32-bit protected mode without
 * paging, it writes a word into every page from 1.5 MiB to the end of its memory, reads all of them back, and
 * tells by the debug exit port. No kernel, no timer, no interrupts: it lives for a fraction of a second.
 *
 * Exit status of QEMU with `-device isa-debug-exit,iobase=0xf4`: 33 all pages right, 35 a page was wrong.
 * End of memory: the last RAM range below 4 GiB in the memory map of hvm_start_info (version 1), without the
 * last 18 MiB, where firmware (SeaBIOS) worked and leaves its tables.
 * Build: gcc -m32 -nostdlib -static -no-pie, see src/lab/build.ts.
 */
#define FIRST_PAGE 0x180000
#define PAGE 0x1000
#define EXIT_PORT 0xf4
#define MAGIC 0x5eed0001
#define FIRMWARE_BYTES 0x1200000
#define START_INFO_MEMMAP 40
#define START_INFO_ENTRIES 48
#define ENTRY_BYTES 24
#define TYPE_RAM 1

	.section .note.pvh, "a", @note
	.long 4, 4, 18			/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start

	.text
	.code32
	.globl start
start:
	/* ebx: hvm_start_info */
	movl START_INFO_MEMMAP(%ebx), %esi
	movl START_INFO_ENTRIES(%ebx), %ecx
	xorl %edi, %edi
next_range:
	jecxz ranges_done
	cmpl $TYPE_RAM, 16(%esi)
	jne skip_range
	cmpl $0, 4(%esi)		/* begins above 4 GiB */
	jne skip_range
	movl (%esi), %eax
	addl 8(%esi), %eax
	cmpl %edi, %eax
	jbe skip_range
	movl %eax, %edi
skip_range:
	addl $ENTRY_BYTES, %esi
	decl %ecx
	jmp next_range
ranges_done:
	andl $~(PAGE - 1), %edi
	subl $FIRMWARE_BYTES, %edi

	movl $FIRST_PAGE, %eax
write_page:
	cmpl %edi, %eax
	jae written
	/* a page that nobody touched must be zero */
	cmpl $0, 8(%eax)
	jne wrong
	movl %eax, %edx
	xorl $MAGIC, %edx
	movl %edx, (%eax)
	movl %edx, PAGE - 4(%eax)
	addl $PAGE, %eax
	jmp write_page
written:
	movl $FIRST_PAGE, %eax
check_page:
	cmpl %edi, %eax
	jae right
	movl %eax, %edx
	xorl $MAGIC, %edx
	cmpl %edx, (%eax)
	jne wrong
	cmpl %edx, PAGE - 4(%eax)
	jne wrong
	addl $PAGE, %eax
	jmp check_page
right:
	movb $16, %al
	jmp end
wrong:
	movb $17, %al
end:
	outb %al, $EXIT_PORT
	hlt
	jmp end

	.section .note.GNU-stack, "", @progbits
