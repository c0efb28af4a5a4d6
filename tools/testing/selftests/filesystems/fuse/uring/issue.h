/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FUSE commands over io_uring, in each manner that io_uring has to issue them,
 * and the ioctls, which are the reference. See Documentation/filesystems/fuse/
 * uapi/fuse-uapi-io-uring.rst.
 */
#ifndef ISSUE_H
#define ISSUE_H

#include <liburing.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <string.h>

/* liburing before 2.13: what wants IORING_SETUP_SQE_MIXED has to skip */
#ifndef IORING_SETUP_SQE_MIXED
#define IORING_SETUP_SQE_MIXED	0
#define IORING_OP_URING_CMD128	IORING_OP_URING_CMD
#define io_uring_get_sqe128	io_uring_get_sqe
#endif

/* What passes a backing file to the kernel */
enum issue_by {
	/* BACKING_OPEN and BACKING_CLOSE */
	BY_COMMAND,
	/* FUSE_DEV_IOC_BACKING_OPEN and _CLOSE */
	BY_IOCTL,
	/* COMMIT_BACKING */
	BY_COMMIT,
};

/* A manner to issue commands; the drawings are in variants.h */
struct issue_how {
	/* io_uring_setup() flags besides SQE128 */
	unsigned int ring_flags;
	/* SQE_MIXED, which liburing may not have, instead of SQE128 */
	bool mixed;
	/* IOSQE_* flags of each command */
	unsigned int sqe_flags;
	/* the device is file 0 of the ring's own file table */
	bool fixed;
	/* to a FUSE_DEV_IOC_CLONE of the device */
	bool clone;
};

struct issuer {
	struct issue_how how;
	struct io_uring ring;
	/* what the commands go to */
	int dev_fd;
	int clone_fd;
	/* set by the caller: what issue_open() and issue_close() do */
	enum issue_by by;
	/* with BY_COMMIT: the request; ~0 is none */
	__u64 commit_id;
	unsigned int qid;
	/* of the next commands: sqe->personality, sqe->uring_cmd_flags */
	int personality;
	unsigned int cmd_flags;
};

/*
 * Make ready to issue commands to @dev_fd, a /dev/fuse file that stays the
 * caller's, in the manner @how (NULL: inline), over a ring with that many
 * @entries (0: 16). The ring belongs to the caller's task, and on SQPOLL its
 * credentials do. 0 or a negative errno.
 */
int issuer_init(struct issuer *issuer, const struct issue_how *how, int dev_fd,
		unsigned int entries);

/* Undo it; the issuer can also be all zero */
void issuer_exit(struct issuer *issuer);

/* Why there is no such manner here, to SKIP with, or NULL */
const char *issue_missing(const struct issue_how *how);

/* The command area of an SQE of 128 bytes */
static inline struct fuse_uring_cmd_req *fuse_cmd_req(struct io_uring_sqe *sqe)
{
	return (struct fuse_uring_cmd_req *)sqe->cmd;
}

/*
 * Queue the command @cmd_op (enum fuse_uring_cmd) with the command area @req,
 * or NULL: all 0. Returns the SQE, to be changed and submitted, or NULL without
 * room. All of its 128 bytes are set: what a command does not use has to be 0.
 */
struct io_uring_sqe *issue_sqe(struct issuer *issuer, __u32 cmd_op,
			       const struct fuse_uring_cmd_req *req);

/* Submit what is queued; the res of the next CQE, or the error of that */
int issue_wait(struct issuer *issuer);

/* Issue one command; its res */
int issue(struct issuer *issuer, __u32 cmd_op,
	  const struct fuse_uring_cmd_req *req);

/*
 * Pass a backing file by @issuer->by: the backing id (> 0) or a negative errno.
 * By commit, and with no such request, it is -ENOENT if the file is accepted.
 */
int issue_map(struct issuer *issuer, const struct fuse_backing_map *map);
int issue_open(struct issuer *issuer, int fd);

/* Close a backing id; the ioctl has 32 bits of it. 0 or a negative errno */
int issue_close(struct issuer *issuer, __u64 id);

#endif /* ISSUE_H */
