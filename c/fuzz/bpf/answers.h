/* SPDX-License-Identifier: GPL-2.0 */
/* What hostile programs draw their answers from: numbers of a seed, and values at the edges of what is allowed. */
#ifndef HYPERTURTLE_FUZZ_ANSWERS_H
#define HYPERTURTLE_FUZZ_ANSWERS_H

#include "../../bpf/arena_map.h"

/* Set before loading. */
const volatile __u64 seed = 1;

struct fuzz_state {
	__u64 random;
	__u64 runs;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fuzz_state);
} fuzz_state SEC(".maps");

/* xorshift64*; two CPUs at once may draw the same. */
static __always_inline __u64 draw(struct fuzz_state *s)
{
	__u64 x = s->random ? s->random : seed | 1;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	s->random = x;
	return x * 0x2545f4914f6cdd1dull;
}

static __always_inline __u64 edge(struct fuzz_state *s, __u64 good)
{
	__u64 r = draw(s), small = r >> 8 & 0xfff;

	switch (r & 15) {
	case 0:
		return 0;
	case 1:
		return 1;
	case 2:
		return -1ull;
	case 3:
		return arena_bytes;
	case 4:
		return arena_bytes - 8;
	case 5:
		return arena_bytes - (small & ~7ull);
	case 6:
		return arena_bytes + (small & ~7ull);
	case 7:
		return r;
	case 8:
		return good + (small & 15) - 8;
	case 9:
		return good ^ (1ull << (small & 63));
	case 10:
		return 1ull << (small & 63);
	case 11:
		return -(small & ~7ull);
	case 12:
		return good + 512;
	case 13:
		return good - 512;
	case 14:
		return small;
	default:
		return 64 + (small & 1);
	}
}

#endif
