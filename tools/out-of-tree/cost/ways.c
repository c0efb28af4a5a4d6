// SPDX-License-Identifier: GPL-2.0
/* The ring server, and the ways it has to register a backing file */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cost.h"

/* Ids that were opened and closed before: three levels of the id map */
#define AGE		300000

const char * const way_name[NR_WAYS] = {
	"plain", "registered", "ioctl", "separate", "linked", "unlinked",
	"committed", "lookup", "sqpoll", "aged",
};

struct ring_server *server;
struct issuer issuer;
struct files files;
enum way way;
struct ring_queue *queue;
pid_t server_tid;

static bool fixed;
static struct ids ids;

void set_fifo(bool on)
{
	const struct sched_param param = { .sched_priority = on };

	if (sched_setscheduler(0, on ? SCHED_FIFO : SCHED_OTHER, &param))
		die("sched_setscheduler: %s", strerror(errno));
}

static void setup(struct ring_queue *q)
{
	queue = q;
	server_tid = gettid();
	set_fifo(true);
	if (!fixed)
		return;
	check("ring", io_uring_register_ring_fd(&q->ring) == 1 ? 0 : -EINVAL);
	check("device", io_uring_register_files(&q->ring, &q->server->dev_fd,
						1));
}

static void finish_sqe(struct io_uring_sqe *sqe)
{
	if (fixed) {
		sqe->fd = 0;
		sqe->flags |= IOSQE_FIXED_FILE;
	}
}

static void sqe(struct ring_queue *q, struct ring_req *req,
		struct io_uring_sqe *sqe)
{
	finish_sqe(sqe);
	if (req && req->fd >= 0) {
		fuse_cmd_req(sqe)->flags = FUSE_URING_COMMIT_BACKING;
		fuse_cmd_req(sqe)->backing.map.fd = req->fd;
	}
}

static void set_id(struct ring_req *req, int id)
{
	check("backing id", id);
	req->open->open_flags = FOPEN_PASSTHROUGH;
	req->open->backing_id = id;
	req->open->fh = id;
}

static bool answer_open(struct ring_req *req)
{
	struct fuse_backing_map map = { .fd = req->node->fd };
	struct io_uring_sqe *sqe;
	int id;

	switch (way) {
	case IOCTL:
	case AGED:
		id = ioctl(req->server->dev_fd, FUSE_DEV_IOC_BACKING_OPEN,
			   &map);
		set_id(req, id < 0 ? -errno : id);
		break;
	case SEPARATE:
		sqe = ring_queue_cmd(req->queue, FUSE_IO_URING_CMD_BACKING_OPEN,
				     (uintptr_t)req);
		fuse_cmd_req(sqe)->backing.map.fd = req->node->fd;
		finish_sqe(sqe);
		return false;
	case LINKED:
	case UNLINKED:
	case SQPOLL:
		sqe = ids_queue_open(req, ids_get(&ids, req->node));
		if (way == UNLINKED)
			sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
		finish_sqe(sqe);
		break;
	case COMMITTED:
		req->fd = req->node->fd;
		break;
	case LOOKUP:
		req->open->open_flags = FOPEN_PASSTHROUGH;
		break;
	default:
		break;
	}
	return true;
}

static void answer_release(struct ring_req *req)
{
	const struct fuse_release_in *in = req->op;
	__u32 id = in->fh;

	switch (way) {
	case IOCTL:
	case AGED:
		check("FUSE_DEV_IOC_BACKING_CLOSE",
		      ioctl(req->server->dev_fd, FUSE_DEV_IOC_BACKING_CLOSE,
			    &id) ? -errno : 0);
		break;
	case LINKED:
	case UNLINKED:
	case SQPOLL:
		id = ids_put(&ids, req->node);
		if (id)
			finish_sqe(ids_queue_close(req->queue, id));
		break;
	case SEPARATE:
		finish_sqe(ids_queue_close(req->queue, id));
		break;
	default:
		break;
	}
}

static bool reply(struct ring_req *req)
{
	if (req->in.opcode == FUSE_OPEN)
		return answer_open(req);
	if (req->in.opcode == FUSE_RELEASE)
		answer_release(req);
	/* once, and then it is in the cache */
	if (req->in.opcode == FUSE_LOOKUP && way == LOOKUP)
		req->fd = req->node->fd;
	return true;
}

static void cqe(struct ring_queue *q, __u64 data, int res)
{
	struct ring_req *req = (void *)(uintptr_t)data;

	check(way_name[way], res);
	if (!req)
		return;
	set_id(req, res);
	ring_req_commit(req);
}

void opener_name(char *name, int i)
{
	sprintf(name, "f%d", i);
}

int open_back(const char *name)
{
	int fd = openat(files.dir_fd, name, O_PATH | O_CLOEXEC);

	if (fd < 0)
		die("%s: %s", name, strerror(errno));
	return fd;
}

void start(enum way w, int submit)
{
	const struct issue_how how = { };
	const struct ring_server_cfg cfg = {
		.init_flags = FUSE_OVER_IO_URING | FUSE_PASSTHROUGH |
			      FUSE_COMMIT_BACKING,
		.max_stack_depth = 1,
		.depth = MAX_OPENERS,
		.ring_flags = w == SQPOLL ? IORING_SETUP_SQPOLL :
			      submit & DEFER ? IORING_SETUP_SINGLE_ISSUER |
					       IORING_SETUP_DEFER_TASKRUN : 0,
		.handle = files_handle,
		.hooks = { .setup = setup, .sqe = sqe, .reply = reply,
			   .cqe = cqe },
		.priv = &files,
	};
	int fd = open(BACK, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	check(BACK, fd < 0 ? -errno : 0);
	/* of a server before this one a million ids can be left to be freed */
	sleep(2);
	way = w;
	fixed = submit & FIXED;
	memset(&files, 0, sizeof(files));
	files_init(&files, fd);
	files.cache_secs = 1000000;
	memset(&ids, 0, sizeof(ids));
	pthread_mutex_init(&ids.lock, NULL);
	check("server", ring_server_start(&server, MNT, &cfg));
	if (server->nr_queues != 1)
		die("there is more than one CPU, or no io_uring");
	check("ring", issuer_init(&issuer, &how, server->dev_fd));
}

void stop(void)
{
	issuer_exit(&issuer);
	check("stop", ring_server_stop(server));
	files_exit(&files);
}

void register_id(int fd, int id)
{
	int ret = issue_open(&issuer, fd, id);

	check("BACKING_OPEN", ret);
	if (ret != id)
		die("BACKING_OPEN: %d instead of %d", ret, id);
}

void ballast(int from, int to)
{
	int fd = open_back("f0");
	int id;

	for (id = from; id <= to; id++)
		register_id(fd, id);
	close(fd);
	ids.last = to;
}

void register_openers(bool on)
{
	struct ring_node *node;
	char name[16];
	int i;

	for (i = 0; i < MAX_OPENERS; i++) {
		opener_name(name, i);
		node = files_node(&files, name);
		if (!on)
			check("BACKING_CLOSE",
			      issue_close(&issuer, node->backing_id));
		node->backing_id = on ? issue_open(&issuer, node->fd, 0) : 0;
		check("BACKING_OPEN", node->backing_id);
	}
}

void age(void)
{
	int fd = open_back("f0"), i;
	struct fuse_backing_map map;
	__u32 id;

	for (i = 0; i < AGE; i++) {
		map = (struct fuse_backing_map){ .fd = fd };
		id = ioctl(server->dev_fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
		if (ioctl(server->dev_fd, FUSE_DEV_IOC_BACKING_CLOSE, &id))
			die("BACKING_CLOSE: %s", strerror(errno));
	}
	close(fd);
}
