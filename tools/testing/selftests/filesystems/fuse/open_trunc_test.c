// SPDX-License-Identifier: GPL-2.0
/*
 * open(O_TRUNC) truncates, whoever does it: the server with OPEN if it said so
 * (FUSE_ATOMIC_O_TRUNC), or the kernel with SETATTR. A server without OPEN
 * cannot, whatever it said.
 */
#include "raw_server.h"

FIXTURE(open_trunc)
{
	struct raw_server *s;
};

FIXTURE_VARIANT(open_trunc)
{
	uint64_t flags;
};

FIXTURE_VARIANT_ADD(open_trunc, plain) {};

FIXTURE_VARIANT_ADD(open_trunc, writeback_cache)
{
	.flags = FUSE_WRITEBACK_CACHE,
};

FIXTURE_SETUP(open_trunc)
{
	raw_sandbox(_metadata);
	self->s = raw_server_start(_metadata, "mnt",
				   FUSE_ATOMIC_O_TRUNC | variant->flags,
				   memfd_create("content", 0));
}

FIXTURE_TEARDOWN(open_trunc)
{
}

static off_t content_size(struct raw_server *s)
{
	struct stat st;

	return fstat(s->content, &st) ? -1 : st.st_size;
}

/* The open that is the first to find out, and one when it is known. */
TEST_F(open_trunc, without_open)
{
	struct raw_server *s = self->s;
	struct stat st;
	unsigned int i;
	int fd;

	s->errors[FUSE_OPEN] = -ENOSYS;
	for (i = 1; i <= 2; i++) {
		ASSERT_EQ(0, ftruncate(s->content, 1600));
		fd = open(s->file, O_WRONLY | O_TRUNC);
		ASSERT_LE(0, fd);
		EXPECT_EQ(0, content_size(s));
		EXPECT_EQ(i, s->requests[FUSE_SETATTR]);
		ASSERT_EQ(0, fstat(fd, &st));
		EXPECT_EQ(0, st.st_size);
		ASSERT_EQ(0, close(fd));
	}
	EXPECT_EQ(1, s->requests[FUSE_OPEN]);
}

/* OPEN has done it, or should have: there is no second truncation. */
TEST_F(open_trunc, with_open)
{
	struct raw_server *s = self->s;
	int fd;

	fd = open(s->file, O_WRONLY | O_TRUNC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, s->requests[FUSE_SETATTR]);
	EXPECT_EQ(1, s->requests[FUSE_OPEN]);
}

TEST_HARNESS_MAIN
