// SPDX-License-Identifier: GPL-2.0
/*
 * A small FUSE server over io_uring for tests, see ring_server.h.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ring_server.h"

#define DEFAULT_DEPTH	2
/* of a payload, and for the headers of a request */
#define ALIGN_SZ	4096
#define DEV_BUF_SZ	(RING_SERVER_MAX_IO + ALIGN_SZ)
#define ENABLE_URING	"/sys/module/fuse/parameters/enable_uring"
#define FUSECTL		"/sys/fs/fuse/connections"
/* FUSE_CTL_SUPER_MAGIC of fs/fuse/control.c */
#define FUSECTL_MAGIC	0x65735543

/*
 * What the user_data of a CQE is about, in the low bits of the address of a
 * ring entry: its next request, the registration that its reply is linked to,
 * or, without an entry, a command of ring_queue_cmd() or ring_queue_close_id().
 */
#define UD_REQUEST	0
#define UD_LINK		1
#define UD_CMD		2
#define UD_CLOSE	3
#define UD_MASK		3ULL

struct ring_ent {
	struct ring_queue *queue;
	struct fuse_uring_req_header *hdr;
	void *payload;
	struct iovec iov[2];

	/* of the request in it, in case a linked reply has to be made again */
	struct ring_req req;
	struct ring_node *node;
	struct fuse_open_out *open;
	int ret;
};

/* A CQE that waits for the thread of the queue */
struct ring_event {
	struct ring_ent *ent;
	/* why the linked registration failed, or 0 for a request */
	int err;
};

struct ring_queue {
	struct ring_server *server;
	unsigned int qid;
	pthread_t thread;
	bool started;
	struct io_uring ring;
	struct ring_ent ents[RING_SERVER_MAX_DEPTH];
	/* entries the kernel has not given back with an error */
	unsigned int live;
	/* ring_queue_exit() was called */
	bool exit;
	/* what the CQEs taken so far were about; each entry has one at most */
	struct ring_event events[RING_SERVER_MAX_DEPTH];
	unsigned int nr_events;
	struct ring_server_stats stats;
};

struct ring_server {
	struct ring_server_cfg cfg;
	char *mnt;
	bool mounted;
	dev_t dev;
	int dev_fd;
	int dir_fd;
	pthread_t dev_thread;
	bool dev_thread_started;

	/* protects what follows */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct ring_node nodes[RING_SERVER_MAX_NODES];
	unsigned int nr_nodes;
	/* INIT was answered, or the server failed before */
	bool init_done;
	int init_err;
	/* queues whose entries are registered, or that failed to */
	unsigned int queues_up;

	/* settled when INIT is answered */
	unsigned int nr_queues;
	struct ring_queue *queues;
	unsigned long count[RING_SERVER_MAX_OPCODE];
};

int ring_server_enable_uring(bool on, bool *was)
{
	int fd, err = 0;
	char c;

	/* a module is loaded when its device is opened */
	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	close(fd);

	fd = open(ENABLE_URING, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (read(fd, &c, 1) != 1)
		err = -EIO;
	else if (pwrite(fd, on ? "Y" : "N", 1, 0) != 1)
		err = -errno;
	close(fd);
	if (!err && was)
		*was = c == 'Y';
	return err;
}

static unsigned int possible_cpus(void)
{
	unsigned int first = 0, last = 0;
	char buf[64] = "";
	FILE *f;

	/* "0-3"; the kernel has a queue for each, without gaps */
	f = fopen("/sys/devices/system/cpu/possible", "r");
	if (f) {
		if (fgets(buf, sizeof(buf), f) &&
		    sscanf(buf, "%u-%u", &first, &last) == 2) {
			fclose(f);
			return last - first + 1;
		}
		fclose(f);
	}
	return 1;
}

static int do_mount(const char *mnt, int dev_fd)
{
	char opts[128];

	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other",
		 dev_fd);
	if (mount("ring_server", mnt, "fuse", MS_NODEV, opts))
		return -errno;
	return 0;
}

int ring_server_init_flags(__u64 *flags, __u32 *minor)
{
	char mnt[] = "/tmp/ring_server.XXXXXX";
	struct {
		struct fuse_in_header in;
		struct fuse_init_in init;
		/* the kernel wants room for any request */
		char more[FUSE_MIN_READ_BUFFER];
	} buf;
	ssize_t n;
	int fd, err;

	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (!mkdtemp(mnt)) {
		err = -errno;
		goto out_close;
	}
	err = do_mount(mnt, fd);
	if (err)
		goto out_rmdir;

	n = read(fd, &buf, sizeof(buf));
	if (n < 0)
		err = -errno;
	else if ((size_t)n < offsetof(typeof(buf), more) ||
		 buf.in.opcode != FUSE_INIT)
		err = -EPROTO;
	else
		*flags = buf.init.flags | (__u64)buf.init.flags2 << 32;
	if (!err && minor)
		*minor = buf.init.minor;
	umount2(mnt, MNT_DETACH);
out_rmdir:
	rmdir(mnt);
out_close:
	close(fd);
	return err;
}

/* The file of that name, looked up in the backing directory if it is new */
static struct ring_node *get_node(struct ring_server *s, const char *name,
				  int create_flags, mode_t mode, int *err)
{
	struct ring_node *node;
	unsigned int i;
	int fd;

	*err = 0;
	if (strnlen(name, RING_SERVER_NAME_MAX + 1) > RING_SERVER_NAME_MAX) {
		*err = -ENAMETOOLONG;
		return NULL;
	}

	pthread_mutex_lock(&s->lock);
	for (i = 0; i < s->nr_nodes; i++) {
		node = &s->nodes[i];
		if (!strcmp(node->name, name))
			goto out;
	}
	node = NULL;
	fd = openat(s->dir_fd, name, O_RDWR | O_CLOEXEC | create_flags, mode);
	if (fd < 0) {
		*err = -errno;
		goto out;
	}
	if (s->nr_nodes == RING_SERVER_MAX_NODES) {
		close(fd);
		*err = -ENOSPC;
		goto out;
	}
	node = &s->nodes[s->nr_nodes++];
	memcpy(node->name, name, strlen(name) + 1);
	node->nodeid = FUSE_ROOT_ID + s->nr_nodes;
	node->fd = fd;
out:
	pthread_mutex_unlock(&s->lock);
	return node;
}

static struct ring_node *node_by_id(struct ring_server *s, __u64 nodeid)
{
	struct ring_node *node = NULL;

	pthread_mutex_lock(&s->lock);
	if (nodeid > FUSE_ROOT_ID && nodeid <= FUSE_ROOT_ID + s->nr_nodes)
		node = &s->nodes[nodeid - FUSE_ROOT_ID - 1];
	pthread_mutex_unlock(&s->lock);
	return node;
}

static int fill_attr(struct ring_server *s, const struct ring_node *node,
		     struct fuse_attr *attr)
{
	struct stat st;

	if (fstat(node ? node->fd : s->dir_fd, &st))
		return -errno;

	memset(attr, 0, sizeof(*attr));
	attr->ino = node ? node->nodeid : FUSE_ROOT_ID;
	attr->size = st.st_size;
	attr->blocks = st.st_blocks;
	attr->atime = st.st_atim.tv_sec;
	attr->atimensec = st.st_atim.tv_nsec;
	attr->mtime = st.st_mtim.tv_sec;
	attr->mtimensec = st.st_mtim.tv_nsec;
	attr->ctime = st.st_ctim.tv_sec;
	attr->ctimensec = st.st_ctim.tv_nsec;
	attr->mode = st.st_mode;
	attr->nlink = st.st_nlink;
	attr->uid = st.st_uid;
	attr->gid = st.st_gid;
	attr->blksize = st.st_blksize;
	return 0;
}

/* The handlers below fill in req->out and return its length or an errno */

static int do_init(struct ring_req *req)
{
	const struct fuse_init_in *in = req->op;
	struct fuse_init_out *out = req->out;
	struct ring_server *s = req->server;
	__u64 flags = s->cfg.init_flags | FUSE_INIT_EXT | FUSE_MAX_PAGES;
	long max_pages = RING_SERVER_MAX_IO / sysconf(_SC_PAGESIZE);

	if (!((__u64)in->flags2 << 32 & FUSE_OVER_IO_URING) || s->cfg.no_queues)
		s->nr_queues = 0;

	memset(out, 0, sizeof(*out));
	out->major = FUSE_KERNEL_VERSION;
	out->minor = FUSE_KERNEL_MINOR_VERSION;
	out->max_readahead = in->max_readahead;
	out->flags = flags;
	out->flags2 = flags >> 32;
	out->max_background = 64;
	out->congestion_threshold = 48;
	out->max_write = RING_SERVER_MAX_IO;
	/* the payload of a ring entry has to hold as many */
	out->max_pages = max_pages ? max_pages : 1;
	out->max_stack_depth = s->cfg.max_stack_depth;
	return sizeof(*out);
}

static int do_lookup(struct ring_req *req, struct ring_node *node)
{
	struct fuse_entry_out *out = req->out;
	int err;

	memset(out, 0, sizeof(*out));
	err = fill_attr(req->server, node, &out->attr);
	out->nodeid = node->nodeid;
	out->generation = 1;
	out->entry_valid = req->server->cfg.cache_secs;
	out->attr_valid = req->server->cfg.cache_secs;
	return err ? err : (int)sizeof(*out);
}

static int do_getattr(struct ring_req *req, struct ring_node *node)
{
	struct fuse_attr_out *out = req->out;
	int err;

	memset(out, 0, sizeof(*out));
	err = fill_attr(req->server, node, &out->attr);
	out->attr_valid = req->server->cfg.cache_secs;
	return err ? err : (int)sizeof(*out);
}

static int do_setattr(struct ring_req *req, struct ring_node *node)
{
	const struct fuse_setattr_in *in = req->op;
	mode_t mode = in->mode;
	__u64 size = in->size;

	/* times and owners are of no interest here */
	if ((in->valid & FATTR_MODE) && fchmod(node->fd, mode & 07777))
		return -errno;
	if ((in->valid & FATTR_SIZE) && ftruncate(node->fd, size))
		return -errno;
	return do_getattr(req, node);
}

static int fill_open(struct ring_req *req, struct ring_node *node,
		     struct fuse_open_out *out)
{
	struct ring_server *s = req->server;
	int id = __atomic_load_n(&node->backing_id, __ATOMIC_SEQ_CST);
	int err = 0;

	if (req->ent) {
		req->ent->node = node;
		req->ent->open = out;
	}
	memset(out, 0, sizeof(*out));
	out->fh = node->nodeid;
	if (id > 0) {
		out->open_flags = FOPEN_PASSTHROUGH;
		out->backing_id = id;
	}
	if (s->cfg.open)
		err = s->cfg.open(req, node, out);
	if (!err)
		__atomic_add_fetch(&node->opens, 1, __ATOMIC_SEQ_CST);
	return err;
}

static int do_open(struct ring_req *req, struct ring_node *node)
{
	struct fuse_open_out *out = req->out;
	int err = fill_open(req, node, out);

	return err ? err : (int)sizeof(*out);
}

static int do_create(struct ring_req *req)
{
	const struct fuse_create_in *in = req->op;
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} *out = req->out;
	struct ring_node *node;
	int err;

	node = get_node(req->server, req->data, O_CREAT, in->mode & 07777,
			&err);
	if (!node)
		return err;
	err = do_lookup(req, node);
	if (err < 0)
		return err;
	err = fill_open(req, node, &out->open);
	return err ? err : (int)sizeof(*out);
}

static int do_read(struct ring_req *req, struct ring_node *node)
{
	const struct fuse_read_in *in = req->op;
	ssize_t n = pread(node->fd, req->out, in->size, in->offset);

	return n < 0 ? -errno : n;
}

static int do_write(struct ring_req *req, struct ring_node *node)
{
	const struct fuse_write_in *in = req->op;
	struct fuse_write_out *out = req->out;
	ssize_t n = pwrite(node->fd, req->data, in->size, in->offset);

	if (n < 0)
		return -errno;
	memset(out, 0, sizeof(*out));
	out->size = n;
	return sizeof(*out);
}

static int do_release(struct ring_req *req, struct ring_node *node)
{
	struct ring_server *s = req->server;

	__atomic_sub_fetch(&node->opens, 1, __ATOMIC_SEQ_CST);
	if (s->cfg.release)
		s->cfg.release(req, node);
	return 0;
}

static int do_statfs(struct ring_req *req)
{
	struct fuse_statfs_out *out = req->out;
	struct statfs st;

	if (fstatfs(req->server->dir_fd, &st))
		return -errno;
	memset(out, 0, sizeof(*out));
	out->st.blocks = st.f_blocks;
	out->st.bfree = st.f_bfree;
	out->st.bavail = st.f_bavail;
	out->st.files = st.f_files;
	out->st.ffree = st.f_ffree;
	out->st.bsize = st.f_bsize;
	out->st.namelen = RING_SERVER_NAME_MAX;
	out->st.frsize = st.f_bsize;
	return sizeof(*out);
}

/* The length of the answer, or a negative errno to answer with */
static int handle(struct ring_req *req)
{
	struct ring_server *s = req->server;
	struct ring_node *node;
	__u32 op = req->in.opcode;
	int err;

	if (op < RING_SERVER_MAX_OPCODE)
		__atomic_add_fetch(&s->count[op], 1, __ATOMIC_SEQ_CST);

	switch (op) {
	case FUSE_INIT:
		return do_init(req);
	case FUSE_LOOKUP:
		node = get_node(s, req->data, 0, 0, &err);
		return node ? do_lookup(req, node) : err;
	case FUSE_CREATE:
		return do_create(req);
	case FUSE_STATFS:
		return do_statfs(req);
	case FUSE_OPENDIR:
		memset(req->out, 0, sizeof(struct fuse_open_out));
		return sizeof(struct fuse_open_out);
	case FUSE_ACCESS:
	case FUSE_READDIR:
	case FUSE_RELEASEDIR:
		return 0;
	case FUSE_UNLINK:
		return unlinkat(s->dir_fd, req->data, 0) ? -errno : 0;
	case FUSE_GETATTR:
		if (req->in.nodeid == FUSE_ROOT_ID)
			return do_getattr(req, NULL);
		break;
	}

	node = node_by_id(s, req->in.nodeid);
	if (!node)
		return -EOPNOTSUPP;

	switch (op) {
	case FUSE_GETATTR:
		return do_getattr(req, node);
	case FUSE_SETATTR:
		return do_setattr(req, node);
	case FUSE_OPEN:
		return do_open(req, node);
	case FUSE_READ:
		return do_read(req, node);
	case FUSE_WRITE:
		return do_write(req, node);
	case FUSE_FLUSH:
		return 0;
	case FUSE_FSYNC:
		return fsync(node->fd) ? -errno : 0;
	case FUSE_RELEASE:
		return do_release(req, node);
	default:
		return -EOPNOTSUPP;
	}
}

/* The device, as an SQE of the queue has it together with dev_flags() */
static int dev_fd(const struct ring_queue *q)
{
	return q->server->cfg.fixed ? 0 : q->server->dev_fd;
}

static unsigned int dev_flags(const struct ring_queue *q)
{
	return q->server->cfg.fixed ? IOSQE_FIXED_FILE : 0;
}

/* SQEs of 128 bytes take two places of a mixed ring */
static unsigned int places(unsigned int ring_flags)
{
#ifdef IORING_SETUP_SQE_MIXED
	return ring_flags & IORING_SETUP_SQE_MIXED ? 2 : 1;
#else
	(void)ring_flags;
	return 1;
#endif
}

static struct io_uring_sqe *get_sqe(struct ring_queue *q)
{
	struct io_uring_sqe *sqe;

#ifdef IORING_SETUP_SQE_MIXED
	sqe = io_uring_get_sqe128(&q->ring);
#else
	sqe = io_uring_get_sqe(&q->ring);
#endif
	/* the rings are sized for all that can be queued at once */
	if (!sqe)
		abort();
	return sqe;
}

/* What the SQEs of a queue have in common, after backing_cmd_prep() */
static void set_cmd(struct ring_queue *q, struct io_uring_sqe *sqe,
		    unsigned int flags, __u64 user_data)
{
#ifdef IORING_SETUP_SQE_MIXED
	if (places(q->ring.flags) == 2)
		sqe->opcode = IORING_OP_URING_CMD128;
#endif
	sqe->flags = flags | dev_flags(q);
	io_uring_sqe_set_data64(sqe, user_data);
}

/* Read by other threads */
static void count(unsigned long *counter, unsigned long n)
{
	__atomic_add_fetch(counter, n, __ATOMIC_SEQ_CST);
}

static void queue_register(struct ring_ent *ent)
{
	struct ring_queue *q = ent->queue;
	struct io_uring_sqe *sqe = get_sqe(q);
	struct fuse_uring_cmd_req *cmd;

	cmd = backing_cmd_prep(sqe, dev_fd(q), FUSE_IO_URING_CMD_REGISTER);
	cmd->qid = q->qid;
	sqe->addr = (uintptr_t)ent->iov;
	sqe->len = 2;
	set_cmd(q, sqe, 0, (uintptr_t)ent | UD_REQUEST);
}

/* All of a link has to be submitted at once: what comes later is not in it */
static void queue_room(struct ring_queue *q, unsigned int sqes)
{
	while (io_uring_sq_space_left(&q->ring) < sqes * places(q->ring.flags)) {
		count(&q->stats.enters, 1);
		io_uring_submit(&q->ring);
		/* returns at once if there is no SQPOLL thread to wait for */
		io_uring_sqring_wait(&q->ring);
	}
}

static void set_link(struct ring_ent *ent, struct io_uring_sqe *sqe)
{
	const struct ring_server_cfg *cfg = &ent->queue->server->cfg;
	unsigned int flags = cfg->link_flags;

	if (!(flags & IOSQE_IO_HARDLINK))
		flags |= IOSQE_IO_LINK;
	if (!cfg->link_no_skip)
		flags |= IOSQE_CQE_SKIP_SUCCESS;
	set_cmd(ent->queue, sqe, flags, (uintptr_t)ent | UD_LINK);
}

static void queue_commit(struct ring_ent *ent)
{
	struct ring_queue *q = ent->queue;
	struct fuse_uring_cmd_req *cmd;
	struct io_uring_sqe *sqe;

	if (ent->ret > 0 && ent->req.link_fd >= 0) {
		queue_room(q, ent->req.link_close_id > 0 ? 3 : 2);
		if (ent->req.link_close_id > 0) {
			sqe = get_sqe(q);
			backing_cmd_prep_close(sqe, dev_fd(q),
					       ent->req.link_close_id);
			set_link(ent, sqe);
		}
		sqe = get_sqe(q);
		backing_cmd_prep_open_id(sqe, dev_fd(q), ent->req.link_fd,
					 ent->open->backing_id);
		set_link(ent, sqe);
	} else {
		queue_room(q, 1);
	}

	sqe = get_sqe(q);
	cmd = backing_cmd_prep(sqe, dev_fd(q),
			       FUSE_IO_URING_CMD_COMMIT_AND_FETCH);
	cmd->qid = q->qid;
	cmd->commit_id = ent->hdr->ring_ent_in_out.commit_id;
	set_cmd(q, sqe, q->server->cfg.commit_flags,
		(uintptr_t)ent | UD_REQUEST);
}

static void reply(struct ring_ent *ent)
{
	struct fuse_out_header *oh = (void *)ent->hdr->in_out;
	int ret = ent->ret;

	oh->unique = ent->req.in.unique;
	oh->error = ret < 0 ? ret : 0;
	oh->len = sizeof(*oh) + (ret > 0 ? ret : 0);
	ent->hdr->ring_ent_in_out.payload_sz = ret > 0 ? ret : 0;
	queue_commit(ent);
}

static void serve_event(const struct ring_event *event)
{
	struct ring_ent *ent = event->ent;
	struct ring_server *s = ent->queue->server;
	int err;

	if (!event->err) {
		ent->req = (struct ring_req){
			.server = s,
			.queue = ent->queue,
			.ent = ent,
			.op = ent->hdr->op_in,
			.data = ent->payload,
			.data_len = ent->hdr->ring_ent_in_out.payload_sz,
			.out = ent->payload,
			.link_fd = -1,
		};
		memcpy(&ent->req.in, ent->hdr->in_out, sizeof(ent->req.in));
		ent->ret = handle(&ent->req);
	} else {
		/* the length of the reply stays: same request, same kind */
		err = event->err;
		if (s->cfg.link_failed)
			err = s->cfg.link_failed(&ent->req, ent->node,
						 ent->open, err);
		if (err) {
			__atomic_sub_fetch(&ent->node->opens, 1,
					   __ATOMIC_SEQ_CST);
			ent->ret = err;
		}
	}
	reply(ent);
}

/* Returns true if the CQE was that of a command, with its result in @res */
static bool take_cqe(struct ring_queue *q, struct io_uring_cqe *cqe, int *res)
{
	__u64 ud = io_uring_cqe_get_data64(cqe);
	struct ring_ent *ent = (void *)(uintptr_t)(ud & ~UD_MASK);
	int err = cqe->res;

	count(&q->stats.cqes, 1);
	io_uring_cqe_seen(&q->ring, cqe);

	switch (ud & UD_MASK) {
	case UD_CMD:
		*res = err;
		return true;
	case UD_CLOSE:
		count(&q->stats.closes_failed, err < 0);
		return false;
	case UD_LINK:
		if (err >= 0)
			return false;
		/*
		 * An open behind a close that failed and has told so. That may
		 * have been a while ago, and the request is another one by now
		 */
		if (err == -ECANCELED && q->server->cfg.link_no_skip)
			return false;
		count(&q->stats.links_failed, 1);
		/* a hard link goes on: the reply is on its way */
		if (q->server->cfg.link_flags & IOSQE_IO_HARDLINK)
			return false;
		break;
	default:
		if (err == -ECANCELED && q->server->cfg.link_no_skip) {
			count(&q->stats.commits_canceled, 1);
			return false;
		}
		if (err) {
			/* the connection is gone, and the entry with it */
			q->live--;
			return false;
		}
	}

	q->events[q->nr_events].ent = ent;
	q->events[q->nr_events++].err = err;
	return false;
}

static int submit_and_wait(struct ring_queue *q)
{
	int ret;

	count(&q->stats.enters, 1);
	__atomic_store_n(&q->stats.idle, 1, __ATOMIC_SEQ_CST);
	ret = io_uring_submit_and_wait(&q->ring, 1);
	__atomic_store_n(&q->stats.idle, 0, __ATOMIC_SEQ_CST);
	if (io_uring_cq_ready(&q->ring) > q->stats.cqes_max)
		q->stats.cqes_max = io_uring_cq_ready(&q->ring);
	if (io_uring_cq_has_overflow(&q->ring))
		count(&q->stats.overflows, 1);
	return ret == -EINTR ? 0 : ret;
}

int ring_queue_cmd(struct ring_queue *q,
		   void (*prep)(struct io_uring_sqe *sqe, int dev_fd,
				void *arg),
		   void *arg)
{
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	int ret, res;

	queue_room(q, 1);
	sqe = get_sqe(q);
	prep(sqe, dev_fd(q), arg);
	set_cmd(q, sqe, sqe->flags, UD_CMD);
	do {
		ret = submit_and_wait(q);
		if (ret < 0)
			return ret;
		while (!io_uring_peek_cqe(&q->ring, &cqe)) {
			if (take_cqe(q, cqe, &res))
				return res;
		}
	} while (1);
}

void ring_queue_close_id(struct ring_queue *q, int id)
{
	struct io_uring_sqe *sqe;

	queue_room(q, 1);
	sqe = get_sqe(q);
	backing_cmd_prep_close(sqe, dev_fd(q), id);
	set_cmd(q, sqe, IOSQE_CQE_SKIP_SUCCESS, UD_CLOSE);
}

void ring_queue_exit(struct ring_queue *q)
{
	q->exit = true;
}

static int queue_init(struct ring_queue *q)
{
	struct ring_server *s = q->server;
	struct io_uring_params p = { .flags = s->cfg.ring_flags };
	/* a close, an open and a commit for each entry, and a command */
	unsigned int entries = 3 * s->cfg.depth + 1;
	struct io_uring_cqe *cqe;
	unsigned int i, head;
	int err;

	if (places(p.flags) == 1)
		p.flags |= IORING_SETUP_SQE128;
	if (s->cfg.sq_entries)
		entries = s->cfg.sq_entries;
	entries *= places(p.flags);
	if (s->cfg.cq_entries) {
		p.flags |= IORING_SETUP_CQSIZE;
		p.cq_entries = s->cfg.cq_entries;
	}

	for (i = 0; i < s->cfg.depth; i++) {
		struct ring_ent *ent = &q->ents[i];

		ent->queue = q;
		ent->hdr = calloc(1, sizeof(*ent->hdr));
		ent->payload = aligned_alloc(ALIGN_SZ, RING_SERVER_MAX_IO);
		if (!ent->hdr || !ent->payload)
			return -ENOMEM;
		ent->iov[0].iov_base = ent->hdr;
		ent->iov[0].iov_len = sizeof(*ent->hdr);
		ent->iov[1].iov_base = ent->payload;
		ent->iov[1].iov_len = RING_SERVER_MAX_IO;
	}

	err = io_uring_queue_init_params(entries, &q->ring, &p);
	if (err)
		return err;
	/* a child that has the ring mapped would keep its files, the device */
	io_uring_ring_dontfork(&q->ring);
	if (s->cfg.fixed) {
		err = io_uring_register_ring_fd(&q->ring);
		if (err == 1)
			err = io_uring_register_files(&q->ring, &s->dev_fd, 1);
		if (err)
			goto fail;
	}

	for (i = 0; i < s->cfg.depth; i++)
		queue_register(&q->ents[i]);
	err = io_uring_submit(&q->ring);
	if (err < 0)
		goto fail;
	/* an SQPOLL thread posts the CQEs before it gives the SQEs back */
	while (p.flags & IORING_SETUP_SQPOLL && io_uring_sq_ready(&q->ring))
		sched_yield();
	err = io_uring_sq_ready(&q->ring) ? -EIO : 0;
	/* an entry that is registered has no CQE, or that of a request */
	io_uring_for_each_cqe(&q->ring, head, cqe) {
		if (cqe->res < 0)
			err = cqe->res;
	}
	if (err)
		goto fail;
	q->live = s->cfg.depth;
	return 0;

fail:
	io_uring_queue_exit(&q->ring);
	return err;
}

static void queue_up(struct ring_server *s, int err)
{
	pthread_mutex_lock(&s->lock);
	s->queues_up++;
	if (err && !s->init_err)
		s->init_err = err;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

static void *queue_thread(void *arg)
{
	struct ring_queue *q = arg;
	struct io_uring_cqe *cqe;
	int err, res;

	err = queue_init(q);
	queue_up(q->server, err);
	if (err)
		return NULL;

	while (q->live && !q->exit) {
		if (!q->nr_events && submit_and_wait(q) < 0)
			break;
		while (!io_uring_peek_cqe(&q->ring, &cqe))
			take_cqe(q, cqe, &res);
		/* a hook that runs a command adds to them meanwhile */
		while (q->nr_events) {
			struct ring_event event = q->events[--q->nr_events];

			serve_event(&event);
		}
	}

	if (q->exit)
		io_uring_submit(&q->ring);
	io_uring_queue_exit(&q->ring);
	return NULL;
}

/* The bytes of the operation's header; what follows is req->data */
static size_t op_size(__u32 opcode)
{
	switch (opcode) {
	case FUSE_INIT:
		return sizeof(struct fuse_init_in);
	case FUSE_GETATTR:
		return sizeof(struct fuse_getattr_in);
	case FUSE_SETATTR:
		return sizeof(struct fuse_setattr_in);
	case FUSE_OPEN:
		return sizeof(struct fuse_open_in);
	case FUSE_CREATE:
		return sizeof(struct fuse_create_in);
	case FUSE_READ:
		return sizeof(struct fuse_read_in);
	case FUSE_WRITE:
		return sizeof(struct fuse_write_in);
	default:
		return 0;
	}
}

static void start_queues(struct ring_server *s)
{
	unsigned int i;

	for (i = 0; i < s->nr_queues; i++) {
		struct ring_queue *q = &s->queues[i];

		q->server = s;
		q->qid = i;
		if (pthread_create(&q->thread, NULL, queue_thread, q))
			queue_up(s, -EAGAIN);
		else
			q->started = true;
	}
}

static void *dev_thread(void *arg)
{
	struct ring_server *s = arg;
	char *buf = malloc(DEV_BUF_SZ);
	char *out = malloc(DEV_BUF_SZ);

	while (buf && out) {
		struct fuse_in_header *ih = (void *)buf;
		struct fuse_out_header oh = { 0 };
		struct ring_req req = {
			.server = s,
			.out = out,
			.link_fd = -1,
		};
		struct iovec iov[2] = { { &oh, sizeof(oh) }, { out, 0 } };
		ssize_t n = read(s->dev_fd, buf, DEV_BUF_SZ);
		int ret;

		if (n < 0 && (errno == EINTR || errno == ENOENT))
			continue;
		/* unmounted or aborted */
		if (n < (ssize_t)sizeof(*ih))
			break;

		/* these have no answer */
		if (ih->opcode == FUSE_FORGET ||
		    ih->opcode == FUSE_BATCH_FORGET ||
		    ih->opcode == FUSE_INTERRUPT)
			continue;

		req.in = *ih;
		req.op = ih + 1;
		req.data = (char *)req.op + op_size(ih->opcode);
		req.data_len = buf + n - (char *)req.data;
		ret = handle(&req);
		oh.unique = ih->unique;
		oh.error = ret < 0 ? ret : 0;
		iov[1].iov_len = ret > 0 ? ret : 0;
		oh.len = sizeof(oh) + iov[1].iov_len;
		/* fails if the connection died meanwhile: see read() */
		n = writev(s->dev_fd, iov, 2);

		if (ih->opcode == FUSE_INIT) {
			pthread_mutex_lock(&s->lock);
			s->init_done = true;
			if (n < 0)
				s->init_err = -errno;
			pthread_cond_broadcast(&s->cond);
			pthread_mutex_unlock(&s->lock);
			if (n > 0)
				start_queues(s);
		}
	}

	pthread_mutex_lock(&s->lock);
	if (!s->init_done)
		s->init_err = -ENOTCONN;
	s->init_done = true;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
	free(buf);
	free(out);
	return NULL;
}

int ring_server_start(struct ring_server **server, const char *mnt, int dir_fd,
		      const struct ring_server_cfg *cfg)
{
	struct ring_server *s;
	struct statx stx;
	int err;

	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->cfg = *cfg;
	if (!s->cfg.depth)
		s->cfg.depth = DEFAULT_DEPTH;
	s->dir_fd = dir_fd;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->cond, NULL);

	err = -EINVAL;
	s->dev_fd = -1;
	if (s->cfg.depth > RING_SERVER_MAX_DEPTH)
		goto fail;

	err = -ENOMEM;
	s->mnt = strdup(mnt);
	if (!s->mnt)
		goto fail;
	if (s->cfg.init_flags & FUSE_OVER_IO_URING) {
		s->nr_queues = possible_cpus();
		s->queues = calloc(s->nr_queues, sizeof(*s->queues));
		if (!s->queues)
			goto fail;
	}

	s->dev_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (s->dev_fd < 0) {
		err = -errno;
		goto fail;
	}
	err = do_mount(mnt, s->dev_fd);
	if (err)
		goto fail;
	s->mounted = true;
	/* asks the server for nothing, which does not answer yet */
	if (statx(AT_FDCWD, mnt, AT_STATX_DONT_SYNC, 0, &stx)) {
		err = -errno;
		goto fail;
	}
	s->dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);

	if (!s->cfg.no_init) {
		err = -pthread_create(&s->dev_thread, NULL, dev_thread, s);
		if (err)
			goto fail;
		s->dev_thread_started = true;

		pthread_mutex_lock(&s->lock);
		while (!s->init_done ||
		       (!s->init_err && s->queues_up < s->nr_queues))
			pthread_cond_wait(&s->cond, &s->lock);
		err = s->init_err;
		pthread_mutex_unlock(&s->lock);
		if (err)
			goto fail;
	}

	*server = s;
	return 0;

fail:
	ring_server_stop(s);
	return err;
}

int ring_server_umount(struct ring_server *s)
{
	if (umount2(s->mnt, 0))
		return -errno;
	s->mounted = false;
	return 0;
}

int ring_server_fusectl(void)
{
	struct statfs st;

	if (statfs(FUSECTL, &st))
		return -errno;
	if (st.f_type == FUSECTL_MAGIC)
		return 0;
	return mount("fusectl", FUSECTL, "fusectl", 0, NULL) ? -errno : 0;
}

int ring_server_abort(struct ring_server *s)
{
	char path[64];
	int fd, err;

	err = ring_server_fusectl();
	if (err)
		return err;
	snprintf(path, sizeof(path), FUSECTL "/%u/abort", minor(s->dev));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, "1", 1) != 1)
		err = -errno;
	close(fd);
	return err;
}

int ring_server_stop(struct ring_server *s)
{
	unsigned int i, j;
	int err = 0;

	if (!s)
		return 0;

	if (s->mounted) {
		err = ring_server_umount(s);
		if (err == -EINVAL) {
			/* the test itself did */
			err = 0;
		} else if (err) {
			ring_server_abort(s);
			umount2(s->mnt, MNT_DETACH);
		}
	}
	if (s->dev_thread_started)
		pthread_join(s->dev_thread, NULL);
	for (i = 0; i < s->nr_queues && s->queues; i++) {
		struct ring_queue *q = &s->queues[i];

		if (q->started)
			pthread_join(q->thread, NULL);
		for (j = 0; j < s->cfg.depth; j++) {
			free(q->ents[j].hdr);
			free(q->ents[j].payload);
		}
	}
	for (i = 0; i < s->nr_nodes; i++)
		close(s->nodes[i].fd);
	if (s->dev_fd >= 0)
		close(s->dev_fd);
	pthread_cond_destroy(&s->cond);
	pthread_mutex_destroy(&s->lock);
	free(s->queues);
	free(s->mnt);
	free(s);
	return err;
}

int ring_server_dev_fd(struct ring_server *s)
{
	return s->dev_fd;
}

void *ring_server_priv(struct ring_server *s)
{
	return s->cfg.priv;
}

unsigned int ring_server_nr_queues(struct ring_server *s)
{
	return s->nr_queues;
}

int ring_server_set_backing(struct ring_server *s, const char *name, int id)
{
	struct ring_node *node;
	int err;

	node = get_node(s, name, 0, 0, &err);
	if (node)
		__atomic_store_n(&node->backing_id, id, __ATOMIC_SEQ_CST);
	return err;
}

void ring_server_stats(struct ring_server *s, struct ring_server_stats *sum)
{
	unsigned int i;

	memset(sum, 0, sizeof(*sum));
	for (i = 0; i < s->nr_queues; i++) {
		const struct ring_server_stats *st = &s->queues[i].stats;

		sum->enters += __atomic_load_n(&st->enters, __ATOMIC_SEQ_CST);
		sum->cqes += __atomic_load_n(&st->cqes, __ATOMIC_SEQ_CST);
		sum->links_failed += __atomic_load_n(&st->links_failed,
						     __ATOMIC_SEQ_CST);
		sum->commits_canceled += __atomic_load_n(&st->commits_canceled,
							 __ATOMIC_SEQ_CST);
		sum->closes_failed += __atomic_load_n(&st->closes_failed,
						      __ATOMIC_SEQ_CST);
		sum->overflows += __atomic_load_n(&st->overflows,
						  __ATOMIC_SEQ_CST);
		sum->idle += __atomic_load_n(&st->idle, __ATOMIC_SEQ_CST);
		if (st->cqes_max > sum->cqes_max)
			sum->cqes_max = st->cqes_max;
	}
}

unsigned long ring_server_count(struct ring_server *s, __u32 opcode)
{
	return __atomic_load_n(&s->count[opcode], __ATOMIC_SEQ_CST);
}
