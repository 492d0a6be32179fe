/* SPDX-License-Identifier: GPL-2.0 */
/* Fixed-size types for headers that the modules, the eBPF programs and (by test) TypeScript share. */
#ifndef HYPERTURTLE_TYPES_H
#define HYPERTURTLE_TYPES_H

#include <linux/types.h>

#ifdef __bpf__
#define HT_STATIC_ASSERT(e, m) _Static_assert(e, m)
#elif defined(__KERNEL__)
#include <linux/build_bug.h>
#define HT_STATIC_ASSERT(e, m) static_assert(e, m)
#else
#define HT_STATIC_ASSERT(e, m) _Static_assert(e, m)
#endif

#define HT_PAGE_SHIFT 12
#define HT_PAGE_SIZE 4096ull
/* bits 51..12 of a page table entry, x86-64 four and five level, NPT and EPT */
#define HT_PFN_MASK 0x000ffffffffff000ull

#endif
