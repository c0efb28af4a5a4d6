/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The ways that the ring of a queue has to issue what a reply consists of. If
 * QUEUE_FIXTURE is defined they become variants of that fixture, which has a
 * struct queue_how as .how.
 */
#ifndef QUEUE_VARIANTS_H
#define QUEUE_VARIANTS_H

#include "issue.h"
#include "ring_server.h"

struct queue_how {
	/* io_uring_setup() flags, as in struct ring_server_cfg */
	unsigned int ring_flags;
	/* SQE_MIXED, which liburing may not have */
	bool mixed;
	/* IOSQE_* flags of the commit, and of what is in front of it */
	unsigned int commit_flags;
	unsigned int front_flags;
	/* the device is file 0 of the ring's own file table */
	bool fixed;
};

/**
 * queue_how_cfg() - have the rings of a server made that way
 * @how:	the way
 * @cfg:	its ring_flags are set
 *
 * Return: why there is no such way here, to SKIP with, or NULL.
 */
static inline const char *queue_how_cfg(const struct queue_how *how,
					struct ring_server_cfg *cfg)
{
	const struct issue_how ring = {
		.setup_flags = how->ring_flags,
		.mixed = how->mixed,
	};

	cfg->ring_flags = how->ring_flags;
	if (how->mixed)
		cfg->ring_flags |= IORING_SETUP_SQE_MIXED;
	return issue_missing(&ring);
}

/**
 * queue_how_setup() - make the ring of a queue ready, for the hook setup()
 * @how:	the way
 * @queue:	of the hook
 *
 * Return: 0 or a negative errno.
 */
static inline int queue_how_setup(const struct queue_how *how,
				  struct ring_queue *queue)
{
	return how->fixed ? io_uring_register_files(&queue->ring,
						    &queue->server->dev_fd, 1) :
			    0;
}

/**
 * queue_how_sqe() - have an SQE issued that way
 * @how:	the way
 * @sqe:	of the hook sqe(), or one that is in front of a commit
 * @front:	it is the latter
 */
static inline void queue_how_sqe(const struct queue_how *how,
				 struct io_uring_sqe *sqe, bool front)
{
	sqe->flags |= front ? how->front_flags : how->commit_flags;
	if (how->fixed) {
		sqe->flags |= IOSQE_FIXED_FILE;
		sqe->fd = 0;
	}
}

/* FIXTURE_VARIANT_ADD() pastes its argument and so would not expand it */
#define QUEUE_VARIANT_ADD(fixture, variant)	\
	FIXTURE_VARIANT_ADD(fixture, variant)

#endif /* QUEUE_VARIANTS_H */

#ifdef QUEUE_FIXTURE

QUEUE_VARIANT_ADD(QUEUE_FIXTURE, inline) {
};

/* without a link io-wq has no order */
#ifndef QUEUE_IN_ORDER
QUEUE_VARIANT_ADD(QUEUE_FIXTURE, front_iowq) {
	.how = { .front_flags = IOSQE_ASYNC },
};

QUEUE_VARIANT_ADD(QUEUE_FIXTURE, commit_iowq) {
	.how = { .commit_flags = IOSQE_ASYNC },
};
#endif

QUEUE_VARIANT_ADD(QUEUE_FIXTURE, sqpoll) {
	.how = { .ring_flags = IORING_SETUP_SQPOLL },
};

QUEUE_VARIANT_ADD(QUEUE_FIXTURE, mixed) {
	.how = { .mixed = true },
};

QUEUE_VARIANT_ADD(QUEUE_FIXTURE, defer) {
	.how = {
		.ring_flags = IORING_SETUP_SINGLE_ISSUER |
			      IORING_SETUP_DEFER_TASKRUN,
	},
};

QUEUE_VARIANT_ADD(QUEUE_FIXTURE, fixed) {
	.how = { .fixed = true },
};

#undef QUEUE_FIXTURE
#undef QUEUE_IN_ORDER
#endif
