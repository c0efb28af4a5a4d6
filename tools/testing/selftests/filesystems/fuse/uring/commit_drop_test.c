// SPDX-License-Identifier: GPL-2.0
/*
 * Replies that bring a file, and that the client gets an error from nevertheless:
 * the file is dropped, which the teardown sees.
 */
#define _GNU_SOURCE
#include <sys/ioctl.h>

#include "commit_file.h"
#include "env.h"

/* What is wrong with the reply to an open; every test is a process of its own */
static struct {
	bool no_file;
	__u32 open_flags;
	__s32 backing_id;
	int len;
	/* of what was created */
	__u32 mode;
} wrong;

static bool reply(struct ring_req *req)
{
	struct fuse_entry_out *entry = req->out;

	if (!req->open)
		return true;
	commit_file_reply(req);
	if (wrong.no_file)
		req->fd = -1;
	req->open->open_flags = wrong.open_flags;
	req->open->backing_id = wrong.backing_id;
	if (wrong.mode)
		entry->attr.mode = wrong.mode;
	if (wrong.len)
		req->len = wrong.len;
	return true;
}

FIXTURE(commit_drop)
{
	struct env env;
};

FIXTURE_VARIANT(commit_drop)
{
	const char *name;
	int flags;
};

FIXTURE_VARIANT_ADD(commit_drop, open) {
	"file", O_RDWR
};

FIXTURE_VARIANT_ADD(commit_drop, create) {
	"new", O_RDWR | O_CREAT
};

FIXTURE_VARIANT_ADD(commit_drop, tmpfile) {
	".", O_RDWR | O_TMPFILE
};

static void start(struct __test_metadata *_metadata, struct env *env,
		  __u64 init_flags)
{
	const struct ring_server_cfg cfg = {
		.init_flags = init_flags,
		.hooks = {
			.reply = reply,
			.sqe = commit_file_sqe,
		},
	};

	env_start(_metadata, env, &cfg);
}

FIXTURE_SETUP(commit_drop)
{
	const char *missing = env_setup(_metadata, &self->env,
					COMMIT_FILE_INIT);

	if (missing)
		SKIP(return, "%s", missing);
	close(env_file(_metadata, &self->env, "file"));
	start(_metadata, &self->env, COMMIT_FILE_INIT);
}

FIXTURE_TEARDOWN(commit_drop)
{
	env_teardown(_metadata, &self->env);
}

/* The client gets that error, and the server is told that it is not open */
static void fails(struct __test_metadata *_metadata, struct env *env, int err,
		  const struct _fixture_variant_commit_drop *variant)
{
	unsigned long released = ring_server_count(env->server, FUSE_RELEASE);

	EXPECT_EQ(err, env_open(variant->name, variant->flags));
	EXPECT_EQ(0, ring_server_wait(env->server, FUSE_RELEASE, released + 1));
}

TEST_F(commit_drop, error)
{
	wrong.len = -EDOM;
	EXPECT_EQ(-EDOM, env_open(variant->name, variant->flags));
	EXPECT_EQ(0, ring_server_count(self->env.server, FUSE_RELEASE));
}

TEST_F(commit_drop, wrong_length)
{
	wrong.len = 4;
	EXPECT_EQ(-EINVAL, env_open(variant->name, variant->flags));
	EXPECT_EQ(0, ring_server_count(self->env.server, FUSE_RELEASE));
}

TEST_F(commit_drop, backing_id)
{
	struct fuse_backing_map map = {
		.fd = files_node(&self->env.files, "file")->fd,
	};
	int fd;

	wrong.backing_id = 1;
	fails(_metadata, &self->env, -EIO, variant);
	wrong.backing_id = -1;
	fails(_metadata, &self->env, -EIO, variant);
	wrong.open_flags = FOPEN_PASSTHROUGH;
	wrong.backing_id = ioctl(self->env.server->dev_fd,
				 FUSE_DEV_IOC_BACKING_OPEN, &map);
	ASSERT_LT(0, wrong.backing_id);
	fails(_metadata, &self->env, -EIO, variant);
	/* it is the one or the other */
	wrong.no_file = true;
	fd = env_open("file", O_RDWR);
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

TEST_F(commit_drop, no_file)
{
	wrong.no_file = true;
	wrong.open_flags = FOPEN_PASSTHROUGH;
	fails(_metadata, &self->env, -EIO, variant);
}

/* There is no SQE that could bring one */
TEST_F(commit_drop, over_dev_fuse)
{
	env_stop(_metadata, &self->env);
	start(_metadata, &self->env, COMMIT_FILE_INIT & ~FUSE_OVER_IO_URING);
	wrong.open_flags = FOPEN_PASSTHROUGH;
	fails(_metadata, &self->env, -EIO, variant);
}

/* The client does not take what the server has made */
TEST_F(commit_drop, created_directory)
{
	wrong.mode = S_IFDIR | 0755;
	if (variant->flags & O_CREAT)
		EXPECT_EQ(-EIO, env_open(variant->name, variant->flags));
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
