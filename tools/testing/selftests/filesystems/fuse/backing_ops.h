/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A ring full of SQEs with all kinds of links, and what became of each of them.
 */
#ifndef BACKING_OPS_H
#define BACKING_OPS_H

#include <liburing.h>
#include <stdbool.h>

#define BACKING_OPS_LINK	(IOSQE_IO_LINK | IOSQE_IO_HARDLINK)

struct backing_op {
	/* IOSQE_* of the SQE, set by the caller */
	unsigned int flags;
	/* io_uring does not take the SQE, nor all that it is linked with */
	bool malformed;

	/* It was issued: nothing that it is linked behind has failed */
	bool reached;
	/* It has a CQE. What was reached and has none succeeded */
	bool done;
	/* That of the CQE */
	int res;

	/* the link it is in */
	unsigned int head, last;
	bool dead;
};

/**
 * backing_ops_run() - submit what is queued and wait for all of it
 * @ring:	with nothing in flight, and room for all CQEs
 * @ops:	one for each SQE queued, whose user_data is the index
 * @nr:		how many
 * @rewritten:	the SQEs are being written to: each has a CQE, and nothing is
 *		said of what was reached
 * @seconds:	to wait for a CQE
 *
 * From the CQEs alone it cannot always be told when a link is done, or how far
 * it came. So IOSQE_CQE_SKIP_SUCCESS is not allowed for the last SQE of a link
 * (or one without a link), for a malformed one, and if @rewritten.
 *
 * Return: 0; -ETIME if a CQE did not come, -EPROTO if CQEs are not those of
 * such links; another negative errno.
 */
int backing_ops_run(struct io_uring *ring, struct backing_op *ops,
		    unsigned int nr, bool rewritten, unsigned int seconds);

#endif /* BACKING_OPS_H */
