// SPDX-License-Identifier: GPL-2.0
/*
 * Replies to LOOKUP that bring the inode's backing file, for opens that bring
 * none.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <time.h>

#include "cap.h"
#include "commit_file.h"
#include "env.h"

#define OWN		"/tmp/own"
#define DROP_CACHES	"/proc/sys/vm/drop_caches"

/* Lookups of the same file, and inodes at a time */
#define REPEATS		10000
#define INODES		10000
/* Seconds for them, with KASAN and so on in an emulated machine */
#define MANY_TIMEOUT	300

/* What the hooks do; every test is a process of its own */
static struct {
	/* what LOOKUP and what opens bring, -1: nothing */
	int lookup_fd, open_fd;
	/* the commit is issued without this capability */
	int without;
	/* LOOKUP has a negative reply */
	bool negative;
	/* of what is there */
	unsigned int lookups;
	unsigned int refused;
	int err;
} hook = { .lookup_fd = -1, .open_fd = -1, .without = CAP_NONE };

static bool reply(struct ring_req *req)
{
	struct fuse_entry_out *entry = req->out;

	if (!req->queue)
		return true;
	if (req->in.opcode == FUSE_LOOKUP) {
		if (req->len > 0)
			hook.lookups++;
		req->fd = hook.lookup_fd;
		if (hook.negative) {
			memset(entry, 0, sizeof(*entry));
			req->len = sizeof(*entry);
		}
	} else if (req->in.opcode == FUSE_READDIRPLUS) {
		req->fd = hook.lookup_fd;
	} else if (req->open) {
		req->open->open_flags = FOPEN_PASSTHROUGH;
		req->fd = hook.open_fd;
	}
	return true;
}

static void sqe(struct ring_queue *queue, struct ring_req *req,
		struct io_uring_sqe *sqe)
{
	commit_file_sqe(queue, req, sqe);
	if (!req || req->fd < 0 || hook.without == CAP_NONE)
		return;
	/* inline: when that returns the command has run */
	capabilities_without(hook.without);
	io_uring_submit(&queue->ring);
	capabilities_without(CAP_NONE);
}

static void refused(struct ring_req *req, int err)
{
	hook.refused++;
	hook.err = err;
	commit_file_refused(req, err);
}

FIXTURE(commit_lookup)
{
	struct env env;
	struct ring_server_cfg cfg;
	/* the backing files "file" and "other" */
	int file, other;
	/* "held" is only open to write with what a LOOKUP brings */
	int held;
};

FIXTURE_SETUP(commit_lookup)
{
	const char *missing = env_setup(_metadata, &self->env,
					COMMIT_FILE_INIT);

	if (missing)
		SKIP(return, "%s", missing);
	self->cfg = (struct ring_server_cfg) {
		.init_flags = COMMIT_FILE_INIT,
		.hooks = {
			.reply = reply,
			.sqe = sqe,
			.refused = refused,
		},
	};
	self->file = env_file(_metadata, &self->env, "file");
	self->other = env_file(_metadata, &self->env, "other");
	close(env_file(_metadata, &self->env, "held"));
	self->held = openat(self->env.files.dir_fd, "held", O_RDONLY);
	ASSERT_LE(0, self->held);
	/* with all of it on one CPU ten thousand requests take less time */
	env_pin(_metadata, 0);
	/* what is looked up stays so */
	self->env.files.cache_secs = 1000;
	env_start(_metadata, &self->env, &self->cfg);
}

FIXTURE_TEARDOWN(commit_lookup)
{
	if (self->file) {
		close(self->file);
		close(self->other);
		close(self->held);
	}
	env_teardown(_metadata, &self->env);
}

/* Have a name looked up, which brings @back; returns 0 or an error */
static int look_up(struct env *env, const char *name, const char *back)
{
	char path[64];
	struct stat st;
	int err;

	snprintf(path, sizeof(path), ENV_MNT "/%s", name);
	hook.lookup_fd = openat(env->files.dir_fd, back, O_RDWR | O_CLOEXEC);
	err = stat(path, &st) ? -errno : 0;
	close(hook.lookup_fd);
	hook.lookup_fd = -1;
	return err;
}

/* Open and close as a client: 0 if it passes through to @back, else an error */
static int opens(struct __test_metadata *_metadata, struct env *env,
		 const char *name, const char *back)
{
	unsigned long served = env_io_served(env);
	unsigned long released = ring_server_count(env->server, FUSE_RELEASE);
	int fd = env_open(name, O_RDWR);

	if (fd >= 0) {
		EXPECT_EQ(1, env_is(fd, back));
		EXPECT_EQ(served, env_io_served(env));
		close(fd);
		fd = 0;
	}
	/* after -EIO, too */
	env_released(_metadata, env, released + 1);
	return fd;
}

/* 0 if nobody has the file open to write, or -EAGAIN */
static int lease(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK))
		return -errno;
	return fcntl(fd, F_SETLEASE, F_UNLCK);
}

/* Have the kernel forget what is not in use, until that many were */
static void drop_caches(struct __test_metadata *_metadata, struct env *env,
			unsigned long nr)
{
	time_t end = time(NULL) + RING_PATIENCE;
	int fd = open(DROP_CACHES, O_WRONLY);

	while (ring_server_count(env->server, FUSE_FORGET) +
	       ring_server_count(env->server, FUSE_BATCH_FORGET) < nr) {
		ASSERT_EQ(1, write(fd, "2", 1));
		ASSERT_GT(end, time(NULL));
	}
	close(fd);
}

TEST_F(commit_lookup, is_used_by_opens)
{
	int i;

	EXPECT_EQ(0, look_up(&self->env, "file", "file"));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(0, opens(_metadata, &self->env, "file", "file"));
	EXPECT_EQ(1, hook.lookups);
}

TEST_F(commit_lookup, o_path_is_enough)
{
	hook.lookup_fd = open(ENV_BACK "/file", O_PATH | O_CLOEXEC);
	EXPECT_EQ(0, opens(_metadata, &self->env, "file", "file"));
	close(hook.lookup_fd);
	EXPECT_EQ(0, opens(_metadata, &self->env, "file", "file"));
}

TEST_F(commit_lookup, without_one_opens_fail)
{
	EXPECT_EQ(-EIO, opens(_metadata, &self->env, "file", "file"));
}

TEST_F(commit_lookup, is_kept_until_forget)
{
	EXPECT_EQ(0, look_up(&self->env, "file", "held"));
	EXPECT_EQ(0, opens(_metadata, &self->env, "file", "held"));
	EXPECT_EQ(-EAGAIN, lease(self->held));
	drop_caches(_metadata, &self->env, 1);
	EXPECT_EQ(0, lease(self->held));

	EXPECT_EQ(-EIO, opens(_metadata, &self->env, "file", "held"));
	drop_caches(_metadata, &self->env, 2);
	EXPECT_EQ(0, look_up(&self->env, "file", "held"));
	EXPECT_EQ(0, opens(_metadata, &self->env, "file", "held"));
	EXPECT_EQ(3, hook.lookups);
}

/* Revalidation is a LOOKUP, too */
TEST_F(commit_lookup, is_replaced_for_opens_to_come)
{
	self->env.files.cache_secs = 0;
	EXPECT_EQ(0, look_up(&self->env, "file", "held"));
	/* a LOOKUP that brings none changes nothing */
	EXPECT_EQ(0, opens(_metadata, &self->env, "file", "held"));
	EXPECT_EQ(-EAGAIN, lease(self->held));
	EXPECT_EQ(0, look_up(&self->env, "file", "other"));
	EXPECT_EQ(0, lease(self->held));
	EXPECT_EQ(0, opens(_metadata, &self->env, "file", "other"));
	EXPECT_EQ(4, hook.lookups);
}

TEST_F(commit_lookup, is_not_replaced_while_open)
{
	int fd;

	self->env.files.cache_secs = 0;
	hook.lookup_fd = self->file;
	fd = env_open("file", O_RDWR);
	hook.lookup_fd = self->other;
	EXPECT_EQ(-EIO, opens(_metadata, &self->env, "file", "other"));
	EXPECT_EQ(1, env_is(fd, "file"));
	close(fd);
	env_released(_metadata, &self->env, 2);
	EXPECT_EQ(0, opens(_metadata, &self->env, "file", "other"));
	EXPECT_EQ(0, env_io_served(&self->env));
}

TEST_F(commit_lookup, another_path_of_the_inode_while_open)
{
	int fd, dir = self->env.files.dir_fd;

	self->env.files.cache_secs = 0;
	hook.lookup_fd = self->file;
	fd = env_open("file", O_RDWR);
	ASSERT_EQ(0, linkat(dir, "file", dir, "link", 0));
	hook.lookup_fd = openat(dir, "link", O_PATH | O_CLOEXEC);
	EXPECT_EQ(0, opens(_metadata, &self->env, "file", "file"));
	EXPECT_EQ(1, env_is(fd, "file"));
	close(hook.lookup_fd);
	close(fd);
}

/* A write takes the bit away without CAP_FSETID in the credentials for I/O */
static bool has_fsetid(struct __test_metadata *_metadata, int back)
{
	int fd = env_open("file", O_RDWR);
	struct stat st;

	EXPECT_EQ(0, fchmod(back, 04755));
	EXPECT_EQ(4, pwrite(fd, "data", 4, 1000));
	EXPECT_EQ(0, fstat(back, &st));
	EXPECT_EQ(0, fchmod(back, 0644));
	close(fd);
	return st.st_mode & S_ISUID;
}

TEST_F(commit_lookup, other_credentials_are_another_file)
{
	self->env.files.cache_secs = 0;
	hook.lookup_fd = self->file;
	EXPECT_TRUE(has_fsetid(_metadata, self->file));
	hook.without = CAP_FSETID;
	EXPECT_FALSE(has_fsetid(_metadata, self->file));
	hook.without = CAP_NONE;
	EXPECT_TRUE(has_fsetid(_metadata, self->file));
	EXPECT_EQ(0, env_io_served(&self->env));
}

/* The first is kept, and none of the others */
TEST_F_TIMEOUT(commit_lookup, same_file_ten_thousand_times, MANY_TIMEOUT)
{
	struct stat st;
	int i, err;

	self->env.files.cache_secs = 0;
	hook.lookup_fd = self->held;
	err = stat(ENV_MNT "/file", &st);
	hook.lookup_fd = open(ENV_BACK "/held", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, hook.lookup_fd);
	for (i = 0; i < REPEATS && !err; i++)
		err = stat(ENV_MNT "/file", &st);
	ASSERT_EQ(0, err);
	close(hook.lookup_fd);
	hook.lookup_fd = -1;
	EXPECT_EQ(REPEATS + 1, hook.lookups);
	EXPECT_EQ(0, lease(self->held));
	EXPECT_EQ(0, opens(_metadata, &self->env, "file", "held"));
}

TEST_F(commit_lookup, own_file_of_an_open_goes_first)
{
	hook.lookup_fd = self->file;
	hook.open_fd = self->other;
	EXPECT_EQ(0, opens(_metadata, &self->env, "file", "other"));
	hook.open_fd = -1;
	EXPECT_EQ(0, opens(_metadata, &self->env, "file", "file"));
}

TEST_F(commit_lookup, file_of_create_is_for_that_open)
{
	int fd;

	hook.negative = true;
	hook.open_fd = self->file;
	fd = env_open("new", O_RDWR | O_CREAT);
	EXPECT_EQ(1, env_is(fd, "file"));
	close(fd);
	env_released(_metadata, &self->env, 1);
	hook.open_fd = -1;
	EXPECT_EQ(-EIO, opens(_metadata, &self->env, "new", "file"));
}

/* What is no inode, or no regular file, keeps none */
TEST_F(commit_lookup, is_dropped_with_a_negative_reply)
{
	/* an error */
	EXPECT_EQ(-ENOENT, look_up(&self->env, "none", "held"));
	EXPECT_EQ(0, lease(self->held));
	/* and no node */
	hook.negative = true;
	EXPECT_EQ(-ENOENT, look_up(&self->env, "file", "held"));
	EXPECT_EQ(0, lease(self->held));
	EXPECT_EQ(0, hook.refused);
}

TEST_F(commit_lookup, is_dropped_by_a_directory)
{
	ASSERT_EQ(0, mkdirat(self->env.files.dir_fd, "dir", 0755));
	EXPECT_EQ(0, look_up(&self->env, "dir", "held"));
	EXPECT_EQ(0, lease(self->held));
	EXPECT_EQ(0, hook.refused);
}

/* The name is not that of the inode any more */
TEST_F(commit_lookup, is_dropped_when_revalidation_fails)
{
	struct stat st;

	self->env.files.cache_secs = 0;
	EXPECT_EQ(0, stat(ENV_MNT "/file", &st));
	hook.negative = true;
	EXPECT_EQ(-ENOENT, look_up(&self->env, "file", "held"));
	EXPECT_EQ(0, lease(self->held));
}

TEST_F(commit_lookup, is_refused)
{
	struct stat st;

	hook.lookup_fd = self->env.files.dir_fd;
	EXPECT_EQ(0, stat(ENV_MNT "/file", &st));
	EXPECT_EQ(-EISDIR, hook.err);
	hook.lookup_fd = self->file;
	hook.without = CAP_SYS_ADMIN;
	EXPECT_EQ(0, stat(ENV_MNT "/other", &st));
	EXPECT_EQ(-EPERM, hook.err);
	EXPECT_EQ(2, hook.refused);
	EXPECT_EQ(-EIO, opens(_metadata, &self->env, "file", "file"));
}

TEST_F(commit_lookup, not_with_readdirplus)
{
	DIR *dir;

	env_stop(_metadata, &self->env);
	self->cfg.init_flags |= FUSE_DO_READDIRPLUS;
	env_start(_metadata, &self->env, &self->cfg);
	hook.lookup_fd = self->file;
	dir = opendir(ENV_MNT);
	ASSERT_NE(NULL, dir);
	readdir(dir);
	closedir(dir);
	EXPECT_LT(0, ring_server_count(self->env.server, FUSE_READDIRPLUS));
	EXPECT_EQ(-EINVAL, hook.err);
}

/* From a file handle: a LOOKUP of "." in an inode that is not there any more */
TEST_F(commit_lookup, by_file_handle)
{
	union {
		struct file_handle h;
		char space[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} handle = { .h.handle_bytes = MAX_HANDLE_SZ };
	unsigned int before;
	int id, mnt, fd;

	env_stop(_metadata, &self->env);
	self->cfg.init_flags |= FUSE_EXPORT_SUPPORT;
	env_start(_metadata, &self->env, &self->cfg);
	ASSERT_EQ(0, name_to_handle_at(AT_FDCWD, ENV_MNT "/file", &handle.h,
				       &id, 0));
	drop_caches(_metadata, &self->env, 1);
	mnt = open(ENV_MNT, O_RDONLY | O_DIRECTORY);
	ASSERT_LE(0, mnt);
	before = hook.lookups;
	hook.lookup_fd = self->file;
	fd = open_by_handle_at(mnt, &handle.h, O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_LT(before, hook.lookups);
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
	close(mnt);
}

/* Any number is the name of a file */
static int handle_numbers(struct ring_req *req)
{
	struct fuse_entry_out *out = req->out;

	if (req->in.opcode != FUSE_LOOKUP)
		return files_handle(req);
	*out = (struct fuse_entry_out) {
		.nodeid = 1000 + atoi(req->data),
		.entry_valid = 1000,
		.attr_valid = 1000,
		.attr = {
			.ino = 1000 + atoi(req->data),
			.mode = S_IFREG | 0644,
			.nlink = 1,
		},
	};
	return sizeof(*out);
}

/* And what they have is free when umount() returns */
TEST_F_TIMEOUT(commit_lookup, umount_with_many, MANY_TIMEOUT)
{
	char path[64];
	struct stat st;
	int i;

	env_stop(_metadata, &self->env);
	self->cfg.handle = handle_numbers;
	env_start(_metadata, &self->env, &self->cfg);
	ASSERT_EQ(0, mkdir(OWN, 0755));
	ASSERT_EQ(0, mount("own", OWN, "tmpfs", 0, NULL));
	hook.lookup_fd = open(OWN "/file", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	ASSERT_LE(0, hook.lookup_fd);
	for (i = 0; i < INODES; i++) {
		snprintf(path, sizeof(path), ENV_MNT "/%d", i);
		ASSERT_EQ(0, stat(path, &st));
	}
	close(hook.lookup_fd);
	EXPECT_EQ(-1, umount(OWN));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(0, umount(ENV_MNT));
	EXPECT_EQ(0, umount(OWN));
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
