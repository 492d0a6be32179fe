// SPDX-License-Identifier: GPL-2.0
/*
 * gups: random updates of a table in memory, as the benchmark of that name (giga updates per second) makes them.
 *
 *   gups MIB UPDATES
 *
 * Fills a table of MIB (a power of two) with its indexes, in order, which touches each page for the first time; then
 * UPDATES times takes the next word of a shift register (x^63 + x^2 + x + 1 as HPCC's RandomAccess has it), picks an entry
 * by it and exclusive-ors the word into it; then makes the same updates again, which undoes them, and counts the entries
 * that are not their index. One JSON line: {"mib","updates","fillNs","updateNs","undoNs","errors"}.
 * Exit status 0: the line was printed; 2: usage or system.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define POLYNOMIAL 7ull

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* Time of so many updates, from the register's first word on. */
static uint64_t update(volatile uint64_t *table, uint64_t entries, uint64_t updates)
{
	uint64_t i, word = 1, begun = now_ns();

	for (i = 0; i < updates; i++) {
		word = word << 1 ^ ((int64_t)word < 0 ? POLYNOMIAL : 0);
		/* the upper bits: those below follow from the word before by a shift */
		table[(word * 0x9e3779b97f4a7c15ull >> 32) & (entries - 1)] ^= word;
	}
	return now_ns() - begun;
}

static uint64_t number(const char *text, uint64_t max)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || !v || v > max) {
		fprintf(stderr, "gups: a number from 1 to %llu expected, '%s' found\n", (unsigned long long)max, text);
		exit(2);
	}
	return v;
}

int main(int argc, char **argv)
{
	uint64_t mib, updates, entries, i, fill_ns, update_ns, undo_ns, errors = 0;
	uint64_t *table;

	if (argc != 3) {
		fprintf(stderr, "usage: gups MIB UPDATES\n");
		return 2;
	}
	mib = number(argv[1], 16384);
	updates = number(argv[2], UINT64_C(1) << 40);
	if (mib & (mib - 1)) {
		fprintf(stderr, "gups: a power of two expected for MIB, '%s' found\n", argv[1]);
		return 2;
	}
	entries = (mib << 20) / sizeof(*table);
	table = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (table == MAP_FAILED) {
		fprintf(stderr, "gups: mmap: %s\n", strerror(errno));
		return 2;
	}
	fill_ns = now_ns();
	for (i = 0; i < entries; i++)
		table[i] = i;
	fill_ns = now_ns() - fill_ns;
	update_ns = update(table, entries, updates);
	undo_ns = update(table, entries, updates);
	for (i = 0; i < entries; i++)
		errors += table[i] != i;
	printf("{\"mib\":%llu,\"updates\":%llu,\"fillNs\":%llu,\"updateNs\":%llu,\"undoNs\":%llu,\"errors\":%llu}\n",
	       (unsigned long long)mib, (unsigned long long)updates, (unsigned long long)fill_ns,
	       (unsigned long long)update_ns, (unsigned long long)undo_ns, (unsigned long long)errors);
	return 0;
}
