// SPDX-License-Identifier: GPL-2.0
/* What a round and the memory of a file cost when ever more files are open */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <x86intrin.h>

#include "cost.h"

#define ROUNDS		2048
#define WARM_UP		512
/* From one file to the next. A prime, so none of 10, 100, ... is left out */
#define STEP		7919

static int open_file(struct cost *c, int i)
{
	char path[32];
	int fd;

	/* backing files there are not as many */
	if (c->row == NATIVE)
		snprintf(path, sizeof(path), BACK "/f%d", i % MAX_OPENERS);
	else
		snprintf(path, sizeof(path), MNT "/i%d", i);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		die("%s: %s", path, strerror(errno));
	return fd;
}

/* Close one of @n open files and open it again, another one each time */
static __u64 reopen(struct cost *c, int *fds, int n, int rounds)
{
	__u64 insns, own;
	int i, k = 0;

	set_fifo(true);
	own = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	insns = __rdtsc();
	for (i = 0; i < rounds; i++) {
		k = (k + STEP) % n;
		close(fds[k]);
		/* nobody waits for RELEASE: have it served */
		sched_yield();
		fds[k] = open_file(c, k);
	}
	insns = __rdtsc() - insns;
	own = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
	set_fifo(false);
	/* the rest is kernel threads, or idle, which has no instructions */
	if (own < insns - insns / 10)
		die("%s: the CPU was idle", row_name[c->row]);
	return insns;
}

void do_scale(struct cost *c, const char *name, int max)
{
	const struct rlimit limit = { max + 100, max + 100 };
	int *fds = calloc(max, sizeof(*fds));
	int fd, n, i = 0;
	long before;

	if (!fds || setrlimit(RLIMIT_NOFILE, &limit))
		die("%d files: %s", max, strerror(errno));
	start(c, find_row(name), DEFER | FIXED);
	c->many_files = true;
	fd = open_back(c, "f0");
	before = slab();
	for (n = 1; n <= max; n *= 10) {
		double bytes, insns;

		for (; i < n; i++) {
			if (c->row == REGISTERED)
				register_id(c, fd);
			fds[i] = open_file(c, i);
		}
		bytes = slab() - before;
		reopen(c, fds, n, WARM_UP);
		insns = reopen(c, fds, n, ROUNDS);
		printf("scale\t%s\t%d\t%.1f\t%.1f\n", name, n, insns / ROUNDS,
		       bytes / n);
		fflush(stdout);
	}
}
