/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Queues with a registered buffer pool, and for zero-copy, as hooks of the ring
 * server. Their REGISTER and COMMIT_AND_FETCH need IORING_URING_CMD_FIXED.
 */
#ifndef QUEUE_POOL_H
#define QUEUE_POOL_H

#include <stdlib.h>
#include <sys/uio.h>

#include "ring_server.h"

static inline void queue_pool_add(struct ring_queue *queue, __u64 flags)
{
	const size_t len = queue->server->cfg.depth * RING_MAX_IO;
	struct fuse_uring_cmd_req *req;
	struct io_uring_sqe *sqe;
	struct iovec iov;

	queue->pool = aligned_alloc(RING_PAGE, len);
	iov = (struct iovec) { queue->pool, len };
	/* if that fails, so does REGISTER, with a message */
	io_uring_register_buffers(&queue->ring, &iov, 1);
	sqe = ring_queue_cmd(queue, FUSE_IO_URING_CMD_ADD_QUEUE, 0);
	fuse_cmd_req(sqe)->qid = queue->qid;
	fuse_cmd_req(sqe)->flags = flags;
	sqe = ring_queue_cmd(queue, FUSE_IO_URING_CMD_ADD_BUFPOOL, 0);
	sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
	req = fuse_cmd_req(sqe);
	req->qid = queue->qid;
	req->bufpool.uaddr = (uintptr_t)queue->pool;
	req->bufpool.len = len;
}

/**
 * queue_pool_setup() - hook setup() for queues with a buffer pool
 * @queue:	of the server
 *
 * The two commands have their CQEs, with 0 as data.
 */
static inline void queue_pool_setup(struct ring_queue *queue)
{
	queue_pool_add(queue, 0);
}

/**
 * queue_zero_copy_setup() - the same for zero-copy
 * @queue:	of the server
 *
 * No file uses it unless its open is answered with FOPEN_IO_URING_ZERO_COPY,
 * for which each entry would need a slot among the registered buffers.
 */
static inline void queue_zero_copy_setup(struct ring_queue *queue)
{
	queue_pool_add(queue, FUSE_URING_ZERO_COPY);
}

/**
 * queue_pool_sqe() - hook sqe() for both
 * @queue:	of the server
 * @req:	unused
 * @sqe:	of REGISTER or COMMIT_AND_FETCH
 */
static inline void queue_pool_sqe(struct ring_queue *queue,
				  struct ring_req *req,
				  struct io_uring_sqe *sqe)
{
	/* buf_index is 0 */
	sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
}

#endif /* QUEUE_POOL_H */
