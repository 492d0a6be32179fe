// SPDX-License-Identifier: GPL-2.0
/*
 * answer_probe: waits until a service answers, and says when.
 *
 *   answer_probe PORT SEND EXPECT     SEND, EXPECT: bytes as hexadecimal digits
 *
 * Asks 127.0.0.1:PORT every POLL_US until something listens: prints `### open UPTIME`; then sends SEND until an
 * answer begins with EXPECT: prints `### answered UPTIME`. A service that does not answer rightly yet (one that
 * still loads) is asked again. UPTIME is of the monotonic clock, in milliseconds with three digits of a fraction.
 * In C because it runs in guests that have no runtime, and must take no memory worth counting.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define POLL_US 10000
#define ANSWER_S 20
#define MAX_BYTES 512

static void say(const char *what)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	printf("### %s %lld.%03ld\n", what, (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000,
	       t.tv_nsec / 1000 % 1000);
	fflush(stdout);
}

static size_t from_hex(const char *text, uint8_t *bytes)
{
	size_t n = strlen(text) / 2;
	unsigned int value;

	if (n > MAX_BYTES)
		exit(2);
	for (size_t i = 0; i < n; i++) {
		if (sscanf(text + 2 * i, "%2x", &value) != 1)
			exit(2);
		bytes[i] = (uint8_t)value;
	}
	return n;
}

static int open_port(uint16_t port)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr = { htonl(INADDR_LOOPBACK) },
	};
	struct timeval limit = { .tv_sec = ANSWER_S };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return fd;
	close(fd);
	return -1;
}

static int answers(int fd, const uint8_t *send_bytes, size_t send_size, const uint8_t *expect, size_t size)
{
	uint8_t got[MAX_BYTES];
	size_t have = 0;

	if (send(fd, send_bytes, send_size, MSG_NOSIGNAL) != (ssize_t)send_size)
		return 0;
	while (have < size) {
		ssize_t n = recv(fd, got + have, size - have, 0);

		if (n <= 0)
			return 0;
		have += (size_t)n;
	}
	return memcmp(got, expect, size) == 0;
}

int main(int argc, char **argv)
{
	uint8_t request[MAX_BYTES], expect[MAX_BYTES];
	size_t request_size, expect_size;
	uint16_t port;
	int seen = 0;

	if (argc != 4)
		return 2;
	port = (uint16_t)atoi(argv[1]);
	request_size = from_hex(argv[2], request);
	expect_size = from_hex(argv[3], expect);
	for (;;) {
		int fd = open_port(port);

		if (fd >= 0) {
			if (!seen)
				say("open");
			seen = 1;
			if (answers(fd, request, request_size, expect, expect_size)) {
				say("answered");
				return 0;
			}
			close(fd);
		}
		usleep(POLL_US);
	}
}
