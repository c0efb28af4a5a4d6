// SPDX-License-Identifier: GPL-2.0
/*
 * A memfd with a write seal cannot be mapped writable and shared, nor can a
 * passthrough file with it as the backing file.
 */
#include "raw_server.h"

FIXTURE(passthrough_seal)
{
	struct raw_server *s;
	size_t page;
	int fd;
};

FIXTURE_VARIANT(passthrough_seal)
{
	int seal;
};

FIXTURE_VARIANT_ADD(passthrough_seal, write)
{
	.seal = F_SEAL_WRITE,
};

FIXTURE_VARIANT_ADD(passthrough_seal, future_write)
{
	.seal = F_SEAL_FUTURE_WRITE,
};

FIXTURE_SETUP(passthrough_seal)
{
	struct raw_server *s;

	raw_sandbox(_metadata);
	s = raw_server_start(_metadata, "mnt", FUSE_PASSTHROUGH,
			     memfd_create("content", MFD_ALLOW_SEALING));
	self->s = s;
	self->page = sysconf(_SC_PAGESIZE);
	ASSERT_EQ(0, ftruncate(s->content, self->page));
	ASSERT_EQ(0, fcntl(s->content, F_ADD_SEALS, variant->seal));
	self->fd = open(s->file, O_RDWR);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(passthrough_seal)
{
}

TEST_F(passthrough_seal, no_writable_shared_mapping)
{
	char *p = mmap(NULL, self->page, PROT_READ | PROT_WRITE, MAP_SHARED,
		       self->fd, 0);

	EXPECT_EQ(MAP_FAILED, p);
	EXPECT_EQ(EPERM, errno);
}

TEST_F(passthrough_seal, does_not_become_writable)
{
	char *p = mmap(NULL, self->page, PROT_READ, MAP_SHARED, self->fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(-1, mprotect(p, self->page, PROT_READ | PROT_WRITE));
	EXPECT_EQ(EACCES, errno);
}

TEST_F(passthrough_seal, private_mapping)
{
	char c, *p = mmap(NULL, self->page, PROT_READ | PROT_WRITE, MAP_PRIVATE,
			  self->fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	*p = 'x';
	ASSERT_EQ(1, pread(self->s->content, &c, 1, 0));
	EXPECT_EQ(0, c);
}

TEST_HARNESS_MAIN
