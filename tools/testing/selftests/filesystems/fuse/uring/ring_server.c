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
#include <unistd.h>

#include "ring_server.h"

/* In the user_data of a CQE for the hook. Else that is an entry's address */
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

static int mount_at(const char *mnt, int dev_fd)
{
	char opts[64];

	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other",
		 dev_fd);
	return mount("ring_server", mnt, "fuse", MS_NODEV, opts) ? -errno : 0;
}

static void answer_init(struct ring_server *s, const struct fuse_init_in *in,
			struct fuse_init_out *out)
{
	__u64 flags = s->cfg.init_flags | FUSE_INIT_EXT | FUSE_MAX_PAGES |
		      FUSE_REQUEST_TIMEOUT |
		      (s->cfg.pool ? FUSE_HAS_IO_URING_BUFPOOL : 0);
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
		/*
		 * A client that waits cannot be killed, and when it is of this
		 * process the server does not end, either
		 */
		.request_timeout = RING_PATIENCE,
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
	struct io_uring_sqe *sqe = issue_sqe(&q->issuer, cmd_op, NULL);

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

/* What REGISTER and commits have in common */
static struct io_uring_sqe *ent_sqe(struct ring_queue *q, __u32 cmd_op,
				    struct ring_ent *ent)
{
	struct io_uring_sqe *sqe = queue_sqe(q, cmd_op, (uintptr_t)ent);

	fuse_cmd_req(sqe)->qid = q->qid;
	if (q->server->cfg.pool)
		sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
	return sqe;
}

void ring_req_commit(struct ring_req *req)
{
	const int len = req->len > 0 ? req->len : 0;
	const struct fuse_out_header oh = {
		.len = sizeof(oh) + len,
		.error = req->len - len,
		.unique = req->in.unique,
	};
	struct ring_ent *ent = req->ent;
	struct io_uring_sqe *sqe;

	memcpy(ent->hdr.in_out, &oh, sizeof(oh));
	ent->hdr.ring_ent_in_out.payload_sz = len;
	sqe = ent_sqe(req->queue,
		      req->fd < 0 ? FUSE_IO_URING_CMD_COMMIT_AND_FETCH :
				    FUSE_IO_URING_CMD_COMMIT_BACKING, ent);
	fuse_cmd_req(sqe)->commit_id = ent->hdr.ring_ent_in_out.commit_id;
	if (req->fd >= 0)
		fuse_cmd_req(sqe)->backing.map.fd = req->fd;
	if (req->server->cfg.hooks.sqe)
		req->server->cfg.hooks.sqe(req, sqe);
}

void ring_req_no_file(struct ring_req *req)
{
	if (req->close_fd)
		close(req->fd);
	req->close_fd = false;
	req->fd = -1;
}

static void serve(struct ring_queue *q, struct ring_ent *ent)
{
	struct ring_server *s = q->server;
	struct ring_req *req = &ent->req;

	/* the commit before has run */
	ring_req_no_file(req);
	if (s->cfg.pool)
		ent->payload = q->payloads + ent->hdr.ring_ent_in_out.offset;
	*req = (struct ring_req) {
		.server = s,
		.queue = q,
		.ent = ent,
		.hdr = &ent->hdr,
		.fd = -1,
		.op = ent->hdr.op_in,
		.data = ent->payload,
		.out = ent->payload,
	};
	memcpy(&req->in, ent->hdr.in_out, sizeof(req->in));
	served(s, req->in.opcode);
	req->len = s->cfg.handle(req);
	if (!s->cfg.hooks.reply || s->cfg.hooks.reply(req))
		ring_req_commit(req);
}

static void take_cqe(struct ring_queue *q, __u64 user_data, int res)
{
	const struct ring_hooks *hooks = &q->server->cfg.hooks;
	struct ring_ent *ent = (void *)(uintptr_t)user_data;

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

static void add_pool(struct ring_queue *q)
{
	const size_t len = q->server->cfg.depth * RING_MAX_IO;
	const struct iovec iov = { q->payloads, len };
	struct fuse_uring_cmd_req *req;
	struct io_uring_sqe *sqe;

	/* if that fails, so does REGISTER, with a message */
	io_uring_register_buffers(&q->issuer.ring, &iov, 1);
	sqe = ring_queue_cmd(q, FUSE_IO_URING_CMD_ADD_QUEUE, 0);
	fuse_cmd_req(sqe)->qid = q->qid;
	if (q->server->cfg.pool == RING_ZERO_COPY)
		fuse_cmd_req(sqe)->flags = FUSE_URING_ZERO_COPY;
	sqe = ring_queue_cmd(q, FUSE_IO_URING_CMD_ADD_BUFPOOL, 0);
	sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
	req = fuse_cmd_req(sqe);
	req->qid = q->qid;
	req->bufpool.uaddr = (uintptr_t)q->payloads;
	req->bufpool.len = len;
}

static void queue_init(struct ring_queue *q)
{
	struct ring_server_cfg *cfg = &q->server->cfg;
	unsigned int i;
	int err;

	/* two commands and a commit for each, twice, of two places each */
	err = issuer_init(&q->issuer, &cfg->how, q->server->dev_fd,
			  12 * cfg->depth);
	if (err)
		give_up("ring", err);
	/* a child that has the ring mapped would keep its files, the device */
	io_uring_ring_dontfork(&q->issuer.ring);
	if (cfg->hooks.setup)
		cfg->hooks.setup(q);
	if (cfg->pool)
		add_pool(q);
	for (i = 0; i < cfg->depth; i++) {
		struct ring_ent *ent = &q->ents[i];
		struct io_uring_sqe *sqe;

		ent->req.fd = -1;
		ent->iov[0] = (struct iovec) { &ent->hdr, sizeof(ent->hdr) };
		ent->payload = q->payloads + i * RING_MAX_IO;
		if (!cfg->pool)
			ent->iov[1] = (struct iovec) { ent->payload,
						       RING_MAX_IO };
		sqe = ent_sqe(q, FUSE_IO_URING_CMD_REGISTER, ent);
		sqe->addr = (uintptr_t)ent->iov;
		sqe->len = 2;
	}
	q->live = cfg->depth;
}

static void *queue_thread(void *arg)
{
	struct ring_queue *q = arg;
	struct ring_server *s = q->server;
	struct io_uring *ring = &q->issuer.ring;
	struct io_uring_cqe *cqe;
	unsigned int i;
	int ret;

	queue_init(q);
	while (q->live) {
		ret = io_uring_submit_and_wait(ring, 1);
		if (ret < 0 && ret != -EINTR)
			give_up("io_uring_enter", ret);
		while (!io_uring_peek_cqe(ring, &cqe)) {
			take_cqe(q, cqe->user_data, cqe->res);
			io_uring_cqe_seen(ring, cqe);
		}
	}
	issuer_exit(&q->issuer);
	for (i = 0; i < s->cfg.depth; i++)
		ring_req_no_file(&q->ents[i].req);
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
	struct {
		struct fuse_in_header hdr;
		struct fuse_init_in init;
		/* the kernel wants it to have room for a WRITE */
		char rest[RING_MAX_IO + RING_PAGE];
	} in;
	struct {
		struct fuse_out_header hdr;
		struct fuse_init_out init;
	} out = { .hdr.len = sizeof(out) };
	struct ring_server *s = arg;

	for (;;) {
		if (read(s->dev_fd, &in, sizeof(in)) < 0) {
			/* a client that gave up, or the end */
			if (errno == EINTR || errno == ENOENT)
				continue;
			return NULL;
		}
		/* others are FORGETs */
		if (in.hdr.opcode != FUSE_INIT)
			continue;
		out.hdr.unique = in.hdr.unique;
		answer_init(s, &in.init, &out.init);
		if (write(s->dev_fd, &out, sizeof(out)) > 0) {
			start_queues(s);
			served(s, FUSE_INIT);
		}
	}
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
	err = s->dev_fd < 0 ? -errno : mount_at(mnt, s->dev_fd);
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
	}
	close(s->dev_fd);
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
