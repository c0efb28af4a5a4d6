/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One way or another to open and close backing files: each way that io_uring
 * has to issue a command, and the ioctls, which are the reference.
 */
#ifndef ISSUE_H
#define ISSUE_H

#include <stdbool.h>

#include "fuse_cmd.h"

/* A way; a variant of a fixture is one of these, see issue_variants.h */
struct issue_how {
	/* FUSE_DEV_IOC_BACKING_OPEN and _CLOSE; the rest is ignored */
	bool ioctl;
	/* io_uring_setup() flags, besides SQE128 or with SQE_MIXED instead */
	unsigned int setup_flags;
	/* SQE_MIXED, which liburing may not have */
	bool mixed;
	/* IOSQE_* flags of every command */
	unsigned int sqe_flags;
	/* the device is file 0 of the ring's own file table */
	bool fixed;
	/* go through a FUSE_DEV_IOC_CLONE of the device */
	bool clone;
};

struct issuer {
	struct issue_how how;
	struct io_uring ring;
	/* what the commands go to */
	int dev_fd;
	int clone_fd;
	/* set by the caller: sqe->personality of the next commands */
	int personality;
};

/**
 * issuer_init() - make ready to issue commands
 * @issuer:	to be filled in
 * @how:	the way; copied
 * @dev_fd:	a /dev/fuse file of the connection; stays the caller's
 *
 * The ring belongs to the caller's task, and on SQPOLL its credentials do.
 *
 * Return: 0, or a negative errno; -EOPNOTSUPP if liburing is too old.
 */
int issuer_init(struct issuer *issuer, const struct issue_how *how, int dev_fd);

/**
 * issuer_exit() - undo issuer_init()
 * @issuer:	initialized, or all zero
 */
void issuer_exit(struct issuer *issuer);

/**
 * issue_missing() - why there is no such way here
 * @how:	the way
 *
 * Return: the reason to SKIP with, or NULL.
 */
const char *issue_missing(const struct issue_how *how);

/**
 * issue_sqe() - queue one command
 * @issuer:	initialized, not an ioctl one
 * @cmd_op:	enum fuse_uring_cmd
 * @req:	the command area
 *
 * Return: the SQE, to be changed and submitted.
 */
struct io_uring_sqe *issue_sqe(struct issuer *issuer, __u32 cmd_op,
			       const struct fuse_uring_cmd_req *req);

/**
 * issue_wait() - submit what is queued and take the next CQE
 * @issuer:	initialized, not an ioctl one
 *
 * Return: the CQE's res, or the error of io_uring_enter().
 */
int issue_wait(struct issuer *issuer);

/**
 * issue() - issue one command
 * @issuer:	initialized
 * @cmd_op:	enum fuse_uring_cmd; for an ioctl issuer one of the two backing
 *		file commands
 * @req:	the command area; an ioctl takes the map or the id from it
 *
 * Return: the CQE's res or what the ioctl returns, a negative errno for -1.
 */
int issue(struct issuer *issuer, __u32 cmd_op,
	  const struct fuse_uring_cmd_req *req);

/**
 * issue_open() - BACKING_OPEN
 * @issuer:	initialized
 * @fd:		the backing file
 * @id:		the backing id, 0 for one that the kernel picks, as by ioctl
 *
 * Return: the backing id (> 0) or a negative errno.
 */
int issue_open(struct issuer *issuer, int fd, int id);

/**
 * issue_close() - BACKING_CLOSE
 * @issuer:	initialized
 * @id:		the backing id
 *
 * Return: 0 or a negative errno.
 */
int issue_close(struct issuer *issuer, int id);

#endif /* ISSUE_H */
