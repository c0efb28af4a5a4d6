/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Which backing ids should be live on a connection, and are they?
 */
#ifndef BACKING_IDS_H
#define BACKING_IDS_H

#include "backing_issue.h"
#include "backing_random.h"

/* How many of the ids that the kernel picks */
#define BACKING_IDS_PICKED	32768

/* All those of backing_random.h, and those that the kernel picks */
struct backing_ids {
	/* the first of these */
	int first;
	int live[RANDOM_LOW + RANDOM_HIGH + BACKING_IDS_PICKED];
};

/**
 * backing_ids_next() - where the kernel is with its ids
 * @issuer:	of the connection
 * @fd:		a file that can be registered, as it is to learn that
 *
 * Return: the id it picked last, which is not live; or a negative errno.
 */
int backing_ids_next(struct backing_issuer *issuer, int fd);

/**
 * backing_ids_add() - an id was opened or closed
 * @ids:	with .first set
 * @id:		the id
 * @n:		1 or -1. In the end the sum says if it is live; until then, with
 *		several threads, it may say anything
 *
 * Return: 0, or -ERANGE for an id that cannot be.
 */
int backing_ids_add(struct backing_ids *ids, int id, int n);

/**
 * backing_ids_close() - close all ids and see if they were live
 * @ids:	with .first set
 * @issuer:	of the connection
 * @end:	where the kernel is with its ids
 * @wrong:	one is put here of which @ids was wrong, or 0
 *
 * Return: how many were live, or a negative errno.
 */
long backing_ids_close(const struct backing_ids *ids,
		       struct backing_issuer *issuer, int end, int *wrong);

#endif /* BACKING_IDS_H */
