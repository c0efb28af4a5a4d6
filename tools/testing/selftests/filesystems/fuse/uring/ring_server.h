/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A FUSE server over io_uring for tests.
 *
 * One thread reads /dev/fuse, of which it needs INIT only. After that one
 * thread for each possible CPU serves the queue of that CPU from a ring of its
 * own, as ring entries belong to the task that registers them.
 *
 * It serves as a server should, see Documentation/filesystems/fuse/
 * fuse-io-uring.rst and the uapi page beside it. What is answered is up to the
 * handler, and what a test wants otherwise is in its hooks. They run in the
 * thread that serves the request.
 *
 * Functions that return int return 0 (or what is said) or a negative errno.
 */
#ifndef RING_SERVER_H
#define RING_SERVER_H

#include <pthread.h>

#include "issue.h"

/* Largest READ and WRITE in bytes */
#define RING_MAX_IO	(64 * 1024)
/* Of a payload, and what a request needs at most beside its data */
#define RING_PAGE	4096
/* Seconds after which what a test waits for has failed; the harness has 30 */
#define RING_PATIENCE	20

struct ring_server;
struct ring_queue;
struct ring_ent;
struct ring_node;

/* A request, and its answer */
struct ring_req {
	struct ring_server *server;
	struct ring_queue *queue;
	struct ring_ent *ent;
	/* of the ring entry; its commit_id is that of the request */
	struct fuse_uring_req_header *hdr;
	struct fuse_in_header in;
	/* the header of the operation, and what follows it, e.g. a name */
	const void *op;
	const char *data;
	/* RING_MAX_IO bytes for the answer; is @data, too */
	void *out;
	/* the length of the answer, or a negative errno */
	int len;
	/* set by the handler: the file, and the open in the answer */
	struct ring_node *node;
	struct fuse_open_out *open;
	/* of the hooks: the backing file to pass with the answer, or -1 */
	int fd;
	/* and that it is to be closed when the kernel has taken it */
	bool close_fd;
};

/* All of them are optional */
struct ring_hooks {
	/* the ring of a queue was made */
	void (*setup)(struct ring_queue *queue);
	/* a commit is filled in: change it */
	void (*sqe)(struct ring_req *req, struct io_uring_sqe *sqe);
	/*
	 * The answer is made: change it, queue SQEs in front of its commit.
	 * Return false to call ring_req_commit() later.
	 */
	bool (*reply)(struct ring_req *req);
	/*
	 * The commit failed with @err, and the request is still to be answered,
	 * by ring_req_commit(). Without this hook the test ends.
	 */
	void (*refused)(struct ring_req *req, int err);
	/* a CQE of what ring_queue_cmd() has queued, with its @data */
	void (*cqe)(struct ring_queue *queue, __u64 data, int res);
};

/*
 * The queues have a registered buffer pool, maybe for zero-copy. Their REGISTER
 * and commits need IORING_URING_CMD_FIXED.
 */
enum ring_pool { RING_NO_POOL, RING_POOL, RING_ZERO_COPY };

struct ring_server_cfg {
	/* FUSE_INIT flags to reply with besides what the server itself needs */
	__u64 init_flags;
	__u32 max_stack_depth;
	/* register no queue: no request is answered */
	bool no_queues;
	/* ring entries for each queue, 0: 2 */
	unsigned int depth;
	/* how the rings are made and all commands of the queues issued */
	struct issue_how how;
	enum ring_pool pool;
	/*
	 * Makes the answer: the length of what it has put into @req->out, or a
	 * negative errno.
	 */
	int (*handle)(struct ring_req *req);
	struct ring_hooks hooks;
	/* for the two above */
	void *priv;
};

/* Set by ring_server_start(), to be read */
struct ring_server {
	struct ring_server_cfg cfg;
	/* the connection */
	int dev_fd;
	/* the flags of the kernel's FUSE_INIT, flags2 in the upper half */
	__u64 offered;
	/* the number of possible CPUs, or 0 if there are no queues */
	unsigned int nr_queues;

	/* private */
	const char *mnt;
	bool mounted;
	pthread_t dev_thread;
	struct ring_queue *queues;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned long count[FUSE_STATX + 1];
};

struct ring_queue {
	struct ring_server *server;
	/* the CPU whose requests it gets */
	unsigned int qid;
	struct issuer issuer;

	/* private */
	pthread_t thread;
	unsigned int live;
	struct ring_ent *ents;
	char *payloads;
};

/*
 * Mount at @mnt, an existing directory that stays the caller's, and serve until
 * ring_server_stop(). @cfg is copied. Without FUSE_OVER_IO_URING in init_flags,
 * or if the kernel does not offer that, no request is answered.
 */
int ring_server_start(struct ring_server **server, const char *mnt,
		      const struct ring_server_cfg *cfg);

/*
 * Unmount if still mounted, end all threads and free; @server can be NULL.
 * Returns the error of the unmount. Nothing is left either way.
 */
int ring_server_stop(struct ring_server *server);

/* How many requests of an enum fuse_opcode were served since the start */
static inline unsigned long ring_server_count(struct ring_server *server,
					      __u32 opcode)
{
	return __atomic_load_n(&server->count[opcode], __ATOMIC_SEQ_CST);
}

/* Wait until those are @nr; -ETIMEDOUT after RING_PATIENCE seconds */
int ring_server_wait(struct ring_server *server, __u32 opcode,
		     unsigned long nr);

/*
 * In a hook, queue a FUSE command on the ring of the queue of its thread. @data
 * is for the hook cqe(), but for the highest bit. Returns the SQE to fill in.
 */
struct io_uring_sqe *ring_queue_cmd(struct ring_queue *queue, __u32 cmd_op,
				    __u64 data);

/*
 * Queue the commit of an answer, when the hook reply() has returned false or the
 * commit was refused. With @req->fd it is COMMIT_BACKING, without
 * COMMIT_AND_FETCH.
 */
void ring_req_commit(struct ring_req *req);

/* Pass no backing file; closes @req->fd if it was to be closed */
void ring_req_no_file(struct ring_req *req);

#endif /* RING_SERVER_H */
