// SPDX-License-Identifier: GPL-2.0
/*
 * shares: a workload for profilers, whose truth is known. Three functions do the same kind of work, in the ratio that is
 * asked for, and nothing else takes time; each is called through a function of its own, so that stacks have depth.
 *
 *   shares ROUNDS [A B C]      default: 50 30 20
 *
 * One round is A+B+C units in all, whatever their ratio. Ends with one JSON line. Built with symbols, frame pointers and
 * at a fixed address.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define UNIT 20000

/* gcc leaves the frame out where a function needs none, whatever it is told: this one needs it */
static void *volatile frame;
#define FRAME() (frame = __builtin_frame_address(0))

/* each its own constants: equal functions would become one */
#define WORK(name, a, b, c)                                                   \
	static __attribute__((noinline)) uint64_t name(uint64_t units, uint64_t x) \
	{                                                                     \
		FRAME();                                                      \
		for (uint64_t i = units * UNIT; i; i--) {                     \
			x ^= x << (a);                                        \
			x ^= x >> (b);                                        \
			x ^= x << (c);                                        \
		}                                                             \
		return x;                                                     \
	}

WORK(share_hot, 13, 7, 17)
WORK(share_warm, 13, 7, 19)
WORK(share_cool, 13, 9, 17)

/* the addition behind the call keeps it from becoming a jump */
static __attribute__((noinline)) uint64_t calls_hot(uint64_t n, uint64_t x) { FRAME(); return share_hot(n, x) + 1; }
static __attribute__((noinline)) uint64_t calls_warm(uint64_t n, uint64_t x) { FRAME(); return share_warm(n, x) + 3; }
static __attribute__((noinline)) uint64_t calls_cool(uint64_t n, uint64_t x) { FRAME(); return share_cool(n, x) + 5; }

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	uint64_t share[3] = { 50, 30, 20 }, rounds, x = 88172645463325252ull, begin;

	if (argc != 2 && argc != 5) {
		fprintf(stderr, "usage: shares ROUNDS [A B C]\n");
		return 2;
	}
	rounds = strtoull(argv[1], NULL, 0);
	for (int i = 0; argc == 5 && i < 3; i++)
		share[i] = strtoull(argv[2 + i], NULL, 0);
	begin = now_ns();
	for (uint64_t i = 0; i < rounds; i++)
		x = calls_cool(share[2], calls_warm(share[1], calls_hot(share[0], x)));
	printf("{\"rounds\":%llu,\"ns\":%llu,\"x\":%llu}\n", (unsigned long long)rounds,
	       (unsigned long long)(now_ns() - begin), (unsigned long long)(x & 1));
	return 0;
}
