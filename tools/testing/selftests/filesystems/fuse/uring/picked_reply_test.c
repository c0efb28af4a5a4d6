// SPDX-License-Identifier: GPL-2.0
/*
 * The reply to an open with the registration of its file in front: linked, and
 * not linked but in the same submission.
 */
#define _GNU_SOURCE
#include <sys/prctl.h>
#include <sys/wait.h>

#include "env.h"
#include "ids.h"
#include "queue_variants.h"
#include "wait.h"

/* More than there are ring entries: none may be lost */
#define ROUNDS		10
#define BAD_FD		9999
/* An id that ids_get() does not get to */
#define TAKEN		1000

/* What becomes of a request whose registration has failed */
enum answer { WITH_ERROR, WITHOUT_PASSTHROUGH, REGISTERED_AGAIN, NR_ANSWERS };

/* What the hooks do and see; every test is a process of its own */
static struct {
	const struct queue_how *how;
	struct ids ids;
	/* no passthrough */
	bool plain;
	/* IOSQE_IO_LINK or 0 */
	unsigned int link;
	/* not 0: what is registered in place of the right fd and id */
	int bad_fd, bad_id;
	enum answer answer;
	/* the connection goes while the reply is written: umount2() flags */
	int umount;
	/* the server dies between the registration and the reply */
	bool die;
	/* the error of a failed registration, and that it was seen */
	int refusal;
	sem_t refused;
	/* io_uring_enter() calls of all queues */
	unsigned long enters;
} hook = { .ids.lock = PTHREAD_MUTEX_INITIALIZER };

static struct io_uring_sqe *queue_open(struct ring_req *req)
{
	int id = ids_get(&hook.ids, req->node);
	struct io_uring_sqe *sqe = ids_queue_open(req, id);

	sqe->flags = IOSQE_CQE_SKIP_SUCCESS | hook.link;
	queue_how_sqe(hook.how, sqe, true);
	return sqe;
}

static void setup(struct ring_queue *queue)
{
	if (queue_how_setup(hook.how, queue))
		abort();
}

static void sqe(struct ring_queue *queue, struct ring_req *req,
		struct io_uring_sqe *sqe)
{
	queue_how_sqe(hook.how, sqe, false);
}

static void put_id(struct ring_req *req)
{
	int id = ids_put(&hook.ids, req->node);

	if (id)
		queue_how_sqe(hook.how, ids_queue_close(req->queue, id), true);
}

static bool reply(struct ring_req *req)
{
	const struct fuse_release_in *release = req->op;
	struct fuse_uring_cmd_req *cmd;
	struct io_uring_sqe *sqe;

	if (!req->queue || hook.plain)
		return true;
	if (req->in.opcode == FUSE_RELEASE && release->fh)
		put_id(req);
	if (req->len < 0 || !req->open)
		return true;

	sqe = queue_open(req);
	cmd = fuse_cmd_req(sqe);
	if (hook.bad_fd)
		cmd->backing.map.fd = hook.bad_fd;
	if (hook.bad_id)
		cmd->backing.id = hook.bad_id;
	/* the mount is in use: the connection is aborted all the same */
	if (hook.umount)
		umount2(ENV_MNT, hook.umount);
	if (hook.die)
		sqe->flags &= ~(IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS);
	return !hook.die;
}

static void cqe(struct ring_queue *queue, __u64 data, int res)
{
	struct ring_req *req = (void *)(uintptr_t)data;

	/* the close of an id that was refused, so that it is none */
	if (!req)
		return;
	if (hook.die && res > 0)
		kill(getpid(), SIGKILL);
	hook.refusal = res;
	sem_post(&hook.refused);
	/* the reply has gone out, and the entry may have another request */
	if (!hook.link)
		return;

	put_id(req);
	switch (hook.answer) {
	case WITH_ERROR:
		req->len = -ENODEV;
		break;
	case WITHOUT_PASSTHROUGH:
		req->open->open_flags = 0;
		req->open->backing_id = 0;
		req->open->fh = 0;
		break;
	default:
		queue_open(req);
	}
	ring_req_commit(req);
}

static void submit(struct ring_queue *queue)
{
	/* without an SQE something else than a CQE has woken it, as io-wq can */
	if (io_uring_sq_ready(&queue->ring))
		__atomic_add_fetch(&hook.enters, 1, __ATOMIC_SEQ_CST);
}

static const char *set_up(struct __test_metadata *_metadata, struct env *env,
			  struct ring_server_cfg *cfg,
			  const struct queue_how *how)
{
	const char *missing;

	*cfg = (struct ring_server_cfg) {
		.init_flags = ENV_INIT,
		.max_stack_depth = 1,
		.handle = files_handle,
		.priv = env,
		.hooks = {
			.setup = setup,
			.sqe = sqe,
			.reply = reply,
			.cqe = cqe,
			.submit = submit,
		},
	};
	missing = queue_how_cfg(how, cfg);
	if (!missing)
		missing = env_setup(_metadata, env,
				    ENV_INIT | FUSE_HAS_IO_URING_BACKING);
	if (missing)
		return missing;
	close(env_file(_metadata, env, "file"));
	ASSERT_EQ(0, sem_init(&hook.refused, 0, 0));
	hook.how = how;
	return NULL;
}

FIXTURE(picked_reply)
{
	struct env env;
	struct ring_server_cfg cfg;
};

FIXTURE_VARIANT(picked_reply)
{
	struct queue_how how;
};

#define QUEUE_FIXTURE picked_reply
#include "queue_variants.h"

FIXTURE_SETUP(picked_reply)
{
	const char *missing = set_up(_metadata, &self->env, &self->cfg,
				     &variant->how);

	if (missing)
		SKIP(return, "%s", missing);
	hook.link = IOSQE_IO_LINK;
}

FIXTURE_TEARDOWN(picked_reply)
{
	env_teardown(_metadata, &self->env);
}

FIXTURE(not_linked)
{
	struct env env;
	struct ring_server_cfg cfg;
};

FIXTURE_VARIANT(not_linked)
{
	struct queue_how how;
};

#define QUEUE_FIXTURE not_linked
#define QUEUE_IN_ORDER
#include "queue_variants.h"

FIXTURE_SETUP(not_linked)
{
	const char *missing = set_up(_metadata, &self->env, &self->cfg,
				     &variant->how);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(not_linked)
{
	env_teardown(_metadata, &self->env);
}

/* A client: opens, compares, closes. Returns 0 if the file was the right one */
static int open_and_check(const char *name)
{
	int err, fd = env_open(name, O_RDONLY);

	if (fd < 0)
		return fd;
	err = env_is(fd, name) ? 0 : -EBADMSG;
	close(fd);
	return err;
}

/* Each failed registration is waited for once: are there more? */
static int more_refused(void)
{
	int nr;

	return sem_getvalue(&hook.refused, &nr) ? -errno : nr;
}

/* If a commit ran before its registration had ended, an open would be -EIO */
static void pass_through(struct __test_metadata *_metadata, struct env *env)
{
	int fd, back, i;

	for (i = 0; i < ROUNDS; i++)
		EXPECT_EQ(0, open_and_check("file"));
	fd = env_open("new", O_RDWR | O_CREAT | O_EXCL);
	EXPECT_LE(0, fd);
	EXPECT_EQ(1, write(fd, "x", 1));
	back = openat(env->files.dir_fd, "new", O_RDONLY);
	EXPECT_EQ(1, lseek(back, 0, SEEK_END));
	close(back);
	close(fd);
	EXPECT_EQ(0, env_io_served(env));
	EXPECT_EQ(0, more_refused());
}

TEST_F(picked_reply, passes_through)
{
	env_start(_metadata, &self->env, &self->cfg);
	pass_through(_metadata, &self->env);
}

TEST_F(not_linked, passes_through)
{
	env_start(_metadata, &self->env, &self->cfg);
	pass_through(_metadata, &self->env);
}

/* With one entry and one client there is one request for each of these calls */
static unsigned long count_enters(struct __test_metadata *_metadata,
				  struct env *env,
				  const struct ring_server_cfg *cfg)
{
	unsigned int i;
	int fd;

	hook.enters = 0;
	env_start(_metadata, env, cfg);
	for (i = 1; i <= ROUNDS; i++) {
		fd = env_open("file", O_RDONLY);
		EXPECT_LE(0, fd);
		close(fd);
		EXPECT_EQ(0, ring_server_wait(env->server, FUSE_RELEASE, i));
	}
	env_stop(_metadata, env);
	return hook.enters;
}

static void costs_no_system_call(struct __test_metadata *_metadata,
				 struct env *env, struct ring_server_cfg *cfg)
{
	unsigned long plain;

	cfg->depth = 1;
	env_pin(_metadata, 0);
	hook.plain = true;
	plain = count_enters(_metadata, env, cfg);
	EXPECT_LT(3 * ROUNDS, plain);
	hook.plain = false;
	EXPECT_EQ(plain, count_enters(_metadata, env, cfg));
	EXPECT_EQ(0, more_refused());
}

TEST_F(picked_reply, costs_no_system_call)
{
	costs_no_system_call(_metadata, &self->env, &self->cfg);
}

TEST_F(not_linked, costs_no_system_call)
{
	costs_no_system_call(_metadata, &self->env, &self->cfg);
}

/* What can be wrong with a registration */
struct mistake {
	int fd;
	int id;
	int err;
};

static void check_refused(struct __test_metadata *_metadata, struct env *env,
			  const struct mistake *mistake, enum answer answer)
{
	const int err = answer == WITH_ERROR ? -ENODEV : 0;
	unsigned long served = env_io_served(env);
	int i;

	hook.bad_fd = mistake->fd;
	hook.bad_id = mistake->id;
	hook.answer = answer;
	for (i = 0; i < ROUNDS; i++) {
		ASSERT_EQ(err, open_and_check("file"));
		ASSERT_EQ(0, wait_for(&hook.refused));
		EXPECT_EQ(0, more_refused());
		EXPECT_EQ(mistake->err, hook.refusal);
	}
	EXPECT_EQ(answer == WITHOUT_PASSTHROUGH, env_io_served(env) > served);
}

/* Linked, the request is still the server's to answer, one way or another */
TEST_F(picked_reply, refused)
{
	const struct mistake mistakes[] = {
		{ .fd = BAD_FD, .err = -EBADF },
		{ .fd = self->env.files.dir_fd, .err = -EISDIR },
		{ .id = TAKEN, .err = -EEXIST },
	};
	const struct issue_how how = { };
	struct issuer issuer;
	enum answer answer;
	unsigned int i;
	int fd;

	env_start(_metadata, &self->env, &self->cfg);
	ASSERT_EQ(0, issuer_init(&issuer, &how, self->env.server->dev_fd));
	fd = env_file(_metadata, &self->env, "other");
	EXPECT_EQ(TAKEN, issue_open(&issuer, fd, TAKEN));
	close(fd);
	for (i = 0; i < ARRAY_SIZE(mistakes); i++) {
		for (answer = 0; answer < NR_ANSWERS; answer++)
			check_refused(_metadata, &self->env, &mistakes[i],
				      answer);
	}
	/* whoever had the id still has it */
	EXPECT_EQ(0, issue_close(&issuer, TAKEN));
	issuer_exit(&issuer);
}

/* Not linked, the reply has gone out, with an id that is not there */
TEST_F(not_linked, refused)
{
	const struct issue_how how = { };
	struct issuer issuer;
	int i;

	hook.bad_fd = BAD_FD;
	env_start(_metadata, &self->env, &self->cfg);
	for (i = 1; i <= ROUNDS; i++) {
		EXPECT_EQ(-EIO, open_and_check("file"));
		EXPECT_EQ(0, ring_server_wait(self->env.server, FUSE_RELEASE,
					      i));
		ASSERT_EQ(0, wait_for(&hook.refused));
		EXPECT_EQ(-EBADF, hook.refusal);
	}
	ASSERT_EQ(0, issuer_init(&issuer, &how, self->env.server->dev_fd));
	for (i = 1; i <= hook.ids.last; i++)
		EXPECT_EQ(-ENOENT, issue_close(&issuer, i));
	issuer_exit(&issuer);
	hook.bad_fd = 0;
	EXPECT_EQ(0, open_and_check("file"));
	EXPECT_EQ(0, env_io_served(&self->env));
}

/* The answer that a failed registration leads to is the end of the entry */
static void check_gone(struct __test_metadata *_metadata, struct env *env)
{
	EXPECT_EQ(-ECONNABORTED, open_and_check("file"));
	/* the client does not wait for the hook, which has the mount in use */
	ASSERT_EQ(0, wait_for(&hook.refused));
	EXPECT_EQ(-ENOTCONN, hook.refusal);
}

TEST_F(picked_reply, aborted_meanwhile)
{
	hook.umount = MNT_FORCE;
	env_start(_metadata, &self->env, &self->cfg);
	check_gone(_metadata, &self->env);
}

TEST_F(picked_reply, unmounted_meanwhile)
{
	hook.umount = MNT_FORCE | MNT_DETACH;
	env_start(_metadata, &self->env, &self->cfg);
	check_gone(_metadata, &self->env);
}

/* Teardown sees that nothing holds the file */
TEST_F(picked_reply, server_killed_meanwhile)
{
	int p[2], status;
	pid_t pid;
	char c;

	hook.die = true;
	ASSERT_EQ(0, pipe(p));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!ring_server_start(&self->env.server, ENV_MNT,
				       &self->cfg) &&
		    write(p[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	close(p[1]);
	ASSERT_EQ(1, read(p[0], &c, 1));
	close(p[0]);
	EXPECT_EQ(-ECONNABORTED, open_and_check("file"));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(SIGKILL, status);
	EXPECT_EQ(0, umount2(ENV_MNT, 0));
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
