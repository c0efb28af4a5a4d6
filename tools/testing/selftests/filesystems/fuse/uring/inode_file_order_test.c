// SPDX-License-Identifier: GPL-2.0
/*
 * The inode's backing file when replies and opens overtake each other, and while
 * the inode is open. See Documentation/filesystems/fuse/fuse-passthrough.rst.
 */
#define _GNU_SOURCE
#include "inode_file.h"

/* A request that is answered when the name "go" is looked up; it is there */
static struct ring_req *kept;
static sem_t held;

static const struct ring_server_cfg cfg = {
	/* LOOKUPs of new names do not wait for each other */
	.init_flags = ENV_INIT | FUSE_PARALLEL_DIROPS,
	.handle = inode_file_handle,
	.hooks = { .reply = inode_file_reply, .refused = files_refused },
};

static bool keep(struct ring_req *req)
{
	kept = req;
	sem_post(&held);
	return false;
}

static void answer_kept(void)
{
	if (kept)
		ring_req_commit(kept);
	kept = NULL;
}

/* Two clients, of which the server has the request of the first, a, before */
enum order {
	/* answered and applied one after the other */
	A_THEN_B, B_THEN_A,
	/* answered in this order, but the first client runs last */
	A_LATE,
};

FIXTURE(last_request)
{
	struct env env;
};

FIXTURE_VARIANT(last_request)
{
	enum order order;
};

FIXTURE_VARIANT_ADD(last_request, a_then_b) { A_THEN_B };
FIXTURE_VARIANT_ADD(last_request, b_then_a) { B_THEN_A };
FIXTURE_VARIANT_ADD(last_request, a_late) { A_LATE };

/*
 * All but the first client run on one CPU and with real-time priority, so it
 * runs when all others wait, and not before.
 */
FIXTURE_SETUP(last_request)
{
	const struct sched_param param = { .sched_priority = 1 };
	const char *missing = begin(_metadata, &self->env);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, sem_init(&held, 0, 0));
	if (sched_setscheduler(0, SCHED_FIFO, &param))
		SKIP(return, "no real-time scheduling");
	/* its threads inherit that */
	env_start(_metadata, &self->env, &cfg);
}

FIXTURE_TEARDOWN(last_request)
{
	end(_metadata, &self->env);
}

static struct {
	enum order order;
	/* of the two requests */
	__u32 opcode[2];
	int fd[2];
	unsigned int nr;
	const char *path;
	/* the first client has returned */
	bool done;
} race;

static bool reply_in_order(struct ring_req *req)
{
	if (hook.go)
		answer_kept();
	if (hook.go || race.nr == 2 || req->in.opcode != race.opcode[race.nr])
		return true;
	req->fd = race.fd[race.nr];
	req->flags = FUSE_URING_BACKING_INODE;
	if (!race.nr++)
		return keep(req);
	if (race.order == B_THEN_A)
		return true;
	answer_kept();
	if (race.order == A_THEN_B)
		kept = req;
	return race.order == A_LATE;
}

static void send_request(__u32 opcode, const char *path)
{
	struct stat st;

	if (opcode == FUSE_LOOKUP)
		stat(path, &st);
	else
		close(open(path, O_RDWR | O_CLOEXEC));
}

static void *first_client(void *arg)
{
	const struct sched_param param = { };

	sched_setscheduler(0, SCHED_OTHER, &param);
	send_request(race.opcode[0], race.path);
	__atomic_store_n(&race.done, true, __ATOMIC_SEQ_CST);
	if (race.order == A_THEN_B)
		env_open("go", O_RDONLY);
	return NULL;
}

static const struct {
	__u32 opcode[2];
	/* of the first */
	const char *path;
	/* what they pass */
	const char *a, *b;
	/* the inode is evicted when b is applied; only a new name allows that */
	bool evict;
} races[] = {
	{ { FUSE_LOOKUP, FUSE_LOOKUP }, FILE_, "sub/file", "new" },
	{ { FUSE_LOOKUP, FUSE_LOOKUP }, FILE_, "sub/file", NULL },
	{ { FUSE_LOOKUP, FUSE_LOOKUP }, FILE_, NULL, "new" },
	{ { FUSE_LOOKUP, FUSE_LOOKUP }, ENV_MNT "/link", "sub/file", "new" },
	{ { FUSE_LOOKUP, FUSE_LOOKUP }, ENV_MNT "/link", "sub/file", "new",
	  true },
	{ { FUSE_LOOKUP, FUSE_LOOKUP }, ENV_MNT "/link", "sub/file", NULL,
	  true },
	{ { FUSE_OPEN, FUSE_LOOKUP }, FILE_, "sub/file", "new" },
	{ { FUSE_OPEN, FUSE_LOOKUP }, FILE_, "sub/file", NULL },
	{ { FUSE_LOOKUP, FUSE_OPEN }, FILE_, "sub/file", "new" },
	{ { FUSE_LOOKUP, FUSE_OPEN }, FILE_, NULL, "new" },
};

TEST_F(last_request, sets_the_file)
{
	struct env *env = &self->env;
	pthread_t client;
	bool in_order;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(races) && __test_passed(_metadata); i++) {
		/* "link" is not known, too */
		evict(_metadata, env);
		set(_metadata, "old");
		memset(&race, 0, sizeof(race));
		race.order = variant->order;
		memcpy(race.opcode, races[i].opcode, sizeof(race.opcode));
		race.path = races[i].path;
		pass(_metadata, 0, races[i].a);
		race.fd[0] = hook.fd;
		pass(_metadata, 0, races[i].b);
		race.fd[1] = hook.fd;
		hook.reply = reply_in_order;
		ASSERT_EQ(0, pthread_create(&client, NULL, first_client, NULL));
		ASSERT_EQ(0, sys_wait_for(&held, RING_PATIENCE));
		send_request(race.opcode[1], FILE_);
		in_order = (variant->order == A_THEN_B) ==
			   __atomic_load_n(&race.done, __ATOMIC_SEQ_CST);
		EXPECT_TRUE(in_order || variant->order == A_LATE);
		if (races[i].evict)
			evict(_metadata, env);
		env_open("go", O_RDONLY);
		ASSERT_EQ(0, pthread_join(client, NULL));
		hook.reply = NULL;
		close(race.fd[0]);
		close(race.fd[1]);
		check(_metadata, env, FILE_,
		      races[i].evict ? NULL : races[i].b);
		if (!__test_passed(_metadata))
			TH_LOG("row %zu", i);
		/* who has waited for a second runs before the others */
		if (!in_order)
			i--;
	}
}

FIXTURE(inode_file_order)
{
	struct env env;
};

FIXTURE_SETUP(inode_file_order)
{
	const char *missing = begin(_metadata, &self->env);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, sem_init(&held, 0, 0));
	env_start(_metadata, &self->env, &cfg);
}

FIXTURE_TEARDOWN(inode_file_order)
{
	end(_metadata, &self->env);
}

/* The mode belongs to the inode: as long as it is open the file stays */
TEST_F(inode_file_order, while_open)
{
	struct env *env = &self->env;
	int first, second;

	set(_metadata, "old");
	first = open_path(_metadata, env, FILE_, "old");
	set(_metadata, "new");
	second = open_path(_metadata, env, FILE_, "old");
	env_close(_metadata, env, first);
	first = open_path(_metadata, env, FILE_, "old");
	env_close(_metadata, env, second);
	/* the server is not told of a file that it has dropped */
	set(_metadata, NULL);
	env_open_fails(_metadata, env, "file", O_RDWR);
	EXPECT_FALSE(hook.told);
	EXPECT_TRUE(env_is(first, "old"));
	set(_metadata, "new");
	second = open_path(_metadata, env, FILE_, "old");
	env_close(_metadata, env, first);
	env_close(_metadata, env, second);
	check(_metadata, env, FILE_, "new");

	/* and the reverse */
	set(_metadata, NULL);
	first = open_path(_metadata, env, FILE_, NULL);
	set(_metadata, "old");
	env_open_fails(_metadata, env, "file", O_RDWR);
	EXPECT_TRUE(env_is(first, "file"));
	env_close(_metadata, env, first);
	check(_metadata, env, FILE_, "old");
}

/* Keeps the first OPEN */
static bool reply_opening(struct ring_req *req)
{
	static unsigned int nr;

	if (hook.go) {
		answer_kept();
		nr = 0;
	}
	return req->in.opcode != FUSE_OPEN || nr++ || keep(req);
}

static void *open_thread(void *fd)
{
	*(int *)fd = env_open("file", O_RDWR);
	return NULL;
}

/* The server has the OPEN, with FUSE_OPEN_BACKING; then that happens */
static const struct {
	bool opened_before;
	const char *set;
	bool opened_after;
	/* the open is with that file */
	const char *back;
} opening[] = {
	{ false, NULL, false, "old" },
	{ false, "new", false, "new" },
	{ false, "new", true, "new" },
	{ true, NULL, false, "old" },
	{ true, "new", false, "old" },
};

TEST_F(inode_file_order, while_opening)
{
	struct env *env = &self->env;
	pthread_t client;
	int fd, other;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(opening); i++) {
		other = -1;
		set(_metadata, "old");
		hook.reply = reply_opening;
		ASSERT_EQ(0, pthread_create(&client, NULL, open_thread, &fd));
		ASSERT_EQ(0, sys_wait_for(&held, RING_PATIENCE));
		EXPECT_TRUE(hook.told);
		if (opening[i].opened_before)
			other = open_path(_metadata, env, FILE_, "old");
		set(_metadata, opening[i].set);
		if (opening[i].opened_after)
			other = open_path(_metadata, env, FILE_, opening[i].set);
		env_open("go", O_RDONLY);
		ASSERT_EQ(0, pthread_join(client, NULL));
		hook.reply = NULL;
		ASSERT_LE(0, fd);
		EXPECT_TRUE(env_is(fd, opening[i].back)) {
			TH_LOG("row %zu", i);
		}
		env_close(_metadata, env, fd);
		if (other >= 0)
			env_close(_metadata, env, other);
		check(_metadata, env, FILE_, opening[i].set);
	}
}

/* The kernel was told, before "go" was answered */
static bool notified;

/*
 * Keeps the first LOOKUP. When "go" is looked up the file has changed, and this
 * thread has names looked up again although it has not answered that LOOKUP.
 */
static bool reply_changed(struct ring_req *req)
{
	const struct fuse_out_header notification = {
		.len = sizeof(notification),
		.error = FUSE_NOTIFY_INC_EPOCH,
	};
	static unsigned int nr;

	if (hook.go) {
		hook.fd = race.fd[1];
		notified = write(req->server->dev_fd, &notification,
				 sizeof(notification)) > 0;
		/* too old to pass the new file */
		kept->fd = hook.fd;
		answer_kept();
	}
	return req->in.opcode != FUSE_LOOKUP || nr++ || keep(req);
}

static void *look_up_link(void *arg)
{
	send_request(FUSE_LOOKUP, ENV_MNT "/link");
	return NULL;
}

/*
 * The server changes the file while it has an earlier LOOKUP than the one that
 * has set it, and does what the documentation says.
 */
TEST_F(inode_file_order, changed_by_the_server)
{
	struct env *env = &self->env;
	pthread_t client;

	/* a name is looked up once */
	env->files.cache_secs = 3600;
	evict(_metadata, env);
	pass(_metadata, 0, "new");
	race.fd[1] = hook.fd;
	pass(_metadata, BIT(FUSE_LOOKUP), "old");
	race.fd[0] = hook.fd;
	hook.reply = reply_changed;
	ASSERT_EQ(0, pthread_create(&client, NULL, look_up_link, NULL));
	ASSERT_EQ(0, sys_wait_for(&held, RING_PATIENCE));
	check(_metadata, env, FILE_, "old");
	env_open("go", O_RDONLY);
	ASSERT_EQ(0, pthread_join(client, NULL));
	EXPECT_TRUE(notified);
	check(_metadata, env, ENV_MNT "/link", "new");
	check(_metadata, env, FILE_, "new");
	close(race.fd[0]);
	close(race.fd[1]);
}

ENV_MAIN
