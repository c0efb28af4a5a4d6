/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of cost share: a ring server that opens files in passthrough mode
 * by one of the interfaces, its files, and who opens them. One server at a time.
 * What fails ends the program.
 */
#ifndef COST_H
#define COST_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "files.h"

#define PROGRAM	"cost"
#include "init.h"

/*
 * The server has the files f0, f1, ... of the one directory, and shows them at
 * the other, on a tmpfs of our own.
 */
#define BACK		"/tmp/back"
#define MNT		"/tmp/mnt"

/* Ring entries of a queue, and who opens files on one CPU */
#define MAX_OPENERS	32
#define TRACING		"/sys/kernel/tracing"

/* What is measured: a row of the tables. README says what each is */
enum row {
	PLAIN,
	REGISTERED,
	IOCTL,
	AGED,
	SEPARATE,
	HARDLINK,
	UNLINKED,
	COMMITTED,
	AT_ONCE,
	LOOKUP,
	NO_OPEN,
	NATIVE,
	/* a registered file, and what the others do in addition, done for nothing */
	STAND_IN_IOCTLS,
	STAND_IN_SQES,
	NR_ROWS,
};

extern const char * const row_name[NR_ROWS];

/* How the server submits, a sum of these */
#define DEFER	1	/* SINGLE_ISSUER and DEFER_TASKRUN */
#define FIXED	2	/* the ring and the device are registered */

extern const char * const submit_name[];

/* Zeroed but for what the caller sets */
struct cost {
	/* first: the priv of the server is the struct cost */
	struct files files;

	/*
	 * Set by the caller before start(): there is a queue for each CPU, and
	 * its thread is pinned to that. Else there has to be one CPU, and
	 * nothing of the server before is left.
	 */
	bool many_cpus;
	/*
	 * LOOKUP of any name finds another regular file, and the node id is the
	 * number of the lookup, plus FUSE_ROOT_ID. All have the backing file f0.
	 */
	bool many_files;
	/* a UDP socket for STAND_IN_SQES, or -1 */
	int udp_socket;

	/* Of the server that runs; the caller can change the row */
	enum row row;
	struct ring_server *server;
	/* for its BACKING_OPEN and BACKING_CLOSE from outside */
	struct issuer issuer;
	/* of the thread that has started last */
	struct ring_queue *queue;
	pid_t server_tid;

	/* private: DEFER, FIXED, the last id picked, those of REGISTERED */
	int submit;
	int last_id;
	int ids[FILES_MAX];
};

/* End the program with a message if @err, which @what returned, is negative */
void check(const char *what, long err);

/* What a system call costs: units of the TSC, the lowest of many */
double getpid_cost(void);

/*
 * Make the calling thread SCHED_FIFO with priority 1, or not. First in, first out
 * for clients and server: who runs when depends on nothing but who waits for whom.
 * What the fair scheduler picks depends on the past, and moves the counts by more
 * than the rows differ.
 */
void set_fifo(bool on);

/* Have the calling thread run on one CPU; 0 or a negative errno */
int pin(int cpu);

/* A row by its name */
enum row find_row(const char *name);

/* Do its rounds reach the server? */
bool asks_server(enum row r);

/* Wait for RCU, and return how many bytes of slabs the kernel has */
long slab(void);

/* Start and stop a server: a row, and a sum of DEFER and FIXED */
void start(struct cost *c, enum row r, int submit);
void stop(struct cost *c);

/* Make the directories and @n files */
void make_files(int n);

/* The name of file @i, in 16 bytes */
void opener_name(char *name, int i);

/* Open a backing file, O_PATH */
int open_back(struct cost *c, const char *name);

/* Register a file; its id. The first ones of a server are 1, 2, ... */
int register_id(struct cost *c, int fd);

/* Register @n more ids, which are only there, all with one O_PATH fd */
void ballast(struct cost *c, int n);

/* Register the first @n files for REGISTERED, or close their ids */
void register_openers(struct cost *c, bool on, int n);

/* Open and close 300,000 ids */
void age(struct cost *c);

/* A SCHED_FIFO thread that opens and closes a file, and yields */
struct opener {
	/* set by the caller, the rest is 0: the number of the file */
	int file;
	/* the CPU that it is pinned to, or -1 */
	int cpu;
	/* it has a file table of its own, as another process would */
	bool own_fds;
	/* how often, before it takes the time, and then */
	int warm_up;
	int rounds;

	/*
	 * What @rounds took: units of the TSC, and clock cycles of the CPU, 0 if
	 * it is not pinned or they cannot be counted.
	 */
	__u64 tsc;
	__u64 cycles;

	/* private */
	struct openers *all;
	pthread_t thread;
};

struct openers {
	/* set by the caller: the first @n, and the server */
	struct cost *cost;
	int n;
	struct opener o[FILES_MAX / 2];

	/* private */
	pthread_barrier_t begin, end;
};

/* Create the threads, which then wait */
void openers_start(struct openers *all);

/*
 * Have them do it, until the last RELEASE is served. The caller is SCHED_FIFO,
 * lest the first runs before others are woken up, and after it no more.
 */
void openers_run(struct openers *all);

/* End the threads */
void openers_join(struct openers *all);

/* What the program does, see cost.c */
void do_rounds(struct cost *c, int rotate);
void do_some(struct cost *c, char **names);
void do_profile(struct cost *c, const char *name);
void do_memory(struct cost *c);
void do_time(struct cost *c, const char *turns);
void do_scale(struct cost *c, const char *name, int max);
void do_locks(struct cost *c);

#endif /* COST_H */
