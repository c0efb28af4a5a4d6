// SPDX-License-Identifier: GPL-2.0
/*
 * A FUSE server over io_uring for tests, see ring_server.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ring_server.h"

/* In the user_data of a CQE: it is for the hook. Else it is an entry's address */
#define FOR_HOOK	1ULL

/* A ring entry, with the request in it */
struct ring_ent {
	struct fuse_uring_req_header hdr;
	void *payload;
	struct iovec iov[2];
	struct ring_req req;
};

/* What there is no way to go on from */
static void give_up(const char *what, int err)
{
	fprintf(stderr, "# ring_server: %s: %s\n", what, strerror(-err));
	abort();
}

int ring_server_mount(const char *mnt, int dev_fd)
{
	char opts[128];

	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other",
		 dev_fd);
	return mount("ring_server", mnt, "fuse", MS_NODEV, opts) ? -errno : 0;
}

static int answer_init(struct ring_req *req)
{
	const struct fuse_init_in *in = req->op;
	struct fuse_init_out *out = req->out;
	struct ring_server *s = req->server;
	__u64 flags = s->cfg.init_flags | FUSE_INIT_EXT | FUSE_MAX_PAGES |
		      FUSE_REQUEST_TIMEOUT;
	long max_pages = RING_MAX_IO / sysconf(_SC_PAGESIZE);

	s->offered = in->flags | (__u64)in->flags2 << 32;
	if (s->offered & flags & FUSE_OVER_IO_URING && !s->cfg.no_queues)
		s->nr_queues = get_nprocs_conf();
	*out = (struct fuse_init_out) {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = in->max_readahead,
		.flags = flags,
		.flags2 = flags >> 32,
		.max_background = 64,
		.congestion_threshold = 48,
		.max_write = RING_MAX_IO,
		/* the payload of a ring entry has to hold as many */
		.max_pages = max_pages ? max_pages : 1,
		.max_stack_depth = s->cfg.max_stack_depth,
		/* a client that waits would keep the process from ending */
		.request_timeout = RING_PATIENCE,
	};
	return sizeof(*out);
}

/* Make the answer. Returns whether it is to be sent now */
static bool answer(struct ring_req *req)
{
	struct ring_server *s = req->server;

	req->fd = -1;
	if (req->in.opcode == FUSE_INIT)
		req->len = answer_init(req);
	else
		req->len = s->cfg.handle(req);
	return !s->cfg.hooks.reply || s->cfg.hooks.reply(req);
}

static struct fuse_out_header out_header(const struct ring_req *req)
{
	int len = req->len > 0 ? req->len : 0;

	return (struct fuse_out_header) {
		.len = sizeof(struct fuse_out_header) + len,
		.error = req->len < 0 ? req->len : 0,
		.unique = req->in.unique,
	};
}

/* Before the answer is sent: who gets it can rely on the count */
static void served(struct ring_server *s, __u32 opcode)
{
	pthread_mutex_lock(&s->lock);
	if (opcode <= FUSE_STATX)
		s->count[opcode]++;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

static struct io_uring_sqe *queue_sqe(struct ring_queue *q, __u32 cmd_op,
				      __u64 user_data)
{
	struct io_uring_sqe *sqe;

	sqe = fuse_cmd_sqe(&q->ring, q->server->dev_fd, cmd_op);
	if (!sqe)
		give_up("SQ ring", -ENOSPC);
	sqe->user_data = user_data;
	return sqe;
}

struct io_uring_sqe *ring_queue_cmd(struct ring_queue *q, __u32 cmd_op,
				    __u64 data)
{
	return queue_sqe(q, cmd_op, data << 1 | FOR_HOOK);
}

static void last_touch(struct ring_queue *q, struct ring_req *req,
		       struct io_uring_sqe *sqe)
{
	fuse_cmd_req(sqe)->qid = q->qid;
	if (q->server->cfg.hooks.sqe)
		q->server->cfg.hooks.sqe(q, req, sqe);
}

void ring_req_commit(struct ring_req *req)
{
	struct fuse_out_header oh = out_header(req);
	struct ring_ent *ent = req->ent;
	struct io_uring_sqe *sqe;

	memcpy(ent->hdr.in_out, &oh, sizeof(oh));
	ent->hdr.ring_ent_in_out.payload_sz = oh.len - sizeof(oh);
	sqe = queue_sqe(req->queue, FUSE_IO_URING_CMD_COMMIT_AND_FETCH,
			(uintptr_t)ent);
	fuse_cmd_req(sqe)->commit_id = ent->hdr.ring_ent_in_out.commit_id;
	last_touch(req->queue, req, sqe);
}

static void serve(struct ring_queue *q, struct ring_ent *ent)
{
	struct ring_req *req = &ent->req;

	if (q->pool)
		ent->payload = q->pool + ent->hdr.ring_ent_in_out.offset;
	*req = (struct ring_req) {
		.server = q->server,
		.queue = q,
		.ent = ent,
		.op = ent->hdr.op_in,
		.data = ent->payload,
		.out = ent->payload,
	};
	memcpy(&req->in, ent->hdr.in_out, sizeof(req->in));
	served(q->server, req->in.opcode);
	if (answer(req))
		ring_req_commit(req);
}

static void take_cqe(struct ring_queue *q, __u64 user_data, int res)
{
	struct ring_ent *ent = (void *)(uintptr_t)user_data;
	struct ring_hooks *hooks = &q->server->cfg.hooks;

	if (user_data & FOR_HOOK) {
		if (hooks->cqe)
			hooks->cqe(q, user_data >> 1, res);
	} else if (!res) {
		serve(q, ent);
	} else if (res == -ENOTCONN || res == -ECONNABORTED) {
		/* the connection is gone, and the entry with it */
		q->live--;
	} else if (hooks->refused) {
		hooks->refused(&ent->req, res);
	} else {
		give_up("commit", res);
	}
}

static void queue_init(struct ring_queue *q)
{
	struct ring_server_cfg *cfg = &q->server->cfg;
	/* ms: an SQPOLL thread that spins takes a CPU from the others */
	struct io_uring_params p = { .flags = cfg->ring_flags,
				     .sq_thread_idle = 10 };
	unsigned int i;
	int err;

	if (!(p.flags & IORING_SETUP_SQE_MIXED))
		p.flags |= IORING_SETUP_SQE128;
	/* a close, an open and a commit for each, twice, of two places each */
	err = io_uring_queue_init_params(12 * cfg->depth, &q->ring, &p);
	if (err)
		give_up("ring", err);
	/* a child that has the ring mapped would keep its files, the device */
	io_uring_ring_dontfork(&q->ring);
	if (cfg->hooks.setup)
		cfg->hooks.setup(q);
	for (i = 0; i < cfg->depth; i++) {
		struct ring_ent *ent = &q->ents[i];
		struct io_uring_sqe *sqe;

		ent->iov[0] = (struct iovec) { &ent->hdr, sizeof(ent->hdr) };
		ent->payload = q->payloads + i * RING_MAX_IO;
		if (!q->pool)
			ent->iov[1] = (struct iovec) { ent->payload,
						       RING_MAX_IO };
		sqe = queue_sqe(q, FUSE_IO_URING_CMD_REGISTER, (uintptr_t)ent);
		sqe->addr = (uintptr_t)ent->iov;
		sqe->len = 2;
		last_touch(q, NULL, sqe);
	}
	q->live = cfg->depth;
}

static void *queue_thread(void *arg)
{
	struct ring_queue *q = arg;
	struct ring_server *s = q->server;
	struct io_uring_cqe *cqe;
	int ret;

	queue_init(q);
	while (q->live && !q->exit) {
		if (s->cfg.hooks.submit)
			s->cfg.hooks.submit(q);
		__atomic_add_fetch(&s->enters, 1, __ATOMIC_SEQ_CST);
		ret = io_uring_submit_and_wait(&q->ring, 1);
		if (ret < 0 && ret != -EINTR)
			give_up("io_uring_enter", ret);
		while (!q->exit && !io_uring_peek_cqe(&q->ring, &cqe)) {
			__u64 user_data = cqe->user_data;

			ret = cqe->res;
			io_uring_cqe_seen(&q->ring, cqe);
			take_cqe(q, user_data, ret);
		}
	}
	if (q->exit)
		io_uring_submit(&q->ring);
	io_uring_queue_exit(&q->ring);
	return NULL;
}

static void start_queues(struct ring_server *s)
{
	unsigned int i;

	s->queues = calloc(s->nr_queues, sizeof(*s->queues));
	for (i = 0; s->queues && i < s->nr_queues; i++) {
		struct ring_queue *q = &s->queues[i];

		q->server = s;
		q->qid = i;
		q->ents = calloc(s->cfg.depth, sizeof(*q->ents));
		q->payloads = aligned_alloc(RING_PAGE,
					    s->cfg.depth * RING_MAX_IO);
		if (!q->ents || !q->payloads ||
		    pthread_create(&q->thread, NULL, queue_thread, q))
			give_up("queue", -ENOMEM);
	}
}

static void *dev_thread(void *arg)
{
	struct ring_server *s = arg;
	/* the header of a WRITE is in front of its data */
	char *in = malloc(RING_MAX_IO + RING_PAGE);
	char *out = malloc(RING_MAX_IO);

	while (in && out) {
		struct ring_req req = { .server = s, .out = out };
		struct fuse_out_header oh;
		struct iovec iov[2] = { { &oh, sizeof(oh) }, { out } };
		__u32 opcode;

		if (read(s->dev_fd, in, RING_MAX_IO + RING_PAGE) < 0) {
			/* a client that gave up, or the end */
			if (errno == EINTR || errno == ENOENT)
				continue;
			break;
		}
		memcpy(&req.in, in, sizeof(req.in));
		req.op = in + sizeof(req.in);
		req.data = req.op;
		opcode = req.in.opcode;
		if (opcode != FUSE_INIT)
			served(s, opcode);
		if (opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET ||
		    opcode == FUSE_INTERRUPT)
			continue;
		answer(&req);
		oh = out_header(&req);
		iov[1].iov_len = oh.len - sizeof(oh);
		/* if the connection has ended, so does read() */
		if (writev(s->dev_fd, iov, 2) > 0 && opcode == FUSE_INIT) {
			start_queues(s);
			served(s, opcode);
		}
	}
	free(in);
	free(out);
	return NULL;
}

int ring_server_start(struct ring_server **server, const char *mnt,
		      const struct ring_server_cfg *cfg)
{
	struct ring_server *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	s->cfg = *cfg;
	if (!s->cfg.depth)
		s->cfg.depth = 2;
	s->mnt = mnt;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->cond, NULL);
	s->dev_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	err = s->dev_fd < 0 ? -errno : ring_server_mount(mnt, s->dev_fd);
	s->mounted = !err;
	if (!err)
		err = -pthread_create(&s->dev_thread, NULL, dev_thread, s);
	if (!err)
		err = ring_server_wait(s, FUSE_INIT, 1);
	if (err)
		ring_server_stop(s);
	else
		*server = s;
	return err;
}

int ring_server_stop(struct ring_server *s)
{
	unsigned int i;
	int err = 0;

	if (!s)
		return 0;
	/* EINVAL: the test itself has unmounted it */
	if (s->mounted && umount2(s->mnt, 0) && errno != EINVAL) {
		err = -errno;
		/* aborts the connection, too */
		umount2(s->mnt, MNT_FORCE | MNT_DETACH);
	}
	if (s->dev_thread)
		pthread_join(s->dev_thread, NULL);
	for (i = 0; s->queues && i < s->nr_queues; i++) {
		pthread_join(s->queues[i].thread, NULL);
		free(s->queues[i].ents);
		free(s->queues[i].payloads);
		free(s->queues[i].pool);
	}
	if (s->dev_fd >= 0)
		close(s->dev_fd);
	pthread_cond_destroy(&s->cond);
	pthread_mutex_destroy(&s->lock);
	free(s->queues);
	free(s);
	return err;
}

int ring_server_wait(struct ring_server *s, __u32 opcode, unsigned long nr)
{
	struct timespec end;
	int err = 0;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += RING_PATIENCE;
	pthread_mutex_lock(&s->lock);
	while (!err && s->count[opcode] < nr)
		err = -pthread_cond_timedwait(&s->cond, &s->lock, &end);
	pthread_mutex_unlock(&s->lock);
	return err;
}
