/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Threads that wait for each other.
 */
#ifndef WAIT_H
#define WAIT_H

#include <errno.h>
#include <semaphore.h>
#include <time.h>

#include "ring_server.h"

/**
 * wait_for() - wait for another thread
 * @sem:	what it posts
 *
 * Return: 0, or -ETIMEDOUT after RING_PATIENCE seconds.
 */
static inline int wait_for(sem_t *sem)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += RING_PATIENCE;
	while (sem_timedwait(sem, &end)) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

#endif /* WAIT_H */
