/*
 * Datagrams to and fro, one at a time.
 *
 *   echo serve PORT
 *   echo sendto|send PORT COUNT      sendto() with an address, or send() on a connected socket
 *
 * On 127.0.0.1. The sender prints {"per_second": exchanges}; it fails where one is not answered in
 * a second.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void serve(int fd, struct sockaddr_in *here)
{
	char byte;

	if (bind(fd, (struct sockaddr *)here, sizeof(*here)))
		fail("bind");
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct sockaddr_in peer;
		socklen_t length = sizeof(peer);

		if (recvfrom(fd, &byte, 1, 0, (struct sockaddr *)&peer, &length) == 1)
			sendto(fd, &byte, 1, 0, (struct sockaddr *)&peer, length);
	}
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval patience = {.tv_sec = 1};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	bool connected;
	double begin;
	long count;
	char byte = 'x';

	if (argc < 3 || fd < 0)
		fail("usage: echo serve|sendto|send PORT [COUNT]");
	to.sin_port = htons(atoi(argv[2]));
	if (!strcmp(argv[1], "serve"))
		serve(fd, &to);
	connected = !strcmp(argv[1], "send");
	count = argc > 3 ? atol(argv[3]) : 1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connected && connect(fd, (struct sockaddr *)&to, sizeof(to)))
		fail("connect");
	begin = now();
	for (long i = 0; i < count; i++) {
		ssize_t sent =
			connected ? send(fd, &byte, 1, 0)
				  : sendto(fd, &byte, 1, 0, (struct sockaddr *)&to, sizeof(to));

		if (sent != 1)
			fail("send");
		if (recv(fd, &byte, 1, 0) != 1)
			fail("receive");
	}
	printf("{\"per_second\": %.0f}\n", count / (now() - begin));
	return 0;
}
