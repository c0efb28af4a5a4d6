/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The files of the ring server: every name in the root of the mount is the file
 * of that name in a backing directory. Whether opens pass through to it, and
 * what passes it to the kernel, is up to the test.
 *
 * The mode belongs to the inode, so it is that of the first open:
 *
 *  - as long as an inode is open without a backing file, no open passes one;
 *  - if the kernel refuses the backing file of an open, it is answered without,
 *    but with an error while there are other opens: they are in passthrough
 *    mode, or will be.
 */
#ifndef FILES_H
#define FILES_H

#include "ring_server.h"

#define FILES_NAME_MAX	31
#define FILES_MAX	256

/* A file that was looked up or created */
struct ring_node {
	char name[FILES_NAME_MAX + 1];
	__u64 nodeid;
	/* the file in the backing directory, O_RDWR */
	int fd;
	/* what opens pass if files.pass is set: @fd, a fd of the test, or -1 */
	int pass_fd;

	/* private: opens that were answered and not released, and their mode */
	unsigned int opens;
	bool plain;
};

/* What the priv of the server points to, or begins with */
struct files {
	/* the backing directory */
	int dir_fd;
	/* seconds for which the kernel may keep names and attributes */
	unsigned int cache_secs;
	/* opens pass their backing file, by this; can be set at any time */
	bool pass;
	enum issue_by by;
	/* of passed files: how many were refused, and the last error */
	unsigned int refused;
	int refusal;

	/* private */
	pthread_mutex_t lock;
	unsigned int nr;
	struct ring_node nodes[FILES_MAX];
};

/* Begin with no file looked up; @dir_fd is closed by files_exit() */
void files_init(struct files *files, int dir_fd);

/* Close all of them; no server may be using @files */
void files_exit(struct files *files);

/* The handle() of a server: answer a request; its priv is a struct files */
int files_handle(struct ring_req *req);

/*
 * The hooks of a server that passes files: reply() passes that of an open and
 * closes the backing id of a RELEASE, cqe() answers with the backing id,
 * refused() without a backing file. What is passed is a duplicate, so that it
 * can be closed as early as is allowed.
 */
#define FILES_HOOKS {				\
	.reply = files_reply,			\
	.cqe = files_cqe,			\
	.refused = files_refused,		\
}

bool files_reply(struct ring_req *req);
void files_cqe(struct ring_queue *queue, __u64 data, int res);
void files_refused(struct ring_req *req, int err);

/* The node of a file, looked up if it was not yet; NULL if there is none */
struct ring_node *files_node(struct files *files, const char *name);

#endif /* FILES_H */
