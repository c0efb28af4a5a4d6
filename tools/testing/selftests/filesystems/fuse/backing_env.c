// SPDX-License-Identifier: GPL-2.0
/*
 * What every test of backing files begins and ends with, see backing_env.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "backing_env.h"

__u64 backing_init_flags;
__u32 backing_init_minor;
int backing_init_err;
static bool uring_was_on;

static void give_back_parameter(void)
{
	ring_server_enable_uring(uring_was_on, NULL);
}

void backing_env_main(void)
{
	backing_init_err = ring_server_enable_uring(true, &uring_was_on);
	if (backing_init_err)
		return;
	/* the tests are children that _exit(), so this runs once */
	atexit(give_back_parameter);
	backing_init_err = ring_server_init_flags(&backing_init_flags,
						  &backing_init_minor);
}

int backing_make_file(struct backing_env *env, const char *name, size_t size)
{
	unsigned char buf[BACKING_FILE_SZ];
	size_t i;
	int fd;

	fd = openat(env->dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC,
		    0644);
	if (fd < 0)
		return -errno;
	/* name[0] makes the contents of two files differ */
	for (i = 0; i < size; i++)
		buf[i] = i * 7 + i / 256 + name[0];
	if (write(fd, buf, size) != (ssize_t)size) {
		close(fd);
		return -EIO;
	}
	return fd;
}

const char *backing_env_missing(const struct backing_how *how)
{
	static const struct backing_how plain = {
		.setup_flags = IORING_SETUP_SQE128,
	};

	if (geteuid())
		return "needs root";
	if (backing_init_err)
		return "FUSE_INIT cannot be read, or no enable_uring";
	if (!(backing_init_flags & FUSE_HAS_IO_URING_BACKING))
		return "FUSE_INIT has no FUSE_HAS_IO_URING_BACKING";
	/* the server has rings in any case */
	switch (backing_issuer_probe(how && !how->ioctl ? how : &plain)) {
	case 0:
		return NULL;
	case -EOPNOTSUPP:
		return "the liburing of the build has no SQE_MIXED";
	case -EINVAL:
		return "the kernel has no such ring";
	default:
		return "no ring: is io_uring off, or RLIMIT_MEMLOCK too low?";
	}
}

int backing_env_setup(struct backing_env *env)
{
	static bool unshared;

	/*
	 * All mounts are gone with this process, whatever happens. A second
	 * time would leave the files of the first env on mounts of a namespace
	 * that is gone, and nothing to unmount.
	 */
	if (!unshared && (unshare(CLONE_NEWNS) ||
			  mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)))
		return -errno;
	unshared = true;

	env->dir_fd = -1;
	snprintf(env->base, sizeof(env->base), "/tmp/backing.XXXXXX");
	if (!mkdtemp(env->base))
		return -errno;
	snprintf(env->mnt, sizeof(env->mnt), "%s/mnt", env->base);
	snprintf(env->back, sizeof(env->back), "%s/back", env->base);
	if (mkdir(env->mnt, 0755) || mkdir(env->back, 0755) ||
	    mount("backing", env->back, "tmpfs", 0, NULL))
		return -errno;
	env->dir_fd = open(env->back, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return env->dir_fd < 0 ? -errno : 0;
}

int backing_env_start(struct backing_env *env, const struct backing_how *how,
		      const struct ring_server_cfg *cfg)
{
	struct ring_server_cfg c = { .init_flags = BACKING_INIT };
	int err;

	if (cfg)
		c = *cfg;
	if (!c.max_stack_depth)
		c.max_stack_depth = 1;
	c.priv = env;
	err = ring_server_start(&env->server, env->mnt, env->dir_fd, &c);
	if (err)
		return err;
	return backing_issuer_init(&env->issuer, how,
				   ring_server_dev_fd(env->server));
}

int backing_env_stop(struct backing_env *env)
{
	int err;

	backing_issuer_exit(&env->issuer);
	err = ring_server_stop(env->server);
	env->server = NULL;
	return err;
}

int backing_env_teardown(struct backing_env *env)
{
	int err, i;

	if (!env->base[0])
		return 0;

	err = backing_env_stop(env);
	if (env->dir_fd >= 0)
		close(env->dir_fd);
	/*
	 * The last fput() of a connection can run in a work queue: of a ring
	 * whose owner was killed, and on a kernel that is slow to debug
	 */
	for (i = 0; umount2(env->back, 0); i++) {
		if (i == 20 * (env->patience ? (int)env->patience : 15)) {
			err = err ? err : -errno;
			umount2(env->back, MNT_DETACH);
			break;
		}
		usleep(50000);
	}
	rmdir(env->back);
	rmdir(env->mnt);
	rmdir(env->base);
	return err;
}

int backing_register_file(struct backing_env *env, const char *name)
{
	int fd, id, err;

	fd = backing_make_file(env, name, BACKING_FILE_SZ);
	if (fd < 0)
		return fd;
	id = backing_issue_open(&env->issuer, fd);
	close(fd);
	if (id <= 0)
		return id ? id : -EPROTO;
	err = ring_server_set_backing(env->server, name, id);
	return err ? err : id;
}

int open_mnt(struct backing_env *env, const char *name, int flags)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", env->mnt, name);
	fd = open(path, flags | O_CLOEXEC, 0644);
	return fd < 0 ? -errno : fd;
}

int open_back(struct backing_env *env, const char *name, int flags)
{
	int fd = openat(env->dir_fd, name, flags | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int cmp_back(struct backing_env *env, const char *name, const void *want,
	     size_t len, off_t off)
{
	char buf[BACKING_FILE_SZ];
	int fd = open_back(env, name, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return fd;
	n = pread(fd, buf, len, off);
	close(fd);
	if (n != (ssize_t)len)
		return -EIO;
	return memcmp(buf, want, len) ? 1 : 0;
}

int served(struct backing_env *env)
{
	return ring_server_count(env->server, FUSE_READ) +
	       ring_server_count(env->server, FUSE_WRITE);
}

int set_capability(int cap, bool on)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &hdr, data))
		return -errno;
	if (on)
		data[CAP_TO_INDEX(cap)].effective |= CAP_TO_MASK(cap);
	else
		data[CAP_TO_INDEX(cap)].effective &= ~CAP_TO_MASK(cap);
	if (syscall(SYS_capset, &hdr, data))
		return -errno;
	return 0;
}

int drop_sys_admin(void)
{
	return set_capability(CAP_SYS_ADMIN, false);
}

int in_child(int (*fn)(struct backing_env *env, const struct backing_how *how),
	     struct backing_env *env, const struct backing_how *how)
{
	int status;
	pid_t pid;

	pid = fork();
	if (!pid) {
		int ret = fn(env, how);

		_exit(ret > 0 ? 255 : -ret);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -ECHILD;
	return -WEXITSTATUS(status);
}
