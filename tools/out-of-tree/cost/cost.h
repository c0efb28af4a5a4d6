/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of cost share: the ring server with the way that it has to
 * register a backing file, its files, and who opens them. One server at a time.
 * What fails ends the program.
 */
#ifndef COST_H
#define COST_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "ids.h"
#include "issue.h"

#define PROGRAM	"cost"
#include "init.h"

/*
 * The server has the files f0, f1, ... of the one directory, and shows them at
 * the other, on a tmpfs of our own.
 */
#define BACK		"/tmp/back"
#define MNT		"/tmp/mnt"

#define MAX_OPENERS	32
#define TRACING		"/sys/kernel/tracing"

enum way {
	PLAIN,
	REGISTERED,
	IOCTL,
	SEPARATE,
	LINKED,
	UNLINKED,
	COMMITTED,
	LOOKUP,
	SQPOLL,
	AGED,
	/* a registered file, and what the ways do beside it, done for nothing */
	STAND_IN_IOCTLS,
	STAND_IN_SQES,
	NR_WAYS,
};

extern const char * const way_name[NR_WAYS];

/* How the server submits, a sum of these */
#define DEFER	1	/* SINGLE_ISSUER and DEFER_TASKRUN */
#define FIXED	2	/* the ring and the device are registered */

extern const char * const submit_name[];

/*
 * Before start(): there is a queue for each CPU, and its thread is pinned to that.
 * Else there has to be one CPU, and nothing of the server before is left.
 */
extern bool many_cpus;
/* A UDP socket for STAND_IN_SQES, or -1 */
extern int udp_socket;

/*
 * Before requests: handle_many() is the handler, so no file is a node. Each is to
 * be open only once at a time, and RELEASE has its id.
 */
extern bool many_files;

/* Of the server that runs. The queue's thread is the one that serves. */
extern struct ring_server *server;
extern struct issuer issuer;
extern struct files files;
extern enum way way;
extern struct ring_queue *queue;
extern pid_t server_tid;

/**
 * check() - end the program with a message if something has failed
 * @what:	what was done
 * @err:	what it returned: a negative errno if it failed
 */
void check(const char *what, long err);

/**
 * getpid_cost() - what a system call takes
 *
 * Return: units of the TSC, the lowest of many.
 */
double getpid_cost(void);

/**
 * set_fifo() - make the calling thread SCHED_FIFO, or not
 * @on:		with priority 1
 *
 * First in, first out for clients and server: who runs when depends on nothing
 * but who waits for whom. What the fair scheduler picks depends on the past,
 * and moves the counts by more than the ways differ.
 */
void set_fifo(bool on);

/**
 * pin() - have the calling thread run on one CPU
 * @cpu:	its number
 *
 * Return: 0 or a negative errno.
 */
int pin(int cpu);

/**
 * find_way() - a way by its name
 * @name:	as in way_name
 */
enum way find_way(const char *name);

/**
 * slab() - wait for RCU, and measure the kernel's memory
 *
 * Return: bytes.
 */
long slab(void);

/**
 * handle_many() - answer a request as if there were any number of files
 * @req:	LOOKUP of anything finds another regular file
 *
 * The node id is the number of the lookup, plus FUSE_ROOT_ID. The first backing
 * file is the one of all.
 *
 * Return: as for handle() of struct ring_server_cfg.
 */
int handle_many(struct ring_req *req);

/**
 * start() - start a server
 * @w:		the way that it has to register a file
 * @submit:	DEFER, FIXED
 */
void start(enum way w, int submit);

/** stop() - stop the server */
void stop(void);

/**
 * opener_name() - the name of a file
 * @name:	16 bytes for it
 * @i:		its number
 */
void opener_name(char *name, int i);

/**
 * make_files() - make the directories and the files
 * @n:		how many
 */
void make_files(int n);

/**
 * open_back() - open a backing file
 * @name:	its name
 *
 * Return: an O_PATH fd.
 */
int open_back(const char *name);

/**
 * register_id() - register a file with BACKING_OPEN
 * @fd:		the file
 * @id:		the id, which must be free
 */
void register_id(int fd, int id);

/**
 * ballast() - ids that are only there, all with one O_PATH fd
 * @from:	the first
 * @to:		the last; ids of files that are opened come after it
 */
void ballast(int from, int to);

/**
 * register_openers() - register files, for the way REGISTERED
 * @on:		or close their ids
 * @n:		how many, from the first on
 */
void register_openers(bool on, int n);

/** age() - open and close 300,000 ids */
void age(void);

/* A SCHED_FIFO thread that opens and closes a file, and yields; zeroed but for */
struct opener {
	/* the number of the file */
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
	pthread_t thread;
};

/**
 * openers_start() - create the threads, which then wait
 * @o:		an array
 * @n:		of how many
 */
void openers_start(struct opener *o, int n);

/**
 * openers_run() - have them do it, until the last RELEASE is served
 * @o:		started
 * @n:		how many
 *
 * The caller is SCHED_FIFO, lest the first runs before others are woken up, and
 * after it no more.
 */
void openers_run(struct opener *o, int n);

/**
 * openers_join() - end the threads
 * @o:		were run
 * @n:		how many
 */
void openers_join(struct opener *o, int n);

/* What the program does, see cost.c */
void do_rounds(int rotate);
void do_profile(const char *name);
void do_memory(void);
void do_time(const char *turns);
void do_scale(const char *name, int max);
void do_locks(void);

#endif /* COST_H */
