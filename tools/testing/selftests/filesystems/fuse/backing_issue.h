/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One way or another to open and close backing files: each way that io_uring
 * has to issue a command, and the ioctls, which are the reference.
 */
#ifndef BACKING_ISSUE_H
#define BACKING_ISSUE_H

#include <liburing.h>
#include <linux/fuse.h>
#include <stdbool.h>

#include "backing_cmd.h"

/* The ways; a variant of a fixture is one of these */
struct backing_how {
	/* FUSE_DEV_IOC_BACKING_OPEN and _CLOSE; the rest is ignored */
	bool ioctl;
	/* io_uring_setup() flags, with IORING_SETUP_SQE128 unless sqe_mixed */
	unsigned int setup_flags;
	/* SQEs of the ring, 0: 8 */
	unsigned int entries;
	/* IORING_OP_URING_CMD128 on an IORING_SETUP_SQE_MIXED ring instead */
	bool sqe_mixed;
	/* IOSQE_* flags for every command */
	unsigned int sqe_flags;
	/* the device is file 0 of the ring's own file table */
	bool fixed_file;
	/* go through a FUSE_DEV_IOC_CLONE of the device */
	bool clone;
	/* with IORING_SETUP_ATTACH_WQ, the ring to attach to */
	int wq_fd;
};

struct backing_issuer {
	struct backing_how how;
	struct io_uring ring;
	bool ring_up;
	int dev_fd;
	int clone_fd;
	/* as io_uring_setup() left them, for another process to map the ring */
	struct io_uring_params params;
	/* set by the caller: for the next commands, 0: none */
	int personality;
};

/**
 * backing_issuer_init() - make ready to issue commands
 * @issuer:	to be filled in
 * @how:	the way; copied
 * @dev_fd:	a /dev/fuse file of the connection; stays the caller's
 *
 * The ring belongs to the caller's task, and on SQPOLL its credentials do.
 *
 * Return: 0, or a negative errno.
 */
int backing_issuer_init(struct backing_issuer *issuer,
			const struct backing_how *how, int dev_fd);

/**
 * backing_issuer_probe() - see whether there is such a way here
 * @how:	the way, not an ioctl
 *
 * Return: 0; -EOPNOTSUPP if the liburing of the build lacks it, -EINVAL if the
 * kernel does; another negative errno.
 */
int backing_issuer_probe(const struct backing_how *how);

/**
 * backing_issuer_exit() - undo backing_issuer_init()
 * @issuer:	initialized, or all zero
 */
void backing_issuer_exit(struct backing_issuer *issuer);

/**
 * backing_issue() - issue one command and wait for its result
 * @issuer:	an initialized issuer
 * @cmd_op:	enum fuse_uring_cmd; for an ioctl issuer one of the two backing
 *		file commands
 * @req:	the command area; an ioctl takes the map or the id from it
 * @uring_cmd_flags: for the SQE, not for an ioctl
 *
 * Return: the CQE's res, or the ioctl's result with a negative errno for -1. If
 * it could not be submitted, the error of io_uring_enter(), or -EBUSY without
 * room for the SQE.
 */
int backing_issue(struct backing_issuer *issuer, __u32 cmd_op,
		  const struct fuse_uring_cmd_req *req, __u32 uring_cmd_flags);

/**
 * backing_issue_prep() - the first half of backing_issue()
 * @issuer:	an initialized issuer, not an ioctl one
 * @cmd_op:	as for backing_issue()
 * @req:	as for backing_issue()
 * @uring_cmd_flags: as for backing_issue()
 *
 * What is queued before it, and submitted with it, must not leave a CQE.
 *
 * Return: the SQE, to be submitted, or NULL if there is no room.
 */
struct io_uring_sqe *backing_issue_prep(struct backing_issuer *issuer,
					__u32 cmd_op,
					const struct fuse_uring_cmd_req *req,
					__u32 uring_cmd_flags);

/**
 * backing_issue_wait() - the second half of backing_issue()
 * @issuer:	an issuer with one command submitted
 *
 * Waits on if a signal comes.
 *
 * Return: the CQE's res, or the error of io_uring_enter().
 */
int backing_issue_wait(struct backing_issuer *issuer);

/**
 * backing_issue_open() - BACKING_OPEN with nothing but an fd
 * @issuer:	an initialized issuer
 * @fd:		the backing file
 *
 * Return: the backing id (> 0) or a negative errno.
 */
int backing_issue_open(struct backing_issuer *issuer, int fd);

/**
 * backing_issue_open_id() - BACKING_OPEN with the id to have
 * @issuer:	an initialized issuer, not an ioctl one
 * @fd:		the backing file
 * @id:		the backing id, 0 for one that the kernel picks
 *
 * Return: the backing id (> 0) or a negative errno.
 */
int backing_issue_open_id(struct backing_issuer *issuer, int fd, int id);

/**
 * backing_issue_close() - BACKING_CLOSE
 * @issuer:	an initialized issuer
 * @id:		the backing id
 *
 * Return: 0 or a negative errno.
 */
int backing_issue_close(struct backing_issuer *issuer, int id);

/**
 * backing_issuer_sq_thread() - the thread that issues for an SQPOLL ring
 * @issuer:	an initialized issuer with IORING_SETUP_SQPOLL
 *
 * Return: its thread id, as SqThread in the fdinfo of the ring; -ESRCH if it
 * ended or is not told.
 */
int backing_issuer_sq_thread(const struct backing_issuer *issuer);

#endif /* BACKING_ISSUE_H */
