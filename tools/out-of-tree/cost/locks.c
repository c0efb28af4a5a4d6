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
static FILE *run(struct cost *c, int n, int rounds)
{
	struct openers all = { .cost = c, .n = n };
	FILE *f;
	int i;

	for (i = 0; i < n; i++)
		all.o[i] = (struct opener) { .file = i, .cpu = i,
					     .own_fds = true,
					     .rounds = rounds / n };
	openers_start(&all);
	f = fopen(LOCK_STAT, "w");
	if (!f || fputs("0", f) < 0 || fclose(f))
		die(LOCK_STAT ": %s", strerror(errno));
	set_fifo(true);
	openers_run(&all);
	/* the numbers are those of the time of the open() */
	f = fopen(LOCK_STAT, "r");
	if (!f)
		die(LOCK_STAT ": %s", strerror(errno));
	openers_join(&all);
	return f;
}

/* A line for each class: its contentions, acquisitions and more, behind the name */
static void print(struct cost *c, FILE *f, int openers)
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
		printf("lock\t%s\t%d\t%s\t%.4f\t%.4f\n", row_name[c->row], openers,
		       name, (double)acquisitions / ROUNDS,
		       (double)contentions / ROUNDS);
	}
	fclose(f);
	if (!found)
		die(LOCK_STAT ": no numbers");
}

void do_locks(struct cost *c)
{
	static const enum row rows[] = {
		PLAIN, REGISTERED, LOOKUP, COMMITTED, IOCTL, HARDLINK, UNLINKED,
		NO_OPEN, NATIVE,
	};
	int openers = get_nprocs_conf();
	unsigned int i;

	if (openers > MAX_OPENERS || ROUNDS % openers)
		die("%d CPUs: want 1, 2, 4, ...", openers);
	c->many_cpus = true;
	for (i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		start(c, rows[i], DEFER | FIXED);
		if (c->row == REGISTERED)
			register_openers(c, true, openers);
		fclose(run(c, openers, WARM_UP));
		print(c, run(c, openers, ROUNDS), openers);
		stop(c);
	}
}
