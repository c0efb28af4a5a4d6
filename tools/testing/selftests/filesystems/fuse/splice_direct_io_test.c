// SPDX-License-Identifier: GPL-2.0
/*
 * splice() and sendfile() from a file that the server opened with
 * FOPEN_DIRECT_IO give what read() gives: what the server answers, also beyond
 * the size that it tells, and not what it answered before.
 */
#include "raw_server.h"
#include <sys/sendfile.h>
#include "../../kselftest_harness.h"

FIXTURE(splice_direct_io)
{
	struct raw_server *s;
	int pipe[2];
	int fd;
};

FIXTURE_VARIANT(splice_direct_io)
{
	bool passthrough;
	bool sendfile;
};

FIXTURE_VARIANT_ADD(splice_direct_io, splice) {};

FIXTURE_VARIANT_ADD(splice_direct_io, sendfile)
{
	.sendfile = true,
};

FIXTURE_VARIANT_ADD(splice_direct_io, passthrough_splice)
{
	.passthrough = true,
};

FIXTURE_VARIANT_ADD(splice_direct_io, passthrough_sendfile)
{
	.passthrough = true,
	.sendfile = true,
};

FIXTURE_SETUP(splice_direct_io)
{
	struct raw_server *s;
	int err = 0;

	if (geteuid())
		SKIP(return, "needs root to mount");
	ASSERT_EQ(0, raw_sandbox());
	s = raw_server_new();
	ASSERT_NE(NULL, s);
	self->s = s;
	s->content = open("/tmp/content", O_RDWR | O_CREAT, 0600);
	ASSERT_LE(0, s->content);
	s->init_flags = FUSE_PASSTHROUGH;
	ASSERT_EQ(0, raw_server_mount(s, "mnt"));
	s->open_flags = FOPEN_DIRECT_IO;
	if (variant->passthrough)
		err = raw_server_backing(s, s->content);
	ASSERT_EQ(0, err);
	ASSERT_EQ(0, pipe(self->pipe));
}

FIXTURE_TEARDOWN(splice_direct_io)
{
}

static void expect_spliced(struct __test_metadata *const _metadata,
			   FIXTURE_DATA(splice_direct_io) * self,
			   const FIXTURE_VARIANT(splice_direct_io) * variant,
			   const char *content)
{
	size_t len = strlen(content);
	char buf[100] = "";
	loff_t pos = 0;

	ASSERT_EQ(len, pwrite(self->s->content, content, len, 0));
	if (variant->sendfile) {
		ASSERT_EQ(len, sendfile(self->pipe[1], self->fd, &pos, 99));
	} else {
		ASSERT_EQ(len, splice(self->fd, &pos, self->pipe[1], NULL, 99,
				      0));
	}
	ASSERT_EQ(len, read(self->pipe[0], buf, sizeof(buf)));
	EXPECT_STREQ(content, buf);
}

TEST_F(splice_direct_io, beyond_the_size)
{
	self->s->no_size = true;
	self->fd = open(self->s->file, O_RDONLY);
	ASSERT_LE(0, self->fd);
	expect_spliced(_metadata, self, variant, "hello, world");
}

TEST_F(splice_direct_io, changed_meanwhile)
{
	ASSERT_EQ(0, ftruncate(self->s->content, 3));
	self->fd = open(self->s->file, O_RDONLY);
	ASSERT_LE(0, self->fd);
	expect_spliced(_metadata, self, variant, "old");
	expect_spliced(_metadata, self, variant, "new");
}

TEST_HARNESS_MAIN
