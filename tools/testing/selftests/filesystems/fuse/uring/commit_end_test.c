// SPDX-License-Identifier: GPL-2.0
/*
 * Ends in between, while replies bring files: of clients, of the mount, of the
 * server, and of its rings. Nothing may be left, which the teardown sees: the
 * file system of the backing files has to go.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "commit_file.h"
#include "env.h"
#include "wait.h"

#define CLIENTS		4
/* Opens of each before the end */
#define OPENS		25

/* What the hooks and the clients do; some are in other processes */
struct shared {
	/* hold the thread that answers the next OPEN */
	bool hold;
	sem_t held, let_go;
	/* end the threads of queues that have something to do, and so their rings */
	bool close_rings;
	/* opens that were not of the file */
	unsigned int wrong;
	/* a client has had OPENS; the server has begun */
	sem_t loaded, begun;
};

static struct shared *shared;

static bool reply(struct ring_req *req)
{
	if (req->open && __atomic_exchange_n(&shared->hold, false,
					     __ATOMIC_SEQ_CST)) {
		sem_post(&shared->held);
		if (wait_for(&shared->let_go))
			abort();
	}
	return commit_file_reply(req);
}

static void submit(struct ring_queue *queue)
{
	if (!__atomic_load_n(&shared->close_rings, __ATOMIC_SEQ_CST))
		return;
	queue->exit = true;
	sem_post(&shared->held);
}

FIXTURE(commit_end)
{
	struct env env;
};

static void start(struct __test_metadata *_metadata, struct env *env)
{
	const struct ring_server_cfg cfg = {
		.init_flags = COMMIT_FILE_INIT,
		.hooks = {
			.reply = reply,
			.sqe = commit_file_sqe,
			.submit = submit,
		},
	};

	env_start(_metadata, env, &cfg);
}

FIXTURE_SETUP(commit_end)
{
	const char *missing = env_setup(_metadata, &self->env,
					COMMIT_FILE_INIT);

	if (missing)
		SKIP(return, "%s", missing);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, shared);
	ASSERT_EQ(0, sem_init(&shared->held, 1, 0));
	ASSERT_EQ(0, sem_init(&shared->let_go, 1, 0));
	ASSERT_EQ(0, sem_init(&shared->loaded, 1, 0));
	ASSERT_EQ(0, sem_init(&shared->begun, 1, 0));
	close(env_file(_metadata, &self->env, "file"));
}

FIXTURE_TEARDOWN(commit_end)
{
	env_teardown(_metadata, &self->env);
}

/* Open, read and close until that fails; keeps one. Returns the error */
static int client(int *kept)
{
	int i, fd;

	for (i = 1;; i++) {
		fd = env_open("file", O_RDWR);
		if (fd < 0)
			return fd;
		if (!env_is(fd, "file"))
			__atomic_add_fetch(&shared->wrong, 1, __ATOMIC_SEQ_CST);
		if (i == OPENS)
			sem_post(&shared->loaded);
		if (*kept < 0)
			*kept = fd;
		else
			close(fd);
	}
}

/* In a child that has nothing of the server; returns its pid */
static pid_t fork_client(struct __test_metadata *_metadata)
{
	pid_t pid = fork();
	int kept = -1;

	ASSERT_LE(0, pid);
	if (!pid) {
		syscall(SYS_close_range, 3, ~0U, 0);
		client(&kept);
		_exit(1);
	}
	return pid;
}

static void kill_it(struct __test_metadata *_metadata, pid_t pid)
{
	int status;

	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(SIGKILL, WTERMSIG(status));
}

/* Clients that are threads */
struct load {
	pthread_t thread[CLIENTS];
	int kept[CLIENTS];
};

static void *client_thread(void *kept)
{
	return (void *)(long)client(kept);
}

static void load_start(struct __test_metadata *_metadata, struct load *load)
{
	int i;

	for (i = 0; i < CLIENTS; i++) {
		load->kept[i] = -1;
		ASSERT_EQ(0, pthread_create(&load->thread[i], NULL,
					    client_thread, &load->kept[i]));
	}
	for (i = 0; i < CLIENTS; i++)
		ASSERT_EQ(0, wait_for(&shared->loaded));
}

/*
 * The end has come, and clients get errors: which of those of a connection that
 * is gone depends on where they are. What was open goes on.
 */
static void load_ends(struct __test_metadata *_metadata, struct load *load)
{
	int i;

	for (i = 0; i < CLIENTS; i++) {
		ASSERT_EQ(0, pthread_join(load->thread[i], NULL));
		ASSERT_LE(0, load->kept[i]);
		EXPECT_EQ(1, env_is(load->kept[i], "file"));
	}
	EXPECT_EQ(0, shared->wrong);
}

static void load_close(struct load *load)
{
	int i;

	for (i = 0; i < CLIENTS; i++)
		close(load->kept[i]);
}

static unsigned long count(struct env *env, __u32 opcode)
{
	return ring_server_count(env->server, opcode);
}

/* Every open that the server has answered is released */
static void expect_released(struct __test_metadata *_metadata, struct env *env)
{
	EXPECT_EQ(0, ring_server_wait(env->server, FUSE_RELEASE,
				      count(env, FUSE_OPEN)));
	EXPECT_EQ(count(env, FUSE_OPEN), count(env, FUSE_RELEASE));
	EXPECT_EQ(0, env_io_served(env));
}

TEST_F(commit_end, client_killed_before_the_reply)
{
	pid_t pid;
	int status;

	start(_metadata, &self->env);
	shared->hold = true;
	pid = fork_client(_metadata);
	ASSERT_EQ(0, wait_for(&shared->held));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	sem_post(&shared->let_go);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(SIGKILL, WTERMSIG(status));
	EXPECT_EQ(1, count(&self->env, FUSE_OPEN));
	expect_released(_metadata, &self->env);
}

TEST_F(commit_end, clients_killed_under_load)
{
	pid_t pid[CLIENTS];
	int i;

	start(_metadata, &self->env);
	for (i = 0; i < CLIENTS; i++)
		pid[i] = fork_client(_metadata);
	for (i = 0; i < CLIENTS; i++)
		ASSERT_EQ(0, wait_for(&shared->loaded));
	for (i = 0; i < CLIENTS; i++)
		kill_it(_metadata, pid[i]);
	EXPECT_LE(CLIENTS * OPENS, count(&self->env, FUSE_OPEN));
	EXPECT_EQ(0, shared->wrong);
	expect_released(_metadata, &self->env);
}

TEST_F(commit_end, aborted_before_the_reply)
{
	pthread_t thread;
	int kept = -1;
	void *ret;

	start(_metadata, &self->env);
	shared->hold = true;
	ASSERT_EQ(0, pthread_create(&thread, NULL, client_thread, &kept));
	ASSERT_EQ(0, wait_for(&shared->held));
	umount2(ENV_MNT, MNT_FORCE);
	ASSERT_EQ(0, pthread_join(thread, &ret));
	EXPECT_EQ(-ECONNABORTED, (long)ret);
	sem_post(&shared->let_go);
}

TEST_F(commit_end, aborted_under_load)
{
	struct load load;

	start(_metadata, &self->env);
	load_start(_metadata, &load);
	umount2(ENV_MNT, MNT_FORCE);
	load_ends(_metadata, &load);
	load_close(&load);
}

TEST_F(commit_end, unmounted_lazily_under_load)
{
	struct load load;
	int last;

	start(_metadata, &self->env);
	load_start(_metadata, &load);
	EXPECT_EQ(0, umount2(ENV_MNT, MNT_DETACH));
	load_ends(_metadata, &load);
	/* after the last one there is no connection for its release */
	last = dup(load.kept[0]);
	load_close(&load);
	EXPECT_EQ(0, ring_server_wait(self->env.server, FUSE_RELEASE,
				      count(&self->env, FUSE_OPEN) - 1));
	EXPECT_EQ(1, env_is(last, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(last);
}

/* The server in a child that is killed in the middle of it */
static pid_t fork_server(struct __test_metadata *_metadata, struct env *env)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		start(_metadata, env);
		sem_post(&shared->begun);
		for (;;)
			pause();
	}
	ASSERT_EQ(0, wait_for(&shared->begun));
	return pid;
}

TEST_F(commit_end, server_killed_before_the_reply)
{
	pthread_t thread;
	int kept = -1;
	void *ret;
	pid_t pid;

	pid = fork_server(_metadata, &self->env);
	shared->hold = true;
	ASSERT_EQ(0, pthread_create(&thread, NULL, client_thread, &kept));
	ASSERT_EQ(0, wait_for(&shared->held));
	kill_it(_metadata, pid);
	ASSERT_EQ(0, pthread_join(thread, &ret));
	EXPECT_EQ(-ECONNABORTED, (long)ret);
	EXPECT_EQ(0, umount(ENV_MNT));
}

TEST_F(commit_end, server_killed_under_load)
{
	struct load load;
	pid_t pid;

	pid = fork_server(_metadata, &self->env);
	load_start(_metadata, &load);
	kill_it(_metadata, pid);
	load_ends(_metadata, &load);
	load_close(&load);
	EXPECT_EQ(0, umount(ENV_MNT));
}

TEST_F(commit_end, rings_closed_under_load)
{
	struct load load;

	start(_metadata, &self->env);
	load_start(_metadata, &load);
	__atomic_store_n(&shared->close_rings, true, __ATOMIC_SEQ_CST);
	ASSERT_EQ(0, wait_for(&shared->held));
	/* what had no reply would wait for one */
	umount2(ENV_MNT, MNT_FORCE);
	load_ends(_metadata, &load);
	load_close(&load);
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
