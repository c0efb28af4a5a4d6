/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a test of FUSE backing files begins and ends with: a backing directory
 * on a tmpfs of its own, a mount point, and a ring server that serves the files
 * of the one at the other.
 *
 * All of it is in a mount namespace of the test's own, so that nothing is left
 * however it ends. Functions with a _metadata fail the test by themselves; that
 * is why this is a header.
 */
#ifndef ENV_H
#define ENV_H

#include <poll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "kselftest_harness.h"
#include "files.h"
#include "sys.h"

#define ENV_BACK	"/tmp/back"
#define ENV_MNT		"/tmp/mnt"

/* Bytes of a file of env_file(); not a multiple of a page */
#define ENV_FILE_SZ	(3 * 4096 + 100)

/* What a server of backing files negotiates */
#define ENV_INIT	(FUSE_OVER_IO_URING | FUSE_PASSTHROUGH)
/* and needs for an enum issue_by */
#define ENV_NEED(by)	(ENV_INIT | FUSE_HAS_COMMIT_BACKING |		\
			 ((by) == BY_COMMAND ? FUSE_HAS_IO_URING_BACKING : 0))

/* The main() of each program */
#define ENV_MAIN						\
	int main(int argc, char **argv)				\
	{							\
		enable_uring_hold();				\
		exit(test_harness_run(argc, argv));		\
	}

struct env {
	/* first: the priv of the server is the env */
	struct files files;
	struct ring_server *server;
	/* tells that the backing file system is gone */
	int inotify_fd;
	/* the first CPUs that the test may use */
	unsigned int cpu[2], nr_cpus;
};

/* Unmount, which has to work, and end the server; it can be started again */
static __maybe_unused void
env_stop(struct __test_metadata *_metadata, struct env *env)
{
	EXPECT_EQ(0, ring_server_stop(env->server));
	env->server = NULL;
}

/* Is a command there, whatever it says to one without a file? */
static __maybe_unused bool env_has_cmd(int dev_fd, __u32 cmd_op)
{
	const struct fuse_uring_cmd_req req = { .backing.map.fd = -1 };
	struct issuer issuer;
	int res = issuer_init(&issuer, NULL, dev_fd, 0);

	if (!res)
		res = issue(&issuer, cmd_op, &req);
	issuer_exit(&issuer);
	return res != -EINVAL && res != -EOPNOTSUPP;
}

/*
 * Make the directories, and ask the kernel what it can do. Returns why the test
 * cannot run here, to SKIP with: one of the FUSE_INIT flags @need is not
 * offered. If the kernel has what that stands for nevertheless, the test fails.
 */
static __maybe_unused const char *
env_setup(struct __test_metadata *_metadata, struct env *env, __u64 need)
{
	const struct ring_server_cfg probe = {
		.init_flags = ENV_INIT,
		.max_stack_depth = 1,
		.no_queues = true,
	};
	unsigned int i;
	__u64 missing;
	cpu_set_t set;
	int fd, err;

	if (geteuid())
		return "needs root";
	/* a test that was killed may have left it off */
	enable_uring(true);
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("tmp", "/tmp", "tmpfs", 0, NULL));
	ASSERT_EQ(0, mkdir(ENV_BACK, 0755));
	ASSERT_EQ(0, mkdir(ENV_MNT, 0755));
	ASSERT_EQ(0, mount("backing", ENV_BACK, "tmpfs", 0, NULL));
	env->inotify_fd = inotify_init1(IN_CLOEXEC);
	ASSERT_LE(0, inotify_add_watch(env->inotify_fd, ENV_BACK,
				       IN_MOVE_SELF));
	fd = open(ENV_BACK, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	files_init(&env->files, fd);
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(set), &set));
	for (i = 0; i < CPU_SETSIZE && env->nr_cpus < 2; i++) {
		if (CPU_ISSET(i, &set))
			env->cpu[env->nr_cpus++] = i;
	}

	err = ring_server_start(&env->server, ENV_MNT, &probe);
	if (err == -ENOENT || err == -ENODEV || err == -ENXIO)
		return "no FUSE";
	ASSERT_EQ(0, err);
	fd = env->server->dev_fd;
	missing = need & ~env->server->offered;
	if (missing & FUSE_OVER_IO_URING)
		return "no FUSE_OVER_IO_URING";
	if (missing & FUSE_PASSTHROUGH)
		return "no FUSE_PASSTHROUGH";
	if (missing & FUSE_HAS_COMMIT_BACKING) {
		ASSERT_FALSE(env_has_cmd(fd, FUSE_IO_URING_CMD_COMMIT_BACKING));
		return "no FUSE_HAS_COMMIT_BACKING";
	}
	if (missing & FUSE_HAS_IO_URING_BACKING) {
		ASSERT_FALSE(env_has_cmd(fd, FUSE_IO_URING_CMD_BACKING_OPEN));
		return "no FUSE_HAS_IO_URING_BACKING";
	}
	env_stop(_metadata, env);
	return NULL;
}

/*
 * Mount and serve with @cfg, or NULL: one with ENV_INIT and FILES_HOOKS. What
 * is 0 in max_stack_depth, handle and priv is set to 1, files_handle() and
 * @env.
 */
static __maybe_unused void
env_start(struct __test_metadata *_metadata, struct env *env,
	  const struct ring_server_cfg *cfg)
{
	struct ring_server_cfg c = {
		.init_flags = ENV_INIT,
		.hooks = FILES_HOOKS,
	};

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

/*
 * Undo all of it. The test fails if something still holds a backing file: their
 * file system has to go.
 */
static __maybe_unused void
env_teardown(struct __test_metadata *_metadata, struct env *env)
{
	struct pollfd pfd = { .fd = env->inotify_fd, .events = POLLIN };
	struct inotify_event event = { };

	env_stop(_metadata, env);
	files_exit(&env->files);
	/*
	 * The last fput() can be in a work queue or behind a grace period, so
	 * umount() could be too early. The file system says when it goes.
	 */
	EXPECT_EQ(0, umount2(ENV_BACK, MNT_DETACH));
	do {
		ASSERT_EQ(1, poll(&pfd, 1, RING_PATIENCE * 1000)) {
			TH_LOG("something still holds a backing file");
		}
		ASSERT_EQ(sizeof(event), read(pfd.fd, &event, sizeof(event)));
	} while (!(event.mask & (IN_UNMOUNT | IN_IGNORED)));
	close(env->inotify_fd);
}

static char env_content(const char *name, size_t i)
{
	return i * 7 + i / 256 + name[0];
}

/*
 * Make or overwrite a backing file, O_RDWR; the first letter of its name makes
 * the contents
 */
static __maybe_unused int
env_file(struct __test_metadata *_metadata, struct env *env, const char *name)
{
	char buf[ENV_FILE_SZ];
	size_t i;
	int fd;

	fd = openat(env->files.dir_fd, name,
		    O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	ASSERT_LE(0, fd);
	for (i = 0; i < sizeof(buf); i++)
		buf[i] = env_content(name, i);
	ASSERT_EQ(sizeof(buf), write(fd, buf, sizeof(buf)));
	return fd;
}

/* Open a file of the mount as a client; an fd or a negative errno */
static __maybe_unused int env_open(const char *name, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), ENV_MNT "/%s", name);
	fd = open(path, flags | O_CLOEXEC, 0644);
	return fd < 0 ? -errno : fd;
}

/* Does a file begin as env_file() made the one with that name? */
static __maybe_unused bool env_is(int fd, const char *name)
{
	char buf[64];
	size_t i;

	if (pread(fd, buf, sizeof(buf), 0) != sizeof(buf))
		return false;
	for (i = 0; i < sizeof(buf) && buf[i] == env_content(name, i); i++)
		;
	return i == sizeof(buf);
}

/* Does a file have that text at that offset? */
static __maybe_unused bool env_has(int fd, const char *text, off_t off)
{
	char buf[64];
	ssize_t len = strlen(text);

	return pread(fd, buf, len, off) == len && !memcmp(buf, text, len);
}

/* How many READs and WRITEs did not pass through, but reached the server */
static __maybe_unused unsigned long env_io_served(struct env *env)
{
	return ring_server_count(env->server, FUSE_READ) +
	       ring_server_count(env->server, FUSE_WRITE);
}

/* Run the calling thread on the first CPU, or the second: its queue gets all */
static __maybe_unused void
env_pin(struct __test_metadata *_metadata, struct env *env, unsigned int which)
{
	cpu_set_t set;

	ASSERT_LT(which, env->nr_cpus);
	CPU_ZERO(&set);
	CPU_SET(env->cpu[which], &set);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(set), &set));
}

/*
 * Wait until @nr files have been released since the start, and the server has
 * done what it does then. The caller is pinned, and was when it closed them.
 */
static __maybe_unused void
env_released(struct __test_metadata *_metadata, struct env *env,
	     unsigned long nr)
{
	ASSERT_EQ(0, ring_server_wait(env->server, FUSE_RELEASE, nr));
	/* answered behind the RELEASE, maybe in one submission with it */
	ASSERT_EQ(-ENOENT, env_open("no such file", O_RDONLY));
	/* and when that has returned */
	ASSERT_EQ(-ENOENT, env_open("no such file", O_RDONLY));
}

/* Close a file and wait for that */
static __maybe_unused void
env_close(struct __test_metadata *_metadata, struct env *env, int fd)
{
	unsigned long nr = ring_server_count(env->server, FUSE_RELEASE);

	close(fd);
	env_released(_metadata, env, nr + 1);
}

/* The open fails with -EIO, and the server, which has opened it, is told so */
static __maybe_unused void
env_open_fails(struct __test_metadata *_metadata, struct env *env,
	       const char *name, int flags)
{
	unsigned long nr = ring_server_count(env->server, FUSE_RELEASE);

	EXPECT_EQ(-EIO, env_open(name, flags));
	env_released(_metadata, env, nr + 1);
}

#endif /* ENV_H */
