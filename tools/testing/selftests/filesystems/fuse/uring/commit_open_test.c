// SPDX-License-Identifier: GPL-2.0
/*
 * Replies to opens that bring their backing files: these pass through, however
 * the commit is issued, and each open of an inode does its I/O on the file that
 * it came with.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include "caps.h"
#include "commit_file.h"
#include "env.h"
#include "queue_pool.h"
#include "queue_variants.h"
#include "wait.h"

#define BIND		"/tmp/bind"
/* Opens of one inode at a time */
#define OPENS		50

/* What an open brings */
enum bring {
	/* hook.fd, or nothing if that is -1 */
	FD,
	/* fds of its own: O_PATH, until the entry's next CQE */
	PATH_UNTIL_CQE,
	/* until the command has run */
	DUP_UNTIL_RUN,
	/* until RELEASE, as its file handle */
	DUP_UNTIL_RELEASE,
};

/* What the hooks do; every test is a process of its own */
static struct {
	enum bring bring;
	int fd;
	/* of the reply besides */
	__u32 open_flags;
	/* the commit is issued without this capability */
	int without;
	/* hold the next thread that commits this enum fuse_opcode */
	__u32 hold;
	sem_t held, let_go;
	/* of the two entries of each queue */
	struct brought {
		struct ring_ent *ent;
		int fd;
	} *brought;
} hook = { .without = CAP_NONE };

/* The fd of a ring entry */
static int *fd_of(struct ring_req *req)
{
	struct brought *brought = &hook.brought[2 * req->queue->qid];

	if (brought->ent && brought->ent != req->ent)
		brought++;
	brought->ent = req->ent;
	return &brought->fd;
}

static bool reply(struct ring_req *req)
{
	const struct fuse_release_in *release = req->op;
	char path[32];
	int *fd;

	if (!req->queue)
		return true;
	fd = fd_of(req);
	if (*fd)
		close(*fd);
	*fd = 0;
	if (req->in.opcode == FUSE_RELEASE &&
	    hook.bring == DUP_UNTIL_RELEASE)
		close(release->fh);
	if (!req->open || req->len < 0)
		return true;

	switch (hook.bring) {
	case FD:
		req->fd = req->open->backing_id ? -1 : hook.fd;
		break;
	case PATH_UNTIL_CQE:
		/* it may have no name */
		snprintf(path, sizeof(path), "/proc/self/fd/%d", req->node->fd);
		*fd = open(path, O_PATH | O_CLOEXEC);
		req->fd = *fd;
		break;
	case DUP_UNTIL_RUN:
		req->fd = dup(req->node->fd);
		break;
	case DUP_UNTIL_RELEASE:
		req->fd = dup(req->node->fd);
		req->open->fh = req->fd;
		break;
	}
	req->open->open_flags |= hook.open_flags;
	return true;
}

static void sqe(struct ring_queue *queue, struct ring_req *req,
		struct io_uring_sqe *sqe)
{
	commit_file_sqe(queue, req, sqe);
	if (req && req->in.opcode == hook.hold) {
		hook.hold = 0;
		sem_post(&hook.held);
		if (wait_for(&hook.let_go))
			abort();
	}
	if (!req || req->fd < 0 ||
	    (hook.bring != DUP_UNTIL_RUN && hook.without == CAP_NONE))
		return;
	/* inline: when that returns the command has run */
	capabilities_without(hook.without);
	io_uring_submit(&queue->ring);
	capabilities_without(CAP_NONE);
	if (hook.bring == DUP_UNTIL_RUN)
		close(req->fd);
}

static const char *setup(struct __test_metadata *_metadata, struct env *env)
{
	const char *missing = env_setup(_metadata, env, COMMIT_FILE_INIT);

	if (missing)
		return missing;
	close(env_file(_metadata, env, "file"));
	close(env_file(_metadata, env, "other"));
	hook.brought = calloc(get_nprocs_conf(), 2 * sizeof(*hook.brought));
	ASSERT_NE(NULL, hook.brought);
	ASSERT_EQ(0, sem_init(&hook.held, 0, 0));
	ASSERT_EQ(0, sem_init(&hook.let_go, 0, 0));
	return NULL;
}

static void teardown(struct __test_metadata *_metadata, struct env *env)
{
	int i;

	if (env->server)
		env_stop(_metadata, env);
	for (i = 0; hook.brought && i < get_nprocs_conf() * 2; i++) {
		if (hook.brought[i].fd)
			close(hook.brought[i].fd);
	}
	env_teardown(_metadata, env);
}

/* The ways to issue a commit */

FIXTURE(way)
{
	struct env env;
};

FIXTURE_VARIANT(way)
{
	struct queue_how how;
	bool clone;
	void (*setup)(struct ring_queue *queue);
};

#define QUEUE_FIXTURE way
#include "queue_variants.h"

FIXTURE_VARIANT_ADD(way, clone) {
	.clone = true,
};

FIXTURE_VARIANT_ADD(way, pool) {
	.setup = queue_pool_setup,
};

FIXTURE_VARIANT_ADD(way, pool_sqpoll) {
	.how = { .ring_flags = IORING_SETUP_SQPOLL },
	.setup = queue_pool_setup,
};

FIXTURE_VARIANT_ADD(way, zero_copy) {
	.setup = queue_zero_copy_setup,
};

/* The variant, for the hooks */
static const struct _fixture_variant_way *way;
/* of the device, for all queues */
static pthread_once_t clone_once = PTHREAD_ONCE_INIT;
static int clone_fd, cloned_fd;

static void make_clone(void)
{
	clone_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (ioctl(clone_fd, FUSE_DEV_IOC_CLONE, &cloned_fd))
		perror("# FUSE_DEV_IOC_CLONE");
}

static void setup_way(struct ring_queue *queue)
{
	if (way->setup)
		way->setup(queue);
	else if (queue_how_setup(&way->how, queue))
		abort();
	if (way->clone) {
		cloned_fd = queue->server->dev_fd;
		pthread_once(&clone_once, make_clone);
	}
}

static void sqe_way(struct ring_queue *queue, struct ring_req *req,
		    struct io_uring_sqe *sqe)
{
	commit_file_sqe(queue, req, sqe);
	queue_how_sqe(&way->how, sqe, false);
	if (way->setup)
		queue_pool_sqe(queue, req, sqe);
	if (way->clone)
		sqe->fd = clone_fd;
}

FIXTURE_SETUP(way)
{
	struct ring_server_cfg cfg = {
		.init_flags = COMMIT_FILE_INIT |
			      (variant->setup ? FUSE_HAS_IO_URING_BUFPOOL : 0),
		.hooks = {
			.setup = setup_way,
			.reply = reply,
			.sqe = sqe_way,
		},
	};
	const char *missing = queue_how_cfg(&variant->how, &cfg);

	if (!missing)
		missing = setup(_metadata, &self->env);
	if (missing)
		SKIP(return, "%s", missing);
	way = variant;
	hook.bring = PATH_UNTIL_CQE;
	env_start(_metadata, &self->env, &cfg);
}

FIXTURE_TEARDOWN(way)
{
	teardown(_metadata, &self->env);
	if (clone_fd)
		close(clone_fd);
}

/* Does a file have that at that offset? */
static bool has(int fd, const char *data, off_t off)
{
	char buf[64];
	ssize_t len = strlen(data);

	return pread(fd, buf, len, off) == len && !memcmp(buf, data, len);
}

static void read_and_write(struct __test_metadata *_metadata, int fd, int back)
{
	char *map;

	EXPECT_EQ(4, pwrite(fd, "data", 4, 100));
	EXPECT_TRUE(has(back, "data", 100));
	EXPECT_TRUE(has(fd, "data", 100));
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_EQ(0, memcmp(map + 100, "data", 4));
	memcpy(map + 100, "mmap", 4);
	EXPECT_TRUE(has(back, "mmap", 100));
	munmap(map, 4096);
	EXPECT_EQ(0, fcntl(fd, F_SETFL, O_APPEND));
	EXPECT_EQ(0, ftruncate(fd, 200));
	EXPECT_EQ(6, write(fd, "append", 6));
	EXPECT_TRUE(has(back, "append", 200));
}

TEST_F(way, opens_pass_through)
{
	struct env *env = &self->env;
	struct stat st;
	int fd, back;

	back = openat(env->files.dir_fd, "file", O_RDONLY);
	fd = env_open("file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, env_is(fd, "file"));
	read_and_write(_metadata, fd, back);
	close(fd);
	fd = env_open("file", O_RDWR | O_TRUNC | O_APPEND);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, fstat(back, &st));
	EXPECT_EQ(0, st.st_size);
	EXPECT_EQ(5, write(fd, "again", 5));
	EXPECT_TRUE(has(back, "again", 0));
	close(fd);
	close(back);

	fd = env_open("new", O_RDWR | O_CREAT | O_EXCL);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, ring_server_count(env->server, FUSE_CREATE));
	back = openat(env->files.dir_fd, "new", O_RDONLY);
	read_and_write(_metadata, fd, back);
	close(fd);
	close(back);

	fd = env_open(".", O_RDWR | O_TMPFILE);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, ring_server_count(env->server, FUSE_TMPFILE));
	read_and_write(_metadata, fd, fd);
	close(fd);
	EXPECT_EQ(0, env_io_served(env));
}

/* Several opens of an inode, and what they bring */

FIXTURE(commit_open)
{
	struct env env;
	/* the backing files "file" and "other" */
	int file, other;
};

FIXTURE_SETUP(commit_open)
{
	const struct ring_server_cfg cfg = {
		.init_flags = COMMIT_FILE_INIT,
		.hooks = {
			.reply = reply,
			.sqe = sqe,
		},
	};
	const char *missing = setup(_metadata, &self->env);

	if (missing)
		SKIP(return, "%s", missing);
	env_start(_metadata, &self->env, &cfg);
	env_pin(_metadata, 0);
	self->file = openat(self->env.files.dir_fd, "file", O_RDWR);
	self->other = openat(self->env.files.dir_fd, "other", O_RDWR);
	hook.fd = self->file;
}

FIXTURE_TEARDOWN(commit_open)
{
	if (self->file) {
		close(self->file);
		close(self->other);
	}
	teardown(_metadata, &self->env);
}

/* Open "file" as a client; returns its fd if it passes through to that file */
static int open_file(struct __test_metadata *_metadata, struct env *env,
		     const char *back)
{
	unsigned long served = env_io_served(env);
	int fd = env_open("file", O_RDWR);

	if (fd >= 0) {
		EXPECT_EQ(1, env_is(fd, back));
		EXPECT_EQ(served, env_io_served(env));
	}
	return fd;
}

/* The open fails, and the server is told that */
static void open_fails(struct __test_metadata *_metadata, struct env *env)
{
	unsigned long released = ring_server_count(env->server, FUSE_RELEASE);

	EXPECT_EQ(-EIO, env_open("file", O_RDWR));
	env_released(_metadata, env, released + 1);
}

static int backing_open(struct env *env, int fd)
{
	struct fuse_backing_map map = { .fd = fd };

	return ioctl(env->server->dev_fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
}

TEST_F(commit_open, flags_of_the_reply)
{
	static const __u32 flags[] = {
		0, FOPEN_PASSTHROUGH, FOPEN_KEEP_CACHE, FOPEN_NOFLUSH,
		FOPEN_PASSTHROUGH | FOPEN_KEEP_CACHE,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		int fd;

		hook.open_flags = flags[i];
		fd = open_file(_metadata, &self->env, "file");
		EXPECT_LE(0, fd);
		close(fd);
	}
}

/* Each open of an inode has an fd of its own, which is closed at once */
TEST_F(commit_open, fd_closed_when_the_command_has_run)
{
	int i, fds[OPENS];

	hook.bring = DUP_UNTIL_RUN;
	for (i = 0; i < OPENS; i++) {
		fds[i] = open_file(_metadata, &self->env, "file");
		ASSERT_LE(0, fds[i]);
	}
	for (i = 0; i < OPENS; i++) {
		EXPECT_EQ(1, env_is(fds[i], "file"));
		close(fds[i]);
	}
	EXPECT_EQ(0, env_io_served(&self->env));
}

TEST_F(commit_open, another_inode_meanwhile)
{
	int fd = open_file(_metadata, &self->env, "file");

	ASSERT_LE(0, fd);
	hook.fd = self->other;
	open_fails(_metadata, &self->env);
	EXPECT_EQ(1, env_is(fd, "file"));
	close(fd);
	env_released(_metadata, &self->env, 2);
	/* free for another one */
	fd = open_file(_metadata, &self->env, "other");
	EXPECT_LE(0, fd);
	close(fd);
}

TEST_F(commit_open, by_id_meanwhile)
{
	struct ring_node *node = files_node(&self->env.files, "file");
	int same = backing_open(&self->env, self->file);
	int other = backing_open(&self->env, self->other);
	int first = open_file(_metadata, &self->env, "file");
	int second;

	ASSERT_LE(0, first);
	node->backing_id = other;
	open_fails(_metadata, &self->env);
	node->backing_id = same;
	second = open_file(_metadata, &self->env, "file");
	ASSERT_LE(0, second);
	/* and the other way round */
	close(first);
	env_released(_metadata, &self->env, 2);
	node->backing_id = 0;
	first = open_file(_metadata, &self->env, "file");
	EXPECT_LE(0, first);
	hook.fd = self->other;
	open_fails(_metadata, &self->env);
	EXPECT_EQ(1, env_is(second, "file"));
	close(first);
	close(second);
}

TEST_F(commit_open, two_ids_of_one_inode)
{
	struct ring_node *node = files_node(&self->env.files, "file");
	int first, second;

	node->backing_id = backing_open(&self->env, self->file);
	first = open_file(_metadata, &self->env, "file");
	EXPECT_LE(0, first);
	node->backing_id = backing_open(&self->env, self->file);
	second = open_file(_metadata, &self->env, "file");
	EXPECT_LE(0, second);
	close(first);
	close(second);
}

TEST_F(commit_open, plain_meanwhile)
{
	int fd = open_file(_metadata, &self->env, "file");

	ASSERT_LE(0, fd);
	hook.fd = -1;
	open_fails(_metadata, &self->env);
	EXPECT_EQ(1, env_is(fd, "file"));
	close(fd);
	env_released(_metadata, &self->env, 2);

	/* and the other way round */
	fd = env_open("file", O_RDWR);
	ASSERT_LE(0, fd);
	hook.fd = self->file;
	open_fails(_metadata, &self->env);
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_LT(0, env_io_served(&self->env));
	close(fd);
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

TEST_F(commit_open, credentials_of_each_open)
{
	int with, without;

	with = open_file(_metadata, &self->env, "file");
	hook.without = CAP_FSETID;
	without = open_file(_metadata, &self->env, "file");
	EXPECT_FALSE(has_fsetid(_metadata, self->file, without));
	EXPECT_TRUE(has_fsetid(_metadata, self->file, with));
	/* and not those of the client */
	capabilities_without(CAP_FSETID);
	EXPECT_TRUE(has_fsetid(_metadata, self->file, with));
	capabilities_without(CAP_NONE);
	EXPECT_FALSE(has_fsetid(_metadata, self->file, without));
	EXPECT_EQ(0, env_io_served(&self->env));
	EXPECT_EQ(0, ring_server_count(self->env.server, FUSE_SETATTR));
	close(with);
	close(without);
}

/* A path of a read-only mount is not written to, and keeps the mount busy */
TEST_F(commit_open, path_of_each_open)
{
	int fd, bind;

	ASSERT_EQ(0, mkdir(BIND, 0755));
	ASSERT_EQ(0, mount(ENV_BACK, BIND, NULL, MS_BIND, NULL));
	ASSERT_EQ(0, mount(NULL, BIND, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY,
			   NULL));
	fd = open_file(_metadata, &self->env, "file");
	ASSERT_LE(0, fd);
	hook.fd = open(BIND "/file", O_PATH | O_CLOEXEC);
	ASSERT_LE(0, hook.fd);
	open_fails(_metadata, &self->env);
	bind = env_open("file", O_RDONLY);
	close(hook.fd);
	ASSERT_LE(0, bind);
	EXPECT_EQ(1, env_is(bind, "file"));
	EXPECT_EQ(-1, umount(BIND));
	EXPECT_EQ(EBUSY, errno);
	close(bind);
	env_released(_metadata, &self->env, 2);
	EXPECT_EQ(0, umount(BIND));
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

/* There is no read lease for a file that somebody has open to write */
static int lease(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK))
		return -errno;
	return fcntl(fd, F_SETLEASE, F_UNLCK);
}

TEST_F(commit_open, kept_until_the_last_close)
{
	int first, second, held;

	/* it is open to write only by what the first open brings */
	hook.fd = env_file(_metadata, &self->env, "held");
	held = openat(self->env.files.dir_fd, "held", O_RDONLY);
	first = env_open("file", O_RDONLY);
	ASSERT_LE(0, first);
	close(hook.fd);
	hook.fd = held;
	second = env_open("file", O_RDONLY);
	ASSERT_LE(0, second);
	EXPECT_EQ(-EAGAIN, lease(held));
	close(first);
	env_released(_metadata, &self->env, 1);
	EXPECT_EQ(-EAGAIN, lease(held));
	EXPECT_EQ(1, env_is(second, "held"));
	close(second);
	env_released(_metadata, &self->env, 2);
	EXPECT_EQ(0, lease(held));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(held);
}

/* Two queues, and what goes wrong with ids that the server picks */

static void *open_thread(void *fd)
{
	*(int *)fd = env_open("file", O_RDWR);
	return NULL;
}

static int other_cpu(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN) > 1;
}

/* The second reply overtakes the first */
TEST_F(commit_open, overtaken)
{
	pthread_t client;
	int first, second;

	if (!other_cpu())
		SKIP(return, "needs two CPUs");
	hook.bring = DUP_UNTIL_RELEASE;
	hook.hold = FUSE_OPEN;
	env_pin(_metadata, 0);
	ASSERT_EQ(0, pthread_create(&client, NULL, open_thread, &first));
	ASSERT_EQ(0, wait_for(&hook.held));
	env_pin(_metadata, 1);
	second = open_file(_metadata, &self->env, "file");
	EXPECT_LE(0, second);
	sem_post(&hook.let_go);
	EXPECT_EQ(0, pthread_join(client, NULL));
	ASSERT_LE(0, first);
	EXPECT_EQ(1, env_is(first, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(first);
	close(second);
}

/* An fd's number means another file while the last one is being released */
TEST_F(commit_open, number_of_another_file)
{
	int fd, other;

	if (!other_cpu())
		SKIP(return, "needs two CPUs");
	hook.bring = DUP_UNTIL_RELEASE;
	env_pin(_metadata, 1);
	fd = open_file(_metadata, &self->env, "file");
	ASSERT_LE(0, fd);
	hook.hold = FUSE_RELEASE;
	close(fd);
	ASSERT_EQ(0, wait_for(&hook.held));
	env_pin(_metadata, 0);
	other = env_open("other", O_RDWR);
	ASSERT_LE(0, other);
	EXPECT_EQ(1, env_is(other, "other"));
	/* and the file itself again */
	fd = open_file(_metadata, &self->env, "file");
	EXPECT_LE(0, fd);
	sem_post(&hook.let_go);
	EXPECT_EQ(1, env_is(fd, "file"));
	EXPECT_EQ(1, env_is(other, "other"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
	close(other);
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
