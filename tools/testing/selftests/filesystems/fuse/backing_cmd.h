/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FUSE_IO_URING_CMD_BACKING_OPEN and FUSE_IO_URING_CMD_BACKING_CLOSE in an SQE.
 *
 * The rules are those of Documentation/filesystems/fuse/uapi/
 * fuse-uapi-io-uring.rst, "Backing files".
 */
#ifndef BACKING_CMD_H
#define BACKING_CMD_H

#include <liburing.h>
#include <linux/fuse.h>
#include <string.h>

/**
 * backing_cmd_req() - the command area of an SQE
 * @sqe:	an SQE of 128 bytes
 *
 * Return: the FUSE part of the SQE, to change what the functions below filled
 * in.
 */
static inline struct fuse_uring_cmd_req *
backing_cmd_req(struct io_uring_sqe *sqe)
{
	return (struct fuse_uring_cmd_req *)sqe->cmd;
}

/**
 * backing_cmd_prep() - make an SQE a FUSE command with nothing set
 * @sqe:	an SQE of 128 bytes, all of which is overwritten
 * @dev_fd:	a /dev/fuse file of the connection, or its index in the ring's
 *		file table if the caller then sets IOSQE_FIXED_FILE
 * @cmd_op:	enum fuse_uring_cmd
 *
 * Return: the command area, zeroed.
 */
static inline struct fuse_uring_cmd_req *
backing_cmd_prep(struct io_uring_sqe *sqe, int dev_fd, __u32 cmd_op)
{
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = dev_fd;
	sqe->cmd_op = cmd_op;

	return backing_cmd_req(sqe);
}

/**
 * backing_cmd_prep_open() - register a backing file
 * @sqe:	an SQE of 128 bytes
 * @dev_fd:	see backing_cmd_prep()
 * @fd:		the backing file, in the file table of the task that issues
 *
 * The CQE's res is the backing id (> 0), or a negative errno.
 */
static inline void backing_cmd_prep_open(struct io_uring_sqe *sqe, int dev_fd,
					 int fd)
{
	struct fuse_uring_cmd_req *req;

	req = backing_cmd_prep(sqe, dev_fd, FUSE_IO_URING_CMD_BACKING_OPEN);
	req->backing.map.fd = fd;
}

/**
 * backing_cmd_prep_open_id() - register a backing file under a given id
 * @sqe:	an SQE of 128 bytes
 * @dev_fd:	see backing_cmd_prep()
 * @fd:		see backing_cmd_prep_open()
 * @id:		the backing id wanted, > 0
 *
 * The CQE's res is @id, or a negative errno, -EEXIST if @id is in use. As the
 * result is known beforehand, the reply that uses it can be linked behind.
 */
static inline void backing_cmd_prep_open_id(struct io_uring_sqe *sqe,
					    int dev_fd, int fd, int id)
{
	backing_cmd_prep_open(sqe, dev_fd, fd);
	backing_cmd_req(sqe)->backing.id = id;
}

/**
 * backing_cmd_prep_close() - release a backing id
 * @sqe:	an SQE of 128 bytes
 * @dev_fd:	see backing_cmd_prep()
 * @id:		what BACKING_OPEN or FUSE_DEV_IOC_BACKING_OPEN returned
 *
 * The CQE's res is 0, or a negative errno.
 */
static inline void backing_cmd_prep_close(struct io_uring_sqe *sqe, int dev_fd,
					  int id)
{
	struct fuse_uring_cmd_req *req;

	req = backing_cmd_prep(sqe, dev_fd, FUSE_IO_URING_CMD_BACKING_CLOSE);
	req->backing.id = id;
}

#endif /* BACKING_CMD_H */
