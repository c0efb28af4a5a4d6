// SPDX-License-Identifier: GPL-2.0
/*
 * Whether a write to a passthrough file appends is up to the file now, and to
 * the write: it can have been opened with O_APPEND, and so can its backing file.
 */
#include "raw_server.h"

#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND	0x20
#endif

FIXTURE(passthrough_append)
{
	struct raw_server *s;
	int fd;
};

FIXTURE_SETUP(passthrough_append)
{
	struct raw_server *s;

	raw_sandbox(_metadata);
	s = raw_server_start(_metadata, "mnt", FUSE_PASSTHROUGH,
			     memfd_create("content", 0));
	self->s = s;
	ASSERT_EQ(8, write(s->content, "original", 8));
	self->fd = open(s->file, O_RDWR | O_APPEND);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(passthrough_append)
{
}

/* Write "new" at offset 3; then the content has to be @content */
static void write_new(struct __test_metadata *const _metadata,
		      FIXTURE_DATA(passthrough_append) * self, int rwf,
		      const char *content)
{
	const struct iovec iov = { "new", 3 };
	char buf[20] = "";

	EXPECT_EQ(3, pwritev2(self->fd, &iov, 1, 3, rwf));
	EXPECT_LE(0, pread(self->s->content, buf, sizeof(buf) - 1, 0));
	EXPECT_STREQ(content, buf);
}

TEST_F(passthrough_append, rwf_noappend)
{
	write_new(_metadata, self, RWF_NOAPPEND, "orinewal");
}

TEST_F(passthrough_append, cleared)
{
	ASSERT_EQ(0, fcntl(self->fd, F_SETFL, 0));
	write_new(_metadata, self, 0, "orinewal");
}

TEST_F(passthrough_append, appends)
{
	write_new(_metadata, self, 0, "originalnew");
	ASSERT_EQ(0, fcntl(self->fd, F_SETFL, 0));
	write_new(_metadata, self, RWF_APPEND, "originalnewnew");
	ASSERT_EQ(0, fcntl(self->fd, F_SETFL, O_APPEND));
	write_new(_metadata, self, 0, "originalnewnewnew");
}

TEST_HARNESS_MAIN
