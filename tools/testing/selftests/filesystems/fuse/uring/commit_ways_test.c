// SPDX-License-Identifier: GPL-2.0
/*
 * Opens whose replies bring the backing file pass through, whatever way the
 * commit is issued, and whatever kind of queue it is for.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include "commit_file.h"
#include "env.h"
#include "queue_pool.h"
#include "queue_variants.h"

FIXTURE(commit_ways)
{
	struct env env;
};

FIXTURE_VARIANT(commit_ways)
{
	struct queue_how how;
	bool clone;
	void (*setup)(struct ring_queue *queue);
};

#define QUEUE_FIXTURE commit_ways
#include "queue_variants.h"

FIXTURE_VARIANT_ADD(commit_ways, clone) {
	.clone = true,
};

FIXTURE_VARIANT_ADD(commit_ways, pool) {
	.setup = queue_pool_setup,
};

FIXTURE_VARIANT_ADD(commit_ways, pool_sqpoll) {
	.how = { .ring_flags = IORING_SETUP_SQPOLL },
	.setup = queue_pool_setup,
};

FIXTURE_VARIANT_ADD(commit_ways, zero_copy) {
	.setup = queue_zero_copy_setup,
};

/* The variant, for the hooks */
static const struct _fixture_variant_commit_ways *way;
/* of the device, for all queues */
static pthread_once_t clone_once = PTHREAD_ONCE_INIT;
static int clone_fd, cloned_fd;

static void make_clone(void)
{
	clone_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (ioctl(clone_fd, FUSE_DEV_IOC_CLONE, &cloned_fd))
		perror("# FUSE_DEV_IOC_CLONE");
}

/* The fd that an entry has brought, 0 for none; of two entries a queue */
static struct brought {
	struct ring_ent *ent;
	int fd;
} *brought;

static int *fd_of(struct ring_req *req)
{
	struct brought *b = &brought[2 * req->queue->qid];

	if (b->ent && b->ent != req->ent)
		b++;
	b->ent = req->ent;
	return &b->fd;
}

/* Each open brings an O_PATH fd of its own, which the next CQE tells to close */
static bool reply(struct ring_req *req)
{
	char path[32];
	int *fd;

	if (!req->queue)
		return true;
	fd = fd_of(req);
	if (*fd)
		close(*fd);
	*fd = 0;
	if (!req->open || req->len < 0)
		return true;
	/* the file may have no name */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", req->node->fd);
	*fd = open(path, O_PATH | O_CLOEXEC);
	req->fd = *fd;
	return true;
}

static void setup(struct ring_queue *queue)
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

static void sqe(struct ring_queue *queue, struct ring_req *req,
		struct io_uring_sqe *sqe)
{
	commit_file_sqe(queue, req, sqe);
	queue_how_sqe(&way->how, sqe, false);
	if (way->setup)
		queue_pool_sqe(queue, req, sqe);
	if (way->clone)
		sqe->fd = clone_fd;
}

FIXTURE_SETUP(commit_ways)
{
	struct ring_server_cfg cfg = {
		.init_flags = COMMIT_FILE_INIT |
			      (variant->setup ? FUSE_HAS_IO_URING_BUFPOOL : 0),
		.hooks = {
			.setup = setup,
			.reply = reply,
			.sqe = sqe,
		},
	};
	const char *missing = queue_how_cfg(&variant->how, &cfg);

	if (!missing)
		missing = env_setup(_metadata, &self->env, COMMIT_FILE_INIT);
	if (missing)
		SKIP(return, "%s", missing);
	way = variant;
	brought = calloc(get_nprocs_conf(), 2 * sizeof(*brought));
	ASSERT_NE(NULL, brought);
	close(env_file(_metadata, &self->env, "file"));
	env_start(_metadata, &self->env, &cfg);
}

FIXTURE_TEARDOWN(commit_ways)
{
	int i;

	if (self->env.server)
		env_stop(_metadata, &self->env);
	for (i = 0; brought && i < 2 * get_nprocs_conf(); i++) {
		if (brought[i].fd)
			close(brought[i].fd);
	}
	env_teardown(_metadata, &self->env);
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

TEST_F(commit_ways, opens_pass_through)
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

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
