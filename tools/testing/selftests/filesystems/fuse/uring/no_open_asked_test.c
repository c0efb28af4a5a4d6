// SPDX-License-Identifier: GPL-2.0
/*
 * Opens of a file that the server allows to open without a request, when the
 * server is asked all the same, and when the connection has ended. See
 * Documentation/filesystems/fuse/fuse-passthrough.rst.
 */
#define _GNU_SOURCE
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "env.h"

#define BIND	"/tmp/bind"
#define OPTIONS	"default_permissions"
#define BOTH	(FUSE_URING_BACKING_INODE | FUSE_URING_BACKING_NO_OPEN)

/* What the hooks do; every test is a process */
static struct {
	/* in the answer to OPEN; and it neither passes nor uses a file */
	__u32 open_flags;
	bool plain;
	/* files are passed without this capability */
	int without;
	/* of the last OPEN */
	bool told;
	__u32 flags;
} hook = { .without = CAP_NONE };

static int handle(struct ring_req *req)
{
	const struct fuse_ioctl_in *ioctl_in = req->op;
	const struct fuse_open_in *open_in = req->op;
	struct fuse_ioctl_out *ioctl_out = req->out;
	int len = files_handle(req);

	switch (req->in.opcode) {
	case FUSE_OPEN:
		hook.told = open_in->open_flags & FUSE_OPEN_BACKING;
		hook.flags = open_in->flags;
		return hook.flags & O_TRUNC && ftruncate(req->node->fd, 0) ?
		       -errno : len;
	case FUSE_IOCTL:
		memset(ioctl_out, 0, sizeof(*ioctl_out) + ioctl_in->out_size);
		*(int *)(ioctl_out + 1) = FS_NODUMP_FL;
		return sizeof(*ioctl_out) + ioctl_in->out_size;
	}
	return len;
}

static bool reply(struct ring_req *req)
{
	if (req->open)
		req->open->open_flags = hook.open_flags;
	if (!req->open || !hook.plain) {
		capabilities_without(hook.without);
		files_reply(req);
	}
	ring_req_commit(req);
	/* inline: it runs when it is submitted */
	io_uring_submit(&req->queue->issuer.ring);
	capabilities_without(CAP_NONE);
	return false;
}

FIXTURE(asked)
{
	struct env env;
	struct ring_node *node;
};

static void start(struct __test_metadata *_metadata, struct env *env,
		  __u64 init_flags, const char *options)
{
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT | init_flags,
		.options = options,
		.handle = handle,
		.hooks.reply = reply,
	};

	env_start(_metadata, env, &cfg);
}

FIXTURE_SETUP(asked)
{
	struct env *env = &self->env;
	const char *missing = env_setup(_metadata, env, ENV_NEED(BY_COMMIT) |
					FUSE_HAS_NO_OPEN_BACKING);

	if (missing)
		SKIP(return, "%s", missing);
	close(env_file(_metadata, env, "file"));
	self->node = files_node(&env->files, "file");
	ASSERT_NE(NULL, self->node);
	env->files.pass = true;
	env->files.by = BY_COMMIT;
	env->files.inode_flags = BOTH;
	env_pin(_metadata, env, 0);
	start(_metadata, env, 0, OPTIONS);
}

FIXTURE_TEARDOWN(asked)
{
	env_teardown(_metadata, &self->env);
}

#define count(opcode)	ring_server_count(self->env.server, FUSE_##opcode)

/* Open the file: is the server asked, and is the I/O its own? */
static int open_file(struct __test_metadata *_metadata, struct env *env,
		     int flags, bool asked, bool served)
{
	unsigned long nr = ring_server_count(env->server, FUSE_OPEN);
	unsigned long io = env_io_served(env);
	int fd = env_open("file", flags);

	EXPECT_LE(0, fd);
	EXPECT_EQ(nr + asked, ring_server_count(env->server, FUSE_OPEN));
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_EQ(served, env_io_served(env) > io);
	return fd;
}

/* Close one that the server was asked for */
static void close_asked(struct __test_metadata *_metadata, struct env *env,
			int fd)
{
	unsigned long nr = ring_server_count(env->server, FUSE_RELEASE);

	close(fd);
	env_released(_metadata, env, nr + 1);
}

/* To truncate it is the server's then */
TEST_F(asked, atomic_o_trunc)
{
	struct env *env = &self->env;
	int fd;

	env_stop(_metadata, env);
	start(_metadata, env, FUSE_ATOMIC_O_TRUNC, OPTIONS);
	fd = env_open("file", O_RDWR | O_TRUNC);
	EXPECT_EQ(1, count(OPEN));
	EXPECT_TRUE(hook.told);
	EXPECT_EQ(O_TRUNC, hook.flags & O_TRUNC);
	EXPECT_EQ(0, count(SETATTR));
	EXPECT_EQ(0, lseek(self->node->fd, 0, SEEK_END));
	EXPECT_EQ(5, pwrite(fd, "again", 5, 0));
	EXPECT_TRUE(env_has(self->node->fd, "again", 0));
	EXPECT_EQ(0, env_io_served(env));
	close_asked(_metadata, env, fd);
	close(env_open("file", O_RDWR));
	EXPECT_EQ(1, count(OPEN));
}

/* Else the client's permissions are up to the server */
TEST_F(asked, without_default_permissions)
{
	struct env *env = &self->env;
	int fd;

	env_stop(_metadata, env);
	start(_metadata, env, 0, NULL);
	fd = open_file(_metadata, env, O_RDWR, true, false);
	EXPECT_TRUE(hook.told);
	close_asked(_metadata, env, fd);
}

/* They open a file of their own */
TEST_F(asked, file_attributes)
{
	struct env *env = &self->env;
	int fd = open_file(_metadata, env, O_RDWR, false, false), flags;

	EXPECT_EQ(0, ioctl(fd, FS_IOC_GETFLAGS, &flags));
	EXPECT_EQ(FS_NODUMP_FL, flags);
	EXPECT_EQ(1, count(OPEN));
	env_released(_metadata, env, 1);
	/* to which the answer can be a file, too */
	self->env.files.inode_flags = 0;
	EXPECT_EQ(0, ioctl(fd, FS_IOC_GETFLAGS, &flags));
	env_released(_metadata, env, 2);
	EXPECT_TRUE(env_is(fd, "file"));
	close(fd);
	EXPECT_EQ(2, count(OPEN));
	EXPECT_EQ(2, count(RELEASE));
	EXPECT_EQ(0, env_io_served(env));
}

/* The mode belongs to the inode */
TEST_F(asked, open_in_another_mode)
{
	struct env *env = &self->env;
	int fd, fd2;

	/* cached; the server knows that */
	env->files.pass = false;
	fd = open_file(_metadata, env, O_RDWR, true, true);
	env->files.pass = true;
	fd2 = open_file(_metadata, env, O_RDWR, true, true);
	EXPECT_TRUE(hook.told);
	EXPECT_EQ(4, pwrite(fd2, "file", 4, 1000));
	EXPECT_EQ(1, count(WRITE));
	close_asked(_metadata, env, fd);
	close_asked(_metadata, env, fd2);
	close(open_file(_metadata, env, O_RDWR, false, false));

	/* direct I/O, which the server can have a reason for */
	env_prune(_metadata, env, self->node->nodeid, 1);
	env->files.pass = false;
	hook.open_flags = FOPEN_DIRECT_IO;
	fd = open_file(_metadata, env, O_RDWR, true, true);
	hook.open_flags = 0;
	env->files.pass = true;
	fd2 = open_file(_metadata, env, O_RDWR, true, true);
	EXPECT_TRUE(hook.told);
	close_asked(_metadata, env, fd2);
	close_asked(_metadata, env, fd);
	close(open_file(_metadata, env, O_RDWR, false, false));
}

/* It is on a read-only mount, or the server's credentials do not allow it */
TEST_F(asked, backing_file_cannot_be_opened)
{
	struct env *env = &self->env;
	int fd, i;

	ASSERT_EQ(0, mkdir(BIND, 0755));
	ASSERT_EQ(0, mount(ENV_BACK, BIND, NULL, MS_BIND, NULL));
	ASSERT_EQ(0, mount(NULL, BIND, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY,
			   NULL));
	for (i = 0; i < 2; i++) {
		self->node->pass_fd = open(i ? ENV_BACK "/file" : BIND "/file",
					   O_PATH | O_CLOEXEC);
		close(open_file(_metadata, env, O_RDONLY, false, false));
		/* the server has one that can be written to */
		hook.plain = true;
		fd = open_file(_metadata, env, O_RDWR, true, true);
		EXPECT_EQ(4, pwrite(fd, "data", 4, 100));
		EXPECT_TRUE(env_has(self->node->fd, "data", 100));
		close_asked(_metadata, env, fd);
		hook.plain = false;
		close(self->node->pass_fd);
		ASSERT_EQ(0, fchmod(self->node->fd, 0400));
		hook.without = CAP_DAC_OVERRIDE;
	}
	env_stop(_metadata, env);
	EXPECT_EQ(0, umount(BIND));
}

/* As long as it is open it is opened with that file; nothing has to be asked */
TEST_F(asked, replaced_while_open)
{
	struct env *env = &self->env;
	int other = env_file(_metadata, env, "other"), fd, fd2;

	fd = open_file(_metadata, env, O_RDWR, false, false);
	self->node->pass_fd = other;
	fd2 = open_file(_metadata, env, O_RDWR, false, false);
	close(fd);
	close(fd2);
	fd = env_open("file", O_RDWR);
	EXPECT_TRUE(env_is(fd, "other"));
	EXPECT_EQ(0, count(OPEN));
	close(fd);

	/* but if that file was passed without the flag */
	env->files.inode_flags = FUSE_URING_BACKING_INODE;
	self->node->pass_fd = self->node->fd;
	fd = open_file(_metadata, env, O_RDWR, true, false);
	env->files.inode_flags = BOTH;
	self->node->pass_fd = other;
	fd2 = open_file(_metadata, env, O_RDWR, true, false);
	close_asked(_metadata, env, fd2);
	close_asked(_metadata, env, fd);
	close(other);
}

/* What a LOOKUP passes says how it is opened from then on */
TEST_F(asked, no_longer_allowed)
{
	static const struct {
		__u64 flags;
		bool drop, prune, told;
	} steps[] = {
		{ FUSE_URING_BACKING_INODE, .told = true },
		{ FUSE_URING_BACKING_INODE, .drop = true },
		{ 0, .prune = true },
	};
	struct env *env = &self->env;
	size_t i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(steps) && __test_passed(_metadata); i++) {
		env->files.inode_flags = BOTH;
		self->node->pass_fd = self->node->fd;
		close(open_file(_metadata, env, O_RDWR, false, false));
		/* a LOOKUP that passes none changes nothing */
		env->files.pass = false;
		close(open_file(_metadata, env, O_RDWR, false, false));
		if (steps[i].prune)
			env_prune(_metadata, env, self->node->nodeid, 1);
		env->files.pass = steps[i].flags;
		env->files.inode_flags = steps[i].flags;
		if (steps[i].drop)
			self->node->pass_fd = -1;
		fd = open_file(_metadata, env, O_RDWR, true, !steps[i].told);
		EXPECT_EQ(steps[i].told, hook.told) {
			TH_LOG("step %zu", i);
		}
		close_asked(_metadata, env, fd);
		env->files.pass = true;
	}
}

/*
 * The connection has ended, which files that are open do not need. Names and
 * attributes are cached, so it is the open that says it.
 */
static void check_end(struct __test_metadata *_metadata, struct env *env, int fd,
		      int back)
{
	EXPECT_EQ(-ENOTCONN, env_open("file", O_RDWR));
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_EQ(4, pwrite(fd, "data", 4, 100));
	EXPECT_TRUE(env_has(back, "data", 100));
	close(fd);
	EXPECT_EQ(-ENOTCONN, env_open("file", O_RDWR));
}

TEST_F(asked, after_an_abort)
{
	int fd;

	self->env.files.cache_secs = 1000;
	fd = env_open("file", O_RDWR);
	EXPECT_EQ(-1, umount2(ENV_MNT, MNT_FORCE));
	check_end(_metadata, &self->env, fd, self->node->fd);
}

TEST_F(asked, after_the_server)
{
	sem_t *begun = mmap(NULL, sizeof(*begun), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	time_t patience = time(NULL) + RING_PATIENCE;
	int fd, fd2;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, begun);
	ASSERT_EQ(0, sem_init(begun, 1, 0));
	env_stop(_metadata, &self->env);
	self->env.files.cache_secs = 1000;
	pid = sys_fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		start(_metadata, &self->env, 0, OPTIONS);
		sem_post(begun);
		for (;;)
			pause();
	}
	ASSERT_EQ(0, sys_wait_for(begun, RING_PATIENCE));
	fd = env_open("file", O_RDWR);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(SIGKILL, sys_wait(pid));
	/* its rings end after it, and with them the connection */
	while ((fd2 = env_open("file", O_RDWR)) >= 0) {
		close(fd2);
		ASSERT_GT(patience, time(NULL));
	}
	check_end(_metadata, &self->env, fd, self->node->fd);
	EXPECT_EQ(0, umount(ENV_MNT));
}

TEST_F(asked, after_a_lazy_umount)
{
	int dir = open(ENV_MNT, O_PATH | O_DIRECTORY);
	int fd = env_open("file", O_RDWR), fd2;

	ASSERT_EQ(0, umount2(ENV_MNT, MNT_DETACH));
	fd2 = openat(dir, "file", O_RDWR);
	close(dir);
	EXPECT_TRUE(env_is(fd, "file"));
	close(fd);
	EXPECT_TRUE(env_is(fd2, "file"));
	EXPECT_EQ(0, count(OPEN));
	close(fd2);
}

ENV_MAIN
