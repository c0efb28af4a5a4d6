// SPDX-License-Identifier: GPL-2.0
/*
 * Opens pass through to the backing file, whatever has passed that to the
 * kernel: a body for each rule, and a variant for each that it holds for. See
 * Documentation/filesystems/fuse/fuse-passthrough.rst.
 *
 * That I/O passes through is seen from the server: no READ and no WRITE comes.
 */
#define _GNU_SOURCE
#include "env.h"

#define BIND	"/tmp/bind"

/* The server passes files without this capability; every test is a process */
static int without = CAP_NONE;

static bool reply(struct ring_req *req)
{
	bool now;

	capabilities_without(without);
	now = files_reply(req);
	/* inline: it runs when it is submitted */
	if (without != CAP_NONE) {
		if (now)
			ring_req_commit(req);
		io_uring_submit(&req->queue->issuer.ring);
		now = false;
	}
	capabilities_without(CAP_NONE);
	return now;
}

FIXTURE(passthrough)
{
	struct env env;
	/* "file" in the mount, and the backing files "file" and "other" */
	struct ring_node *node;
	int file, other;
};

FIXTURE_VARIANT(passthrough)
{
	enum issue_by by;
};

FIXTURE_VARIANT_ADD(passthrough, ioctl) { BY_IOCTL };
FIXTURE_VARIANT_ADD(passthrough, command) { BY_COMMAND };
FIXTURE_VARIANT_ADD(passthrough, commit) { BY_COMMIT };

FIXTURE_SETUP(passthrough)
{
	struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.depth = 1,	/* a request closes what the last has passed */
		.hooks = FILES_HOOKS,
	};
	const char *missing = env_setup(_metadata, &self->env,
					ENV_NEED(variant->by));

	if (missing)
		SKIP(return, "%s", missing);
	self->env.files.pass = true;
	self->env.files.by = variant->by;
	cfg.hooks.reply = reply;
	self->file = env_file(_metadata, &self->env, "file");
	self->other = env_file(_metadata, &self->env, "other");
	self->node = files_node(&self->env.files, "file");
	ASSERT_NE(NULL, self->node);
	env_start(_metadata, &self->env, &cfg);
	env_pin(_metadata, &self->env, 0);
}

FIXTURE_TEARDOWN(passthrough)
{
	close(self->file);
	close(self->other);
	env_teardown(_metadata, &self->env);
}

/* Open "file" as a client; it has to pass through to the backing file @back */
static int open_file(struct __test_metadata *_metadata, struct env *env,
		     int flags, const char *back)
{
	unsigned long served = env_io_served(env);
	int fd = env_open("file", flags);

	EXPECT_TRUE(env_is(fd, back));
	EXPECT_EQ(served, env_io_served(env));
	return fd;
}

static void check_io(struct __test_metadata *_metadata, struct env *env, int fd,
		     int back)
{
	char *map;

	EXPECT_EQ(4, pwrite(fd, "data", 4, 100));
	EXPECT_TRUE(env_has(back, "data", 100));
	EXPECT_TRUE(env_has(fd, "data", 100));
	/* both are one page cache */
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_EQ(0, memcmp(map + 100, "data", 4));
	memcpy(map + 100, "mmap", 4);
	EXPECT_TRUE(env_has(back, "mmap", 100));
	munmap(map, 4096);
	EXPECT_EQ(0, fcntl(fd, F_SETFL, O_APPEND));
	EXPECT_EQ(0, ftruncate(fd, 200));
	EXPECT_EQ(6, write(fd, "append", 6));
	EXPECT_TRUE(env_has(back, "append", 200));
	EXPECT_EQ(206, lseek(fd, 0, SEEK_END));
	EXPECT_EQ(0, env_io_served(env));
}

/* Of all requests that open a file */
static void check_opens(struct __test_metadata *_metadata, struct env *env)
{
	int back = openat(env->files.dir_fd, "file", O_RDONLY);
	int fd = open_file(_metadata, env, O_RDWR, "file");

	check_io(_metadata, env, fd, back);
	close(fd);
	fd = env_open("file", O_WRONLY | O_TRUNC);
	EXPECT_EQ(0, lseek(back, 0, SEEK_END));
	EXPECT_EQ(5, write(fd, "again", 5));
	EXPECT_TRUE(env_has(back, "again", 0));
	close(fd);
	close(back);

	fd = env_open("new", O_RDWR | O_CREAT | O_EXCL);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, ring_server_count(env->server, FUSE_CREATE));
	back = openat(env->files.dir_fd, "new", O_RDONLY);
	check_io(_metadata, env, fd, back);
	close(fd);
	close(back);

	fd = env_open(".", O_RDWR | O_TMPFILE);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, ring_server_count(env->server, FUSE_TMPFILE));
	check_io(_metadata, env, fd, fd);
	close(fd);
	EXPECT_EQ(0, env->files.refused);
}

TEST_F(passthrough, opens_pass_through)
{
	check_opens(_metadata, &self->env);
}

/* How it is open is up to the client, and so is how long it has a name */
TEST_F(passthrough, o_path_read_only_or_deleted)
{
	static const int flags[] = { O_PATH, O_RDONLY, O_WRONLY };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		int fd = openat(self->env.files.dir_fd, "file", flags[i]);

		ASSERT_LE(0, fd);
		self->node->pass_fd = fd;
		if (i == 2)
			ASSERT_EQ(0, unlink(ENV_BACK "/file"));
		fd = open_file(_metadata, &self->env, O_RDWR, "file");
		EXPECT_EQ(4, pwrite(fd, "rdwr", 4, 100 * i + 100));
		EXPECT_TRUE(env_has(self->file, "rdwr", 100 * i + 100));
		env_close(_metadata, &self->env, fd);
		close(self->node->pass_fd);
	}
	EXPECT_EQ(0, env_io_served(&self->env));
}

TEST_F(passthrough, another_inode_meanwhile)
{
	int fd = open_file(_metadata, &self->env, O_RDWR, "file");

	self->node->pass_fd = self->other;
	env_open_fails(_metadata, &self->env, "file", O_RDWR);
	/* what was refused has not hurt the first */
	EXPECT_TRUE(env_is(fd, "file"));
	env_close(_metadata, &self->env, fd);
	/* free for another one */
	fd = open_file(_metadata, &self->env, O_RDWR, "other");
	close(fd);
}

TEST_F(passthrough, without_a_file_meanwhile)
{
	int fd = open_file(_metadata, &self->env, O_RDWR, "file");

	self->node->pass_fd = -1;
	env_open_fails(_metadata, &self->env, "file", O_RDWR);
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

/* Passed by the same or another, and through another name */
TEST_F(passthrough, same_inode_meanwhile)
{
	int dir = self->env.files.dir_fd, fd, link;
	enum issue_by by;

	ASSERT_EQ(0, linkat(dir, "file", dir, "link", 0));
	link = openat(dir, "link", O_RDWR);
	fd = open_file(_metadata, &self->env, O_RDWR, "file");
	for (by = BY_COMMAND; by <= BY_COMMIT; by++) {
		int again;

		if (ENV_NEED(by) & ~self->env.server->offered)
			continue;
		self->env.files.by = by;
		self->node->pass_fd = link;
		again = open_file(_metadata, &self->env, O_RDWR, "file");
		self->node->pass_fd = self->other;
		env_open_fails(_metadata, &self->env, "file", O_RDWR);
		/* from the first to the last, there is always one */
		env_close(_metadata, &self->env, fd);
		EXPECT_TRUE(env_is(again, "file"));
		fd = again;
	}
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
	close(link);
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

TEST_F(passthrough, credentials_of_each_open)
{
	int with, less;

	with = open_file(_metadata, &self->env, O_RDWR, "file");
	without = CAP_FSETID;
	less = open_file(_metadata, &self->env, O_RDWR, "file");
	EXPECT_FALSE(has_fsetid(_metadata, self->file, less));
	EXPECT_TRUE(has_fsetid(_metadata, self->file, with));
	/* and not those of the client */
	capabilities_without(CAP_FSETID);
	EXPECT_TRUE(has_fsetid(_metadata, self->file, with));
	capabilities_without(CAP_NONE);
	EXPECT_FALSE(has_fsetid(_metadata, self->file, less));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(with);
	close(less);
}

/*
 * The I/O of each open is on its own path, and a path of a read-only mount is
 * not written to. The file of the first open is kept until the last one is
 * closed, which a mount that is busy tells.
 */
TEST_F(passthrough, path_of_each_open)
{
	int first, second;

	ASSERT_EQ(0, mkdir(BIND, 0755));
	ASSERT_EQ(0, mount(ENV_BACK, BIND, NULL, MS_BIND, NULL));
	ASSERT_EQ(0, mount(NULL, BIND, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY,
			   NULL));
	self->node->pass_fd = open(BIND "/file", O_PATH | O_CLOEXEC);
	/* which error that is, is not the rule here */
	EXPECT_GT(0, env_open("file", O_RDWR));
	env_released(_metadata, &self->env, 1);
	first = open_file(_metadata, &self->env, O_RDONLY, "file");
	close(self->node->pass_fd);
	self->node->pass_fd = self->file;
	second = open_file(_metadata, &self->env, O_RDWR, "file");
	EXPECT_EQ(4, pwrite(second, "data", 4, 100));
	env_close(_metadata, &self->env, first);
	EXPECT_EQ(-1, umount(BIND));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_TRUE(env_is(second, "file"));
	env_close(_metadata, &self->env, second);
	EXPECT_EQ(0, umount(BIND));
}

FIXTURE(manner)
{
	struct env env;
};

FIXTURE_VARIANT(manner)
{
	struct issue_how how;
	enum ring_pool pool;
};

#include "variants.h"

FIXTURE_SETUP(manner)
{
	const char *missing = issue_missing(&variant->how);

	if (!missing)
		missing = env_setup(_metadata, &self->env,
				    ENV_NEED(BY_COMMAND));
	if (missing)
		SKIP(return, "%s", missing);
	close(env_file(_metadata, &self->env, "file"));
}

FIXTURE_TEARDOWN(manner)
{
	env_teardown(_metadata, &self->env);
}

static void check_manner(struct __test_metadata *_metadata,
			 struct _test_data_manner *self,
			 const struct _fixture_variant_manner *variant)
{
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.how = variant->how,
		.pool = variant->pool,
		.hooks = FILES_HOOKS,
	};

	self->env.files.pass = true;
	env_start(_metadata, &self->env, &cfg);
	check_opens(_metadata, &self->env);
}

TEST_F(manner, command)
{
	self->env.files.by = BY_COMMAND;
	check_manner(_metadata, self, variant);
}

TEST_F(manner, commit)
{
	self->env.files.by = BY_COMMIT;
	check_manner(_metadata, self, variant);
}

ENV_MAIN
