/* SPDX-License-Identifier: GPL-2.0 */
/* The VM's arena as programs see it: a map of one value, of which every access is checked against its size. */
#ifndef HYPERTURTLE_ARENA_MAP_H
#define HYPERTURTLE_ARENA_MAP_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "hyperturtle/arena.h"

#define READ(x) (*(volatile typeof(x) *)&(x))

/* Set before loading: size of the arena. The verifier takes .rodata for constants. */
const volatile __u64 arena_bytes = HT_ARENA_MIN_BYTES;

struct arena_value {
	__u8 bytes[HT_ARENA_MIN_BYTES];
};

/* Replaced by the VM's own arena when loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct arena_value);
} arena SEC(".maps");

/*
 * n bytes at off in the arena, or NULL. The mask shows the verifier that atomics are aligned; the barriers keep
 * clang from proving anything away that the verifier cannot.
 */
static __always_inline void *at(void *base, __u64 off, __u64 n)
{
	asm volatile("" : "+r"(off));
	off &= ~7ull;
	asm volatile("" : "+r"(off));
	if (off > arena_bytes - n)
		return 0;
	asm volatile("" : "+r"(off)); /* keep the addition behind the check */
	return base + off;
}

#endif
