// SPDX-License-Identifier: GPL-2.0
/* The ring server, and the ways it has to register a backing file */
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

const char * const way_name[NR_WAYS] = {
	"plain", "registered", "ioctl", "separate", "linked", "unlinked",
	"committed", "lookup", "sqpoll", "aged", "stand-in-ioctls",
	"stand-in-sqes",
};

const char * const submit_name[] = {
	"simple", "defer", "fixed", "defer+fixed",
};

struct ring_server *server;
struct issuer issuer;
struct files files;
enum way way;
struct ring_queue *queue;
pid_t server_tid;

bool many_cpus;
int udp_socket = -1;

bool many_files;

static bool fixed;
static struct ids ids;

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

static void setup(struct ring_queue *q)
{
	int fds[] = { q->server->dev_fd, udp_socket };

	queue = q;
	server_tid = gettid();
	/* a CPU that is not ours, or offline, sends no requests */
	if (many_cpus)
		pin(q->qid);
	set_fifo(true);
	if (!fixed)
		return;
	check("ring", io_uring_register_ring_fd(&q->ring) == 1 ? 0 : -EINVAL);
	check("device", io_uring_register_files(&q->ring, fds,
						udp_socket < 0 ? 1 : 2));
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

	finish_sqe(sqe);
	sqe->fd = fixed ? 1 : udp_socket;
	sqe->flags |= flags | IOSQE_CQE_SKIP_SUCCESS;
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
		id = many_files ? ++ids.last : ids_get(&ids, req->node);
		sqe = ids_queue_open(req, id);
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
	case STAND_IN_IOCTLS:
		stand_in_ioctl(req);
		break;
	case STAND_IN_SQES:
		stand_in_sqe(req, IOSQE_IO_LINK);
		break;
	default:
		break;
	}
	return true;
}

static bool answer_release(struct ring_req *req)
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
		if (!many_files)
			id = ids_put(&ids, req->node);
		if (id)
			finish_sqe(ids_queue_close(req->queue, id));
		break;
	case SEPARATE:
		finish_sqe(ids_queue_close(req->queue, id));
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
	if (req->in.opcode == FUSE_OPEN)
		return answer_open(req);
	if (req->in.opcode == FUSE_RELEASE)
		return answer_release(req);
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

enum way find_way(const char *name)
{
	int i;

	for (i = 0; i < NR_WAYS && strcmp(name, way_name[i]); i++)
		;
	if (i == NR_WAYS)
		die("no way %s", name);
	return i;
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

void start(enum way w, int submit)
{
	struct issue_how how = { };
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
	if (!many_cpus)
		sleep(2);
	way = w;
	fixed = submit & FIXED;
	memset(&files, 0, sizeof(files));
	files_init(&files, fd);
	files.cache_secs = 1000000;
	memset(&ids, 0, sizeof(ids));
	pthread_mutex_init(&ids.lock, NULL);
	check("server", ring_server_start(&server, MNT, &cfg));
	if (!many_cpus && server->nr_queues != 1)
		die("there is more than one CPU, or no io_uring");
	how.ioctl = !(server->offered & FUSE_HAS_IO_URING_BACKING);
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

void register_openers(bool on, int n)
{
	struct ring_node *node;
	char name[16];
	int i;

	for (i = 0; i < n; i++) {
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
