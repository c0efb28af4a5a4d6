// SPDX-License-Identifier: GPL-2.0
/*
 * The client, the connection or the server ends before the reply that passes a
 * file. Nothing may be left, which the teardown sees: the file system of the
 * backing files has to go.
 */
#define _GNU_SOURCE
#include "env.h"

/* Some are in other processes */
struct shared {
	/* holds the thread that answers an OPEN */
	struct env_hold hold;
	/* a server in a child has begun */
	sem_t begun;
};

static struct shared *shared;

static bool reply(struct ring_req *req)
{
	if (req->open)
		env_hold(&shared->hold);
	return files_reply(req);
}

FIXTURE(commit_end)
{
	struct env env;
	struct ring_server_cfg cfg;
	pthread_t client;
};

FIXTURE_SETUP(commit_end)
{
	const char *missing = env_setup(_metadata, &self->env,
					ENV_NEED(BY_COMMIT));

	if (missing)
		SKIP(return, "%s", missing);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, shared);
	ASSERT_EQ(0, sem_init(&shared->hold.held, 1, 0));
	ASSERT_EQ(0, sem_init(&shared->hold.let_go, 1, 0));
	ASSERT_EQ(0, sem_init(&shared->begun, 1, 0));
	close(env_file(_metadata, &self->env, "file"));
	self->env.files.pass = true;
	self->env.files.by = BY_COMMIT;
	self->cfg = (struct ring_server_cfg) {
		.init_flags = ENV_INIT,
		.hooks = FILES_HOOKS,
	};
	self->cfg.hooks.reply = reply;
}

FIXTURE_TEARDOWN(commit_end)
{
	env_teardown(_metadata, &self->env);
}

static void *client_thread(void *arg)
{
	return (void *)(long)env_open("file", O_RDWR);
}

static void client_start(struct __test_metadata *_metadata, pthread_t *client)
{
	ASSERT_EQ(0, pthread_create(client, NULL, client_thread, NULL));
	ASSERT_EQ(0, sys_wait_for(&shared->hold.held, RING_PATIENCE));
}

static void client_ends(struct __test_metadata *_metadata, pthread_t client)
{
	void *ret;

	ASSERT_EQ(0, pthread_join(client, &ret));
	EXPECT_EQ(-ECONNABORTED, (long)ret);
}

TEST_F(commit_end, of_the_client)
{
	pid_t pid;

	env_start(_metadata, &self->env, &self->cfg);
	pid = sys_fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		/* nothing of the server */
		syscall(SYS_close_range, 3, ~0U, 0);
		_exit(env_open("file", O_RDWR) < 0);
	}
	ASSERT_EQ(0, sys_wait_for(&shared->hold.held, RING_PATIENCE));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	sem_post(&shared->hold.let_go);
	EXPECT_EQ(SIGKILL, sys_wait(pid));
	/* the server has opened it, and is told that it is not in use */
	EXPECT_EQ(0, ring_server_wait(self->env.server, FUSE_RELEASE, 1));
}

TEST_F(commit_end, of_the_connection)
{
	env_start(_metadata, &self->env, &self->cfg);
	client_start(_metadata, &self->client);
	umount2(ENV_MNT, MNT_FORCE);
	client_ends(_metadata, self->client);
	sem_post(&shared->hold.let_go);
}

TEST_F(commit_end, of_the_server)
{
	pid_t pid = sys_fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		env_start(_metadata, &self->env, &self->cfg);
		sem_post(&shared->begun);
		for (;;)
			pause();
	}
	ASSERT_EQ(0, sys_wait_for(&shared->begun, RING_PATIENCE));
	client_start(_metadata, &self->client);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(SIGKILL, sys_wait(pid));
	client_ends(_metadata, self->client);
	EXPECT_EQ(0, umount(ENV_MNT));
}

ENV_MAIN
