/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A FUSE server over /dev/fuse for tests, which needs no library. It has one
 * file, "file" in the root directory, with the attributes and the content of
 * another one, which may also be its backing file. All else is -ENOSYS.
 *
 * It is a process of its own, so that a test that fails can exit with files
 * open. What it shares with the test is struct raw_server: the test gets one
 * from raw_server_start(), in a raw_sandbox(), fills in the rest of its first
 * part and uses the file.
 */
#ifndef RAW_SERVER_H
#define RAW_SERVER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <linux/fuse.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include "../../kselftest_harness.h"

#define RAW_FILE_ID	2
#define RAW_OPCODES	64
#define RAW_MAX_WRITE	4096

struct raw_server {
	/* What the test decides. */
	uint64_t init_flags;		/* FUSE_INIT: FUSE_* */
	int content;			/* fd of what "file" is */
	uint32_t open_flags;		/* OPEN: FOPEN_* */
	int32_t backing_id;		/* and the backing file's id */
	int errors[RAW_OPCODES];	/* -errno for all such requests */
	uint32_t hold;			/* opcode that gets no answer */

	/* What it can look at. */
	unsigned int requests[RAW_OPCODES];	/* that came, by opcode */
	uint64_t held;			/* the last of @hold: its unique */
	uint32_t setattr;		/* the last SETATTR: FATTR_* */
	char file[64];			/* path of "file" */
	char dir[60];			/* and of the mount */
	int dev;			/* /dev/fuse */
};

/* raw_sandbox() - a mount namespace of the test's own, with an empty /tmp */
static inline void raw_sandbox(struct __test_metadata *const _metadata)
{
	if (geteuid())
		SKIP(exit(KSFT_SKIP), "needs root to mount");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("tmpfs", "/tmp", "tmpfs", 0, NULL));
}

/*
 * raw_fork() - fork() with a pipe: @end is where the child writes, and where
 * the parent reads, which is at the end when the child has ended.
 */
static inline pid_t raw_fork(int *end)
{
	pid_t pid;
	int p[2];

	if (pipe2(p, O_CLOEXEC))
		return -1;
	pid = fork();
	*end = p[!pid];
	close(p[!!pid]);
	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

/* raw_poll() - wait until @fd can be read, but not for ever. 1, or 0. */
static inline int raw_poll(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 10000);
}

/* raw_wait_state() - until a process is in @state, as ps shows it */
static inline void raw_wait_state(pid_t pid, char state)
{
	char path[40], now = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	while (now != state) {
		sched_yield();
		f = fopen(path, "r");
		if (!f || fscanf(f, "%*d (%*[^)]) %c", &now) != 1)
			now = 0;
		if (f)
			fclose(f);
	}
}

static inline void raw_attr(struct raw_server *s, uint64_t id,
			    struct fuse_attr *attr)
{
	struct stat st;

	memset(attr, 0, sizeof(*attr));
	attr->ino = id;
	attr->nlink = 1;
	attr->blksize = 4096;
	if (id == FUSE_ROOT_ID || fstat(s->content, &st)) {
		attr->mode = S_IFDIR | 0755;
		return;
	}
	attr->mode = st.st_mode;
	attr->size = st.st_size;
}

static inline int raw_setattr(struct raw_server *s, struct fuse_setattr_in *in)
{
	s->setattr = in->valid;
	if (in->valid & FATTR_MODE && fchmod(s->content, in->mode & 07777))
		return -errno;
	if (in->valid & FATTR_SIZE && ftruncate(s->content, in->size))
		return -errno;
	return 0;
}

/* raw_answer() - the answer to a request in @out, its length or -errno */
static inline int raw_answer(struct raw_server *s, struct fuse_in_header *ih,
			     void *out)
{
	struct fuse_attr_out *attr = out;
	struct fuse_entry_out *entry = out;
	struct fuse_init_out *init = out;
	struct fuse_open_out *open = out;
	struct fuse_write_out *written = out;
	struct fuse_read_in *rd = (void *)(ih + 1);
	struct fuse_write_in *wr = (void *)(ih + 1);
	int err;

	switch (ih->opcode) {
	case FUSE_INIT:
		memset(init, 0, sizeof(*init));
		init->major = FUSE_KERNEL_VERSION;
		init->minor = FUSE_KERNEL_MINOR_VERSION;
		init->max_write = RAW_MAX_WRITE;
		init->flags = s->init_flags | FUSE_INIT_EXT;
		init->flags2 = s->init_flags >> 32;
		init->max_stack_depth = 1;
		return sizeof(*init);
	case FUSE_LOOKUP:
		memset(entry, 0, sizeof(*entry));
		entry->nodeid = RAW_FILE_ID;
		raw_attr(s, RAW_FILE_ID, &entry->attr);
		return sizeof(*entry);
	case FUSE_SETATTR:
	case FUSE_GETATTR:
		err = ih->opcode == FUSE_SETATTR ?
		      raw_setattr(s, (void *)(ih + 1)) : 0;
		if (err)
			return err;
		memset(attr, 0, sizeof(*attr));
		raw_attr(s, ih->nodeid, &attr->attr);
		return sizeof(*attr);
	case FUSE_OPEN:
		memset(open, 0, sizeof(*open));
		open->open_flags = s->open_flags;
		open->backing_id = s->backing_id;
		return sizeof(*open);
	case FUSE_READ:
		err = pread(s->content, out, rd->size, rd->offset);
		return err < 0 ? -errno : err;
	case FUSE_WRITE:
		memset(written, 0, sizeof(*written));
		err = pwrite(s->content, wr + 1, wr->size, wr->offset);
		if (err < 0)
			return -errno;
		written->size = err;
		return sizeof(*written);
	case FUSE_FSYNC:
	case FUSE_RELEASE:
		return 0;
	default:
		return -ENOSYS;
	}
}

static inline void raw_serve(struct raw_server *s)
{
	static char in[RAW_MAX_WRITE + 4096], out[2 * 65536];
	struct fuse_in_header *ih = (void *)in;

	for (;;) {
		struct fuse_out_header oh = { .len = sizeof(oh) };
		struct iovec iov[2] = { { &oh, sizeof(oh) }, { out, 0 } };
		int len;

		if (read(s->dev, in, sizeof(in)) < 0) {
			if (errno == EINTR || errno == ENOENT)
				continue;
			return;	/* the end of the connection */
		}
		if (ih->opcode == FUSE_FORGET ||
		    ih->opcode == FUSE_BATCH_FORGET ||
		    ih->opcode == FUSE_INTERRUPT)
			continue;

		len = -ENOSYS;
		if (ih->opcode < RAW_OPCODES) {
			s->requests[ih->opcode]++;
			if (s->hold == ih->opcode) {
				__atomic_store_n(&s->held, ih->unique,
						 __ATOMIC_RELEASE);
				continue;
			}
			len = s->errors[ih->opcode];
			if (!len)
				len = raw_answer(s, ih, out);
		}
		oh.unique = ih->unique;
		if (len < 0)
			oh.error = len;
		else
			iov[1].iov_len = len;
		oh.len += iov[1].iov_len;
		/* It can fail if the client or the connection is gone. */
		if (writev(s->dev, iov, 2) < 0)
			continue;
	}
}

static inline struct raw_server *raw_server_new(void)
{
	struct raw_server *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return s == MAP_FAILED ? NULL : s;
}

/*
 * raw_server_mount() - mount a server at /tmp/@name, which lives as long as the
 * caller. 0, or -errno.
 */
static inline int raw_server_mount(struct raw_server *s, const char *name)
{
	char opts[80];

	snprintf(s->dir, sizeof(s->dir), "/tmp/%.40s", name);
	snprintf(s->file, sizeof(s->file), "%.50s/file", s->dir);
	s->dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	/* mount() waits for FUSE_INIT */
	if (s->dev < 0 || ioctl(s->dev, FUSE_DEV_IOC_SYNC_INIT))
		return -errno;

	switch (fork()) {
	case -1:
		return -errno;
	case 0:
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		raw_serve(s);
		_exit(0);
	}
	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", s->dev);
	if (mkdir(s->dir, 0755) || mount("fuse", s->dir, "fuse", 0, opts))
		return -errno;
	return 0;
}

/* raw_server_backing() - let opens pass through to @fd. 0, or -errno. */
static inline int raw_server_backing(struct raw_server *s, int fd)
{
	struct fuse_backing_map map = { .fd = fd };
	int id = ioctl(s->dev, FUSE_DEV_IOC_BACKING_OPEN, &map);

	if (id < 0)
		return -errno;
	s->backing_id = id;
	s->open_flags |= FOPEN_PASSTHROUGH;
	return 0;
}

/*
 * raw_server_start() - a server at /tmp/@name for @content, which is also the
 * backing file if @init_flags have FUSE_PASSTHROUGH
 */
static inline struct raw_server *
raw_server_start(struct __test_metadata *const _metadata, const char *name,
		 uint64_t init_flags, int content)
{
	struct raw_server *s = raw_server_new();

	ASSERT_NE(NULL, s);
	ASSERT_LE(0, content);
	s->init_flags = init_flags;
	s->content = content;
	ASSERT_EQ(0, raw_server_mount(s, name));
	ASSERT_EQ(0, init_flags & FUSE_PASSTHROUGH ?
		     raw_server_backing(s, content) : 0);
	return s;
}

#endif /* RAW_SERVER_H */
