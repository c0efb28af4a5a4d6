// SPDX-License-Identifier: GPL-2.0
/* Bytes of kernel memory for a backing file */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cost.h"

#define MEMORY_FILES	100000

long slab(void)
{
	/* let what RCU has to free be freed */
	sleep(2);
	return file_number("/proc/meminfo", "Slab:", 1) * 1024;
}

static void print_memory(const char *what, long before)
{
	printf("memory\t%s\t%.1f\n", what,
	       (double)(slab() - before) / MEMORY_FILES);
}

/* The id of a file, by an ioctl or a command */
static void do_ids(struct cost *c, enum issue_by by, const char *what)
{
	long before;

	start(c, PLAIN, DEFER | FIXED);
	c->issuer.by = by;
	before = slab();
	ballast(c, MEMORY_FILES);
	print_memory(what, before);
	stop(c);
}

/* The inodes of the directory, with a backing file or without */
static void do_inodes(struct cost *c, enum row r, const char *what)
{
	struct stat st;
	char path[32];
	long before;
	int i;

	start(c, r, DEFER | FIXED);
	c->many_files = true;
	before = slab();
	for (i = 0; i < MEMORY_FILES; i++) {
		snprintf(path, sizeof(path), MNT "/i%d", i);
		if (stat(path, &st))
			die("%s: %s", path, strerror(errno));
	}
	print_memory(what, before);
	stop(c);
	c->many_files = false;
}

void do_memory(struct cost *c)
{
	do_ids(c, BY_IOCTL, "ioctl");
	do_ids(c, BY_COMMAND, "command");
	do_inodes(c, PLAIN, "inode");
	do_inodes(c, LOOKUP, "lookup");
}
