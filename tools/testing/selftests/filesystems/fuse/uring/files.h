/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The files of the ring server: every name in the root of the mount is the file
 * of that name in a backing directory.
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
	/* > 0: opens are answered with FOPEN_PASSTHROUGH and this id */
	int backing_id;
};

/* What the priv of the server points to, or begins with */
struct files {
	/* the backing directory */
	int dir_fd;
	/* seconds for which the kernel may keep names and attributes */
	unsigned int cache_secs;

	/* private */
	pthread_mutex_t lock;
	unsigned int nr;
	struct ring_node nodes[FILES_MAX];
};

/**
 * files_init() - begin with no file looked up
 * @files:	zeroed; to be filled in
 * @dir_fd:	the backing directory, is closed by files_exit()
 */
void files_init(struct files *files, int dir_fd);

/**
 * files_exit() - close all of them
 * @files:	as left by files_init(), not in use by a server
 */
void files_exit(struct files *files);

/**
 * files_handle() - answer a request
 * @req:	the priv of its server is a struct files
 *
 * Return: as for handle() of struct ring_server_cfg.
 */
int files_handle(struct ring_req *req);

/**
 * files_node() - the node of a file
 * @files:	as left by files_init()
 * @name:	in the backing directory
 *
 * Return: the node, looked up if it was not yet; NULL if there is no such file.
 */
struct ring_node *files_node(struct files *files, const char *name);

#endif /* FILES_H */
