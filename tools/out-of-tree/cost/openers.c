// SPDX-License-Identifier: GPL-2.0
/* Clients that open and close a file of their own, again and again */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "cost.h"

static void rounds(const char *path, int n)
{
	int i, fd;

	for (i = 0; i < n; i++) {
		fd = open(path, O_RDONLY);
		if (fd < 0)
			die("%s: %s", path, strerror(errno));
		close(fd);
		/* nobody waits for RELEASE: have it served */
		sched_yield();
	}
}

/* What counts the clock cycles of a CPU, or -1 */
static int cycles_open(int cpu)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_HW_CPU_CYCLES,
	};

	if (cpu < 0)
		return -1;
	return syscall(SYS_perf_event_open, &attr, -1, cpu, -1,
		       PERF_FLAG_FD_CLOEXEC);
}

static __u64 cycles_read(int fd)
{
	__u64 n;

	return fd >= 0 && read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void *opener(void *arg)
{
	struct opener *o = arg;
	struct openers *all = o->all;
	char name[16], path[32];
	int fd = cycles_open(o->cpu);

	opener_name(name, o->file);
	snprintf(path, sizeof(path), "%s/%s",
		 all->cost->row == NATIVE ? BACK : MNT, name);
	if (o->cpu >= 0)
		check("pin", pin(o->cpu));
	if (o->own_fds && unshare(CLONE_FILES))
		die("unshare: %s", strerror(errno));
	set_fifo(true);
	pthread_barrier_wait(&all->begin);
	rounds(path, o->warm_up);
	o->cycles = cycles_read(fd);
	o->tsc = __rdtsc();
	rounds(path, o->rounds);
	o->tsc = __rdtsc() - o->tsc;
	o->cycles = cycles_read(fd) - o->cycles;
	pthread_barrier_wait(&all->end);
	if (fd >= 0)
		close(fd);
	return NULL;
}

void openers_start(struct openers *all)
{
	int i;

	pthread_barrier_init(&all->begin, NULL, all->n + 1);
	pthread_barrier_init(&all->end, NULL, all->n + 1);
	for (i = 0; i < all->n; i++) {
		all->o[i].all = all;
		check("thread", -pthread_create(&all->o[i].thread, NULL,
						opener, &all->o[i]));
	}
}

void openers_run(struct openers *all)
{
	struct ring_server *server = all->cost->server;
	unsigned long released = ring_server_count(server, FUSE_RELEASE);
	int i;

	for (i = 0; i < all->n && asks_server(all->cost->row); i++)
		released += all->o[i].warm_up + all->o[i].rounds;
	pthread_barrier_wait(&all->begin);
	set_fifo(false);
	pthread_barrier_wait(&all->end);
	/* RELEASE has no answer that a client waits for; not idle meanwhile */
	while (ring_server_count(server, FUSE_RELEASE) < released)
		sched_yield();
}

void openers_join(struct openers *all)
{
	int i;

	for (i = 0; i < all->n; i++)
		pthread_join(all->o[i].thread, NULL);
	pthread_barrier_destroy(&all->begin);
	pthread_barrier_destroy(&all->end);
}
