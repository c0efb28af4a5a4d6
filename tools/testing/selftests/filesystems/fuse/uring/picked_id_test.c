// SPDX-License-Identifier: GPL-2.0
/*
 * Backing ids that the server picks, so that the reply to an open is written,
 * and submitted with the registration of its file, before that has run. With
 * several queues the server follows these rules, see
 * Documentation/filesystems/fuse/uapi/fuse-uapi-io-uring.rst:
 *
 *  - each reply that uses an id has a BACKING_OPEN of the same file in front,
 *    with a hard link or none, for which -EEXIST is as good as 0;
 *  - an id is closed when the last open that was answered with it is released,
 *    and from then on the file gets another one;
 *  - no id is used twice, and the fd stays open.
 */
#define _GNU_SOURCE
#include <limits.h>

#include "env.h"

enum step { NOWHERE, OPEN, CLOSE };

/* What the hooks do and see; every test is a process */
static struct {
	pthread_mutex_t lock;
	/* the id of "file", what was answered with it, and the last id */
	unsigned int id, opens, last;
	/* IOSQE_* flags of BACKING_OPEN */
	unsigned int link;
	/* this is registered in place of the file */
	int bad_fd;
	/* hold the thread that has queued one of these */
	enum step hold_at;
	sem_t held, let_go, closed;
	/* results of BACKING_OPEN: 0, -EEXIST, and the last other one */
	unsigned int opened, exist;
	int err, close_err;
} hook = { .lock = PTHREAD_MUTEX_INITIALIZER, .bad_fd = -1 };

static void queue_open(struct ring_req *req)
{
	struct io_uring_sqe *sqe;
	unsigned int id;

	pthread_mutex_lock(&hook.lock);
	if (!hook.opens++)
		hook.id = ++hook.last;
	id = hook.id;
	pthread_mutex_unlock(&hook.lock);
	sqe = ring_queue_cmd(req->queue, FUSE_IO_URING_CMD_BACKING_OPEN, OPEN);
	fuse_cmd_req(sqe)->backing.map.fd = hook.bad_fd < 0 ? req->node->fd :
							      hook.bad_fd;
	fuse_cmd_req(sqe)->backing.id = id;
	sqe->flags = hook.link;
	req->open->open_flags = FOPEN_PASSTHROUGH;
	req->open->backing_id = id;
	req->open->fh = id;
}

/* An open with an id was released, or is answered without */
static void put_id(struct ring_req *req, unsigned int id)
{
	struct io_uring_sqe *sqe;
	bool last;

	pthread_mutex_lock(&hook.lock);
	last = !--hook.opens;
	pthread_mutex_unlock(&hook.lock);
	if (!last)
		return;
	sqe = ring_queue_cmd(req->queue, FUSE_IO_URING_CMD_BACKING_CLOSE,
			     CLOSE);
	fuse_cmd_req(sqe)->backing.id = id;
}

static bool reply(struct ring_req *req)
{
	const struct fuse_release_in *release = req->op;

	if (req->open && req->len > 0)
		queue_open(req);
	else if (req->in.opcode == FUSE_RELEASE && release->fh)
		put_id(req, release->fh);
	return true;
}

/* The commit is filled in, and is submitted with what was queued before */
static void sqe(struct ring_req *req, struct io_uring_sqe *commit)
{
	enum step at = req->open ? OPEN :
		       req->in.opcode == FUSE_RELEASE ? CLOSE : NOWHERE;

	if (!at || hook.hold_at != at)
		return;
	hook.hold_at = NOWHERE;
	sem_post(&hook.held);
	if (sys_wait_for(&hook.let_go, RING_PATIENCE))
		abort();
}

static void cqe(struct ring_queue *queue, __u64 data, int res)
{
	if (data == CLOSE) {
		hook.close_err = res;
		sem_post(&hook.closed);
	} else if (!res) {
		__atomic_add_fetch(&hook.opened, 1, __ATOMIC_SEQ_CST);
	} else if (res == -EEXIST) {
		__atomic_add_fetch(&hook.exist, 1, __ATOMIC_SEQ_CST);
	} else {
		hook.err = res;
	}
}

/* The link was cut: the request is the server's, to be answered without */
static void refused(struct ring_req *req, int err)
{
	if (err != -ECANCELED)
		abort();
	put_id(req, req->open->fh);
	memset(req->open, 0, sizeof(*req->open));
	ring_req_commit(req);
}

FIXTURE(picked_id)
{
	struct env env;
	struct issuer issuer;
	int file;
};

FIXTURE_VARIANT(picked_id)
{
	unsigned int link;
};

FIXTURE_VARIANT_ADD(picked_id, hard_link) { IOSQE_IO_HARDLINK };
FIXTURE_VARIANT_ADD(picked_id, not_linked) { 0 };

FIXTURE_SETUP(picked_id)
{
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.hooks = {
			.reply = reply,
			.sqe = sqe,
			.cqe = cqe,
			.refused = refused,
		},
	};
	const struct fuse_uring_cmd_req req = {
		.backing = { .map.fd = -1, .id = 1 },
	};
	const char *missing = env_setup(_metadata, &self->env,
					ENV_NEED(BY_COMMAND));

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, sem_init(&hook.held, 0, 0));
	ASSERT_EQ(0, sem_init(&hook.let_go, 0, 0));
	ASSERT_EQ(0, sem_init(&hook.closed, 0, 0));
	hook.link = variant->link;
	self->file = env_file(_metadata, &self->env, "file");
	env_start(_metadata, &self->env, &cfg);
	env_pin(_metadata, &self->env, 0);
	ASSERT_EQ(0, issuer_init(&self->issuer, NULL,
				 self->env.server->dev_fd, 0));
	if (issue(&self->issuer, FUSE_IO_URING_CMD_BACKING_OPEN, &req) ==
	    -EINVAL)
		SKIP(return, "the kernel picks all ids");
}

FIXTURE_TEARDOWN(picked_id)
{
	close(self->file);
	issuer_exit(&self->issuer);
	env_teardown(_metadata, &self->env);
}

static int open_id(struct issuer *issuer, int fd, __u64 id)
{
	const struct fuse_uring_cmd_req req = {
		.backing = { .map.fd = fd, .id = id },
	};

	return issue(issuer, FUSE_IO_URING_CMD_BACKING_OPEN, &req);
}

/* For whatever it is, until it is closed */
TEST_F(picked_id, in_use)
{
	int other = env_file(_metadata, &self->env, "other");
	struct issuer *issuer = &self->issuer;

	EXPECT_EQ(0, open_id(issuer, self->file, 2));
	EXPECT_EQ(-EEXIST, open_id(issuer, self->file, 2));
	EXPECT_EQ(-EEXIST, open_id(issuer, other, 2));
	/* those that the kernel picks skip it, and are in use as well */
	EXPECT_EQ(1, issue_open(issuer, self->file));
	EXPECT_EQ(3, issue_open(issuer, self->file));
	EXPECT_EQ(-EEXIST, open_id(issuer, self->file, 3));
	issuer->by = BY_IOCTL;
	EXPECT_EQ(4, issue_open(issuer, self->file));
	issuer->by = BY_COMMAND;
	EXPECT_EQ(-EEXIST, open_id(issuer, self->file, 4));
	EXPECT_EQ(0, issue_close(issuer, 2));
	EXPECT_EQ(0, open_id(issuer, other, 2));
	/* and far away it does not move the next one */
	EXPECT_EQ(0, open_id(issuer, self->file, INT_MAX));
	EXPECT_EQ(5, issue_open(issuer, self->file));
	EXPECT_EQ(0, issue_close(issuer, INT_MAX));
	EXPECT_EQ(-ENOENT, issue_close(issuer, INT_MAX));
	close(other);
}

TEST_F(picked_id, refused)
{
	struct issuer *issuer = &self->issuer;

	EXPECT_EQ(-EINVAL, open_id(issuer, self->file, 1ULL << 31));
	EXPECT_EQ(-EINVAL, open_id(issuer, self->file, 1ULL << 32 | 1));
	EXPECT_EQ(-EINVAL, open_id(issuer, self->file, ~0ULL));
	EXPECT_EQ(-EISDIR, open_id(issuer, self->env.files.dir_fd, 1));
	EXPECT_EQ(-ENOENT, issue_close(issuer, 1));
}

static int open_file(struct __test_metadata *_metadata, struct env *env)
{
	int fd = env_open("file", O_RDONLY);

	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_EQ(0, env_io_served(env));
	return fd;
}

static void *open_thread(void *fd)
{
	*(int *)fd = env_open("file", O_RDONLY);
	return NULL;
}

/* A reply with the id is written, while another queue answers with it, too */
TEST_F(picked_id, overtaken)
{
	struct env *env = &self->env;
	pthread_t client;
	int first, second;

	if (env->nr_cpus < 2)
		SKIP(return, "needs two CPUs");
	hook.hold_at = OPEN;
	env_pin(_metadata, env, 0);
	ASSERT_EQ(0, pthread_create(&client, NULL, open_thread, &first));
	ASSERT_EQ(0, sys_wait_for(&hook.held, RING_PATIENCE));
	env_pin(_metadata, env, 1);
	second = open_file(_metadata, env);
	sem_post(&hook.let_go);
	EXPECT_EQ(0, pthread_join(client, NULL));
	EXPECT_TRUE(env_is(first, "file"));
	EXPECT_EQ(0, env_io_served(env));
	env_close(_metadata, env, second);
	env_pin(_metadata, env, 0);
	env_close(_metadata, env, first);
	/* one id, registered once, and closed once */
	ASSERT_EQ(0, sys_wait_for(&hook.closed, RING_PATIENCE));
	EXPECT_EQ(0, hook.close_err);
	EXPECT_EQ(1, hook.last);
	EXPECT_EQ(1, hook.opened);
	EXPECT_EQ(1, hook.exist);
}

/* The close of the id is queued, while another queue answers an open */
TEST_F(picked_id, reopened)
{
	struct env *env = &self->env;
	int fd;

	if (env->nr_cpus < 2)
		SKIP(return, "needs two CPUs");
	env_pin(_metadata, env, 1);
	fd = open_file(_metadata, env);
	hook.hold_at = CLOSE;
	close(fd);
	ASSERT_EQ(0, sys_wait_for(&hook.held, RING_PATIENCE));
	env_pin(_metadata, env, 0);
	fd = open_file(_metadata, env);
	EXPECT_EQ(2, hook.last);
	sem_post(&hook.let_go);
	ASSERT_EQ(0, sys_wait_for(&hook.closed, RING_PATIENCE));
	EXPECT_EQ(0, hook.close_err);
	EXPECT_EQ(0, hook.exist);
	EXPECT_TRUE(env_is(fd, "file"));
	close(fd);
}

/* The commit runs nevertheless, and there is no such id */
TEST_F(picked_id, failed_registration)
{
	hook.bad_fd = self->env.files.dir_fd;
	env_open_fails(_metadata, &self->env, "file", O_RDONLY);
	ASSERT_EQ(0, sys_wait_for(&hook.closed, RING_PATIENCE));
	EXPECT_EQ(-EISDIR, hook.err);
	EXPECT_EQ(-ENOENT, hook.close_err);
}

/* With one queue it can be a link that is cut: then the commit does not run */
TEST_F(picked_id, failed_registration_cuts_the_link)
{
	int fd;

	hook.link = IOSQE_IO_LINK;
	hook.bad_fd = self->env.files.dir_fd;
	fd = env_open("file", O_RDONLY);
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_LT(0, env_io_served(&self->env));
	EXPECT_EQ(-EISDIR, hook.err);
	close(fd);
	EXPECT_EQ(0, hook.opened);
}

ENV_MAIN
