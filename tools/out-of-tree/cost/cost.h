/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of cost share: the ring server with the way that it has to
 * register a backing file, and its 32 files. One server at a time. What fails
 * ends the program.
 */
#ifndef COST_H
#define COST_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "ids.h"
#include "issue.h"

/* The server has the files f0 to f31 of the one directory, and shows them here */
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
	NR_WAYS,
};

extern const char * const way_name[NR_WAYS];

/* How the server submits, a sum of these */
#define DEFER	1	/* SINGLE_ISSUER and DEFER_TASKRUN */
#define FIXED	2	/* the ring and the device are registered */

/* Of the server that runs. The queue's thread is the one that serves. */
extern struct ring_server *server;
extern struct issuer issuer;
extern struct files files;
extern enum way way;
extern struct ring_queue *queue;
extern pid_t server_tid;

#define die(fmt, ...) do {						\
	fprintf(stderr, "cost: " fmt "\n", ##__VA_ARGS__);		\
	exit(1);							\
} while (0)

/**
 * check() - end the program with a message if something has failed
 * @what:	what was done
 * @err:	what it returned: a negative errno if it failed
 */
void check(const char *what, long err);

/**
 * file_number() - a number from a file, as /proc has them
 * @path:	the file
 * @key:	the word that its line begins with, NULL: the first line
 * @field:	which word of the line, from 0
 */
long file_number(const char *path, const char *key, int field);

/**
 * clock_ns() - the time
 * @clock:	as clock_gettime() takes it
 *
 * Return: nanoseconds.
 */
__u64 clock_ns(clockid_t clock);

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
 * @i:		0 to MAX_OPENERS - 1
 */
void opener_name(char *name, int i);

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
 * register_openers() - register all files, for the way REGISTERED
 * @on:		or close their ids
 */
void register_openers(bool on);

/** age() - open and close 300,000 ids */
void age(void);

/* What the program does, see cost.c */
void do_rounds(int rotate);
void do_profile(const char *name);
void do_memory(void);

#endif /* COST_H */
