// SPDX-License-Identifier: GPL-2.0
/*
 * first_touch: touches memory by 4 KiB pages for the first time and says how long each touch took.
 *
 *   first_touch [--gate] [--second] MIB PATTERN...
 *
 * PATTERN is the order of the touches:
 *   seq           ascending
 *   stride        every 17th page, modulo the number of pages, each page once
 *   random        a shuffle with a fixed seed
 *   scattered@PA  the same shuffle over *physical* memory from PA on (reserved by memmap= and mapped from
 *                 /dev/mem). For the other patterns the kernel below chooses the frames, mostly ascending
 *                 whatever the order of the virtual pages is; here the order is what the hypervisor sees.
 * Each pattern gets memory of its own, which is kept to the end: no pattern touches pages of another.
 * --second   then frees everything and touches in the first pattern's order again: memory that the guest
 *            reuses, where the hypervisor should have nothing left to do.
 * --gate     before each phase prints {"gate":"before",...} and waits for a line, after it {"gate":"after",...}
 *            and waits again: anyone who counts exits counts the touches and nothing else.
 * One JSON line per phase. The program's own tables are touched before the first phase.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ull
#define STRIDE 17u
#define BUCKETS_PER_OCTAVE 4
#define BUCKETS (64 * BUCKETS_PER_OCTAVE)

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* lfence: the touch before is over when the counter is read */
static inline uint64_t tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
	return (uint64_t)hi << 32 | lo;
}

static void die(const char *what)
{
	fprintf(stderr, "first_touch: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t r = a % b;

		a = b;
		b = r;
	}
	return a;
}

/* order[i] = page of the i-th touch; every page once */
static int fill_order(uint32_t *order, uint64_t pages, const char *pattern)
{
	uint64_t i, seed = 0x9e3779b97f4a7c15ull;

	if (!strcmp(pattern, "stride")) {
		uint64_t step = STRIDE;

		while (gcd(step, pages) != 1)
			step += 2;
		for (i = 0; i < pages; i++)
			order[i] = (uint32_t)(i * step % pages);
		return 0;
	}
	for (i = 0; i < pages; i++)
		order[i] = (uint32_t)i;
	if (!strcmp(pattern, "seq"))
		return 0;
	if (strcmp(pattern, "random") && strncmp(pattern, "scattered@", 10))
		return -1;
	for (i = pages - 1; i > 0; i--) {
		uint64_t j;
		uint32_t t;

		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		j = seed % (i + 1);
		t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
	return 0;
}

/* 2^(k/4) as 32.32 fixed point */
static const uint64_t quarter[BUCKETS_PER_OCTAVE] = {
	0x100000000ull, 0x1306fe0a3ull, 0x16a09e668ull, 0x1ae89f996ull,
};

static unsigned int bucket_of(uint64_t ns)
{
	unsigned int octave, k = BUCKETS_PER_OCTAVE;
	uint64_t m;

	if (ns == 0)
		return 0;
	octave = 63 - (unsigned int)__builtin_clzll(ns);
	m = octave <= 32 ? ns << (32 - octave) : ns >> (octave - 32);
	while (--k > 0 && m < quarter[k])
		;
	return octave * BUCKETS_PER_OCTAVE + k;
}

static double bucket_lower_ns(unsigned int b)
{
	return (double)(1ull << (b / BUCKETS_PER_OCTAVE)) *
	       ((double)quarter[b % BUCKETS_PER_OCTAVE] / 4294967296.0);
}

/* the smallest value that at least `q` of all values do not exceed */
static uint64_t quantile(const uint64_t *sorted, uint64_t n, double q)
{
	uint64_t rank = (uint64_t)(q * (double)n);

	if ((double)rank < q * (double)n)
		rank++;
	return sorted[rank ? rank - 1 : 0];
}

static int use_gate;

static void gate(const char *where, const char *pattern, int pass)
{
	char c;

	if (!use_gate)
		return;
	printf("{\"gate\":\"%s\",\"pattern\":\"%s\",\"pass\":%d}\n", where, pattern, pass);
	fflush(stdout);
	do {
		if (read(0, &c, 1) != 1)
			exit(1);
	} while (c != '\n');
}

static char *map_memory(uint64_t bytes, const char *pattern)
{
	char *p;

	if (!strncmp(pattern, "scattered@", 10)) {
		int fd = open("/dev/mem", O_RDWR);

		if (fd < 0)
			die("/dev/mem");
		p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			 (off_t)strtoull(pattern + 10, NULL, 0));
		close(fd);
	} else {
		p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	}
	if (p == MAP_FAILED)
		die("mmap");
	/* one fault a page: no huge pages; an error means that this kernel has none */
	madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
}

static void measure(char *memory, const uint32_t *order, uint64_t *latency, uint64_t pages,
		    const char *pattern, int pass)
{
	static uint64_t histogram[BUCKETS];
	uint64_t i, t0, t1, c0, c1, sum = 0;
	double ns_per_tick;
	size_t name_length = strcspn(pattern, "@");
	const char *comma = "";

	gate("before", pattern, pass);
	t0 = now_ns();
	c0 = tsc();
	for (i = 0; i < pages; i++) {
		uint64_t a = tsc();

		*(volatile char *)(memory + order[i] * PAGE) = 1;
		latency[i] = tsc() - a;
	}
	c1 = tsc();
	t1 = now_ns();
	gate("after", pattern, pass);

	ns_per_tick = (double)(t1 - t0) / (double)(c1 - c0);
	memset(histogram, 0, sizeof(histogram));
	for (i = 0; i < pages; i++) {
		latency[i] = (uint64_t)((double)latency[i] * ns_per_tick + 0.5);
		sum += latency[i];
		histogram[bucket_of(latency[i])]++;
	}
	qsort(latency, pages, sizeof(*latency), compare);
	printf("{\"pattern\":\"%.*s\",\"pass\":%d,\"pages\":%llu,\"avgNs\":%.0f,\"p50Ns\":%llu,"
	       "\"p90Ns\":%llu,\"p99Ns\":%llu,\"p999Ns\":%llu,\"maxNs\":%llu,\"totalNs\":%llu,\"histogram\":[",
	       (int)name_length, pattern, pass, (unsigned long long)pages, (double)sum / (double)pages,
	       (unsigned long long)quantile(latency, pages, 0.5),
	       (unsigned long long)quantile(latency, pages, 0.9),
	       (unsigned long long)quantile(latency, pages, 0.99),
	       (unsigned long long)quantile(latency, pages, 0.999),
	       (unsigned long long)latency[pages - 1], (unsigned long long)(t1 - t0));
	for (i = 0; i < BUCKETS; i++) {
		if (!histogram[i])
			continue;
		printf("%s[%.0f,%llu]", comma, bucket_lower_ns((unsigned int)i),
		       (unsigned long long)histogram[i]);
		comma = ",";
	}
	printf("]}\n");
	fflush(stdout);
}

static void usage(void)
{
	fprintf(stderr,
		"usage: first_touch [--gate] [--second] MIB seq|stride|random|scattered@ADDRESS...\n");
	exit(2);
}

int main(int argc, char **argv)
{
	static char out[1 << 16];
	uint64_t bytes, pages, *latency;
	uint32_t *order;
	int second = 0, first, i;
	char **memory;

	for (first = 1; first < argc && !strncmp(argv[first], "--", 2); first++) {
		if (!strcmp(argv[first], "--gate"))
			use_gate = 1;
		else if (!strcmp(argv[first], "--second"))
			second = 1;
		else
			usage();
	}
	if (argc - first < 2)
		usage();
	bytes = strtoull(argv[first++], NULL, 10) << 20;
	pages = bytes / PAGE;
	if (!pages || pages > UINT32_MAX)
		usage();
	setvbuf(stdout, out, _IOFBF, sizeof(out));
	memset(out, 1, sizeof(out));
	latency = malloc(pages * sizeof(*latency));
	order = malloc(pages * sizeof(*order));
	memory = calloc((size_t)argc, sizeof(*memory));
	if (!latency || !order || !memory)
		die("malloc");
	memset(latency, 1, pages * sizeof(*latency));
	/* a first read and a first write of the clock page and the pipe belong to nobody's measurement */
	(void)now_ns();

	for (i = first; i < argc; i++) {
		if (fill_order(order, pages, argv[i]))
			usage();
		memory[i] = map_memory(bytes, argv[i]);
		measure(memory[i], order, latency, pages, argv[i], 1);
	}
	if (second) {
		for (i = first; i < argc; i++)
			munmap(memory[i], bytes);
		if (!strncmp(argv[first], "scattered@", 10) || fill_order(order, pages, argv[first]))
			usage();
		measure(map_memory(bytes, argv[first]), order, latency, pages, argv[first], 2);
	}
	return 0;
}
