// SPDX-License-Identifier: GPL-2.0
/*
 * Which backing ids should be live, see backing_ids.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>

#include "backing_ids.h"

#define HIGH	(INT_MAX - RANDOM_HIGH)

static int id_index(const struct backing_ids *ids, int id)
{
	if (id > 0 && id < RANDOM_LOW)
		return id;
	if (id > HIGH)
		return RANDOM_LOW + id - HIGH - 1;
	if (id >= ids->first && id < ids->first + BACKING_IDS_PICKED)
		return RANDOM_LOW + RANDOM_HIGH + id - ids->first;
	return -ERANGE;
}

int backing_ids_next(struct backing_issuer *issuer, int fd)
{
	int id = backing_issue_open(issuer, fd);
	int err;

	if (id <= 0)
		return id ? id : -EPROTO;
	err = backing_issue_close(issuer, id);
	return err ? err : id;
}

int backing_ids_add(struct backing_ids *ids, int id, int n)
{
	int i = id_index(ids, id);

	if (i < 0)
		return i;
	__atomic_add_fetch(&ids->live[i], n, __ATOMIC_RELAXED);
	return 0;
}

static int id_at(const struct backing_ids *ids, int i)
{
	if (i < RANDOM_LOW)
		return i;
	if (i < RANDOM_LOW + RANDOM_HIGH)
		return HIGH + 1 + i - RANDOM_LOW;
	return ids->first + i - RANDOM_LOW - RANDOM_HIGH;
}

long backing_ids_close(const struct backing_ids *ids,
		       struct backing_issuer *issuer, int end, int *wrong)
{
	int picked = end - ids->first;
	long live = 0;
	int i, id, err;

	*wrong = 0;
	if (picked < RANDOM_AHEAD)
		picked = RANDOM_AHEAD;
	if (picked > BACKING_IDS_PICKED)
		return -ERANGE;
	for (i = 1; i < RANDOM_LOW + RANDOM_HIGH + picked; i++) {
		id = id_at(ids, i);
		/* a low one that the kernel picked */
		if (id_index(ids, id) != i)
			continue;
		err = backing_issue_close(issuer, id);
		if (err && err != -ENOENT)
			return err;
		if (ids->live[i] != !err)
			*wrong = id;
		live += !err;
	}
	return live;
}
