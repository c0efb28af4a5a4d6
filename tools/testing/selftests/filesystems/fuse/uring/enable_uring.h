/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The module parameter enable_uring, without which the kernel does not offer
 * FUSE_OVER_IO_URING.
 */
#ifndef ENABLE_URING_H
#define ENABLE_URING_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENABLE_URING	"/sys/module/fuse/parameters/enable_uring"

/* Open until the program has ended, which tells its keeper */
static int enable_uring_pipe[2];
static pid_t enable_uring_keeper;

/**
 * enable_uring() - switch the parameter
 * @on:		the new value
 *
 * Return: 0 or a negative errno.
 */
static inline int enable_uring(bool on)
{
	int err, fd = open(ENABLE_URING, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	err = write(fd, on ? "Y" : "N", 1) == 1 ? 0 : -errno;
	close(fd);
	return err;
}

static inline void enable_uring_let_go(void)
{
	close(enable_uring_pipe[1]);
	waitpid(enable_uring_keeper, NULL, 0);
}

/**
 * enable_uring_hold() - have it on as long as the program runs
 *
 * It is put back when all processes of the program have ended, however they do.
 * Another program that holds it waits until then. Without the parameter, or the
 * right to write it, nothing is done: the kernel will not offer io_uring.
 */
static inline void enable_uring_hold(void)
{
	char was, end;
	int fd;

	/* a module is loaded when its device is opened */
	close(open("/dev/fuse", O_RDWR));
	fd = open(ENABLE_URING, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	if (flock(fd, LOCK_EX) || read(fd, &was, 1) != 1 ||
	    pipe(enable_uring_pipe)) {
		perror(ENABLE_URING);
		exit(1);
	}
	enable_uring_keeper = fork();
	if (!enable_uring_keeper) {
		/* who ends the program ends its process group */
		setsid();
		signal(SIGTERM, SIG_IGN);
		close(enable_uring_pipe[1]);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		while (read(enable_uring_pipe[0], &end, 1) < 0 &&
		       errno == EINTR)
			;
		/* the lock goes with this process, the last to have the fd */
		_exit(pwrite(fd, &was, 1, 0) != 1);
	}
	close(enable_uring_pipe[0]);
	close(fd);
	fcntl(enable_uring_pipe[1], F_SETFD, FD_CLOEXEC);
	/* a test is a child that does not come here */
	atexit(enable_uring_let_go);
	enable_uring(true);
}

#endif /* ENABLE_URING_H */
