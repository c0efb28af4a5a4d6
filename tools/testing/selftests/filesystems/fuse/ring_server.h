/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A small FUSE server over io_uring for tests.
 *
 * It mounts a directory of flat files: every name in the root of the mount is
 * the file of that name in a backing directory. One thread reads /dev/fuse
 * (INIT, FORGET and all else that does not come over a ring), and after INIT
 * one thread for each possible CPU serves that CPU's queue from a ring of its
 * own: ring entries belong to the task that registers them.
 *
 * All functions that return int return 0 (or what is said) or a negative
 * errno, unless said otherwise. The rules of the protocol are those of
 * Documentation/filesystems/fuse/fuse-io-uring.rst and the uapi page beside it.
 */
#ifndef RING_SERVER_H
#define RING_SERVER_H

#include <liburing.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdbool.h>

#include "backing_cmd.h"

#define RING_SERVER_NAME_MAX	31
#define RING_SERVER_MAX_NODES	128
#define RING_SERVER_MAX_OPCODE	64
#define RING_SERVER_MAX_DEPTH	64

/* Largest READ and WRITE in bytes */
#define RING_SERVER_MAX_IO	(64 * 1024)

struct ring_server;
struct ring_queue;
struct ring_ent;

/* A file that was looked up or created; lives as long as the server */
struct ring_node {
	char name[RING_SERVER_NAME_MAX + 1];
	__u64 nodeid;
	/* the file in the backing directory, O_RDWR */
	int fd;
	/* > 0: OPEN and CREATE answer with FOPEN_PASSTHROUGH and this id */
	int backing_id;
	/* opens not yet released */
	int opens;
};

/* What a hook gets to see of a request */
struct ring_req {
	struct ring_server *server;
	/* the queue and the ring entry that it came in, NULL for /dev/fuse */
	struct ring_queue *queue;
	struct ring_ent *ent;
	struct fuse_in_header in;
	/* the header of the operation, e.g. struct fuse_open_in */
	const void *op;
	/* what follows the header, e.g. a name */
	const void *data;
	size_t data_len;
	/* where the answer goes, RING_SERVER_MAX_IO bytes; can be @data */
	void *out;

	/*
	 * For the hooks of OPEN and CREATE: link the reply behind a
	 * registration of this file, under fuse_open_out.backing_id. -1: none.
	 * Has to stay open until the registration has run.
	 */
	int link_fd;
	/* if > 0, the link begins with a BACKING_CLOSE of this id */
	int link_close_id;
};

struct ring_server_cfg {
	/* FUSE_INIT flags to reply with besides what the server itself needs */
	__u64 init_flags;
	/* fuse_init_out.max_stack_depth */
	__u32 max_stack_depth;
	/* seconds for which the kernel may keep names and attributes */
	unsigned int cache_secs;
	/* ring entries for each queue, 0: 2; at most RING_SERVER_MAX_DEPTH */
	unsigned int depth;
	/*
	 * io_uring_setup() flags for the queues' rings besides SQE128; with
	 * IORING_SETUP_SQE_MIXED instead of it
	 */
	unsigned int ring_flags;
	/* register the ring's fd, and the device as a file of the ring */
	bool fixed;
	/*
	 * SQEs and CQEs of a queue's ring, 0: room for a linked reply from
	 * each ring entry at once, and twice as many CQEs
	 */
	unsigned int sq_entries;
	unsigned int cq_entries;
	/* IOSQE_* flags for what a linked reply begins with, and for commits */
	unsigned int link_flags;
	unsigned int commit_flags;
	/* without IOSQE_CQE_SKIP_SUCCESS */
	bool link_no_skip;
	/* do not read /dev/fuse: INIT stays without an answer */
	bool no_init;
	/* register no queue: with FUSE_OVER_IO_URING no request is answered */
	bool no_queues;

	/*
	 * Called for OPEN and CREATE with @out filled in from the node; may
	 * change it. Runs in the thread of the queue.
	 *
	 * Return: 0, or a negative errno to answer with.
	 */
	int (*open)(struct ring_req *req, struct ring_node *node,
		    struct fuse_open_out *out);
	/*
	 * Called with the reason if a linked registration failed, so that the
	 * reply was not sent. As open(), to answer the same request again;
	 * with @out and req->link_fd as open() left them.
	 */
	int (*link_failed)(struct ring_req *req, struct ring_node *node,
			   struct fuse_open_out *out, int err);
	/* Called for RELEASE */
	void (*release)(struct ring_req *req, struct ring_node *node);
	/* for the hooks */
	void *priv;
};

/**
 * ring_server_enable_uring() - switch the module parameter enable_uring
 * @on:		the new value
 * @was:	the old value is put here, to give back later; may be NULL
 */
int ring_server_enable_uring(bool on, bool *was);

/**
 * ring_server_init_flags() - ask the kernel what it can do
 * @flags:	the flags of its FUSE_INIT, flags2 in the upper half
 * @minor:	the minor version of its protocol is put here; may be NULL
 *
 * Mounts on a temporary directory, reads the INIT request and unmounts again.
 * FUSE_HAS_IO_URING_BACKING is only there while enable_uring is on.
 */
int ring_server_init_flags(__u64 *flags, __u32 *minor);

/**
 * ring_server_start() - mount, and serve until ring_server_stop()
 * @server:	the server is put here
 * @mnt:	mount point, an existing directory
 * @dir_fd:	the backing directory, has to stay open
 * @cfg:	what to negotiate and to answer; copied
 *
 * With FUSE_OVER_IO_URING in @cfg->init_flags, and if the kernel offers it, it
 * returns when all queues are registered, so that every later request comes
 * over a ring. Else all come over /dev/fuse.
 */
int ring_server_start(struct ring_server **server, const char *mnt, int dir_fd,
		      const struct ring_server_cfg *cfg);

/**
 * ring_server_umount() - unmount, without ending the server
 * @server:	a started server
 *
 * Return: 0, or -EBUSY and so on from umount2(). The connection is dead
 * afterwards and its threads end; the /dev/fuse file stays open.
 */
int ring_server_umount(struct ring_server *server);

/**
 * ring_server_fusectl() - mount fusectl at its place if it is not
 *
 * Do this in a mount namespace that is your own.
 */
int ring_server_fusectl(void);

/**
 * ring_server_abort() - abort the connection through fusectl
 * @server:	a started server
 *
 * Mounts fusectl as ring_server_fusectl() does.
 *
 * Return: 0; -ENOENT if the connection is gone, or another negative errno.
 */
int ring_server_abort(struct ring_server *server);

/**
 * ring_server_stop() - unmount if still mounted, end all threads and free
 * @server:	a server, or NULL
 *
 * Return: 0 or the error of the unmount. On error the mount is detached and the
 * connection aborted, so nothing is left either way.
 */
int ring_server_stop(struct ring_server *server);

/**
 * ring_server_dev_fd() - the /dev/fuse file of the connection
 * @server:	a started server
 *
 * Return: the file descriptor; the server closes it.
 */
int ring_server_dev_fd(struct ring_server *server);

/**
 * ring_server_priv() - what the hooks need
 * @server:	a started server
 *
 * Return: @priv of the configuration.
 */
void *ring_server_priv(struct ring_server *server);

/**
 * ring_server_nr_queues() - how many queues it serves
 * @server:	a started server
 *
 * Return: the number of possible CPUs, or 0 if all goes over /dev/fuse.
 */
unsigned int ring_server_nr_queues(struct ring_server *server);

/**
 * ring_server_set_backing() - answer the next opens of a file with an id
 * @server:	a started server
 * @name:	the file; is looked up if it was not yet
 * @id:		the backing id, or 0 for no passthrough
 */
int ring_server_set_backing(struct ring_server *server, const char *name,
			    int id);

/**
 * ring_server_count() - how many requests of a kind the server has seen
 * @server:	a started server
 * @opcode:	enum fuse_opcode
 *
 * Return: the number since the start, those over /dev/fuse included.
 */
unsigned long ring_server_count(struct ring_server *server, __u32 opcode);

/* What happened on the rings of all queues since the start */
struct ring_server_stats {
	/* calls of io_uring_enter(), those of ring_queue_cmd() included */
	unsigned long enters;
	/* CQEs */
	unsigned long cqes;
	/* CQEs of linked registrations that failed, and of their commits */
	unsigned long links_failed;
	unsigned long commits_canceled;
	/* CQEs of ring_queue_close_id() */
	unsigned long closes_failed;
	/* most CQEs that were waiting in one ring */
	unsigned long cqes_max;
	/* CQEs that did not fit into the ring */
	unsigned long overflows;
	/* queues whose thread is in io_uring_enter() now, to submit and wait */
	unsigned int idle;
};

/**
 * ring_server_stats() - count what the queues' threads did
 * @server:	a started server
 * @stats:	the sums over all queues are put here
 *
 * With IORING_SETUP_SQPOLL, enters are the calls that may have entered.
 */
void ring_server_stats(struct ring_server *server,
		       struct ring_server_stats *stats);

/**
 * ring_queue_close_id() - have an id closed with the next reply
 * @queue:	the queue whose thread is the caller, from struct ring_req
 * @id:		the backing id
 *
 * The BACKING_CLOSE has no CQE unless it fails; that counts as closes_failed.
 */
void ring_queue_close_id(struct ring_queue *queue, int id);

/**
 * ring_queue_cmd() - run one command on the ring of the queue itself
 * @queue:	the queue whose thread is the caller, from struct ring_req
 * @prep:	fills in the SQE; user_data is set afterwards
 * @arg:	for @prep
 *
 * Submits and waits for the CQE. Requests that arrive meanwhile are kept for
 * the thread: a ring whose CQEs are not all requests needs that.
 *
 * Return: the CQE's res, or the error of io_uring_enter() if nothing could be
 * submitted.
 */
int ring_queue_cmd(struct ring_queue *queue,
		   void (*prep)(struct io_uring_sqe *sqe, int dev_fd,
				void *arg),
		   void *arg);

/**
 * ring_queue_exit() - end a queue, as if its thread had died
 * @queue:	the queue whose thread is the caller, from struct ring_req
 *
 * After the hook the thread submits the reply, closes the ring with all that is
 * in flight and ends. The connection goes on without it: requests to the queue
 * have no answer until ring_server_abort().
 */
void ring_queue_exit(struct ring_queue *queue);

#endif /* RING_SERVER_H */
