// SPDX-License-Identifier: GPL-2.0
/*
 * The server may be writing to an SQE that brings a file while the kernel reads
 * it: each field is read once.
 *
 * The file is refused for one reason or another, depending on what the kernel
 * has read. Read twice, some field could be neither.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <time.h>

#include "commit_file.h"
#include "env.h"

/* Seconds for a test, with KASAN and so on in an emulated machine */
#define TIMEOUT		120

FIXTURE(read_once)
{
	struct env env;
	pthread_t writer;
};

FIXTURE_VARIANT(read_once)
{
	/* the bits that are flipped, in one of the fields */
	struct fuse_uring_cmd_req xor;
	/* with them, and without: the file is a directory */
	int err[2];
	/* how often each of both is to be seen at least */
	unsigned int rounds;
};

/* Another flag in place of this one: never none, with which it succeeds */
FIXTURE_VARIANT_ADD(read_once, flags) {
	{ .flags = FUSE_URING_COMMIT_BACKING | 2 }, { -EINVAL, -EISDIR }, 1500
};

FIXTURE_VARIANT_ADD(read_once, qid) {
	{ .qid = 1 << 15 }, { -EINVAL, -EISDIR }, 100
};

FIXTURE_VARIANT_ADD(read_once, map_flags) {
	{ .backing.map.flags = 1 }, { -EINVAL, -EISDIR }, 100
};

FIXTURE_VARIANT_ADD(read_once, map_padding) {
	{ .backing.map.padding = 1 }, { -EINVAL, -EISDIR }, 100
};

FIXTURE_VARIANT_ADD(read_once, id) {
	{ .backing.id = 1 }, { -EINVAL, -EISDIR }, 100
};

FIXTURE_VARIANT_ADD(read_once, reserved) {
	{ .backing.reserved = 1 }, { -EINVAL, -EISDIR }, 100
};

/* A file in place of the directory, for a request that there is not */
FIXTURE_VARIANT_ADD(read_once, fd) {
	{ }, { -ENOENT, -EISDIR }, 100
};

/* What the hooks and the writer do and see; every test is a process */
static struct {
	/* the word of the command, and its bits */
	unsigned int word;
	__u32 xor;
	/* where it is now, or NULL, and what the writer has seen of that */
	__u32 *at, *now;
	bool stop;
	int fd;
	__u64 commit_id_xor;
	int err[2];
	unsigned int rounds;
	/* how often these were seen, and another one */
	unsigned int seen[2];
	int other_err;
	time_t end;
} race;

static void *writer_thread(void *arg)
{
	int i;

	while (!__atomic_load_n(&race.stop, __ATOMIC_SEQ_CST)) {
		__u32 *at = __atomic_load_n(&race.at, __ATOMIC_SEQ_CST);

		__atomic_store_n(&race.now, at, __ATOMIC_SEQ_CST);
		if (!at || at != __atomic_load_n(&race.at, __ATOMIC_SEQ_CST))
			continue;
		/* as fast as can be, and oddly, so that it ends with either */
		for (i = 0; i < 99; i++)
			__atomic_store_n(at, *at ^ race.xor, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* From its fill-in to its CQE, when the SQE can be used for something else */
static void write_to(__u32 *at)
{
	__atomic_store_n(&race.at, at, __ATOMIC_SEQ_CST);
	/* until the writer is at it, or not any more */
	while (__atomic_load_n(&race.now, __ATOMIC_SEQ_CST) != at)
		sched_yield();
}

static bool reply(struct ring_req *req)
{
	write_to(NULL);
	if (req->open)
		req->fd = race.fd;
	return true;
}

static void sqe(struct ring_queue *queue, struct ring_req *req,
		struct io_uring_sqe *sqe)
{
	commit_file_sqe(queue, req, sqe);
	if (!req || req->fd < 0)
		return;
	fuse_cmd_req(sqe)->commit_id ^= race.commit_id_xor;
	write_to((__u32 *)sqe->cmd + race.word);
}

static void refused(struct ring_req *req, int err)
{
	write_to(NULL);
	if (err == race.err[0])
		race.seen[0]++;
	else if (err == race.err[1])
		race.seen[1]++;
	else
		race.other_err = err;
	/* enough: without the file */
	if ((race.seen[0] >= race.rounds && race.seen[1] >= race.rounds) ||
	    race.other_err || time(NULL) > race.end)
		req->fd = -1;
	ring_req_commit(req);
}

FIXTURE_SETUP(read_once)
{
	const struct ring_server_cfg cfg = {
		.init_flags = COMMIT_FILE_INIT,
		.hooks = {
			.reply = reply,
			.sqe = sqe,
			.refused = refused,
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
	race.fd = self->env.files.dir_fd;
	race.rounds = variant->rounds;
	memcpy(race.err, variant->err, sizeof(race.err));
	memcpy(xor, &variant->xor, sizeof(xor));
	if (variant->err[0] == -ENOENT) {
		race.commit_id_xor = 1;
		xor[offsetof(struct fuse_uring_cmd_req, backing.map.fd) / 4] =
			files_node(&self->env.files, "file")->fd ^ race.fd;
	}
	while (!xor[race.word])
		race.word++;
	race.xor = xor[race.word];
	race.end = time(NULL) + TIMEOUT - 10;
	env_start(_metadata, &self->env, &cfg);
	ASSERT_EQ(0, pthread_create(&self->writer, NULL, writer_thread, NULL));
	env_pin(_metadata, 0);
}

FIXTURE_TEARDOWN(read_once)
{
	/* the server waits for what the writer has seen */
	if (self->env.server)
		env_stop(_metadata, &self->env);
	__atomic_store_n(&race.stop, true, __ATOMIC_SEQ_CST);
	if (self->writer)
		EXPECT_EQ(0, pthread_join(self->writer, NULL));
	env_teardown(_metadata, &self->env);
}

TEST_F_TIMEOUT(read_once, refused_one_way_or_the_other, TIMEOUT)
{
	int fd = env_open("file", O_RDONLY);

	EXPECT_LE(0, fd);
	EXPECT_LE(variant->rounds, race.seen[0]);
	EXPECT_LE(variant->rounds, race.seen[1]);
	EXPECT_EQ(0, race.other_err);
	close(fd);
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
