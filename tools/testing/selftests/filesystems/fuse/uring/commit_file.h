/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A server whose replies bring their backing files, see "Commit with the backing
 * file" in Documentation/filesystems/fuse/uapi/fuse-uapi-io-uring.rst. There is
 * no more to it than these hooks.
 */
#ifndef COMMIT_FILE_H
#define COMMIT_FILE_H

#include "files.h"

/* What such a server negotiates */
#define COMMIT_FILE_INIT \
	(FUSE_OVER_IO_URING | FUSE_PASSTHROUGH | FUSE_COMMIT_BACKING)

/**
 * commit_file_sqe() - the hook sqe(): a reply with an fd brings that file
 * @queue:	of the thread that calls
 * @req:	with @req->fd >= 0 if it is to bring a file
 * @sqe:	its commit
 */
static inline void commit_file_sqe(struct ring_queue *queue,
				   struct ring_req *req,
				   struct io_uring_sqe *sqe)
{
	if (!req || req->fd < 0)
		return;
	fuse_cmd_req(sqe)->flags = FUSE_URING_COMMIT_BACKING;
	fuse_cmd_req(sqe)->backing.map.fd = req->fd;
}

/**
 * commit_file_reply() - the hook reply(): every open brings its file
 * @req:	an answer of files_handle(); the fd stays open as its node has it
 */
static inline bool commit_file_reply(struct ring_req *req)
{
	if (req->queue && req->open && req->len > 0)
		req->fd = req->node->fd;
	return true;
}

/**
 * commit_file_refused() - the hook refused(): the same reply, without the file
 * @req:	whose commit has failed
 * @err:	with this
 */
static inline void commit_file_refused(struct ring_req *req, int err)
{
	req->fd = -1;
	ring_req_commit(req);
}

#endif /* COMMIT_FILE_H */
