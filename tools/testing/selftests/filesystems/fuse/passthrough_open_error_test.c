// SPDX-License-Identifier: GPL-2.0
/*
 * If the backing file does not open, open() says why. The server has an O_PATH
 * fd, so that nobody has tried before.
 */
#include "raw_server.h"
#include <linux/fs.h>
#include <sys/sendfile.h>

#define RUN_AND_WAIT	"RAW_TEST_RUN_AND_WAIT"

/* What runs from the backing file. */
__attribute__((constructor)) static void run_and_wait(void)
{
	if (!getenv(RUN_AND_WAIT))
		return;
	for (;;)
		pause();
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
	int end = -1;
	char dummy;

	while (sendfile(copy, self, NULL, 1 << 20) > 0)
		;
	close(self);
	close(copy);
	if (!raw_fork(&end)) {
		setenv(RUN_AND_WAIT, "1", 1);
		execl("/tmp/backing", "backing", NULL);
		_exit(write(end, "!", 1));
	}
	/* The end of the pipe tells that execl() has worked. */
	return read(end, &dummy, 1);
}

FIXTURE(passthrough_open_error)
{
	struct raw_server *s;
};

FIXTURE_VARIANT(passthrough_open_error)
{
	int attr;		/* of the backing file: FS_*_FL */
	int (*prepare)(void);
	int flags;
	int32_t backing_id;	/* if not 0, this one instead */
	int error;
};

FIXTURE_VARIANT_ADD(passthrough_open_error, append_only)
{
	.attr = FS_APPEND_FL,
	.flags = O_RDWR,
	.error = EPERM,
};

FIXTURE_VARIANT_ADD(passthrough_open_error, append_only_append)
{
	.attr = FS_APPEND_FL,
	.flags = O_RDWR | O_APPEND,
};

FIXTURE_VARIANT_ADD(passthrough_open_error, immutable)
{
	.attr = FS_IMMUTABLE_FL,
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
	.flags = O_RDWR,
	.backing_id = 4711,
	.error = EIO,
};

FIXTURE_SETUP(passthrough_open_error)
{
	int attr = variant->attr;
	int fd;

	raw_sandbox(_metadata);
	fd = open("/tmp/backing", O_RDWR | O_CREAT | O_EXCL, 0755);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ioctl(fd, FS_IOC_SETFLAGS, &attr));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, variant->prepare ? variant->prepare() : 0);
	self->s = raw_server_start(_metadata, "mnt", FUSE_PASSTHROUGH,
				   open("/tmp/backing", O_PATH));
	if (variant->backing_id)
		self->s->backing_id = variant->backing_id;
}

FIXTURE_TEARDOWN(passthrough_open_error)
{
}

TEST_F(passthrough_open_error, open)
{
	int fd = open(self->s->file, variant->flags);

	EXPECT_EQ(variant->error, fd < 0 ? errno : 0);
}

TEST_HARNESS_MAIN
