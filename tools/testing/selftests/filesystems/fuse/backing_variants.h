/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The ways that io_uring has to issue a command, as variants of the fixture
 * BACKING_FIXTURE, which has a struct backing_how as .how. No include guard:
 * every fixture that has these variants includes it once.
 */
#ifndef BACKING_VARIANT_ADD
/* FIXTURE_VARIANT_ADD() pastes its argument and so would not expand it */
#define BACKING_VARIANT_ADD(fixture, variant) \
	FIXTURE_VARIANT_ADD(fixture, variant)
#endif

BACKING_VARIANT_ADD(BACKING_FIXTURE, inline) {
	.how = { .setup_flags = IORING_SETUP_SQE128 },
};

BACKING_VARIANT_ADD(BACKING_FIXTURE, iowq) {
	.how = {
		.setup_flags = IORING_SETUP_SQE128,
		.sqe_flags = IOSQE_ASYNC,
	},
};

BACKING_VARIANT_ADD(BACKING_FIXTURE, sqpoll) {
	.how = { .setup_flags = IORING_SETUP_SQE128 | IORING_SETUP_SQPOLL },
};

BACKING_VARIANT_ADD(BACKING_FIXTURE, cmd128) {
	.how = { .sqe_mixed = true },
};

BACKING_VARIANT_ADD(BACKING_FIXTURE, defer) {
	.how = {
		.setup_flags = IORING_SETUP_SQE128 |
			       IORING_SETUP_SINGLE_ISSUER |
			       IORING_SETUP_DEFER_TASKRUN,
	},
};

BACKING_VARIANT_ADD(BACKING_FIXTURE, fixed) {
	.how = { .setup_flags = IORING_SETUP_SQE128, .fixed_file = true },
};

BACKING_VARIANT_ADD(BACKING_FIXTURE, clone) {
	.how = { .setup_flags = IORING_SETUP_SQE128, .clone = true },
};

#undef BACKING_FIXTURE
