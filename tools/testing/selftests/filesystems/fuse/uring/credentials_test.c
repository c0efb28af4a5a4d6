// SPDX-License-Identifier: GPL-2.0
/*
 * Whose credentials are asked for when a backing file is passed: those in force
 * when the command is issued, as for any io_uring request. That they are also
 * those of the I/O is in passthrough_test.c.
 *
 * A directory is what is passed here: -EISDIR if that is allowed, else -EPERM.
 */
#define _GNU_SOURCE
#include "env.h"

FIXTURE(credentials)
{
	struct env env;
};

FIXTURE_VARIANT(credentials)
{
	enum issue_by by;
};

FIXTURE_VARIANT_ADD(credentials, command) { BY_COMMAND };
FIXTURE_VARIANT_ADD(credentials, commit) { BY_COMMIT };

FIXTURE_SETUP(credentials)
{
	const char *missing = env_setup(_metadata, &self->env,
					ENV_NEED(variant->by));

	if (missing)
		SKIP(return, "%s", missing);
	self->env.files.by = variant->by;
	env_start(_metadata, &self->env, NULL);
}

FIXTURE_TEARDOWN(credentials)
{
	env_teardown(_metadata, &self->env);
}

static void init(struct __test_metadata *_metadata, struct env *env,
		 struct issuer *issuer, const struct issue_how *how)
{
	ASSERT_EQ(0, issuer_init(issuer, how, env->server->dev_fd, 0));
	issuer->by = env->files.by;
}

/* Submitted without that capability it has to end like this */
static void check(struct __test_metadata *_metadata, struct env *env,
		  struct issuer *issuer, int without, bool allowed)
{
	int open, close = allowed ? -ENOENT : -EPERM;

	EXPECT_EQ(0, capabilities_without(without));
	open = issue_open(issuer, env->files.dir_fd);
	if (issuer->by != BY_COMMIT)
		close = issue_close(issuer, 1);
	EXPECT_EQ(0, capabilities_without(CAP_NONE));
	EXPECT_EQ(allowed ? -EISDIR : -EPERM, open);
	EXPECT_EQ(allowed ? -ENOENT : -EPERM, close);
}

TEST_F(credentials, of_the_submitter)
{
	const struct issue_how iowq = { .sqe_flags = IOSQE_ASYNC };
	struct issuer issuer;
	int i;

	for (i = 0; i < 2; i++) {
		init(_metadata, &self->env, &issuer, i ? &iowq : NULL);
		check(_metadata, &self->env, &issuer, CAP_NONE, true);
		check(_metadata, &self->env, &issuer, CAP_SYS_ADMIN, false);
		issuer_exit(&issuer);
	}
}

TEST_F(credentials, of_the_maker_of_an_sqpoll_ring)
{
	const struct issue_how how = { .ring_flags = IORING_SETUP_SQPOLL };
	struct issuer issuer;

	init(_metadata, &self->env, &issuer, &how);
	check(_metadata, &self->env, &issuer, CAP_SYS_ADMIN, true);
	issuer_exit(&issuer);
	EXPECT_EQ(0, capabilities_without(CAP_SYS_ADMIN));
	init(_metadata, &self->env, &issuer, &how);
	check(_metadata, &self->env, &issuer, CAP_NONE, false);
	issuer_exit(&issuer);
}

TEST_F(credentials, of_a_personality)
{
	struct issuer issuer;
	int all, none;

	init(_metadata, &self->env, &issuer, NULL);
	all = io_uring_register_personality(&issuer.ring);
	EXPECT_EQ(0, capabilities_without(CAP_SYS_ADMIN));
	none = io_uring_register_personality(&issuer.ring);
	ASSERT_LT(0, all);
	ASSERT_LT(all, none);
	issuer.personality = all;
	check(_metadata, &self->env, &issuer, CAP_SYS_ADMIN, true);
	issuer.personality = none;
	check(_metadata, &self->env, &issuer, CAP_NONE, false);
	issuer_exit(&issuer);
}

/* Root of that is nobody in the initial one */
TEST_F(credentials, in_a_user_namespace)
{
	struct issuer issuer;
	pid_t pid;

	if (access("/proc/self/ns/user", F_OK))
		SKIP(return, "no user namespaces");
	pid = sys_fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		EXPECT_EQ(0, user_ns_enter());
		init(_metadata, &self->env, &issuer, NULL);
		check(_metadata, &self->env, &issuer, CAP_NONE, false);
		_exit(_metadata->exit_code);
	}
	EXPECT_EQ(0, sys_wait(pid));
}

ENV_MAIN
