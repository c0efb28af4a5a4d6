/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An io_uring with SQEs of 128 bytes for tests, which needs no library. Not for
 * SQPOLL.
 */
#ifndef RAW_RING_H
#define RAW_RING_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

struct raw_ring {
	int fd;
	unsigned int *sq_tail, *cq_head, *cq_tail, sq_mask, cq_mask;
	char *sqes;
	struct io_uring_cqe *cqes;
};

/* raw_ring_setup() - 0, or -errno */
static inline int raw_ring_setup(struct raw_ring *r, unsigned int entries)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SQE128 | IORING_SETUP_NO_SQARRAY,
	};
	char *ptr;

	r->fd = syscall(SYS_io_uring_setup, entries, &p);
	if (r->fd < 0)
		return -errno;
	ptr = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(*r->cqes),
		   PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		   IORING_OFF_SQ_RING);
	r->sqes = mmap(NULL, p.sq_entries * 128, PROT_READ | PROT_WRITE,
		       MAP_SHARED, r->fd, IORING_OFF_SQES);
	if (ptr == MAP_FAILED || r->sqes == MAP_FAILED)
		return -errno;
	r->sq_tail = (void *)(ptr + p.sq_off.tail);
	r->cq_head = (void *)(ptr + p.cq_off.head);
	r->cq_tail = (void *)(ptr + p.cq_off.tail);
	r->cqes = (void *)(ptr + p.cq_off.cqes);
	r->sq_mask = p.sq_entries - 1;
	r->cq_mask = p.cq_entries - 1;
	return 0;
}

/* raw_ring_sqe() - the next SQE, to be filled in before raw_ring_enter() */
static inline struct io_uring_sqe *raw_ring_sqe(struct raw_ring *r)
{
	unsigned int tail = *r->sq_tail;
	char *sqe = r->sqes + 128 * (tail & r->sq_mask);

	__atomic_store_n(r->sq_tail, tail + 1, __ATOMIC_RELEASE);
	return memset(sqe, 0, 128);
}

/* raw_ring_enter() - io_uring_enter(), or -errno */
static inline int raw_ring_enter(struct raw_ring *r, unsigned int submit,
				 unsigned int wait)
{
	int ret = syscall(SYS_io_uring_enter, r->fd, submit, wait,
			  wait ? IORING_ENTER_GETEVENTS : 0, NULL, 0);

	return ret < 0 ? -errno : ret;
}

/* raw_ring_cqe() - the next CQE into @cqe, false if there is none */
static inline bool raw_ring_cqe(struct raw_ring *r, struct io_uring_cqe *cqe)
{
	unsigned int head = *r->cq_head;

	if (head == __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE))
		return false;
	*cqe = r->cqes[head & r->cq_mask];
	__atomic_store_n(r->cq_head, head + 1, __ATOMIC_RELEASE);
	return true;
}

#endif /* RAW_RING_H */
