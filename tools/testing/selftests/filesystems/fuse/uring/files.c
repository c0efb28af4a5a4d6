// SPDX-License-Identifier: GPL-2.0
/*
 * The files of the ring server, see files.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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
	pthread_mutex_destroy(&files->lock);
}

static struct ring_node *add_node(struct files *files, const char *name, int flags,
				  mode_t mode)
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
	if (fd < 0 && errno == EISDIR)
		fd = openat(files->dir_fd, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		goto out;
	node = &files->nodes[files->nr++];
	/* what has no name is not found again */
	if (*name != '.')
		memcpy(node->name, name, strlen(name) + 1);
	node->nodeid = FUSE_ROOT_ID + files->nr;
	node->fd = fd;
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

static int fill_attr(struct files *files, const struct ring_node *node,
		     struct fuse_attr *attr)
{
	struct stat st;

	if (fstat(node ? node->fd : files->dir_fd, &st))
		return -errno;
	*attr = (struct fuse_attr) {
		.ino = node ? node->nodeid : FUSE_ROOT_ID,
		.size = st.st_size,
		.mtime = st.st_mtim.tv_sec,
		.mtimensec = st.st_mtim.tv_nsec,
		.mode = st.st_mode,
		.nlink = st.st_nlink,
		.uid = st.st_uid,
		.gid = st.st_gid,
	};
	return 0;
}

static int do_getattr(struct files *files, struct ring_req *req)
{
	struct fuse_attr_out *out = req->out;
	int err;

	*out = (struct fuse_attr_out) { .attr_valid = files->cache_secs };
	err = fill_attr(files, req->node, &out->attr);
	return err ? err : (int)sizeof(*out);
}

static int do_setattr(struct files *files, struct ring_req *req)
{
	const struct fuse_setattr_in *in = req->op;

	/* the rest is of no interest here */
	if (in->valid & FATTR_SIZE && ftruncate(req->node->fd, in->size))
		return -errno;
	return do_getattr(files, req);
}

static int do_lookup(struct files *files, struct ring_req *req, const char *name,
		     int flags, mode_t mode)
{
	struct fuse_entry_out *out = req->out;
	int err;

	/* an inode asks for itself to come back from a file handle */
	if (!strcmp(name, ".") && !flags)
		req->node = node_by_id(files, req->in.nodeid);
	else
		req->node = add_node(files, name, flags, mode & 07777);
	if (!req->node)
		return -errno;
	*out = (struct fuse_entry_out) {
		.nodeid = req->node->nodeid,
		.generation = 1,
		.entry_valid = files->cache_secs,
		.attr_valid = files->cache_secs,
	};
	err = fill_attr(files, req->node, &out->attr);
	return err ? err : (int)sizeof(*out);
}

static int do_open(struct ring_req *req, void *at, int len)
{
	struct fuse_open_out *out = at;
	int id = __atomic_load_n(&req->node->backing_id, __ATOMIC_SEQ_CST);

	*out = (struct fuse_open_out) {
		.fh = req->node->nodeid,
		.open_flags = id > 0 ? FOPEN_PASSTHROUGH : 0,
		.backing_id = id,
	};
	req->open = out;
	return len + sizeof(*out);
}

static int do_create(struct files *files, struct ring_req *req, const char *name,
		     int flags)
{
	const struct fuse_create_in *in = req->op;
	int len = do_lookup(files, req, name, flags, in->mode);

	return len < 0 ? len : do_open(req, (char *)req->out + len, len);
}

static int do_unlink(struct files *files, const char *name)
{
	struct ring_node *node = files_node(files, name);

	if (node)
		node->name[0] = 0;
	return unlinkat(files->dir_fd, name, 0) ? -errno : 0;
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
	const struct fuse_mknod_in *mknod = req->op;
	struct files *files = req->server->cfg.priv;

	switch (req->in.opcode) {
	case FUSE_LOOKUP:
		return do_lookup(files, req, req->data, 0, 0);
	case FUSE_MKNOD:
		return do_lookup(files, req, req->data, O_CREAT, mknod->mode);
	case FUSE_CREATE:
		return do_create(files, req, req->data, O_CREAT);
	case FUSE_TMPFILE:
		return do_create(files, req, ".", O_TMPFILE);
	case FUSE_UNLINK:
		return do_unlink(files, req->data);
	case FUSE_OPENDIR:
		memset(req->out, 0, sizeof(struct fuse_open_out));
		return sizeof(struct fuse_open_out);
	case FUSE_READDIR:
	case FUSE_RELEASEDIR:
	case FUSE_FLUSH:
		return 0;
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
		return do_open(req, req->out, 0);
	case FUSE_READ:
		return do_read(req);
	case FUSE_WRITE:
		return do_write(req);
	case FUSE_FSYNC:
		return fsync(req->node->fd) ? -errno : 0;
	case FUSE_RELEASE:
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}
