/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Random backing file commands, right ones and wrong ones. The same state of
 * the generator gives the same command.
 */
#ifndef BACKING_RANDOM_H
#define BACKING_RANDOM_H

#include <stdbool.h>

#include "backing_cmd.h"
#include "backing_ops.h"

#define RANDOM_FILES	4
#define RANDOM_BAD	6
/* The devices that can be registered files: the last two of bad[] cannot */
#define RANDOM_FIXED(r)	((r)->nr_devs + RANDOM_BAD - 2)

/*
 * The ids that are asked for: 1 to RANDOM_LOW - 1, the RANDOM_HIGH ones up to
 * INT_MAX, and, to close what the kernel picked, RANDOM_AHEAD from .first on
 */
#define RANDOM_LOW	256
#define RANDOM_HIGH	8
#define RANDOM_AHEAD	512

/* What the commands are made of */
struct backing_random {
	/* devices of the connections, with room for the bad ones behind */
	int devs[4 + RANDOM_BAD];
	unsigned int nr_devs;
	/* fds to register, and others, which are no devices either */
	int files[RANDOM_FILES];
	int bad[RANDOM_BAD];
	int first;
	/* with REGISTER, which always fails and so ends io_uring for FUSE */
	bool registers;
	/* without BACKING_CLOSE */
	bool opens_only;
};

/* A command */
struct random_cmd {
	/* index into .devs of struct backing_random */
	unsigned int dev;
	__u32 cmd_op;
	/* the one wanted, or the one to close */
	int id;
	/* nothing in it is wrong, but an id may be in use or not there */
	bool valid;
};

/**
 * rnd64() - the next random number
 * @rng:	the generator, any number to begin with
 *
 * Return: 64 random bits.
 */
__u64 rnd64(__u64 *rng);

/**
 * rnd() - the next random number in a range
 * @rng:	the generator
 * @n:		how many numbers there are
 *
 * Return: 0 to @n - 1.
 */
unsigned int rnd(__u64 *rng, unsigned int n);

/**
 * one_in() - do it now and then
 * @rng:	the generator
 * @n:		how seldom
 *
 * Return: true once in @n times.
 */
bool one_in(__u64 *rng, unsigned int n);

/**
 * random_wanted_id() - an id to register a file under
 * @rng:	the generator
 *
 * Return: one of the low or the high ids.
 */
int random_wanted_id(__u64 *rng);

/**
 * random_id() - an id that may be there
 * @r:		what the commands are made of
 * @rng:	the generator
 *
 * Return: one of all ids that are asked for.
 */
int random_id(const struct backing_random *r, __u64 *rng);

/**
 * random_fill() - fill a ring with random commands
 * @r:		what they are made of
 * @rng:	the generator
 * @ring:	without SQEs. With 64-byte ones nothing is valid
 * @flags:	IOSQE_* flags that they may have. Those that let an SQE wait are
 *		rare, for it takes a hundred times as long. With
 *		IOSQE_FIXED_FILE all have it, the files are those in @r->devs
 * @cmds:	what they are is put here
 * @ops:	links and flags are put here, as backing_ops_run() wants them
 *
 * Return: how many SQEs there are.
 */
unsigned int random_fill(const struct backing_random *r, __u64 *rng,
			 struct io_uring *ring, unsigned int flags,
			 struct random_cmd *cmds, struct backing_op *ops);

/**
 * random_rewrite() - change something in the SQEs, with one store
 * @r:		what they are made of
 * @rng:	the generator
 * @ring:	its SQEs can be on their way into the kernel
 * @flags:	as for random_fill()
 *
 * Never changes an opcode or user_data, nor the device for @r->opens_only.
 */
void random_rewrite(const struct backing_random *r, __u64 *rng,
		    struct io_uring *ring, unsigned int flags);

#endif /* BACKING_RANDOM_H */
