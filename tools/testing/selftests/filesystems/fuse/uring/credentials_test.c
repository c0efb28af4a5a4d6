// SPDX-License-Identifier: GPL-2.0
/*
 * Whose credentials, and whose files, a backing file command has: those in
 * force when it is issued, as for any io_uring request.
 *
 * With CAP_SYS_ADMIN in them a command is allowed. BACKING_OPEN records them,
 * and the I/O is done with them: a write to a set-user-id backing file keeps
 * the bit if CAP_FSETID is among them.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include "cap.h"
#include "env.h"
#include "issue.h"

/* An id that was registered before */
#define ID		1000

FIXTURE(credentials)
{
	struct env env;
	struct issuer issuer;
	int fd;
};

FIXTURE_SETUP(credentials)
{
	const struct issue_how how = { };
	const char *missing = env_setup(_metadata, &self->env, ENV_INIT |
					FUSE_HAS_IO_URING_BACKING);

	if (missing)
		SKIP(return, "%s", missing);
	env_start(_metadata, &self->env, NULL);
	ASSERT_EQ(0, issuer_init(&self->issuer, &how,
				 self->env.server->dev_fd));
	self->fd = env_file(_metadata, &self->env, "file");
	ASSERT_EQ(ID, issue_open(&self->issuer, self->fd, ID));
}

FIXTURE_TEARDOWN(credentials)
{
	issuer_exit(&self->issuer);
	close(self->fd);
	env_teardown(_metadata, &self->env);
}

/* Both commands have to end like this if submitted without that capability */
static void check(struct __test_metadata *_metadata, struct issuer *issuer,
		  int fd, int without, bool allowed)
{
	int open, close;

	EXPECT_EQ(0, capabilities_without(without));
	open = issue_open(issuer, fd, ID + 1);
	close = issue_close(issuer, allowed ? open : ID);
	EXPECT_EQ(0, capabilities_without(CAP_NONE));
	EXPECT_EQ(allowed ? ID + 1 : -EPERM, open);
	EXPECT_EQ(allowed ? 0 : -EPERM, close);
}

TEST_F(credentials, of_the_submitter)
{
	check(_metadata, &self->issuer, self->fd, CAP_NONE, true);
	check(_metadata, &self->issuer, self->fd, CAP_SYS_ADMIN, false);
}

TEST_F(credentials, of_the_maker_of_an_sqpoll_ring)
{
	const struct issue_how how = { .setup_flags = IORING_SETUP_SQPOLL };
	struct issuer issuer;

	ASSERT_EQ(0, issuer_init(&issuer, &how, self->env.server->dev_fd));
	check(_metadata, &issuer, self->fd, CAP_SYS_ADMIN, true);
	issuer_exit(&issuer);

	EXPECT_EQ(0, capabilities_without(CAP_SYS_ADMIN));
	EXPECT_EQ(0, issuer_init(&issuer, &how, self->env.server->dev_fd));
	check(_metadata, &issuer, self->fd, CAP_NONE, false);
	issuer_exit(&issuer);
}

TEST_F(credentials, of_a_personality)
{
	struct issuer *issuer = &self->issuer;
	int all, none;

	all = io_uring_register_personality(&issuer->ring);
	ASSERT_LT(0, all);
	EXPECT_EQ(0, capabilities_without(CAP_SYS_ADMIN));
	none = io_uring_register_personality(&issuer->ring);
	EXPECT_EQ(0, capabilities_without(CAP_NONE));
	ASSERT_LT(0, none);

	issuer->personality = all;
	check(_metadata, issuer, self->fd, CAP_SYS_ADMIN, true);
	issuer->personality = none;
	check(_metadata, issuer, self->fd, CAP_NONE, false);
	/* io_uring does not know it */
	issuer->personality = all + none;
	EXPECT_EQ(-EINVAL, issue_open(issuer, self->fd, ID + 1));
	EXPECT_EQ(-EINVAL, issue_close(issuer, ID));
	issuer->personality = 0;
	EXPECT_EQ(0, issue_close(issuer, ID));
}

static int open_in_user_ns(int dev_fd, int fd)
{
	const struct issue_how how = { };
	struct issuer issuer;
	int ret;

	if (unshare(CLONE_NEWUSER))
		return -errno;
	ret = issuer_init(&issuer, &how, dev_fd);
	if (ret)
		return ret;
	ret = issue_open(&issuer, fd, ID + 1);
	if (ret == -EPERM && issue_close(&issuer, ID) != -EPERM)
		ret = -ENOTRECOVERABLE;
	issuer_exit(&issuer);
	return ret;
}

/* All capabilities of a user namespace are none of the initial one */
TEST_F(credentials, in_a_user_namespace)
{
	int status;
	pid_t pid;

	if (access("/proc/self/ns/user", F_OK))
		SKIP(return, "the kernel has no user namespaces");
	pid = fork();
	if (!pid)
		_exit(-open_in_user_ns(self->env.server->dev_fd, self->fd));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(EPERM, WEXITSTATUS(status));
}

/*
 * Does a write by a client without that capability keep the set-user-id bit?
 *
 * The client's own capabilities would be asked for first, by the mode that FUSE
 * knows: so the file becomes set-user-id when FUSE has looked.
 */
static bool keeps_bit(struct __test_metadata *_metadata, struct env *env,
		      int back, int id, int without)
{
	struct stat st;
	int fd;

	EXPECT_EQ(0, fchmod(back, 0644));
	files_node(&env->files, "file")->backing_id = id;
	fd = env_open("file", O_WRONLY);
	EXPECT_LE(0, fd);
	EXPECT_EQ(0, fchmod(back, 04755));
	EXPECT_EQ(0, capabilities_without(without));
	EXPECT_EQ(1, pwrite(fd, "x", 1, 0));
	EXPECT_EQ(0, capabilities_without(CAP_NONE));
	EXPECT_EQ(0, env_io_served(env));
	EXPECT_EQ(0, fstat(back, &st));
	close(fd);
	return st.st_mode & S_ISUID;
}

/* Whatever the client has, and whoever has opened the backing file */
TEST_F(credentials, are_those_of_the_io)
{
	struct issuer *issuer = &self->issuer;
	struct env *env = &self->env;

	EXPECT_TRUE(keeps_bit(_metadata, env, self->fd, ID, CAP_NONE));
	EXPECT_TRUE(keeps_bit(_metadata, env, self->fd, ID, CAP_FSETID));

	EXPECT_EQ(0, capabilities_without(CAP_FSETID));
	EXPECT_EQ(ID + 1, issue_open(issuer, self->fd, ID + 1));
	EXPECT_EQ(0, capabilities_without(CAP_NONE));
	EXPECT_FALSE(keeps_bit(_metadata, env, self->fd, ID + 1, CAP_NONE));
	EXPECT_FALSE(keeps_bit(_metadata, env, self->fd, ID + 1, CAP_FSETID));
}

struct thread {
	struct issuer *issuer;
	int fd;
	int other;
	int ret;
};

/* The file at the number is another one for this thread, but not for others */
static void *open_own_file(void *arg)
{
	struct thread *t = arg;

	if (unshare(CLONE_FILES) || dup2(t->other, t->fd) != t->fd)
		t->ret = -errno;
	else
		t->ret = issue_open(t->issuer, t->fd, ID + 1);
	return NULL;
}

TEST_F(credentials, and_the_files_of_the_submitter)
{
	struct thread t = {
		.issuer = &self->issuer,
		.fd = self->fd,
		.other = env_file(_metadata, &self->env, "other"),
	};
	pthread_t thread;
	int fd;

	ASSERT_EQ(0, pthread_create(&thread, NULL, open_own_file, &t));
	EXPECT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(ID + 1, t.ret);
	files_node(&self->env.files, "file")->backing_id = ID + 1;
	fd = env_open("file", O_RDONLY);
	EXPECT_LE(0, fd);
	EXPECT_EQ(1, env_is(fd, "other"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
	close(t.other);
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
