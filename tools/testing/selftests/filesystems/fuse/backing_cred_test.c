// SPDX-License-Identifier: GPL-2.0
/*
 * Whose credentials, and whose file table, a backing file command has.
 *
 * The credentials in force matter twice, and both can be seen from outside:
 *
 *  - With CAP_SYS_ADMIN in them the command is allowed, else it is -EPERM.
 *  - BACKING_OPEN records them, and the I/O is done with them: a write through
 *    a set-user-id backing file keeps the bit if CAP_FSETID is in them,
 *    whatever the client has.
 *
 * Every test says whose credentials it expects to be in force, issues the
 * ioctls with these, and compares. The table of what is expected is in
 * "Credentials and file table" in Documentation/filesystems/fuse/uapi/
 * fuse-uapi-io-uring.rst.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "backing_env.h"

/* File descriptors whose numbers matter, see whose_fd */
#define FD_BOTH		100
#define FD_CHILD	101
#define FD_PARENT	102

/* The capabilities that a task can be without, as bits */
#define NO_ADMIN	CAP_TO_MASK(CAP_SYS_ADMIN)
#define NO_FSETID	CAP_TO_MASK(CAP_FSETID)

/* The credentials that can be told apart */
static const unsigned int creds[] = { 0, NO_ADMIN, NO_FSETID };

#define NR_CREDS	ARRAY_SIZE(creds)

/* A task and its credentials */
struct task {
	/* the capabilities that it is without */
	unsigned int without;
	/* a forked child, else the test itself */
	bool child;
	/* a child in a user namespace of its own, all capabilities there */
	bool user_ns;
};

/* The test itself, with all capabilities */
static const struct task self_task;

/* What a task has to do */
struct job {
	int (*fn)(struct job *job);
	struct backing_issuer *issuer;
	__u32 cmd_op;
	struct fuse_uring_cmd_req req;
	/* what else some functions need */
	struct backing_env *env;
	unsigned int head_flags;
	/* not linked, but with IOSQE_IO_DRAIN */
	bool drain;
	int other_fd;
	pid_t pid;
	int ret;
};

/* Memory shared with children */
struct shared {
	/* a ring that has moved on in a child has then done so here too */
	struct backing_issuer ring;
	struct job job;
};

/* What came of both commands */
struct outcome {
	/* 0 or a negative errno */
	int open;
	int close;
	/* CAP_FSETID is in the credentials recorded by a successful open */
	bool fsetid;
};

/* What a test has */
struct ctx {
	/* its issuer is the ioctl one */
	struct backing_env env;
	struct shared *shared;
	/* the backing file, O_RDWR */
	int fd;
};

FIXTURE(cred)
{
	struct ctx ctx;
};

FIXTURE_VARIANT(cred)
{
	struct backing_how how;
};

#define BACKING_FIXTURE cred
#include "backing_variants.h"

FIXTURE_VARIANT_ADD(cred, sqpoll_iowq)
{
	.how = {
		.setup_flags = IORING_SETUP_SQE128 | IORING_SETUP_SQPOLL,
		.sqe_flags = IOSQE_ASYNC,
	},
};

/* The flag keeps others from registering with the ring, not from submitting */
FIXTURE_VARIANT_ADD(cred, sqpoll_single)
{
	.how = {
		.setup_flags = IORING_SETUP_SQE128 | IORING_SETUP_SQPOLL |
			       IORING_SETUP_SINGLE_ISSUER,
	},
};

static void ctx_setup(struct __test_metadata *_metadata, struct ctx *ctx)
{
	const struct backing_how how = { .ioctl = true };

	ctx->shared = mmap(NULL, sizeof(*ctx->shared), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, ctx->shared);
	ASSERT_EQ(0, backing_env_setup(&ctx->env));
	ASSERT_EQ(0, backing_env_start(&ctx->env, &how, NULL));
	ctx->fd = backing_make_file(&ctx->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(ctx->fd, 0);
}

static void ctx_teardown(struct __test_metadata *_metadata, struct ctx *ctx)
{
	if (ctx->shared)
		backing_issuer_exit(&ctx->shared->ring);
	if (ctx->fd > 0)
		close(ctx->fd);
	EXPECT_EQ(0, backing_env_teardown(&ctx->env));
}

FIXTURE_SETUP(cred)
{
	const char *missing = backing_env_missing(&variant->how);

	if (missing)
		SKIP(return, "%s", missing);
	ctx_setup(_metadata, &self->ctx);
}

FIXTURE_TEARDOWN(cred)
{
	ctx_teardown(_metadata, &self->ctx);
}

/* The maker of the ring decides, else the task that submits */
static bool maker_decides(const struct backing_how *how)
{
	return how->setup_flags & IORING_SETUP_SQPOLL;
}

/* Only the maker of the ring can use it */
static bool single_issuer(const struct backing_how *how)
{
	return how->setup_flags & IORING_SETUP_SINGLE_ISSUER &&
	       !(how->setup_flags & IORING_SETUP_SQPOLL);
}

static const char *lacks(const struct task *task)
{
	if (task->user_ns)
		return "in a user namespace";
	switch (task->without) {
	case 0:
		return "with all capabilities";
	case NO_ADMIN:
		return "without CAP_SYS_ADMIN";
	default:
		return "without CAP_FSETID";
	}
}

static int become(const struct task *task)
{
	int err;

	if (task->user_ns && unshare(CLONE_NEWUSER))
		return -errno;
	err = set_capability(CAP_SYS_ADMIN, !(task->without & NO_ADMIN));
	if (err)
		return err;
	return set_capability(CAP_FSETID, !(task->without & NO_FSETID));
}

/* Have the job done by that task; returns what job->fn() does */
static int run_as(const struct task *task, struct job *job)
{
	int err, status;
	pid_t pid;

	if (!task->child) {
		err = become(task);
		job->ret = err ? err : job->fn(job);
		err = become(&self_task);
		return err ? err : job->ret;
	}

	job->ret = -ECHILD;
	pid = fork();
	if (!pid) {
		err = become(task);
		job->ret = err ? err : job->fn(job);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		return -ECHILD;
	return job->ret;
}

/* Jobs */

static int issue(struct job *job)
{
	return backing_issue(job->issuer, job->cmd_op, &job->req, 0);
}

/* A ring of the same kind, of the task's own */
static int own_ring(struct job *job, struct backing_issuer *own)
{
	return backing_issuer_init(own, &job->issuer->how,
				   ring_server_dev_fd(job->env->server));
}

static int issue_on_own_ring(struct job *job)
{
	struct backing_issuer own;
	int ret = own_ring(job, &own);

	if (ret)
		return ret;
	ret = backing_issue(&own, job->cmd_op, &job->req, 0);
	backing_issuer_exit(&own);
	return ret;
}

/*
 * Queue the command as the second of a link, without submitting it.
 *
 * To be done twice on a ring at most: where SQEs of 128 bytes are mixed in, one
 * that would wrap gets a NOP before it, and that ends the link.
 */
static struct io_uring_sqe *prep_linked(struct job *job)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&job->issuer->ring), *cmd;

	cmd = backing_issue_prep(job->issuer, job->cmd_op, &job->req, 0);
	if (!sqe || !cmd)
		abort();
	io_uring_prep_nop(sqe);
	if (job->drain)
		cmd->flags |= IOSQE_IO_DRAIN;
	else
		sqe->flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
	sqe->flags |= job->head_flags;
	return sqe;
}

static int issue_behind_nop(struct job *job)
{
	int ret;

	prep_linked(job);
	ret = io_uring_submit_and_wait(&job->issuer->ring, 1);
	return ret < 0 ? ret : backing_issue_wait(job->issuer);
}

static int register_personality(struct job *job)
{
	return io_uring_register_personality(&job->issuer->ring);
}

static int take_fd(pid_t pid, int fd)
{
	int pidfd = syscall(SYS_pidfd_open, pid, 0);
	int ret;

	if (pidfd < 0)
		return -errno;
	ret = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	if (ret < 0)
		ret = -errno;
	close(pidfd);
	return ret;
}

/* Get the ring of another process, and what else is only open there */
static int take_ring(struct backing_issuer *taken,
		     const struct backing_issuer *from, pid_t pid)
{
	struct io_uring_params params = from->params;
	int err, fd;

	memset(taken, 0, sizeof(*taken));
	taken->how = from->how;
	taken->dev_fd = from->dev_fd;
	if (from->how.clone) {
		taken->clone_fd = take_fd(pid, from->clone_fd);
		if (taken->clone_fd < 0)
			return taken->clone_fd;
		taken->dev_fd = taken->clone_fd;
	}

	fd = take_fd(pid, from->ring.ring_fd);
	if (fd < 0) {
		err = fd;
		goto fail;
	}
	err = io_uring_queue_mmap(fd, &params, &taken->ring);
	if (err) {
		close(fd);
		goto fail;
	}
	taken->ring_up = true;
	/* liburing takes a ring that it maps for unused */
	taken->ring.sq.sqe_tail = *taken->ring.sq.ktail;
	taken->ring.sq.sqe_head = taken->ring.sq.sqe_tail;
	return 0;

fail:
	backing_issuer_exit(taken);
	return err;
}

static int issue_on_taken_ring(struct job *job)
{
	struct backing_issuer taken;
	struct io_uring inherited = job->issuer->ring;
	int ret;

	io_uring_queue_exit(&inherited);
	ret = take_ring(&taken, job->issuer, job->pid);
	if (ret)
		return ret;
	ret = backing_issue(&taken, job->cmd_op, &job->req, 0);
	backing_issuer_exit(&taken);
	return ret;
}

/* The child and the parent have different files at the same number */
static void take_fds(struct job *job)
{
	dup2(job->other_fd, FD_BOTH);
	dup2(job->other_fd, FD_CHILD);
	close(FD_PARENT);
}

static int issue_own_fds(struct job *job)
{
	take_fds(job);
	return issue(job);
}

static int issue_own_fds_and_ring(struct job *job)
{
	take_fds(job);
	return issue_on_own_ring(job);
}

static int issue_own_fds_behind_nop(struct job *job)
{
	take_fds(job);
	return issue_behind_nop(job);
}

static int issue_own_fds_and_ring_behind_nop(struct job *job)
{
	struct backing_issuer own, *issuer = job->issuer;
	int ret = own_ring(job, &own);

	if (ret)
		return ret;
	job->issuer = &own;
	ret = issue_own_fds_behind_nop(job);
	job->issuer = issuer;
	backing_issuer_exit(&own);
	return ret;
}

/* The file at the number is another one for this task, but not for others */
static int issue_after_unshare(struct job *job)
{
	struct backing_issuer own;
	int ret = own_ring(job, &own);

	if (ret)
		return ret;
	if (!own.how.ioctl) {
		/* makes an io-wq worker, which then waits for more to do */
		ret = backing_issue_open(&own, FD_BOTH);
		if (ret > 0)
			ret = backing_issue_close(&own, ret);
		if (ret)
			return ret;
		usleep(100000);
	}
	if (unshare(CLONE_FILES))
		return -errno;
	take_fds(job);
	ret = backing_issue(&own, job->cmd_op, &job->req, 0);
	backing_issuer_exit(&own);
	return ret;
}

/* Make the ring that the tests below use, with those credentials */
static int make_ring(struct ctx *ctx, const struct backing_how *how,
		     unsigned int without)
{
	struct backing_issuer *ring = &ctx->shared->ring;
	const struct task task = { .without = without };
	int err, ret;

	backing_issuer_exit(ring);
	ret = become(&task);
	if (!ret)
		ret = backing_issuer_init(ring, how,
					  ring_server_dev_fd(ctx->env.server));
	err = become(&self_task);
	return ret ? ret : err;
}

static int run_open(struct ctx *ctx, struct backing_issuer *issuer,
		    const struct task *task, int (*fn)(struct job *job), int fd)
{
	struct job *job = &ctx->shared->job;

	job->fn = fn;
	job->env = &ctx->env;
	job->issuer = issuer;
	job->cmd_op = FUSE_IO_URING_CMD_BACKING_OPEN;
	job->req = (struct fuse_uring_cmd_req){ .backing.map.fd = fd };
	return run_as(task, job);
}

static int run_close(struct ctx *ctx, struct backing_issuer *issuer,
		     const struct task *task, int (*fn)(struct job *job),
		     int id)
{
	struct job *job = &ctx->shared->job;

	job->fn = fn;
	job->env = &ctx->env;
	job->issuer = issuer;
	job->cmd_op = FUSE_IO_URING_CMD_BACKING_CLOSE;
	job->req = (struct fuse_uring_cmd_req){ .backing.id = id };
	return run_as(task, job);
}

static int run_register(struct ctx *ctx, const struct task *task)
{
	struct job *job = &ctx->shared->job;

	job->fn = register_personality;
	job->issuer = &ctx->shared->ring;
	return run_as(task, job);
}

/*
 * Is CAP_FSETID in the credentials that were recorded for that id?
 *
 * The client's own capabilities would be asked for first, by the mode that FUSE
 * knows: so it becomes set-user-id when FUSE has looked.
 */
static bool has_fsetid(struct __test_metadata *_metadata, struct ctx *ctx,
		       int id, const struct task *client)
{
	struct backing_env *env = &ctx->env;
	int fd = ctx->fd, m;
	struct stat st;

	ASSERT_EQ(0, fchmod(fd, 0644));
	ASSERT_EQ(0, ring_server_set_backing(env->server, "file", id));
	m = open_mnt(env, "file", O_WRONLY);
	ASSERT_GE(m, 0);
	ASSERT_EQ(0, fchmod(fd, 04755));
	ASSERT_EQ(0, become(client));
	EXPECT_EQ(4, pwrite(m, "data", 4, 0));
	ASSERT_EQ(0, become(&self_task));
	EXPECT_EQ(0, cmp_back(env, "file", "data", 4, 0));
	EXPECT_EQ(0, served(env));
	EXPECT_EQ(0, ring_server_count(env->server, FUSE_SETATTR));
	close(m);
	ASSERT_EQ(0, fstat(fd, &st));
	ASSERT_EQ(0, fchmod(fd, 0644));
	ASSERT_EQ(0, ring_server_set_backing(env->server, "file", 0));
	return st.st_mode & S_ISUID;
}

/* Both commands, one after the other, by a task */
static struct outcome attempt(struct __test_metadata *_metadata,
			      struct ctx *ctx, struct backing_issuer *issuer,
			      const struct task *task,
			      int (*fn)(struct job *job))
{
	struct outcome out = { };
	int id;

	id = run_open(ctx, issuer, task, fn, ctx->fd);
	if (id > 0) {
		out.fsetid = has_fsetid(_metadata, ctx, id, &self_task);
	} else {
		EXPECT_NE(0, id);
		out.open = id;
		id = backing_issue_open(&ctx->env.issuer, ctx->fd);
		EXPECT_GT(id, 0);
	}
	out.close = run_close(ctx, issuer, task, fn, id);
	/* only if it failed there is something left to close */
	EXPECT_EQ(out.close ? 0 : -ENOENT,
		  backing_issue_close(&ctx->env.issuer, id));
	return out;
}

static bool same(const struct outcome *a, const struct outcome *b)
{
	return a->open == b->open && a->close == b->close &&
	       a->fsetid == b->fsetid;
}

/* That of the ioctls, which has to be what the credentials say */
static struct outcome reference(struct __test_metadata *_metadata,
				struct ctx *ctx, const struct task *task)
{
	bool admin = !task->user_ns && !(task->without & NO_ADMIN);
	bool fsetid = !task->user_ns && !(task->without & NO_FSETID);
	struct outcome out = attempt(_metadata, ctx, &ctx->env.issuer, task,
				     issue);

	EXPECT_EQ(admin ? 0 : -EPERM, out.open);
	EXPECT_EQ(admin ? 0 : -EPERM, out.close);
	EXPECT_EQ(admin && fsetid, out.fsetid);
	return out;
}

/* The outcome has to be the one of the ioctls by @decider */
static void check(struct __test_metadata *_metadata, struct ctx *ctx,
		  struct backing_issuer *issuer, const struct task *task,
		  int (*fn)(struct job *job), const struct task *decider)
{
	struct outcome got = attempt(_metadata, ctx, issuer, task, fn);
	struct outcome want = reference(_metadata, ctx, decider);

	EXPECT_TRUE(same(&got, &want)) {
		TH_LOG("by a %s %s, personality %d:",
		       task->child ? "child" : "task", lacks(task),
		       issuer->personality);
		TH_LOG("open %d, close %d, CAP_FSETID recorded: %d", got.open,
		       got.close, got.fsetid);
		TH_LOG("by ioctl, %s:", lacks(decider));
		TH_LOG("open %d, close %d, CAP_FSETID recorded: %d", want.open,
		       want.close, want.fsetid);
	}
}

/* An IORING_SETUP_SINGLE_ISSUER ring is refused before FUSE hears of it */
static void check_refused(struct __test_metadata *_metadata, struct ctx *ctx,
			  struct backing_issuer *issuer,
			  const struct task *task, int (*fn)(struct job *job))
{
	EXPECT_EQ(-EEXIST, run_open(ctx, issuer, task, fn, ctx->fd));
}

FIXTURE(reference)
{
	struct ctx ctx;
};

FIXTURE_SETUP(reference)
{
	const char *missing = backing_env_missing(NULL);

	if (missing)
		SKIP(return, "%s", missing);
	ctx_setup(_metadata, &self->ctx);
}

FIXTURE_TEARDOWN(reference)
{
	ctx_teardown(_metadata, &self->ctx);
}

/* What is recorded decides, and what the client has does not */
TEST_F(reference, client)
{
	struct ctx *ctx = &self->ctx;
	struct task task, client;
	unsigned int i, j;
	int id;

	for (i = 0; i < 2 * NR_CREDS; i++) {
		task = (struct task){
			.without = creds[i / 2],
			.child = i % 2,
		};
		if (reference(_metadata, ctx, &task).open)
			continue;
		id = run_open(ctx, &ctx->env.issuer, &task, issue, ctx->fd);
		ASSERT_GT(id, 0);
		for (j = 0; j < NR_CREDS; j++) {
			client = (struct task){ .without = creds[j] };
			EXPECT_EQ(!task.without,
				  has_fsetid(_metadata, ctx, id, &client));
		}
		EXPECT_EQ(0, backing_issue_close(&ctx->env.issuer, id));
	}
}

/*
 * The ring is made with some credentials, and the same task has other ones when
 * it submits: dropped or gained, before or after.
 */
TEST_F(cred, dropped_before_or_after_the_ring)
{
	struct ctx *ctx = &self->ctx;
	const struct backing_how *how = &variant->how;
	struct task task, decider;
	unsigned int i;

	for (i = 0; i < NR_CREDS * NR_CREDS; i++) {
		unsigned int maker = creds[i / NR_CREDS];

		task = (struct task){ .without = creds[i % NR_CREDS] };
		decider = task;
		if (maker_decides(how))
			decider.without = maker;
		/* once for each maker: io-wq's workers outlive a task */
		if (i % NR_CREDS == 0)
			ASSERT_EQ(0, make_ring(ctx, how, maker));
		check(_metadata, ctx, &ctx->shared->ring, &task, issue,
		      &decider);
	}
}

/* The same with a child, which gets at the ring as @fn does */
static void check_child(struct __test_metadata *_metadata, struct ctx *ctx,
			const struct backing_how *how,
			int (*fn)(struct job *job))
{
	struct backing_issuer *ring = &ctx->shared->ring;
	struct task task, decider;
	unsigned int i;

	for (i = 0; i < NR_CREDS * NR_CREDS; i++) {
		unsigned int maker = creds[i / NR_CREDS];

		task = (struct task){
			.without = creds[i % NR_CREDS],
			.child = true,
		};
		decider = task;
		if (maker_decides(how))
			decider = (struct task){ .without = maker };
		ASSERT_EQ(0, make_ring(ctx, how, maker));
		if (single_issuer(how))
			check_refused(_metadata, ctx, ring, &task, fn);
		else
			check(_metadata, ctx, ring, &task, fn, &decider);
	}
}

TEST_F(cred, inherited_ring)
{
	check_child(_metadata, &self->ctx, &variant->how, issue);
}

/* A ring over a socket is refused, but there is pidfd_getfd() */
TEST_F(cred, ring_over_a_socket)
{
	struct ctx *ctx = &self->ctx;
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { };
	struct iovec iov = { "x", 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int sk[2];

	ASSERT_EQ(0, make_ring(ctx, &variant->how, 0));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sk));
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &ctx->fd, sizeof(int));
	EXPECT_EQ(1, sendmsg(sk[0], &msg, 0));
	memcpy(CMSG_DATA(cmsg), &ctx->shared->ring.ring.ring_fd, sizeof(int));
	EXPECT_EQ(-1, sendmsg(sk[0], &msg, 0));
	EXPECT_EQ(EINVAL, errno);
	close(sk[0]);
	close(sk[1]);
}

TEST_F(cred, ring_taken_by_a_child)
{
	self->ctx.shared->job.pid = getpid();
	check_child(_metadata, &self->ctx, &variant->how, issue_on_taken_ring);
}

/* A child that makes a ring with its credentials, and stays until it is told */
struct maker {
	pid_t pid;
	int ready[2];
	int stay[2];
};

static void maker_start(struct __test_metadata *_metadata,
			struct ctx *ctx, struct maker *maker,
			const struct backing_how *how, const struct task *task)
{
	int dev_fd = ring_server_dev_fd(ctx->env.server);
	char c;

	ASSERT_EQ(0, pipe(maker->ready));
	ASSERT_EQ(0, pipe(maker->stay));
	maker->pid = fork();
	ASSERT_GE(maker->pid, 0);
	if (!maker->pid) {
		close(maker->stay[1]);
		if (become(task) ||
		    backing_issuer_init(&ctx->shared->ring, how, dev_fd))
			_exit(1);
		c = 'x';
		if (write(maker->ready[1], &c, 1) != 1 ||
		    read(maker->stay[0], &c, 1) != 0)
			_exit(1);
		_exit(0);
	}
	close(maker->ready[1]);
	ASSERT_EQ(1, read(maker->ready[0], &c, 1));
}

static void maker_stop(struct __test_metadata *_metadata, struct maker *maker)
{
	int status;

	close(maker->stay[0]);
	close(maker->stay[1]);
	close(maker->ready[0]);
	EXPECT_EQ(maker->pid, waitpid(maker->pid, &status, 0));
	EXPECT_EQ(0, status);
}

static void check_made_by(struct __test_metadata *_metadata, struct ctx *ctx,
			  const struct backing_how *how,
			  const struct task *child)
{
	struct task task, decider;
	struct backing_issuer taken;
	struct maker maker;
	unsigned int i;

	for (i = 0; i < NR_CREDS; i++) {
		task = (struct task){ .without = creds[i] };
		decider = maker_decides(how) ? *child : task;

		maker_start(_metadata, ctx, &maker, how, child);
		ASSERT_EQ(0, take_ring(&taken, &ctx->shared->ring, maker.pid));
		if (single_issuer(how))
			check_refused(_metadata, ctx, &taken, &task, issue);
		else
			check(_metadata, ctx, &taken, &task, issue, &decider);
		backing_issuer_exit(&taken);
		maker_stop(_metadata, &maker);
		/* is not mapped here */
		memset(&ctx->shared->ring, 0, sizeof(ctx->shared->ring));
	}
}

TEST_F(cred, ring_taken_from_a_child)
{
	struct task child = { .child = true };
	unsigned int i;

	for (i = 0; i < NR_CREDS; i++) {
		child.without = creds[i];
		check_made_by(_metadata, &self->ctx, &variant->how, &child);
	}
}

/* A personality decides alone, whoever submits and whoever made the ring */
TEST_F(cred, personality)
{
	struct ctx *ctx = &self->ctx;
	const struct backing_how *how = &variant->how;
	struct backing_issuer *ring = &ctx->shared->ring;
	int id[NR_CREDS], child;
	struct task task, decider;
	unsigned int i, maker;

	for (maker = 0; maker < NR_CREDS; maker++) {
		ASSERT_EQ(0, make_ring(ctx, how, creds[maker]));
		for (i = 0; i < NR_CREDS; i++) {
			decider = (struct task){ .without = creds[i] };
			id[i] = run_register(ctx, &decider);
			ASSERT_GT(id[i], 0);
		}
		for (i = 0; i < NR_CREDS * NR_CREDS; i++) {
			task = (struct task){ .without = creds[i % NR_CREDS] };
			decider = (struct task){
				.without = creds[i / NR_CREDS],
			};
			for (child = 0; child < 2; child++) {
				task.child = child;
				if (child && single_issuer(how))
					continue;
				ring->personality = id[i / NR_CREDS];
				check(_metadata, ctx, ring, &task, issue,
				      &decider);
			}
		}
		/* one that is gone is io_uring's error */
		ASSERT_EQ(0, io_uring_unregister_personality(&ring->ring,
							     id[0]));
		ring->personality = id[0];
		EXPECT_EQ(-EINVAL, run_open(ctx, ring,
					    &self_task, issue, ctx->fd));
	}
}

/* All capabilities of a user namespace are none of the initial one */
TEST_F(cred, user_namespace)
{
	struct ctx *ctx = &self->ctx;
	const struct backing_how *how = &variant->how;
	const struct task in_user_ns = { .child = true, .user_ns = true };
	struct backing_issuer *ring = &ctx->shared->ring;
	struct task decider;
	unsigned int i;
	int id;

	if (access("/proc/self/ns/user", F_OK))
		SKIP(return, "the kernel has no user namespaces");

	ASSERT_EQ(0, make_ring(ctx, how, 0));
	check(_metadata, ctx, ring, &in_user_ns, issue_on_own_ring,
	      &in_user_ns);
	if (single_issuer(how)) {
		EXPECT_EQ(-EEXIST, run_register(ctx, &in_user_ns));
		check_refused(_metadata, ctx, ring, &in_user_ns, issue);
		return;
	}

	for (i = 0; i < NR_CREDS; i++) {
		ASSERT_EQ(0, make_ring(ctx, how, creds[i]));
		decider = (struct task){ .without = creds[i] };
		check(_metadata, ctx, ring, &in_user_ns, issue,
		      maker_decides(how) ? &decider : &in_user_ns);

		/* a personality from outside, used there */
		ring->personality = run_register(ctx, &decider);
		ASSERT_GT(ring->personality, 0);
		check(_metadata, ctx, ring, &in_user_ns, issue, &decider);
	}

	/* and one from there, used outside */
	ASSERT_EQ(0, make_ring(ctx, how, 0));
	id = run_register(ctx, &in_user_ns);
	if (how->setup_flags & IORING_SETUP_SINGLE_ISSUER) {
		EXPECT_EQ(-EEXIST, id);
	} else {
		ASSERT_GT(id, 0);
		ring->personality = id;
		check(_metadata, ctx, ring, &self_task, issue, &in_user_ns);
	}

	/* a ring from there, used outside */
	backing_issuer_exit(ring);
	check_made_by(_metadata, ctx, how, &in_user_ns);
}

/* Issued from task work, in the submitting system call: no difference */
TEST_F(cred, behind_a_nop)
{
	struct ctx *ctx = &self->ctx;
	const struct backing_how *how = &variant->how;
	struct backing_issuer *ring = &ctx->shared->ring;
	struct task task, decider;
	unsigned int i;
	int async;

	for (i = 0; i < NR_CREDS * NR_CREDS; i++) {
		unsigned int maker = creds[i / NR_CREDS];

		task = (struct task){ .without = creds[i % NR_CREDS] };
		decider = task;
		if (maker_decides(how))
			decider.without = maker;
		for (async = 0; async < 2; async++) {
			ASSERT_EQ(0, make_ring(ctx, how, maker));
			ctx->shared->job.head_flags = async ? IOSQE_ASYNC : 0;
			check(_metadata, ctx, ring, &task, issue_behind_nop,
			      &decider);
			/* and a personality has the last word here, too */
			ASSERT_EQ(0, make_ring(ctx, how, maker));
			ring->personality = run_register(ctx, &self_task);
			ASSERT_GT(ring->personality, 0);
			check(_metadata, ctx, ring, &task, issue_behind_nop,
			      &self_task);
		}
	}
}

/* What a command has in front of it */
enum behind {
	/* linked: a read of an empty pipe, or a NOP */
	LINK_READ,
	LINK_NOP,
	/* not linked, but the command has IOSQE_IO_DRAIN: a read */
	DRAIN,
};

/*
 * Submit with some credentials behind a request that is not done before they
 * are others. Returns what BACKING_OPEN does.
 */
static int submit_and_change(struct __test_metadata *_metadata, struct ctx *ctx,
			     const struct task *submit,
			     const struct task *later, enum behind behind,
			     unsigned int head_flags)
{
	struct job *job = &ctx->shared->job;
	struct io_uring_sqe *head;
	int p[2], ret;
	char c;

	ASSERT_EQ(0, pipe(p));
	job->issuer = &ctx->shared->ring;
	job->cmd_op = FUSE_IO_URING_CMD_BACKING_OPEN;
	job->req = (struct fuse_uring_cmd_req){ .backing.map.fd = ctx->fd };
	job->head_flags = head_flags;
	job->drain = behind == DRAIN;

	head = prep_linked(job);
	if (behind != LINK_NOP) {
		head->opcode = IORING_OP_READ;
		head->fd = p[0];
		head->addr = (uintptr_t)&c;
		head->len = 1;
	}
	ASSERT_EQ(0, become(submit));
	ret = io_uring_submit(&job->issuer->ring);
	ASSERT_EQ(0, become(later));
	/*
	 * The command counts twice where it can also have 64 bytes, and what
	 * the thread of SQPOLL has taken already does not count
	 */
	EXPECT_GE(ret, maker_decides(&job->issuer->how) ? 0 : 2);
	if (behind != LINK_NOP)
		EXPECT_EQ(1, write(p[1], "x", 1));
	/* a drain cannot be had together with IOSQE_CQE_SKIP_SUCCESS */
	if (behind == DRAIN)
		EXPECT_EQ(1, backing_issue_wait(job->issuer));
	ret = backing_issue_wait(job->issuer);
	ASSERT_EQ(0, become(&self_task));
	job->drain = false;
	close(p[0]);
	close(p[1]);
	return ret;
}

/* And compare with the ioctl by @decider */
static void check_changed(struct __test_metadata *_metadata,
			  struct ctx *ctx, const struct task *submit,
			  const struct task *later, enum behind behind,
			  unsigned int head_flags, const struct task *decider)
{
	struct outcome want = reference(_metadata, ctx, decider);
	/* the close is not tried */
	struct outcome got = { .close = want.close };
	int id;

	id = submit_and_change(_metadata, ctx, submit, later, behind,
			       head_flags);
	if (id > 0) {
		got.fsetid = has_fsetid(_metadata, ctx, id, &self_task);
		EXPECT_EQ(0, backing_issue_close(&ctx->env.issuer, id));
	} else {
		EXPECT_NE(0, id);
		got.open = id;
	}
	EXPECT_TRUE(same(&got, &want)) {
		TH_LOG("submitted %s, then %s:", lacks(submit), lacks(later));
		TH_LOG("open %d, CAP_FSETID recorded: %d", got.open,
		       got.fsetid);
		TH_LOG("by ioctl, %s:", lacks(decider));
		TH_LOG("open %d, CAP_FSETID recorded: %d", want.open,
		       want.fsetid);
	}
}

/* The credentials are those of the issue, also if that is in task work */
TEST_F(cred, changed_before_issue)
{
	struct ctx *ctx = &self->ctx;
	const struct backing_how *how = &variant->how;
	/* with SQPOLL these count, and the others do not */
	const struct task maker = { .without = NO_FSETID };
	struct task submit, later;
	const struct task *decider;
	unsigned int i;

	for (i = 0; i < NR_CREDS * NR_CREDS; i++) {
		submit = (struct task){ .without = creds[i / NR_CREDS] };
		later = (struct task){ .without = creds[i % NR_CREDS] };

		/* when the pipe can be read */
		decider = maker_decides(how) ? &maker : &later;
		ASSERT_EQ(0, make_ring(ctx, how, maker.without));
		check_changed(_metadata, ctx, &submit, &later, LINK_READ, 0,
			      decider);

		/* by io-wq, head and all: fixed for the link at submission */
		decider = maker_decides(how) ? &maker : &submit;
		ASSERT_EQ(0, make_ring(ctx, how, maker.without));
		check_changed(_metadata, ctx, &submit, &later, LINK_READ,
			      IOSQE_ASYNC, decider);

		/* drained: fixed at submission, too */
		ASSERT_EQ(0, make_ring(ctx, how, maker.without));
		check_changed(_metadata, ctx, &submit, &later, DRAIN, 0,
			      decider);

		/* a NOP: in the submitting system call, or in the next one */
		if (how->setup_flags & IORING_SETUP_DEFER_TASKRUN)
			decider = &later;
		ASSERT_EQ(0, make_ring(ctx, how, maker.without));
		check_changed(_metadata, ctx, &submit, &later, LINK_NOP, 0,
			      decider);
	}
}

/* "p" or "c", for the file that is backed by that id; closes it */
static int which_file(struct __test_metadata *_metadata,
		      struct ctx *ctx, int id)
{
	char buf[100];
	int m, ret = 0;

	if (id < 0)
		return id;
	EXPECT_EQ(0, ring_server_set_backing(ctx->env.server, "file", id));
	m = open_mnt(&ctx->env, "file", O_RDONLY);
	EXPECT_GE(m, 0);
	EXPECT_EQ(sizeof(buf), pread(m, buf, sizeof(buf), 1000));
	if (!cmp_back(&ctx->env, "parent", buf, sizeof(buf), 1000))
		ret = 'p';
	else if (!cmp_back(&ctx->env, "child", buf, sizeof(buf), 1000))
		ret = 'c';
	EXPECT_EQ(0, served(&ctx->env));
	close(m);
	EXPECT_EQ(0, ring_server_set_backing(ctx->env.server, "file", 0));
	EXPECT_EQ(0, backing_issue_close(&ctx->env.issuer, id));
	return ret;
}

static int open_which(struct __test_metadata *_metadata,
		      struct ctx *ctx, struct backing_issuer *issuer,
		      const struct task *task, int (*fn)(struct job *job),
		      int fd)
{
	int id = run_open(ctx, issuer, task, fn, fd);

	return which_file(_metadata, ctx, id);
}

static void make_fds(struct __test_metadata *_metadata, struct ctx *ctx)
{
	int fd;

	fd = backing_make_file(&ctx->env, "parent", BACKING_FILE_SZ);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(FD_BOTH, dup2(fd, FD_BOTH));
	ASSERT_EQ(FD_PARENT, dup2(fd, FD_PARENT));
	close(fd);
	fd = backing_make_file(&ctx->env, "child", BACKING_FILE_SZ);
	ASSERT_GE(fd, 0);
	/* see take_fds() */
	ctx->shared->job.other_fd = fd;
}

static void close_fds(struct ctx *ctx)
{
	close(ctx->shared->job.other_fd);
	close(FD_BOTH);
	close(FD_PARENT);
}

/* What an fd of a number is in the tables of both */
static const struct {
	int fd;
	int child;
	int parent;
} tables[] = {
	{ FD_BOTH, 'c', 'p' },
	{ FD_CHILD, 'c', -EBADF },
	{ FD_PARENT, -EBADF, 'p' },
};

/* A child with other files than its parent, and the ring of either */
TEST_F(cred, whose_fd)
{
	struct ctx *ctx = &self->ctx;
	const struct backing_how *how = &variant->how;
	const struct task child = { .child = true };
	struct backing_issuer *ring = &ctx->shared->ring;
	unsigned int i;
	int fd, want, async;

	make_fds(_metadata, ctx);
	for (i = 0; i < ARRAY_SIZE(tables); i++) {
		fd = tables[i].fd;
		ASSERT_EQ(0, make_ring(ctx, how, 0));

		/* the ioctls */
		EXPECT_EQ(tables[i].child,
			  open_which(_metadata, ctx, &ctx->env.issuer, &child,
				     issue_own_fds, fd));
		EXPECT_EQ(tables[i].parent,
			  open_which(_metadata, ctx, &ctx->env.issuer,
				     &self_task, issue, fd));

		/* to each its own */
		EXPECT_EQ(tables[i].child,
			  open_which(_metadata, ctx, ring, &child,
				     issue_own_fds_and_ring, fd));
		EXPECT_EQ(tables[i].parent,
			  open_which(_metadata, ctx, ring, &self_task, issue,
				     fd));
		for (async = 0; async < 2; async++) {
			ctx->shared->job.head_flags = async ? IOSQE_ASYNC : 0;
			EXPECT_EQ(tables[i].child,
				  open_which(_metadata, ctx, ring, &child,
					     issue_own_fds_and_ring_behind_nop,
					     fd));
		}

		/* the child on the ring of its parent */
		want = tables[i].child;
		if (maker_decides(how))
			want = tables[i].parent;
		if (single_issuer(how)) {
			check_refused(_metadata, ctx, ring, &child, issue);
			continue;
		}
		EXPECT_EQ(want, open_which(_metadata, ctx, ring, &child,
					   issue_own_fds, fd));
		for (async = 0; async < 2; async++) {
			ASSERT_EQ(0, make_ring(ctx, how, 0));
			ctx->shared->job.head_flags = async ? IOSQE_ASYNC : 0;
			EXPECT_EQ(want, open_which(_metadata, ctx, ring, &child,
						   issue_own_fds_behind_nop,
						   fd));
		}
		/* credentials have no file table */
		ring->personality = run_register(ctx, &self_task);
		ASSERT_GT(ring->personality, 0);
		EXPECT_EQ(want, open_which(_metadata, ctx, ring, &child,
					   issue_own_fds, fd));
	}
	close_fds(ctx);
}

/*
 * A task that gets a file table of its own leaves its SQPOLL thread and its
 * io-wq workers behind, with the one that they had together. For io-wq that is
 * so while the worker lives, which is for io_uring to decide.
 */
TEST_F(cred, whose_fd_after_unshare)
{
	struct ctx *ctx = &self->ctx;
	const struct backing_how *how = &variant->how;
	const struct task child = { .child = true };
	struct backing_issuer *ring = &ctx->shared->ring;
	int got;

	make_fds(_metadata, ctx);
	ASSERT_EQ(0, make_ring(ctx, how, 0));
	EXPECT_EQ('c', open_which(_metadata, ctx, &ctx->env.issuer, &child,
				  issue_after_unshare, FD_BOTH));
	got = open_which(_metadata, ctx, ring, &child, issue_after_unshare,
			 FD_BOTH);
	if (maker_decides(how)) {
		EXPECT_EQ('p', got);
	} else if (how->sqe_flags & IOSQE_ASYNC) {
		EXPECT_TRUE(got == 'p' || got == 'c');
		TH_LOG("io-wq has the file table of %s unshare()",
		       got == 'p' ? "before" : "after");
	} else {
		EXPECT_EQ('c', got);
	}
	close_fds(ctx);
}

FIXTURE(attached)
{
	struct ctx ctx;
	/* has the thread that ctx.shared->ring is attached to */
	struct backing_issuer first;
};

FIXTURE_SETUP(attached)
{
	const struct backing_how how = {
		.setup_flags = IORING_SETUP_SQE128 | IORING_SETUP_SQPOLL,
	};
	const char *missing = backing_env_missing(&how);

	if (missing)
		SKIP(return, "%s", missing);
	ctx_setup(_metadata, &self->ctx);
}

FIXTURE_TEARDOWN(attached)
{
	backing_issuer_exit(&self->first);
	ctx_teardown(_metadata, &self->ctx);
}

/*
 * Rings that share an SQPOLL thread have credentials of their own, those of
 * their makers. But a request that is linked behind another one is issued from
 * task work, which the thread runs with its own credentials: those of the maker
 * of the first ring. This is io_uring's doing, for every opcode, and nothing
 * that FUSE could tell. So the test says which it found, and takes both.
 */
TEST_F(attached, rings_of_different_makers)
{
	struct backing_how how = {
		.setup_flags = IORING_SETUP_SQE128 | IORING_SETUP_SQPOLL,
	};
	struct ctx *ctx = &self->ctx;
	struct backing_issuer *ring = &ctx->shared->ring;
	struct task first, maker;
	unsigned int i;

	for (i = 0; i < NR_CREDS * NR_CREDS; i++) {
		const char *whose = "neither's";
		struct outcome got, by_maker, by_first;

		first = (struct task){ .without = creds[i / NR_CREDS] };
		maker = (struct task){ .without = creds[i % NR_CREDS] };
		if (first.without == maker.without)
			continue;

		how.setup_flags &= ~IORING_SETUP_ATTACH_WQ;
		ASSERT_EQ(0, make_ring(ctx, &how, first.without));
		self->first = *ring;
		memset(ring, 0, sizeof(*ring));
		how.setup_flags |= IORING_SETUP_ATTACH_WQ;
		how.wq_fd = self->first.ring.ring_fd;
		ASSERT_EQ(0, make_ring(ctx, &how, maker.without));
		ASSERT_GT(backing_issuer_sq_thread(ring), 0);
		ASSERT_EQ(backing_issuer_sq_thread(&self->first),
			  backing_issuer_sq_thread(ring));

		/* to each its own */
		check(_metadata, ctx, ring, &self_task, issue, &maker);
		check(_metadata, ctx, &self->first, &self_task, issue, &first);
		ring->how.sqe_flags = IOSQE_ASYNC;
		check(_metadata, ctx, ring, &self_task, issue, &maker);
		ring->how.sqe_flags = 0;
		/* a link that begins in io-wq has the maker's throughout */
		ctx->shared->job.head_flags = IOSQE_ASYNC;
		check(_metadata, ctx, ring, &self_task, issue_behind_nop,
		      &maker);

		ctx->shared->job.head_flags = 0;
		got = attempt(_metadata, ctx, ring, &self_task,
			      issue_behind_nop);
		by_maker = reference(_metadata, ctx, &maker);
		by_first = reference(_metadata, ctx, &first);
		if (same(&got, &by_maker))
			whose = "the ring's";
		else if (same(&got, &by_first))
			whose = "the thread's";
		EXPECT_STRNE("neither's", whose);
		TH_LOG("ring made %s, thread %s: a link has %s",
		       lacks(&maker), lacks(&first), whose);

		/* and a personality settles it */
		ring->personality = run_register(ctx, &maker);
		ASSERT_GT(ring->personality, 0);
		check(_metadata, ctx, ring, &self_task, issue_behind_nop,
		      &maker);

		backing_issuer_exit(ring);
		backing_issuer_exit(&self->first);
	}
}

int main(int argc, char **argv)
{
	backing_env_main();
	return test_harness_run(argc, argv);
}
