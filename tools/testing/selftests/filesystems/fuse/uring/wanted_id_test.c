// SPDX-License-Identifier: GPL-2.0
/*
 * The backing id that a server wants: it gets it, and can register the same
 * file again under it.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <sys/fsuid.h>
#include <sys/wait.h>

#include "cap.h"
#include "env.h"
#include "issue.h"

/* With 32 bits the other one has 16-bit ids */
#ifndef SYS_setgroups32
#define SYS_setgroups32	SYS_setgroups
#endif

/* What the fixture "repeat" has registered its file under */
#define ID		1000
#define REPEATS		1000
#define RACES		200

static const char *setup(struct __test_metadata *_metadata, struct env *env,
			 struct issuer *issuer, const struct issue_how *how)
{
	const char *missing = issue_missing(how);

	if (!missing)
		missing = env_setup(_metadata, env,
				    ENV_INIT | FUSE_HAS_IO_URING_BACKING);
	if (missing)
		return missing;
	env_start(_metadata, env, NULL);
	ASSERT_EQ(0, issuer_init(issuer, how, env->server->dev_fd));
	return NULL;
}

/* With that id in the reply to its open, a client has that file */
static void passes_through(struct __test_metadata *_metadata, struct env *env,
			   const char *name, int id)
{
	struct ring_node *node = files_node(&env->files, name);
	int fd;

	ASSERT_NE(NULL, node);
	node->backing_id = id;
	fd = env_open(name, O_RDONLY);
	EXPECT_LE(0, fd);
	EXPECT_EQ(1, env_is(fd, name));
	EXPECT_EQ(0, env_io_served(env));
	close(fd);
}

FIXTURE(wanted_id)
{
	struct env env;
	struct issuer issuer;
	int fd;
};

FIXTURE_VARIANT(wanted_id)
{
	struct issue_how how;
};

#define ISSUE_FIXTURE wanted_id
#include "issue_variants.h"

FIXTURE_SETUP(wanted_id)
{
	const char *missing = setup(_metadata, &self->env, &self->issuer,
				    &variant->how);

	if (missing)
		SKIP(return, "%s", missing);
	self->fd = env_file(_metadata, &self->env, "file");
}

FIXTURE_TEARDOWN(wanted_id)
{
	issuer_exit(&self->issuer);
	close(self->fd);
	env_teardown(_metadata, &self->env);
}

TEST_F(wanted_id, is_the_id)
{
	const int ids[] = { 1, 1 << 30, INT_MAX };
	int other = env_file(_metadata, &self->env, "other");
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ids); i++) {
		EXPECT_EQ(ids[i], issue_open(&self->issuer, self->fd, ids[i]));
		passes_through(_metadata, &self->env, "file", ids[i]);
		/* free for another file right after its close */
		EXPECT_EQ(0, issue_close(&self->issuer, ids[i]));
		EXPECT_EQ(ids[i], issue_open(&self->issuer, other, ids[i]));
		passes_through(_metadata, &self->env, "other", ids[i]);
		EXPECT_EQ(0, issue_close(&self->issuer, ids[i]));
		EXPECT_EQ(-ENOENT, issue_close(&self->issuer, ids[i]));
	}
	close(other);
}

/* Its own go on upwards from 1, by command and by ioctl */
TEST_F(wanted_id, is_skipped_by_the_kernel)
{
	const struct issue_how how = { .ioctl = true };
	struct issuer *issuer = &self->issuer, ioctl;
	int i;

	ASSERT_EQ(0, issuer_init(&ioctl, &how, self->env.server->dev_fd));
	EXPECT_EQ(INT_MAX, issue_open(issuer, self->fd, INT_MAX));
	for (i = 2; i <= 20; i += 2)
		EXPECT_EQ(i, issue_open(issuer, self->fd, i));
	for (i = 1; i < 20; i += 4) {
		EXPECT_EQ(i, issue_open(issuer, self->fd, 0));
		EXPECT_EQ(i + 2, issue_open(&ioctl, self->fd, 0));
	}
	/* cyclically: what was closed is not the next one */
	EXPECT_EQ(0, issue_close(&ioctl, 19));
	EXPECT_EQ(21, issue_open(issuer, self->fd, 0));
	issuer_exit(&ioctl);
}

FIXTURE(repeat)
{
	struct env env;
	struct issuer issuer;
	int fd;
};

FIXTURE_SETUP(repeat)
{
	const struct issue_how how = { };
	const char *missing = setup(_metadata, &self->env, &self->issuer, &how);

	if (missing)
		SKIP(return, "%s", missing);
	self->fd = env_file(_metadata, &self->env, "file");
	ASSERT_EQ(ID, issue_open(&self->issuer, self->fd, ID));
}

FIXTURE_TEARDOWN(repeat)
{
	issuer_exit(&self->issuer);
	close(self->fd);
	env_teardown(_metadata, &self->env);
}

/* Who asks for something that is wrong twice gets the first of these */
TEST_F(repeat, order_of_checks)
{
	int dir_fd = self->env.files.dir_fd;
	int other = env_file(_metadata, &self->env, "other");
	/* of a file system as deep as the server allows itself to be */
	int deep = env_open("file", O_RDONLY);

	EXPECT_LE(0, deep);
	EXPECT_EQ(0, capabilities_without(CAP_SYS_ADMIN));
	EXPECT_EQ(-EPERM, issue_open(&self->issuer, -1, -1));
	EXPECT_EQ(0, capabilities_without(CAP_NONE));
	EXPECT_EQ(-EINVAL, issue_open(&self->issuer, -1, -1));
	EXPECT_EQ(-EINVAL, issue_open(&self->issuer, self->fd, INT_MIN));
	EXPECT_EQ(-EBADF, issue_open(&self->issuer, -1, ID));
	EXPECT_EQ(-EISDIR, issue_open(&self->issuer, dir_fd, ID));
	EXPECT_EQ(-ELOOP, issue_open(&self->issuer, deep, ID));
	EXPECT_EQ(-EEXIST, issue_open(&self->issuer, other, ID));
	/* an id of a command that failed is none */
	EXPECT_EQ(-EBADF, issue_open(&self->issuer, -1, ID + 1));
	EXPECT_EQ(-EISDIR, issue_open(&self->issuer, dir_fd, ID + 1));
	EXPECT_EQ(-ELOOP, issue_open(&self->issuer, deep, ID + 1));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, ID + 1));
	close(deep);
	close(other);
}

/* From a ring of its own, as all threads and successors of a server have */
static int repeat(int dev_fd, int fd)
{
	const struct issue_how how = { };
	struct issuer issuer;
	int ret = issuer_init(&issuer, &how, dev_fd);

	if (ret)
		return ret;
	ret = issue_open(&issuer, fd, ID);
	issuer_exit(&issuer);
	return ret;
}

struct repeater {
	int dev_fd;
	int fd;
	int ret;
};

static void *repeat_thread(void *arg)
{
	struct repeater *r = arg;

	r->ret = repeat(r->dev_fd, r->fd);
	return NULL;
}

/* Whatever fd it is, and whoever asks */
TEST_F(repeat, of_the_same_path)
{
	const int flags[] = { O_RDWR, O_RDONLY, O_PATH };
	struct repeater r = {
		.dev_fd = self->env.server->dev_fd,
		.fd = self->fd,
	};
	pthread_t thread;
	unsigned int i;
	int fd, status;
	pid_t pid;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		fd = openat(self->env.files.dir_fd, "file", flags[i]);
		ASSERT_LE(0, fd);
		EXPECT_EQ(ID, issue_open(&self->issuer, fd, ID));
		close(fd);
	}
	EXPECT_EQ(ID, repeat(r.dev_fd, r.fd));
	ASSERT_EQ(0, pthread_create(&thread, NULL, repeat_thread, &r));
	EXPECT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(ID, r.ret);
	pid = fork();
	if (!pid)
		_exit(repeat(r.dev_fd, r.fd) != ID);
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);

	passes_through(_metadata, &self->env, "file", ID);
	EXPECT_EQ(0, issue_close(&self->issuer, ID));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, ID));
}

/* A read lease is there for the taking if nobody has the file open to write */
static int try_lease(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK))
		return -errno;
	return fcntl(fd, F_SETLEASE, F_UNLCK) ? -errno : 0;
}

TEST_F(repeat, loses_no_reference)
{
	EXPECT_EQ(ID, issue_open(&self->issuer, self->fd, ID));
	passes_through(_metadata, &self->env, "file", ID);
	EXPECT_EQ(0, issue_close(&self->issuer, ID));
}

/* However often it is repeated, there is one reference, and one close */
TEST_F(repeat, leaves_no_reference)
{
	int fd, i, ret, other = env_file(_metadata, &self->env, "other");

	EXPECT_EQ(ID + 1, issue_open(&self->issuer, other, ID + 1));
	for (i = 0; i < REPEATS; i++) {
		ret = issue_open(&self->issuer, other, ID + 1);
		ASSERT_EQ(ID + 1, ret);
	}
	close(other);
	fd = openat(self->env.files.dir_fd, "other", O_RDONLY);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EAGAIN, try_lease(fd));
	EXPECT_EQ(0, issue_close(&self->issuer, ID + 1));
	EXPECT_EQ(0, try_lease(fd));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, ID + 1));
	close(fd);
}

TEST_F(repeat, of_another_path)
{
	int dir_fd = self->env.files.dir_fd, fd;

	fd = env_file(_metadata, &self->env, "other");
	EXPECT_EQ(-EEXIST, issue_open(&self->issuer, fd, ID));
	close(fd);

	/* the same inode, too: what is recorded is a path */
	ASSERT_EQ(0, linkat(dir_fd, "file", dir_fd, "hard_link", 0));
	fd = openat(dir_fd, "hard_link", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EEXIST, issue_open(&self->issuer, fd, ID));
	close(fd);

	ASSERT_EQ(0, mkdir("/tmp/bind", 0755));
	ASSERT_EQ(0, mount(ENV_BACK, "/tmp/bind", NULL, MS_BIND, NULL));
	fd = open("/tmp/bind/file", O_RDWR);
	EXPECT_LE(0, fd);
	EXPECT_EQ(-EEXIST, issue_open(&self->issuer, fd, ID));
	close(fd);
	EXPECT_EQ(0, umount2("/tmp/bind", 0));

	passes_through(_metadata, &self->env, "file", ID);
}

TEST_F(repeat, with_other_credentials)
{
	const gid_t group = 1;
	gid_t groups[NGROUPS_MAX];
	int nr;

	ASSERT_EQ(0, capabilities_without(CAP_FSETID));
	EXPECT_EQ(-EEXIST, issue_open(&self->issuer, self->fd, ID));
	ASSERT_EQ(0, capabilities_without(CAP_NONE));
	EXPECT_EQ(ID, issue_open(&self->issuer, self->fd, ID));

	/* which takes some capabilities away: not what is meant here */
	EXPECT_EQ(0, setfsuid(1));
	ASSERT_EQ(0, capabilities_without(CAP_NONE));
	EXPECT_EQ(-EEXIST, issue_open(&self->issuer, self->fd, ID));
	EXPECT_EQ(1, setfsuid(0));
	ASSERT_EQ(0, capabilities_without(CAP_NONE));
	EXPECT_EQ(ID, issue_open(&self->issuer, self->fd, ID));

	EXPECT_EQ(0, setfsgid(1));
	EXPECT_EQ(-EEXIST, issue_open(&self->issuer, self->fd, ID));
	EXPECT_EQ(1, setfsgid(0));
	EXPECT_EQ(ID, issue_open(&self->issuer, self->fd, ID));

	/* of this thread; that of the C library is for all */
	nr = getgroups(NGROUPS_MAX, groups);
	ASSERT_LE(0, nr);
	ASSERT_EQ(0, syscall(SYS_setgroups32, 1, &group));
	EXPECT_EQ(-EEXIST, issue_open(&self->issuer, self->fd, ID));
	ASSERT_EQ(0, syscall(SYS_setgroups32, nr, groups));
	EXPECT_EQ(ID, issue_open(&self->issuer, self->fd, ID));
}

/* Registers a file under one id after the other, as another thread does */
struct racer {
	pthread_barrier_t *barrier;
	int dev_fd;
	int fd;
	int res[RACES];
};

static void *race_thread(void *arg)
{
	const struct issue_how how = { };
	struct racer *r = arg;
	struct issuer issuer;
	int i, err;

	err = issuer_init(&issuer, &how, r->dev_fd);
	for (i = 0; i < RACES; i++) {
		pthread_barrier_wait(r->barrier);
		r->res[i] = err ? err : issue_open(&issuer, r->fd, ID + 1 + i);
	}
	issuer_exit(&issuer);
	return NULL;
}

static void race(struct __test_metadata *_metadata, struct racer r[2],
		 int dev_fd)
{
	pthread_barrier_t barrier;
	pthread_t thread[2];
	int i;

	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, 2));
	for (i = 0; i < 2; i++) {
		r[i].barrier = &barrier;
		r[i].dev_fd = dev_fd;
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, race_thread,
					    &r[i]));
	}
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, pthread_join(thread[i], NULL));
}

TEST_F(repeat, race_with_the_same_file)
{
	struct racer r[2] = { { .fd = self->fd }, { .fd = self->fd } };
	int i;

	race(_metadata, r, self->env.server->dev_fd);
	for (i = 0; i < RACES; i++) {
		EXPECT_EQ(ID + 1 + i, r[0].res[i]);
		EXPECT_EQ(ID + 1 + i, r[1].res[i]);
		EXPECT_EQ(0, issue_close(&self->issuer, ID + 1 + i));
		EXPECT_EQ(-ENOENT, issue_close(&self->issuer, ID + 1 + i));
	}
}

TEST_F(repeat, race_with_different_files)
{
	int i, other = env_file(_metadata, &self->env, "other");
	struct racer r[2] = { { .fd = self->fd }, { .fd = other } };

	race(_metadata, r, self->env.server->dev_fd);
	for (i = 0; i < RACES; i++) {
		int winner = r[1].res[i] > 0;

		EXPECT_EQ(ID + 1 + i, r[winner].res[i]);
		EXPECT_EQ(-EEXIST, r[!winner].res[i]);
		EXPECT_EQ(0, issue_close(&self->issuer, ID + 1 + i));
		EXPECT_EQ(-ENOENT, issue_close(&self->issuer, ID + 1 + i));
	}
	close(other);
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
