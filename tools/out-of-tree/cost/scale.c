// SPDX-License-Identifier: GPL-2.0
/* What a round and the memory of a file take when ever more files are open */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <x86intrin.h>

#include "cost.h"

#define ROUNDS		2048
#define WARM_UP		512
/* From one file to the next. A prime, so none of 10, 100, ... is left out */
#define STEP		7919

int handle_many(struct ring_req *req)
{
	static struct ring_node node = { .fd = -1 };
	static __u64 nodeid = FUSE_ROOT_ID;
	struct fuse_entry_out *entry = req->out;

	if (node.fd < 0)
		node.fd = open_back("f0");
	req->node = &node;
	switch (req->in.opcode) {
	case FUSE_LOOKUP:
		*entry = (struct fuse_entry_out) {
			.nodeid = ++nodeid,
			.generation = 1,
			.entry_valid = 1000000,
			.attr_valid = 1000000,
			.attr = { .ino = nodeid, .mode = S_IFREG | 0644,
				  .nlink = 1 },
		};
		return sizeof(*entry);
	case FUSE_OPEN:
		req->open = req->out;
		*req->open = (struct fuse_open_out) { };
		if (way == REGISTERED) {
			req->open->open_flags = FOPEN_PASSTHROUGH;
			req->open->backing_id = req->in.nodeid - FUSE_ROOT_ID;
		}
		return sizeof(*req->open);
	case FUSE_RELEASE:
		return 0;
	default:
		return files_handle(req);
	}
}

static int open_file(int i)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), MNT "/i%d", i);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		die("%s: %s", path, strerror(errno));
	return fd;
}

/* Close one of @n open files and open it again, another one each time */
static __u64 reopen(int *fds, int n, int rounds)
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
		fds[k] = open_file(k);
	}
	insns = __rdtsc() - insns;
	own = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
	set_fifo(false);
	/* the rest is kernel threads, or idle, which has no instructions */
	if (own < insns - insns / 10)
		die("%s: the CPU was idle", way_name[way]);
	return insns;
}

void do_scale(const char *name, int max)
{
	const struct rlimit limit = { max + 100, max + 100 };
	int *fds = calloc(max, sizeof(*fds));
	int fd, n, i = 0;
	long before;

	if (!fds || setrlimit(RLIMIT_NOFILE, &limit))
		die("%d files: %s", max, strerror(errno));
	start(find_way(name), DEFER | FIXED);
	server->cfg.handle = handle_many;
	many_files = true;
	fd = open_back("f0");
	before = slab();
	for (n = 1; n <= max; n *= 10) {
		double bytes, insns;

		for (; i < n; i++) {
			if (way == REGISTERED)
				register_id(fd, i + 1);
			fds[i] = open_file(i);
		}
		bytes = slab() - before;
		reopen(fds, n, WARM_UP);
		insns = reopen(fds, n, ROUNDS);
		printf("scale\t%s\t%d\t%.1f\t%.1f\n", name, n, insns / ROUNDS,
		       bytes / n);
		fflush(stdout);
	}
}
