// SPDX-License-Identifier: GPL-2.0
/*
 * Replies that bring a file and are refused: nothing has happened then, and the
 * request is still the server's to answer.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <stddef.h>

#include "cap.h"
#include "commit_file.h"
#include "env.h"
#include "user_ns.h"
#include "wait.h"

/* Ring entries of the queue, it is only one, as the client stays on a CPU */
#define DEPTH		2

/* What an fd is */
enum what {
	FILE_,
	OTHER,
	DIR_,
	DIR_O_PATH,
	FIFO,
	SYMLINK,
	DEVICE,
	/* opened when there is one */
	OF_THE_MOUNT,
	NEGATIVE,
	CLOSED,
	NR_WHAT,
};

/* A commit that is refused */
struct row {
	const char *name;
	int err;
	/* of backing.map.fd */
	enum what what;
	/* without CAP_SYS_ADMIN: the thread, or a personality that it has */
	bool incapable, personality;
	/* what else is wrong in the command, otherwise right */
	struct fuse_uring_cmd_req xor;
};

static const struct row rows[] = {
	{ "capability", -EPERM, .incapable = true },
	{ "personality", -EPERM, .personality = true },
	{ "negative", -EBADF, NEGATIVE },
	{ "closed", -EBADF, CLOSED },
	{ "directory", -EISDIR, DIR_ },
	{ "directory, O_PATH", -EISDIR, DIR_O_PATH },
	{ "fifo", -EINVAL, FIFO },
	{ "symlink", -EINVAL, SYMLINK },
	{ "device", -EINVAL, DEVICE },
	{ "file of the mount", -ELOOP, OF_THE_MOUNT },
	{ "commit_id", -ENOENT, .xor.commit_id = 1 },
	{ "qid", -EINVAL, .xor.qid = 1 << 15 },
	{ "only other flags", -EINVAL, .xor.flags = FUSE_URING_COMMIT_BACKING |
						    1 << 1 },

	/* The order: queue, flags, reserved fields, */
	{ "qid, capability", -EINVAL, .incapable = true, .xor.qid = 1 << 15 },
	{ "qid, closed", -EINVAL, CLOSED, .xor.qid = 1 << 15 },
	{ "flags, capability", -EINVAL, .incapable = true, .xor.flags = 2 },
	{ "flags, closed", -EINVAL, CLOSED, .xor.flags = 2 },
	{ "flags, commit_id", -EINVAL, .xor.flags = 2, .xor.commit_id = 1 },
	{ "id, capability", -EINVAL, .incapable = true, .xor.backing.id = 1 },
	{ "id, closed", -EINVAL, CLOSED, .xor.backing.id = 1 },
	{ "reserved, capability", -EINVAL, .incapable = true,
	  .xor.backing.reserved = 1 },
	{ "reserved, closed", -EINVAL, CLOSED, .xor.backing.reserved = 1 },
	/* then as BACKING_OPEN: capability, map, file, */
	{ "capability, map.flags", -EPERM, .incapable = true,
	  .xor.backing.map.flags = 1 },
	{ "capability, map.padding", -EPERM, .incapable = true,
	  .xor.backing.map.padding = 1 },
	{ "capability, closed", -EPERM, CLOSED, .incapable = true },
	{ "capability, directory", -EPERM, DIR_, .incapable = true },
	{ "map.flags, closed", -EINVAL, CLOSED, .xor.backing.map.flags = 1 },
	{ "map.padding, directory", -EINVAL, DIR_,
	  .xor.backing.map.padding = 1 },
	/* and the request at last */
	{ "capability, commit_id", -EPERM, .incapable = true,
	  .xor.commit_id = 1 },
	{ "map.flags, commit_id", -EINVAL, .xor.backing.map.flags = 1,
	  .xor.commit_id = 1 },
	{ "closed, commit_id", -EBADF, CLOSED, .xor.commit_id = 1 },
	{ "directory, commit_id", -EISDIR, DIR_, .xor.commit_id = 1 },
	{ "file of the mount, commit_id", -ELOOP, OF_THE_MOUNT,
	  .xor.commit_id = 1 },
};

/* For a request that takes no file */
static const struct row no_file_rows[] = {
	{ "takes none", -EINVAL },
	{ "closed", -EBADF, CLOSED },
	{ "capability", -EPERM, .incapable = true },
	{ "commit_id", -ENOENT, .xor.commit_id = 1 },
};

/* How a request is answered that was refused with all of the rows */
enum answer {
	SAME,
	OTHER_FILE,
	ERROR,
};

/* Of the request in a ring entry */
struct seen {
	struct ring_ent *ent;
	/* which one it is to be refused with */
	unsigned int row;
	/* as when it was committed first */
	struct fuse_uring_req_header hdr;
	char payload[RING_PAGE];
};

/* What the hooks do and see; every test is a process of its own */
static struct {
	int fd[NR_WHAT];
	/* a bit for each opcode that is to bring a file */
	__u64 bring;
	const struct row *rows;
	unsigned int nr;
	enum answer answer;
	/* without CAP_SYS_ADMIN, and with it; the same on each ring */
	int incapable, capable;
	/* changes every commit before all that */
	void (*sqe)(struct io_uring_sqe *sqe);

	struct seen seen[DEPTH];
	unsigned int served, refused;
	/* a RELEASE or RELEASEDIR was refused with all of the rows */
	sem_t release;
	/* the first that was refused with another error */
	const struct row *wrong;
	int wrong_err;
	unsigned int changed;
} hook;

static struct fuse_uring_req_header *header(struct ring_req *req)
{
	return (void *)((char *)req->op -
			offsetof(struct fuse_uring_req_header, op_in));
}

static void setup(struct ring_queue *queue)
{
	capabilities_without(CAP_SYS_ADMIN);
	hook.incapable = io_uring_register_personality(&queue->ring);
	capabilities_without(CAP_NONE);
	hook.capable = io_uring_register_personality(&queue->ring);
}

static struct seen *seen_of(struct ring_req *req)
{
	struct seen *seen = hook.seen;

	while (seen->ent && seen->ent != req->ent)
		seen++;
	seen->ent = req->ent;
	return seen;
}

static bool reply(struct ring_req *req)
{
	if (!req->queue)
		return true;
	if (hook.bring & 1ULL << req->in.opcode) {
		req->fd = hook.fd[FILE_];
		hook.served++;
		seen_of(req)->row = 0;
	}
	return true;
}

static void sqe(struct ring_queue *queue, struct ring_req *req,
		struct io_uring_sqe *sqe)
{
	struct fuse_uring_cmd_req *cmd = fuse_cmd_req(sqe);
	const struct row *row;
	struct seen *seen;
	size_t i;

	commit_file_sqe(queue, req, sqe);
	if (req && hook.sqe)
		hook.sqe(sqe);
	if (!req || req->fd < 0)
		return;
	seen = seen_of(req);
	if (seen->row == hook.nr)
		return;
	if (!seen->row) {
		seen->hdr = *header(req);
		memcpy(seen->payload, req->out, RING_PAGE);
	}
	row = &hook.rows[seen->row];
	cmd->backing.map.fd = hook.fd[row->what];
	for (i = 0; i < sizeof(*cmd); i++)
		((char *)cmd)[i] ^= ((const char *)&row->xor)[i];
	if (row->personality)
		sqe->personality = hook.incapable;
	if (row->incapable) {
		/* inline: when that returns the command has run */
		capabilities_without(CAP_SYS_ADMIN);
		io_uring_submit(&queue->ring);
		capabilities_without(CAP_NONE);
	}
}

static void refused(struct ring_req *req, int err)
{
	static const struct row none = { "what is right" };
	struct seen *seen = seen_of(req);
	bool right = seen->row == hook.nr;
	const struct row *row = right ? &none : &hook.rows[seen->row];

	hook.refused++;
	if (err != row->err && !hook.wrong) {
		hook.wrong = row;
		hook.wrong_err = err;
	}
	if (right) {
		/* the request is lost, the client would wait for ever */
		umount2(ENV_MNT, MNT_FORCE);
		return;
	}
	if (memcmp(&seen->hdr, header(req), sizeof(seen->hdr)) ||
	    memcmp(seen->payload, req->out, RING_PAGE))
		hook.changed++;
	if (++seen->row == hook.nr) {
		req->fd = hook.answer == OTHER_FILE ? hook.fd[OTHER] : -1;
		if (hook.answer == ERROR)
			req->len = -EDOM;
		if (req->in.opcode == FUSE_RELEASE ||
		    req->in.opcode == FUSE_RELEASEDIR)
			sem_post(&hook.release);
	}
	ring_req_commit(req);
}

static const struct ring_hooks hooks = {
	.setup = setup,
	.reply = reply,
	.sqe = sqe,
	.refused = refused,
};

/* How they are opened; the others are made by hand */
static const struct {
	const char *path;
	int flags;
} files[NR_WHAT] = {
	[FILE_] = { ENV_BACK "/file", O_RDWR },
	[OTHER] = { ENV_BACK "/other", O_RDWR },
	[DIR_] = { ENV_BACK, O_RDONLY },
	[DIR_O_PATH] = { ENV_BACK, O_PATH },
	[FIFO] = { ENV_BACK "/fifo", O_RDWR },
	[SYMLINK] = { ENV_BACK "/symlink", O_PATH | O_NOFOLLOW },
	[DEVICE] = { "/dev/null", O_RDWR },
	[OF_THE_MOUNT] = { ENV_MNT "/other", O_PATH },
};

static void open_file(struct __test_metadata *_metadata, enum what what)
{
	hook.fd[what] = open(files[what].path, files[what].flags | O_CLOEXEC);
	ASSERT_LE(0, hook.fd[what]);
}

static const char *setup_files(struct __test_metadata *_metadata,
			       struct env *env)
{
	const char *missing = env_setup(_metadata, env, COMMIT_FILE_INIT);
	enum what what;

	if (missing)
		return missing;
	ASSERT_EQ(0, mkfifo(ENV_BACK "/fifo", 0644));
	ASSERT_EQ(0, symlink("file", ENV_BACK "/symlink"));
	close(env_file(_metadata, env, "file"));
	close(env_file(_metadata, env, "other"));
	for (what = 0; what < OF_THE_MOUNT; what++)
		open_file(_metadata, what);
	hook.fd[NEGATIVE] = -1;
	/* no test has as many */
	hook.fd[CLOSED] = 1000;
	return NULL;
}

static void start(struct __test_metadata *_metadata, struct env *env,
		  __u64 init_flags)
{
	const struct ring_server_cfg cfg = {
		.init_flags = init_flags,
		.hooks = hooks,
	};

	env_start(_metadata, env, &cfg);
	env_pin(_metadata, 0);
	open_file(_metadata, OF_THE_MOUNT);
	hook.bring = 1ULL << FUSE_OPEN | 1ULL << FUSE_CREATE |
		     1ULL << FUSE_TMPFILE;
}

/* Before the teardown, which wants to unmount */
static void close_files(void)
{
	enum what what;

	for (what = 0; what <= OF_THE_MOUNT; what++) {
		if (hook.fd[what] > 0)
			close(hook.fd[what]);
	}
}

/* All that bring a file were refused with each of the rows */
static void expect_refused(struct __test_metadata *_metadata)
{
	unsigned int row = hook.nr ? hook.refused % hook.nr : 0;

	EXPECT_LT(0, hook.served);
	EXPECT_EQ(hook.served * hook.nr, hook.refused) {
		if (hook.nr)
			TH_LOG("not refused: %s", hook.rows[row].name);
	}
	EXPECT_EQ(NULL, hook.wrong) {
		TH_LOG("%s: %d", hook.wrong->name, hook.wrong_err);
	}
	EXPECT_EQ(0, hook.changed);
}

FIXTURE(refused)
{
	struct env env;
};

FIXTURE_VARIANT(refused)
{
	const char *name;
	int flags;
};

FIXTURE_VARIANT_ADD(refused, open) {
	"file", O_RDWR
};

FIXTURE_VARIANT_ADD(refused, create) {
	"new", O_RDWR | O_CREAT
};

FIXTURE_VARIANT_ADD(refused, tmpfile) {
	".", O_RDWR | O_TMPFILE
};

FIXTURE_SETUP(refused)
{
	const char *missing = setup_files(_metadata, &self->env);

	if (missing)
		SKIP(return, "%s", missing);
	start(_metadata, &self->env, COMMIT_FILE_INIT);
	hook.rows = rows;
	hook.nr = ARRAY_SIZE(rows);
}

FIXTURE_TEARDOWN(refused)
{
	close_files();
	env_teardown(_metadata, &self->env);
}

TEST_F(refused, then_without_the_file)
{
	int fd = env_open(variant->name, variant->flags);

	expect_refused(_metadata);
	ASSERT_LE(0, fd);
	EXPECT_EQ(4, pwrite(fd, "data", 4, 0));
	EXPECT_LT(0, env_io_served(&self->env));
	close(fd);
}

TEST_F(refused, then_with_another_file)
{
	int fd;

	hook.answer = OTHER_FILE;
	fd = env_open(variant->name, variant->flags);
	expect_refused(_metadata);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, env_is(fd, "other"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

TEST_F(refused, then_with_an_error)
{
	hook.answer = ERROR;
	EXPECT_EQ(-EDOM, env_open(variant->name, variant->flags));
	expect_refused(_metadata);
	EXPECT_EQ(0, ring_server_count(self->env.server, FUSE_RELEASE));
}

/* Every bit of the flags and of what has to be 0 */
TEST_F(refused, bit)
{
	static struct row bits[320];
	struct row *row = bits;
	int i, fd;

	for (i = 0; i < 64; i++) {
		if (1ULL << i != FUSE_URING_COMMIT_BACKING)
			*row++ = (struct row) { "flags", -EINVAL,
						.xor.flags = 1ULL << i };
		*row++ = (struct row) { "map.padding", -EINVAL,
					.xor.backing.map.padding = 1ULL << i };
	}
	for (i = 0; i < 32; i++) {
		*row++ = (struct row) { "map.flags", -EINVAL,
					.xor.backing.map.flags = 1U << i };
		*row++ = (struct row) { "id", -EINVAL,
					.xor.backing.id = 1U << i };
		*row++ = (struct row) { "reserved", -EINVAL,
					.xor.backing.reserved = 1U << i };
	}
	hook.rows = bits;
	hook.nr = row - bits;
	fd = env_open(variant->name, variant->flags);
	expect_refused(_metadata);
	ASSERT_LE(0, fd);
	close(fd);
}

FIXTURE(commit_error)
{
	struct env env;
};

FIXTURE_SETUP(commit_error)
{
	const char *missing = setup_files(_metadata, &self->env);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(commit_error)
{
	close_files();
	env_teardown(_metadata, &self->env);
}

TEST_F(commit_error, requests_that_take_no_file)
{
	static const __u32 opcodes[] = {
		FUSE_GETATTR, FUSE_SETATTR, FUSE_MKNOD, FUSE_UNLINK, FUSE_READ,
		FUSE_WRITE, FUSE_FSYNC, FUSE_FLUSH, FUSE_RELEASE, FUSE_OPENDIR,
		FUSE_READDIR, FUSE_RELEASEDIR,
	};
	struct stat st;
	unsigned int i;
	DIR *dir;
	int fd;

	ASSERT_EQ(0, sem_init(&hook.release, 0, 0));
	start(_metadata, &self->env, COMMIT_FILE_INIT);
	hook.bring = 0;
	for (i = 0; i < ARRAY_SIZE(opcodes); i++)
		hook.bring |= 1ULL << opcodes[i];
	hook.rows = no_file_rows;
	hook.nr = ARRAY_SIZE(no_file_rows);

	fd = env_open("file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(ENV_FILE_SZ, st.st_size);
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_EQ(1, pwrite(fd, "x", 1, 0));
	EXPECT_EQ(0, fsync(fd));
	EXPECT_EQ(0, ftruncate(fd, 10));
	close(fd);
	ASSERT_EQ(0, wait_for(&hook.release));
	dir = opendir(ENV_MNT);
	ASSERT_NE(NULL, dir);
	EXPECT_EQ(NULL, readdir(dir));
	closedir(dir);
	ASSERT_EQ(0, wait_for(&hook.release));
	EXPECT_EQ(0, mknod(ENV_MNT "/node", S_IFREG | 0644, 0));
	EXPECT_EQ(0, unlink(ENV_MNT "/node"));
	for (i = 0; i < ARRAY_SIZE(opcodes); i++) {
		EXPECT_LT(0, ring_server_count(self->env.server, opcodes[i])) {
			TH_LOG("opcode %u", opcodes[i]);
		}
	}
	expect_refused(_metadata);
}

TEST_F(commit_error, without_fuse_passthrough)
{
	static const struct row row = { "not negotiated", -EPERM };
	int fd;

	start(_metadata, &self->env, COMMIT_FILE_INIT & ~FUSE_PASSTHROUGH);
	hook.rows = &row;
	hook.nr = 1;
	fd = env_open("file", O_RDONLY);
	expect_refused(_metadata);
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_LT(0, env_io_served(&self->env));
	close(fd);
}

/* Its root can mount and serve, but registers no files */
TEST_F(commit_error, user_namespace)
{
	static const struct row row = { "user namespace", -EPERM };
	int fd, status;
	pid_t pid;

	hook.rows = &row;
	hook.nr = 1;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (user_ns_enter())
			_exit(KSFT_SKIP);
		start(_metadata, &self->env, COMMIT_FILE_INIT);
		fd = env_open("file", O_RDONLY);
		expect_refused(_metadata);
		EXPECT_EQ(1, env_is(fd, "file"));
		EXPECT_LT(0, env_io_served(&self->env));
		close(fd);
		close(hook.fd[OF_THE_MOUNT]);
		env_stop(_metadata, &self->env);
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	if (WEXITSTATUS(status) == KSFT_SKIP)
		SKIP(return, "no user namespaces");
	EXPECT_EQ(0, status);
}

static void as_capable(struct io_uring_sqe *sqe)
{
	sqe->personality = hook.capable;
	capabilities_without(CAP_SYS_ADMIN);
}

TEST_F(commit_error, personality_with_the_capability)
{
	int fd;

	hook.sqe = as_capable;
	start(_metadata, &self->env, COMMIT_FILE_INIT);
	fd = env_open("file", O_RDONLY);
	expect_refused(_metadata);
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

/* Flags that were not negotiated, and what is in an SQE of a careless server */
static void anything(struct io_uring_sqe *sqe)
{
	memset(&fuse_cmd_req(sqe)->backing, 0xff,
	       sizeof(fuse_cmd_req(sqe)->backing));
	fuse_cmd_req(sqe)->flags = ~0ULL;
}

static void no_flag(struct io_uring_sqe *sqe)
{
	anything(sqe);
	fuse_cmd_req(sqe)->flags = 0;
}

static void opens_as_before(struct __test_metadata *_metadata, struct env *env)
{
	int fd = env_open("file", O_RDWR);

	ASSERT_LE(0, fd);
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_EQ(1, pwrite(fd, "x", 1, 0));
	EXPECT_LT(1, env_io_served(env));
	close(fd);
	fd = env_open("new", O_RDWR | O_CREAT);
	ASSERT_LE(0, fd);
	close(fd);
	EXPECT_EQ(0, ring_server_wait(env->server, FUSE_RELEASE, 2));
	EXPECT_EQ(0, hook.refused);
}

TEST_F(commit_error, not_negotiated_nothing_is_looked_at)
{
	hook.sqe = anything;
	start(_metadata, &self->env, ENV_INIT);
	opens_as_before(_metadata, &self->env);
}

TEST_F(commit_error, without_the_flag_the_file_is_not_looked_at)
{
	hook.sqe = no_flag;
	start(_metadata, &self->env, COMMIT_FILE_INIT);
	hook.bring = 0;
	opens_as_before(_metadata, &self->env);
}

FIXTURE(offered)
{
	struct env env;
};

FIXTURE_SETUP(offered)
{
	const char *missing = env_setup(_metadata, &self->env,
					FUSE_OVER_IO_URING);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(offered)
{
	env_teardown(_metadata, &self->env);
}

static __u64 offered(struct __test_metadata *_metadata, struct env *env)
{
	const struct ring_server_cfg cfg = { .no_queues = true };
	__u64 flags;

	env_start(_metadata, env, &cfg);
	flags = env->server->offered;
	env_stop(_metadata, env);
	return flags & (FUSE_OVER_IO_URING | FUSE_PASSTHROUGH |
			FUSE_HAS_IO_URING_BACKING | FUSE_COMMIT_BACKING);
}

TEST_F(offered, with_the_commands)
{
	if (!(offered(_metadata, &self->env) & FUSE_COMMIT_BACKING))
		SKIP(return, "no FUSE_COMMIT_BACKING");
	EXPECT_EQ(COMMIT_FILE_INIT | FUSE_HAS_IO_URING_BACKING,
		  offered(_metadata, &self->env));
	ASSERT_EQ(0, enable_uring(false));
	EXPECT_EQ(FUSE_PASSTHROUGH, offered(_metadata, &self->env));
	EXPECT_EQ(0, enable_uring(true));
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
