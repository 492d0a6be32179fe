// SPDX-License-Identifier: GPL-2.0
/*
 * pattern: finds pages that change under their owner, or that show another owner's data.
 *
 *   pattern own MIB (--seconds S | --rounds R) [--zero-ok]
 *     Fills MIB of anonymous memory with words that depend on address and round, then over and over checks
 *     each page and rewrites it with the next round's words. A page of zeros only is counted as `zeroed`:
 *     legal only with --zero-ok (when a hypervisor was told that it may take pages away).
 *
 *   pattern share FILE OFFSET MIB ROLE (--seconds S | --rounds R) [--punch PAGES [--mixed]]
 *     Works on MIB of FILE from OFFSET on (hexadecimal allowed) together with others in other roles, 1 to 15:
 *     the same memory seen as /dev/mem in a guest and as the file behind the guest's RAM in its VMM. Reads a
 *     page, checks that each word is 0 or was written for *this page* by one of the roles, and writes its
 *     own. --punch N makes it punch a hole of N pages after every N pages touched; with --mixed
 *     every other one of them begins at a multiple of N. A frame given to two
 *     owners, or freed while somebody could still write to it, shows as a word of neither.
 *
 * Both end with one JSON line, also at SIGTERM. Exit status 0: no mismatch; 1: mismatches; 2: usage or system.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ull
#define WORDS (PAGE / 8)
#define SHARE_MAGIC 0x5ea5000000000000ull
#define SHOWN 8

static volatile sig_atomic_t stop;
static uint64_t deadline_ns, rounds_wanted;
static uint64_t rounds, checked, mismatches, zeroed, written, punched, read_back_own;
static unsigned int shown;

static void on_term(int signal)
{
	(void)signal;
	stop = 1;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "pattern: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void usage(void)
{
	fprintf(stderr, "usage: pattern own MIB (--seconds S | --rounds R) [--zero-ok]\n"
			"       pattern share FILE OFFSET MIB ROLE (--seconds S | --rounds R) "
			"[--punch PAGES [--mixed]]\n");
	exit(2);
}

static int over(void)
{
	return stop || (rounds_wanted && rounds >= rounds_wanted) ||
	       (deadline_ns && now_ns() >= deadline_ns);
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdull;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 33;
}

static void complain(uint64_t page, uint64_t word, uint64_t found, uint64_t expected)
{
	if (shown++ < SHOWN)
		fprintf(stderr, "pattern: page %llu word %llu: found %016llx, expected %016llx\n",
			(unsigned long long)page, (unsigned long long)word, (unsigned long long)found,
			(unsigned long long)expected);
}

/* never 0, so that an emptied page cannot pass for a written one */
static uint64_t own_word(uint64_t seed, uint64_t i)
{
	return (seed + i * 0x9e3779b97f4a7c15ull) | 1;
}

static void own(uint64_t bytes, int zero_ok)
{
	uint64_t pages = bytes / PAGE, p, i;
	uint64_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die("mmap");
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	for (rounds = 0; !over(); rounds++) {
		for (p = 0; p < pages && !stop; p++) {
			volatile uint64_t *page = memory + p * WORDS;
			uint64_t was = mix(rounds - 1 + (p << 24)), next = mix(rounds + (p << 24));
			uint64_t bad = 0, zero = 0, at = 0, found = 0;

			for (i = 0; i < WORDS; i++) {
				uint64_t v = page[i];

				if (rounds && v != own_word(was, i)) {
					if (!bad++) {
						at = i;
						found = v;
					}
					zero += v == 0;
				}
				page[i] = own_word(next, i);
			}
			if (rounds)
				checked++;
			written++;
			if (!bad)
				continue;
			if (zero == WORDS) {
				zeroed++;
				if (zero_ok)
					continue;
			}
			mismatches++;
			complain(p, at, found, own_word(was, at));
		}
	}
}

static uint64_t share_word(uint64_t page, unsigned int role)
{
	return SHARE_MAGIC | (uint64_t)role << 40 | page;
}

static void share(const char *path, uint64_t offset, uint64_t bytes, unsigned int role, uint64_t punch,
		  int mixed)
{
	uint64_t pages = bytes / PAGE, p, i, state = role * 0x9e3779b97f4a7c15ull + 1, since = 0, holes = 0;
	int fd = open(path, O_RDWR);
	uint64_t *memory;

	if (fd < 0)
		die(path);
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
	if (memory == MAP_FAILED)
		die("mmap");
	for (rounds = 0; !over(); rounds++) {
		for (i = 0; i < pages && !stop; i++) {
			volatile uint64_t *page;
			uint64_t k, bad = 0, at = 0, found = 0, mine, own_seen = 0;

			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			p = state % pages;
			page = memory + p * WORDS;
			mine = share_word(p, role);
			for (k = 0; k < WORDS; k++) {
				uint64_t v = page[k];

				own_seen |= v == mine;
				if (v != 0 && (v & ~(0xfull << 40)) != share_word(p, 0)) {
					if (!bad++) {
						at = k;
						found = v;
					}
				}
				page[k] = mine;
			}
			checked++;
			written++;
			read_back_own += own_seen;
			if (bad) {
				mismatches++;
				complain(p, at, found, mine);
			}
			if (punch && ++since >= punch) {
				uint64_t first = mix(state) % (pages - punch + 1);

				since = 0;
				if (mixed && (holes++ & 1))
					first -= first % punch;
				if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					      (off_t)(offset + first * PAGE), (off_t)(punch * PAGE)))
					die("punch hole");
				punched += punch;
			}
		}
	}
	munmap(memory, bytes);
	close(fd);
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_term };
	uint64_t seconds = 0, punch = 0;
	int zero_ok = 0, mixed = 0, i, positional = 0;
	char *args[6] = { 0 };

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
			seconds = strtoull(argv[++i], NULL, 10);
		else if (!strcmp(argv[i], "--rounds") && i + 1 < argc)
			rounds_wanted = strtoull(argv[++i], NULL, 10);
		else if (!strcmp(argv[i], "--punch") && i + 1 < argc)
			punch = strtoull(argv[++i], NULL, 10);
		else if (!strcmp(argv[i], "--zero-ok"))
			zero_ok = 1;
		else if (!strcmp(argv[i], "--mixed"))
			mixed = 1;
		else if (!strncmp(argv[i], "--", 2) || positional >= 5)
			usage();
		else
			args[positional++] = argv[i];
	}
	if (!seconds && !rounds_wanted)
		usage();
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	if (seconds)
		deadline_ns = now_ns() + seconds * 1000000000ull;

	if (positional == 2 && !strcmp(args[0], "own")) {
		uint64_t bytes = strtoull(args[1], NULL, 10) << 20;

		if (!bytes)
			usage();
		own(bytes, zero_ok);
	} else if (positional == 5 && !strcmp(args[0], "share")) {
		uint64_t bytes = strtoull(args[3], NULL, 10) << 20;
		unsigned long role = strtoul(args[4], NULL, 10);

		if (!bytes || role < 1 || role > 15 || punch > bytes / PAGE)
			usage();
		share(args[1], strtoull(args[2], NULL, 0), bytes, (unsigned int)role, punch, mixed);
	} else {
		usage();
	}
	printf("{\"rounds\":%llu,\"checked\":%llu,\"written\":%llu,\"punched\":%llu,\"readBackOwn\":%llu,"
	       "\"zeroed\":%llu,\"mismatches\":%llu}\n",
	       (unsigned long long)rounds, (unsigned long long)checked, (unsigned long long)written,
	       (unsigned long long)punched, (unsigned long long)read_back_own, (unsigned long long)zeroed,
	       (unsigned long long)mismatches);
	return mismatches ? 1 : 0;
}
