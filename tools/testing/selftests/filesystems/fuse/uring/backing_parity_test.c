// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE_IO_URING_CMD_BACKING_OPEN and FUSE_IO_URING_CMD_BACKING_CLOSE do what the
 * ioctls do, and fail as they do: every test runs for the ioctls, too. A test of
 * an error has its name. What only commands have is in backing_cmd_test.c.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "cap.h"
#include "env.h"
#include "issue.h"

FIXTURE(parity)
{
	struct env env;
	struct issuer issuer;
	/* "file" in the backing directory */
	int back;
};

FIXTURE_VARIANT(parity)
{
	struct issue_how how;
};

FIXTURE_VARIANT_ADD(parity, ioctl) {
	.how = { .ioctl = true },
};

#define ISSUE_FIXTURE parity
#include "issue_variants.h"

FIXTURE_SETUP(parity)
{
	const char *missing = env_setup(_metadata, &self->env,
					ENV_INIT | FUSE_HAS_IO_URING_BACKING);

	if (!missing)
		missing = issue_missing(&variant->how);
	if (missing)
		SKIP(return, "%s", missing);
	env_start(_metadata, &self->env, NULL);
	ASSERT_EQ(0, issuer_init(&self->issuer, &variant->how,
				 self->env.server->dev_fd));
	self->back = env_file(_metadata, &self->env, "file");
}

FIXTURE_TEARDOWN(parity)
{
	close(self->back);
	issuer_exit(&self->issuer);
	env_teardown(_metadata, &self->env);
}

/* What was opened is passed through to, what was closed is not */
static void pass_through(struct __test_metadata *_metadata, struct env *env,
			 struct issuer *issuer, int back)
{
	struct ring_node *node = files_node(&env->files, "file");
	int fd;

	ASSERT_NE(NULL, node);
	node->backing_id = issue_open(issuer, back, 0);
	ASSERT_LT(0, node->backing_id);
	fd = env_open("file", O_RDONLY);
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_EQ(0, env_io_served(env));
	close(fd);
	EXPECT_EQ(0, issue_close(issuer, node->backing_id));
	EXPECT_EQ(-EIO, env_open("file", O_RDONLY));
}

TEST_F(parity, pass_through)
{
	pass_through(_metadata, &self->env, &self->issuer, self->back);
}

TEST_F(parity, pass_through_to_o_path)
{
	int fd = openat(self->env.files.dir_fd, "file", O_PATH | O_CLOEXEC);

	ASSERT_LE(0, fd);
	pass_through(_metadata, &self->env, &self->issuer, fd);
	close(fd);
}

/* Ids ascend, and it does not matter which of the two has opened one */
TEST_F(parity, ids_of_both_channels)
{
	const struct issue_how how = { .ioctl = true };
	struct issuer ioctl;
	int i;

	ASSERT_EQ(0, issuer_init(&ioctl, &how, self->env.server->dev_fd));
	for (i = 1; i <= 8; i++)
		EXPECT_EQ(i, issue_open(i % 2 ? &ioctl : &self->issuer,
					self->back, 0));
	for (i = 1; i <= 8; i++) {
		EXPECT_EQ(0, issue_close(i % 2 ? &self->issuer : &ioctl, i));
		EXPECT_EQ(-ENOENT, issue_close(i % 2 ? &ioctl : &self->issuer,
					       i));
	}
	/* one that was closed is not the next one */
	EXPECT_EQ(9, issue_open(&self->issuer, self->back, 0));
	EXPECT_EQ(10, issue_open(&ioctl, self->back, 0));
	issuer_exit(&ioctl);
}

TEST_F(parity, eperm_passthrough_not_negotiated)
{
	const struct ring_server_cfg cfg = { .init_flags = FUSE_OVER_IO_URING };

	issuer_exit(&self->issuer);
	env_stop(_metadata, &self->env);
	env_start(_metadata, &self->env, &cfg);
	ASSERT_EQ(0, issuer_init(&self->issuer, &variant->how,
				 self->env.server->dev_fd));
	EXPECT_EQ(-EPERM, issue_open(&self->issuer, self->back, 0));
	EXPECT_EQ(-EPERM, issue_close(&self->issuer, 1));
}

TEST_F(parity, eperm_without_cap_sys_admin)
{
	struct issuer poor;

	ASSERT_EQ(1, issue_open(&self->issuer, self->back, 0));
	/* an SQPOLL ring has the credentials of its maker */
	ASSERT_EQ(0, capabilities_without(CAP_SYS_ADMIN));
	ASSERT_EQ(0, issuer_init(&poor, &variant->how,
				 self->env.server->dev_fd));
	EXPECT_EQ(-EPERM, issue_open(&poor, self->back, 0));
	EXPECT_EQ(-EPERM, issue_open(&poor, -1, 0));
	EXPECT_EQ(-EPERM, issue_close(&poor, 1));
	EXPECT_EQ(-EPERM, issue_close(&poor, 0));
	issuer_exit(&poor);
	ASSERT_EQ(0, capabilities_without(CAP_NONE));
	/* none of them has had an effect */
	EXPECT_EQ(2, issue_open(&self->issuer, self->back, 0));
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
}

TEST_F(parity, open_einval_map_flags_and_padding)
{
	struct fuse_uring_cmd_req req;
	int bit;

	for (bit = 0; bit < 32 + 64; bit++) {
		req = (struct fuse_uring_cmd_req) {
			/* the next check would fail, too */
			.backing.map.fd = bit % 2 ? self->back : -1,
		};
		if (bit < 32)
			req.backing.map.flags = 1U << bit;
		else
			req.backing.map.padding = 1ULL << (bit - 32);
		EXPECT_EQ(-EINVAL, issue(&self->issuer,
					 FUSE_IO_URING_CMD_BACKING_OPEN, &req)) {
			TH_LOG("bit %d", bit);
		}
	}
	EXPECT_EQ(1, issue_open(&self->issuer, self->back, 0));
}

TEST_F(parity, open_ebadf)
{
	EXPECT_EQ(-EBADF, issue_open(&self->issuer, -1, 0));
	EXPECT_EQ(-EBADF, issue_open(&self->issuer, AT_FDCWD, 0));
	EXPECT_EQ(-EBADF, issue_open(&self->issuer, INT_MAX, 0));
}

TEST_F(parity, open_eisdir)
{
	EXPECT_EQ(-EISDIR, issue_open(&self->issuer, self->env.files.dir_fd, 0));
}

TEST_F(parity, open_einval_no_regular_file)
{
	const struct sockaddr_un sun = { AF_UNIX, ENV_BACK "/socket" };
	static const char * const name[] = {
		"fifo", "socket", "symlink", "/dev/null", "/dev/fuse"
	};
	int fd, sock = socket(AF_UNIX, SOCK_STREAM, 0);
	size_t i;

	ASSERT_EQ(0, mkfifoat(self->env.files.dir_fd, "fifo", 0600));
	ASSERT_EQ(0, bind(sock, (void *)&sun, sizeof(sun)));
	ASSERT_EQ(0, symlinkat("file", self->env.files.dir_fd, "symlink"));
	for (i = 0; i < ARRAY_SIZE(name); i++) {
		fd = openat(self->env.files.dir_fd, name[i],
			    O_PATH | O_NOFOLLOW | O_CLOEXEC);
		ASSERT_LE(0, fd);
		EXPECT_EQ(-EINVAL, issue_open(&self->issuer, fd, 0)) {
			TH_LOG("%s", name[i]);
		}
		close(fd);
	}
	EXPECT_EQ(-EINVAL, issue_open(&self->issuer, sock, 0));
	EXPECT_EQ(-EINVAL, issue_open(&self->issuer, self->env.server->dev_fd,
				      0));
	close(sock);
}

TEST_F(parity, open_eloop)
{
	int fd = env_open("file", O_RDONLY);

	ASSERT_LE(0, fd);
	EXPECT_EQ(-ELOOP, issue_open(&self->issuer, fd, 0));
	EXPECT_EQ(1, issue_open(&self->issuer, self->back, 0));
	close(fd);
}

TEST_F(parity, close_einval)
{
	EXPECT_EQ(-EINVAL, issue_close(&self->issuer, 0));
	EXPECT_EQ(-EINVAL, issue_close(&self->issuer, -1));
	EXPECT_EQ(-EINVAL, issue_close(&self->issuer, INT_MIN));
}

TEST_F(parity, close_enoent)
{
	int id = issue_open(&self->issuer, self->back, 0);

	EXPECT_EQ(0, issue_close(&self->issuer, id));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, id));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, INT_MAX));
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
