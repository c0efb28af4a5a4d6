/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The ways that io_uring has to issue a command, as variants of the fixture
 * ISSUE_FIXTURE, which has a struct issue_how as .how. No include guard: each
 * fixture that has these variants includes it once.
 */
#ifndef ISSUE_VARIANT_ADD
/* FIXTURE_VARIANT_ADD() pastes its argument and so would not expand it */
#define ISSUE_VARIANT_ADD(fixture, variant)	\
	FIXTURE_VARIANT_ADD(fixture, variant)
#endif

ISSUE_VARIANT_ADD(ISSUE_FIXTURE, inline) {
};

ISSUE_VARIANT_ADD(ISSUE_FIXTURE, iowq) {
	.how = { .sqe_flags = IOSQE_ASYNC },
};

ISSUE_VARIANT_ADD(ISSUE_FIXTURE, sqpoll) {
	.how = { .setup_flags = IORING_SETUP_SQPOLL },
};

ISSUE_VARIANT_ADD(ISSUE_FIXTURE, mixed) {
	.how = { .mixed = true },
};

ISSUE_VARIANT_ADD(ISSUE_FIXTURE, defer) {
	.how = {
		.setup_flags = IORING_SETUP_SINGLE_ISSUER |
			       IORING_SETUP_DEFER_TASKRUN,
	},
};

ISSUE_VARIANT_ADD(ISSUE_FIXTURE, fixed) {
	.how = { .fixed = true },
};

ISSUE_VARIANT_ADD(ISSUE_FIXTURE, clone) {
	.how = { .clone = true },
};

#undef ISSUE_FIXTURE
