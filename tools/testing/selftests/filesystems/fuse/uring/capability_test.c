// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE_HAS_IO_URING_BACKING in FUSE_INIT, the commands that it tells of and the
 * module parameter belong together. With CONFIG_FUSE_PASSTHROUGH off neither
 * the commands nor the ioctls are there.
 */
#define _GNU_SOURCE
#include "env.h"
#include "issue.h"

#define OPEN	FUSE_IO_URING_CMD_BACKING_OPEN
#define CLOSE	FUSE_IO_URING_CMD_BACKING_CLOSE

static const struct issue_how how_inline;
static const struct issue_how how_ioctl = { .ioctl = true };

FIXTURE(capability)
{
	struct env env;
	struct issuer issuer;
	/* "file" in the backing directory */
	int back;
	/* in FUSE_INIT */
	bool flag;
	bool passthrough;
};

/* Also where the flag is missing but the commands are there, or vice versa */
FIXTURE_SETUP(capability)
{
	const char *missing = env_setup(_metadata, &self->env,
					FUSE_OVER_IO_URING);
	int open, close;

	if (!missing)
		missing = issue_missing(&how_inline);
	if (missing)
		SKIP(return, "%s", missing);
	env_start(_metadata, &self->env, NULL);
	ASSERT_EQ(0, issuer_init(&self->issuer, &how_inline,
				 self->env.server->dev_fd));
	self->back = env_file(_metadata, &self->env, "file");
	self->flag = self->env.server->offered & FUSE_HAS_IO_URING_BACKING;
	self->passthrough = self->env.server->offered & FUSE_PASSTHROUGH;
	open = issue_open(&self->issuer, -1, 0);
	close = issue_close(&self->issuer, 1);
	if (!self->flag && open == -EINVAL && close == -EINVAL)
		SKIP(return, "the kernel has no backing file commands");
}

FIXTURE_TEARDOWN(capability)
{
	/* whatever the test has left */
	enable_uring(true);
	close(self->back);
	issuer_exit(&self->issuer);
	env_teardown(_metadata, &self->env);
}

TEST_F(capability, flag_tells_of_commands)
{
	if (!self->passthrough)
		SKIP(return, "no FUSE_PASSTHROUGH");
	EXPECT_TRUE(self->flag);
	EXPECT_EQ(1, issue_open(&self->issuer, self->back, 0));
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
}

TEST_F(capability, eopnotsupp_without_passthrough)
{
	const struct fuse_uring_cmd_req reserved = { .backing.reserved = 1 };
	struct issuer ioctl;

	if (self->passthrough)
		SKIP(return, "FUSE_PASSTHROUGH is built in");
	EXPECT_FALSE(self->flag);
	EXPECT_EQ(-EOPNOTSUPP, issue_open(&self->issuer, self->back, 0));
	EXPECT_EQ(-EOPNOTSUPP, issue_close(&self->issuer, 1));
	/* a field that must be 0 is checked before, as always */
	EXPECT_EQ(-EINVAL, issue(&self->issuer, OPEN, &reserved));
	EXPECT_EQ(-EINVAL, issue(&self->issuer, CLOSE, &reserved));
	ASSERT_EQ(0, issuer_init(&ioctl, &how_ioctl, self->env.server->dev_fd));
	EXPECT_EQ(-EOPNOTSUPP, issue_open(&ioctl, self->back, 0));
	EXPECT_EQ(-EOPNOTSUPP, issue_close(&ioctl, 1));
	issuer_exit(&ioctl);
}

TEST_F(capability, neither_without_the_parameter)
{
	issuer_exit(&self->issuer);
	env_stop(_metadata, &self->env);
	ASSERT_EQ(0, enable_uring(false));
	env_start(_metadata, &self->env, NULL);
	EXPECT_EQ(0, self->env.server->offered &
		     (FUSE_OVER_IO_URING | FUSE_HAS_IO_URING_BACKING));
	ASSERT_EQ(0, issuer_init(&self->issuer, &how_inline,
				 self->env.server->dev_fd));
	EXPECT_EQ(-EOPNOTSUPP, issue_open(&self->issuer, self->back, 0));
	EXPECT_EQ(-EOPNOTSUPP, issue_close(&self->issuer, 1));
}

TEST_F(capability, parameter_off_later_changes_nothing)
{
	if (!self->passthrough)
		SKIP(return, "no FUSE_PASSTHROUGH");
	ASSERT_EQ(0, enable_uring(false));
	EXPECT_EQ(1, issue_open(&self->issuer, self->back, 0));
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
