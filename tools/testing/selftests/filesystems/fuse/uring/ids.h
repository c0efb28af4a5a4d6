/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Backing ids that the server picks, by the rules of Documentation/filesystems/
 * fuse/uapi/fuse-uapi-io-uring.rst for servers with several queues:
 *
 *  - Every reply to an open brings the registration of its file along. Another
 *    one may have been written before and still be on its way.
 *  - A file has its id from the first open to the release of the last one. Then
 *    the id is closed, and the next open gets another one.
 *  - No id is used twice, so none is used before its close has completed.
 */
#ifndef IDS_H
#define IDS_H

#include "files.h"

/* Of a connection, zeroed but for the lock */
struct ids {
	pthread_mutex_t lock;
	/* a server that may get to INT_MAX has to look for one that is free */
	int last;
	/* of each node: what its opens have, and how many they are */
	struct {
		int id;
		unsigned int opens;
	} node[FILES_MAX];
};

/**
 * ids_get() - an id for the reply to one open
 * @ids:	of the connection
 * @node:	the file
 */
static inline int ids_get(struct ids *ids, const struct ring_node *node)
{
	unsigned int i = node->nodeid - FUSE_ROOT_ID - 1;
	int id;

	pthread_mutex_lock(&ids->lock);
	if (!ids->node[i].opens++)
		ids->node[i].id = ++ids->last;
	id = ids->node[i].id;
	pthread_mutex_unlock(&ids->lock);
	return id;
}

/**
 * ids_put() - an open was released, or its reply does not go out
 * @ids:	of the connection
 * @node:	the file
 *
 * Return: the id if it is to be closed, else 0.
 */
static inline int ids_put(struct ids *ids, const struct ring_node *node)
{
	unsigned int i = node->nodeid - FUSE_ROOT_ID - 1;
	int id;

	pthread_mutex_lock(&ids->lock);
	id = --ids->node[i].opens ? 0 : ids->node[i].id;
	pthread_mutex_unlock(&ids->lock);
	return id;
}

/**
 * ids_queue_open() - queue the registration in front of the reply to an open
 * @req:	an open, in the hook reply() or refused(); its answer is changed
 * @id:		from ids_get(). RELEASE has it as the file handle
 *
 * Return: the SQE, for @req as data. It is linked and has no CQE on success.
 */
static inline struct io_uring_sqe *ids_queue_open(struct ring_req *req, int id)
{
	struct io_uring_sqe *sqe;

	req->open->open_flags = FOPEN_PASSTHROUGH;
	req->open->backing_id = id;
	req->open->fh = id;
	sqe = ring_queue_cmd(req->queue, FUSE_IO_URING_CMD_BACKING_OPEN,
			     (uintptr_t)req);
	fuse_cmd_req(sqe)->backing.map.fd = req->node->fd;
	fuse_cmd_req(sqe)->backing.id = id;
	sqe->flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
	return sqe;
}

/**
 * ids_queue_close() - queue the end of a registration
 * @queue:	of the thread that calls
 * @id:		from ids_put()
 *
 * Return: the SQE, for 0 as data. It has no CQE on success.
 */
static inline struct io_uring_sqe *ids_queue_close(struct ring_queue *queue,
						   int id)
{
	struct io_uring_sqe *sqe;

	sqe = ring_queue_cmd(queue, FUSE_IO_URING_CMD_BACKING_CLOSE, 0);
	fuse_cmd_req(sqe)->backing.id = id;
	sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
	return sqe;
}

#endif /* IDS_H */
