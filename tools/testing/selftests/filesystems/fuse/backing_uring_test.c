// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE_IO_URING_CMD_BACKING_OPEN and FUSE_IO_URING_CMD_BACKING_CLOSE.
 *
 * The tests of the fixture "backing" run for every way to issue the commands
 * and for the ioctls, which are the reference: where the ioctl's answer is
 * another one, the test says so. The fixture "command" is for what an ioctl
 * does not have, and "capability" for the flag in FUSE_INIT.
 *
 * That reads and writes pass through is seen from the server: it counts the
 * requests of each kind, and no READ and no WRITE may come.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "backing_env.h"

#define FILE_SZ		BACKING_FILE_SZ
/* Not an id that any test gets as the kernel counts up from 1 */
#define NO_ID		12345678

FIXTURE(backing)
{
	struct backing_env env;
};

FIXTURE_VARIANT(backing)
{
	struct backing_how how;
};

FIXTURE_VARIANT_ADD(backing, ioctl) {
	.how = { .ioctl = true },
};

#define BACKING_FIXTURE backing
#include "backing_variants.h"

FIXTURE_SETUP(backing)
{
	const char *missing = backing_env_missing(&variant->how);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, backing_env_setup(&self->env));
}

FIXTURE_TEARDOWN(backing)
{
	EXPECT_EQ(0, backing_env_teardown(&self->env));
}

TEST_F(backing, read_write)
{
	char a[FILE_SZ], b[FILE_SZ];
	struct iovec iov[2] = { { a, 1000 }, { a + 1000, 5000 } };
	int fd, id, raw;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	id = backing_register_file(&self->env, "file");
	ASSERT_GT(id, 0);
	fd = open_mnt(&self->env, "file", O_RDWR);
	ASSERT_GE(fd, 0);
	raw = open_back(&self->env, "file", O_RDONLY);
	ASSERT_EQ(FILE_SZ, read(raw, b, sizeof(b)));

	EXPECT_EQ(FILE_SZ, read(fd, a, sizeof(a)));
	EXPECT_EQ(0, memcmp(a, b, FILE_SZ));
	EXPECT_EQ(0, read(fd, a, sizeof(a)));
	EXPECT_EQ(100, pread(fd, a, 4096, 3 * 4096));
	EXPECT_EQ(0, memcmp(a, b + 3 * 4096, 100));
	EXPECT_EQ(6000, preadv(fd, iov, 2, 777));
	EXPECT_EQ(0, memcmp(a, b + 777, 6000));

	EXPECT_EQ(10, pwrite(fd, "0123456789", 10, 4090));
	EXPECT_EQ(0, cmp_back(&self->env, "file", "0123456789", 10, 4090));
	EXPECT_EQ(0, lseek(fd, 0, SEEK_SET));
	EXPECT_EQ(6000, writev(fd, iov, 2));
	EXPECT_EQ(0, cmp_back(&self->env, "file", a, 6000, 0));
	/* past the end */
	EXPECT_EQ(3, pwrite(fd, "end", 3, FILE_SZ));
	EXPECT_EQ(0, cmp_back(&self->env, "file", "end", 3, FILE_SZ));
	EXPECT_EQ(FILE_SZ + 3, lseek(fd, 0, SEEK_END));

	EXPECT_EQ(0, served(&self->env));
	EXPECT_EQ(1, ring_server_count(self->env.server, FUSE_OPEN));
	close(fd);
	close(raw);
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id));
}

TEST_F(backing, splice)
{
	char a[4096], b[4096];
	int fd, id, raw, p[2];
	loff_t off;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	id = backing_register_file(&self->env, "file");
	ASSERT_GT(id, 0);
	fd = open_mnt(&self->env, "file", O_RDWR);
	ASSERT_GE(fd, 0);
	raw = open_back(&self->env, "file", O_RDONLY);
	ASSERT_GE(raw, 0);
	ASSERT_EQ(0, pipe(p));

	off = 5000;
	EXPECT_EQ(4096, splice(fd, &off, p[1], NULL, 4096, 0));
	EXPECT_EQ(4096, read(p[0], a, 4096));
	EXPECT_EQ(4096, pread(raw, b, 4096, 5000));
	EXPECT_EQ(0, memcmp(a, b, 4096));

	memset(a, 'x', 4096);
	EXPECT_EQ(4096, write(p[1], a, 4096));
	off = 300;
	EXPECT_EQ(4096, splice(p[0], NULL, fd, &off, 4096, 0));
	EXPECT_EQ(0, cmp_back(&self->env, "file", a, 4096, 300));

	EXPECT_EQ(0, served(&self->env));
	close(p[0]);
	close(p[1]);
	close(raw);
	close(fd);
}

TEST_F(backing, mmap)
{
	char *map, b[FILE_SZ];
	int fd, id, raw;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	id = backing_register_file(&self->env, "file");
	ASSERT_GT(id, 0);
	fd = open_mnt(&self->env, "file", O_RDWR);
	ASSERT_GE(fd, 0);
	raw = open_back(&self->env, "file", O_RDWR);
	ASSERT_EQ(FILE_SZ, read(raw, b, sizeof(b)));

	map = mmap(NULL, FILE_SZ, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_EQ(0, memcmp(map, b, FILE_SZ));
	memcpy(map + 4000, "shared write", 12);
	EXPECT_EQ(0, msync(map, FILE_SZ, MS_SYNC));
	EXPECT_EQ(0, cmp_back(&self->env, "file", "shared write", 12, 4000));
	/* both are one page cache */
	EXPECT_EQ(3, pwrite(raw, "raw", 3, 8000));
	EXPECT_EQ(0, memcmp(map + 8000, "raw", 3));
	EXPECT_EQ(0, munmap(map, FILE_SZ));

	EXPECT_EQ(0, served(&self->env));
	close(raw);
	close(fd);
}

TEST_F(backing, fsync_append_truncate)
{
	char zero[50] = { 0 };
	struct stat st;
	int fd, id;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	id = backing_register_file(&self->env, "file");
	ASSERT_GT(id, 0);

	fd = open_mnt(&self->env, "file", O_RDWR | O_APPEND);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(4, write(fd, "tail", 4));
	EXPECT_EQ(0, cmp_back(&self->env, "file", "tail", 4, FILE_SZ));
	EXPECT_EQ(0, fsync(fd));
	EXPECT_EQ(1, ring_server_count(self->env.server, FUSE_FSYNC));

	EXPECT_EQ(0, ftruncate(fd, 100));
	EXPECT_EQ(0, fstatat(self->env.dir_fd, "file", &st, 0));
	EXPECT_EQ(100, st.st_size);
	EXPECT_EQ(0, ftruncate(fd, 150));
	EXPECT_EQ(0, cmp_back(&self->env, "file", zero, 50, 100));
	EXPECT_EQ(4, write(fd, "more", 4));
	EXPECT_EQ(0, cmp_back(&self->env, "file", "more", 4, 150));
	close(fd);

	fd = open_mnt(&self->env, "file", O_RDWR | O_TRUNC);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(0, fstatat(self->env.dir_fd, "file", &st, 0));
	EXPECT_EQ(0, st.st_size);
	EXPECT_EQ(5, write(fd, "again", 5));
	EXPECT_EQ(0, cmp_back(&self->env, "file", "again", 5, 0));
	EXPECT_EQ(0, served(&self->env));
	close(fd);
}

TEST_F(backing, o_direct)
{
	char *buf, b[4096];
	int fd, id, raw;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	id = backing_register_file(&self->env, "file");
	ASSERT_GT(id, 0);
	raw = open_back(&self->env, "file", O_RDONLY | O_DIRECT);
	if (raw < 0)
		SKIP(return, "tmpfs has no O_DIRECT");
	buf = aligned_alloc(4096, 4096);
	ASSERT_NE(NULL, buf);

	fd = open_mnt(&self->env, "file", O_RDWR | O_DIRECT);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(4096, pread(fd, buf, 4096, 4096));
	close(raw);
	raw = open_back(&self->env, "file", O_RDONLY);
	ASSERT_EQ(4096, pread(raw, b, 4096, 4096));
	EXPECT_EQ(0, memcmp(buf, b, 4096));
	memset(buf, 'd', 4096);
	EXPECT_EQ(4096, pwrite(fd, buf, 4096, 0));
	EXPECT_EQ(0, cmp_back(&self->env, "file", buf, 4096, 0));
	EXPECT_EQ(0, served(&self->env));
	free(buf);
	close(raw);
	close(fd);
}

static int create_hook(struct ring_req *req, struct ring_node *node,
		       struct fuse_open_out *out)
{
	struct backing_env *env = ring_server_priv(req->server);

	if (req->in.opcode == FUSE_CREATE && !strcmp(node->name, "new")) {
		out->open_flags = FOPEN_PASSTHROUGH;
		out->backing_id = env->hook_id;
	}
	return 0;
}

TEST_F(backing, create)
{
	struct ring_server_cfg cfg = {
		.init_flags = BACKING_INIT,
		.open = create_hook,
	};
	int fd, back;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, &cfg));
	/* the file that the server creates is then this one */
	back = backing_make_file(&self->env, "new", 0);
	ASSERT_GE(back, 0);
	self->env.hook_id = backing_issue_open(&self->env.issuer, back);
	ASSERT_GT(self->env.hook_id, 0);
	/* the kernel asks for CREATE only where LOOKUP found nothing */
	ASSERT_EQ(0, unlinkat(self->env.dir_fd, "new", 0));
	fd = open_mnt(&self->env, "new", O_RDWR | O_CREAT | O_EXCL);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(1, ring_server_count(self->env.server, FUSE_CREATE));
	EXPECT_EQ(4, write(fd, "data", 4));
	EXPECT_EQ(0, served(&self->env));
	close(fd);

	/* it went to what was registered, not to what the name is now */
	{
		char buf[8];

		EXPECT_EQ(4, pread(back, buf, sizeof(buf), 0));
		EXPECT_EQ(0, memcmp(buf, "data", 4));
	}
	close(back);
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, self->env.hook_id));
}

TEST_F(backing, same_id_for_two_opens)
{
	char buf[4];
	int a, b, id;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	id = backing_register_file(&self->env, "file");
	ASSERT_GT(id, 0);
	a = open_mnt(&self->env, "file", O_RDWR);
	ASSERT_GE(a, 0);
	b = open_mnt(&self->env, "file", O_RDONLY);
	ASSERT_GE(b, 0);
	EXPECT_EQ(4, pwrite(a, "both", 4, 0));
	EXPECT_EQ(4, pread(b, buf, 4, 0));
	EXPECT_EQ(0, memcmp(buf, "both", 4));
	close(a);
	EXPECT_EQ(4, pread(b, buf, 4, 0));
	EXPECT_EQ(0, served(&self->env));
	EXPECT_EQ(2, ring_server_count(self->env.server, FUSE_OPEN));
	close(b);
}

TEST_F(backing, two_inodes)
{
	char x[8], y[8], back[8];
	int a, b, ida, idb, raw;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	ida = backing_register_file(&self->env, "a");
	idb = backing_register_file(&self->env, "b");
	ASSERT_GT(ida, 0);
	ASSERT_GT(idb, 0);
	EXPECT_NE(ida, idb);
	a = open_mnt(&self->env, "a", O_RDONLY);
	b = open_mnt(&self->env, "b", O_RDONLY);
	ASSERT_GE(a, 0);
	ASSERT_GE(b, 0);
	EXPECT_EQ(8, read(a, x, 8));
	EXPECT_EQ(8, read(b, y, 8));
	EXPECT_NE(0, memcmp(x, y, 8));
	raw = open_back(&self->env, "b", O_RDONLY);
	EXPECT_EQ(8, read(raw, back, 8));
	EXPECT_EQ(0, memcmp(y, back, 8));
	EXPECT_EQ(0, served(&self->env));
	close(raw);
	close(a);
	close(b);
}

TEST_F(backing, other_id_while_open)
{
	int a, b, id, other, raw;
	char buf[8];

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	id = backing_register_file(&self->env, "file");
	ASSERT_GT(id, 0);
	a = open_mnt(&self->env, "file", O_RDONLY);
	ASSERT_GE(a, 0);

	/* even of the same file: an inode has one backing file at a time */
	raw = open_back(&self->env, "file", O_RDWR);
	ASSERT_GE(raw, 0);
	other = backing_issue_open(&self->env.issuer, raw);
	ASSERT_GT(other, 0);
	EXPECT_NE(id, other);
	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file", other));
	EXPECT_EQ(-EIO, open_mnt(&self->env, "file", O_RDONLY));

	/* the refused open must not have hurt the first */
	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file", id));
	b = open_mnt(&self->env, "file", O_RDONLY);
	ASSERT_GE(b, 0);
	EXPECT_EQ(8, pread(a, buf, sizeof(buf), 0));
	EXPECT_EQ(8, pread(b, buf, sizeof(buf), 0));
	EXPECT_EQ(0, served(&self->env));
	close(b);
	close(a);
	close(raw);
}

TEST_F(backing, closed_id)
{
	char buf[8];
	int a, id;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	id = backing_register_file(&self->env, "file");
	ASSERT_GT(id, 0);
	a = open_mnt(&self->env, "file", O_RDWR);
	ASSERT_GE(a, 0);
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id));

	EXPECT_EQ(-EIO, open_mnt(&self->env, "file", O_RDONLY));
	/* what is open goes on, alone on the reference of the inode */
	EXPECT_EQ(8, pread(a, buf, 8, 0));
	EXPECT_EQ(8, pwrite(a, "go on ..", 8, 0));
	EXPECT_EQ(0, cmp_back(&self->env, "file", "go on ..", 8, 0));
	EXPECT_EQ(0, served(&self->env));
	close(a);

	/* without an id the server is asked again */
	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file", 0));
	a = open_mnt(&self->env, "file", O_RDONLY);
	ASSERT_GE(a, 0);
	EXPECT_EQ(8, pread(a, buf, 8, 0));
	EXPECT_EQ(1, ring_server_count(self->env.server, FUSE_READ));
	close(a);
}

TEST_F(backing, never_registered_id)
{
	int fd;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file", NO_ID));
	EXPECT_EQ(-EIO, open_mnt(&self->env, "file", O_RDONLY));
	close(fd);
}

TEST_F(backing, close_errors)
{
	int id;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	id = backing_register_file(&self->env, "file");
	ASSERT_GT(id, 0);
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id));
	EXPECT_EQ(-ENOENT, backing_issue_close(&self->env.issuer, id));
	EXPECT_EQ(-EINVAL, backing_issue_close(&self->env.issuer, 0));
	EXPECT_EQ(-EINVAL, backing_issue_close(&self->env.issuer, -1));
	EXPECT_EQ(-EINVAL, backing_issue_close(&self->env.issuer, INT_MIN));
	EXPECT_EQ(-ENOENT, backing_issue_close(&self->env.issuer, INT_MAX));
}

TEST_F(backing, ids_differ)
{
	int fd, i, id[64];

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);
	/* one fd can back many ids, each with a life of its own */
	for (i = 0; i < 64; i++) {
		id[i] = backing_issue_open(&self->env.issuer, fd);
		ASSERT_GT(id[i], 0);
		if (i)
			EXPECT_GT(id[i], id[i - 1]);
	}
	for (i = 0; i < 64; i += 2)
		EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id[i]));
	for (i = 0; i < 64; i++)
		EXPECT_EQ(i % 2 ? 0 : -ENOENT,
			  backing_issue_close(&self->env.issuer, id[i]));
	close(fd);
}

TEST_F(backing, fd_of_no_regular_file)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	struct io_uring ring;
	int fd, p[2];

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	EXPECT_EQ(-EBADF, backing_issue_open(&self->env.issuer, -1));
	EXPECT_EQ(-EBADF, backing_issue_open(&self->env.issuer, 1000));
	EXPECT_EQ(-EBADF, backing_issue_open(&self->env.issuer, INT_MAX));
	EXPECT_EQ(-EBADF, backing_issue_open(&self->env.issuer, AT_FDCWD));

	EXPECT_EQ(-EISDIR,
		  backing_issue_open(&self->env.issuer, self->env.dir_fd));

	ASSERT_EQ(0, mkfifoat(self->env.dir_fd, "fifo", 0600));
	fd = open_back(&self->env, "fifo", O_RDWR);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EINVAL, backing_issue_open(&self->env.issuer, fd));
	close(fd);
	ASSERT_EQ(0, pipe(p));
	EXPECT_EQ(-EINVAL, backing_issue_open(&self->env.issuer, p[0]));
	close(p[0]);
	close(p[1]);

	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EINVAL, backing_issue_open(&self->env.issuer, fd));
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/sock",
		 self->env.back);
	ASSERT_EQ(0, bind(fd, (void *)&sun, sizeof(sun)));
	close(fd);
	fd = open_back(&self->env, "sock", O_PATH);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EINVAL, backing_issue_open(&self->env.issuer, fd));
	close(fd);

	ASSERT_EQ(0, symlinkat("nowhere", self->env.dir_fd, "link"));
	fd = open_back(&self->env, "link", O_PATH | O_NOFOLLOW);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EINVAL, backing_issue_open(&self->env.issuer, fd));
	close(fd);

	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EINVAL, backing_issue_open(&self->env.issuer, fd));
	close(fd);
	fd = ring_server_dev_fd(self->env.server);
	EXPECT_EQ(-EINVAL, backing_issue_open(&self->env.issuer, fd));

	ASSERT_EQ(0, io_uring_queue_init(2, &ring, 0));
	EXPECT_EQ(-EINVAL, backing_issue_open(&self->env.issuer, ring.ring_fd));
	io_uring_queue_exit(&ring);
}

TEST_F(backing, deleted_file)
{
	char buf[4];
	int fd, id, m;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = backing_make_file(&self->env, "file", 100);
	ASSERT_GE(fd, 0);
	/* the server has looked it up before */
	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file", 0));
	ASSERT_EQ(0, unlinkat(self->env.dir_fd, "file", 0));
	id = backing_issue_open(&self->env.issuer, fd);
	ASSERT_GT(id, 0);
	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file", id));
	m = open_mnt(&self->env, "file", O_RDWR);
	ASSERT_GE(m, 0);
	EXPECT_EQ(4, pwrite(m, "gone", 4, 0));
	EXPECT_EQ(4, pread(fd, buf, 4, 0));
	EXPECT_EQ(0, memcmp(buf, "gone", 4));
	EXPECT_EQ(0, served(&self->env));
	close(m);
	close(fd);
}

TEST_F(backing, o_path)
{
	char buf[4];
	int fd, id, m;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	close(backing_make_file(&self->env, "file", 100));
	fd = open_back(&self->env, "file", O_PATH);
	ASSERT_GE(fd, 0);
	id = backing_issue_open(&self->env.issuer, fd);
	ASSERT_GT(id, 0);
	/* the id is a reference of its own: the fd may go */
	close(fd);
	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file", id));
	m = open_mnt(&self->env, "file", O_RDWR);
	ASSERT_GE(m, 0);
	EXPECT_EQ(4, pwrite(m, "path", 4, 0));
	EXPECT_EQ(4, pread(m, buf, 4, 0));
	EXPECT_EQ(0, memcmp(buf, "path", 4));
	EXPECT_EQ(0, cmp_back(&self->env, "file", "path", 4, 0));
	EXPECT_EQ(0, served(&self->env));
	close(m);
}

TEST_F(backing, read_only_fd)
{
	int fd, id, m;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	close(backing_make_file(&self->env, "file", 100));
	fd = open_back(&self->env, "file", O_RDONLY);
	ASSERT_GE(fd, 0);
	id = backing_issue_open(&self->env.issuer, fd);
	ASSERT_GT(id, 0);
	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file", id));
	/* the mode is that of the client's open, not of the server's fd */
	m = open_mnt(&self->env, "file", O_RDWR);
	ASSERT_GE(m, 0);
	EXPECT_EQ(4, pwrite(m, "rdwr", 4, 0));
	EXPECT_EQ(0, cmp_back(&self->env, "file", "rdwr", 4, 0));
	EXPECT_EQ(0, served(&self->env));
	close(m);
	close(fd);
}

static int mount_overlay(const char *where, const char *lower)
{
	char opts[PATH_MAX];

	/* read-only needs two lower layers */
	snprintf(opts, sizeof(opts), "lowerdir=%s:/sys", lower);
	return mount("overlay", where, "overlay", MS_RDONLY, opts) ? -errno : 0;
}

TEST_F(backing, stacking)
{
	char path[PATH_MAX];
	int fd;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	close(backing_make_file(&self->env, "file", 100));

	/* the depth of this mount is its max_stack_depth */
	fd = open_mnt(&self->env, "file", O_RDONLY);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-ELOOP, backing_issue_open(&self->env.issuer, fd));
	close(fd);

	/* an overlay over this mount is one higher */
	snprintf(path, sizeof(path), "%s/ovl", self->env.back);
	ASSERT_EQ(0, mkdir(path, 0755));
	ASSERT_EQ(0, mount_overlay(path, self->env.mnt));
	strcat(path, "/file");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	EXPECT_GE(fd, 0);
	EXPECT_EQ(-ELOOP, backing_issue_open(&self->env.issuer, fd));
	close(fd);
	path[strlen(path) - strlen("/file")] = 0;
	EXPECT_EQ(0, umount2(path, 0));

	/* an overlay over the backing file system has a depth of 1 already */
	ASSERT_EQ(0, mount_overlay(path, self->env.back));
	strcat(path, "/file");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	EXPECT_GE(fd, 0);
	EXPECT_EQ(-ELOOP, backing_issue_open(&self->env.issuer, fd));
	close(fd);
	path[strlen(path) - strlen("/file")] = 0;
	EXPECT_EQ(0, umount2(path, 0));
}

TEST_F(backing, stacking_depth_2)
{
	struct ring_server_cfg cfg = {
		.init_flags = BACKING_INIT,
		.max_stack_depth = 2,
	};
	char path[PATH_MAX], buf[8];
	int fd, id, m;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, &cfg));
	close(backing_make_file(&self->env, "file", 100));
	snprintf(path, sizeof(path), "%s/ovl", self->env.back);
	ASSERT_EQ(0, mkdir(path, 0755));
	ASSERT_EQ(0, mount_overlay(path, self->env.back));
	strcat(path, "/file");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	EXPECT_GE(fd, 0);
	id = backing_issue_open(&self->env.issuer, fd);
	EXPECT_GT(id, 0);
	EXPECT_EQ(0, ring_server_set_backing(self->env.server, "file", id));
	m = open_mnt(&self->env, "file", O_RDONLY);
	EXPECT_GE(m, 0);
	EXPECT_EQ(8, read(m, buf, 8));
	EXPECT_EQ(0, cmp_back(&self->env, "file", buf, 8, 0));
	EXPECT_EQ(0, served(&self->env));
	close(m);
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id));

	m = open_mnt(&self->env, "file", O_RDONLY);
	EXPECT_EQ(-EIO, m);
	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file", 0));
	m = open_mnt(&self->env, "file", O_RDONLY);
	EXPECT_GE(m, 0);
	EXPECT_EQ(-ELOOP, backing_issue_open(&self->env.issuer, m));
	close(m);
	close(fd);
	path[strlen(path) - strlen("/file")] = 0;
	EXPECT_EQ(0, umount2(path, 0));
}

TEST_F(backing, map_flags_and_padding)
{
	struct fuse_uring_cmd_req req;
	int fd, bit;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = backing_make_file(&self->env, "file", 100);
	ASSERT_GE(fd, 0);
	for (bit = 0; bit < 32; bit++) {
		req = (struct fuse_uring_cmd_req){ .backing.map.fd = fd };
		req.backing.map.flags = 1U << bit;
		EXPECT_EQ(-EINVAL,
			  backing_issue(&self->env.issuer,
					FUSE_IO_URING_CMD_BACKING_OPEN, &req,
					0));
	}
	for (bit = 0; bit < 64; bit++) {
		req = (struct fuse_uring_cmd_req){ .backing.map.fd = fd };
		req.backing.map.padding = 1ULL << bit;
		EXPECT_EQ(-EINVAL,
			  backing_issue(&self->env.issuer,
					FUSE_IO_URING_CMD_BACKING_OPEN, &req,
					0));
	}
	/* and the check of the arguments comes before that of the fd */
	req.backing.map.fd = -1;
	EXPECT_EQ(-EINVAL,
		  backing_issue(&self->env.issuer,
				FUSE_IO_URING_CMD_BACKING_OPEN, &req, 0));
	/* no id was used up by all that */
	EXPECT_EQ(1, backing_issue_open(&self->env.issuer, fd));
	close(fd);
}

/* Both commands by a child without the capability; -EPERM if all is well */
static int issue_both(struct backing_env *env, const struct backing_how *how)
{
	struct backing_issuer issuer;
	int fd, err;

	fd = open_back(env, "file", O_RDONLY);
	if (fd < 0)
		return -ENOENT;
	err = backing_issuer_init(&issuer, how,
				  ring_server_dev_fd(env->server));
	if (err)
		return -ENODEV;
	err = backing_issue_open(&issuer, fd);
	if (err != -EPERM)
		return err;
	/* before the fd is looked at, and after the id is not */
	err = backing_issue_open(&issuer, -1);
	if (err != -EPERM)
		return err;
	err = backing_issue_close(&issuer, env->hook_id);
	if (err != -EPERM)
		return err;
	err = backing_issue_close(&issuer, 0);
	backing_issuer_exit(&issuer);
	return err;
}

static int without_cap(struct backing_env *env, const struct backing_how *how)
{
	return drop_sys_admin() ? -ENOEXEC : issue_both(env, how);
}

static int in_user_ns(struct backing_env *env, const struct backing_how *how)
{
	return unshare(CLONE_NEWUSER) ? -ENOEXEC : issue_both(env, how);
}

TEST_F(backing, capability_needed)
{
	int id;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	id = backing_register_file(&self->env, "file");
	ASSERT_GT(id, 0);
	self->env.hook_id = id;
	EXPECT_EQ(-EPERM, in_child(without_cap, &self->env, &variant->how));
	EXPECT_EQ(-EPERM, in_child(in_user_ns, &self->env, &variant->how));
	/* neither did anything to the id, nor used up one */
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id));
	EXPECT_EQ(id + 1, backing_register_file(&self->env, "file"));
}

TEST_F(backing, passthrough_not_negotiated)
{
	struct ring_server_cfg cfg = { .init_flags = FUSE_OVER_IO_URING };
	int fd;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, &cfg));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EPERM, backing_issue_open(&self->env.issuer, fd));
	EXPECT_EQ(-EPERM, backing_issue_close(&self->env.issuer, 1));
	close(fd);
}

/*
 * With a field that must be 0 and is not. What every command is checked for,
 * the state of the connection, comes before that
 */
static int issue_reserved(struct backing_issuer *issuer)
{
	const struct fuse_uring_cmd_req req = {
		.backing = { .id = 1, .reserved = 1 },
	};

	return backing_issue(issuer, FUSE_IO_URING_CMD_BACKING_CLOSE, &req, 0);
}

TEST_F(backing, uring_not_negotiated)
{
	struct ring_server_cfg cfg = { .init_flags = FUSE_PASSTHROUGH };
	int fd, id;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, &cfg));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);
	id = backing_issue_open(&self->env.issuer, fd);
	if (variant->how.ioctl) {
		EXPECT_GT(id, 0);
		EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id));
	} else {
		EXPECT_EQ(-EOPNOTSUPP, id);
		EXPECT_EQ(-EOPNOTSUPP,
			  backing_issue_close(&self->env.issuer, 1));
		EXPECT_EQ(-EOPNOTSUPP, issue_reserved(&self->env.issuer));
	}
	close(fd);
}

/* Nor do they need a queue, where every request waits for one */
TEST_F(backing, without_queues)
{
	struct ring_server_cfg cfg = {
		.init_flags = BACKING_INIT,
		.no_queues = true,
	};
	int fd, id;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, &cfg));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);
	id = backing_issue_open(&self->env.issuer, fd);
	EXPECT_GT(id, 0);
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id));
	EXPECT_EQ(-ENOENT, backing_issue_close(&self->env.issuer, id));
	close(fd);
}

TEST_F(backing, parameter_off)
{
	int fd, id;

	/* off at INIT: not negotiated, whatever the server asks for */
	ASSERT_EQ(0, ring_server_enable_uring(false, NULL));
	EXPECT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = backing_make_file(&self->env, "file", 10);
	EXPECT_GE(fd, 0);
	id = backing_issue_open(&self->env.issuer, fd);
	EXPECT_TRUE(variant->how.ioctl ? id > 0 : id == -EOPNOTSUPP);
	EXPECT_EQ(0, ring_server_enable_uring(true, NULL));
	EXPECT_EQ(0, backing_env_stop(&self->env));

	/* off later: what was negotiated stays */
	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	EXPECT_EQ(0, ring_server_enable_uring(false, NULL));
	id = backing_issue_open(&self->env.issuer, fd);
	EXPECT_EQ(0, ring_server_enable_uring(true, NULL));
	EXPECT_GT(id, 0);
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id));
	close(fd);
}

TEST_F(backing, before_init_is_answered)
{
	struct ring_server_cfg cfg = {
		.init_flags = BACKING_INIT,
		.no_init = true,
	};
	int fd, want = variant->how.ioctl ? -EPERM : -EAGAIN;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, &cfg));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(want, backing_issue_open(&self->env.issuer, fd));
	EXPECT_EQ(want, backing_issue_close(&self->env.issuer, 1));
	EXPECT_EQ(want, issue_reserved(&self->env.issuer));
	close(fd);
}

/* Both commands on a connection that is gone: the ioctl does not look */
static void check_gone(struct __test_metadata *_metadata,
		       struct backing_env *env, const struct backing_how *how,
		       int want)
{
	int fd = backing_make_file(env, "other", 10);
	int id = backing_issue_open(&env->issuer, fd);

	EXPECT_GE(fd, 0);
	if (how->ioctl) {
		EXPECT_GT(id, 0);
		EXPECT_EQ(0, backing_issue_close(&env->issuer, id));
	} else {
		EXPECT_EQ(want, id);
		EXPECT_EQ(want, backing_issue_close(&env->issuer, 1));
		EXPECT_EQ(want, issue_reserved(&env->issuer));
	}
	close(fd);
}

TEST_F(backing, after_abort)
{
	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	ASSERT_GT(backing_register_file(&self->env, "file"), 0);
	ASSERT_EQ(0, ring_server_abort(self->env.server));
	check_gone(_metadata, &self->env, &variant->how, -ENOTCONN);
}

TEST_F(backing, after_abort_with_abort_error)
{
	struct ring_server_cfg cfg = {
		.init_flags = BACKING_INIT | FUSE_ABORT_ERROR,
	};

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, &cfg));
	ASSERT_GT(backing_register_file(&self->env, "file"), 0);
	ASSERT_EQ(0, ring_server_abort(self->env.server));
	check_gone(_metadata, &self->env, &variant->how, -ECONNABORTED);
}

TEST_F(backing, after_umount)
{
	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	ASSERT_GT(backing_register_file(&self->env, "file"), 0);
	ASSERT_EQ(0, ring_server_umount(self->env.server));
	check_gone(_metadata, &self->env, &variant->how, -ENOTCONN);
}

static void prep_hook_open(struct io_uring_sqe *sqe, int dev_fd, void *arg)
{
	struct backing_env *env = arg;

	backing_cmd_prep_open(sqe, dev_fd, env->hook_fd);
}

/* Registers when it is asked, on the ring that the question came over */
static int queue_ring_hook(struct ring_req *req, struct ring_node *node,
			   struct fuse_open_out *out)
{
	struct backing_env *env = ring_server_priv(req->server);
	int id = ring_queue_cmd(req->queue, prep_hook_open, env);

	(void)node;
	if (id < 0)
		return id;
	env->hook_id = id;
	out->open_flags = FOPEN_PASSTHROUGH;
	out->backing_id = id;
	return 0;
}

TEST_F(backing, on_the_ring_of_a_queue)
{
	struct ring_server_cfg cfg = {
		.init_flags = BACKING_INIT,
		.open = queue_ring_hook,
	};
	char buf[8];
	int m;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, &cfg));
	self->env.hook_fd = backing_make_file(&self->env, "file", 100);
	ASSERT_GE(self->env.hook_fd, 0);
	m = open_mnt(&self->env, "file", O_RDWR);
	ASSERT_GE(m, 0);
	EXPECT_EQ(8, read(m, buf, 8));
	EXPECT_EQ(0, served(&self->env));
	close(m);
	/* opened there, closed here */
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, self->env.hook_id));

	/* and the error comes to the client */
	close(self->env.hook_fd);
	self->env.hook_fd = -1;
	EXPECT_EQ(-EBADF, open_mnt(&self->env, "file", O_RDWR));
}

TEST_F(backing, channels_mix)
{
	const struct backing_how how = { .ioctl = true };
	struct backing_issuer other;
	int fd, m, id, oid;
	char buf[4];

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = ring_server_dev_fd(self->env.server);
	ASSERT_EQ(0, backing_issuer_init(&other, &how, fd));
	fd = backing_make_file(&self->env, "file", 100);
	ASSERT_GE(fd, 0);

	/* one name space of ids */
	id = backing_issue_open(&self->env.issuer, fd);
	oid = backing_issue_open(&other, fd);
	ASSERT_GT(id, 0);
	EXPECT_EQ(id + 1, oid);

	/* an id of the other channel serves an OPEN over the ring */
	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file", oid));
	m = open_mnt(&self->env, "file", O_RDONLY);
	ASSERT_GE(m, 0);
	EXPECT_EQ(4, read(m, buf, 4));
	EXPECT_EQ(0, served(&self->env));
	close(m);

	EXPECT_EQ(0, backing_issue_close(&other, id));
	EXPECT_EQ(-ENOENT, backing_issue_close(&self->env.issuer, id));
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, oid));
	EXPECT_EQ(-ENOENT, backing_issue_close(&other, oid));
	close(fd);
	backing_issuer_exit(&other);
}

/* A read lease is there for the taking if nobody has the file open to write */
static int try_lease(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK))
		return -errno;
	return fcntl(fd, F_SETLEASE, F_UNLCK) ? -errno : 0;
}

/* From its registration to its close, and clients only borrow it */
TEST_F(backing, id_holds_the_file)
{
	int fd, i, id, m;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	close(backing_make_file(&self->env, "file", 10));
	/* one that the server does not have open itself */
	fd = backing_make_file(&self->env, "other", 10);
	ASSERT_GE(fd, 0);
	id = backing_issue_open(&self->env.issuer, fd);
	ASSERT_GT(id, 0);
	close(fd);
	fd = open_back(&self->env, "other", O_RDONLY);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(-EAGAIN, try_lease(fd));

	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file", id));
	for (i = 0; i < 3; i++) {
		m = open_mnt(&self->env, "file", O_RDONLY);
		ASSERT_GE(m, 0);
		close(m);
		ASSERT_EQ(-EAGAIN, try_lease(fd));
	}

	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id));
	/* the last fput() can be that of an io_uring worker */
	for (i = 0; i < 100 && try_lease(fd) == -EAGAIN; i++)
		usleep(50000);
	EXPECT_EQ(0, try_lease(fd));
	close(fd);
}

/* Teardown sees whether their file system unmounts */
TEST_F(backing, never_closed)
{
	int fd, i, m;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	ASSERT_GT(backing_register_file(&self->env, "file"), 0);
	m = open_mnt(&self->env, "file", O_RDWR);
	ASSERT_GE(m, 0);
	for (i = 0; i < 100; i++) {
		fd = open_back(&self->env, "file", O_RDONLY);
		EXPECT_GT(backing_issue_open(&self->env.issuer, fd), 0);
		close(fd);
	}
	close(m);
}

FIXTURE(command)
{
	struct backing_env env;
};

FIXTURE_VARIANT(command)
{
	struct backing_how how;
};

#define BACKING_FIXTURE command
#include "backing_variants.h"

FIXTURE_SETUP(command)
{
	const char *missing = backing_env_missing(&variant->how);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, backing_env_setup(&self->env));
}

FIXTURE_TEARDOWN(command)
{
	EXPECT_EQ(0, backing_env_teardown(&self->env));
}

struct field {
	const char *name;
	size_t from;
	size_t bytes;
};

/* The layout of the uapi documentation, not what the compiler makes of it */
static const struct field open_reserved[] = {
	{ "flags", 0, 8 },
	{ "commit_id", 8, 8 },
	{ "qid and padding", 16, 8 },
	{ "backing.reserved", 44, 4 },
	{ }
};

static const struct field close_reserved[] = {
	{ "flags", 0, 8 },
	{ "commit_id", 8, 8 },
	{ "qid and padding", 16, 8 },
	{ "backing.map", 24, 16 },
	{ "backing.reserved", 44, 4 },
	{ }
};

/* What must be 0, one bit at a time, in a command that is good otherwise */
static void check_reserved(struct __test_metadata *_metadata,
			   struct backing_issuer *issuer, __u32 op,
			   const struct fuse_uring_cmd_req *good,
			   const struct field *field)
{
	struct fuse_uring_cmd_req req;
	unsigned char *byte;
	size_t bit;

	for (; field->name; field++) {
		for (bit = 0; bit < 8 * field->bytes; bit++) {
			req = *good;
			byte = (unsigned char *)&req + field->from + bit / 8;
			*byte ^= 1 << bit % 8;
			EXPECT_EQ(-EINVAL, backing_issue(issuer, op, &req, 0)) {
				TH_LOG("%s, bit %zu", field->name, bit);
			}
		}
	}
	EXPECT_EQ(-EINVAL,
		  backing_issue(issuer, op, good, IORING_URING_CMD_FIXED));
	EXPECT_EQ(-EINVAL, backing_issue(issuer, op, good, 1U << 2));
}

TEST_F(command, reserved_fields)
{
	struct fuse_uring_cmd_req req = { 0 };
	int fd, id;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);

	req.backing.map.fd = fd;
	check_reserved(_metadata, &self->env.issuer,
		       FUSE_IO_URING_CMD_BACKING_OPEN, &req, open_reserved);
	id = backing_issue_open(&self->env.issuer, fd);
	EXPECT_EQ(1, id);

	req = (struct fuse_uring_cmd_req){ .backing.id = id };
	check_reserved(_metadata, &self->env.issuer,
		       FUSE_IO_URING_CMD_BACKING_CLOSE, &req, close_reserved);
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id));
	close(fd);
}

TEST_F(command, wanted_id)
{
	struct backing_issuer *issuer = &self->env.issuer;
	int fd, id, m;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = backing_make_file(&self->env, "file", FILE_SZ);
	ASSERT_GE(fd, 0);

	EXPECT_EQ(fd, backing_issue_open_id(issuer, fd, fd));
	EXPECT_EQ(INT_MAX, backing_issue_open_id(issuer, fd, INT_MAX));
	EXPECT_EQ(1, backing_issue_open_id(issuer, fd, 1));
	EXPECT_EQ(1 << 30, backing_issue_open_id(issuer, fd, 1 << 30));

	EXPECT_EQ(-EEXIST, backing_issue_open_id(issuer, fd, fd));
	EXPECT_EQ(-EEXIST, backing_issue_open_id(issuer, fd, INT_MAX));
	EXPECT_EQ(-EEXIST, backing_issue_open_id(issuer, fd, 1));
	EXPECT_EQ(-EINVAL, backing_issue_open_id(issuer, fd, -1));
	EXPECT_EQ(-EINVAL, backing_issue_open_id(issuer, fd, INT_MIN));
	/* the file is looked at before the id */
	EXPECT_EQ(-EBADF, backing_issue_open_id(issuer, -1, fd));
	EXPECT_EQ(-EISDIR, backing_issue_open_id(issuer, self->env.dir_fd,
						 INT_MAX));

	/* it is an id like any other */
	ASSERT_EQ(0, ring_server_set_backing(self->env.server, "file",
					     INT_MAX));
	m = open_mnt(&self->env, "file", O_RDWR);
	ASSERT_GE(m, 0);
	EXPECT_EQ(4, pwrite(m, "want", 4, 0));
	EXPECT_EQ(0, cmp_back(&self->env, "file", "want", 4, 0));
	EXPECT_EQ(0, served(&self->env));
	close(m);

	/* and free again right after its close */
	for (id = 0; id < 100; id++) {
		EXPECT_EQ(0, backing_issue_close(issuer, INT_MAX));
		EXPECT_EQ(INT_MAX, backing_issue_open_id(issuer, fd, INT_MAX));
	}
	close(fd);
}

TEST_F(command, kernel_skips_wanted_ids)
{
	const struct backing_how how = { .ioctl = true };
	struct backing_issuer *issuer = &self->env.issuer;
	struct backing_issuer ioctl;
	int fd, i;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = ring_server_dev_fd(self->env.server);
	ASSERT_EQ(0, backing_issuer_init(&ioctl, &how, fd));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);

	for (i = 2; i <= 100; i += 2)
		ASSERT_EQ(i, backing_issue_open_id(issuer, fd, i));
	EXPECT_EQ(INT_MAX, backing_issue_open_id(issuer, fd, INT_MAX));
	/* upwards from 1, whatever was asked for between, either way */
	for (i = 1; i < 100; i += 4) {
		EXPECT_EQ(i, backing_issue_open(issuer, fd));
		EXPECT_EQ(i + 2, backing_issue_open(&ioctl, fd));
	}
	EXPECT_EQ(101, backing_issue_open(issuer, fd));
	EXPECT_EQ(-EEXIST, backing_issue_open_id(issuer, fd, 99));

	/* cyclically: an id that was given back is not the next one */
	EXPECT_EQ(0, backing_issue_close(&ioctl, 50));
	EXPECT_EQ(0, backing_issue_close(issuer, 101));
	EXPECT_EQ(102, backing_issue_open(&ioctl, fd));
	EXPECT_EQ(50, backing_issue_open_id(issuer, fd, 50));
	backing_issuer_exit(&ioctl);
	close(fd);
}

#define RACES	200

struct racer {
	pthread_t thread;
	pthread_barrier_t *barrier;
	const struct backing_how *how;
	int dev_fd;
	int fd;
	int res[RACES];
};

static void *race_thread(void *arg)
{
	struct racer *r = arg;
	struct backing_issuer issuer;
	int i;

	if (backing_issuer_init(&issuer, r->how, r->dev_fd))
		abort();
	for (i = 0; i < RACES; i++) {
		pthread_barrier_wait(r->barrier);
		r->res[i] = backing_issue_open_id(&issuer, r->fd, 1000 + i);
	}
	backing_issuer_exit(&issuer);
	return NULL;
}

TEST_F(command, race_for_an_id)
{
	pthread_barrier_t barrier;
	struct racer r[2] = { };
	int fd, i;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, 2));
	for (i = 0; i < 2; i++) {
		r[i].barrier = &barrier;
		r[i].how = &variant->how;
		r[i].dev_fd = ring_server_dev_fd(self->env.server);
		r[i].fd = fd;
		ASSERT_EQ(0, pthread_create(&r[i].thread, NULL, race_thread,
					    &r[i]));
	}
	pthread_join(r[0].thread, NULL);
	pthread_join(r[1].thread, NULL);
	/* exactly one wins */
	for (i = 0; i < RACES; i++) {
		EXPECT_TRUE((r[0].res[i] == 1000 + i &&
			     r[1].res[i] == -EEXIST) ||
			    (r[1].res[i] == 1000 + i &&
			     r[0].res[i] == -EEXIST)) {
			TH_LOG("%d and %d", r[0].res[i], r[1].res[i]);
		}
		EXPECT_EQ(0, backing_issue_close(&self->env.issuer, 1000 + i));
	}
	close(fd);
}

#define REWRITES	500

/* Writes one id after the other to the SQE that @target points to */
struct rewriter {
	pthread_t thread;
	struct fuse_uring_cmd_req *target;
	/* where it is at it */
	struct fuse_uring_cmd_req *at;
	int id[2];
	bool stop;
};

static void *rewrite_thread(void *arg)
{
	struct rewriter *r = arg;
	struct fuse_uring_cmd_req *req;

	while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
		req = __atomic_load_n(&r->target, __ATOMIC_ACQUIRE);
		if (!req) {
			sched_yield();
			continue;
		}
		__atomic_store_n(&req->backing.id, r->id[0], __ATOMIC_RELAXED);
		__atomic_store_n(&req->backing.id, r->id[1], __ATOMIC_RELAXED);
		__atomic_store_n(&r->at, req, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* Before the ring is unmapped, which teardown does also after a failure */
static void stop_rewriter(struct rewriter *r)
{
	__atomic_store_n(&r->stop, true, __ATOMIC_RELEASE);
	pthread_join(r->thread, NULL);
}

/*
 * The SQE changes while the command is issued. Whatever the kernel gets to see,
 * it is one id: what it answers is what it has done. Who rewrites it does not
 * sleep, which on a busy machine is what the others wait for
 */
TEST_F_TIMEOUT(command, sqe_rewritten_meanwhile, 300)
{
	/* they differ in one byte: io-wq's copy of the SQE can be torn */
	static const int ids[][2] = {
		{ 1001, 1002 },
		{ 1001, INT_MIN + 1001 },
	};
	const struct backing_how how = { .ioctl = true };
	struct fuse_uring_cmd_req req = { };
	/* closes: the SQEs of the ring are of opens, rewritten or not */
	struct backing_issuer ioctl;
	struct rewriter r = { };
	struct io_uring_sqe *sqe;
	int fd, i, j, res;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = ring_server_dev_fd(self->env.server);
	ASSERT_EQ(0, backing_issuer_init(&ioctl, &how, fd));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);
	req.backing.map.fd = fd;

	for (i = 0; i < 2; i++) {
		memcpy(r.id, ids[i], sizeof(r.id));
		req.backing.id = r.id[0];
		r.stop = false;
		ASSERT_EQ(0, pthread_create(&r.thread, NULL, rewrite_thread,
					    &r));
		for (j = 0; j < REWRITES; j++) {
			sqe = backing_issue_prep(&self->env.issuer,
						 FUSE_IO_URING_CMD_BACKING_OPEN,
						 &req, 0);
			ASSERT_NE(NULL, sqe);
			__atomic_store_n(&r.target, backing_cmd_req(sqe),
					 __ATOMIC_RELEASE);
			while (__atomic_load_n(&r.at, __ATOMIC_ACQUIRE) !=
			       r.target)
				sched_yield();
			res = io_uring_submit_and_wait(&self->env.issuer.ring,
						       1);
			/* 0: the thread of SQPOLL was quicker */
			ASSERT_GE(res, 0);
			res = backing_issue_wait(&self->env.issuer);
			__atomic_store_n(&r.target, NULL, __ATOMIC_RELEASE);

			ASSERT_TRUE(res == r.id[0] || (r.id[1] > 0 ?
				    res == r.id[1] : res == -EINVAL)) {
				stop_rewriter(&r);
				TH_LOG("%d, of %d and %d", res, r.id[0],
				       r.id[1]);
			}
			if (res < 0)
				continue;
			EXPECT_EQ(0, backing_issue_close(&ioctl, res));
			EXPECT_EQ(-ENOENT,
				  backing_issue_close(&ioctl, r.id[0]));
			if (r.id[1] > 0)
				EXPECT_EQ(-ENOENT,
					  backing_issue_close(&ioctl, r.id[1]));
		}
		stop_rewriter(&r);
	}
	backing_issuer_exit(&ioctl);
	close(fd);
}

/* What the rest of the command area holds is nobody's business */
TEST_F(command, rest_of_the_command_area)
{
	struct backing_issuer *issuer = &self->env.issuer;
	struct fuse_uring_cmd_req req = { 0 };
	struct io_uring_sqe *sqe;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	req.backing.map.fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(req.backing.map.fd, 0);
	sqe = backing_issue_prep(issuer, FUSE_IO_URING_CMD_BACKING_OPEN, &req,
				 0);
	ASSERT_NE(NULL, sqe);
	memset(backing_cmd_req(sqe) + 1, 0xff, 80 - sizeof(req));
	ASSERT_LE(0, io_uring_submit_and_wait(&issuer->ring, 1));
	EXPECT_GT(backing_issue_wait(issuer), 0);
	close(req.backing.map.fd);
}

/* Reserved fields first, then what the ioctl checks, in its order */
static int order_of_checks(struct backing_env *env,
			   const struct backing_how *how)
{
	struct fuse_uring_cmd_req req = { .backing.map.fd = -1 };
	struct backing_issuer issuer;
	int ret;

	if (drop_sys_admin() ||
	    backing_issuer_init(&issuer, how, ring_server_dev_fd(env->server)))
		return -ENOEXEC;
	req.backing.reserved = 1;
	ret = backing_issue(&issuer, FUSE_IO_URING_CMD_BACKING_OPEN, &req, 0);
	if (ret != -EINVAL)
		return -1;
	req.backing.reserved = 0;
	req.backing.map.flags = 1;
	ret = backing_issue(&issuer, FUSE_IO_URING_CMD_BACKING_OPEN, &req, 0);
	if (ret != -EPERM)
		return -2;
	/* a map in a close is reserved */
	ret = backing_issue(&issuer, FUSE_IO_URING_CMD_BACKING_CLOSE, &req, 0);
	if (ret != -EINVAL)
		return -3;
	req.backing.map.flags = 0;
	req.backing.map.fd = 0;
	ret = backing_issue(&issuer, FUSE_IO_URING_CMD_BACKING_CLOSE, &req, 0);
	if (ret != -EPERM)
		return -4;
	/* a negative id is a mistake like one in the map */
	if (backing_issue_open_id(&issuer, -1, -1) != -EPERM)
		return -5;
	backing_issuer_exit(&issuer);
	return 0;
}

TEST_F(command, order_of_checks)
{
	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	EXPECT_EQ(0, in_child(order_of_checks, &self->env, &variant->how));
	EXPECT_EQ(-EINVAL, backing_issue_open_id(&self->env.issuer, -1, -1));
}

/* A REGISTER that fails has the kernel go on without io_uring */
TEST_F(command, failed_register)
{
	struct backing_issuer *issuer = &self->env.issuer;
	struct fuse_uring_cmd_req req = { 0 };
	int fd, id;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);
	id = backing_issue_open(issuer, fd);
	ASSERT_GT(id, 0);
	ASSERT_EQ(-EINVAL, backing_issue(issuer, FUSE_IO_URING_CMD_REGISTER,
					 &req, 0));
	EXPECT_EQ(-EOPNOTSUPP, backing_issue_open(issuer, fd));
	EXPECT_EQ(-EOPNOTSUPP, backing_issue_close(issuer, id));
	close(fd);
}

TEST_F(command, unknown_command)
{
	struct fuse_uring_cmd_req req = { 0 };

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	EXPECT_EQ(-EINVAL, backing_issue(&self->env.issuer, 7, &req, 0));
	EXPECT_EQ(-EINVAL, backing_issue(&self->env.issuer, 0, &req, 0));
	EXPECT_EQ(-EINVAL, backing_issue(&self->env.issuer, ~0U, &req, 0));
}

/*
 * An SQE of 64 bytes has no room for the arguments. What is read behind it is
 * the next SQE, and would make a good command here.
 */
TEST_F(command, sqe_of_64_bytes)
{
	const size_t cmd = offsetof(struct io_uring_sqe, cmd);
	struct fuse_uring_cmd_req *req;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int fd, id;
	__u32 op;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);
	id = backing_issue_open(&self->env.issuer, fd);
	ASSERT_GT(id, 0);

	for (op = FUSE_IO_URING_CMD_BACKING_OPEN;
	     op <= FUSE_IO_URING_CMD_BACKING_CLOSE; op++) {
		ASSERT_EQ(0, io_uring_queue_init(2, &ring,
						 variant->how.setup_flags &
						 ~IORING_SETUP_SQE128));
		sqe = io_uring_get_sqe(&ring);
		ASSERT_NE(NULL, sqe);
		memset(sqe, 0, 2 * sizeof(*sqe));
		sqe->opcode = IORING_OP_URING_CMD;
		sqe->fd = ring_server_dev_fd(self->env.server);
		sqe->cmd_op = op;
		sqe->flags = variant->how.sqe_flags;
		req = (void *)((char *)sqe + cmd);
		if (op == FUSE_IO_URING_CMD_BACKING_OPEN)
			req->backing.map.fd = fd;
		else
			req->backing.id = id;
		/* 0: the thread of SQPOLL was quicker */
		ASSERT_LE(0, io_uring_submit_and_wait(&ring, 1));
		ASSERT_EQ(0, io_uring_wait_cqe(&ring, &cqe));
		EXPECT_EQ(-EINVAL, cqe->res);
		io_uring_cqe_seen(&ring, cqe);
		io_uring_queue_exit(&ring);
	}
	EXPECT_EQ(0, backing_issue_close(&self->env.issuer, id));
	close(fd);
}

/* What is not read or written has no use for it, but can have such a ring */
TEST_F(command, iopoll_ring)
{
	struct backing_how how = variant->how;
	struct backing_issuer issuer;
	int fd, id;

	how.setup_flags |= IORING_SETUP_IOPOLL;
	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	ASSERT_EQ(0, backing_issuer_init(&issuer, &how,
					 ring_server_dev_fd(self->env.server)));
	fd = backing_make_file(&self->env, "file", 10);
	ASSERT_GE(fd, 0);
	id = backing_issue_open(&issuer, fd);
	EXPECT_GT(id, 0);
	EXPECT_EQ(0, backing_issue_close(&issuer, id));
	EXPECT_EQ(-ENOENT, backing_issue_close(&issuer, id));
	backing_issuer_exit(&issuer);
	close(fd);
}

/* A /dev/fuse that is not mounted is of no connection */
TEST_F(command, device_not_mounted)
{
	const struct backing_how how = { .setup_flags = IORING_SETUP_SQE128 };
	struct backing_issuer issuer;
	int fd;

	ASSERT_EQ(0, backing_env_start(&self->env, &variant->how, NULL));
	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, backing_issuer_init(&issuer, variant->how.clone ?
					 &how : &variant->how, fd));
	EXPECT_EQ(-EPERM, backing_issue_close(&issuer, 1));
	backing_issuer_exit(&issuer);
	close(fd);
}

static void on_signal(int sig)
{
	(void)sig;
}

/* With FUSE_DEV_IOC_SYNC_INIT it waits for the mount, but not for ever */
TEST_F(command, device_waits_for_its_mount)
{
	struct backing_how how = variant->how;
	struct backing_issuer issuer;
	int fd, status, p[2];
	/* the others have a thread for it, which gets no signal but SIGKILL */
	bool own = !(how.setup_flags & IORING_SETUP_SQPOLL) &&
		   !(how.sqe_flags & IOSQE_ASYNC);
	pid_t pid;
	char c;

	how.clone = false;
	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, ioctl(fd, FUSE_DEV_IOC_SYNC_INIT));
	ASSERT_EQ(0, pipe(p));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		const struct sigaction sa = { .sa_handler = on_signal };

		if (sigaction(SIGUSR1, &sa, NULL) ||
		    backing_issuer_init(&issuer, &how, fd) ||
		    write(p[1], "x", 1) != 1)
			_exit(1);
		_exit(backing_issue_close(&issuer, 1) == -EINTR ? 0 : 2);
	}
	ASSERT_EQ(1, read(p[0], &c, 1));
	/* it would not take as long if it did not wait */
	usleep(300000);
	EXPECT_EQ(0, waitpid(pid, &status, WNOHANG));
	EXPECT_EQ(0, kill(pid, own ? SIGUSR1 : SIGKILL));
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(own ? 0 : SIGKILL, status);
	close(p[0]);
	close(p[1]);
	close(fd);
}

/* Bytes of slab in use, in all caches */
static long slab(void)
{
	char line[128];
	long kb = -1;
	FILE *f;

	f = fopen("/proc/meminfo", "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f) &&
	       sscanf(line, "Slab: %ld", &kb) != 1)
		;
	fclose(f);
	return kb * 1024;
}

static int reverse_bits(unsigned int n)
{
	unsigned int i, r = 0;

	for (i = 0; i < 31; i++)
		r |= (n >> i & 1) << (30 - i);
	return r;
}

#define MANY_IDS	20000

FIXTURE(memory)
{
	struct backing_env env;
};

FIXTURE_SETUP(memory)
{
	const char *missing = backing_env_missing(NULL);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, backing_env_setup(&self->env));
}

FIXTURE_TEARDOWN(memory)
{
	EXPECT_EQ(0, backing_env_teardown(&self->env));
}

/*
 * What an id costs in memory, dense from 1 and spread over all 31 bits. It
 * takes long on a kernel that remembers where each of them was allocated
 */
TEST_F_TIMEOUT(memory, of_ids, 300)
{
	const struct backing_how how = { .setup_flags = IORING_SETUP_SQE128 };
	struct backing_issuer *issuer = &self->env.issuer;
	long before, cost[2];
	int fd, i, id, spread;

	for (spread = 0; spread < 2; spread++) {
		ASSERT_EQ(0, backing_env_start(&self->env, &how, NULL));
		fd = backing_make_file(&self->env, "file", 10);
		ASSERT_GE(fd, 0);
		before = slab();
		for (i = 1; i <= MANY_IDS; i++) {
			id = spread ? reverse_bits(i) : i;
			ASSERT_EQ(id, backing_issue_open_id(issuer, fd, id));
		}
		cost[spread] = (slab() - before) / MANY_IDS;
		close(fd);
		EXPECT_EQ(0, backing_env_stop(&self->env));
	}
	TH_LOG("%d ids: %ld bytes each dense, %ld spread", MANY_IDS, cost[0],
	       cost[1]);
	/* nodes of the id map are shared, or at worst not, but never worse */
	EXPECT_LT(cost[0], 1024);
	EXPECT_LT(cost[1], 4096);
}

/*
 * The flag, the commands and the parameter belong together. This one does not
 * skip where the flag is missing but the commands are there, or the other way
 * round.
 */
FIXTURE(capability)
{
	struct backing_env env;
};

FIXTURE_SETUP(capability)
{
	const struct backing_how how = { .setup_flags = IORING_SETUP_SQE128 };

	self->env.dir_fd = -1;
	if (geteuid())
		SKIP(return, "needs root");
	if (backing_init_err)
		SKIP(return, "FUSE_INIT: %s", strerror(-backing_init_err));
	if (!(backing_init_flags & FUSE_OVER_IO_URING))
		SKIP(return, "FUSE_INIT has no FUSE_OVER_IO_URING");
	if (backing_issuer_probe(&how))
		SKIP(return, "no ring: is io_uring off?");
	ASSERT_EQ(0, backing_env_setup(&self->env));
}

FIXTURE_TEARDOWN(capability)
{
	EXPECT_EQ(0, backing_env_teardown(&self->env));
}

TEST_F(capability, flag_tells_of_commands)
{
	const struct backing_how how = { .setup_flags = IORING_SETUP_SQE128 };
	struct ring_server_cfg cfg = {
		.init_flags = FUSE_OVER_IO_URING |
			      (backing_init_flags & FUSE_PASSTHROUGH),
	};
	bool flag = backing_init_flags & FUSE_HAS_IO_URING_BACKING;
	const struct backing_how by_ioctl = { .ioctl = true };
	const struct fuse_uring_cmd_req reserved = { .backing.reserved = 1 };
	struct backing_issuer ioctl;
	int dir_fd = self->env.dir_fd, ret, want;

	ASSERT_EQ(0, backing_env_start(&self->env, &how, &cfg));
	ret = backing_issue_close(&self->env.issuer, NO_ID);
	if (!(backing_init_flags & FUSE_PASSTHROUGH)) {
		/* built without: no flag, and the answer of the ioctl */
		EXPECT_FALSE(flag);
		want = backing_init_minor < 47 ? -EINVAL : -EOPNOTSUPP;
		EXPECT_EQ(want, ret);
		EXPECT_EQ(want, backing_issue_open(&self->env.issuer, dir_fd));
		/* reserved fields come first here, too */
		EXPECT_EQ(-EINVAL,
			  backing_issue(&self->env.issuer,
					FUSE_IO_URING_CMD_BACKING_OPEN,
					&reserved, 0));
		ASSERT_EQ(0, backing_issuer_init(&ioctl, &by_ioctl,
						 self->env.issuer.dev_fd));
		EXPECT_EQ(-EOPNOTSUPP, backing_issue_close(&ioctl, NO_ID));
		EXPECT_EQ(-EOPNOTSUPP, backing_issue_open(&ioctl, dir_fd));
		backing_issuer_exit(&ioctl);
	} else if (ret == -EINVAL && !flag) {
		SKIP(return, "the kernel has no backing file commands");
	} else {
		EXPECT_EQ(-ENOENT, ret);
		EXPECT_TRUE(flag);
	}
}

TEST_F(capability, no_flag_without_parameter)
{
	__u64 flags = ~0ULL;

	if (!(backing_init_flags & FUSE_HAS_IO_URING_BACKING))
		SKIP(return, "FUSE_INIT has no FUSE_HAS_IO_URING_BACKING");
	ASSERT_EQ(0, ring_server_enable_uring(false, NULL));
	EXPECT_EQ(0, ring_server_init_flags(&flags, NULL));
	EXPECT_EQ(0, ring_server_enable_uring(true, NULL));
	EXPECT_EQ(0, flags & (FUSE_HAS_IO_URING_BACKING | FUSE_OVER_IO_URING));
}

int main(int argc, char **argv)
{
	backing_env_main();
	return test_harness_run(argc, argv);
}
