// SPDX-License-Identifier: GPL-2.0
/*
 * COMMIT_BACKING: the reply that passes the backing file, the files that are
 * dropped, and the mode that belongs to the inode.
 */
#define _GNU_SOURCE
#include "env.h"

/* Where a thread is held: at the commit of an open, or when that was refused */
enum hold_at { NOWHERE, WITH_FILE, WITHOUT_FILE, REFUSED };

/* What the hooks do; every test is a process */
static struct {
	/* of the reply to an open, besides */
	__u32 open_flags;
	__s32 backing_id;
	/* and in its place: the length or error, the mode of a new file */
	int len;
	__u32 mode;
	bool no_file;
	/* this file gets the number of the fd when the commit was submitted */
	int reuse;
	/* in flags, padding and backing of COMMIT_AND_FETCH */
	bool garbage;
	/* what was refused is committed without a file, whatever is open */
	bool careless;
	enum hold_at hold_at;
	sem_t held, let_go;
} hook;

static void hold_at(enum hold_at at)
{
	if (hook.hold_at != at)
		return;
	hook.hold_at = NOWHERE;
	sem_post(&hook.held);
	if (sys_wait_for(&hook.let_go, RING_PATIENCE))
		abort();
}

static bool reply(struct ring_req *req)
{
	struct fuse_entry_out *entry = req->out;

	files_reply(req);
	if (!req->open)
		return true;
	req->open->open_flags |= hook.open_flags;
	req->open->backing_id = hook.backing_id;
	if (hook.mode)
		entry->attr.mode = hook.mode;
	if (hook.len)
		req->len = hook.len;
	if (hook.no_file)
		ring_req_no_file(req);
	return true;
}

static void sqe(struct ring_req *req, struct io_uring_sqe *sqe)
{
	struct fuse_uring_cmd_req *cmd = fuse_cmd_req(sqe);

	if (!req->open)
		return;
	if (hook.garbage) {
		cmd->flags = ~0ULL;
		memset(cmd->padding, 0xff, sizeof(cmd->padding));
		memset(&cmd->backing, 0xff, sizeof(cmd->backing));
	}
	hold_at(req->fd < 0 ? WITHOUT_FILE : WITH_FILE);
	if (hook.reuse) {
		/* inline: when that returns the kernel has taken the file */
		io_uring_submit(&req->queue->issuer.ring);
		dup2(hook.reuse, req->fd);
	}
}

static void refused(struct ring_req *req, int err)
{
	hold_at(REFUSED);
	hook.garbage = false;
	if (!hook.careless) {
		files_refused(req, err);
		return;
	}
	ring_req_no_file(req);
	ring_req_commit(req);
}

/* Teardown sees that nothing is left of files that were dropped */
static const char *setup(struct __test_metadata *_metadata, struct env *env)
{
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.hooks = { .reply = reply, .sqe = sqe, .refused = refused },
	};
	const char *missing = env_setup(_metadata, env, ENV_NEED(BY_COMMIT));

	if (missing)
		return missing;
	ASSERT_EQ(0, sem_init(&hook.held, 0, 0));
	ASSERT_EQ(0, sem_init(&hook.let_go, 0, 0));
	close(env_file(_metadata, env, "file"));
	env->files.pass = true;
	env->files.by = BY_COMMIT;
	env_start(_metadata, env, &cfg);
	env_pin(_metadata, env, 0);
	return NULL;
}

FIXTURE(commit)
{
	struct env env;
};

FIXTURE_VARIANT(commit)
{
	const char *name;
	int flags;
};

FIXTURE_VARIANT_ADD(commit, open) { "file", O_RDWR };
FIXTURE_VARIANT_ADD(commit, create) { "new", O_RDWR | O_CREAT };
FIXTURE_VARIANT_ADD(commit, tmpfile) { ".", O_RDWR | O_TMPFILE };

FIXTURE_SETUP(commit)
{
	const char *missing = setup(_metadata, &self->env);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(commit)
{
	env_teardown(_metadata, &self->env);
}

/* A file that is to be created has a new name each time */
static const char *name_of(const struct _fixture_variant_commit *variant)
{
	static char name[8], next = 'A';

	memcpy(name, variant->name, strlen(variant->name) + 1);
	if (variant->flags & O_CREAT)
		*name = next++;
	return name;
}

TEST_F(commit, flags_of_the_reply)
{
	const __u32 fine = FOPEN_DIRECT_IO | FOPEN_PASSTHROUGH |
			   FOPEN_KEEP_CACHE | FOPEN_IO_URING_ZERO_COPY |
			   FOPEN_NOFLUSH | FOPEN_PARALLEL_DIRECT_WRITES;
	struct env *env = &self->env;
	unsigned int i;
	int fd;

	for (i = 0; i < 32; i++) {
		hook.open_flags = 1U << i;
		if (!(hook.open_flags & fine)) {
			env_open_fails(_metadata, env, name_of(variant),
				       variant->flags);
			continue;
		}
		fd = env_open(name_of(variant), variant->flags);
		EXPECT_EQ(1, pwrite(fd, "x", 1, 0)) {
			TH_LOG("flag %#x", hook.open_flags);
		}
		/* the first, with FOPEN_DIRECT_IO, is the server's */
		EXPECT_EQ(1, env_io_served(env));
		env_close(_metadata, env, fd);
	}
}

TEST_F(commit, backing_id)
{
	struct env *env = &self->env;
	struct issuer issuer;

	ASSERT_EQ(0, issuer_init(&issuer, NULL, env->server->dev_fd, 0));
	issuer.by = BY_IOCTL;
	ASSERT_EQ(1, issue_open(&issuer, files_node(&env->files, "file")->fd));
	issuer_exit(&issuer);
	/* none, one that there is, and that with the flag */
	hook.backing_id = -1;
	env_open_fails(_metadata, env, name_of(variant), variant->flags);
	hook.backing_id = 1;
	env_open_fails(_metadata, env, name_of(variant), variant->flags);
	hook.open_flags = FOPEN_PASSTHROUGH;
	env_open_fails(_metadata, env, name_of(variant), variant->flags);
	/* neither an id nor a file */
	hook.backing_id = 0;
	hook.no_file = true;
	env_open_fails(_metadata, env, name_of(variant), variant->flags);
}

TEST_F(commit, no_open)
{
	hook.len = -EDOM;
	EXPECT_EQ(-EDOM, env_open(name_of(variant), variant->flags));
	/* which cannot be copied */
	hook.len = 4;
	EXPECT_EQ(-EINVAL, env_open(name_of(variant), variant->flags));
	if (variant->flags != O_RDWR) {
		/* what the client does not take */
		hook.len = 0;
		hook.mode = S_IFDIR | 0755;
		EXPECT_EQ(-EIO, env_open(name_of(variant), variant->flags));
	}
	EXPECT_EQ(0, ring_server_count(self->env.server, FUSE_RELEASE));
}

/* From the io_uring_enter() on that has submitted the commit */
TEST_F(commit, number_of_another_file)
{
	int fd;

	hook.reuse = env_file(_metadata, &self->env, "other");
	fd = env_open(name_of(variant), variant->flags);
	ASSERT_LE(0, fd);
	EXPECT_EQ(4, pwrite(fd, "mine", 4, 0));
	EXPECT_TRUE(env_is(hook.reuse, "other"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
	close(hook.reuse);
	/* with the commit of the next one the server closes the number */
	hook.reuse = 0;
}

/* The kernel has never looked at it, so servers can have anything there */
TEST_F(commit, and_fetch_has_no_file)
{
	int fd;

	hook.no_file = true;
	hook.garbage = true;
	fd = env_open(name_of(variant), variant->flags);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, pwrite(fd, "x", 1, 0));
	EXPECT_EQ(1, env_io_served(&self->env));
	EXPECT_EQ(0, self->env.files.refused);
	close(fd);
}

FIXTURE(mode)
{
	struct env env;
	struct ring_node *node;
};

FIXTURE_SETUP(mode)
{
	const char *missing = setup(_metadata, &self->env);

	if (missing)
		SKIP(return, "%s", missing);
	self->node = files_node(&self->env.files, "file");
	ASSERT_NE(NULL, self->node);
}

FIXTURE_TEARDOWN(mode)
{
	env_teardown(_metadata, &self->env);
}

/* Open the file, whose I/O is served or passes through */
static int open_file(struct __test_metadata *_metadata, struct env *env,
		     bool served)
{
	unsigned long nr = env_io_served(env);
	int fd = env_open("file", O_RDWR);

	EXPECT_EQ(1, pwrite(fd, "f", 1, ENV_FILE_SZ));
	EXPECT_EQ(nr + served, env_io_served(env));
	return fd;
}

/* A commit without the file is a fallback for the first open only */
TEST_F(mode, refused_while_open)
{
	int fd = open_file(_metadata, &self->env, false);

	self->node->pass_fd = self->env.files.dir_fd;
	hook.careless = true;
	env_open_fails(_metadata, &self->env, "file", O_RDWR);
	/* the server answers with an error, which nothing is released after */
	hook.careless = false;
	EXPECT_EQ(-EIO, env_open("file", O_RDWR));
	EXPECT_EQ(-EISDIR, self->env.files.refusal);
	EXPECT_EQ(1, ring_server_count(self->env.server, FUSE_RELEASE));
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

/* As long as that is open nothing is passed */
TEST_F(mode, accepted_after_fallback)
{
	int fd, again;

	self->node->pass_fd = self->env.files.dir_fd;
	fd = open_file(_metadata, &self->env, true);
	EXPECT_EQ(1, self->env.files.refused);
	self->node->pass_fd = self->node->fd;
	self->node->plain = false;
	env_open_fails(_metadata, &self->env, "file", O_RDWR);
	self->node->plain = true;
	again = open_file(_metadata, &self->env, true);
	EXPECT_EQ(1, self->env.files.refused);
	close(fd);
	close(again);
	env_released(_metadata, &self->env, 3);
	/* and then it is */
	fd = open_file(_metadata, &self->env, false);
	close(fd);
}

static void *open_thread(void *fd)
{
	*(int *)fd = env_open("file", O_RDWR);
	return NULL;
}

/*
 * Two queues: the answer of the first is held, while an open over the second is
 * answered, with a file that is accepted
 */
static const struct {
	/* the first is refused, and where it is held */
	bool refused;
	enum hold_at at;
	/* of the first */
	int err;
	/* all I/O is the server's */
	bool served;
} orders[] = {
	/* there is nothing that a server has to do about that */
	{ false, WITH_FILE, 0, false },
	/* when the refusal comes the other open is in passthrough mode */
	{ true, REFUSED, -EIO, false },
	/* the fallback is not committed yet: the other open passes nothing */
	{ true, WITHOUT_FILE, 0, true },
};

TEST_F(mode, overtaken)
{
	struct env *env = &self->env;
	unsigned long served;
	unsigned int i;
	int first, second;
	pthread_t client;

	if (env->nr_cpus < 2)
		SKIP(return, "needs two CPUs");
	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		served = env_io_served(env);
		self->node->pass_fd = orders[i].refused ? env->files.dir_fd :
							  self->node->fd;
		hook.hold_at = orders[i].at;
		/* it stays where it was started */
		env_pin(_metadata, env, 0);
		ASSERT_EQ(0, pthread_create(&client, NULL, open_thread,
					    &first));
		ASSERT_EQ(0, sys_wait_for(&hook.held, RING_PATIENCE));
		self->node->pass_fd = self->node->fd;
		env_pin(_metadata, env, 1);
		second = env_open("file", O_RDWR);
		sem_post(&hook.let_go);
		EXPECT_EQ(0, pthread_join(client, NULL));

		EXPECT_TRUE(env_is(second, "file"));
		EXPECT_EQ(orders[i].err, first < 0 ? first : 0);
		if (first >= 0) {
			EXPECT_TRUE(env_is(first, "file"));
			env_close(_metadata, env, first);
		}
		EXPECT_EQ(orders[i].served, env_io_served(env) > served);
		env_close(_metadata, env, second);
	}
}

/* Before the reply, which has a file that is dropped then */
TEST_F(mode, end_of_the_client)
{
	pid_t pid;

	hook.hold_at = WITH_FILE;
	pid = sys_fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		/* nothing of the server */
		syscall(SYS_close_range, 3, ~0U, 0);
		_exit(env_open("file", O_RDWR) < 0);
	}
	ASSERT_EQ(0, sys_wait_for(&hook.held, RING_PATIENCE));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	sem_post(&hook.let_go);
	EXPECT_EQ(SIGKILL, sys_wait(pid));
	/* the server has opened it, and is told that it is not in use */
	EXPECT_EQ(0, ring_server_wait(self->env.server, FUSE_RELEASE, 1));
}

TEST_F(mode, end_of_the_connection)
{
	pthread_t client;
	int fd;

	hook.hold_at = WITH_FILE;
	ASSERT_EQ(0, pthread_create(&client, NULL, open_thread, &fd));
	ASSERT_EQ(0, sys_wait_for(&hook.held, RING_PATIENCE));
	umount2(ENV_MNT, MNT_FORCE);
	ASSERT_EQ(0, pthread_join(client, NULL));
	EXPECT_EQ(-ECONNABORTED, fd);
	sem_post(&hook.let_go);
}

ENV_MAIN
