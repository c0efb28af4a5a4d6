// SPDX-License-Identifier: GPL-2.0
/*
 * fsync() of a passthrough file is one of the backing file. That is a file of a
 * second FUSE mount here, whose server sees the FSYNC, or fails it.
 */
#include "raw_server.h"

FIXTURE(passthrough_fsync)
{
	struct raw_server *lower, *upper;
	int fd;
};

FIXTURE_SETUP(passthrough_fsync)
{
	raw_sandbox(_metadata);
	self->lower = raw_server_start(_metadata, "lower", 0,
				       memfd_create("content", 0));
	self->upper = raw_server_start(_metadata, "upper", FUSE_PASSTHROUGH,
				       open(self->lower->file, O_RDWR));
	self->fd = open(self->upper->file, O_RDWR);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(passthrough_fsync)
{
}

/* The first one, which is answered with ENOSYS, and those after it. */
TEST_F(passthrough_fsync, server_without_fsync)
{
	struct raw_server *lower = self->lower, *upper = self->upper;
	int fd = self->fd;

	upper->errors[FUSE_FSYNC] = -ENOSYS;
	ASSERT_EQ(1, write(fd, "1", 1));
	EXPECT_EQ(0, fsync(fd));
	EXPECT_EQ(1, lower->requests[FUSE_FSYNC]);
	ASSERT_EQ(1, write(fd, "2", 1));
	EXPECT_EQ(0, fsync(fd));
	EXPECT_EQ(2, lower->requests[FUSE_FSYNC]);
	EXPECT_EQ(0, fdatasync(fd));
	EXPECT_EQ(3, lower->requests[FUSE_FSYNC]);
	EXPECT_EQ(1, upper->requests[FUSE_FSYNC]);
}

TEST_F(passthrough_fsync, server_with_fsync)
{
	struct raw_server *lower = self->lower, *upper = self->upper;
	int fd = self->fd;

	ASSERT_EQ(1, write(fd, "1", 1));
	EXPECT_EQ(0, fsync(fd));
	EXPECT_EQ(1, lower->requests[FUSE_FSYNC]);
	EXPECT_EQ(1, upper->requests[FUSE_FSYNC]);
}

TEST_F(passthrough_fsync, error_of_the_backing_file)
{
	struct raw_server *lower = self->lower, *upper = self->upper;
	int fd = self->fd;

	upper->errors[FUSE_FSYNC] = -ENOSYS;
	lower->errors[FUSE_FSYNC] = -EDQUOT;
	ASSERT_EQ(1, write(fd, "1", 1));
	EXPECT_EQ(-1, fsync(fd));
	EXPECT_EQ(EDQUOT, errno);
}

TEST_F(passthrough_fsync, synchronous_writes)
{
	struct raw_server *lower = self->lower, *upper = self->upper;
	struct iovec iov = { "1", 1 };
	int fd = self->fd;

	upper->errors[FUSE_FSYNC] = -ENOSYS;
	ASSERT_EQ(1, pwritev2(fd, &iov, 1, 0, RWF_DSYNC));
	EXPECT_EQ(1, lower->requests[FUSE_FSYNC]);
	fd = open(upper->file, O_RDWR | O_DSYNC);
	ASSERT_LE(0, fd);
	ASSERT_EQ(1, write(fd, "1", 1));
	EXPECT_EQ(2, lower->requests[FUSE_FSYNC]);
}

TEST_HARNESS_MAIN
