// SPDX-License-Identifier: GPL-2.0
/*
 * The server may be writing to an SQE that brings a file while the kernel reads
 * it: each field is read once.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <time.h>

#include "commit_file.h"
#include "env.h"

FIXTURE(read_once)
{
	struct env env;
	pthread_t writer;
};

/* What makes a command that is right wrong, and what it is refused with then */
FIXTURE_VARIANT(read_once)
{
	struct fuse_uring_cmd_req xor;
	int err;
};

/* Another flag in place of this one: never none */
FIXTURE_VARIANT_ADD(read_once, flags) {
	{ .flags = FUSE_URING_COMMIT_BACKING | 2 }, -EINVAL
};

FIXTURE_VARIANT_ADD(read_once, commit_id) {
	{ .commit_id = 1 }, -ENOENT
};

FIXTURE_VARIANT_ADD(read_once, qid) {
	{ .qid = 1 << 15 }, -EINVAL
};

/* The backing directory in place of the file: see the setup */
FIXTURE_VARIANT_ADD(read_once, fd) {
	{ }, -EISDIR
};

FIXTURE_VARIANT_ADD(read_once, map_flags) {
	{ .backing.map.flags = 1 }, -EINVAL
};

FIXTURE_VARIANT_ADD(read_once, map_padding) {
	{ .backing.map.padding = 1 }, -EINVAL
};

FIXTURE_VARIANT_ADD(read_once, id) {
	{ .backing.id = 1 }, -EINVAL
};

FIXTURE_VARIANT_ADD(read_once, reserved) {
	{ .backing.reserved = 1 }, -EINVAL
};

/* How often each outcome is to be seen */
#define ROUNDS		20

/* What makes a word of an SQE right and wrong by turns */
static struct {
	unsigned int word;
	__u32 xor;
	__u32 *at, *now;
	bool stop;
	unsigned int refused;
	/* what it was refused with last */
	int err;
} writer;

static void *writer_thread(void *arg)
{
	while (!__atomic_load_n(&writer.stop, __ATOMIC_SEQ_CST)) {
		__u32 *at = __atomic_load_n(&writer.at, __ATOMIC_SEQ_CST);

		__atomic_store_n(&writer.now, at, __ATOMIC_SEQ_CST);
		if (at && at == __atomic_load_n(&writer.at, __ATOMIC_SEQ_CST))
			__atomic_fetch_xor(at, writer.xor, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* From its fill-in to its CQE, when the SQE can be used for something else */
static void write_to(__u32 *at)
{
	__atomic_store_n(&writer.at, at, __ATOMIC_SEQ_CST);
	while (!at && __atomic_load_n(&writer.now, __ATOMIC_SEQ_CST))
		sched_yield();
}

static bool reply_written(struct ring_req *req)
{
	write_to(NULL);
	return commit_file_reply(req);
}

static void sqe_written(struct ring_queue *queue, struct ring_req *req,
			struct io_uring_sqe *sqe)
{
	commit_file_sqe(queue, req, sqe);
	if (req && req->fd >= 0)
		write_to((__u32 *)sqe->cmd + writer.word);
}

static void refused_written(struct ring_req *req, int err)
{
	write_to(NULL);
	writer.refused++;
	writer.err = err;
	ring_req_commit(req);
}

FIXTURE_SETUP(read_once)
{
	const struct ring_server_cfg cfg = {
		.init_flags = COMMIT_FILE_INIT,
		.hooks = {
			.reply = reply_written,
			.sqe = sqe_written,
			.refused = refused_written,
		},
	};
	const char *missing = env_setup(_metadata, &self->env,
					COMMIT_FILE_INIT);
	__u32 xor[sizeof(struct fuse_uring_cmd_req) / 4];

	if (!missing && sysconf(_SC_NPROCESSORS_ONLN) < 2)
		missing = "needs two CPUs";
	if (missing)
		SKIP(return, "%s", missing);
	close(env_file(_metadata, &self->env, "file"));
	memcpy(xor, &variant->xor, sizeof(xor));
	if (variant->err == -EISDIR)
		xor[offsetof(struct fuse_uring_cmd_req, backing.map.fd) / 4] =
			files_node(&self->env.files, "file")->fd ^
			self->env.files.dir_fd;
	while (!xor[writer.word])
		writer.word++;
	writer.xor = xor[writer.word];
	env_start(_metadata, &self->env, &cfg);
	ASSERT_EQ(0, pthread_create(&self->writer, NULL, writer_thread, NULL));
	env_pin(_metadata, 0);
}

FIXTURE_TEARDOWN(read_once)
{
	__atomic_store_n(&writer.stop, true, __ATOMIC_SEQ_CST);
	if (self->writer)
		EXPECT_EQ(0, pthread_join(self->writer, NULL));
	env_teardown(_metadata, &self->env);
}

/* The file is brought or refused, and nothing in between */
TEST_F(read_once, refused_or_brought)
{
	time_t end = time(NULL) + RING_PATIENCE;
	int i;

	for (i = 0; i < ROUNDS || writer.refused < ROUNDS; i++) {
		int fd = env_open("file", O_RDONLY);

		ASSERT_LE(0, fd);
		EXPECT_EQ(1, env_is(fd, "file"));
		close(fd);
		ASSERT_EQ(0, env_io_served(&self->env));
		if (writer.refused)
			ASSERT_EQ(variant->err, writer.err);
		ASSERT_GT(end, time(NULL)) {
			TH_LOG("%d opened, %u refused", i, writer.refused);
		}
	}
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
