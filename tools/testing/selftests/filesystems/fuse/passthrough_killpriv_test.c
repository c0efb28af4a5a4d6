// SPDX-License-Identifier: GPL-2.0
/*
 * A write to a passthrough file by a user without CAP_FSETID takes suid and
 * sgid away, and its capabilities. The server does not see the write, so that
 * it is not its turn, whatever it said at FUSE_INIT.
 */
#include "raw_server.h"
#include <linux/capability.h>
#include <sys/xattr.h>

#define CAPS "security.capability"

FIXTURE(passthrough_killpriv)
{
	struct raw_server *s;
	int fd;
};

FIXTURE_VARIANT(passthrough_killpriv)
{
	uint64_t flags;
};

FIXTURE_VARIANT_ADD(passthrough_killpriv, by_kernel) {};

FIXTURE_VARIANT_ADD(passthrough_killpriv, by_server)
{
	.flags = FUSE_HANDLE_KILLPRIV,
};

FIXTURE_VARIANT_ADD(passthrough_killpriv, by_server_v2)
{
	.flags = FUSE_HANDLE_KILLPRIV_V2,
};

FIXTURE_SETUP(passthrough_killpriv)
{
	struct vfs_cap_data cap = {
		.magic_etc = VFS_CAP_REVISION_2,
		.data[0].permitted = 1 << CAP_NET_RAW,
	};
	struct raw_server *s;
	struct stat st;

	raw_sandbox(_metadata);
	s = raw_server_start(_metadata, "mnt",
			     FUSE_PASSTHROUGH | variant->flags,
			     memfd_create("content", 0));
	self->s = s;
	ASSERT_EQ(0, fchown(s->content, 1000, 1000));
	ASSERT_EQ(0, fsetxattr(s->content, CAPS, &cap,
			       XATTR_CAPS_SZ_2, 0));
	ASSERT_EQ(0, fchmod(s->content, 06777));
	self->fd = open(s->file, O_RDWR);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fstat(self->fd, &st));
	ASSERT_EQ(06777, st.st_mode & 07777);
}

FIXTURE_TEARDOWN(passthrough_killpriv)
{
}

static void expect_killed(struct __test_metadata *const _metadata,
			  FIXTURE_DATA(passthrough_killpriv) * self)
{
	struct stat st;

	ASSERT_EQ(0, fstat(self->s->content, &st));
	EXPECT_EQ(1, st.st_size);
	EXPECT_EQ(0777, st.st_mode & 07777);
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(0777, st.st_mode & 07777);
	EXPECT_EQ(-1, fgetxattr(self->s->content, CAPS, NULL, 0));
	EXPECT_EQ(ENODATA, errno);
}

TEST_F(passthrough_killpriv, write)
{
	ASSERT_EQ(0, seteuid(1001));
	EXPECT_EQ(1, write(self->fd, "1", 1));
	ASSERT_EQ(0, seteuid(0));
	expect_killed(_metadata, self);
}

TEST_F(passthrough_killpriv, splice)
{
	int p[2];

	ASSERT_EQ(0, pipe(p));
	ASSERT_EQ(1, write(p[1], "1", 1));
	ASSERT_EQ(0, seteuid(1001));
	EXPECT_EQ(1, splice(p[0], NULL, self->fd, NULL, 1, 0));
	ASSERT_EQ(0, seteuid(0));
	expect_killed(_metadata, self);
}

/* The server sees this, so it is its turn if it said so. */
TEST_F(passthrough_killpriv, truncate)
{
	ASSERT_EQ(0, seteuid(1001));
	EXPECT_EQ(0, ftruncate(self->fd, 1));
	ASSERT_EQ(0, seteuid(0));
	EXPECT_NE(0, self->s->setattr & FATTR_SIZE);
	EXPECT_EQ(!variant->flags, !!(self->s->setattr & FATTR_MODE));
}

/* CAP_FSETID keeps them. */
TEST_F(passthrough_killpriv, write_by_root)
{
	struct stat st;

	ASSERT_EQ(1, write(self->fd, "1", 1));
	ASSERT_EQ(0, fstat(self->s->content, &st));
	EXPECT_EQ(06777, st.st_mode & 07777);
}

TEST_HARNESS_MAIN
