// SPDX-License-Identifier: GPL-2.0
/*
 * Passthrough to backing files that are registered with the ioctls, see
 * Documentation/filesystems/fuse/fuse-passthrough.rst.
 *
 * That I/O passes through is seen from the server: no READ and no WRITE comes.
 */
#define _GNU_SOURCE
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "env.h"
#include "user_ns.h"

static int backing_open(struct ring_server *server, int fd)
{
	struct fuse_backing_map map = { .fd = fd };
	int id = ioctl(server->dev_fd, FUSE_DEV_IOC_BACKING_OPEN, &map);

	return id < 0 ? -errno : id;
}

static int backing_close(struct ring_server *server, __u32 id)
{
	return ioctl(server->dev_fd, FUSE_DEV_IOC_BACKING_CLOSE, &id) ? -errno : 0;
}

/* Does the file have @data at @off? */
static bool has(int fd, const void *data, ssize_t len, off_t off)
{
	char buf[ENV_FILE_SZ];

	return pread(fd, buf, len, off) == len && !memcmp(buf, data, len);
}

/* A file that the server makes is registered before the answer goes out */
static bool register_new(struct ring_req *req)
{
	if (req->open && req->in.opcode != FUSE_OPEN) {
		req->open->open_flags = FOPEN_PASSTHROUGH;
		req->open->backing_id = backing_open(req->server, req->node->fd);
	}
	return true;
}

FIXTURE(passthrough)
{
	struct env env;
	/* "file" in the mount, in the backing directory, and as registered */
	struct ring_node *node;
	int back;
	int id;
};

FIXTURE_SETUP(passthrough)
{
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.hooks.reply = register_new,
	};
	const char *missing = env_setup(_metadata, &self->env, ENV_INIT);

	if (missing)
		SKIP(return, "%s", missing);
	env_start(_metadata, &self->env, &cfg);
	env_pin(_metadata, 0);
	self->back = env_file(_metadata, &self->env, "file");
	self->node = files_node(&self->env.files, "file");
	ASSERT_NE(NULL, self->node);
	self->id = backing_open(self->env.server, self->back);
	ASSERT_LT(0, self->id);
	self->node->backing_id = self->id;
}

FIXTURE_TEARDOWN(passthrough)
{
	close(self->back);
	env_teardown(_metadata, &self->env);
}

TEST_F(passthrough, read_write)
{
	char a[ENV_FILE_SZ], b[ENV_FILE_SZ];
	struct iovec iov[2] = { { a, 1000 }, { a + 1000, 5000 } };
	int fd = env_open("file", O_RDWR);

	ASSERT_EQ(ENV_FILE_SZ, pread(self->back, b, ENV_FILE_SZ, 0));
	EXPECT_EQ(ENV_FILE_SZ, read(fd, a, sizeof(a)));
	EXPECT_EQ(0, memcmp(a, b, ENV_FILE_SZ));
	EXPECT_EQ(0, read(fd, a, 1));
	EXPECT_EQ(6000, preadv(fd, iov, 2, 777));
	EXPECT_EQ(0, memcmp(a, b + 777, 6000));

	EXPECT_EQ(10, pwrite(fd, "0123456789", 10, 4090));
	EXPECT_TRUE(has(self->back, "0123456789", 10, 4090));
	EXPECT_EQ(6000, pwritev(fd, iov, 2, 50));
	EXPECT_TRUE(has(self->back, a, 6000, 50));
	/* past the end, which moves for clients, too */
	EXPECT_EQ(3, pwrite(fd, "end", 3, ENV_FILE_SZ));
	EXPECT_TRUE(has(self->back, "end", 3, ENV_FILE_SZ));
	EXPECT_EQ(ENV_FILE_SZ + 3, lseek(fd, 0, SEEK_END));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

TEST_F(passthrough, splice)
{
	char a[4096];
	int fd, p[2];
	loff_t off = 5000;

	fd = env_open("file", O_RDWR);
	ASSERT_EQ(0, pipe(p));
	EXPECT_EQ(4096, splice(fd, &off, p[1], NULL, 4096, 0));
	EXPECT_EQ(4096, read(p[0], a, 4096));
	EXPECT_TRUE(has(self->back, a, 4096, 5000));

	memset(a, 'x', 4096);
	EXPECT_EQ(4096, write(p[1], a, 4096));
	off = 300;
	EXPECT_EQ(4096, splice(p[0], NULL, fd, &off, 4096, 0));
	EXPECT_TRUE(has(self->back, a, 4096, 300));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

TEST_F(passthrough, mmap)
{
	int fd = env_open("file", O_RDWR);
	char *map;

	map = mmap(NULL, ENV_FILE_SZ, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_TRUE(has(self->back, map, ENV_FILE_SZ, 0));
	/* both are one page cache */
	memcpy(map + 4000, "mapped", 6);
	EXPECT_TRUE(has(self->back, "mapped", 6, 4000));
	EXPECT_EQ(3, pwrite(self->back, "raw", 3, 8000));
	EXPECT_EQ(0, memcmp(map + 8000, "raw", 3));
	EXPECT_EQ(0, env_io_served(&self->env));
	munmap(map, ENV_FILE_SZ);
	close(fd);
}

TEST_F(passthrough, append_and_truncate)
{
	struct stat st;
	int fd = env_open("file", O_RDWR | O_APPEND);

	EXPECT_EQ(4, write(fd, "tail", 4));
	EXPECT_TRUE(has(self->back, "tail", 4, ENV_FILE_SZ));
	EXPECT_EQ(0, ftruncate(fd, 100));
	EXPECT_EQ(4, write(fd, "more", 4));
	EXPECT_TRUE(has(self->back, "more", 4, 100));
	close(fd);

	fd = env_open("file", O_RDWR | O_TRUNC);
	EXPECT_EQ(0, fstat(self->back, &st));
	EXPECT_EQ(0, st.st_size);
	EXPECT_EQ(5, write(fd, "again", 5));
	EXPECT_TRUE(has(self->back, "again", 5, 0));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

TEST_F(passthrough, o_direct)
{
	char *buf = aligned_alloc(4096, 4096);
	int fd = openat(self->env.files.dir_fd, "file", O_RDONLY | O_DIRECT);

	if (fd < 0)
		SKIP(return, "tmpfs has no O_DIRECT");
	close(fd);
	ASSERT_NE(NULL, buf);
	fd = env_open("file", O_RDWR | O_DIRECT);
	EXPECT_EQ(4096, pread(fd, buf, 4096, 4096));
	EXPECT_TRUE(has(self->back, buf, 4096, 4096));
	memset(buf, 'd', 4096);
	EXPECT_EQ(4096, pwrite(fd, buf, 4096, 0));
	EXPECT_TRUE(has(self->back, buf, 4096, 0));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
	free(buf);
}

TEST_F(passthrough, create_and_tmpfile)
{
	int fd = env_open("new", O_RDWR | O_CREAT | O_EXCL);
	int back = openat(self->env.files.dir_fd, "new", O_RDONLY);
	int tmp = env_open(".", O_RDWR | O_TMPFILE);

	EXPECT_EQ(1, ring_server_count(self->env.server, FUSE_CREATE));
	EXPECT_EQ(1, ring_server_count(self->env.server, FUSE_TMPFILE));
	EXPECT_EQ(3, write(fd, "new", 3));
	EXPECT_TRUE(has(back, "new", 3, 0));
	EXPECT_EQ(3, write(tmp, "tmp", 3));
	EXPECT_TRUE(has(tmp, "tmp", 3, 0));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(tmp);
	close(back);
	close(fd);
}

/* The path is registered: how it is open is up to the client */
TEST_F(passthrough, registered_o_path_or_read_only)
{
	static const int flags[] = { O_PATH, O_RDONLY, O_WRONLY };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		int fd = openat(self->env.files.dir_fd, "file", flags[i]);

		self->node->backing_id = backing_open(self->env.server, fd);
		ASSERT_LT(0, self->node->backing_id);
		/* the id has a reference of its own */
		close(fd);
		fd = env_open("file", O_RDWR);
		EXPECT_TRUE(env_is(fd, "file"));
		EXPECT_EQ(4, pwrite(fd, "rdwr", 4, 100 * i + 100));
		EXPECT_TRUE(has(self->back, "rdwr", 4, 100 * i + 100));
		close(fd);
		env_released(_metadata, &self->env, i + 1);
	}
	EXPECT_EQ(0, env_io_served(&self->env));
}

TEST_F(passthrough, deleted_file)
{
	int fd;

	ASSERT_EQ(0, unlinkat(self->env.files.dir_fd, "file", 0));
	fd = env_open("file", O_RDWR);
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_EQ(4, pwrite(fd, "gone", 4, 100));
	EXPECT_TRUE(has(self->back, "gone", 4, 100));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

TEST_F(passthrough, two_files)
{
	int other_back = env_file(_metadata, &self->env, "other");
	int id = backing_open(self->env.server, other_back);
	int fd, other;

	ASSERT_LT(self->id, id);
	files_node(&self->env.files, "other")->backing_id = id;
	fd = env_open("file", O_RDONLY);
	other = env_open("other", O_RDONLY);
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_TRUE(env_is(other, "other"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(other);
	close(fd);
	close(other_back);
}

TEST_F(passthrough, id_that_is_not_there)
{
	self->node->backing_id = self->id + 1;
	EXPECT_EQ(-EIO, env_open("file", O_RDONLY));
	/* the server has opened it, and is told that it is not in use */
	EXPECT_EQ(0, ring_server_wait(self->env.server, FUSE_RELEASE, 1));
}

/* An inode has one backing file as long as it is open */
TEST_F(passthrough, other_backing_file_while_open)
{
	int other_back = env_file(_metadata, &self->env, "other");
	int id = backing_open(self->env.server, other_back);
	int fd, again;

	ASSERT_LT(0, id);
	fd = env_open("file", O_RDONLY);
	self->node->backing_id = id;
	EXPECT_EQ(-EIO, env_open("file", O_RDONLY));
	EXPECT_EQ(0, ring_server_wait(self->env.server, FUSE_RELEASE, 1));

	/* what was refused has not hurt the first */
	self->node->backing_id = self->id;
	again = env_open("file", O_RDONLY);
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_TRUE(env_is(again, "file"));
	close(fd);
	close(again);
	env_released(_metadata, &self->env, 3);

	self->node->backing_id = id;
	fd = env_open("file", O_RDONLY);
	EXPECT_TRUE(env_is(fd, "other"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
	close(other_back);
}

/* Through the page cache or past it */
TEST_F(passthrough, no_plain_open_meanwhile)
{
	int fd = env_open("file", O_RDONLY);

	ASSERT_LE(0, fd);
	self->node->backing_id = 0;
	EXPECT_EQ(-EIO, env_open("file", O_RDONLY));
	close(fd);
	env_released(_metadata, &self->env, 2);

	fd = env_open("file", O_RDONLY);
	ASSERT_LE(0, fd);
	self->node->backing_id = self->id;
	EXPECT_EQ(-EIO, env_open("file", O_RDONLY));
	EXPECT_EQ(0, env_io_served(&self->env));
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_LT(0, env_io_served(&self->env));
	close(fd);
}

TEST_F(passthrough, id_closed_while_open)
{
	int fd = env_open("file", O_RDWR);

	EXPECT_EQ(0, backing_close(self->env.server, self->id));
	EXPECT_EQ(-EIO, env_open("file", O_RDONLY));
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_EQ(4, pwrite(fd, "on..", 4, 100));
	EXPECT_TRUE(has(self->back, "on..", 4, 100));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

/* There is no read lease for a file that somebody has open to write */
static int try_lease(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK))
		return -errno;
	return fcntl(fd, F_SETLEASE, F_UNLCK) ? -errno : 0;
}

/* From its registration to its close, and clients only borrow it */
TEST_F(passthrough, id_holds_the_file)
{
	int i, fd, id, back = env_file(_metadata, &self->env, "held");

	id = backing_open(self->env.server, back);
	ASSERT_LT(0, id);
	close(back);
	back = openat(self->env.files.dir_fd, "held", O_RDONLY);
	ASSERT_LE(0, back);
	EXPECT_EQ(-EAGAIN, try_lease(back));
	self->node->backing_id = id;
	for (i = 1; i <= 2; i++) {
		fd = env_open("file", O_RDONLY);
		ASSERT_LE(0, fd);
		close(fd);
		env_released(_metadata, &self->env, i);
		ASSERT_EQ(-EAGAIN, try_lease(back));
	}
	EXPECT_EQ(0, backing_close(self->env.server, id));
	EXPECT_EQ(0, try_lease(back));
	close(back);
}

/* Nor does a registered file count as open, or end with the server's fd */
TEST_F(passthrough, more_than_rlimit_nofile)
{
	const struct rlimit few = { 64, 64 };
	int i, id[200];

	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &few));
	for (i = 0; i < 200; i++) {
		int fd = openat(self->env.files.dir_fd, "file", O_RDONLY);

		ASSERT_LE(0, fd);
		id[i] = backing_open(self->env.server, fd);
		ASSERT_LT(i ? id[i - 1] : self->id, id[i]);
		close(fd);
	}
	for (i = 0; i < 200; i++)
		EXPECT_EQ(0, backing_close(self->env.server, id[i]));
	EXPECT_EQ(-ENOENT, backing_close(self->env.server, id[0]));
}

/* Teardown sees that the connection lets go of them */
TEST_F(passthrough, never_closed)
{
	int i, fd = env_open("file", O_RDWR);

	ASSERT_LE(0, fd);
	close(fd);
	for (i = 0; i < 100; i++)
		EXPECT_LT(0, backing_open(self->env.server, self->back));
}

/* Its root can mount and serve, but has no CAP_SYS_ADMIN for the ioctls */
TEST_F(passthrough, mount_of_a_user_namespace)
{
	pid_t pid = fork();
	int status;

	ASSERT_LE(0, pid);
	if (!pid) {
		if (user_ns_enter())
			_exit(KSFT_SKIP);
		env_start(_metadata, &self->env, NULL);
		EXPECT_EQ(-EPERM, backing_open(self->env.server, self->back));
		EXPECT_EQ(-EPERM, backing_close(self->env.server, self->id));
		EXPECT_EQ(-EIO, env_open("file", O_RDONLY));
		env_stop(_metadata, &self->env);
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	if (WEXITSTATUS(status) == KSFT_SKIP)
		SKIP(return, "no user namespaces");
	EXPECT_EQ(0, status);
}

FIXTURE(negotiated)
{
	struct env env;
};

/* What the server says in FUSE_INIT */
FIXTURE_VARIANT(negotiated)
{
	__u64 init_flags;
	__u32 max_stack_depth;
	/* answers of the ioctl: a file on tmpfs, on overlayfs, of the mount */
	int ids[3];
};

FIXTURE_VARIANT_ADD(negotiated, stack_depth_0) {
	ENV_INIT, 0, { -EPERM, -EPERM, -EPERM }
};

FIXTURE_VARIANT_ADD(negotiated, stack_depth_1) {
	ENV_INIT, 1, { 1, -ELOOP, -ELOOP }
};

FIXTURE_VARIANT_ADD(negotiated, stack_depth_2) {
	ENV_INIT, 2, { 1, 2, -ELOOP }
};

/* more than FILESYSTEM_MAX_STACK_DEPTH of the kernel */
FIXTURE_VARIANT_ADD(negotiated, stack_depth_3) {
	ENV_INIT, 3, { -EPERM, -EPERM, -EPERM }
};

FIXTURE_VARIANT_ADD(negotiated, writeback_cache) {
	ENV_INIT | FUSE_WRITEBACK_CACHE, 1, { -EPERM, -EPERM, -EPERM }
};

FIXTURE_VARIANT_ADD(negotiated, no_passthrough) {
	FUSE_OVER_IO_URING, 1, { -EPERM, -EPERM, -EPERM }
};

FIXTURE_SETUP(negotiated)
{
	const char *missing = env_setup(_metadata, &self->env, ENV_INIT);

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(negotiated)
{
	env_teardown(_metadata, &self->env);
}

TEST_F(negotiated, files_that_can_be_registered)
{
	/* not env_start(), for which a depth of 0 is its default */
	const struct ring_server_cfg cfg = {
		.init_flags = variant->init_flags,
		.max_stack_depth = variant->max_stack_depth,
		.handle = files_handle,
		.priv = &self->env,
	};
	int i, fd, files[3];

	close(env_file(_metadata, &self->env, "file"));
	ASSERT_EQ(0, mkdir("/tmp/overlay", 0755));
	ASSERT_EQ(0, mkdir("/tmp/empty", 0755));
	/* read-only it needs two layers */
	if (mount("overlay", "/tmp/overlay", "overlay", MS_RDONLY,
		  "lowerdir=" ENV_BACK ":/tmp/empty"))
		SKIP(return, "no overlayfs");
	files[0] = open(ENV_BACK "/file", O_RDONLY | O_CLOEXEC);
	files[1] = open("/tmp/overlay/file", O_RDONLY | O_CLOEXEC);
	ASSERT_EQ(0, ring_server_start(&self->env.server, ENV_MNT, &cfg));
	env_pin(_metadata, 0);
	files[2] = env_open("file", O_RDONLY);
	for (i = 0; i < 3; i++) {
		ASSERT_LE(0, files[i]);
		EXPECT_EQ(variant->ids[i],
			  backing_open(self->env.server, files[i]));
		close(files[i]);
	}
	env_released(_metadata, &self->env, 1);

	for (i = 0; i < 2; i++) {
		files_node(&self->env.files, "file")->backing_id = i + 1;
		fd = env_open("file", O_RDONLY);
		if (variant->ids[i] < 0) {
			EXPECT_EQ(-EIO, fd);
		} else {
			EXPECT_TRUE(env_is(fd, "file"));
			EXPECT_EQ(0, env_io_served(&self->env));
		}
		close(fd);
		env_released(_metadata, &self->env, i + 2);
		EXPECT_EQ(variant->ids[0] < 0 ? -EPERM :
			  variant->ids[i] < 0 ? -ENOENT : 0,
			  backing_close(self->env.server, i + 1));
	}
	EXPECT_EQ(0, umount2("/tmp/overlay", MNT_DETACH));
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
