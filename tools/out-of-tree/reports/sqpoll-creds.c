// SPDX-License-Identifier: GPL-2.0
/*
 * sqpoll-creds FILE: which credentials has a request on an SQPOLL ring?
 *
 * Needs root, and a FILE that only root can read. One ring is set up as root. A
 * second one, which shares its thread, is set up by an unprivileged user, and
 * opens FILE: alone, and linked behind a READ that has to wait. Both have to be
 * refused. The exit status is 1 if one is not.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NOBODY	65534

/* The result of opening @file, behind a READ of an empty pipe if @linked */
static int open_by_ring(struct io_uring *ring, const char *file, int linked)
{
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	int pipe_fds[2], ret = 0, i;
	char c;

	if (pipe(pipe_fds))
		err(2, "pipe");
	if (linked) {
		sqe = io_uring_get_sqe(ring);
		io_uring_prep_read(sqe, pipe_fds[0], &c, 1, 0);
		sqe->flags = IOSQE_IO_LINK;
	}
	sqe = io_uring_get_sqe(ring);
	io_uring_prep_openat(sqe, AT_FDCWD, file, O_RDONLY, 0);
	sqe->user_data = 1;
	if (io_uring_submit(ring) < 0)
		errx(2, "io_uring_submit");
	/* The thread has taken both from the ring: the READ waits */
	io_uring_sqring_wait(ring);
	while (linked && io_uring_sq_ready(ring))
		;
	if (linked && write(pipe_fds[1], "", 1) != 1)
		err(2, "write");
	for (i = 0; i <= linked; i++) {
		if (io_uring_wait_cqe(ring, &cqe))
			errx(2, "io_uring_wait_cqe");
		if (cqe->user_data)
			ret = cqe->res;
		io_uring_cqe_seen(ring, cqe);
	}
	if (ret >= 0)
		close(ret);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	return ret;
}

int main(int argc, char **argv)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQPOLL };
	struct io_uring root_ring, ring;
	int alone, linked;

	if (argc != 2)
		errx(2, "usage: sqpoll-creds FILE");
	if (io_uring_queue_init_params(4, &root_ring, &params))
		errx(2, "cannot set up a ring with SQPOLL as root");
	if (setresgid(-1, NOBODY, -1) || setresuid(-1, NOBODY, -1))
		err(2, "needs root");

	memset(&params, 0, sizeof(params));
	params.flags = IORING_SETUP_SQPOLL | IORING_SETUP_ATTACH_WQ;
	params.wq_fd = root_ring.ring_fd;
	if (io_uring_queue_init_params(4, &ring, &params))
		errx(2, "cannot attach a second ring");

	alone = open_by_ring(&ring, argv[1], 0);
	linked = open_by_ring(&ring, argv[1], 1);
	printf("alone: %s\n", alone < 0 ? strerror(-alone) : "opened");
	printf("linked behind a READ: %s\n",
	       linked < 0 ? strerror(-linked) : "opened");
	return alone >= 0 || linked >= 0;
}
