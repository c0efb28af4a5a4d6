// SPDX-License-Identifier: GPL-2.0
/*
 * One way or another to open and close backing files, see backing_issue.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "backing_issue.h"

static int ring_init(struct io_uring *ring, const struct backing_how *how,
		     struct io_uring_params *params)
{
	memset(params, 0, sizeof(*params));
	params->flags = how->setup_flags;
	/* ms: a SQPOLL thread that spins takes a CPU from the others */
	params->sq_thread_idle = 10;
	if (how->setup_flags & IORING_SETUP_ATTACH_WQ)
		params->wq_fd = how->wq_fd;
	if (how->sqe_mixed) {
#ifdef IORING_SETUP_SQE_MIXED
		params->flags |= IORING_SETUP_SQE_MIXED;
#else
		return -EOPNOTSUPP;
#endif
	}
	return io_uring_queue_init_params(how->entries ? how->entries : 8,
					  ring, params);
}

int backing_issuer_probe(const struct backing_how *how)
{
	struct io_uring_params params;
	struct io_uring ring;
	int err = ring_init(&ring, how, &params);

	if (!err)
		io_uring_queue_exit(&ring);
	return err;
}

int backing_issuer_init(struct backing_issuer *issuer,
			const struct backing_how *how, int dev_fd)
{
	int err;

	memset(issuer, 0, sizeof(*issuer));
	issuer->how = *how;
	issuer->dev_fd = dev_fd;
	issuer->clone_fd = -1;
	if (how->ioctl)
		return 0;

	if (how->clone) {
		issuer->clone_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
		if (issuer->clone_fd < 0)
			return -errno;
		if (ioctl(issuer->clone_fd, FUSE_DEV_IOC_CLONE, &dev_fd)) {
			err = -errno;
			goto fail;
		}
		issuer->dev_fd = issuer->clone_fd;
	}

	err = ring_init(&issuer->ring, how, &issuer->params);
	if (err)
		goto fail;
	issuer->ring_up = true;

	if (how->fixed_file) {
		err = io_uring_register_files(&issuer->ring, &issuer->dev_fd,
					      1);
		if (err)
			goto fail;
		issuer->dev_fd = 0;
	}
	return 0;

fail:
	backing_issuer_exit(issuer);
	return err;
}

void backing_issuer_exit(struct backing_issuer *issuer)
{
	if (issuer->ring_up)
		io_uring_queue_exit(&issuer->ring);
	if (issuer->clone_fd > 0)
		close(issuer->clone_fd);
	memset(issuer, 0, sizeof(*issuer));
}

static int issue_ioctl(struct backing_issuer *issuer, __u32 cmd_op,
		       const struct fuse_uring_cmd_req *req)
{
	struct fuse_backing_map map = req->backing.map;
	__u32 id = req->backing.id;
	int ret;

	if (cmd_op == FUSE_IO_URING_CMD_BACKING_OPEN)
		ret = ioctl(issuer->dev_fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
	else
		ret = ioctl(issuer->dev_fd, FUSE_DEV_IOC_BACKING_CLOSE, &id);
	return ret < 0 ? -errno : ret;
}

struct io_uring_sqe *backing_issue_prep(struct backing_issuer *issuer,
					__u32 cmd_op,
					const struct fuse_uring_cmd_req *req,
					__u32 uring_cmd_flags)
{
	struct io_uring_sqe *sqe;

#ifdef IORING_SETUP_SQE_MIXED
	sqe = io_uring_get_sqe128(&issuer->ring);
#else
	sqe = io_uring_get_sqe(&issuer->ring);
#endif
	if (!sqe)
		return NULL;
	*backing_cmd_prep(sqe, issuer->dev_fd, cmd_op) = *req;
#ifdef IORING_SETUP_SQE_MIXED
	if (issuer->how.sqe_mixed)
		sqe->opcode = IORING_OP_URING_CMD128;
#endif
	sqe->flags = issuer->how.sqe_flags;
	if (issuer->how.fixed_file)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->uring_cmd_flags = uring_cmd_flags;
	sqe->personality = issuer->personality;
	return sqe;
}

int backing_issue_wait(struct backing_issuer *issuer)
{
	struct io_uring_cqe *cqe;
	int ret;

	do {
		ret = io_uring_wait_cqe(&issuer->ring, &cqe);
	} while (ret == -EINTR);
	if (ret)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(&issuer->ring, cqe);
	return ret;
}

int backing_issue(struct backing_issuer *issuer, __u32 cmd_op,
		  const struct fuse_uring_cmd_req *req, __u32 uring_cmd_flags)
{
	int ret;

	if (issuer->how.ioctl)
		return issue_ioctl(issuer, cmd_op, req);

	if (!backing_issue_prep(issuer, cmd_op, req, uring_cmd_flags))
		return -EBUSY;
	ret = io_uring_submit_and_wait(&issuer->ring, 1);
	/* what is submitted has a CQE, whether it was waited for or not */
	if (ret < 0 && ret != -EINTR)
		return ret;
	return backing_issue_wait(issuer);
}

int backing_issue_open(struct backing_issuer *issuer, int fd)
{
	return backing_issue_open_id(issuer, fd, 0);
}

int backing_issue_open_id(struct backing_issuer *issuer, int fd, int id)
{
	struct fuse_uring_cmd_req req = {
		.backing.map.fd = fd,
		.backing.id = id,
	};

	return backing_issue(issuer, FUSE_IO_URING_CMD_BACKING_OPEN, &req, 0);
}

int backing_issue_close(struct backing_issuer *issuer, int id)
{
	struct fuse_uring_cmd_req req = { .backing.id = id };

	return backing_issue(issuer, FUSE_IO_URING_CMD_BACKING_CLOSE, &req, 0);
}

int backing_issuer_sq_thread(const struct backing_issuer *issuer)
{
	char path[64], line[128];
	int tid = 0, i;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d",
		 issuer->ring.ring_fd);
	/* fdinfo leaves it out while the ring is locked */
	for (i = 0; !tid && i < 1000; i++) {
		if (i)
			usleep(1000);
		f = fopen(path, "r");
		if (!f)
			break;
		while (fgets(line, sizeof(line), f) &&
		       sscanf(line, "SqThread: %d", &tid) != 1)
			;
		fclose(f);
	}
	return tid > 0 ? tid : -ESRCH;
}
