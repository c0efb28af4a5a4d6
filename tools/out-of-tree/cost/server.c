// SPDX-License-Identifier: GPL-2.0
/* The ring server, with each interface to pass a backing file */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cost.h"

/* Ids that were opened and closed before: three levels of the id map */
#define AGE		300000

const char * const row_name[NR_ROWS] = {
	"plain", "registered", "ioctl", "aged", "separate", "hardlink",
	"unlinked", "committed", "at-once", "lookup", "no-open", "native",
	"stand-in-ioctls", "stand-in-sqes",
};

const char * const submit_name[] = {
	"simple", "defer", "fixed", "defer+fixed",
};

void set_fifo(bool on)
{
	const struct sched_param param = { .sched_priority = on };

	if (sched_setscheduler(0, on ? SCHED_FIFO : SCHED_OTHER, &param))
		die("sched_setscheduler: %s", strerror(errno));
}

int pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) ? -errno : 0;
}

bool asks_server(enum row r)
{
	return r != NO_OPEN && r != NATIVE;
}

static struct cost *cost_of(const struct ring_server *server)
{
	return server->cfg.priv;
}

static void setup(struct ring_queue *q)
{
	struct cost *c = cost_of(q->server);
	int fds[] = { q->server->dev_fd, c->udp_socket };

	c->queue = q;
	c->server_tid = gettid();
	/* a CPU that is not ours, or offline, sends no requests */
	if (c->many_cpus)
		pin(q->qid);
	set_fifo(true);
	if (!(c->submit & FIXED))
		return;
	check("ring", io_uring_register_ring_fd(&q->issuer.ring) == 1 ?
		      0 : -EINVAL);
	check("device", io_uring_register_files(&q->issuer.ring, fds,
						c->udp_socket < 0 ? 1 : 2));
	q->issuer.dev_fd = 0;
	q->issuer.how.fixed = true;
}

static void set_id(struct ring_req *req, int id)
{
	check("backing id", id);
	req->open->open_flags = FOPEN_PASSTHROUGH;
	req->open->backing_id = id;
	req->open->fh = id;
}

/* The id of REGISTERED */
static int *id_of(struct cost *c, const struct ring_node *node)
{
	return &c->ids[node->nodeid - FUSE_ROOT_ID - 1];
}

static struct io_uring_sqe *queue_open(struct ring_req *req, int id)
{
	struct io_uring_sqe *sqe;

	sqe = ring_queue_cmd(req->queue, FUSE_IO_URING_CMD_BACKING_OPEN,
			     (uintptr_t)req);
	fuse_cmd_req(sqe)->backing.map.fd = req->node->fd;
	fuse_cmd_req(sqe)->backing.id = id;
	return sqe;
}

/* Fails at once */
static void stand_in_ioctl(struct ring_req *req)
{
	if (!ioctl(req->server->dev_fd, _IO(FUSE_DEV_IOC_MAGIC, 255)) ||
	    errno != ENOTTY)
		die("the stand-in for an ioctl: %s", strerror(errno));
}

/* Succeeds when it is issued */
static void stand_in_sqe(struct ring_req *req, int flags)
{
	struct io_uring_sqe *sqe = ring_queue_cmd(req->queue,
						  SOCKET_URING_OP_SIOCOUTQ,
						  (uintptr_t)req);

	sqe->fd = req->queue->issuer.how.fixed ? 1 :
		  cost_of(req->server)->udp_socket;
	sqe->flags |= flags | IOSQE_CQE_SKIP_SUCCESS;
}

static bool answer_open(struct cost *c, struct ring_req *req)
{
	struct fuse_backing_map map = { .fd = req->node->fd };
	const struct fuse_open_in *in = req->op;
	int id;

	switch (c->row) {
	case REGISTERED:
		set_id(req, c->many_files ? (int)req->in.nodeid - FUSE_ROOT_ID :
					    *id_of(c, req->node));
		break;
	case IOCTL:
	case AGED:
		id = ioctl(req->server->dev_fd, FUSE_DEV_IOC_BACKING_OPEN,
			   &map);
		set_id(req, id < 0 ? -errno : id);
		break;
	case SEPARATE:
		queue_open(req, 0);
		return false;
	case HARDLINK:
	case UNLINKED:
		/* a file is open once only, so this is its first open */
		id = __atomic_add_fetch(&c->last_id, 1, __ATOMIC_SEQ_CST);
		queue_open(req, id)->flags |= IOSQE_CQE_SKIP_SUCCESS |
			(c->row == HARDLINK ? IOSQE_IO_HARDLINK : 0);
		set_id(req, id);
		break;
	case COMMITTED:
		req->fd = req->node->fd;
		break;
	case AT_ONCE:
		req->fd = req->node->fd;
		ring_req_commit(req);
		if (io_uring_submit(&req->queue->issuer.ring) < 1)
			die("the reply to OPEN was not submitted");
		return false;
	case LOOKUP:
		if (!(in->open_flags & FUSE_OPEN_BACKING))
			die("the inode has lost its file");
		req->open->open_flags = FOPEN_PASSTHROUGH;
		break;
	case NO_OPEN:
		die("the kernel asks to open the file");
	case STAND_IN_IOCTLS:
		set_id(req, *id_of(c, req->node));
		stand_in_ioctl(req);
		break;
	case STAND_IN_SQES:
		set_id(req, *id_of(c, req->node));
		stand_in_sqe(req, IOSQE_IO_LINK);
		break;
	default:
		break;
	}
	return true;
}

static bool answer_release(struct cost *c, struct ring_req *req)
{
	const struct fuse_release_in *in = req->op;
	struct io_uring_sqe *sqe;
	__u32 id = in->fh;

	switch (c->row) {
	case IOCTL:
	case AGED:
		check("FUSE_DEV_IOC_BACKING_CLOSE",
		      ioctl(req->server->dev_fd, FUSE_DEV_IOC_BACKING_CLOSE,
			    &id) ? -errno : 0);
		break;
	case SEPARATE:
	case HARDLINK:
	case UNLINKED:
		sqe = ring_queue_cmd(req->queue,
				     FUSE_IO_URING_CMD_BACKING_CLOSE, 0);
		fuse_cmd_req(sqe)->backing.id = id;
		sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
		break;
	case STAND_IN_IOCTLS:
		stand_in_ioctl(req);
		break;
	case STAND_IN_SQES:
		ring_req_commit(req);
		stand_in_sqe(req, 0);
		return false;
	default:
		break;
	}
	return true;
}

static bool reply(struct ring_req *req)
{
	struct cost *c = cost_of(req->server);

	if (req->in.opcode == FUSE_OPEN)
		return answer_open(c, req);
	if (req->in.opcode == FUSE_RELEASE)
		return answer_release(c, req);
	/* once, and then it is in the cache */
	if (req->in.opcode == FUSE_LOOKUP && req->len > 0 &&
	    (c->row == LOOKUP || c->row == NO_OPEN)) {
		req->fd = req->node->fd;
		req->flags = FUSE_URING_BACKING_INODE |
			     (c->row == NO_OPEN ? FUSE_URING_BACKING_NO_OPEN : 0);
	}
	return true;
}

static void cqe(struct ring_queue *q, __u64 data, int res)
{
	struct ring_req *req = (void *)(uintptr_t)data;

	check(row_name[cost_of(q->server)->row], res);
	if (!req)
		return;
	set_id(req, res);
	ring_req_commit(req);
}

static int handle(struct ring_req *req)
{
	static __u64 nodeid = FUSE_ROOT_ID;
	struct cost *c = cost_of(req->server);
	struct fuse_entry_out *entry = req->out;

	/* with -ENOSYS there would be no more of them */
	if (req->in.opcode == FUSE_FLUSH)
		return 0;
	if (!c->many_files || req->in.opcode == FUSE_GETATTR)
		return files_handle(req);
	req->node = files_node(&c->files, "f0");
	switch (req->in.opcode) {
	case FUSE_LOOKUP:
		*entry = (struct fuse_entry_out) {
			.nodeid = ++nodeid,
			.generation = 1,
			.entry_valid = c->files.cache_secs,
			.attr_valid = c->files.cache_secs,
			.attr = { .ino = nodeid, .mode = S_IFREG | 0644,
				  .nlink = 1 },
		};
		return sizeof(*entry);
	case FUSE_OPEN:
		req->open = req->out;
		*req->open = (struct fuse_open_out) { };
		return sizeof(*req->open);
	case FUSE_RELEASE:
		return 0;
	default:
		return -ENOSYS;
	}
}

enum row find_row(const char *name)
{
	int i;

	for (i = 0; i < NR_ROWS && strcmp(name, row_name[i]); i++)
		;
	if (i == NR_ROWS)
		die("no row %s", name);
	return i;
}

void opener_name(char *name, int i)
{
	sprintf(name, "f%d", i);
}

int open_back(struct cost *c, const char *name)
{
	int fd = openat(c->files.dir_fd, name, O_PATH | O_CLOEXEC);

	if (fd < 0)
		die("%s: %s", name, strerror(errno));
	return fd;
}

void make_files(int n)
{
	char path[32];
	int i, fd;

	if (mkdir(BACK, 0755) || mkdir(MNT, 0755))
		die("/tmp: %s", strerror(errno));
	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), BACK "/f%d", i);
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		if (fd < 0 || write(fd, path, sizeof(path)) < 0)
			die("%s: %s", path, strerror(errno));
		close(fd);
	}
}

void start(struct cost *c, enum row r, int submit)
{
	const struct ring_server_cfg cfg = {
		.init_flags = FUSE_OVER_IO_URING | FUSE_PASSTHROUGH,
		.max_stack_depth = 1,
		/* or NO_OPEN has no effect */
		.options = "default_permissions",
		.depth = MAX_OPENERS,
		.how.ring_flags = submit & DEFER ?
				  IORING_SETUP_SINGLE_ISSUER |
				  IORING_SETUP_DEFER_TASKRUN : 0,
		.handle = handle,
		.hooks = { .setup = setup, .reply = reply, .cqe = cqe },
		.priv = c,
	};
	int fd = open(BACK, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	check(BACK, fd < 0 ? -errno : 0);
	/* of a server before this one a million ids can be left to be freed */
	if (!c->many_cpus)
		sleep(2);
	c->row = r;
	c->submit = submit;
	c->last_id = 0;
	memset(&c->files, 0, sizeof(c->files));
	files_init(&c->files, fd);
	c->files.cache_secs = 1000000;
	check("server", ring_server_start(&c->server, MNT, &cfg));
	if (!c->many_cpus && c->server->nr_queues != 1)
		die("there is more than one CPU, or no io_uring");
	check("ring", issuer_init(&c->issuer, NULL, c->server->dev_fd, 0));
	if (!(c->server->offered & FUSE_HAS_IO_URING_BACKING))
		c->issuer.by = BY_IOCTL;
}

void stop(struct cost *c)
{
	issuer_exit(&c->issuer);
	check("stop", ring_server_stop(c->server));
	files_exit(&c->files);
}

int register_id(struct cost *c, int fd)
{
	int id = issue_open(&c->issuer, fd);

	check("BACKING_OPEN", id);
	return id;
}

void ballast(struct cost *c, int n)
{
	int fd = open_back(c, "f0");

	while (n--)
		c->last_id = register_id(c, fd);
	close(fd);
}

void register_openers(struct cost *c, bool on, int n)
{
	struct ring_node *node;
	char name[16];
	int i, *id;

	for (i = 0; i < n; i++) {
		opener_name(name, i);
		node = files_node(&c->files, name);
		id = id_of(c, node);
		if (on)
			*id = register_id(c, node->fd);
		else
			check("BACKING_CLOSE", issue_close(&c->issuer, *id));
	}
}

void age(struct cost *c)
{
	int fd = open_back(c, "f0"), i;
	struct fuse_backing_map map;
	__u32 id;

	for (i = 0; i < AGE; i++) {
		map = (struct fuse_backing_map){ .fd = fd };
		id = ioctl(c->server->dev_fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
		if (ioctl(c->server->dev_fd, FUSE_DEV_IOC_BACKING_CLOSE, &id))
			die("BACKING_CLOSE: %s", strerror(errno));
	}
	close(fd);
}
