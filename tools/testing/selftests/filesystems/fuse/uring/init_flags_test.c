// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE_HAS_COMMIT_BACKING and FUSE_HAS_IO_URING_BACKING: what the kernel offers
 * is there, and what is there is offered.
 */
#define _GNU_SOURCE
#include "env.h"

#define BOTH	(FUSE_HAS_COMMIT_BACKING | FUSE_HAS_IO_URING_BACKING)

FIXTURE(init_flags)
{
	struct env env;
	struct issuer issuer;
	int back;
};

FIXTURE_SETUP(init_flags)
{
	const char *missing = env_setup(_metadata, &self->env,
					FUSE_OVER_IO_URING);

	if (missing)
		SKIP(return, "%s", missing);
	self->back = env_file(_metadata, &self->env, "file");
}

FIXTURE_TEARDOWN(init_flags)
{
	enable_uring(true);
	close(self->back);
	issuer_exit(&self->issuer);
	env_teardown(_metadata, &self->env);
}

/* Returns what the kernel offers of these and FUSE_PASSTHROUGH */
static __u64 start(struct __test_metadata *_metadata,
		   struct _test_data_init_flags *self, __u64 flags)
{
	const struct ring_server_cfg cfg = { .init_flags = ENV_INIT | flags };
	struct env *env = &self->env;

	env_start(_metadata, env, &cfg);
	ASSERT_EQ(0, issuer_init(&self->issuer, NULL, env->server->dev_fd, 0));
	return env->server->offered & (FUSE_PASSTHROUGH | BOTH);
}

TEST_F(init_flags, offered_if_there)
{
	__u64 offered = start(_metadata, self, 0);
	int fd = self->env.server->dev_fd;
	bool cmds = env_has_cmd(fd, FUSE_IO_URING_CMD_BACKING_OPEN);
	bool commit = env_has_cmd(fd, FUSE_IO_URING_CMD_COMMIT_BACKING);

	if (!(offered & BOTH) && !cmds && !commit)
		SKIP(return, "the kernel has neither");
	EXPECT_EQ(commit, !!(offered & FUSE_HAS_COMMIT_BACKING));
	EXPECT_EQ(cmds, !!(offered & FUSE_HAS_IO_URING_BACKING));
	EXPECT_EQ(cmds ? -ENOENT : -EINVAL, issue_close(&self->issuer, 1));
}

/* What the server returns of them is not looked at; elsewhere it is neither */
TEST_F(init_flags, returned)
{
	if (!(start(_metadata, self, BOTH) & FUSE_HAS_IO_URING_BACKING))
		SKIP(return, "no FUSE_HAS_IO_URING_BACKING");
	EXPECT_EQ(1, issue_open(&self->issuer, self->back));
}

TEST_F(init_flags, eopnotsupp_without_passthrough)
{
	enum issue_by by;

	if (start(_metadata, self, 0) & FUSE_PASSTHROUGH)
		SKIP(return, "FUSE_PASSTHROUGH is built in");
	if (issue_open(&self->issuer, self->back) == -EINVAL)
		SKIP(return, "the kernel has neither");
	for (by = BY_COMMAND; by <= BY_COMMIT; by++) {
		self->issuer.by = by;
		EXPECT_EQ(-EOPNOTSUPP, issue_open(&self->issuer, self->back));
		EXPECT_EQ(-EOPNOTSUPP, issue_close(&self->issuer, 1));
	}
	EXPECT_EQ(0, self->env.server->offered & BOTH);
}

TEST_F(init_flags, none_without_the_parameter)
{
	if (!(start(_metadata, self, 0) & FUSE_HAS_IO_URING_BACKING))
		SKIP(return, "no FUSE_HAS_IO_URING_BACKING");
	/* off later it changes nothing */
	ASSERT_EQ(0, enable_uring(false));
	EXPECT_EQ(1, issue_open(&self->issuer, self->back));
	issuer_exit(&self->issuer);
	env_stop(_metadata, &self->env);
	EXPECT_EQ(FUSE_PASSTHROUGH, start(_metadata, self, 0));
	EXPECT_EQ(-EOPNOTSUPP, issue_open(&self->issuer, self->back));
}

ENV_MAIN
