// SPDX-License-Identifier: GPL-2.0
/*
 * The ring server serves: over the rings of its queues, and without them.
 */
#define _GNU_SOURCE
#include "env.h"

FIXTURE(serve)
{
	struct env env;
};

FIXTURE_VARIANT(serve)
{
	__u64 init_flags;
};

FIXTURE_VARIANT_ADD(serve, io_uring) {
	.init_flags = FUSE_OVER_IO_URING,
};

FIXTURE_VARIANT_ADD(serve, dev_fuse) {
};

FIXTURE_SETUP(serve)
{
	const char *missing = env_setup(_metadata, &self->env,
					variant->init_flags);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(serve)
{
	env_teardown(_metadata, &self->env);
}

TEST_F(serve, read_and_write)
{
	const struct ring_server_cfg cfg = { .init_flags = variant->init_flags };
	int back, fd;
	char c;

	env_start(_metadata, &self->env, &cfg);
	back = env_file(_metadata, &self->env, "file");
	fd = env_open("file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_TRUE(env_is(fd, "file"));
	if (variant->init_flags) {
		EXPECT_EQ(1, pwrite(fd, "x", 1, 5));
		EXPECT_EQ(1, pread(back, &c, 1, 5));
		EXPECT_EQ('x', c);
	}
	EXPECT_LT(0, env_io_served(&self->env));
	EXPECT_EQ(!variant->init_flags, !self->env.server->enters);
	close(fd);
	close(back);
	EXPECT_EQ(0, ring_server_wait(self->env.server, FUSE_RELEASE, 1));
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
