// SPDX-License-Identifier: GPL-2.0
/*
 * A ring full of SQEs and what became of each of them, see backing_ops.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>

#include "backing_ops.h"

/* Returns how many links there are, single SQEs included */
static unsigned int find_links(struct backing_op *ops, unsigned int nr)
{
	unsigned int i, j, head = 0, links = 0;
	bool dead = false;

	for (i = 0; i < nr; i++) {
		ops[i].reached = false;
		ops[i].done = false;
		ops[i].res = 0;
		dead |= ops[i].malformed;
		if ((ops[i].flags & BACKING_OPS_LINK) && i < nr - 1)
			continue;
		for (j = head; j <= i; j++) {
			ops[j].head = head;
			ops[j].last = i;
			ops[j].dead = dead;
		}
		head = i + 1;
		dead = false;
		links++;
	}
	return links;
}

/*
 * Is its CQE the last one of the link? If an SQE with IOSQE_CQE_SKIP_SUCCESS
 * fails, those that are canceled with it have none. If one of a link is
 * malformed, it is the first one that fails.
 */
static bool ends_link(const struct backing_op *op, unsigned int i)
{
	if (i == op->last)
		return true;
	if (op->res >= 0 || !(op->flags & IOSQE_CQE_SKIP_SUCCESS))
		return false;
	if (op->dead)
		return i == op->head;
	return !(op->flags & IOSQE_IO_HARDLINK) && op->res != -ECANCELED;
}

static int follow_links(struct backing_op *ops, unsigned int nr)
{
	bool reached = true;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		struct backing_op *op = &ops[i];

		if (i == op->head)
			reached = !op->dead;
		op->reached = reached;
		if (reached) {
			if (!op->done && !(op->flags & IOSQE_CQE_SKIP_SUCCESS))
				return -EPROTO;
			reached = op->res >= 0 || op->flags & IOSQE_IO_HARDLINK;
		} else if (op->done && op->res >= 0) {
			return -EPROTO;
		}
	}
	return 0;
}

static int submit_all(struct io_uring *ring)
{
	int ret;

	/* without IORING_SETUP_SUBMIT_ALL it stops at what is malformed */
	do {
		ret = io_uring_submit(ring);
	} while (ret >= 0 && !(ring->flags & IORING_SETUP_SQPOLL) &&
		 io_uring_sq_ready(ring));
	return ret < 0 ? ret : 0;
}

int backing_ops_run(struct io_uring *ring, struct backing_op *ops,
		    unsigned int nr, bool rewritten, unsigned int seconds)
{
	struct __kernel_timespec timeout = { .tv_sec = seconds };
	unsigned int links = find_links(ops, nr);
	unsigned int todo = rewritten ? nr : links;
	struct io_uring_cqe *cqe;
	int err;

	err = submit_all(ring);
	while (!err && todo) {
		struct backing_op *op;
		__u64 i;

		err = io_uring_wait_cqe_timeout(ring, &cqe, &timeout);
		if (err == -EINTR) {
			err = 0;
			continue;
		}
		if (err)
			return err;
		i = io_uring_cqe_get_data64(cqe);
		if (i >= nr || ops[i].done)
			return -EPROTO;
		op = &ops[i];
		op->done = true;
		op->res = cqe->res;
		io_uring_cqe_seen(ring, cqe);
		todo -= rewritten || ends_link(op, i);
	}
	if (err)
		return err;
	/* a SQPOLL thread posts CQEs before it gives the SQEs back */
	while (io_uring_sq_ready(ring))
		sched_yield();
	if (rewritten)
		return 0;
	return io_uring_cq_ready(ring) ? -EPROTO : follow_links(ops, nr);
}
