// SPDX-License-Identifier: GPL-2.0
/*
 * The files of the ring server, see files.h.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"

void files_init(struct files *files, int dir_fd)
{
	files->dir_fd = dir_fd;
	pthread_mutex_init(&files->lock, NULL);
}

void files_exit(struct files *files)
{
	while (files->nr)
		close(files->nodes[--files->nr].fd);
	close(files->dir_fd);
}

static struct ring_node *add_node(struct files *files, const char *name,
				  int flags, mode_t mode)
{
	struct ring_node *node = NULL;
	unsigned int i;
	int fd;

	pthread_mutex_lock(&files->lock);
	for (i = 0; i < files->nr && !node; i++) {
		if (!strcmp(files->nodes[i].name, name))
			node = &files->nodes[i];
	}
	if (node)
		goto out;
	errno = ENOSPC;
	if (files->nr == FILES_MAX || strlen(name) > FILES_NAME_MAX)
		goto out;
	fd = openat(files->dir_fd, name, O_RDWR | O_CLOEXEC | flags, mode);
	if (fd < 0)
		goto out;
	node = &files->nodes[files->nr++];
	/* what has no name is not found again */
	if (*name != '.')
		memcpy(node->name, name, strlen(name) + 1);
	node->nodeid = FUSE_ROOT_ID + files->nr;
	node->fd = fd;
	node->pass_fd = fd;
out:
	pthread_mutex_unlock(&files->lock);
	return node;
}

struct ring_node *files_node(struct files *files, const char *name)
{
	return add_node(files, name, 0, 0);
}

static struct ring_node *node_by_id(struct files *files, __u64 nodeid)
{
	struct ring_node *node = NULL;

	pthread_mutex_lock(&files->lock);
	if (nodeid > FUSE_ROOT_ID && nodeid <= FUSE_ROOT_ID + files->nr)
		node = &files->nodes[nodeid - FUSE_ROOT_ID - 1];
	pthread_mutex_unlock(&files->lock);
	return node;
}

/* The functions below fill in @req->out and return its length or an errno */

static struct fuse_attr attr_of(struct files *files,
				const struct ring_node *node)
{
	struct stat st = { };

	fstat(node ? node->fd : files->dir_fd, &st);
	return (struct fuse_attr) {
		.ino = node ? node->nodeid : FUSE_ROOT_ID,
		.size = st.st_size,
		.mtime = st.st_mtim.tv_sec,
		.mtimensec = st.st_mtim.tv_nsec,
		.mode = st.st_mode,
		.nlink = st.st_nlink,
		.uid = st.st_uid,
		.gid = st.st_gid,
	};
}

static int do_getattr(struct files *files, struct ring_req *req)
{
	struct fuse_attr_out *out = req->out;

	*out = (struct fuse_attr_out) {
		.attr_valid = files->cache_secs,
		.attr = attr_of(files, req->node),
	};
	return sizeof(*out);
}

static int do_setattr(struct files *files, struct ring_req *req)
{
	const struct fuse_setattr_in *in = req->op;

	/* the rest is of no interest here */
	if (in->valid & FATTR_SIZE && ftruncate(req->node->fd, in->size))
		return -errno;
	return do_getattr(files, req);
}

static int do_lookup(struct files *files, struct ring_req *req,
		     const char *name, int flags, mode_t mode)
{
	struct fuse_entry_out *out = req->out;

	req->node = add_node(files, name, flags, mode & 07777);
	if (!req->node)
		return -errno;
	*out = (struct fuse_entry_out) {
		.nodeid = req->node->nodeid,
		.generation = 1,
		.entry_valid = files->cache_secs,
		.attr_valid = files->cache_secs,
		.attr = attr_of(files, req->node),
	};
	return sizeof(*out);
}

/* The answer follows @len bytes of another one */
static int do_open(struct ring_req *req, int len)
{
	req->open = req->out + len;
	memset(req->open, 0, sizeof(*req->open));
	return len + sizeof(*req->open);
}

static int do_create(struct files *files, struct ring_req *req,
		     const char *name, int flags)
{
	const struct fuse_create_in *in = req->op;
	int len = do_lookup(files, req, name, flags, in->mode);

	return len < 0 ? len : do_open(req, len);
}

static int do_read(struct ring_req *req)
{
	const struct fuse_read_in *in = req->op;
	ssize_t n = pread(req->node->fd, req->out, in->size, in->offset);

	return n < 0 ? -errno : n;
}

static int do_write(struct ring_req *req)
{
	const struct fuse_write_in *in = req->op;
	struct fuse_write_out *out = req->out;
	ssize_t n = pwrite(req->node->fd, req->data, in->size, in->offset);

	if (n < 0)
		return -errno;
	*out = (struct fuse_write_out) { .size = n };
	return sizeof(*out);
}

int files_handle(struct ring_req *req)
{
	struct files *files = req->server->cfg.priv;

	switch (req->in.opcode) {
	case FUSE_LOOKUP:
		return do_lookup(files, req, req->data, 0, 0);
	case FUSE_CREATE:
		return do_create(files, req, req->data, O_CREAT);
	case FUSE_TMPFILE:
		return do_create(files, req, ".", O_TMPFILE);
	}

	req->node = node_by_id(files, req->in.nodeid);
	if (req->in.opcode == FUSE_GETATTR)
		return do_getattr(files, req);
	if (!req->node)
		return -EOPNOTSUPP;
	switch (req->in.opcode) {
	case FUSE_SETATTR:
		return do_setattr(files, req);
	case FUSE_OPEN:
		return do_open(req, 0);
	case FUSE_READ:
		return do_read(req);
	case FUSE_WRITE:
		return do_write(req);
	case FUSE_RELEASE:
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

/* Counts an open that is to be answered. Returns whether it passes its file */
static bool count_open(struct files *files, struct ring_node *node)
{
	pthread_mutex_lock(&files->lock);
	if (!node->opens++)
		node->plain = !files->pass || node->pass_fd < 0;
	pthread_mutex_unlock(&files->lock);
	return files->pass && !node->plain && node->pass_fd >= 0;
}

/* The kernel has refused the file of an open: change the answer */
static void refuse(struct ring_req *req, int err)
{
	struct files *files = req->server->cfg.priv;
	struct ring_node *node = req->node;

	ring_req_no_file(req);
	pthread_mutex_lock(&files->lock);
	files->refused++;
	files->refusal = err;
	if (node->opens == 1) {
		node->plain = true;
	} else {
		node->opens--;
		req->len = -EIO;
	}
	pthread_mutex_unlock(&files->lock);
}

void files_refused(struct ring_req *req, int err)
{
	assert(req->fd >= 0);	/* or it is for ever */
	refuse(req, err);
	ring_req_commit(req);
}

/* With the backing id, or the error, of the file that req->fd is */
static void answer_with_id(struct ring_req *req, int id)
{
	if (id < 0) {
		refuse(req, id);
		return;
	}
	ring_req_no_file(req);
	req->open->open_flags |= FOPEN_PASSTHROUGH;
	req->open->backing_id = id;
	req->open->fh = id;
}

void files_cqe(struct ring_queue *queue, __u64 data, int res)
{
	struct ring_req *req = (void *)(uintptr_t)data;

	if (req && req->queue == queue) {
		answer_with_id(req, res);
		ring_req_commit(req);
	}
}

static void release(struct files *files, struct ring_req *req)
{
	const struct fuse_release_in *in = req->op;
	struct io_uring_sqe *sqe;
	__u32 id = in->fh;

	pthread_mutex_lock(&files->lock);
	req->node->opens--;
	pthread_mutex_unlock(&files->lock);
	if (id && files->by == BY_IOCTL) {
		ioctl(req->server->dev_fd, FUSE_DEV_IOC_BACKING_CLOSE, &id);
	} else if (id) {
		sqe = ring_queue_cmd(req->queue,
				     FUSE_IO_URING_CMD_BACKING_CLOSE, 0);
		fuse_cmd_req(sqe)->backing.id = id;
	}
}

bool files_reply(struct ring_req *req)
{
	struct files *files = req->server->cfg.priv;
	struct fuse_backing_map map = { };
	struct io_uring_sqe *sqe;
	int id;

	if (req->in.opcode == FUSE_RELEASE)
		release(files, req);
	if (!req->open || req->len < 0 || !count_open(files, req->node))
		return true;

	req->fd = fcntl(req->node->pass_fd, F_DUPFD_CLOEXEC, 0);
	req->close_fd = true;
	map.fd = req->fd;
	switch (files->by) {
	case BY_IOCTL:
		id = ioctl(req->server->dev_fd, FUSE_DEV_IOC_BACKING_OPEN,
			   &map);
		answer_with_id(req, id < 0 ? -errno : id);
		return true;
	case BY_COMMAND:
		sqe = ring_queue_cmd(req->queue, FUSE_IO_URING_CMD_BACKING_OPEN,
				     (uintptr_t)req);
		fuse_cmd_req(sqe)->backing.map = map;
		return false;
	default:
		return true;
	}
}
