// SPDX-License-Identifier: GPL-2.0
/* Which locks a round takes, with a queue and an opener for each CPU */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "cost.h"

#define LOCK_STAT	"/proc/lock_stat"
/* Of all openers together */
#define ROUNDS		8192
#define WARM_UP		512

/* Returns what LOCK_STAT was while they did it */
static FILE *run(int openers, int rounds)
{
	struct opener o[MAX_OPENERS];
	FILE *f;
	int i;

	for (i = 0; i < openers; i++)
		o[i] = (struct opener) { .file = i, .cpu = i, .own_fds = true,
					 .rounds = rounds / openers };
	openers_start(o, openers);
	f = fopen(LOCK_STAT, "w");
	if (!f || fputs("0", f) < 0 || fclose(f))
		die(LOCK_STAT ": %s", strerror(errno));
	set_fifo(true);
	openers_run(o, openers);
	/* the numbers are those of the time of the open() */
	f = fopen(LOCK_STAT, "r");
	if (!f)
		die(LOCK_STAT ": %s", strerror(errno));
	openers_join(o, openers);
	return f;
}

/* A line for each class: its contentions, acquisitions and more, behind the name */
static void print(FILE *f, int openers)
{
	unsigned long contentions, acquisitions;
	char line[512], *name, *numbers;
	int found = 0;

	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, "WARNING"))
			die(LOCK_STAT ": %s", line);
		numbers = strrchr(line, ':');
		if (!numbers ||
		    sscanf(numbers, ": %*u %lu %*s %*s %*s %*s %*u %lu",
			   &contentions, &acquisitions) != 2)
			continue;
		found++;
		*numbers = 0;
		name = line + strspn(line, " ");
		printf("lock\t%s\t%d\t%s\t%.4f\t%.4f\n", way_name[way], openers,
		       name, (double)acquisitions / ROUNDS,
		       (double)contentions / ROUNDS);
	}
	fclose(f);
	if (!found)
		die(LOCK_STAT ": no numbers");
}

void do_locks(void)
{
	static const enum way ways[] = {
		PLAIN, REGISTERED, LOOKUP, COMMITTED, IOCTL, LINKED, UNLINKED,
	};
	int openers = get_nprocs_conf();
	unsigned int i;

	if (openers > MAX_OPENERS || ROUNDS % openers)
		die("%d CPUs: want 1, 2, 4, ...", openers);
	many_cpus = true;
	for (i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		start(ways[i], DEFER | FIXED);
		if (way == REGISTERED)
			register_openers(true, openers);
		fclose(run(openers, WARM_UP));
		print(run(openers, ROUNDS), openers);
		stop();
	}
}
