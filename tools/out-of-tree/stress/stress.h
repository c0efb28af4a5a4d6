/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the stress programs share.
 */
#ifndef STRESS_H
#define STRESS_H

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ring_server.h"

/**
 * take_option() - take an option with a number from the command line
 * @argc:	of main()
 * @argv:	of main()
 * @name:	e.g. "-n"
 * @value:	what it is without
 *
 * With anything but a number it stays, for the test harness.
 *
 * Return: the number.
 */
static inline unsigned long take_option(int *argc, char **argv,
					const char *name, unsigned long value)
{
	unsigned long n;
	char *end;
	int i;

	for (i = 1; i + 1 < *argc; i++) {
		n = strtoul(argv[i + 1], &end, 10);
		if (strcmp(argv[i], name) || !*argv[i + 1] || *end)
			continue;
		*argc -= 2;
		/* with the NULL behind the last */
		memmove(&argv[i], &argv[i + 2],
			(*argc - i + 1) * sizeof(*argv));
		return n;
	}
	return value;
}

/**
 * wait_for() - wait for a child to end
 * @pid:	the child
 * @seconds:	how long
 *
 * Return: its status as from waitpid(), or -ETIMEDOUT.
 */
static inline int wait_for(pid_t pid, unsigned int seconds)
{
	struct pollfd pfd = {
		.fd = syscall(SYS_pidfd_open, pid, 0),
		.events = POLLIN,
	};
	int status = -ETIMEDOUT;

	if (poll(&pfd, 1, seconds * 1000) == 1)
		waitpid(pid, &status, 0);
	close(pfd.fd);
	return status;
}

#endif /* STRESS_H */
