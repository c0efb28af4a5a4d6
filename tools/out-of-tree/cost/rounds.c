// SPDX-License-Identifier: GPL-2.0
/* What a round of open and close costs, in each row */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
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
	/* that have reached the server */
	long requests;
	long cqes;
	long switches;
	/* of the thread that serves the queue */
	long wakeups;
	__u64 syscalls;
};

static void snapshot(struct cost *c, struct counts *n)
{
	const struct io_uring_cq *cq = &c->queue->issuer.ring.cq;
	char path[64];
	int op;

	if (*cq->koverflow)
		die("%s: too many CQEs", row_name[c->row]);
	n->requests = 0;
	for (op = 0; op <= FUSE_STATX; op++)
		n->requests += ring_server_count(c->server, op);
	/* all that were taken */
	n->cqes = *cq->khead;
	n->switches = file_number("/proc/stat", "ctxt", 1);
	snprintf(path, sizeof(path), "/proc/self/task/%d/status",
		 c->server_tid);
	n->wakeups = file_number(path, "voluntary_ctxt_switches:", 1);
	n->own = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	n->insns = __rdtsc();
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
 * With @traced the system calls of the server are counted, which costs
 * instructions of its own.
 */
static void run(struct cost *c, int openers, int rounds, bool traced,
		struct counts *n)
{
	struct openers all = { .cost = c, .n = openers };
	struct counts before, after;
	__u64 insns;
	int fd = -1, i;

	for (i = 0; i < openers; i++)
		all.o[i] = (struct opener) { .file = i, .cpu = -1,
					     .rounds = rounds / openers };
	openers_start(&all);
	if (traced)
		fd = trace_syscalls(c->server_tid);

	/* let RCU free what was used before */
	usleep(100000);
	/* or the first opener would run before the others are woken up */
	set_fifo(true);
	snapshot(c, &before);
	profile_begin();
	openers_run(&all);
	insns = __rdtsc();
	profile_end();
	snapshot(c, &after);

	n->insns = insns - before.insns;
	n->own = after.own - before.own;
	n->requests = after.requests - before.requests;
	n->cqes = after.cqes - before.cqes;
	n->switches = after.switches - before.switches;
	n->wakeups = after.wakeups - before.wakeups;
	if (traced) {
		if (read(fd, &n->syscalls, sizeof(n->syscalls)) !=
		    sizeof(n->syscalls))
			die("no count of system calls");
		close(fd);
	}
	openers_join(&all);
}

static double per_round(double n)
{
	return n / ROUNDS;
}

static void measure(struct cost *c, int openers, int nr_ids)
{
	struct counts n, traced;

	if (c->row == REGISTERED)
		register_openers(c, true, MAX_OPENERS);
	run(c, openers, WARM_UP, false, &n);
	run(c, openers, ROUNDS, false, &n);
	run(c, openers, TRACED, true, &traced);
	if (c->row == REGISTERED)
		register_openers(c, false, MAX_OPENERS);
	/* the rest is kernel threads, or idle, which has no instructions */
	if (n.own < n.insns - n.insns / 10)
		die("%s: the CPU was idle", row_name[c->row]);

	printf("round\t%s\t%s\t%d\t%d\t%.1f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.1f\n",
	       row_name[c->row], submit_name[c->submit], openers, nr_ids,
	       per_round(n.insns), per_round(n.requests),
	       (double)traced.syscalls / TRACED, per_round(n.cqes),
	       per_round(n.wakeups), per_round(n.switches),
	       per_round(n.own));
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
static void measure_fresh(struct cost *c, enum row r, int submit, int openers,
			  int nr_ids)
{
	start(c, r, submit);
	ballast(c, nr_ids);
	if (r == AGED)
		age(c);
	measure(c, openers, nr_ids);
	stop(c);
}

/* The same, but one server for all openers: many ids take long to register */
static void measure_many(struct cost *c, enum row r, int submit)
{
	static const int nr_ids[] = { 0, 100000, 1000000 };
	int openers, i;

	start(c, r, submit);
	for (i = 1; i < 3; i++) {
		ballast(c, nr_ids[i] - nr_ids[i - 1]);
		for (openers = 1; openers <= 32; openers = next(openers))
			measure(c, openers, nr_ids[i]);
	}
	stop(c);
}

void do_rounds(struct cost *c, int rotate)
{
	static const enum row rows[] = {
		PLAIN, REGISTERED, IOCTL, SEPARATE, HARDLINK, UNLINKED,
		COMMITTED, AT_ONCE, LOOKUP, NO_OPEN, NATIVE,
	};
	const int nr = sizeof(rows) / sizeof(*rows), best = DEFER | FIXED;
	int submit, openers, i;

	for (i = 0; i < nr; i++) {
		enum row r = rows[(i + rotate) % nr];

		for (submit = 0; submit < best && asks_server(r); submit++)
			measure_fresh(c, r, submit, 1, 1);
	}
	for (i = 0; i < nr; i++) {
		enum row r = rows[(i + rotate) % nr];

		for (openers = 1; openers <= 32; openers = next(openers)) {
			measure_fresh(c, r, best, openers, 1);
			measure_fresh(c, r, best, openers, 1000);
		}
	}
	measure_fresh(c, AGED, best, 1, 1);
	for (i = 0; i < nr; i++) {
		if (asks_server(rows[(i + rotate) % nr]))
			measure_many(c, rows[(i + rotate) % nr], best);
	}
}

void do_some(struct cost *c, char **names)
{
	int openers;

	for (; *names; names++) {
		for (openers = 1; openers <= 32; openers = next(openers))
			measure_fresh(c, find_row(*names), DEFER | FIXED,
				      openers, 1);
	}
}

void do_profile(struct cost *c, const char *name)
{
	struct counts n;

	start(c, find_row(name), DEFER | FIXED);
	ballast(c, 1);
	if (c->row == REGISTERED)
		register_openers(c, true, MAX_OPENERS);
	run(c, 1, WARM_UP, false, &n);
	/* the plugin takes the second time */
	run(c, 1, ROUNDS, false, &n);
	printf("profile\t%s\t%d\t%.1f\n", name, ROUNDS, per_round(n.insns));
}
