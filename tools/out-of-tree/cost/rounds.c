// SPDX-License-Identifier: GPL-2.0
/* What a round of open, flush and release takes, in each of the ways */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "cost.h"

/* In all of a measurement, by however many openers */
#define ROUNDS		2048
#define WARM_UP		512
/* and when system calls are traced */
#define TRACED		256

/* An empty function the plugin knows by its address */
static __attribute_noinline__ void profile_begin(void)
{
	__asm__ volatile ("" ::: "memory");
}

static __attribute_noinline__ void profile_end(void)
{
	__asm__ volatile ("nop" ::: "memory");
}

/* What one measurement counts; all but the instructions are differences */
struct counts {
	__u64 insns;
	/* instructions in the threads of this program */
	__u64 own;
	/* and in the SQPOLL thread */
	__u64 sq_thread;
	long cqes;
	long switches;
	/* of the thread that serves the queue */
	long wakeups;
	long syscalls;
};

/* CPU time of the SQPOLL thread, which is one of ours; 0 if there is none */
static __u64 sq_thread_ns(void)
{
	DIR *dir = opendir("/proc/self/task");
	char path[64], comm[32];
	struct dirent *d;
	__u64 ns = 0;

	while (dir && (d = readdir(dir))) {
		int tid = atoi(d->d_name);
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%d/comm", tid);
		f = tid ? fopen(path, "r") : NULL;
		if (!f)
			continue;
		/* the clock of a thread, see posix-timers.h in the kernel */
		if (fgets(comm, sizeof(comm), f) &&
		    !strncmp(comm, "iou-sqp", 7))
			ns += clock_ns((~(clockid_t)tid << 3) | 6);
		fclose(f);
	}
	closedir(dir);
	return ns;
}

static void snapshot(struct counts *c)
{
	char path[64];

	if (*queue->ring.cq.koverflow)
		die("%s: too many CQEs", way_name[way]);
	/* all that were taken */
	c->cqes = *queue->ring.cq.khead;
	c->switches = file_number("/proc/stat", "ctxt", 1);
	snprintf(path, sizeof(path), "/proc/self/task/%d/status", server_tid);
	c->wakeups = file_number(path, "voluntary_ctxt_switches:", 1);
	c->sq_thread = sq_thread_ns();
	c->own = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	c->insns = __rdtsc();
}

static int trace_syscalls(pid_t tid)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
		.config = file_number(TRACING
				      "/events/raw_syscalls/sys_enter/id",
				      NULL, 0),
	};
	int fd = syscall(SYS_perf_event_open, &attr, tid, -1, -1, 0);

	if (fd < 0)
		die("perf_event_open: %s", strerror(errno));
	return fd;
}

/*
 * So many openers open and close their file so often, together @rounds times.
 * With @traced the system calls of the server are counted, which takes
 * instructions of its own.
 */
static void run(int openers, int rounds, bool traced, struct counts *c)
{
	struct opener o[MAX_OPENERS];
	struct counts before, after;
	__u64 insns;
	int fd = -1, i;

	for (i = 0; i < openers; i++)
		o[i] = (struct opener) { .file = i, .cpu = -1,
					 .rounds = rounds / openers };
	openers_start(o, openers);
	if (traced)
		fd = trace_syscalls(server_tid);

	/* let RCU free what was used before */
	usleep(100000);
	/* or the first opener would run before the others are woken up */
	set_fifo(true);
	snapshot(&before);
	profile_begin();
	openers_run(o, openers);
	insns = __rdtsc();
	profile_end();
	snapshot(&after);

	c->insns = insns - before.insns;
	c->own = after.own - before.own;
	c->sq_thread = after.sq_thread - before.sq_thread;
	c->cqes = after.cqes - before.cqes;
	c->switches = after.switches - before.switches;
	c->wakeups = after.wakeups - before.wakeups;
	if (traced) {
		__u64 n;

		if (read(fd, &n, sizeof(n)) != sizeof(n))
			die("no count of system calls");
		c->syscalls = n;
		close(fd);
	}
	openers_join(o, openers);
}

static double per_round(double n)
{
	return n / ROUNDS;
}

static void measure(int submit, int openers, int nr_ids)
{
	struct counts c, traced;

	if (way == REGISTERED)
		register_openers(true, MAX_OPENERS);
	run(openers, WARM_UP, false, &c);
	run(openers, ROUNDS, false, &c);
	run(openers, TRACED, true, &traced);
	if (way == REGISTERED)
		register_openers(false, MAX_OPENERS);
	/* the rest is kernel threads, or idle, which has no instructions */
	if (c.own < c.insns - c.insns / 10)
		die("%s: the CPU was idle", way_name[way]);

	printf("round\t%s\t%s\t%d\t%d\t%.1f\t%.3f\t%.3f\t%.3f\t%.3f\t%.1f\t%.1f\n",
	       way_name[way], submit_name[submit], openers, nr_ids,
	       per_round(c.insns),
	       (double)traced.syscalls / TRACED, per_round(c.cqes),
	       per_round(c.wakeups), per_round(c.switches),
	       per_round(c.own), per_round(c.sq_thread));
	fflush(stdout);
}

/* 1, 8, 32 */
static int next(int openers)
{
	return openers * (openers > 1 ? 4 : 8);
}

/*
 * With a server of its own. What an id costs that the kernel picks depends on
 * how many it has picked before.
 */
static void measure_fresh(enum way w, int submit, int openers, int nr_ids)
{
	start(w, submit);
	ballast(1, nr_ids);
	if (w == AGED)
		age();
	measure(submit, openers, nr_ids);
	stop();
}

/* The same, but one server for all openers: many ids take long to register */
static void measure_many(enum way w, int submit)
{
	static const int nr_ids[] = { 0, 100000, 1000000 };
	int openers, i;

	start(w, submit);
	for (i = 1; i < 3; i++) {
		ballast(nr_ids[i - 1] + 1, nr_ids[i]);
		for (openers = 1; openers <= 32; openers = next(openers))
			measure(submit, openers, nr_ids[i]);
	}
	stop();
}

void do_rounds(int rotate)
{
	const int best = DEFER | FIXED;
	int submit, openers, w;

	for (w = 0; w < SQPOLL; w++) {
		for (submit = 0; submit < best; submit++)
			measure_fresh((w + rotate) % SQPOLL, submit, 1, 1);
	}
	for (w = 0; w < AGED; w++) {
		for (openers = 1; openers <= 32; openers = next(openers)) {
			measure_fresh((w + rotate) % AGED, best, openers, 1);
			measure_fresh((w + rotate) % AGED, best, openers, 1000);
		}
	}
	measure_fresh(AGED, best, 1, 1);
	for (w = 0; w < AGED; w++)
		measure_many((w + rotate) % AGED, best);
}

void do_profile(const char *name)
{
	struct counts c;

	start(find_way(name), DEFER | FIXED);
	ballast(1, 1);
	if (way == REGISTERED)
		register_openers(true, MAX_OPENERS);
	run(1, WARM_UP, false, &c);
	/* the plugin takes the second time */
	run(1, ROUNDS, false, &c);
	printf("profile\t%s\t%d\t%.1f\n", name, ROUNDS, per_round(c.insns));
}
