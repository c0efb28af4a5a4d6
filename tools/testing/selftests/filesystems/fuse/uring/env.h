/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a test of FUSE backing files begins and ends with: a backing directory
 * on a tmpfs of its own, a mount point, and a ring server that serves the files
 * of the one at the other.
 *
 * All of it is in a mount namespace of the test's own, so that nothing is left
 * however it ends. Functions with a _metadata fail the test by themselves; that
 * is why this is a header. Else those that return int return 0 (or what is said)
 * or a negative errno.
 */
#ifndef ENV_H
#define ENV_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "enable_uring.h"
#include "files.h"

#define ENV_BACK	"/tmp/back"
#define ENV_MNT		"/tmp/mnt"

/* Bytes of a file of env_file(); not a multiple of a page */
#define ENV_FILE_SZ	(3 * 4096 + 100)

/* What a server of backing files negotiates */
#define ENV_INIT	(FUSE_OVER_IO_URING | FUSE_PASSTHROUGH)

struct env {
	/* first: the priv of the server is the env */
	struct files files;
	struct ring_server *server;
	/* tells that the backing file system is gone */
	int inotify_fd;
};

/**
 * env_stop() - unmount, which has to work, and end the server
 * @_metadata:	of the test
 * @env:	set up; can be started again
 */
static __maybe_unused void
env_stop(struct __test_metadata *_metadata, struct env *env)
{
	EXPECT_EQ(0, ring_server_stop(env->server));
	env->server = NULL;
}

static void env_abort(int sig)
{
	umount2(ENV_MNT, MNT_FORCE);
}

static void *env_deadline(void *seconds)
{
	sleep((uintptr_t)seconds);
	env_abort(0);
	return NULL;
}

/**
 * env_setup() - make the directories, and ask the kernel what it can do
 * @_metadata:	of the test
 * @env:	to be filled in
 * @need:	FUSE_INIT flags
 *
 * Return: why the test cannot run here, to SKIP with, or NULL.
 */
static __maybe_unused const char *
env_setup(struct __test_metadata *_metadata, struct env *env, __u64 need)
{
	const struct ring_server_cfg probe = { .no_queues = true };
	pthread_t thread;
	__u64 offered;
	int fd, err;

	if (geteuid())
		return "needs root";
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	/*
	 * A client that waits for its server cannot be killed, and here they are
	 * one process: abort the connection before that or the harness ends it.
	 */
	signal(SIGABRT, env_abort);
	ASSERT_EQ(0, pthread_create(&thread, NULL, env_deadline,
				    (void *)(uintptr_t)(_metadata->timeout - 3)));
	ASSERT_EQ(0, mount("tmp", "/tmp", "tmpfs", 0, NULL));
	ASSERT_EQ(0, mkdir(ENV_BACK, 0755));
	ASSERT_EQ(0, mkdir(ENV_MNT, 0755));
	ASSERT_EQ(0, mount("backing", ENV_BACK, "tmpfs", 0, NULL));
	env->inotify_fd = inotify_init1(IN_CLOEXEC);
	ASSERT_LE(0, inotify_add_watch(env->inotify_fd, ENV_BACK, IN_MOVE_SELF));
	fd = open(ENV_BACK, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	files_init(&env->files, fd);

	err = ring_server_start(&env->server, ENV_MNT, &probe);
	if (err)
		return "FUSE_INIT does not come: is there no /dev/fuse?";
	offered = env->server->offered;
	env_stop(_metadata, env);
	need &= ~offered;
	if (need & FUSE_OVER_IO_URING)
		return "no FUSE_OVER_IO_URING";
	if (need & FUSE_PASSTHROUGH)
		return "no FUSE_PASSTHROUGH";
	if (need & FUSE_HAS_IO_URING_BACKING)
		return "no FUSE_HAS_IO_URING_BACKING";
	if (need & FUSE_HAS_IO_URING_BACKING)
		return "no FUSE_HAS_IO_URING_BACKING";
	return need ? "FUSE_INIT lacks a flag that is needed" : NULL;
}

/**
 * env_start() - mount and serve
 * @_metadata:	of the test
 * @env:	set up
 * @cfg:	as for ring_server_start(); NULL: one with ENV_INIT. What is 0 in
 *		max_stack_depth, handle and priv is set to 1, files_handle() and
 *		@env
 */
static __maybe_unused void
env_start(struct __test_metadata *_metadata, struct env *env,
	  const struct ring_server_cfg *cfg)
{
	struct ring_server_cfg c = { .init_flags = ENV_INIT };

	if (cfg)
		c = *cfg;
	if (!c.max_stack_depth)
		c.max_stack_depth = 1;
	if (!c.handle)
		c.handle = files_handle;
	if (!c.priv)
		c.priv = env;
	ASSERT_EQ(0, ring_server_start(&env->server, ENV_MNT, &c));
}

/**
 * env_teardown() - undo all of it
 * @_metadata:	of the test
 * @env:	set up or zeroed
 *
 * The test fails if something still holds a backing file: their file system has
 * to go.
 */
static __maybe_unused void
env_teardown(struct __test_metadata *_metadata, struct env *env)
{
	struct pollfd pfd = { .fd = env->inotify_fd, .events = POLLIN };
	union {
		struct inotify_event event;
		char buf[4096];
	} in;

	/* it was not set up */
	if (!env->inotify_fd)
		return;
	env_stop(_metadata, env);
	files_exit(&env->files);
	/*
	 * The last fput() can be in a work queue or behind a grace period, so
	 * umount() could be too early. The file system says when it goes.
	 */
	EXPECT_EQ(0, umount2(ENV_BACK, MNT_DETACH));
	do {
		if (poll(&pfd, 1, RING_PATIENCE * 1000) != 1) {
			EXPECT_TRUE(false) {
				TH_LOG("something still holds a backing file");
			}
			break;
		}
		if (read(pfd.fd, &in, sizeof(in)) < 0)
			break;
	} while (!(in.event.mask & (IN_UNMOUNT | IN_IGNORED)));
	close(env->inotify_fd);
}

static char content(const char *name, size_t i)
{
	return i * 7 + i / 256 + name[0];
}

/**
 * env_file() - make or overwrite a backing file
 * @_metadata:	of the test
 * @env:	set up
 * @name:	in the backing directory; its first letter makes the contents
 *
 * Return: a file descriptor, O_RDWR.
 */
static __maybe_unused int
env_file(struct __test_metadata *_metadata, struct env *env, const char *name)
{
	char buf[ENV_FILE_SZ];
	size_t i;
	int fd;

	fd = openat(env->files.dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC,
		    0644);
	ASSERT_LE(0, fd);
	for (i = 0; i < sizeof(buf); i++)
		buf[i] = content(name, i);
	ASSERT_EQ(sizeof(buf), write(fd, buf, sizeof(buf)));
	return fd;
}

/**
 * env_open() - open a file as a client
 * @name:	in the mount
 * @flags:	for open(2)
 *
 * Return: a file descriptor.
 */
static __maybe_unused int env_open(const char *name, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), ENV_MNT "/%s", name);
	fd = open(path, flags | O_CLOEXEC, 0644);
	return fd < 0 ? -errno : fd;
}

/**
 * env_is() - does a file begin as env_file() made it?
 * @fd:		the file
 * @name:	what it was made with
 *
 * Return: 1 or 0.
 */
static __maybe_unused int env_is(int fd, const char *name)
{
	char buf[64];
	size_t i;

	if (pread(fd, buf, sizeof(buf), 0) != sizeof(buf))
		return 0;
	for (i = 0; i < sizeof(buf) && buf[i] == content(name, i); i++)
		;
	return i == sizeof(buf);
}

/**
 * env_io_served() - what did not pass through
 * @env:	started
 *
 * Return: how many READs and WRITEs have reached the server.
 */
static __maybe_unused unsigned long env_io_served(struct env *env)
{
	return ring_server_count(env->server, FUSE_READ) +
	       ring_server_count(env->server, FUSE_WRITE);
}

/**
 * env_pin() - run the calling thread on one CPU, whose queue gets its requests
 * @_metadata:	of the test
 * @cpu:	its number
 */
static __maybe_unused void
env_pin(struct __test_metadata *_metadata, unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(set), &set));
}

/**
 * env_released() - wait until the kernel has done with files that were closed
 * @_metadata:	of the test
 * @env:	started; the caller is pinned, and was when it closed them
 * @nr:		how many since the start
 *
 * An inode is in passthrough mode until the answer to its last RELEASE.
 */
static __maybe_unused void
env_released(struct __test_metadata *_metadata, struct env *env,
	     unsigned long nr)
{
	ASSERT_EQ(0, ring_server_wait(env->server, FUSE_RELEASE, nr));
	/* the answers of a queue go out in order */
	ASSERT_EQ(-ENOENT, env_open("no such file", O_RDONLY));
}

#endif /* ENV_H */
