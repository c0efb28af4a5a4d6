// SPDX-License-Identifier: GPL-2.0
/*
 * If the backing file does not open, open() says why. The server has an O_PATH
 * fd, so that nobody has tried before.
 */
#include <linux/fs.h>
#include "raw_server.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include "../../kselftest_harness.h"

#define RUN_AND_WAIT	"RAW_TEST_RUN_AND_WAIT"

/* What runs from the backing file. */
__attribute__((constructor)) static void run_and_wait(void)
{
	if (!getenv(RUN_AND_WAIT))
		return;
	for (;;)
		pause();
}

static int set_flag(int flag)
{
	int fd = open("/tmp/backing", O_RDONLY);
	int ret;

	ret = ioctl(fd, FS_IOC_SETFLAGS, &flag);
	close(fd);
	return ret;
}

static int set_append(void)
{
	return set_flag(FS_APPEND_FL);
}

static int set_immutable(void)
{
	return set_flag(FS_IMMUTABLE_FL);
}

static int read_only_mount(void)
{
	return mount("/tmp/backing", "/tmp/backing", NULL, MS_BIND, NULL) ||
	       mount(NULL, "/tmp/backing", NULL,
		     MS_BIND | MS_REMOUNT | MS_RDONLY, NULL);
}

/* Runs a copy of this program from the backing file. */
static int run_program(void)
{
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int copy = open("/tmp/backing", O_WRONLY | O_CLOEXEC);
	char dummy;
	int p[2];

	while (sendfile(copy, self, NULL, 1 << 20) > 0)
		;
	close(self);
	close(copy);
	/* The end of the pipe tells that execl() has worked. */
	if (pipe2(p, O_CLOEXEC))
		return -1;
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setenv(RUN_AND_WAIT, "1", 1);
		execl("/tmp/backing", "backing", NULL);
		if (write(p[1], "!", 1) < 0)
			_exit(2);
		_exit(1);
	}
	close(p[1]);
	return read(p[0], &dummy, 1);
}

static int nothing(void)
{
	return 0;
}

FIXTURE(passthrough_open_error)
{
	struct raw_server *s;
};

FIXTURE_VARIANT(passthrough_open_error)
{
	int (*prepare)(void);
	int flags;
	int32_t backing_id;	/* if not 0, this one instead */
	int error;
};

FIXTURE_VARIANT_ADD(passthrough_open_error, append_only)
{
	.prepare = set_append,
	.flags = O_RDWR,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(passthrough_open_error, append_only_append)
{
	.prepare = set_append,
	.flags = O_RDWR | O_APPEND,
};

FIXTURE_VARIANT_ADD(passthrough_open_error, immutable)
{
	.prepare = set_immutable,
	.flags = O_WRONLY,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(passthrough_open_error, read_only_mount)
{
	.prepare = read_only_mount,
	.flags = O_RDWR,
	.error = EROFS,
};

FIXTURE_VARIANT_ADD(passthrough_open_error, running_program)
{
	.prepare = run_program,
	.flags = O_RDWR,
	.error = ETXTBSY,
};

/* What is the server's mistake stays EIO. */
FIXTURE_VARIANT_ADD(passthrough_open_error, unknown_id)
{
	.prepare = nothing,
	.flags = O_RDWR,
	.backing_id = 4711,
	.error = EIO,
};

FIXTURE_SETUP(passthrough_open_error)
{
	struct raw_server *s;
	int fd;

	if (geteuid())
		SKIP(return, "needs root to mount");
	ASSERT_EQ(0, raw_sandbox());
	s = raw_server_new();
	ASSERT_NE(NULL, s);
	self->s = s;
	fd = open("/tmp/backing", O_RDWR | O_CREAT | O_EXCL, 0755);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, variant->prepare());
	s->init_flags = FUSE_PASSTHROUGH;
	s->content = open("/tmp/backing", O_PATH);
	ASSERT_LE(0, s->content);
	ASSERT_EQ(0, raw_server_mount(s, "mnt"));
	ASSERT_EQ(0, raw_server_backing(s, s->content));
	if (variant->backing_id)
		s->backing_id = variant->backing_id;
}

FIXTURE_TEARDOWN(passthrough_open_error)
{
}

TEST_F(passthrough_open_error, open)
{
	int fd;

	fd = open(self->s->file, variant->flags);
	if (!variant->error) {
		EXPECT_LE(0, fd);
		return;
	}
	EXPECT_EQ(-1, fd);
	EXPECT_EQ(variant->error, errno);
}

TEST_HARNESS_MAIN
