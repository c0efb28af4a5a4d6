// SPDX-License-Identifier: GPL-2.0
/*
 * What FUSE_IO_URING_CMD_BACKING_OPEN and FUSE_IO_URING_CMD_BACKING_CLOSE have
 * and the ioctls have not: fields that must be 0, the state of the connection,
 * and other tasks than the one that serves. The errors that they share with the
 * ioctls are in refused_test.c.
 */
#define _GNU_SOURCE
#include <limits.h>

#include "env.h"

/* not in liburing's header */
#ifndef IORING_URING_CMD_MULTISHOT
#define IORING_URING_CMD_MULTISHOT	2
#endif

#define OPEN	FUSE_IO_URING_CMD_BACKING_OPEN
#define CLOSE	FUSE_IO_URING_CMD_BACKING_CLOSE

FIXTURE(cmd)
{
	struct env env;
	struct issuer issuer, ioctl;
	/* "file" in the backing directory */
	int back;
};

FIXTURE_SETUP(cmd)
{
	const char *missing = env_setup(_metadata, &self->env,
					ENV_NEED(BY_COMMAND));

	if (missing)
		SKIP(return, "%s", missing);
	self->back = env_file(_metadata, &self->env, "file");
}

FIXTURE_TEARDOWN(cmd)
{
	close(self->back);
	issuer_exit(&self->ioctl);
	issuer_exit(&self->issuer);
	env_teardown(_metadata, &self->env);
}

/* @cfg as for env_start() */
static void start(struct __test_metadata *_metadata,
		  struct _test_data_cmd *self,
		  const struct ring_server_cfg *cfg)
{
	struct env *env = &self->env;

	env_start(_metadata, env, cfg);
	ASSERT_EQ(0, issuer_init(&self->issuer, NULL, env->server->dev_fd, 0));
	ASSERT_EQ(0, issuer_init(&self->ioctl, NULL, env->server->dev_fd, 0));
	self->ioctl.by = BY_IOCTL;
}

TEST_F(cmd, enotconn_after_umount)
{
	start(_metadata, self, NULL);
	ASSERT_EQ(1, issue_open(&self->issuer, self->back));
	ASSERT_EQ(0, umount2(ENV_MNT, 0));
	EXPECT_EQ(-ENOTCONN, issue_open(&self->issuer, self->back));
	EXPECT_EQ(-ENOTCONN, issue_close(&self->issuer, 1));
}

/* Bytes of the command area, as documented: not what the compiler has */
static const struct {
	__u32 op;
	unsigned int from, to;
} zero[] = {
	{ OPEN, 0, 24 },
	{ OPEN, 40, 48 },
	{ CLOSE, 0, 40 },
};

static struct fuse_uring_cmd_req good_req(__u32 op, int back)
{
	struct fuse_uring_cmd_req req = { };

	if (op == OPEN)
		req.backing.map.fd = back;
	else
		req.backing.id = 1;
	return req;
}

/* One bit at a time, in a command that is good otherwise, and does nothing */
TEST_F(cmd, einval_fields_that_must_be_0)
{
	size_t i, bit;

	start(_metadata, self, NULL);
	ASSERT_EQ(1, issue_open(&self->issuer, self->back));
	/* and before the capability is asked for */
	EXPECT_EQ(0, capabilities_without(CAP_SYS_ADMIN));
	for (i = 0; i < ARRAY_SIZE(zero); i++) {
		for (bit = 8 * zero[i].from; bit < 8 * zero[i].to; bit++) {
			struct fuse_uring_cmd_req req = good_req(zero[i].op,
								 self->back);

			((__u8 *)&req)[bit / 8] ^= 1 << bit % 8;
			EXPECT_EQ(-EINVAL, issue(&self->issuer, zero[i].op,
						 &req)) {
				TH_LOG("command %u: bit %zu", zero[i].op, bit);
			}
		}
	}
	EXPECT_EQ(0, capabilities_without(CAP_NONE));
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
	EXPECT_EQ(2, issue_open(&self->issuer, self->back));
}

TEST_F(cmd, einval_uring_cmd_flags)
{
	struct fuse_uring_cmd_req req;
	struct io_uring_sqe *sqe;
	__u32 op;

	start(_metadata, self, NULL);
	ASSERT_EQ(1, issue_open(&self->issuer, self->back));
	for (op = OPEN; op <= CLOSE; op++) {
		req = good_req(op, self->back);
		sqe = issue_sqe(&self->issuer, op, &req);
		sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
		EXPECT_EQ(-EINVAL, issue_wait(&self->issuer));
		/* these two go together, and a success would have no CQE */
		sqe = issue_sqe(&self->issuer, op, &req);
		sqe->uring_cmd_flags = IORING_URING_CMD_MULTISHOT;
		sqe->flags |= IOSQE_BUFFER_SELECT;
		ASSERT_EQ(1, io_uring_submit(&self->issuer.ring));
		ASSERT_EQ(1, io_uring_cq_ready(&self->issuer.ring));
		EXPECT_EQ(-EINVAL, issue_wait(&self->issuer));
	}
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
	EXPECT_EQ(2, issue_open(&self->issuer, self->back));
}

/* Ids ascend, and it does not matter which of the two has opened one */
TEST_F(cmd, ids_of_both_channels)
{
	start(_metadata, self, NULL);
	EXPECT_EQ(1, issue_open(&self->issuer, self->back));
	EXPECT_EQ(2, issue_open(&self->ioctl, self->back));
	EXPECT_EQ(0, issue_close(&self->ioctl, 1));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, 1));
	EXPECT_EQ(0, issue_close(&self->issuer, 2));
	EXPECT_EQ(-ENOENT, issue_close(&self->ioctl, 2));
	EXPECT_EQ(3, issue_open(&self->issuer, self->back));
}

TEST_F(cmd, ids_that_are_none)
{
	start(_metadata, self, NULL);
	ASSERT_EQ(1, issue_open(&self->issuer, self->back));
	EXPECT_EQ(-EINVAL, issue_close(&self->issuer, 0));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, INT_MAX));
	/* 64 bits, of which none is lost, before the capability is asked for */
	EXPECT_EQ(0, capabilities_without(CAP_SYS_ADMIN));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, 1ULL << 31));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, 1ULL << 32 | 1));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, ~0ULL));
	EXPECT_EQ(0, capabilities_without(CAP_NONE));
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
}

/* In one submission, and where there are no queues */
TEST_F(cmd, open_and_close)
{
	const struct fuse_uring_cmd_req open = good_req(OPEN, self->back);
	const struct fuse_uring_cmd_req close = good_req(CLOSE, self->back);
	const struct ring_server_cfg cfg = { .init_flags = ENV_INIT,
					     .no_queues = true };

	start(_metadata, self, &cfg);
	ASSERT_NE(NULL, issue_sqe(&self->issuer, OPEN, &open));
	ASSERT_NE(NULL, issue_sqe(&self->issuer, CLOSE, &close));
	EXPECT_EQ(1, issue_wait(&self->issuer));
	EXPECT_EQ(0, issue_wait(&self->issuer));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, 1));
}

/* The id is the connection's, not the task's, nor the ring's */
TEST_F(cmd, id_outlives_who_has_registered_it)
{
	struct issuer issuer;
	pid_t pid;

	start(_metadata, self, NULL);
	pid = sys_fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(0, issuer_init(&issuer, NULL,
					 self->env.server->dev_fd, 0));
		EXPECT_EQ(1, issue_open(&issuer, self->back));
		_exit(_metadata->exit_code);
	}
	EXPECT_EQ(0, sys_wait(pid));
	EXPECT_EQ(2, issue_open(&self->issuer, self->back));
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
}

ENV_MAIN
