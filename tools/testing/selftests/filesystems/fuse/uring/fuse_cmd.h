/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FUSE commands as io_uring SQEs, see Documentation/filesystems/fuse/uapi/
 * fuse-uapi-io-uring.rst.
 */
#ifndef FUSE_CMD_H
#define FUSE_CMD_H

#include <liburing.h>
#include <linux/fuse.h>
#include <string.h>

/* liburing before 2.13: what wants IORING_SETUP_SQE_MIXED has to skip */
#ifndef IORING_SETUP_SQE_MIXED
#define IORING_SETUP_SQE_MIXED	0
#define IORING_OP_URING_CMD128	IORING_OP_URING_CMD
#define io_uring_get_sqe128	io_uring_get_sqe
#endif

/**
 * fuse_cmd_req() - the command area of an SQE
 * @sqe:	an SQE of 128 bytes
 */
static inline struct fuse_uring_cmd_req *fuse_cmd_req(struct io_uring_sqe *sqe)
{
	return (struct fuse_uring_cmd_req *)sqe->cmd;
}

/**
 * fuse_cmd_sqe() - take an SQE and make it a FUSE command with nothing set
 * @ring:	has IORING_SETUP_SQE128 or IORING_SETUP_SQE_MIXED
 * @dev_fd:	a /dev/fuse file of the connection
 * @cmd_op:	enum fuse_uring_cmd
 *
 * All of the 128 bytes are zeroed: what a command does not use has to be 0.
 *
 * Return: the SQE, or NULL without room.
 */
static inline struct io_uring_sqe *fuse_cmd_sqe(struct io_uring *ring,
						int dev_fd, __u32 cmd_op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe128(ring);

	if (!sqe)
		return NULL;
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = ring->flags & IORING_SETUP_SQE_MIXED ?
		      IORING_OP_URING_CMD128 : IORING_OP_URING_CMD;
	sqe->fd = dev_fd;
	sqe->cmd_op = cmd_op;
	return sqe;
}

#endif /* FUSE_CMD_H */
