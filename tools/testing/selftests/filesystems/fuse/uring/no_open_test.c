// SPDX-License-Identifier: GPL-2.0
/*
 * Opens without a request: what can be done with such files, and what the server
 * is asked all the same. When it is asked to open is in no_open_asked_test.c. See
 * Documentation/filesystems/fuse/fuse-passthrough.rst.
 *
 * The server allows it with each LOOKUP, and names and attributes are cached, so
 * that each request that it counts is one of the test.
 */
#define _GNU_SOURCE
#include <sys/fsuid.h>
#include <sys/ioctl.h>

#include "env.h"

#define FILE_	ENV_MNT "/file"
/* The server's, where it is asked */
#define FH	7
/* No other file system has it */
#define IOCTL	_IOR('t', 1, int)

#define OPTIONS	"default_permissions"

/* What the hooks do; every test is a process */
static struct {
	/* there are ACLs */
	bool acl;
	/* of the last request but LOOKUP: its fh, and if it says it has one */
	__u64 fh, fh_out;
	bool has_fh;
	/* of the last SETLK, and of the last RELEASE */
	__u64 setlk_owner, release_owner;
	__u32 release_flags;
} hook;

/* Most requests for a file begin with the fh */
static void look_at(const struct ring_req *req)
{
	const struct fuse_getattr_in *getattr = req->op;
	const struct fuse_setattr_in *setattr = req->op;
	const struct fuse_release_in *release = req->op;
	const struct fuse_copy_file_range_in *copy = req->op;
	const struct fuse_lk_in *setlk = req->op;

	if (req->in.opcode == FUSE_LOOKUP)
		return;
	hook.fh = release->fh;
	switch (req->in.opcode) {
	case FUSE_GETATTR:
		hook.fh = getattr->fh;
		hook.has_fh = getattr->getattr_flags & FUSE_GETATTR_FH;
		break;
	case FUSE_SETATTR:
		hook.fh = setattr->fh;
		hook.has_fh = setattr->valid & FATTR_FH;
		break;
	case FUSE_RELEASE:
		hook.release_flags = release->release_flags;
		hook.release_owner = release->lock_owner;
		break;
	case FUSE_SETLK:
		hook.setlk_owner = setlk->owner;
		break;
	case FUSE_COPY_FILE_RANGE:
		hook.fh_out = copy->fh_out;
		break;
	}
}

static int do_rename(struct files *files, const char *from)
{
	const char *to = from + strlen(from) + 1;
	struct ring_node *node = files_node(files, from);

	/* that one has no name any more */
	*files_node(files, to)->name = 0;
	if (renameat(files->dir_fd, from, files->dir_fd, to))
		return -errno;
	strcpy(node->name, to);
	return 0;
}

/* User 1 may read, others may not */
static int do_getxattr(struct ring_req *req)
{
	static const struct {
		__le32 version;
		struct {
			__le16 tag, perm;
			__le32 id;
		} entry[5];
	} acl = { 2, { { 1, 6 }, { 2, 4, 1 }, { 4 }, { 16, 4 }, { 32 } } };
	const struct fuse_getxattr_in *in = req->op;

	if (!req->node || strcmp(req->data, "system.posix_acl_access"))
		return -ENODATA;
	if (in->size < sizeof(acl))
		return -ERANGE;
	memcpy(req->out, &acl, sizeof(acl));
	return sizeof(acl);
}

static int do_copy_file_range(struct ring_req *req)
{
	const struct fuse_copy_file_range_in *in = req->op;
	loff_t off_in = in->off_in, off_out = in->off_out;
	int fd = req->node->fd;
	ssize_t n = copy_file_range(fd, &off_in, fd, &off_out, in->len, 0);

	*(struct fuse_write_out *)req->out = (struct fuse_write_out) { n };
	return n < 0 ? -errno : sizeof(struct fuse_write_out);
}

/* The number 42 */
static int do_ioctl(struct ring_req *req)
{
	const struct fuse_ioctl_in *in = req->op;
	struct fuse_ioctl_out *out = req->out;

	memset(out, 0, sizeof(*out) + in->out_size);
	*(int *)(out + 1) = 42;
	return sizeof(*out) + in->out_size;
}

static int handle(struct ring_req *req)
{
	const struct fuse_fallocate_in *fallocate_in = req->op;
	const struct fuse_lseek_in *lseek_in = req->op;
	struct files *files = req->server->cfg.priv;
	int len;

	if (req->in.opcode != FUSE_LOOKUP)
		look_at(req);
	else if (!strcmp(req->data, "link"))
		/* another name of it */
		req->data = "file";
	len = files_handle(req);
	switch (req->in.opcode) {
	case FUSE_RENAME:
		return do_rename(files, req->data);
	case FUSE_GETXATTR:
		return hook.acl ? do_getxattr(req) : -ENOSYS;
	case FUSE_FSYNC:
		return fsync(req->node->fd) ? -errno : 0;
	case FUSE_FALLOCATE:
		return fallocate(req->node->fd, fallocate_in->mode,
				 fallocate_in->offset, fallocate_in->length) ?
		       -errno : 0;
	case FUSE_LSEEK:
		*(__u64 *)req->out = lseek(req->node->fd, lseek_in->offset,
					   lseek_in->whence);
		return sizeof(struct fuse_lseek_out);
	case FUSE_COPY_FILE_RANGE:
		return do_copy_file_range(req);
	case FUSE_IOCTL:
		return do_ioctl(req);
	case FUSE_POLL:
		*(struct fuse_poll_out *)req->out = (struct fuse_poll_out) {
			.revents = POLLPRI,
		};
		return sizeof(struct fuse_poll_out);
	case FUSE_SETLK:
	case FUSE_SETLKW:
	case FUSE_FLUSH:
		return 0;
	default:
		/* what is not there is asked for once */
		return len == -EOPNOTSUPP ? -ENOSYS : len;
	}
}

static bool reply(struct ring_req *req)
{
	if (req->open && req->len > 0)
		req->open->fh = FH;
	return files_reply(req);
}

FIXTURE(no_open)
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

static void restart(struct __test_metadata *_metadata, struct env *env,
		    __u64 init_flags, const char *options)
{
	env_stop(_metadata, env);
	start(_metadata, env, init_flags, options);
}

FIXTURE_SETUP(no_open)
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
	env->files.inode_flags = FUSE_URING_BACKING_INODE |
				 FUSE_URING_BACKING_NO_OPEN;
	env->files.cache_secs = 1000;
	env_pin(_metadata, env, 0);
	start(_metadata, env, 0, OPTIONS);
}

FIXTURE_TEARDOWN(no_open)
{
	env_teardown(_metadata, &self->env);
}

#define count(opcode)	ring_server_count(self->env.server, FUSE_##opcode)

/* All that has been asked of the server since the last call */
static unsigned long requests(struct env *env)
{
	static unsigned long before;
	unsigned long nr = 0, now;
	__u32 opcode;

	for (opcode = 0; opcode <= FUSE_STATX; opcode++)
		nr += ring_server_count(env->server, opcode);
	now = nr;
	nr -= before;
	before = now;
	return nr;
}

/* It is open, with this backing file, and no I/O has come to the server */
static void check_fd(struct __test_metadata *_metadata, struct env *env, int fd,
		     int back)
{
	unsigned long served = env_io_served(env);
	char buf[64], buf2[64];

	ASSERT_LE(0, fd);
	EXPECT_EQ(sizeof(buf), pread(fd, buf, sizeof(buf), 0));
	EXPECT_EQ(sizeof(buf), pread(back, buf2, sizeof(buf), 0));
	EXPECT_EQ(0, memcmp(buf, buf2, sizeof(buf)));
	EXPECT_EQ(served, env_io_served(env));
}

TEST_F(no_open, no_request)
{
	int back = self->node->fd, fd, fd2;
	struct stat st, below;
	char *map, *page;

	/* it is looked up, and a write asks if there are xattrs */
	fd = env_open("file", O_RDWR);
	EXPECT_EQ(1, write(fd, "x", 1));
	close(fd);
	EXPECT_EQ(0, count(OPEN));
	requests(&self->env);

	fd = env_open("file", O_RDWR);
	check_fd(_metadata, &self->env, fd, back);
	EXPECT_EQ(0, posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED));
	EXPECT_EQ(4, pwrite(fd, "data", 4, 100));
	EXPECT_TRUE(env_has(back, "data", 100));
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_EQ(0, memcmp(map + 100, "data", 4));
	memcpy(map + 100, "mmap", 4);
	EXPECT_TRUE(env_has(back, "mmap", 100));
	close(fd);
	/* it goes on without the fd */
	EXPECT_EQ(4, pwrite(back, "back", 4, 100));
	EXPECT_EQ(0, memcmp(map + 100, "back", 4));
	munmap(map, 4096);

	fd = env_open("file", O_RDONLY | O_DIRECT);
	ASSERT_LE(0, fd);
	page = aligned_alloc(4096, 4096);
	EXPECT_EQ(4096, pread(fd, page, 4096, 0));
	EXPECT_EQ(0, memcmp(page + 100, "back", 4));
	free(page);
	close(fd);

	/* each at the end of what is there then */
	fd = env_open("file", O_WRONLY | O_APPEND);
	fd2 = env_open("file", O_WRONLY | O_APPEND);
	EXPECT_EQ(3, write(fd, "one", 3));
	EXPECT_EQ(3, write(fd2, "two", 3));
	EXPECT_EQ(5, write(fd, "three", 5));
	EXPECT_TRUE(env_has(back, "onetwothree", ENV_FILE_SZ));
	close(fd);
	EXPECT_EQ(0, requests(&self->env));

	/* which the kernel knows */
	hook.has_fh = true;
	EXPECT_EQ(0, fstat(fd2, &st));
	EXPECT_EQ(0, fstat(back, &below));
	EXPECT_EQ(ENV_FILE_SZ + 11, st.st_size);
	EXPECT_EQ(below.st_mtim.tv_sec, st.st_mtim.tv_sec);
	EXPECT_EQ(below.st_mtim.tv_nsec, st.st_mtim.tv_nsec);
	EXPECT_FALSE(hook.has_fh);
	close(fd2);
	EXPECT_EQ(1, requests(&self->env));
}

TEST_F(no_open, truncate)
{
	int back = self->node->fd, fd;

	/* it is the kernel that does it */
	fd = env_open("file", O_RDWR | O_TRUNC);
	EXPECT_EQ(0, lseek(back, 0, SEEK_END));
	EXPECT_EQ(1, count(SETATTR));
	EXPECT_FALSE(hook.has_fh);
	EXPECT_EQ(4, pwrite(fd, "data", 4, 0));
	EXPECT_TRUE(env_has(back, "data", 0));
	close(fd);
	EXPECT_EQ(0, count(OPEN));
	EXPECT_EQ(0, env_io_served(&self->env));
}

TEST_F(no_open, exec)
{
	int fd;

	ASSERT_EQ(0, fchmod(self->node->fd, 0755));
	fd = env_open("file", O_WRONLY);
	EXPECT_EQ(-1, execl(FILE_, "file", NULL));
	EXPECT_EQ(ETXTBSY, errno);
	close(fd);
	/* read, and no program */
	EXPECT_EQ(-1, execl(FILE_, "file", NULL));
	EXPECT_EQ(ENOEXEC, errno);
	EXPECT_EQ(0, count(OPEN));
	EXPECT_EQ(0, env_io_served(&self->env));
}

TEST_F(no_open, create)
{
	struct env *env = &self->env;
	char path[64];
	int fd, again;

	/* CREATE has an fh, and sets the inode's file for the next */
	fd = env_open("new", O_RDWR | O_CREAT | O_EXCL);
	EXPECT_EQ(5, pwrite(fd, "12345", 5, 0));
	env_close(_metadata, env, fd);
	EXPECT_EQ(FH, hook.fh);
	fd = env_open("new", O_RDWR | O_CREAT);
	EXPECT_TRUE(env_has(fd, "12345", 0));
	close(fd);
	EXPECT_EQ(-EEXIST, env_open("new", O_RDWR | O_CREAT | O_EXCL));
	fd = env_open("file", O_RDWR | O_CREAT);
	check_fd(_metadata, env, fd, self->node->fd);
	close(fd);
	EXPECT_EQ(1, count(CREATE));
	EXPECT_EQ(1, count(RELEASE));

	fd = env_open(".", O_RDWR | O_TMPFILE);
	ASSERT_LE(0, fd);
	EXPECT_EQ(5, pwrite(fd, "12345", 5, 0));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR);
	EXPECT_TRUE(env_has(again, "12345", 0));
	close(again);
	close(fd);
	EXPECT_EQ(1, count(TMPFILE));
	EXPECT_EQ(0, count(OPEN));
	EXPECT_EQ(0, env_io_served(env));
}

TEST_F(no_open, names)
{
	struct env *env = &self->env;
	struct ring_node *new;
	int fd, fd2;

	close(env_file(_metadata, env, "new"));
	new = files_node(&env->files, "new");
	fd = env_open("file", O_RDWR);
	fd2 = env_open("link", O_RDWR);
	check_fd(_metadata, env, fd2, self->node->fd);
	close(fd2);
	EXPECT_EQ(0, rename(ENV_MNT "/new", FILE_));
	fd2 = env_open("file", O_RDWR);
	check_fd(_metadata, env, fd2, new->fd);
	check_fd(_metadata, env, fd, self->node->fd);
	EXPECT_FALSE(env_is(fd, "new"));
	close(fd);
	close(fd2);
	EXPECT_EQ(0, count(OPEN));
	EXPECT_EQ(0, count(RELEASE));
}

/* Who opens the file, of whom it is */
static const struct {
	uid_t owner;
	mode_t mode;
	uid_t user;
	int flags, err;
} permissions[] = {
	{ 0, 0644, 1, O_RDONLY, 0 },
	{ 0, 0644, 1, O_RDWR, -EACCES },
	{ 0, 0600, 1, O_RDONLY, -EACCES },
	{ 1, 0600, 1, O_RDWR, 0 },
	{ 1, 0600, 2, O_RDONLY, -EACCES },
	{ 1, 0606, 2, O_RDWR, 0 },
	{ 1, 0406, 1, O_WRONLY, -EACCES },
	{ 1, 0406, 0, O_WRONLY, 0 },
};

static int open_as(uid_t user, int flags)
{
	int fd;

	setfsuid(user);
	setfsgid(user);
	fd = env_open("file", flags);
	setfsuid(0);
	setfsgid(0);
	return fd;
}

TEST_F(no_open, permissions)
{
	struct env *env = &self->env;
	size_t i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(permissions); i++) {
		ASSERT_EQ(0, chmod(FILE_, permissions[i].mode));
		ASSERT_EQ(0, chown(FILE_, permissions[i].owner, 9));
		fd = open_as(permissions[i].user, permissions[i].flags);
		EXPECT_EQ(permissions[i].err, fd < 0 ? fd : 0) {
			TH_LOG("row %zu", i);
		}
		close(fd);
	}
	EXPECT_EQ(0, count(OPEN));

	/* with ACLs the kernel checks permissions without the mount option */
	hook.acl = true;
	restart(_metadata, env, FUSE_POSIX_ACL, NULL);
	ASSERT_EQ(0, chown(FILE_, 0, 0));
	ASSERT_EQ(0, chmod(FILE_, 0640));
	fd = open_as(1, O_RDONLY);
	check_fd(_metadata, env, fd, self->node->fd);
	close(fd);
	EXPECT_EQ(-EACCES, open_as(1, O_RDWR));
	EXPECT_EQ(-EACCES, open_as(2, O_RDONLY));
	EXPECT_LT(0, count(GETXATTR));
	EXPECT_EQ(0, count(OPEN));
}

static int op_ftruncate(int fd)
{
	return ftruncate(fd, 8192);
}

static int op_getattr(int fd)
{
	/* what is written changes the size, but who knows */
	return pwrite(fd, "x", 1, 9000) != 1 || lseek(fd, 0, SEEK_END) != 9001;
}

static int op_fsync(int fd)
{
	return fdatasync(fd);
}

static int op_fallocate(int fd)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
}

static int op_lseek(int fd)
{
	return lseek(fd, 0, SEEK_DATA) != 4096;
}

static int op_copy(int fd)
{
	loff_t from = 4096, to = 0;

	return copy_file_range(fd, &from, fd, &to, 100, 0) != 100;
}

static int op_ioctl(int fd)
{
	int nr = 0;

	return ioctl(fd, IOCTL, &nr) || nr != 42;
}

static int op_poll(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLPRI };

	/* the kernel asks to be told of more */
	return poll(&pfd, 1, RING_PATIENCE * 1000) != 1;
}

/* What is asked for an open file; those with a flag if it has an fh */
static const struct {
	__u32 opcode;
	int (*op)(int fd);
	bool flag;
} ops[] = {
	{ FUSE_SETATTR, op_ftruncate, true },
	{ FUSE_GETATTR, op_getattr, true },
	{ FUSE_FSYNC, op_fsync },
	{ FUSE_FALLOCATE, op_fallocate },
	{ FUSE_LSEEK, op_lseek },
	{ FUSE_COPY_FILE_RANGE, op_copy },
	{ FUSE_IOCTL, op_ioctl },
	{ FUSE_POLL, op_poll },
};

static void check_ops(struct __test_metadata *_metadata, struct env *env, int fd,
		      __u64 fh)
{
	unsigned long nr;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		nr = ring_server_count(env->server, ops[i].opcode);
		hook.fh = ~fh;
		EXPECT_EQ(0, ops[i].op(fd)) {
			TH_LOG("opcode %u: %m", ops[i].opcode);
		}
		EXPECT_EQ(nr + 1, ring_server_count(env->server,
						    ops[i].opcode)) {
			TH_LOG("opcode %u", ops[i].opcode);
		}
		EXPECT_EQ(fh, hook.fh) {
			TH_LOG("opcode %u", ops[i].opcode);
		}
		if (ops[i].opcode == FUSE_COPY_FILE_RANGE)
			EXPECT_EQ(fh, hook.fh_out);
		if (ops[i].flag)
			EXPECT_EQ(!!fh, hook.has_fh);
	}
	EXPECT_EQ(0, env_io_served(env));
}

/* It has no handle, and the requests on it say so */
TEST_F(no_open, requests_without_fh)
{
	struct env *env = &self->env;
	int fd;

	fd = env_open("file", O_RDWR);
	check_ops(_metadata, env, fd, 0);
	close(fd);
	EXPECT_EQ(0, count(RELEASE));
	/* as they are otherwise */
	restart(_metadata, env, 0, NULL);
	fd = env_open("file", O_RDWR);
	check_ops(_metadata, env, fd, FH);
	env_close(_metadata, env, fd);
	EXPECT_EQ(1, count(OPEN));
}

/* Whose are locks? */
static const __u64 locks[] = {
	0, FUSE_POSIX_LOCKS, FUSE_FLOCK_LOCKS, FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS,
};

TEST_F(no_open, locks)
{
	struct flock lock = { .l_type = F_WRLCK };
	int fd, other;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(locks); i++) {
		int posix = !!(locks[i] & FUSE_POSIX_LOCKS);
		int bsd = !!(locks[i] & FUSE_FLOCK_LOCKS);

		restart(_metadata, &self->env, locks[i], OPTIONS);
		fd = env_open("file", O_RDWR);
		other = env_open("file", O_RDWR);
		EXPECT_EQ(0, fcntl(fd, F_SETLK, &lock));
		EXPECT_EQ(posix, count(SETLK));
		EXPECT_EQ(0, flock(fd, LOCK_EX | LOCK_NB));
		EXPECT_EQ(posix + bsd, count(SETLK));
		EXPECT_EQ(0, hook.fh);
		/* the server lets everybody have it */
		EXPECT_EQ(bsd - 1, flock(other, LOCK_SH | LOCK_NB));
		EXPECT_EQ(0, flock(other, LOCK_UN));
		close(fd);
		EXPECT_EQ(posix, count(FLUSH));
		env_released(_metadata, &self->env, bsd);
		/* gone with the file */
		EXPECT_EQ(0, flock(other, LOCK_EX | LOCK_NB));
		close(other);
		EXPECT_EQ(2 * posix, count(FLUSH));
		env_released(_metadata, &self->env, 2 * bsd);
		if (bsd)
			EXPECT_EQ(FUSE_RELEASE_FLOCK_UNLOCK,
				  hook.release_flags);
		EXPECT_EQ(0, hook.fh);
		/* not the process's: no FLUSH ends it */
		fd = env_open("file", O_RDWR);
		EXPECT_EQ(0, fcntl(fd, F_OFD_SETLK, &lock));
		close(fd);
		env_released(_metadata, &self->env, 2 * bsd + posix);
		if (posix)
			EXPECT_EQ(hook.setlk_owner, hook.release_owner);
		/* one without a lock */
		close(env_open("file", O_RDWR));
		EXPECT_EQ(-ENOENT, env_open("no such file", O_RDONLY));
		EXPECT_EQ(2 * bsd + posix, count(RELEASE));
		EXPECT_EQ(0, count(OPEN));
	}
}

TEST_F(no_open, by_handle)
{
	struct {
		struct file_handle handle;
		char f_handle[MAX_HANDLE_SZ];
	} fh = { .handle.handle_bytes = MAX_HANDLE_SZ };
	int dir = open(ENV_MNT, O_RDONLY | O_DIRECTORY), mnt_id, fd;

	ASSERT_EQ(0, name_to_handle_at(AT_FDCWD, FILE_, &fh.handle, &mnt_id, 0));
	fd = open_by_handle_at(dir, &fh.handle, O_RDWR);
	check_fd(_metadata, &self->env, fd, self->node->fd);
	close(fd);
	close(dir);
	EXPECT_EQ(0, count(OPEN));
}

ENV_MAIN
