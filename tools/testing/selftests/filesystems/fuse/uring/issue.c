// SPDX-License-Identifier: GPL-2.0
/*
 * One way or another to open and close backing files, see issue.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "issue.h"

static int ring_init(struct io_uring *ring, const struct issue_how *how)
{
	struct io_uring_params p = {
		.flags = how->setup_flags,
		/* ms: an SQPOLL thread that spins takes a CPU from the others */
		.sq_thread_idle = 10,
	};

	if (how->mixed && !IORING_SETUP_SQE_MIXED)
		return -EOPNOTSUPP;
	p.flags |= how->mixed ? IORING_SETUP_SQE_MIXED : IORING_SETUP_SQE128;
	return io_uring_queue_init_params(16, ring, &p);
}

int issuer_init(struct issuer *issuer, const struct issue_how *how, int dev_fd)
{
	int err;

	*issuer = (struct issuer) {
		.how = *how,
		.dev_fd = dev_fd,
		.clone_fd = -1,
	};
	if (how->ioctl)
		return 0;
	err = ring_init(&issuer->ring, how);
	if (err)
		return err;
	if (how->clone) {
		issuer->clone_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
		if (ioctl(issuer->clone_fd, FUSE_DEV_IOC_CLONE, &dev_fd))
			err = -errno;
		issuer->dev_fd = issuer->clone_fd;
	}
	if (!err && how->fixed) {
		err = io_uring_register_files(&issuer->ring, &dev_fd, 1);
		issuer->dev_fd = 0;
	}
	if (err)
		issuer_exit(issuer);
	return err;
}

void issuer_exit(struct issuer *issuer)
{
	if (issuer->ring.sq.sqes)
		io_uring_queue_exit(&issuer->ring);
	if (issuer->clone_fd > 0)
		close(issuer->clone_fd);
	*issuer = (struct issuer) { };
}

const char *issue_missing(const struct issue_how *how)
{
	struct io_uring ring;
	int err;

	err = ring_init(&ring, how);
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
	struct io_uring_sqe *sqe;

	do {
		sqe = fuse_cmd_sqe(&issuer->ring, issuer->dev_fd, cmd_op);
		/* an SQPOLL thread may still be at those before */
	} while (!sqe && io_uring_submit(&issuer->ring) >= 0);
	*fuse_cmd_req(sqe) = *req;
	sqe->flags = issuer->how.sqe_flags;
	if (issuer->how.fixed)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->personality = issuer->personality;
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
	struct fuse_backing_map map = req->backing.map;
	__u32 id = req->backing.id;
	int ret;

	if (!issuer->how.ioctl) {
		issue_sqe(issuer, cmd_op, req);
		return issue_wait(issuer);
	}
	if (cmd_op == FUSE_IO_URING_CMD_BACKING_OPEN)
		ret = ioctl(issuer->dev_fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
	else
		ret = ioctl(issuer->dev_fd, FUSE_DEV_IOC_BACKING_CLOSE, &id);
	return ret < 0 ? -errno : ret;
}

int issue_open(struct issuer *issuer, int fd, int id)
{
	const struct fuse_uring_cmd_req req = {
		.backing.map.fd = fd,
		.backing.id = id,
	};

	return issue(issuer, FUSE_IO_URING_CMD_BACKING_OPEN, &req);
}

int issue_close(struct issuer *issuer, int id)
{
	const struct fuse_uring_cmd_req req = { .backing.id = id };

	return issue(issuer, FUSE_IO_URING_CMD_BACKING_CLOSE, &req);
}
