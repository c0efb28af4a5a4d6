/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The manners that io_uring has to issue a command, as variants of the fixture
 * "manner". To be included once, after
 *
 *	FIXTURE_VARIANT(manner) {
 *		struct issue_how how;
 *		enum ring_pool pool;
 *	};
 *
 * Both are for struct ring_server_cfg. Drawn is who issues what on which ring,
 * and to which file.
 */

/* server [SQE128] --> /dev/fuse */
FIXTURE_VARIANT_ADD(manner, inline) { };

/* server [SQE128] --> io-wq --> /dev/fuse */
FIXTURE_VARIANT_ADD(manner, iowq) { .how.sqe_flags = IOSQE_ASYNC };

/* server [SQE128] <-- SQ thread --> /dev/fuse */
FIXTURE_VARIANT_ADD(manner, sqpoll) { .how.ring_flags = IORING_SETUP_SQPOLL };

/* server [SQE_MIXED] --> /dev/fuse */
FIXTURE_VARIANT_ADD(manner, mixed) { .how.mixed = true };

/* server [SQE128, DEFER_TASKRUN] --> /dev/fuse */
FIXTURE_VARIANT_ADD(manner, defer) {
	.how.ring_flags = IORING_SETUP_SINGLE_ISSUER |
			  IORING_SETUP_DEFER_TASKRUN,
};

/* server [SQE128, file 0: /dev/fuse] --> 0 */
FIXTURE_VARIANT_ADD(manner, fixed) { .how.fixed = true };

/* server [SQE128] --> a clone of /dev/fuse */
FIXTURE_VARIANT_ADD(manner, clone) { .how.clone = true };

/* server [SQE128, buffer 0: pool] --> /dev/fuse */
FIXTURE_VARIANT_ADD(manner, pool) { .pool = RING_POOL };

/* server [SQE128, buffer 0: pool] <-- SQ thread --> /dev/fuse */
FIXTURE_VARIANT_ADD(manner, pool_sqpoll) {
	.how.ring_flags = IORING_SETUP_SQPOLL,
	.pool = RING_POOL,
};

/* server [SQE128, buffer 0: pool] --> /dev/fuse, the queue is for zero-copy */
FIXTURE_VARIANT_ADD(manner, zero_copy) { .pool = RING_ZERO_COPY };
