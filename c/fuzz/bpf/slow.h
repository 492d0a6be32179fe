/* SPDX-License-Identifier: GPL-2.0 */
/* Work for as long as admission lets a run of npf or exit take: look-ups and changes of a hash, and atomics on the arena. */
#ifndef HYPERTURTLE_FUZZ_SLOW_H
#define HYPERTURTLE_FUZZ_SLOW_H

#include "../../bpf/arena_map.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} slow_table SEC(".maps");

#define SLOW_UPDATES 58
#define SLOW_ATOMICS 66

static __always_inline void slow(void)
{
	__u64 *base, value = 1;
	__u32 zero = 0, i;

	base = bpf_map_lookup_elem(&arena, &zero);
	if (!base)
		return;
	_Pragma("clang loop unroll(disable)")
	for (i = 0; i < SLOW_UPDATES; i++)
		bpf_map_update_elem(&slow_table, &i, &value, BPF_ANY);
	_Pragma("clang loop unroll(disable)")
	for (i = 0; i < SLOW_ATOMICS; i++)
		__sync_fetch_and_add(base + 2048 + i * 8, 1);
}

#endif
