// SPDX-License-Identifier: GPL-2.0
/*
 * calls kernel|user NUMBER REPEAT [WORD...]: an L1 calls its program in L0 (hyperturtle/call.h), by its module or in its own
 * user space, and says the answer's four words and how long all calls took: {"results":["0x0",...],"ns":123}. For tests and
 * benchmarks: a call that nobody answers is told as any other. Exit status 2: it could not call.
 */
#include <cpuid.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <hyperturtle/guest.h>

static void call_once(struct htg_call *c, int intel)
{
	unsigned long a = c->number, b = c->words[0], cx = c->words[1], d = c->words[2];
	register unsigned long r8 __asm__("r8") = c->words[5];

	if (intel)
		__asm__ volatile("vmcall" : "+a"(a), "+b"(b), "+c"(cx), "+d"(d)
				 : "S"(c->words[3]), "D"(c->words[4]), "r"(r8) : "memory");
	else
		__asm__ volatile("vmmcall" : "+a"(a), "+b"(b), "+c"(cx), "+d"(d)
				 : "S"(c->words[3]), "D"(c->words[4]), "r"(r8) : "memory");
	c->results[0] = a;
	c->results[1] = b;
	c->results[2] = cx;
	c->results[3] = d;
}

static unsigned long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void in_user_space(struct htg_call *c)
{
	unsigned int a, b = 0, cx = 0, d;
	unsigned long long since;

	__get_cpuid(0, &a, &b, &cx, &d);
	since = now();
	for (unsigned int i = 0; i < c->repeat; i++)
		call_once(c, cx == 0x6c65746e); /* ...ntel */
	c->ns = now() - since;
}

int main(int argc, char **argv)
{
	struct htg_call c = { 0 };
	int fd;

	if (argc < 4 || argc > 4 + HT_CALL_WORDS)
		return 2;
	c.number = strtoul(argv[2], NULL, 0);
	c.repeat = strtoul(argv[3], NULL, 0);
	for (int i = 4; i < argc; i++)
		c.words[i - 4] = strtoull(argv[i], NULL, 0);
	if (strcmp(argv[1], "user") == 0) {
		in_user_space(&c);
	} else {
		fd = open("/dev/hyperturtle-guest", O_RDWR | O_CLOEXEC);
		if (fd < 0 || ioctl(fd, HTG_CALL, &c)) {
			perror("/dev/hyperturtle-guest");
			return 2;
		}
	}
	printf("{\"results\":[\"0x%llx\",\"0x%llx\",\"0x%llx\",\"0x%llx\"],\"ns\":%llu}\n", c.results[0], c.results[1],
	       c.results[2], c.results[3], c.ns);
	return 0;
}
