/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What tests change in the system and in their processes, and how their threads
 * wait for each other. Functions that return int return 0 (or what is said) or
 * a negative errno.
 */
#ifndef SYS_H
#define SYS_H

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The module parameter; without it the kernel offers no FUSE_OVER_IO_URING */
#define ENABLE_URING	"/sys/module/fuse/parameters/enable_uring"

#define CAP_NONE	-1

/* Open until the program has ended, which tells the keeper of the parameter */
static int enable_uring_pipe[2];

static inline int sys_write(const char *path, const char *text)
{
	int err = 0, fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t len = strlen(text);

	if (fd < 0)
		return -errno;
	if (write(fd, text, len) != len)
		err = -errno;
	close(fd);
	return err;
}

static inline int enable_uring(bool on)
{
	return sys_write(ENABLE_URING, on ? "Y" : "N");
}

/*
 * Have it on as long as the program runs. It is put back when all processes of
 * the program have ended, however they do. Another program that holds it waits
 * until then. Without the parameter, or the right to write it, nothing is done:
 * the kernel will not offer io_uring.
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
	    pipe2(enable_uring_pipe, O_CLOEXEC)) {
		perror(ENABLE_URING);
		exit(1);
	}
	if (!fork()) {
		/* who ends the program ends its process group */
		setsid();
		signal(SIGTERM, SIG_IGN);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		close(enable_uring_pipe[1]);
		while (read(enable_uring_pipe[0], &end, 1) < 0 &&
		       errno == EINTR)
			;
		/* the lock goes with this process, the last to have the fd */
		_exit(pwrite(fd, &was, 1, 0) != 1);
	}
	close(enable_uring_pipe[0]);
	close(fd);
	enable_uring(true);
}

/* Have all permitted capabilities of the calling thread but @cap in effect */
static inline int capabilities_without(int cap)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &hdr, data))
		return -errno;
	data[0].effective = data[0].permitted;
	data[1].effective = data[1].permitted;
	if (cap != CAP_NONE)
		data[CAP_TO_INDEX(cap)].effective &= ~CAP_TO_MASK(cap);
	return syscall(SYS_capset, &hdr, data) ? -errno : 0;
}

/* Become root of a new user and mount namespace, in a child with one thread */
static inline int user_ns_enter(void)
{
	int err;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return -errno;
	err = sys_write("/proc/self/uid_map", "0 0 1");
	if (!err)
		err = sys_write("/proc/self/setgroups", "deny");
	if (!err)
		err = sys_write("/proc/self/gid_map", "0 0 1");
	return err;
}

/* fork() a child that does not outlive the calling thread */
static inline pid_t sys_fork(void)
{
	pid_t parent = getpid(), pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
	}
	return pid;
}

/* Wait for a child to end; its status as from waitpid(), or -1 */
static inline int sys_wait(pid_t pid)
{
	int status;

	return waitpid(pid, &status, 0) == pid ? status : -1;
}

/* Wait for what another thread or process posts; -ETIMEDOUT */
static inline int sys_wait_for(sem_t *sem, unsigned int seconds)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += seconds;
	while (sem_timedwait(sem, &end)) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

#endif /* SYS_H */
