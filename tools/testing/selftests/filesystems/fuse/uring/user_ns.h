/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A user namespace, for a server that has no privilege outside of it.
 */
#ifndef USER_NS_H
#define USER_NS_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

static inline int user_ns_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t len = strlen(text);
	int err = write(fd, text, len) == len ? 0 : -errno;

	close(fd);
	return err;
}

/**
 * user_ns_enter() - become root of a new user namespace and mount namespace
 *
 * For a process with one thread, a forked child.
 *
 * Return: 0 or a negative errno; -EINVAL without CONFIG_USER_NS.
 */
static inline int user_ns_enter(void)
{
	int err;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return -errno;
	err = user_ns_write("/proc/self/uid_map", "0 0 1");
	if (!err)
		err = user_ns_write("/proc/self/setgroups", "deny");
	if (!err)
		err = user_ns_write("/proc/self/gid_map", "0 0 1");
	return err;
}

#endif /* USER_NS_H */
