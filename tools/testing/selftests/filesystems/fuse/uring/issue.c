// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE commands over io_uring, see issue.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "issue.h"

static int ring_init(struct io_uring *ring, const struct issue_how *how,
		     unsigned int entries)
{
	struct io_uring_params p = {
		.flags = how->ring_flags,
		/* ms: a thread that spins takes a CPU from the others */
		.sq_thread_idle = 10,
	};

	if (how->mixed && !IORING_SETUP_SQE_MIXED)
		return -EOPNOTSUPP;
	p.flags |= how->mixed ? IORING_SETUP_SQE_MIXED : IORING_SETUP_SQE128;
	return io_uring_queue_init_params(entries, ring, &p);
}

int issuer_init(struct issuer *issuer, const struct issue_how *how, int dev_fd,
		unsigned int entries)
{
	int err;

	*issuer = (struct issuer) {
		.dev_fd = dev_fd,
		.clone_fd = -1,
		.commit_id = ~0ULL,
	};
	if (how)
		issuer->how = *how;
	err = ring_init(&issuer->ring, &issuer->how, entries ? entries : 16);
	if (err)
		return err;
	if (issuer->how.clone) {
		issuer->clone_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
		if (ioctl(issuer->clone_fd, FUSE_DEV_IOC_CLONE, &dev_fd))
			err = -errno;
		issuer->dev_fd = issuer->clone_fd;
	}
	if (!err && issuer->how.fixed) {
		err = io_uring_register_files(&issuer->ring, &dev_fd, 1);
		issuer->dev_fd = 0;
	}
	if (err)
		issuer_exit(issuer);
	return err;
}

void issuer_exit(struct issuer *issuer)
{
	if (!issuer->ring.sq.sqes)
		return;
	io_uring_queue_exit(&issuer->ring);
	if (issuer->clone_fd >= 0)
		close(issuer->clone_fd);
	*issuer = (struct issuer) { };
}

const char *issue_missing(const struct issue_how *how)
{
	struct io_uring ring;
	int err;

	err = ring_init(&ring, how, 2);
	if (err == -EOPNOTSUPP)
		return "liburing is too old for IORING_SETUP_SQE_MIXED";
	if (err == -EINVAL)
		return "the kernel has no such ring";
	if (err)
		return "no ring: is io_uring off, or RLIMIT_MEMLOCK too low?";
	io_uring_queue_exit(&ring);
	return NULL;
}

struct io_uring_sqe *issue_sqe(struct issuer *issuer, __u32 cmd_op,
			       const struct fuse_uring_cmd_req *req)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe128(&issuer->ring);

	if (!sqe)
		return NULL;
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = issuer->how.mixed ? IORING_OP_URING_CMD128 :
					  IORING_OP_URING_CMD;
	sqe->fd = issuer->dev_fd;
	sqe->cmd_op = cmd_op;
	sqe->flags = issuer->how.sqe_flags;
	if (issuer->how.fixed)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->personality = issuer->personality;
	sqe->uring_cmd_flags = issuer->cmd_flags;
	if (req)
		*fuse_cmd_req(sqe) = *req;
	return sqe;
}

int issue_wait(struct issuer *issuer)
{
	struct io_uring_cqe *cqe;
	int ret;

	/* what is submitted has a CQE, whatever comes in between */
	do {
		ret = io_uring_submit_and_wait(&issuer->ring, 1);
	} while (ret == -EINTR);
	if (ret < 0)
		return ret;
	do {
		ret = io_uring_wait_cqe(&issuer->ring, &cqe);
	} while (ret == -EINTR);
	if (ret)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(&issuer->ring, cqe);
	return ret;
}

int issue(struct issuer *issuer, __u32 cmd_op,
	  const struct fuse_uring_cmd_req *req)
{
	/* an SQPOLL thread may still be at those before */
	while (!issue_sqe(issuer, cmd_op, req)) {
		if (io_uring_submit(&issuer->ring) < 0)
			return -EBUSY;
	}
	return issue_wait(issuer);
}

int issue_map(struct issuer *issuer, const struct fuse_backing_map *map)
{
	struct fuse_uring_cmd_req req = { .backing.map = *map };
	int ret;

	switch (issuer->by) {
	case BY_IOCTL:
		ret = ioctl(issuer->dev_fd, FUSE_DEV_IOC_BACKING_OPEN, map);
		return ret < 0 ? -errno : ret;
	case BY_COMMIT:
		req.commit_id = issuer->commit_id;
		req.qid = issuer->qid;
		return issue(issuer, FUSE_IO_URING_CMD_COMMIT_BACKING, &req);
	default:
		return issue(issuer, FUSE_IO_URING_CMD_BACKING_OPEN, &req);
	}
}

int issue_open(struct issuer *issuer, int fd)
{
	const struct fuse_backing_map map = { .fd = fd };

	return issue_map(issuer, &map);
}

int issue_close(struct issuer *issuer, __u64 id)
{
	const struct fuse_uring_cmd_req req = { .backing.id = id };
	__u32 id32 = id;

	if (issuer->by != BY_IOCTL)
		return issue(issuer, FUSE_IO_URING_CMD_BACKING_CLOSE, &req);
	return ioctl(issuer->dev_fd, FUSE_DEV_IOC_BACKING_CLOSE, &id32) ?
		-errno : 0;
}
