// SPDX-License-Identifier: GPL-2.0
/*
 * Backing files that are refused, with the same errors whatever passes them,
 * and commits that are refused besides: nothing has happened then.
 *
 * Such a commit can come from any ring. Here the server issues it on another
 * one when it has a request to answer, and then answers as if nothing were.
 */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <sys/un.h>

#include "env.h"

#define COMMIT	FUSE_IO_URING_CMD_COMMIT_BACKING

static const struct {
	const char *path;
	int flags, err;
} files[] = {
#define GOOD	0
	{ ENV_BACK "/file", O_RDWR, 0 },
#define DIR	1
	{ ENV_BACK, O_RDONLY, -EISDIR },
	{ ENV_BACK, O_PATH, -EISDIR },
	{ ENV_BACK "/fifo", O_RDWR, -EINVAL },
	{ ENV_BACK "/socket", O_PATH, -EINVAL },
	{ ENV_BACK "/symlink", O_PATH | O_NOFOLLOW, -EINVAL },
	{ "/dev/null", O_RDWR, -EINVAL },
	{ "/dev/fuse", O_RDWR, -EINVAL },
	/* a file system as deep as the server allows itself to be */
	{ ENV_MNT "/file", O_PATH, -ELOOP },
};

/* What has to be 0 in COMMIT_BACKING: bytes of the command area */
static const struct {
	unsigned int from, to;
} zero[] = { { 0, 8 }, { 18, 24 }, { 40, 48 } };

/* What the hook does; every test is a process */
static struct {
	struct __test_metadata *_metadata;
	struct issuer issuer;
	int fd[ARRAY_SIZE(files)];
	void (*try)(struct __test_metadata *_metadata, struct ring_req *req);
	enum ring_pool pool;
} hook;

/* Try commits of a request, of which nothing may change by that */
static bool reply(struct ring_req *req)
{
	struct __test_metadata *_metadata = hook._metadata;
	struct fuse_uring_req_header hdr = *req->hdr;
	char payload[RING_PAGE];

	memcpy(payload, req->out, sizeof(payload));
	hook.issuer.commit_id = hdr.ring_ent_in_out.commit_id;
	hook.issuer.qid = req->queue->qid;
	hook.try(_metadata, req);
	EXPECT_EQ(0, memcmp(&hdr, req->hdr, sizeof(hdr)));
	EXPECT_EQ(0, memcmp(payload, req->out, sizeof(payload)));
	return files_reply(req);
}

/* The answer of the server is never refused: if it is, no client waits */
static void refused(struct ring_req *req, int err)
{
	struct __test_metadata *_metadata = hook._metadata;

	EXPECT_EQ(0, err);
	umount2(ENV_MNT, MNT_FORCE);
}

static void start(struct __test_metadata *_metadata, struct env *env)
{
	struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.hooks = FILES_HOOKS,
		.pool = hook.pool,
	};

	cfg.hooks.refused = refused;
	if (hook.try)
		cfg.hooks.reply = reply;
	env_start(_metadata, env, &cfg);
	ASSERT_EQ(0, issuer_init(&hook.issuer, NULL, env->server->dev_fd, 0));
	hook.issuer.by = BY_COMMIT;
	if (hook.pool)
		hook.issuer.cmd_flags = IORING_URING_CMD_FIXED;
}

FIXTURE(refused)
{
	struct env env;
};

FIXTURE_VARIANT(refused)
{
	enum issue_by by;
	/* what is opened, for a request to be committed */
	const char *name;
	int flags;
	enum ring_pool pool;
};

FIXTURE_VARIANT_ADD(refused, ioctl) { BY_IOCTL };
FIXTURE_VARIANT_ADD(refused, command) { BY_COMMAND };
FIXTURE_VARIANT_ADD(refused, open) { BY_COMMIT, "file", O_RDWR };
FIXTURE_VARIANT_ADD(refused, create) { BY_COMMIT, "new", O_RDWR | O_CREAT };
FIXTURE_VARIANT_ADD(refused, tmpfile) { BY_COMMIT, ".", O_RDWR | O_TMPFILE };
FIXTURE_VARIANT_ADD(refused, pool) { BY_COMMIT, "file", O_RDWR, RING_POOL };

FIXTURE_SETUP(refused)
{
	const struct sockaddr_un sun = { AF_UNIX, ENV_BACK "/socket" };
	const char *missing = env_setup(_metadata, &self->env,
					ENV_NEED(variant->by));
	int sock;

	if (missing)
		SKIP(return, "%s", missing);
	sock = socket(AF_UNIX, SOCK_STREAM, 0);
	ASSERT_EQ(0, bind(sock, (void *)&sun, sizeof(sun)));
	close(sock);
	ASSERT_EQ(0, mkfifo(ENV_BACK "/fifo", 0600));
	ASSERT_EQ(0, symlink("file", ENV_BACK "/symlink"));
	close(env_file(_metadata, &self->env, "file"));
	hook._metadata = _metadata;
	hook.pool = variant->pool;
	self->env.files.pass = true;
	self->env.files.by = BY_COMMIT;
}

FIXTURE_TEARDOWN(refused)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(files); i++)
		close(hook.fd[i]);
	/* a commit that was not refused waits for that, and is named */
	env_stop(_metadata, &self->env);
	issuer_exit(&hook.issuer);
	env_teardown(_metadata, &self->env);
}

static void try_files(struct __test_metadata *_metadata)
{
	struct fuse_backing_map map = { .fd = hook.fd[GOOD] };
	int bit, closed = dup(0);
	unsigned int i;

	for (i = GOOD + 1; i < ARRAY_SIZE(files); i++) {
		EXPECT_EQ(files[i].err, issue_open(&hook.issuer, hook.fd[i])) {
			TH_LOG("%s", files[i].path);
		}
	}
	close(closed);
	EXPECT_EQ(-EBADF, issue_open(&hook.issuer, closed));
	EXPECT_EQ(-EBADF, issue_open(&hook.issuer, -1));
	capabilities_without(CAP_SYS_ADMIN);
	EXPECT_EQ(-EPERM, issue_map(&hook.issuer, &map));
	capabilities_without(CAP_NONE);
	for (bit = 0; bit < 96; bit++) {
		map.flags = bit < 32 ? 1U << bit : 0;
		map.padding = bit < 32 ? 0 : 1ULL << (bit - 32);
		EXPECT_EQ(-EINVAL, issue_map(&hook.issuer, &map));
	}
}

/* Also those that are of the commit alone */
static void try_commits(struct __test_metadata *_metadata, struct ring_req *req)
{
	const struct fuse_uring_cmd_req good = {
		.commit_id = hook.issuer.commit_id,
		.qid = hook.issuer.qid,
		.backing.map.fd = hook.fd[GOOD],
	};
	struct fuse_uring_cmd_req bad;
	size_t i, bit;

	if (!req->open)
		return;
	try_files(_metadata);
	for (i = 0; i < ARRAY_SIZE(zero); i++) {
		for (bit = 8 * zero[i].from; bit < 8 * zero[i].to; bit++) {
			bad = good;
			((__u8 *)&bad)[bit / 8] ^= 1 << bit % 8;
			EXPECT_EQ(-EINVAL, issue(&hook.issuer, COMMIT, &bad)) {
				TH_LOG("bit %zu", bit);
			}
		}
	}
	if (hook.pool) {
		/* such a queue needs the flag, with the index 0 */
		issue_sqe(&hook.issuer, COMMIT, &good)->uring_cmd_flags = 0;
		EXPECT_EQ(-EINVAL, issue_wait(&hook.issuer));
		issue_sqe(&hook.issuer, COMMIT, &good)->buf_index = 1;
		EXPECT_EQ(-EINVAL, issue_wait(&hook.issuer));
	}
	bad = good;
	bad.qid = 1 << 15;
	EXPECT_EQ(-EINVAL, issue(&hook.issuer, COMMIT, &bad));
	/* the file first, then the request */
	bad = good;
	bad.commit_id = ~0ULL;
	EXPECT_EQ(-ENOENT, issue(&hook.issuer, COMMIT, &bad));
	bad.backing.map.fd = hook.fd[DIR];
	EXPECT_EQ(-EISDIR, issue(&hook.issuer, COMMIT, &bad));
}

/* Requests that take no file: that is said after the file and the request */
static void try_no_open(struct __test_metadata *_metadata, struct ring_req *req)
{
	if (req->open)
		return;
	EXPECT_EQ(-EOPNOTSUPP, issue_open(&hook.issuer, hook.fd[GOOD])) {
		TH_LOG("opcode %u", req->in.opcode);
	}
	EXPECT_EQ(-EISDIR, issue_open(&hook.issuer, hook.fd[DIR]));
	hook.issuer.commit_id = ~0ULL;
	EXPECT_EQ(-ENOENT, issue_open(&hook.issuer, hook.fd[GOOD]));
}

TEST_F(refused, errors)
{
	unsigned int i;
	int fd;

	if (variant->by == BY_COMMIT)
		hook.try = try_commits;
	start(_metadata, &self->env);
	env_pin(_metadata, &self->env, 0);
	for (i = 0; i < ARRAY_SIZE(files); i++) {
		hook.fd[i] = open(files[i].path, files[i].flags | O_CLOEXEC);
		ASSERT_LE(0, hook.fd[i]);
	}
	if (variant->by == BY_COMMIT) {
		fd = env_open(variant->name, variant->flags);
		ASSERT_LE(0, fd);
		EXPECT_EQ(4, pwrite(fd, "data", 4, 0));
		EXPECT_EQ(0, env_io_served(&self->env));
		env_close(_metadata, &self->env, fd);
	} else {
		hook.issuer.by = variant->by;
		try_files(_metadata);
		/* what has failed has taken no id */
		EXPECT_EQ(1, issue_open(&hook.issuer, hook.fd[GOOD]));
	}
}

FIXTURE(commit_refused)
{
	struct env env;
};

FIXTURE_SETUP(commit_refused)
{
	const char *missing = env_setup(_metadata, &self->env,
					ENV_NEED(BY_COMMIT));

	if (missing)
		SKIP(return, "%s", missing);
	close(env_file(_metadata, &self->env, "file"));
	hook._metadata = _metadata;
	hook.fd[GOOD] = openat(self->env.files.dir_fd, "file", O_RDWR);
	hook.fd[DIR] = self->env.files.dir_fd;
}

FIXTURE_TEARDOWN(commit_refused)
{
	close(hook.fd[GOOD]);
	env_stop(_metadata, &self->env);
	issuer_exit(&hook.issuer);
	env_teardown(_metadata, &self->env);
}

TEST_F(commit_refused, eopnotsupp_other_requests)
{
	static const __u32 opcodes[] = {
		FUSE_LOOKUP, FUSE_GETATTR, FUSE_SETATTR, FUSE_READ, FUSE_WRITE,
		FUSE_FSYNC, FUSE_FLUSH, FUSE_RELEASE, FUSE_OPENDIR,
	};
	struct stat st;
	unsigned int i;
	int fd;

	hook.try = try_no_open;
	start(_metadata, &self->env);
	env_pin(_metadata, &self->env, 0);
	close(open(ENV_MNT, O_RDONLY | O_DIRECTORY));
	fd = env_open("file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(ENV_FILE_SZ, st.st_size);
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_EQ(1, pwrite(fd, "x", 1, 0));
	EXPECT_EQ(0, ftruncate(fd, 10));
	fsync(fd);
	env_close(_metadata, &self->env, fd);
	for (i = 0; i < ARRAY_SIZE(opcodes); i++) {
		EXPECT_LT(0, ring_server_count(self->env.server, opcodes[i])) {
			TH_LOG("opcode %u", opcodes[i]);
		}
	}
}

TEST_F(commit_refused, by_the_connection)
{
	struct ring_server_cfg cfg = { .init_flags = FUSE_OVER_IO_URING };
	struct env *env = &self->env;

	env_start(_metadata, env, &cfg);
	ASSERT_EQ(0, issuer_init(&hook.issuer, NULL, env->server->dev_fd, 0));
	for (hook.issuer.by = BY_COMMAND; hook.issuer.by <= BY_COMMIT;
	     hook.issuer.by++)
		EXPECT_EQ(-EPERM, issue_open(&hook.issuer, hook.fd[GOOD]));
	issuer_exit(&hook.issuer);
	env_stop(_metadata, env);

	/* as COMMIT_AND_FETCH: there could be a queue with that qid */
	cfg.init_flags = ENV_INIT;
	cfg.no_queues = true;
	env_start(_metadata, env, &cfg);
	ASSERT_EQ(0, issuer_init(&hook.issuer, NULL, env->server->dev_fd, 0));
	hook.issuer.by = BY_COMMIT;
	EXPECT_EQ(-ENOTCONN, issue_open(&hook.issuer, hook.fd[GOOD]));
}

ENV_MAIN
