// SPDX-License-Identifier: GPL-2.0
/*
 * net_load: network traffic between an L2 and its peer, with the time that it took.
 *
 *   net_load serve PORT                                          the peer: UDP echo, and TCP
 *   net_load [--gate] [--warm N] [--timeout-ms N] rtt HOST PORT COUNT [WINDOW]
 *   net_load [--gate] tcp HOST PORT up|down BYTES
 *
 * rtt    datagrams of 1 byte to HOST and back, WINDOW of them under way at a time (1: a round trip is over before
 *        the next one begins). One without an answer for the timeout (2000 ms) is lost, with all that are under way.
 * tcp    BYTES over one connection: `up` is over when the peer has said that it has them all.
 * --warm that many round trips first, which count nowhere: addresses resolved, processes in memory.
 * --gate prints {"gate":"before"} and waits for a line, after what is measured {"gate":"after"} and waits again, so that
 *        anyone who counts exits counts the packets and nothing else.
 * One JSON line; times in ns, each round trip's own in the order of their answers.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* one byte tells which of those under way an answer belongs to */
#define WINDOW_MAX 128
#define CHUNK 65536

struct request {
	char direction; /* 'u' or 'd' */
	char bytes[16]; /* decimal, NUL at the end */
};

static int use_gate;
static unsigned int timeout_ms = 2000;

static void die(const char *what)
{
	fprintf(stderr, "net_load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void gate(const char *where)
{
	char c;

	if (!use_gate)
		return;
	printf("{\"gate\":\"%s\"}\n", where);
	fflush(stdout);
	do {
		if (read(0, &c, 1) != 1)
			exit(1);
	} while (c != '\n');
}

static struct sockaddr_in address(const char *host, const char *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };

	if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
		fprintf(stderr, "net_load: IPv4 address expected, '%s' found\n", host);
		exit(2);
	}
	return a;
}

static void write_all(int fd, const void *data, size_t n)
{
	const char *p = data;

	while (n) {
		ssize_t r = write(fd, p, n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			die("write");
		p += r;
		n -= (size_t)r;
	}
}

static void send_bytes(int fd, uint64_t bytes)
{
	static char chunk[CHUNK];

	while (bytes) {
		size_t n = bytes < CHUNK ? (size_t)bytes : CHUNK;

		write_all(fd, chunk, n);
		bytes -= n;
	}
}

static void receive_bytes(int fd, uint64_t bytes)
{
	static char chunk[CHUNK];

	while (bytes) {
		ssize_t r = read(fd, chunk, bytes < CHUNK ? (size_t)bytes : CHUNK);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			die("read");
		bytes -= (uint64_t)r;
	}
}

static void serve_connection(int fd)
{
	struct request q;
	uint64_t bytes;

	if (recv(fd, &q, sizeof(q), MSG_WAITALL) != sizeof(q))
		return;
	q.bytes[sizeof(q.bytes) - 1] = 0;
	bytes = strtoull(q.bytes, NULL, 10);
	if (q.direction == 'd') {
		send_bytes(fd, bytes);
	} else {
		receive_bytes(fd, bytes);
		write_all(fd, "", 1);
	}
}

static int serve(const char *port)
{
	struct sockaddr_in any = address("0.0.0.0", port);
	int udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), tcp = socket(AF_INET, SOCK_STREAM, 0);
	struct pollfd fds[2] = { { .fd = udp, .events = POLLIN }, { .fd = tcp, .events = POLLIN } };
	int one = 1;

	signal(SIGCHLD, SIG_IGN);
	setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (udp < 0 || tcp < 0 || bind(udp, (void *)&any, sizeof(any)) || bind(tcp, (void *)&any, sizeof(any)) ||
	    listen(tcp, 16))
		die("listening");
	printf("{\"serving\":%s}\n", port);
	fflush(stdout);
	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			die("poll");
		for (;;) {
			struct sockaddr_in from;
			socklen_t n = sizeof(from);
			char data[2048];
			ssize_t r = recvfrom(udp, data, sizeof(data), 0, (void *)&from, &n);

			if (r < 0)
				break;
			/* one that cannot be sent is one that is lost */
			(void)!sendto(udp, data, (size_t)r, 0, (void *)&from, n);
		}
		if (fds[1].revents & POLLIN) {
			int fd = accept(tcp, NULL, NULL);

			if (fd >= 0 && fork() == 0) {
				serve_connection(fd);
				exit(0);
			}
			if (fd >= 0)
				close(fd);
		}
	}
}

struct trips {
	uint64_t count, lost, *ns;
};

/* Answers that are too late, of those that were given up, belong to no slot that is open and are dropped. */
static void round_trips(int fd, struct trips *t, uint64_t count, unsigned int window)
{
	uint64_t sent_ns[256] = { 0 }, sent = 0, done = 0;
	unsigned int under_way = 0;

	while (done < count) {
		unsigned char byte;
		ssize_t r;

		while (under_way < window && sent < count) {
			byte = (unsigned char)sent++;
			sent_ns[byte] = now_ns();
			under_way++;
			if (send(fd, &byte, 1, 0) != 1 && errno != ECONNREFUSED)
				die("send");
		}
		r = recv(fd, &byte, 1, 0);
		if (r < 0 && errno == ECONNREFUSED)
			continue; /* nobody there: as good as no answer */
		if (r < 0 && errno != EAGAIN && errno != EINTR)
			die("recv");
		if (r == 1 && sent_ns[byte]) {
			if (t)
				t->ns[t->count++] = now_ns() - sent_ns[byte];
			sent_ns[byte] = 0;
			under_way--;
			done++;
		} else if (r < 0) {
			memset(sent_ns, 0, sizeof(sent_ns));
			done += under_way;
			if (t)
				t->lost += under_way;
			under_way = 0;
		}
	}
}

static int rtt(const char *host, const char *port, uint64_t count, unsigned int window, uint64_t warm)
{
	struct sockaddr_in to = address(host, port);
	struct timeval wait = { timeout_ms / 1000, (timeout_ms % 1000) * 1000 };
	struct trips t = { .ns = calloc(count, sizeof(*t.ns)) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	uint64_t t0, t1, i;

	if (fd < 0 || !t.ns || connect(fd, (void *)&to, sizeof(to)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)))
		die("socket");
	memset(t.ns, 1, count * sizeof(*t.ns)); /* no first touch among what is measured */
	round_trips(fd, NULL, warm, window);
	gate("before");
	t0 = now_ns();
	round_trips(fd, &t, count, window);
	t1 = now_ns();
	gate("after");
	printf("{\"kind\":\"rtt\",\"window\":%u,\"count\":%llu,\"lost\":%llu,\"totalNs\":%llu,\"ns\":[", window,
	       (unsigned long long)t.count, (unsigned long long)t.lost, (unsigned long long)(t1 - t0));
	for (i = 0; i < t.count; i++)
		printf("%s%llu", i ? "," : "", (unsigned long long)t.ns[i]);
	printf("]}\n");
	return 0;
}

static int tcp(const char *host, const char *port, const char *direction, uint64_t bytes)
{
	struct sockaddr_in to = address(host, port);
	struct request q = { .direction = direction[0] };
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	uint64_t t0, t1;
	char ack;

	snprintf(q.bytes, sizeof(q.bytes), "%llu", (unsigned long long)bytes);
	if (fd < 0 || connect(fd, (void *)&to, sizeof(to)))
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	gate("before");
	t0 = now_ns();
	write_all(fd, &q, sizeof(q));
	if (q.direction == 'd') {
		receive_bytes(fd, bytes);
	} else {
		send_bytes(fd, bytes);
		if (read(fd, &ack, 1) != 1)
			die("no word that all has arrived");
	}
	t1 = now_ns();
	gate("after");
	printf("{\"kind\":\"tcp\",\"direction\":\"%s\",\"bytes\":%llu,\"totalNs\":%llu}\n", direction,
	       (unsigned long long)bytes, (unsigned long long)(t1 - t0));
	return 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: net_load serve PORT\n"
			"       net_load [--gate] [--warm N] [--timeout-ms N] rtt HOST PORT COUNT [WINDOW]\n"
			"       net_load [--gate] tcp HOST PORT up|down BYTES\n");
	return 2;
}

int main(int argc, char **argv)
{
	uint64_t warm = 0;
	int i;

	for (i = 1; i < argc && !strncmp(argv[i], "--", 2); i++) {
		if (!strcmp(argv[i], "--gate"))
			use_gate = 1;
		else if (!strcmp(argv[i], "--warm") && i + 1 < argc)
			warm = strtoull(argv[++i], NULL, 10);
		else if (!strcmp(argv[i], "--timeout-ms") && i + 1 < argc)
			timeout_ms = (unsigned int)atoi(argv[++i]);
		else
			return usage();
	}
	argc -= i;
	argv += i;
	if (argc == 2 && !strcmp(argv[0], "serve"))
		return serve(argv[1]);
	if ((argc == 4 || argc == 5) && !strcmp(argv[0], "rtt")) {
		uint64_t count = strtoull(argv[3], NULL, 10);
		int window = argc == 5 ? atoi(argv[4]) : 1;

		if (count && count <= 10000000 && window > 0 && window <= WINDOW_MAX)
			return rtt(argv[1], argv[2], count, (unsigned int)window, warm);
	}
	if (argc == 5 && !strcmp(argv[0], "tcp") && (!strcmp(argv[3], "up") || !strcmp(argv[3], "down")))
		return tcp(argv[1], argv[2], argv[3], strtoull(argv[4], NULL, 10));
	return usage();
}
