// SPDX-License-Identifier: GPL-2.0
/*
 * Passthrough in a libfuse server that opens and closes its backing files with
 * FUSE_IO_URING_CMD_BACKING_OPEN and FUSE_IO_URING_CMD_BACKING_CLOSE.
 *
 * libfuse serves the session over io_uring and does not know these commands:
 * the handlers issue them on an io_uring of their own, for the session's fd.
 * Every test runs for each way to open and to close an id, libfuse's ioctls
 * being the reference.
 *
 * The server is a process of its own and dies with the test.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 318

#include <fuse_lowlevel.h>
#include <limits.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/prctl.h>

#include "../../kselftest_harness.h"
#include "backing_env.h"

#define WAIT_MS	10000

enum channel { RING, IOCTL };

enum mistake {
	NO_MISTAKE,
	STRANGE_ID,		/* reply with an id that nobody registered */
	BAD_FD_FAIL,		/* register fd -1, reply with the error */
	BAD_FD_FALL_BACK,	/* register fd -1, reply without an id */
	CLOSE_TWICE,		/* close an id again, over the other channel */
};

/* What the test and the server process share */
static struct {
	/* set by the test */
	atomic_int open_by, close_by, mistake;
	/* set by the server */
	atomic_bool over_uring;
	atomic_int reads, opened, closed, released;
	/* results of the latest open, close, and second close */
	atomic_int open_res, close_res, close_again_res;
} *shm;

/* The server; its handlers run in a thread for each CPU */
static struct {
	const char *name;
	int backing_id, opens;
} nodes[] = { [FUSE_ROOT_ID] = { .name = "." }, { "a" }, { "b" }, { "c" } };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct fuse_session *session;
static struct io_uring ring;
static int backing_dir;

static int ring_cmd(void (*prep)(struct io_uring_sqe *sqe, int dev_fd, int arg),
		    int arg)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
	struct io_uring_cqe *cqe;
	int res;

	if (!sqe)
		return -EBUSY;
	prep(sqe, fuse_session_fd(session), arg);
	res = io_uring_submit_and_wait(&ring, 1);
	if (res >= 0)
		res = io_uring_wait_cqe(&ring, &cqe);
	if (res < 0)
		return res;
	res = cqe->res;
	io_uring_cqe_seen(&ring, cqe);
	return res;
}

static int backing_open(fuse_req_t req, int fd)
{
	if (shm->open_by == RING)
		return ring_cmd(backing_cmd_prep_open, fd);
	/* Returns 0 for an error; server_log() leaves errno as it is */
	return fuse_passthrough_open(req, fd) ?: -errno;
}

static int backing_close(fuse_req_t req, enum channel by, int id)
{
	if (by == RING)
		return ring_cmd(backing_cmd_prep_close, id);
	return fuse_passthrough_close(req, id) ? -errno : 0;
}

static int open_backing_file(fuse_ino_t ino, int flags, mode_t mode)
{
	return openat(backing_dir, nodes[ino].name, flags, mode);
}

static int get_entry(const char *name, struct fuse_entry_param *e)
{
	memset(e, 0, sizeof(*e));
	for (e->ino = FUSE_ROOT_ID; strcmp(nodes[e->ino].name, name);)
		if (++e->ino == ARRAY_SIZE(nodes))
			return -ENOENT;
	if (fstatat(backing_dir, name, &e->attr, 0))
		return -errno;
	e->attr.st_ino = e->ino;
	return 0;
}

/* All opens of an inode get the id of the first, as the kernel demands */
static int get_backing_id(fuse_req_t req, fuse_ino_t ino,
			  struct fuse_file_info *fi)
{
	int fd = -1, res = 0, mistake = shm->mistake;

	pthread_mutex_lock(&lock);
	if (mistake != STRANGE_ID && !nodes[ino].opens) {
		if (mistake != BAD_FD_FAIL && mistake != BAD_FD_FALL_BACK)
			fd = open_backing_file(ino, O_RDONLY, 0);
		res = backing_open(req, fd);
		/* The id keeps the file open */
		if (fd >= 0)
			close(fd);
		shm->open_res = res;
		shm->opened += res > 0;
		if (res > 0)
			nodes[ino].backing_id = res;
		else if (mistake == BAD_FD_FALL_BACK)
			res = 0;
	}
	if (res >= 0)
		nodes[ino].opens++;
	fi->backing_id = nodes[ino].backing_id;
	if (mistake == STRANGE_ID)
		fi->backing_id = INT_MAX;
	shm->over_uring = fuse_req_is_uring(req);
	pthread_mutex_unlock(&lock);
	return res < 0 ? res : 0;
}

static void server_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH);
}

static void server_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	int err = get_entry(name, &e);

	(void)parent;
	if (err)
		fuse_reply_err(req, -err);
	else
		fuse_reply_entry(req, &e);
}

static void server_getattr(fuse_req_t req, fuse_ino_t ino,
			   struct fuse_file_info *fi)
{
	struct fuse_entry_param e;
	int err = get_entry(nodes[ino].name, &e);

	(void)fi;
	shm->over_uring = fuse_req_is_uring(req);
	if (err)
		fuse_reply_err(req, -err);
	else
		fuse_reply_attr(req, &e.attr, 0);
}

static void server_open(fuse_req_t req, fuse_ino_t ino,
			struct fuse_file_info *fi)
{
	int err = get_backing_id(req, ino, fi);

	if (err)
		fuse_reply_err(req, -err);
	else
		fuse_reply_open(req, fi);
}

static void server_create(fuse_req_t req, fuse_ino_t parent, const char *name,
			  mode_t mode, struct fuse_file_info *fi)
{
	int err, fd = openat(backing_dir, name, O_CREAT | O_EXCL, mode);
	struct fuse_entry_param e;

	(void)parent;
	err = fd < 0 ? -errno : get_entry(name, &e);
	if (!err)
		err = get_backing_id(req, e.ino, fi);
	if (fd >= 0)
		close(fd);
	if (err)
		fuse_reply_err(req, -err);
	else
		fuse_reply_create(req, &e, fi);
}

/* There is no .write: what does not pass through fails with ENOSYS */
static void server_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
			struct fuse_file_info *fi)
{
	struct fuse_bufvec buf = FUSE_BUFVEC_INIT(size);

	(void)fi;
	shm->reads++;
	buf.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	buf.buf[0].fd = open_backing_file(ino, O_RDONLY, 0);
	buf.buf[0].pos = off;
	fuse_reply_data(req, &buf, 0);
	close(buf.buf[0].fd);
}

static void server_release(fuse_req_t req, fuse_ino_t ino,
			   struct fuse_file_info *fi)
{
	enum channel by = shm->close_by;
	int id;

	(void)fi;
	pthread_mutex_lock(&lock);
	id = nodes[ino].backing_id;
	if (!--nodes[ino].opens && id) {
		shm->close_res = backing_close(req, by, id);
		shm->closed += !shm->close_res;
		if (shm->mistake == CLOSE_TWICE)
			shm->close_again_res =
				backing_close(req, by == RING ? IOCTL : RING,
					      id);
		nodes[ino].backing_id = 0;
	}
	shm->released++;
	pthread_mutex_unlock(&lock);
	fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops server_ops = {
	.init = server_init,
	.lookup = server_lookup,
	.getattr = server_getattr,
	.open = server_open,
	.create = server_create,
	.read = server_read,
	.release = server_release,
};

static void server_log(enum fuse_log_level level, const char *fmt, va_list ap)
{
	int err = errno;

	(void)level;
	fputs("# ", stderr);
	vfprintf(stderr, fmt, ap);
	errno = err;
}

static int server_run(int dev_fd, bool over_uring)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	char mountpoint[32];
	int res;

	fuse_set_log_func(server_log);
	if (io_uring_queue_init(4, &ring, IORING_SETUP_SQE128))
		return 1;
	fuse_opt_add_arg(&args, "server");
	if (over_uring)
		fuse_opt_add_arg(&args, "-oio_uring,io_uring_q_depth=2");
	session = fuse_session_new(&args, &server_ops, sizeof(server_ops),
				   NULL);
	/* Mounted already: libfuse might run mount(8) or fusermount3 for it */
	snprintf(mountpoint, sizeof(mountpoint), "/dev/fd/%d", dev_fd);
	if (!session || fuse_session_mount(session, mountpoint))
		return 2;

	res = fuse_session_loop(session);
	fuse_session_unmount(session);
	fuse_session_destroy(session);
	fuse_opt_free_args(&args);
	io_uring_queue_exit(&ring);
	return res ? 3 : 0;
}

/* The test. Waits while @cond, for WAIT_MS at most; false if it still holds */
#define WAIT_WHILE(cond) ({					\
	int _ms = 0;						\
								\
	while ((cond) && _ms++ < WAIT_MS)			\
		usleep(1000);					\
	_ms <= WAIT_MS;						\
})

static void server_stop(struct __test_metadata *_metadata,
			struct backing_env *env, pid_t pid)
{
	int status = -1;

	EXPECT_EQ(0, umount(env->mnt)) {
		umount2(env->mnt, MNT_DETACH);
		kill(pid, SIGKILL);
	}
	EXPECT_TRUE(WAIT_WHILE(!waitpid(pid, &status, WNOHANG))) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	}
	EXPECT_EQ(0, status);
	/* Finds what holds a backing file */
	EXPECT_EQ(0, backing_env_teardown(env));
}

static pid_t server_start(struct __test_metadata *_metadata,
			  struct backing_env *env, bool over_uring)
{
	const char *missing = backing_env_missing(NULL);
	char opts[64];
	struct stat st;
	pid_t pid;
	int fd;

	if (missing)
		SKIP(return 0, "%s", missing);
	ASSERT_EQ(0, backing_env_setup(env));
	close(backing_make_file(env, "a", BACKING_FILE_SZ));
	close(backing_make_file(env, "b", BACKING_FILE_SZ));
	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40755,user_id=0,group_id=0", fd);
	ASSERT_EQ(0, mount("backing_libfuse", env->mnt, "fuse", 0, opts));

	shm = mmap(NULL, sizeof(*shm), PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, shm);
	backing_dir = env->dir_fd;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(server_run(fd, over_uring));
	}
	close(fd);

	/* Waits until INIT is answered and all queues are registered */
	ASSERT_EQ(0, stat(env->mnt, &st));
	if (over_uring && !shm->over_uring) {
		server_stop(_metadata, env, pid);
		SKIP(return 0, "libfuse is built without io_uring");
	}
	ASSERT_EQ(over_uring, shm->over_uring);
	return pid;
}

FIXTURE(backing_libfuse)
{
	struct backing_env env;
	pid_t server;
};

FIXTURE_VARIANT(backing_libfuse)
{
	enum channel open_by, close_by;
};

FIXTURE_VARIANT_ADD(backing_libfuse, ring) { RING, RING };
FIXTURE_VARIANT_ADD(backing_libfuse, ioctl) { IOCTL, IOCTL };
FIXTURE_VARIANT_ADD(backing_libfuse, ring_then_ioctl) { RING, IOCTL };
FIXTURE_VARIANT_ADD(backing_libfuse, ioctl_then_ring) { IOCTL, RING };

FIXTURE_SETUP(backing_libfuse)
{
	self->server = server_start(_metadata, &self->env, true);
	if (!self->server)
		return;
	shm->open_by = variant->open_by;
	shm->close_by = variant->close_by;
}

FIXTURE_TEARDOWN(backing_libfuse)
{
	server_stop(_metadata, &self->env, self->server);
}

TEST_F(backing_libfuse, read_write)
{
	int fd = open_mnt(&self->env, "a", O_RDWR);
	char buf[BACKING_FILE_SZ];

	ASSERT_LE(0, fd);
	EXPECT_LT(0, shm->open_res);
	EXPECT_TRUE(shm->over_uring);
	EXPECT_EQ(BACKING_FILE_SZ, read(fd, buf, BACKING_FILE_SZ));
	EXPECT_EQ(0, cmp_back(&self->env, "a", buf, BACKING_FILE_SZ, 0));
	EXPECT_EQ(10, pread(fd, buf, 10, 4090));
	EXPECT_EQ(0, cmp_back(&self->env, "a", buf, 10, 4090));
	EXPECT_EQ(7, pwrite(fd, "written", 7, 4093));
	EXPECT_EQ(0, cmp_back(&self->env, "a", "written", 7, 4093));
	EXPECT_EQ(0, shm->reads);
	EXPECT_EQ(0, close(fd));
}

TEST_F(backing_libfuse, mmap)
{
	int fd = open_mnt(&self->env, "a", O_RDWR);
	char *p;

	ASSERT_LE(0, fd);
	p = mmap(NULL, BACKING_FILE_SZ, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, cmp_back(&self->env, "a", p, BACKING_FILE_SZ, 0));
	memcpy(p + 5000, "mapped", 6);
	/* The same page, without any msync() */
	EXPECT_EQ(0, cmp_back(&self->env, "a", "mapped", 6, 5000));
	EXPECT_EQ(0, shm->reads);
	EXPECT_EQ(0, munmap(p, BACKING_FILE_SZ));
	EXPECT_EQ(0, close(fd));
}

TEST_F(backing_libfuse, create)
{
	int fd = open_mnt(&self->env, "c", O_RDWR | O_CREAT | O_EXCL);

	ASSERT_LE(0, fd);
	EXPECT_LT(0, shm->open_res);
	EXPECT_EQ(7, write(fd, "created", 7));
	EXPECT_EQ(0, cmp_back(&self->env, "c", "created", 7, 0));
	EXPECT_EQ(0, close(fd));
}

TEST_F(backing_libfuse, an_id_for_each_inode)
{
	char buf[6];
	int fd[3], id;

	fd[0] = open_mnt(&self->env, "a", O_RDWR);
	ASSERT_LE(0, fd[0]);
	id = shm->open_res;
	fd[1] = open_mnt(&self->env, "a", O_RDONLY);
	ASSERT_LE(0, fd[1]);
	EXPECT_EQ(1, shm->opened);
	fd[2] = open_mnt(&self->env, "b", O_RDWR);
	ASSERT_LE(0, fd[2]);
	EXPECT_EQ(2, shm->opened);
	EXPECT_LT(0, shm->open_res);
	EXPECT_NE(id, shm->open_res);

	EXPECT_EQ(6, write(fd[0], "file a", 6));
	EXPECT_EQ(6, write(fd[2], "file b", 6));
	EXPECT_EQ(0, close(fd[0]));
	ASSERT_TRUE(WAIT_WHILE(shm->released < 1));
	EXPECT_EQ(0, shm->closed);
	EXPECT_EQ(0, cmp_back(&self->env, "a", "file a", 6, 0));
	EXPECT_EQ(0, cmp_back(&self->env, "b", "file b", 6, 0));
	EXPECT_EQ(6, read(fd[1], buf, 6));
	EXPECT_EQ(0, memcmp(buf, "file a", 6));
	EXPECT_EQ(0, shm->reads);
	EXPECT_EQ(0, close(fd[1]));
	EXPECT_EQ(0, close(fd[2]));
	ASSERT_TRUE(WAIT_WHILE(shm->released < 3));
	EXPECT_EQ(2, shm->closed);
}

TEST_F(backing_libfuse, release_closes_id)
{
	int fd, i;

	shm->mistake = CLOSE_TWICE;
	for (i = 1; i <= 2; i++) {
		fd = open_mnt(&self->env, "a", O_RDWR);
		ASSERT_LE(0, fd);
		EXPECT_EQ(i, shm->opened);
		EXPECT_EQ(0, close(fd));
		ASSERT_TRUE(WAIT_WHILE(shm->released < i));
		EXPECT_EQ(0, shm->close_res);
		EXPECT_EQ(-ENOENT, shm->close_again_res);
	}
}

TEST_F(backing_libfuse, unregistered_id)
{
	int fd;

	shm->mistake = STRANGE_ID;
	EXPECT_EQ(-EIO, open_mnt(&self->env, "a", O_RDWR));
	ASSERT_TRUE(WAIT_WHILE(shm->released < 1));

	shm->mistake = NO_MISTAKE;
	fd = open_mnt(&self->env, "a", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, close(fd));
}

TEST_F(backing_libfuse, bad_fd)
{
	char buf[BACKING_FILE_SZ];
	int fd;

	shm->mistake = BAD_FD_FAIL;
	EXPECT_EQ(-EBADF, open_mnt(&self->env, "a", O_RDWR));
	EXPECT_EQ(-EBADF, shm->open_res);

	/* Shows too that the server counts the reads that it gets */
	shm->mistake = BAD_FD_FALL_BACK;
	fd = open_mnt(&self->env, "a", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(BACKING_FILE_SZ, read(fd, buf, BACKING_FILE_SZ));
	EXPECT_EQ(0, cmp_back(&self->env, "a", buf, BACKING_FILE_SZ, 0));
	EXPECT_LT(0, shm->reads);
	EXPECT_EQ(0, close(fd));
	EXPECT_EQ(0, shm->opened);
}

/* A session over /dev/fuse alone */
FIXTURE(backing_libfuse_dev)
{
	struct backing_env env;
	pid_t server;
};

FIXTURE_SETUP(backing_libfuse_dev)
{
	self->server = server_start(_metadata, &self->env, false);
}

FIXTURE_TEARDOWN(backing_libfuse_dev)
{
	server_stop(_metadata, &self->env, self->server);
}

TEST_F(backing_libfuse_dev, io_uring_not_negotiated)
{
	int fd;

	shm->open_by = RING;
	EXPECT_EQ(-EOPNOTSUPP, open_mnt(&self->env, "a", O_RDWR));
	EXPECT_EQ(-EOPNOTSUPP, shm->open_res);

	shm->open_by = IOCTL;
	shm->close_by = RING;
	shm->mistake = CLOSE_TWICE;
	fd = open_mnt(&self->env, "a", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_LT(0, shm->open_res);
	EXPECT_EQ(0, close(fd));
	ASSERT_TRUE(WAIT_WHILE(shm->released < 1));
	EXPECT_EQ(-EOPNOTSUPP, shm->close_res);
	/* By ioctl */
	EXPECT_EQ(0, shm->close_again_res);
}

int main(int argc, char **argv)
{
	backing_env_main();
	return test_harness_run(argc, argv);
}
