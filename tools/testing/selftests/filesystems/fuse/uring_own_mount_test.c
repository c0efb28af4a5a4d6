// SPDX-License-Identifier: GPL-2.0
/*
 * A queue's thread that uses the mount it serves waits for itself. That is its
 * own fault, but it has to be possible to end it: by fusectl's abort, as over
 * /dev/fuse, and by SIGKILL. And SIGKILL ends a client of a thread that is
 * stopped.
 */
#include "raw_server.h"
#include "raw_ring.h"
#include <pthread.h>

#define ENABLE_URING	"/sys/module/fuse/parameters/enable_uring"
#define POSSIBLE_CPUS	"/sys/devices/system/cpu/possible"
#define MAX_QUEUES	1024

/* One ring for all queues, with one entry each. */
struct queues {
	struct raw_ring ring;
	struct fuse_uring_req_header headers[MAX_QUEUES];
	struct iovec iov[MAX_QUEUES][2];
};

static int queues_setup(struct queues *q, unsigned int nr)
{
	size_t payload = 32 * sysconf(_SC_PAGESIZE);
	int i;

	for (i = 0; i < nr; i++) {
		q->iov[i][0].iov_base = &q->headers[i];
		q->iov[i][0].iov_len = sizeof(q->headers[i]);
		q->iov[i][1].iov_base = malloc(payload);
		q->iov[i][1].iov_len = payload;
	}
	return raw_ring_setup(&q->ring, nr);
}

/* Submits a command for the entry of queue @qid. */
static int queue_cmd(struct queues *q, struct raw_server *s, uint32_t op,
		     unsigned int qid, uint64_t commit_id)
{
	struct io_uring_sqe *sqe = raw_ring_sqe(&q->ring);
	struct fuse_uring_cmd_req *req = (void *)sqe->cmd;
	int ret;

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = s->dev;
	sqe->cmd_op = op;
	sqe->addr = (uintptr_t)q->iov[qid];
	sqe->len = 2;
	sqe->user_data = qid;
	req->qid = qid;
	req->commit_id = commit_id;
	ret = raw_ring_enter(&q->ring, 1, 0);
	return ret < 0 ? ret : 0;
}

/* Answers the next request, returns its opcode. */
static int serve_one(struct queues *q, struct raw_server *s)
{
	struct fuse_uring_req_header *h;
	struct fuse_out_header oh = { .len = sizeof(oh) };
	struct fuse_in_header *ih;
	char in[sizeof(*ih) + sizeof(h->op_in)];
	struct io_uring_cqe cqe;
	unsigned int qid;
	int len, err;

	while (!raw_ring_cqe(&q->ring, &cqe)) {
		err = raw_ring_enter(&q->ring, 0, 1);
		if (err < 0)
			return err;
	}
	if (cqe.res)
		return -EIO;

	qid = cqe.user_data;
	h = &q->headers[qid];
	ih = (void *)in;
	memcpy(ih, h->in_out, sizeof(*ih));
	memcpy(ih + 1, h->op_in, sizeof(h->op_in));
	oh.unique = ih->unique;
	len = raw_answer(s, ih, q->iov[qid][1].iov_base);
	if (len < 0)
		oh.error = len;
	memcpy(h->in_out, &oh, sizeof(oh));
	h->ring_ent_in_out.payload_sz = len < 0 ? 0 : len;
	err = queue_cmd(q, s, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, qid,
			h->ring_ent_in_out.commit_id);
	return err ? : ih->opcode;
}

static int possible_cpus(void)
{
	FILE *f = fopen(POSSIBLE_CPUS, "r");
	int last = -1;

	/* "0" or "0-3" */
	if (f && fscanf(f, "%*d-%d", &last) != 1)
		last = 0;
	if (f)
		fclose(f);
	return last + 1;
}

static char enable_uring(char value)
{
	int fd = open(ENABLE_URING, O_RDWR | O_CLOEXEC);
	char old = 0;

	if (read(fd, &old, 1) != 1 || pwrite(fd, &value, 1, 0) != 1)
		old = 0;
	close(fd);
	return old;
}

/*
 * Enables io_uring until the fd that is returned is closed, which also happens
 * when the test is killed.
 */
static int enable_uring_meanwhile(void)
{
	char old = enable_uring('Y'), dummy;
	int p[2];

	if (!old || pipe2(p, O_CLOEXEC))
		return -1;
	if (!fork()) {
		setsid();
		close(p[1]);
		if (read(p[0], &dummy, 1) == 0)
			enable_uring(old);
		_exit(0);
	}
	close(p[0]);
	return p[1];
}

enum action { DO_STAT, DO_CLOSE, DO_STOP };

static void *open_file(void *arg)
{
	struct raw_server *s = arg;

	return (void *)(intptr_t)open(s->file, O_RDWR | O_CLOEXEC);
}

/*
 * The server: all queues with one thread, which then uses the mount. Writes 0
 * to @result in front of that, and after it the error, or what else failed.
 */
static void own_mount(struct queues *q, enum action what, int result)
{
	unsigned int nr = possible_cpus(), qid;
	struct raw_server *s = raw_server_new();
	pthread_t thread;
	struct stat st;
	void *fd;
	int err;

	s->init_flags = FUSE_OVER_IO_URING;
	s->content = memfd_create("content", 0);
	err = raw_server_mount(s, "mnt");
	if (!err)
		err = queues_setup(q, nr);
	for (qid = 0; !err && qid < nr; qid++)
		err = queue_cmd(q, s, FUSE_IO_URING_CMD_REGISTER, qid, 0);
	if (!err && what == DO_CLOSE) {
		pthread_create(&thread, NULL, open_file, s);
		do {
			err = serve_one(q, s);
		} while (err > 0 && err != FUSE_OPEN);
		if (err == FUSE_OPEN)
			err = pthread_join(thread, &fd);
	}
	if (write(result, &err, sizeof(err)) < 0 || err)
		return;

	if (what == DO_STOP)
		err = raise(SIGSTOP);
	else if (what == DO_CLOSE)
		err = close((intptr_t)fd);
	else
		err = stat(s->dir, &st);
	err = err ? errno : 0;
	if (write(result, &err, sizeof(err)) < 0)
		return;
}

struct server {
	pid_t pid;
	int result;		/* where its results come from */
};

/* start() - a server, until its thread waits for itself or is stopped */
static void start(struct __test_metadata *const _metadata, struct server *s,
		  enum action what)
{
	static struct queues q;
	int err, i, enabled;

	raw_sandbox(_metadata);
	if (access(ENABLE_URING, F_OK))
		SKIP(exit(KSFT_SKIP), "needs CONFIG_FUSE_IO_URING");
	ASSERT_GE(MAX_QUEUES, possible_cpus());
	enabled = enable_uring_meanwhile();
	ASSERT_LE(0, enabled);
	s->pid = raw_fork(&s->result);
	ASSERT_LE(0, s->pid);
	if (!s->pid) {
		/* It may stay for ever: nobody shall wait for its output. */
		for (i = 0; i <= 2; i++)
			close(i);
		close(enabled);
		own_mount(&q, what, s->result);
		_exit(0);
	}
	ASSERT_EQ(sizeof(err), read(s->result, &err, sizeof(err)));
	ASSERT_EQ(0, err);
	close(enabled);
	raw_wait_state(s->pid, what == DO_STOP ? 'T' : 'D');
}

static void abort_ends(struct __test_metadata *const _metadata, enum action what)
{
	struct server s;
	struct statx st;
	char path[60];
	int fd, err;

	start(_metadata, &s, what);
	/* Does not ask the server. */
	ASSERT_EQ(0, statx(AT_FDCWD, "/tmp/mnt", AT_STATX_DONT_SYNC, 0, &st));
	ASSERT_EQ(0, mkdir("/tmp/ctl", 0700));
	ASSERT_EQ(0, mount("fusectl", "/tmp/ctl", "fusectl", 0, NULL));
	snprintf(path, sizeof(path), "/tmp/ctl/%u/abort", st.stx_dev_minor);
	fd = open(path, O_WRONLY);
	ASSERT_LE(0, fd);
	ASSERT_EQ(1, write(fd, "1", 1));

	ASSERT_EQ(1, raw_poll(s.result));
	ASSERT_EQ(sizeof(err), read(s.result, &err, sizeof(err)));
	EXPECT_EQ(ECONNABORTED, err);
	EXPECT_EQ(s.pid, waitpid(s.pid, NULL, 0));
}

TEST(abort_ends_stat)
{
	abort_ends(_metadata, DO_STAT);
}

/* FLUSH, which no signal interrupts. */
TEST(abort_ends_close)
{
	abort_ends(_metadata, DO_CLOSE);
}

TEST(kill_ends_stat)
{
	struct server s;

	start(_metadata, &s, DO_STAT);
	ASSERT_EQ(0, kill(s.pid, SIGKILL));
	ASSERT_EQ(1, raw_poll(s.result));
	EXPECT_EQ(s.pid, waitpid(s.pid, NULL, 0));
}

TEST(kill_ends_client_of_stopped_server)
{
	struct server s;
	struct stat st;
	pid_t client;
	int ended;

	start(_metadata, &s, DO_STOP);
	client = raw_fork(&ended);
	ASSERT_LE(0, client);
	if (!client)
		_exit(stat("/tmp/mnt", &st));
	/* Interruptible at first: there is no other sleep in it. */
	raw_wait_state(client, 'S');
	ASSERT_EQ(0, kill(client, SIGKILL));
	EXPECT_EQ(1, raw_poll(ended));
	ASSERT_EQ(0, kill(s.pid, SIGKILL));
	EXPECT_EQ(client, waitpid(client, NULL, 0));
}

TEST_HARNESS_MAIN
