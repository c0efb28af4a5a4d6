// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE_IO_URING_CMD_BACKING_OPEN linked to the commit of the reply that uses
 * the id.
 *
 * The variants are the ways in which the two can be issued. The rules are those
 * of "Linked open" in Documentation/filesystems/fuse/uapi/
 * fuse-uapi-io-uring.rst, and of fuse-io-uring.rst for the size of the ring.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "backing_env.h"

#define BAD_FD		9999
#define ROUNDS		20

/* What the hooks do and see; every test is a process of its own */
static struct {
	/* the file to register, and the id that it gets plus one each time */
	int fd;
	int next_id;
	/* > 0: the link begins with a close of this id */
	int close_id;
	/* what link_failed() saw, how often, and what it answers */
	int reason;
	int failed;
	int answer;
	/* > 0: link_failed() tries again with this id or this fd */
	int retry_id;
	int retry_fd;
	/* link_failed() sends the reply as it is */
	bool commit_alone;
} hook;

/* How the SQEs of a linked reply are issued; flags of struct ring_server_cfg */
struct how_linked {
	unsigned int ring_flags;
	unsigned int link_flags;
	unsigned int commit_flags;
	bool fixed;
	/* IORING_OP_URING_CMD128 on an IORING_SETUP_SQE_MIXED ring */
	bool mixed;
};

static const struct backing_how how_mixed = { .sqe_mixed = true };

FIXTURE(link)
{
	struct backing_env env;
};

FIXTURE_VARIANT(link)
{
	struct how_linked how;
};

FIXTURE_VARIANT_ADD(link, inline) {
};

FIXTURE_VARIANT_ADD(link, open_async) {
	.how = { .link_flags = IOSQE_ASYNC },
};

FIXTURE_VARIANT_ADD(link, commit_async) {
	.how = { .commit_flags = IOSQE_ASYNC },
};

FIXTURE_VARIANT_ADD(link, both_async) {
	.how = { .link_flags = IOSQE_ASYNC, .commit_flags = IOSQE_ASYNC },
};

FIXTURE_VARIANT_ADD(link, sqpoll) {
	.how = { .ring_flags = IORING_SETUP_SQPOLL },
};

FIXTURE_VARIANT_ADD(link, defer) {
	.how = {
		.ring_flags = IORING_SETUP_SINGLE_ISSUER |
			      IORING_SETUP_DEFER_TASKRUN,
	},
};

FIXTURE_VARIANT_ADD(link, fixed) {
	.how = {
		.ring_flags = IORING_SETUP_SINGLE_ISSUER |
			      IORING_SETUP_DEFER_TASKRUN,
		.fixed = true,
	},
};

FIXTURE_VARIANT_ADD(link, mixed) {
	.how = { .mixed = true },
};

FIXTURE_SETUP(link)
{
	const char *missing = backing_env_missing(variant->how.mixed ?
						  &how_mixed : NULL);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, backing_env_setup(&self->env));
	hook.next_id = 1000;
}

FIXTURE_TEARDOWN(link)
{
	EXPECT_EQ(0, backing_env_teardown(&self->env));
}

static int start(struct backing_env *env, const struct how_linked *how,
		 struct ring_server_cfg *cfg)
{
	const struct backing_how ioctl = { .ioctl = true };

	cfg->init_flags = BACKING_INIT;
	cfg->ring_flags = how->ring_flags;
	cfg->link_flags |= how->link_flags;
	cfg->commit_flags = how->commit_flags;
	cfg->fixed = how->fixed;
#ifdef IORING_SETUP_SQE_MIXED
	if (how->mixed)
		cfg->ring_flags |= IORING_SETUP_SQE_MIXED;
#endif
	return backing_env_start(env, &ioctl, cfg);
}

/* A client: opens, compares the beginning with the backing file, closes */
static int open_and_check(struct backing_env *env, const char *name)
{
	char buf[64];
	int fd, err;
	ssize_t n;

	fd = open_mnt(env, name, O_RDONLY);
	if (fd < 0)
		return fd;
	n = pread(fd, buf, sizeof(buf), 100);
	if (n != sizeof(buf))
		err = n < 0 ? -errno : -EIO;
	else
		err = cmp_back(env, name, buf, sizeof(buf), 100);
	close(fd);
	return err;
}

/*
 * Waits until the server has had so many RELEASEs and does nothing any more: a
 * client is woken up before the thread that answered it has counted all.
 */
static void wait_idle(struct backing_env *env, unsigned long released,
		      struct ring_server_stats *stats)
{
	int i;

	for (i = 0; i < 5000; i++) {
		bool done = ring_server_count(env->server, FUSE_RELEASE) >=
			    released;

		/* after the count: who counted is idle once it has replied */
		ring_server_stats(env->server, stats);
		if (done && stats->idle == ring_server_nr_queues(env->server))
			break;
		usleep(1000);
	}
	ring_server_stats(env->server, stats);
}

/* Waits for the CQEs of failed links, which can come after a client's answer */
static void wait_links(struct backing_env *env, unsigned long failed,
		       unsigned long canceled, struct ring_server_stats *stats)
{
	int i;

	for (i = 0; i < 5000; i++) {
		ring_server_stats(env->server, stats);
		if (stats->links_failed >= failed &&
		    stats->commits_canceled >= canceled)
			break;
		usleep(1000);
	}
}

static int hook_open(struct ring_req *req, struct ring_node *node,
		     struct fuse_open_out *out)
{
	int id = __atomic_fetch_add(&hook.next_id, 1, __ATOMIC_SEQ_CST);

	(void)node;
	out->open_flags = FOPEN_PASSTHROUGH;
	out->backing_id = id;
	/* what RELEASE has to close */
	out->fh = id;
	req->link_fd = hook.fd;
	req->link_close_id = hook.close_id;
	return 0;
}

static int hook_failed(struct ring_req *req, struct ring_node *node,
		       struct fuse_open_out *out, int err)
{
	(void)node;
	hook.reason = err;
	__atomic_add_fetch(&hook.failed, 1, __ATOMIC_SEQ_CST);
	if (hook.commit_alone) {
		req->link_fd = -1;
		return 0;
	}
	if (hook.retry_id || hook.retry_fd) {
		if (hook.retry_id)
			out->backing_id = hook.retry_id;
		if (hook.retry_fd)
			req->link_fd = hook.retry_fd;
		out->fh = out->backing_id;
		hook.retry_id = 0;
		hook.retry_fd = 0;
		return 0;
	}
	/* without passthrough */
	out->open_flags = 0;
	out->backing_id = 0;
	out->fh = 0;
	req->link_fd = -1;
	return hook.answer;
}

static void hook_release(struct ring_req *req, struct ring_node *node)
{
	const struct fuse_release_in *in = req->op;

	(void)node;
	if (in->fh)
		ring_queue_close_id(req->queue, in->fh);
}

static const struct ring_server_cfg hooks = {
	.open = hook_open,
	.link_failed = hook_failed,
	.release = hook_release,
};

/* If a commit ran before its registration had ended, an open would be -EIO */
TEST_F(link, open_passes_through)
{
	struct ring_server_cfg cfg = hooks;
	struct ring_server_stats stats;
	int i;

	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	hook.fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(hook.fd, 0);
	for (i = 0; i < 5 * ROUNDS; i++)
		ASSERT_EQ(0, open_and_check(&self->env, "file"));
	EXPECT_EQ(0, served(&self->env));
	EXPECT_EQ(0, hook.failed);
	wait_idle(&self->env, i, &stats);
	EXPECT_EQ(0, stats.links_failed);
	EXPECT_EQ(0, stats.commits_canceled);
	close(hook.fd);
}

static int hook_create(struct ring_req *req, struct ring_node *node,
		       struct fuse_open_out *out)
{
	hook.fd = node->fd;
	hook.next_id = node->fd;
	return hook_open(req, node, out);
}

/* The file is made while CREATE is answered, and its fd's number is the id */
TEST_F(link, create)
{
	struct ring_server_cfg cfg = hooks;
	int fd;

	cfg.open = hook_create;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	fd = open_mnt(&self->env, "new", O_RDWR | O_CREAT | O_EXCL);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(4, write(fd, "data", 4));
	EXPECT_EQ(0, cmp_back(&self->env, "new", "data", 4, 0));
	EXPECT_EQ(0, served(&self->env));
	EXPECT_EQ(1, ring_server_count(self->env.server, FUSE_CREATE));
	close(fd);
}

/* The reason comes even though the CQE of success is skipped */
TEST_F(link, failed_then_error)
{
	struct ring_server_cfg cfg = hooks;
	struct ring_server_stats stats;
	int i, fd;

	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(fd, 0);
	hook.fd = BAD_FD;
	hook.answer = -ENODEV;
	/* more often than there are entries: none may be lost */
	for (i = 1; i <= ROUNDS; i++) {
		ASSERT_EQ(-ENODEV, open_and_check(&self->env, "file"));
		EXPECT_EQ(-EBADF, hook.reason);
		EXPECT_EQ(i, hook.failed);
	}
	ring_server_stats(self->env.server, &stats);
	EXPECT_EQ(ROUNDS, stats.links_failed);
	/* io_uring's rule: a head that skips and fails makes the rest skip */
	EXPECT_EQ(0, stats.commits_canceled);

	hook.fd = fd;
	EXPECT_EQ(0, open_and_check(&self->env, "file"));
	EXPECT_EQ(0, served(&self->env));
	close(fd);
}

TEST_F(link, failed_then_without_passthrough)
{
	struct ring_server_cfg cfg = hooks;
	int i;

	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	close(backing_make_file(&self->env, "file", BACKING_FILE_SZ));
	hook.fd = BAD_FD;
	for (i = 1; i <= ROUNDS; i++) {
		ASSERT_EQ(0, open_and_check(&self->env, "file"));
		EXPECT_EQ(-EBADF, hook.reason);
	}
	EXPECT_EQ(ROUNDS, hook.failed);
	EXPECT_GT(served(&self->env), 0);
}

TEST_F(link, failed_then_linked_again)
{
	struct ring_server_cfg cfg = hooks;
	int i, taken;

	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	hook.fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(hook.fd, 0);
	taken = backing_issue_open(&self->env.issuer, hook.fd);
	ASSERT_GT(taken, 0);
	for (i = 1; i <= ROUNDS; i++) {
		hook.next_id = taken;
		hook.retry_id = 2000 + i;
		ASSERT_EQ(0, open_and_check(&self->env, "file"));
		EXPECT_EQ(-EEXIST, hook.reason);
		EXPECT_EQ(i, hook.failed);
	}
	EXPECT_EQ(0, served(&self->env));
	/* whoever had the id still has it */
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, taken));
	close(hook.fd);
}

/* Somebody was quicker to register the file, under the id that both want */
TEST_F(link, exists_then_committed_alone)
{
	const struct backing_how how = { .setup_flags = IORING_SETUP_SQE128 };
	struct ring_server_cfg cfg = hooks;
	struct backing_issuer other;
	int i;

	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	ASSERT_EQ(0, backing_issuer_init(&other, &how,
					 self->env.issuer.dev_fd));
	hook.fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(hook.fd, 0);
	hook.commit_alone = true;
	for (i = 1; i <= ROUNDS; i++) {
		ASSERT_EQ(hook.next_id,
			  backing_issue_open_id(&other, hook.fd, hook.next_id));
		ASSERT_EQ(0, open_and_check(&self->env, "file"));
		EXPECT_EQ(-EEXIST, hook.reason);
		EXPECT_EQ(i, hook.failed);
	}
	EXPECT_EQ(0, served(&self->env));
	backing_issuer_exit(&other);
	close(hook.fd);
}

/* Without IOSQE_CQE_SKIP_SUCCESS each of the two has a CQE */
TEST_F(link, no_skip)
{
	struct ring_server_cfg cfg = hooks;
	struct ring_server_stats stats;
	int i, fd;

	cfg.link_no_skip = true;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(fd, 0);
	hook.fd = fd;
	ASSERT_EQ(0, open_and_check(&self->env, "file"));
	hook.fd = BAD_FD;
	hook.answer = -ENODEV;
	for (i = 1; i <= ROUNDS; i++)
		ASSERT_EQ(-ENODEV, open_and_check(&self->env, "file"));
	wait_links(&self->env, ROUNDS, ROUNDS, &stats);
	EXPECT_EQ(ROUNDS, stats.links_failed);
	EXPECT_EQ(ROUNDS, stats.commits_canceled);
	close(fd);
}

/* Close the old id, open the new one, reply: all or, from a failure on, none */
TEST_F(link, chain_of_three)
{
	struct ring_server_cfg cfg = hooks;
	int i, old;

	cfg.release = NULL;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	hook.fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(hook.fd, 0);
	old = backing_issue_open(&self->env.issuer, hook.fd);
	ASSERT_GT(old, 0);
	for (i = 0; i < ROUNDS; i++) {
		hook.close_id = old;
		old = hook.next_id;
		ASSERT_EQ(0, open_and_check(&self->env, "file"));
		EXPECT_EQ(-ENOENT, backing_issue_close(&self->env.issuer,
						       hook.close_id));
	}
	EXPECT_EQ(0, hook.failed);
	EXPECT_EQ(0, served(&self->env));

	/* the first fails: the second did not run, so its id is free */
	hook.close_id = 77777;
	hook.answer = -ENODEV;
	hook.next_id = 5000;
	EXPECT_EQ(-ENODEV, open_and_check(&self->env, "file"));
	EXPECT_EQ(-ENOENT, hook.reason);
	EXPECT_EQ(-ENOENT, backing_issue_close(&self->env.issuer, 5000));

	/* the second fails: the first did run */
	hook.close_id = old;
	hook.retry_fd = 0;
	close(hook.fd);
	hook.fd = BAD_FD;
	EXPECT_EQ(-ENODEV, open_and_check(&self->env, "file"));
	EXPECT_EQ(-EBADF, hook.reason);
	EXPECT_EQ(2, hook.failed);
	EXPECT_EQ(-ENOENT, backing_issue_close(&self->env.issuer, old));
}

/* With a CQE for each of the three there is still one answer */
TEST_F(link, chain_of_three_no_skip)
{
	struct ring_server_cfg cfg = hooks;
	struct ring_server_stats stats;
	int i;

	cfg.release = NULL;
	cfg.link_no_skip = true;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	hook.fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(hook.fd, 0);
	hook.close_id = 77777;
	hook.answer = -ENODEV;
	for (i = 1; i <= ROUNDS; i++) {
		ASSERT_EQ(-ENODEV, open_and_check(&self->env, "file"));
		EXPECT_EQ(-ENOENT, hook.reason);
		EXPECT_EQ(i, hook.failed);
	}
	wait_links(&self->env, ROUNDS, ROUNDS, &stats);
	EXPECT_EQ(ROUNDS, stats.links_failed);
	EXPECT_EQ(ROUNDS, stats.commits_canceled);
	close(hook.fd);
}

/* A hard link is not severed: the reply goes out with an id that is none */
TEST_F(link, hard_link)
{
	struct ring_server_cfg cfg = hooks;
	struct ring_server_stats stats;
	int fd;

	cfg.link_flags = IOSQE_IO_HARDLINK;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(fd, 0);
	hook.fd = fd;
	EXPECT_EQ(0, open_and_check(&self->env, "file"));
	hook.fd = BAD_FD;
	EXPECT_EQ(-EIO, open_and_check(&self->env, "file"));
	wait_links(&self->env, 1, 0, &stats);
	EXPECT_EQ(1, stats.links_failed);
	EXPECT_EQ(0, stats.commits_canceled);
	hook.fd = fd;
	EXPECT_EQ(0, open_and_check(&self->env, "file"));
	close(fd);
}

#define NO_ID	77777

/* There is an SQE in front: the link has no room until that is submitted */
static int hook_open_full(struct ring_req *req, struct ring_node *node,
			  struct fuse_open_out *out)
{
	ring_queue_close_id(req->queue, NO_ID);
	return hook_open(req, node, out);
}

/*
 * A link ends with the submission. The rings of this one have room for just one
 * link, so that the library has to submit before it, and never cuts one.
 */
TEST_F(link, ring_with_room_for_one_link)
{
	struct ring_server_cfg cfg = hooks;
	struct ring_server_stats stats;
	int i;

	cfg.open = hook_open_full;
	cfg.depth = 2;
	cfg.sq_entries = 2;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	hook.fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(hook.fd, 0);
	for (i = 0; i < ROUNDS; i++)
		ASSERT_EQ(0, open_and_check(&self->env, "file"));
	EXPECT_EQ(0, served(&self->env));
	EXPECT_EQ(0, hook.failed);
	wait_idle(&self->env, ROUNDS, &stats);
	EXPECT_EQ(ROUNDS, stats.closes_failed);
	close(hook.fd);
}

static void prep_head_alone(struct io_uring_sqe *sqe, int dev_fd, void *arg)
{
	(void)arg;
	backing_cmd_prep_open_id(sqe, dev_fd, hook.fd, hook.next_id);
	sqe->flags = IOSQE_IO_LINK;
}

/* Submits the head of a link, and the commit only with the next submission */
static int hook_cut(struct ring_req *req, struct ring_node *node,
		    struct fuse_open_out *out)
{
	(void)node;
	hook.reason = ring_queue_cmd(req->queue, prep_head_alone, NULL);
	out->open_flags = FOPEN_PASSTHROUGH;
	out->backing_id = hook.next_id;
	return 0;
}

/* What is cut off goes out whatever came of the head */
TEST_F(link, ends_with_the_submission)
{
	struct ring_server_cfg cfg = { .open = hook_cut };
	int fd;

	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(fd, 0);
	hook.fd = BAD_FD;
	EXPECT_EQ(-EIO, open_and_check(&self->env, "file"));
	EXPECT_EQ(-EBADF, hook.reason);
	hook.fd = fd;
	EXPECT_EQ(0, open_and_check(&self->env, "file"));
	EXPECT_EQ(hook.next_id, hook.reason);
	close(fd);
}

static void prep_open_id(struct io_uring_sqe *sqe, int dev_fd, void *arg)
{
	(void)arg;
	backing_cmd_prep_open_id(sqe, dev_fd, hook.fd, hook.next_id);
}

/* Another ring closes the id after it is registered and before the reply */
static int hook_closed_between(struct ring_req *req, struct ring_node *node,
			       struct fuse_open_out *out)
{
	const struct backing_how how = { .setup_flags = IORING_SETUP_SQE128 };
	struct backing_env *env = ring_server_priv(req->server);
	struct backing_issuer other;

	(void)node;
	if (backing_issuer_init(&other, &how, ring_server_dev_fd(env->server)))
		return -ENOMEM;
	if (ring_queue_cmd(req->queue, prep_open_id, NULL) != hook.next_id ||
	    backing_issue_close(&other, hook.next_id))
		hook.failed++;
	backing_issuer_exit(&other);
	out->open_flags = FOPEN_PASSTHROUGH;
	out->backing_id = hook.next_id;
	return 0;
}

TEST_F(link, closed_before_the_reply)
{
	struct ring_server_cfg cfg = { .open = hook_closed_between };
	int i;

	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	hook.fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(hook.fd, 0);
	for (i = 0; i < ROUNDS; i++)
		ASSERT_EQ(-EIO, open_and_check(&self->env, "file"));
	EXPECT_EQ(0, hook.failed);
	close(hook.fd);
}

/* The connection goes while the server makes up its reply */
static int hook_abort(struct ring_req *req, struct ring_node *node,
		      struct fuse_open_out *out)
{
	struct backing_env *env = ring_server_priv(req->server);

	if (ring_queue_cmd(req->queue, prep_open_id, NULL) != hook.next_id ||
	    ring_server_abort(env->server))
		hook.next_id = 0;
	hook.next_id++;
	return hook_open(req, node, out);
}

static void check_gone_between(struct __test_metadata *_metadata,
			       struct backing_env *env)
{
	int err, i;

	hook.fd = backing_make_file(env, "file", BACKING_FILE_SZ);
	ASSERT_GE(hook.fd, 0);
	err = open_and_check(env, "file");
	EXPECT_TRUE(err == -ENOTCONN || err == -ECONNABORTED) {
		TH_LOG("open: %d", err);
	}
	/* the client is woken up before the hook has come to its end */
	for (i = 0; i < 5000 && !__atomic_load_n(&hook.failed,
						 __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	/* the failed link answers, and the entry ends with that answer */
	EXPECT_EQ(0, backing_env_stop(env));
	EXPECT_GT(hook.next_id, 1000);
	close(hook.fd);
	EXPECT_EQ(1, hook.failed);
	EXPECT_EQ(-ENOTCONN, hook.reason);
}

TEST_F(link, aborted_between)
{
	struct ring_server_cfg cfg = hooks;

	cfg.open = hook_abort;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	check_gone_between(_metadata, &self->env);
}

static int hook_umount(struct ring_req *req, struct ring_node *node,
		       struct fuse_open_out *out)
{
	struct backing_env *env = ring_server_priv(req->server);

	if (ring_queue_cmd(req->queue, prep_open_id, NULL) != hook.next_id)
		hook.next_id = 0;
	/* the open that is answered here holds the mount: only lazily, ... */
	if (umount2(env->mnt, MNT_FORCE | MNT_DETACH))
		hook.next_id = 0;
	hook.next_id++;
	return hook_open(req, node, out);
}

TEST_F(link, umounted_between)
{
	struct ring_server_cfg cfg = hooks;

	cfg.open = hook_umount;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	check_gone_between(_metadata, &self->env);
}

/* The server has registered a file, owes a reply, and is killed */
static int hook_die(struct ring_req *req, struct ring_node *node,
		    struct fuse_open_out *out)
{
	(void)node;
	(void)out;
	if (ring_queue_cmd(req->queue, prep_open_id, NULL) == hook.next_id)
		kill(getpid(), SIGKILL);
	return -ENODEV;
}

TEST_F(link, server_killed_between)
{
	struct ring_server_cfg cfg = hooks;
	int err, p[2], status;
	pid_t pid;
	char c;

	cfg.open = hook_die;
	close(backing_make_file(&self->env, "file", BACKING_FILE_SZ));
	ASSERT_EQ(0, pipe(p));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		hook.fd = open_back(&self->env, "file", O_RDWR);
		if (start(&self->env, &variant->how, &cfg))
			_exit(1);
		if (write(p[1], "", 1) != 1)
			_exit(1);
		pause();
	}
	close(p[1]);
	ASSERT_EQ(1, read(p[0], &c, 1));
	close(p[0]);
	err = open_and_check(&self->env, "file");
	EXPECT_TRUE(err == -ENOTCONN || err == -ECONNABORTED) {
		TH_LOG("open: %d", err);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	/* teardown sees whether the backing file was let go of */
	EXPECT_EQ(0, umount2(self->env.mnt, 0));
}

/*
 * What an OPEN costs the server in io_uring_enter() calls and CQEs, per round
 * of open and close. To count is to have the requests come one by one.
 */
static void count_rounds(struct __test_metadata *_metadata,
			 struct backing_env *env,
			 struct ring_server_stats *cost)
{
	struct ring_server_stats before, after;
	int i;

	/* the first round has a LOOKUP more than the others */
	for (i = 0; i <= ROUNDS; i++) {
		int fd = open_mnt(env, "file", O_RDONLY);

		ASSERT_GE(fd, 0);
		close(fd);
		wait_idle(env, i + 1, i ? &after : &before);
	}
	cost->enters = after.enters - before.enters;
	cost->cqes = after.cqes - before.cqes;
}

static int hook_plain(struct ring_req *req, struct ring_node *node,
		      struct fuse_open_out *out)
{
	(void)req;
	(void)node;
	out->fh = 0;
	return 0;
}

static void prep_open(struct io_uring_sqe *sqe, int dev_fd, void *arg)
{
	(void)arg;
	backing_cmd_prep_open(sqe, dev_fd, hook.fd);
}

static int hook_separate(struct ring_req *req, struct ring_node *node,
			 struct fuse_open_out *out)
{
	int id = ring_queue_cmd(req->queue, prep_open, NULL);

	(void)node;
	if (id < 0)
		return id;
	out->open_flags = FOPEN_PASSTHROUGH;
	out->backing_id = id;
	out->fh = id;
	return 0;
}

TEST_F(link, costs_no_system_call)
{
	struct ring_server_stats plain, linked, separate;
	struct ring_server_cfg cfg = hooks;

	hook.fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(hook.fd, 0);

	cfg.open = hook_plain;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	count_rounds(_metadata, &self->env, &plain);
	ASSERT_EQ(0, backing_env_stop(&self->env));

	cfg.open = hook_open;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	count_rounds(_metadata, &self->env, &linked);
	EXPECT_EQ(0, hook.failed);
	ASSERT_EQ(0, backing_env_stop(&self->env));

	cfg.open = hook_separate;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	count_rounds(_metadata, &self->env, &separate);
	TH_LOG("%d rounds: %lu enters and %lu CQEs, linked %lu and %lu, separate %lu and %lu",
	       ROUNDS, plain.enters, plain.cqes, linked.enters, linked.cqes,
	       separate.enters, separate.cqes);
	EXPECT_EQ(plain.enters, linked.enters);
	EXPECT_EQ(plain.cqes, linked.cqes);
	EXPECT_EQ(plain.enters + ROUNDS, separate.enters);
	EXPECT_EQ(plain.cqes + ROUNDS, separate.cqes);
	close(hook.fd);
}

/*
 * Many clients, all queues, and rings with room for one CQE for each ring entry
 * and for fewer SQEs than the two that a linked reply has. Every 7th
 * registration is of a bad fd and every 11th of an id in use.
 */
#define CLIENTS		16
#define CLIENT_ROUNDS	50
#define STORM_DEPTH	4

static struct {
	unsigned int opens;
	int taken;
	unsigned int bad, dup;
} storm;

static int hook_storm(struct ring_req *req, struct ring_node *node,
		      struct fuse_open_out *out)
{
	unsigned int n = __atomic_add_fetch(&storm.opens, 1, __ATOMIC_SEQ_CST);
	int err = hook_open(req, node, out);

	req->link_fd = node->fd;
	if (n % 7 == 0)
		req->link_fd = BAD_FD;
	else if (n % 11 == 0)
		out->backing_id = storm.taken;
	return err;
}

static int storm_failed(struct ring_req *req, struct ring_node *node,
			struct fuse_open_out *out, int err)
{
	(void)node;
	__atomic_add_fetch(err == -EEXIST ? &storm.dup : &storm.bad, 1,
			   __ATOMIC_SEQ_CST);
	out->open_flags = 0;
	out->backing_id = 0;
	out->fh = 0;
	req->link_fd = -1;
	return err == -EEXIST ? 0 : -ENODEV;
}

struct client {
	pthread_t thread;
	struct backing_env *env;
	char name[16];
	int rounds;
	unsigned int refused, wrong;
	int last_err;
};

static void *client_thread(void *arg)
{
	struct client *c = arg;
	int i, err;

	for (i = 0; i < c->rounds; i++) {
		err = open_and_check(c->env, c->name);
		if (err == -ENODEV) {
			c->refused++;
		} else if (err) {
			c->wrong++;
			c->last_err = err;
		}
	}
	return NULL;
}

/* Runs all clients, and returns how many opens were -ENODEV */
static unsigned int run_clients(struct __test_metadata *_metadata,
				struct backing_env *env)
{
	struct client client[CLIENTS] = { };
	unsigned int refused = 0;
	int i;

	for (i = 0; i < CLIENTS; i++) {
		struct client *c = &client[i];

		c->env = env;
		c->rounds = CLIENT_ROUNDS;
		snprintf(c->name, sizeof(c->name), "%c", 'a' + i);
		close(backing_make_file(env, c->name, BACKING_FILE_SZ));
		EXPECT_EQ(0, pthread_create(&c->thread, NULL, client_thread,
					    c));
	}
	for (i = 0; i < CLIENTS; i++) {
		pthread_join(client[i].thread, NULL);
		EXPECT_EQ(0, client[i].wrong) {
			TH_LOG("client %d: %d", i, client[i].last_err);
		}
		refused += client[i].refused;
	}
	return refused;
}

TEST_F_TIMEOUT(link, storm, 300)
{
	struct ring_server_cfg cfg = {
		.open = hook_storm,
		.link_failed = storm_failed,
		.release = hook_release,
		.depth = STORM_DEPTH,
		.sq_entries = STORM_DEPTH,
		.cq_entries = STORM_DEPTH,
	};
	struct ring_server_stats stats;
	unsigned int refused;
	int fd;

	/* no ring has fewer CQEs than SQEs of 64 bytes */
	if (variant->how.mixed)
		cfg.cq_entries *= 2;
	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	fd = backing_make_file(&self->env, "taken", 10);
	storm.taken = backing_issue_open(&self->env.issuer, fd);
	ASSERT_GT(storm.taken, 0);
	close(fd);

	refused = run_clients(_metadata, &self->env);
	ring_server_stats(self->env.server, &stats);
	EXPECT_EQ(CLIENTS * CLIENT_ROUNDS, storm.opens);
	EXPECT_EQ(storm.opens / 7, storm.bad);
	EXPECT_EQ(storm.opens / 11 - storm.opens / 77, storm.dup);
	EXPECT_EQ(storm.bad, refused);
	EXPECT_EQ(storm.bad + storm.dup, stats.links_failed);
	/* there is room for one CQE for each ring entry */
	EXPECT_EQ(0, stats.overflows);
}

static bool registered[RING_SERVER_MAX_NODES + 2];

/* Each inode's id is the number of its fd, closed and reused in one link */
static int hook_fd_as_id(struct ring_req *req, struct ring_node *node,
			 struct fuse_open_out *out)
{
	out->open_flags = FOPEN_PASSTHROUGH;
	out->backing_id = node->fd;
	req->link_fd = node->fd;
	/* each client has a file of its own, so that this needs no lock */
	if (registered[node->nodeid])
		req->link_close_id = node->fd;
	registered[node->nodeid] = true;
	return 0;
}

TEST_F_TIMEOUT(link, storm_fd_as_id, 300)
{
	struct ring_server_cfg cfg = {
		.open = hook_fd_as_id,
		.link_failed = storm_failed,
		.depth = STORM_DEPTH,
		.sq_entries = STORM_DEPTH,
		/* more than can be needed, to see what is */
		.cq_entries = 4 * STORM_DEPTH,
	};
	struct ring_server_stats stats;

	ASSERT_EQ(0, start(&self->env, &variant->how, &cfg));
	EXPECT_EQ(0, run_clients(_metadata, &self->env));
	EXPECT_EQ(0, served(&self->env));
	ring_server_stats(self->env.server, &stats);
	EXPECT_EQ(0, stats.links_failed);
	EXPECT_EQ(0, stats.overflows);
	EXPECT_LE(stats.cqes_max, STORM_DEPTH);
}

FIXTURE(rules)
{
	struct backing_env env;
	int fd;
};

FIXTURE_VARIANT(rules)
{
	struct backing_how how;
};

#define BACKING_FIXTURE rules
#include "backing_variants.h"

FIXTURE_SETUP(rules)
{
	const char *missing = backing_env_missing(&variant->how);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, backing_env_setup(&self->env));
	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	self->fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(rules)
{
	close(self->fd);
	EXPECT_EQ(0, backing_env_teardown(&self->env));
}

#define RULES_ID	1000

/* A registration under RULES_ID, with a user_data of 0 */
static struct io_uring_sqe *queue_open(struct __test_metadata *_metadata,
				       struct backing_issuer *issuer, int fd,
				       unsigned int flags)
{
	const struct fuse_uring_cmd_req req = {
		.backing.map.fd = fd,
		.backing.id = RULES_ID,
	};
	struct io_uring_sqe *sqe;

	sqe = backing_issue_prep(issuer, FUSE_IO_URING_CMD_BACKING_OPEN, &req,
				 0);
	ASSERT_NE(NULL, sqe);
	sqe->flags |= flags;
	return sqe;
}

/* The commit of a request that nobody made, with a user_data of 1 */
static struct io_uring_sqe *queue_commit(struct __test_metadata *_metadata,
					 struct backing_issuer *issuer)
{
	/* those of requests are even */
	const struct fuse_uring_cmd_req req = { .commit_id = 1 };
	struct io_uring_sqe *sqe;

	sqe = backing_issue_prep(issuer, FUSE_IO_URING_CMD_COMMIT_AND_FETCH,
				 &req, 0);
	ASSERT_NE(NULL, sqe);
	sqe->user_data = 1;
	return sqe;
}

/*
 * Submits and takes so many CQEs, which have to be all. The results go to where
 * user_data says, 1 is for none.
 */
static void submit_all(struct __test_metadata *_metadata,
		       struct backing_issuer *issuer, unsigned int nr,
		       int res[2])
{
	struct io_uring_cqe *cqe;

	res[0] = 1;
	res[1] = 1;
	EXPECT_LE(0, io_uring_submit(&issuer->ring));
	while (nr--) {
		ASSERT_EQ(0, io_uring_wait_cqe(&issuer->ring, &cqe));
		ASSERT_LE(cqe->user_data, 1);
		EXPECT_EQ(1, res[cqe->user_data]);
		res[cqe->user_data] = cqe->res;
		io_uring_cqe_seen(&issuer->ring, cqe);
	}
	/* the next one is that of the next command */
	EXPECT_EQ(-EINVAL, backing_issue_close(issuer, -1));
	EXPECT_EQ(0, io_uring_cq_ready(&issuer->ring));
}

/* io_uring does not take the second SQE: the first is not run either */
TEST_F(rules, refused_commit)
{
	struct backing_issuer *issuer = &self->env.issuer;
	int res[2];

	queue_open(_metadata, issuer, self->fd, IOSQE_IO_LINK);
	queue_commit(_metadata, issuer)->__pad1 = 1;
	submit_all(_metadata, issuer, 2, res);
	EXPECT_EQ(-ECANCELED, res[0]);
	EXPECT_EQ(-EINVAL, res[1]);

	queue_open(_metadata, issuer, self->fd,
		   IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS);
	queue_commit(_metadata, issuer)->__pad1 = 1;
	submit_all(_metadata, issuer, 1, res);
	EXPECT_EQ(-ECANCELED, res[0]);
	EXPECT_EQ(1, res[1]);
	EXPECT_EQ(-ENOENT, backing_issue_close(issuer, RULES_ID));
}

/* The registration stays if the commit fails */
TEST_F(rules, failed_commit)
{
	struct backing_issuer *issuer = &self->env.issuer;
	int res[2];

	queue_open(_metadata, issuer, self->fd,
		   IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS);
	queue_commit(_metadata, issuer);
	submit_all(_metadata, issuer, 1, res);
	EXPECT_EQ(1, res[0]);
	EXPECT_EQ(-ENOENT, res[1]);
	EXPECT_EQ(0, backing_issue_close(issuer, RULES_ID));
}

/* A failed registration: which of the two has a CQE */
TEST_F(rules, failed_open)
{
	struct backing_issuer *issuer = &self->env.issuer;
	int res[2];

	queue_open(_metadata, issuer, BAD_FD, IOSQE_IO_LINK);
	queue_commit(_metadata, issuer);
	submit_all(_metadata, issuer, 2, res);
	EXPECT_EQ(-EBADF, res[0]);
	EXPECT_EQ(-ECANCELED, res[1]);

	queue_open(_metadata, issuer, BAD_FD,
		   IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS);
	queue_commit(_metadata, issuer);
	submit_all(_metadata, issuer, 1, res);
	EXPECT_EQ(-EBADF, res[0]);
	EXPECT_EQ(1, res[1]);
}

TEST_F(rules, no_drain_after_skip)
{
	struct backing_issuer *issuer = &self->env.issuer;
	int res[2];

	queue_open(_metadata, issuer, self->fd, IOSQE_IO_DRAIN);
	submit_all(_metadata, issuer, 1, res);
	EXPECT_EQ(RULES_ID, res[0]);
	EXPECT_EQ(0, backing_issue_close(issuer, RULES_ID));

	queue_open(_metadata, issuer, BAD_FD, IOSQE_CQE_SKIP_SUCCESS);
	submit_all(_metadata, issuer, 1, res);
	EXPECT_EQ(-EBADF, res[0]);

	queue_open(_metadata, issuer, self->fd, IOSQE_IO_DRAIN);
	submit_all(_metadata, issuer, 1, res);
	EXPECT_EQ(-EOPNOTSUPP, res[0]);
	EXPECT_EQ(-ENOENT, backing_issue_close(issuer, RULES_ID));
}

FIXTURE(mixed)
{
	struct backing_env env;
};

FIXTURE_SETUP(mixed)
{
	const char *missing = backing_env_missing(&how_mixed);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, backing_env_setup(&self->env));
	ASSERT_EQ(0, backing_env_start(&self->env, &how_mixed, NULL));
}

FIXTURE_TEARDOWN(mixed)
{
	EXPECT_EQ(0, backing_env_teardown(&self->env));
}

/* Goes on to a place in the SQ ring of 8 SQEs, with NOPs that have no CQE */
static void go_to(struct __test_metadata *_metadata,
		  struct backing_issuer *issuer, unsigned int place)
{
	struct io_uring *ring = &issuer->ring;

	ASSERT_EQ(8, ring->sq.ring_entries);
	while ((ring->sq.sqe_tail & ring->sq.ring_mask) != place) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

		ASSERT_NE(NULL, sqe);
		io_uring_prep_nop(sqe);
		sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
		ASSERT_EQ(1, io_uring_submit(ring));
	}
}

/*
 * An SQE of 128 bytes cannot wrap around: liburing puts a NOP into the last
 * place. Between the two SQEs of a link that is the end of the link.
 */
TEST_F(mixed, nop_at_the_end_of_the_ring)
{
	struct backing_issuer *issuer = &self->env.issuer;
	int res[2];

	/* places 5 and 6, 7 is the NOP, 0 and 1: the commit is issued */
	go_to(_metadata, issuer, 5);
	queue_open(_metadata, issuer, BAD_FD,
		   IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS);
	queue_commit(_metadata, issuer);
	submit_all(_metadata, issuer, 2, res);
	EXPECT_EQ(-EBADF, res[0]);
	EXPECT_EQ(-ENOENT, res[1]);

	/* with a NOP in front, 6 and 7, 0 and 1 */
	go_to(_metadata, issuer, 6);
	queue_open(_metadata, issuer, BAD_FD,
		   IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS);
	queue_commit(_metadata, issuer);
	submit_all(_metadata, issuer, 1, res);
	EXPECT_EQ(-EBADF, res[0]);
	EXPECT_EQ(1, res[1]);
}

/* IORING_SQPOLL_CAP_ENTRIES_VALUE in io_uring/sqpoll.c */
#define SHARE		8

FIXTURE(sq_thread)
{
	struct backing_env env;
	/* shares the thread of env.issuer */
	struct backing_issuer other;
};

FIXTURE_SETUP(sq_thread)
{
	const char *missing = backing_env_missing(NULL);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, backing_env_setup(&self->env));
}

FIXTURE_TEARDOWN(sq_thread)
{
	backing_issuer_exit(&self->other);
	EXPECT_EQ(0, backing_env_teardown(&self->env));
}

/*
 * Submits a registration that fails as the SQE number @at, with a close linked
 * behind it. Returns the result of the close: -ENOENT if it was issued.
 */
static int behind_failed_open(struct __test_metadata *_metadata,
			      struct backing_issuer *issuer, int at)
{
	const struct fuse_uring_cmd_req bad = { .backing.map.fd = BAD_FD };
	const struct fuse_uring_cmd_req no_id = { .backing.id = NO_ID };
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	int i, res[2] = { 0 };

	while (--at) {
		sqe = io_uring_get_sqe(&issuer->ring);
		ASSERT_NE(NULL, sqe);
		io_uring_prep_nop(sqe);
		sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
	}
	sqe = backing_issue_prep(issuer, FUSE_IO_URING_CMD_BACKING_OPEN, &bad,
				 0);
	ASSERT_NE(NULL, sqe);
	sqe->flags |= IOSQE_IO_LINK;
	sqe = backing_issue_prep(issuer, FUSE_IO_URING_CMD_BACKING_CLOSE,
				 &no_id, 0);
	ASSERT_NE(NULL, sqe);
	sqe->user_data = 1;
	EXPECT_LE(0, io_uring_submit(&issuer->ring));

	/* a link that is cut has no order */
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, io_uring_wait_cqe(&issuer->ring, &cqe));
		ASSERT_LE(cqe->user_data, 1);
		res[cqe->user_data] = cqe->res;
		io_uring_cqe_seen(&issuer->ring, cqe);
	}
	EXPECT_EQ(-EBADF, res[0]);
	return res[1];
}

/* A thread that serves one ring takes all there is, one of several a share */
TEST_F(sq_thread, shared_cuts_links)
{
	struct backing_issuer *issuer = &self->env.issuer;
	struct backing_how how = {
		.setup_flags = IORING_SETUP_SQE128 | IORING_SETUP_SQPOLL,
		.entries = 2 * SHARE,
	};

	ASSERT_EQ(0, backing_env_start(&self->env, &how, NULL));
	EXPECT_EQ(-ECANCELED, behind_failed_open(_metadata, issuer, SHARE));

	how.setup_flags |= IORING_SETUP_ATTACH_WQ;
	how.wq_fd = issuer->ring.ring_fd;
	how.entries = SHARE;
	ASSERT_EQ(0, backing_issuer_init(&self->other, &how, issuer->dev_fd));
	ASSERT_GT(backing_issuer_sq_thread(issuer), 0);
	ASSERT_EQ(backing_issuer_sq_thread(issuer),
		  backing_issuer_sq_thread(&self->other));

	EXPECT_EQ(-ECANCELED, behind_failed_open(_metadata, issuer, SHARE - 1));
	EXPECT_EQ(-ENOENT, behind_failed_open(_metadata, issuer, SHARE));
	/* as much as a ring of that size has room for */
	EXPECT_EQ(-ECANCELED,
		  behind_failed_open(_metadata, &self->other, SHARE - 1));
}

int main(int argc, char **argv)
{
	backing_env_main();
	return test_harness_run(argc, argv);
}
