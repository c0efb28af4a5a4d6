// SPDX-License-Identifier: GPL-2.0
/*
 * A FUSE server over io_uring that passes the backing file with its replies: a
 * read-only directory with one file, "file", which the kernel reads from FILE.
 *
 *	server [--no-open] FILE MOUNTPOINT
 *
 * It needs root, liburing 2.3 and the <linux/fuse.h> of these patches:
 *
 *	gcc -I build/kernel/usr/include server.c -o server -luring -lpthread
 *
 * It ends when it is unmounted, and then says what it was asked. It has no
 * READDIR: ls of the directory fails.
 */
#include <assert.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define DEPTH	4		/* ring entries of a queue */
#define MAX_IO	(128 * 1024)	/* bytes of a READ */
#define NODE	2		/* the file; the directory is FUSE_ROOT_ID */

struct entry {
	struct fuse_uring_req_header hdr;
	struct iovec iov[2];
	struct fuse_in_header in;	/* hdr has the answer later */
	int fd;				/* to pass with the answer, or -1 */
	__u64 flags;			/* how to pass it */
	__u64 payload[MAX_IO / 8];
};

struct queue {
	struct io_uring ring;
	pthread_t thread;
	unsigned int qid;
	unsigned int live;
	struct entry ents[DEPTH];
};

static int dev_fd, file_fd;
static bool no_open;
static unsigned int asked[64];		/* requests, of each opcode */

/*
 * Of the file, for all queues. With more files each has these, and the entry
 * must remember which one: the nodeid of a LOOKUP is that of the directory.
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool passing;			/* until it is refused */
static unsigned int passed;		/* opens that last and have passed it */

/* The whole SQE is cleared: what a command does not use must be 0 */
static struct io_uring_sqe *queue_cmd(struct queue *q, struct entry *ent,
				      enum fuse_uring_cmd op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

	assert(sqe);	/* the ring has room for one of each entry */
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = dev_fd;
	sqe->cmd_op = op;
	sqe->user_data = (uintptr_t)ent;
	((struct fuse_uring_cmd_req *)sqe->cmd)->qid = q->qid;
	return sqe;
}

static void commit(struct queue *q, struct entry *ent)
{
	enum fuse_uring_cmd op = FUSE_IO_URING_CMD_COMMIT_AND_FETCH;
	struct fuse_uring_cmd_req *cmd;

	if (ent->fd >= 0)
		op = FUSE_IO_URING_CMD_COMMIT_BACKING;
	cmd = (void *)queue_cmd(q, ent, op)->cmd;
	cmd->commit_id = ent->hdr.ring_ent_in_out.commit_id;
	cmd->flags = ent->flags;
	if (ent->fd >= 0)
		cmd->backing.map.fd = ent->fd;
}

/* @len: the length of the answer in the payload, or a negative errno */
static void set_answer(struct entry *ent, int len)
{
	struct fuse_out_header *out = (void *)ent->hdr.in_out;
	int size = len < 0 ? 0 : len;

	*out = (struct fuse_out_header) { .len = sizeof(*out) + size,
					  .error = len < 0 ? len : 0,
					  .unique = ent->in.unique };
	ent->hdr.ring_ent_in_out.payload_sz = size;
}

/* Returns @len or, as the functions below, a negative errno */
static int get_attr(__u64 node, struct fuse_attr *attr, int len)
{
	struct stat st;

	if (fstat(file_fd, &st))
		return -errno;
	*attr = (struct fuse_attr) {
		.ino = node,
		.mode = node == NODE ? st.st_mode : S_IFDIR | 0755,
		.nlink = 1,
		.uid = st.st_uid,
		.gid = st.st_gid,
		.size = st.st_size,
		.mtime = st.st_mtim.tv_sec,
		.mtimensec = st.st_mtim.tv_nsec,
	};
	return len;
}

static int do_lookup(struct entry *ent, struct fuse_entry_out *out,
		     const char *name)
{
	if (strcmp(name, "file"))
		return -ENOENT;
	pthread_mutex_lock(&lock);
	if (no_open && passing) {
		ent->fd = file_fd;
		ent->flags = FUSE_URING_BACKING_INODE |
			     FUSE_URING_BACKING_NO_OPEN;
	}
	pthread_mutex_unlock(&lock);
	*out = (struct fuse_entry_out) { .nodeid = NODE, .entry_valid = 1 };
	return get_attr(NODE, &out->attr, sizeof(*out));
}

/*
 * The mode belongs to the inode: while it is open in passthrough mode each open
 * must pass the file, while it is open in cached mode none may. The fh, which
 * RELEASE repeats, is 1 if the open has passed it.
 */
static int do_open(struct entry *ent, struct fuse_open_out *out)
{
	*out = (struct fuse_open_out) { .fh = 0 };
	pthread_mutex_lock(&lock);
	if (passing || passed) {
		ent->fd = file_fd;
		out->fh = 1;
		passed++;
	}
	pthread_mutex_unlock(&lock);
	return sizeof(*out);
}

static int do_release(const struct fuse_release_in *in)
{
	pthread_mutex_lock(&lock);
	passed -= in->fh;
	pthread_mutex_unlock(&lock);
	return 0;
}

/*
 * The file was refused, and nothing has happened: answer without it, or with an
 * error if the inode is open in passthrough mode. If the kernel has opened it
 * without asking, the client gets -EIO for the answer without it.
 */
static void refused(struct queue *q, struct entry *ent, int error)
{
	struct fuse_open_out *out = (void *)ent->payload;

	warnx("backing file: %s", strerror(error));
	ent->fd = -1;
	ent->flags = 0;
	pthread_mutex_lock(&lock);
	passing = false;
	if (ent->in.opcode == FUSE_OPEN) {
		out->fh = 0;
		if (--passed)
			set_answer(ent, -EIO);
	}
	pthread_mutex_unlock(&lock);
	commit(q, ent);
}

/* Of an open in cached mode: in passthrough mode it is the kernel who reads */
static int do_read(const struct fuse_read_in *in, void *out)
{
	ssize_t ret = pread(file_fd, out, in->size, in->offset);

	return ret < 0 ? -errno : ret;
}

static int answer(struct entry *ent)
{
	const void *in = ent->hdr.op_in;
	void *out = ent->payload;
	struct fuse_attr_out *attr = out;

	__atomic_add_fetch(&asked[ent->in.opcode % 64], 1, __ATOMIC_RELAXED);
	switch (ent->in.opcode) {
	case FUSE_LOOKUP:
		/* the name is where the answer goes */
		return do_lookup(ent, out, out);
	case FUSE_GETATTR:
		*attr = (struct fuse_attr_out) { .attr_valid = 1 };
		return get_attr(ent->in.nodeid, &attr->attr, sizeof(*attr));
	case FUSE_OPEN:
		return do_open(ent, out);
	case FUSE_READ:
		return do_read(in, out);
	case FUSE_RELEASE:
		return do_release(in);
	default:
		return -ENOSYS;
	}
}

static void handle_cqe(struct queue *q, struct entry *ent, int res)
{
	if (res == -ENOTCONN || res == -ECONNABORTED) {
		q->live--;		/* the end: there is nothing to answer */
	} else if (res && ent->fd >= 0) {
		refused(q, ent, -res);
	} else if (res) {
		errx(1, "queue %u: %s", q->qid, strerror(-res));
	} else {
		memcpy(&ent->in, ent->hdr.in_out, sizeof(ent->in));
		ent->fd = -1;
		ent->flags = 0;
		set_answer(ent, answer(ent));
		commit(q, ent);
	}
}

/* Serves one queue: ring entries belong to the thread that registers them */
static void *serve(void *arg)
{
	struct queue *q = arg;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct entry *ent;
	int ret;

	ret = io_uring_queue_init(DEPTH, &q->ring, IORING_SETUP_SQE128);
	if (ret)
		errx(1, "io_uring_queue_init: %s", strerror(-ret));
	for (ent = q->ents; ent < q->ents + DEPTH; ent++) {
		ent->fd = -1;
		ent->iov[0] = (struct iovec) { &ent->hdr, sizeof(ent->hdr) };
		ent->iov[1] = (struct iovec) { ent->payload, MAX_IO };
		sqe = queue_cmd(q, ent, FUSE_IO_URING_CMD_REGISTER);
		sqe->addr = (uintptr_t)ent->iov;
		sqe->len = 2;
	}
	for (q->live = DEPTH; q->live;) {
		ret = io_uring_submit_and_wait(&q->ring, 1);
		if (ret < 0 && ret != -EINTR)
			errx(1, "io_uring_enter: %s", strerror(-ret));
		while (!io_uring_peek_cqe(&q->ring, &cqe)) {
			handle_cqe(q, io_uring_cqe_get_data(cqe), cqe->res);
			io_uring_cqe_seen(&q->ring, cqe);
		}
	}
	io_uring_queue_exit(&q->ring);
	return NULL;
}

static void init(void)
{
	__u64 flags = FUSE_INIT_EXT | FUSE_MAX_PAGES | FUSE_OVER_IO_URING |
		      FUSE_PASSTHROUGH;
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = MAX_IO,
		.flags = flags,
		.flags2 = flags >> 32,
		.max_pages = MAX_IO / sysconf(_SC_PAGESIZE),
		.max_stack_depth = 1,
	};
	struct fuse_out_header oh = { .len = sizeof(oh) + sizeof(out) };
	struct iovec reply[2] = { { &oh, sizeof(oh) }, { &out, sizeof(out) } };
	struct {
		struct fuse_in_header h;
		struct fuse_init_in in;
		char rest[FUSE_MIN_READ_BUFFER];
	} req;
	__u64 offered;

	if (read(dev_fd, &req, sizeof(req)) < 0)
		err(1, "FUSE_INIT");
	oh.unique = req.h.unique;
	offered = req.in.flags | (__u64)req.in.flags2 << 32;
	if (!(offered & FUSE_OVER_IO_URING))
		errx(1, "unmount, write Y to /sys/module/fuse/parameters/enable_uring");
	passing = offered & FUSE_HAS_COMMIT_BACKING;
	no_open = no_open && offered & FUSE_HAS_NO_OPEN_BACKING;
	if (writev(dev_fd, reply, 2) < 0)
		err(1, "FUSE_INIT");
}

int main(int argc, char **argv)
{
	/* As many as possible CPUs: the kernel waits until all are there */
	unsigned int nr = get_nprocs_conf(), i;
	struct queue *queues = calloc(nr, sizeof(*queues));
	char opts[128], buf[FUSE_MIN_READ_BUFFER];

	no_open = argc == 4 && !strcmp(argv[1], "--no-open");
	if (argc != 3 + no_open)
		errx(2, "usage: server [--no-open] FILE MOUNTPOINT");
	file_fd = open(argv[argc - 2], O_RDONLY);
	if (file_fd < 0)
		err(1, "%s", argv[argc - 2]);
	dev_fd = open("/dev/fuse", O_RDWR);
	if (dev_fd < 0 || !queues)
		err(1, "/dev/fuse");
	/* Without default_permissions NO_OPEN has no effect */
	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
		 dev_fd);
	if (mount("example", argv[argc - 1], "fuse",
		  MS_RDONLY | MS_NOSUID | MS_NODEV, opts))
		err(1, "mount on %s", argv[argc - 1]);
	init();
	for (i = 0; i < nr; i++) {
		queues[i].qid = i;
		if (pthread_create(&queues[i].thread, NULL, serve, &queues[i]))
			errx(1, "pthread_create");
	}
	/* FORGET and INTERRUPT still come here, and need no answer */
	while (read(dev_fd, buf, sizeof(buf)) >= 0 || errno == EINTR ||
	       errno == ENOENT)
		;
	for (i = 0; i < nr; i++)
		pthread_join(queues[i].thread, NULL);
	printf("%u LOOKUP, %u OPEN, %u READ\n", asked[FUSE_LOOKUP],
	       asked[FUSE_OPEN], asked[FUSE_READ]);
	return 0;
}
