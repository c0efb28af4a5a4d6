// SPDX-License-Identifier: GPL-2.0
/*
 * Several opens of an inode, each of which brings its backing file, and does its
 * I/O on that.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/ioctl.h>

#include "cap.h"
#include "commit_file.h"
#include "env.h"
#include "wait.h"

#define BIND		"/tmp/bind"
/* Opens of one inode at a time */
#define OPENS		50

/* What an open brings */
enum bring {
	/* hook.fd, or nothing if that is -1 */
	FD,
	/* an fd of its own, until the command has run */
	UNTIL_RUN,
	/* or until RELEASE, for which it is the file handle */
	UNTIL_RELEASE,
};

/* What the hooks do; every test is a process of its own */
static struct {
	enum bring bring;
	int fd;
	/* of the reply besides */
	__u32 open_flags;
	/* the commit is issued without this capability */
	int without;
	/* hold the next thread that commits this enum fuse_opcode */
	__u32 hold;
	sem_t held, let_go;
	/* > 0: the fd that hook.fd means in the threads of the queues */
	int fd_of_queues;
	/* what was closed by RELEASE, and brought, last */
	int closed, brought;
} hook = { .without = CAP_NONE };

static void setup(struct ring_queue *queue)
{
	if (hook.fd_of_queues && (unshare(CLONE_FILES) ||
				  dup2(hook.fd_of_queues, hook.fd) != hook.fd))
		abort();
}

static bool reply(struct ring_req *req)
{
	const struct fuse_release_in *release = req->op;

	if (req->in.opcode == FUSE_RELEASE && hook.bring == UNTIL_RELEASE) {
		hook.closed = release->fh;
		close(hook.closed);
	}
	if (!req->open)
		return true;
	req->open->open_flags |= hook.open_flags;
	if (hook.bring == FD) {
		req->fd = req->open->backing_id ? -1 : hook.fd;
		return true;
	}
	hook.brought = dup(req->node->fd);
	req->fd = hook.brought;
	if (hook.bring == UNTIL_RELEASE)
		req->open->fh = req->fd;
	return true;
}

static void sqe(struct ring_queue *queue, struct ring_req *req,
		struct io_uring_sqe *sqe)
{
	commit_file_sqe(queue, req, sqe);
	if (req && req->in.opcode == hook.hold) {
		hook.hold = 0;
		sem_post(&hook.held);
		if (wait_for(&hook.let_go))
			abort();
	}
	if (!req || req->fd < 0 ||
	    (hook.bring != UNTIL_RUN && hook.without == CAP_NONE))
		return;
	/* inline: when that returns the command has run */
	capabilities_without(hook.without);
	io_uring_submit(&queue->ring);
	capabilities_without(CAP_NONE);
	if (hook.bring == UNTIL_RUN)
		close(req->fd);
}

static const struct ring_server_cfg cfg = {
	.init_flags = COMMIT_FILE_INIT,
	.hooks = {
		.setup = setup,
		.reply = reply,
		.sqe = sqe,
	},
};

FIXTURE(commit_open)
{
	struct env env;
	/* the backing files "file" and "other" */
	int file, other;
};

FIXTURE_SETUP(commit_open)
{
	const char *missing = env_setup(_metadata, &self->env,
					COMMIT_FILE_INIT);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, sem_init(&hook.held, 0, 0));
	ASSERT_EQ(0, sem_init(&hook.let_go, 0, 0));
	self->file = env_file(_metadata, &self->env, "file");
	self->other = env_file(_metadata, &self->env, "other");
	env_start(_metadata, &self->env, &cfg);
	env_pin(_metadata, 0);
	hook.fd = self->file;
}

FIXTURE_TEARDOWN(commit_open)
{
	if (self->file) {
		close(self->file);
		close(self->other);
	}
	env_teardown(_metadata, &self->env);
}

/* Open "file" as a client; returns its fd if it passes through to that file */
static int open_file(struct __test_metadata *_metadata, struct env *env,
		     const char *back)
{
	unsigned long served = env_io_served(env);
	int fd = env_open("file", O_RDWR);

	if (fd >= 0) {
		EXPECT_EQ(1, env_is(fd, back));
		EXPECT_EQ(served, env_io_served(env));
	}
	return fd;
}

/* The open fails, and the server is told that */
static void open_fails(struct __test_metadata *_metadata, struct env *env)
{
	unsigned long released = ring_server_count(env->server, FUSE_RELEASE);
	int fd = env_open("file", O_RDWR);

	EXPECT_EQ(-EIO, fd);
	close(fd);
	env_released(_metadata, env, released + 1);
}

static int backing_open(struct env *env, int fd)
{
	struct fuse_backing_map map = { .fd = fd };

	return ioctl(env->server->dev_fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
}

TEST_F(commit_open, flags_of_the_reply)
{
	static const __u32 flags[] = {
		0, FOPEN_PASSTHROUGH, FOPEN_KEEP_CACHE, FOPEN_NOFLUSH,
		FOPEN_PASSTHROUGH | FOPEN_KEEP_CACHE,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		int fd;

		hook.open_flags = flags[i];
		fd = open_file(_metadata, &self->env, "file");
		EXPECT_LE(0, fd);
		close(fd);
	}
}

/* Each open of an inode has an fd of its own, which is closed at once */
TEST_F(commit_open, fd_closed_when_the_command_has_run)
{
	int i, fds[OPENS];

	hook.bring = UNTIL_RUN;
	for (i = 0; i < OPENS; i++) {
		fds[i] = open_file(_metadata, &self->env, "file");
		ASSERT_LE(0, fds[i]);
	}
	for (i = 0; i < OPENS; i++) {
		EXPECT_EQ(1, env_is(fds[i], "file"));
		close(fds[i]);
	}
	EXPECT_EQ(0, env_io_served(&self->env));
}

TEST_F(commit_open, another_inode_meanwhile)
{
	int fd = open_file(_metadata, &self->env, "file");

	ASSERT_LE(0, fd);
	hook.fd = self->other;
	open_fails(_metadata, &self->env);
	EXPECT_EQ(1, env_is(fd, "file"));
	close(fd);
	env_released(_metadata, &self->env, 2);
	/* free for another one */
	fd = open_file(_metadata, &self->env, "other");
	EXPECT_LE(0, fd);
	close(fd);
}

TEST_F(commit_open, by_id_meanwhile)
{
	struct ring_node *node = files_node(&self->env.files, "file");
	int same = backing_open(&self->env, self->file);
	int other = backing_open(&self->env, self->other);
	int first = open_file(_metadata, &self->env, "file");
	int second;

	ASSERT_LE(0, first);
	node->backing_id = other;
	open_fails(_metadata, &self->env);
	node->backing_id = same;
	second = open_file(_metadata, &self->env, "file");
	ASSERT_LE(0, second);
	/* and the other way round */
	close(first);
	env_released(_metadata, &self->env, 2);
	node->backing_id = 0;
	first = open_file(_metadata, &self->env, "file");
	EXPECT_LE(0, first);
	hook.fd = self->other;
	open_fails(_metadata, &self->env);
	EXPECT_EQ(1, env_is(second, "file"));
	close(first);
	close(second);
}

TEST_F(commit_open, two_ids_of_one_inode)
{
	struct ring_node *node = files_node(&self->env.files, "file");
	int first, second;

	node->backing_id = backing_open(&self->env, self->file);
	first = open_file(_metadata, &self->env, "file");
	EXPECT_LE(0, first);
	node->backing_id = backing_open(&self->env, self->file);
	second = open_file(_metadata, &self->env, "file");
	EXPECT_LE(0, second);
	close(first);
	close(second);
}

TEST_F(commit_open, plain_meanwhile)
{
	int fd = open_file(_metadata, &self->env, "file");

	ASSERT_LE(0, fd);
	hook.fd = -1;
	open_fails(_metadata, &self->env);
	EXPECT_EQ(1, env_is(fd, "file"));
	close(fd);
	env_released(_metadata, &self->env, 2);

	/* and the other way round */
	fd = env_open("file", O_RDWR);
	ASSERT_LE(0, fd);
	hook.fd = self->file;
	open_fails(_metadata, &self->env);
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_LT(0, env_io_served(&self->env));
	close(fd);
}

/*
 * A write to a set-user-id file takes that bit away without CAP_FSETID. FUSE
 * does not know of the bit, so that is up to the credentials for the I/O.
 */
static bool has_fsetid(struct __test_metadata *_metadata, int back, int fd)
{
	struct stat st;

	EXPECT_EQ(0, fchmod(back, 04755));
	EXPECT_EQ(4, pwrite(fd, "data", 4, 1000));
	EXPECT_EQ(0, fstat(back, &st));
	return st.st_mode & S_ISUID;
}

TEST_F(commit_open, credentials_of_each_open)
{
	int with, without;

	with = open_file(_metadata, &self->env, "file");
	hook.without = CAP_FSETID;
	without = open_file(_metadata, &self->env, "file");
	EXPECT_FALSE(has_fsetid(_metadata, self->file, without));
	EXPECT_TRUE(has_fsetid(_metadata, self->file, with));
	/* and not those of the client */
	capabilities_without(CAP_FSETID);
	EXPECT_TRUE(has_fsetid(_metadata, self->file, with));
	capabilities_without(CAP_NONE);
	EXPECT_FALSE(has_fsetid(_metadata, self->file, without));
	EXPECT_EQ(0, env_io_served(&self->env));
	EXPECT_EQ(0, ring_server_count(self->env.server, FUSE_SETATTR));
	close(with);
	close(without);
}

TEST_F(commit_open, file_table_of_the_thread)
{
	int fd;

	env_stop(_metadata, &self->env);
	hook.fd_of_queues = self->other;
	env_start(_metadata, &self->env, &cfg);
	fd = open_file(_metadata, &self->env, "other");
	EXPECT_LE(0, fd);
	close(fd);
}

/* A path of a read-only mount is not written to, and keeps the mount busy */
TEST_F(commit_open, path_of_each_open)
{
	int fd, bind;

	ASSERT_EQ(0, mkdir(BIND, 0755));
	ASSERT_EQ(0, mount(ENV_BACK, BIND, NULL, MS_BIND, NULL));
	ASSERT_EQ(0, mount(NULL, BIND, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY,
			   NULL));
	fd = open_file(_metadata, &self->env, "file");
	ASSERT_LE(0, fd);
	hook.fd = open(BIND "/file", O_PATH | O_CLOEXEC);
	ASSERT_LE(0, hook.fd);
	open_fails(_metadata, &self->env);
	bind = env_open("file", O_RDONLY);
	close(hook.fd);
	ASSERT_LE(0, bind);
	EXPECT_EQ(1, env_is(bind, "file"));
	EXPECT_EQ(-1, umount(BIND));
	EXPECT_EQ(EBUSY, errno);
	close(bind);
	env_released(_metadata, &self->env, 2);
	EXPECT_EQ(0, umount(BIND));
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

/* There is no read lease for a file that somebody has open to write */
static int lease(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK))
		return -errno;
	return fcntl(fd, F_SETLEASE, F_UNLCK);
}

TEST_F(commit_open, kept_until_the_last_close)
{
	int first, second, held;

	/* it is open to write only by what the first open brings */
	hook.fd = env_file(_metadata, &self->env, "held");
	held = openat(self->env.files.dir_fd, "held", O_RDONLY);
	first = env_open("file", O_RDONLY);
	ASSERT_LE(0, first);
	close(hook.fd);
	hook.fd = held;
	second = env_open("file", O_RDONLY);
	ASSERT_LE(0, second);
	EXPECT_EQ(-EAGAIN, lease(held));
	close(first);
	env_released(_metadata, &self->env, 1);
	EXPECT_EQ(-EAGAIN, lease(held));
	EXPECT_EQ(1, env_is(second, "held"));
	close(second);
	env_released(_metadata, &self->env, 2);
	EXPECT_EQ(0, lease(held));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(held);
}

/* Two queues, and what goes wrong with ids that the server picks */

static void *open_thread(void *fd)
{
	*(int *)fd = env_open("file", O_RDWR);
	return NULL;
}

static int other_cpu(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN) > 1;
}

/* The second reply overtakes the first */
TEST_F(commit_open, overtaken)
{
	pthread_t client;
	int first, second;

	if (!other_cpu())
		SKIP(return, "needs two CPUs");
	hook.bring = UNTIL_RELEASE;
	hook.hold = FUSE_OPEN;
	env_pin(_metadata, 0);
	ASSERT_EQ(0, pthread_create(&client, NULL, open_thread, &first));
	ASSERT_EQ(0, wait_for(&hook.held));
	env_pin(_metadata, 1);
	second = open_file(_metadata, &self->env, "file");
	EXPECT_LE(0, second);
	sem_post(&hook.let_go);
	EXPECT_EQ(0, pthread_join(client, NULL));
	ASSERT_LE(0, first);
	EXPECT_EQ(1, env_is(first, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(first);
	close(second);
}

/* An fd's number means another file while the last one is being released */
TEST_F(commit_open, number_of_another_file)
{
	int fd, other;

	if (!other_cpu())
		SKIP(return, "needs two CPUs");
	/* the server has opened it */
	ASSERT_NE(NULL, files_node(&self->env.files, "other"));
	hook.bring = UNTIL_RELEASE;
	env_pin(_metadata, 1);
	fd = open_file(_metadata, &self->env, "file");
	ASSERT_LE(0, fd);
	hook.hold = FUSE_RELEASE;
	close(fd);
	ASSERT_EQ(0, wait_for(&hook.held));
	env_pin(_metadata, 0);
	other = env_open("other", O_RDWR);
	ASSERT_LE(0, other);
	EXPECT_EQ(hook.closed, hook.brought);
	EXPECT_EQ(1, env_is(other, "other"));
	/* and the file itself again */
	fd = open_file(_metadata, &self->env, "file");
	EXPECT_LE(0, fd);
	sem_post(&hook.let_go);
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_EQ(1, env_is(other, "other"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
	close(other);
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
