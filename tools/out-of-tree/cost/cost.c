// SPDX-License-Identifier: GPL-2.0
/*
 * What registering backing files costs a server.
 *
 * Runs as init of a guest with one CPU whose TSC counts instructions (QEMU,
 * -icount shift=0,sleep=off), so that server, clients and kernel are all there
 * is to count. What is measured goes to stdout, a line each, see README.
 *
 *   cost rounds ROTATE   all ways, the order turned by ROTATE
 *   cost memory          bytes of kernel memory for a registered file
 *   cost profile WAY     one way, between profile_begin() and profile_end()
 *   cost syscall         how long a system call takes here; not in a guest
 */
#define _GNU_SOURCE
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "enable_uring.h"
#include "ids.h"
#include "issue.h"

#define BACK		"/tmp/back"
#define MNT		"/tmp/mnt"

#define MAX_OPENERS	32
/* In all of a measurement, by however many openers */
#define ROUNDS		2048
#define WARM_UP		512
/* and when system calls are traced */
#define TRACED		256
#define MEMORY_FILES	100000
/* Ids that were opened and closed before: three levels of the id map */
#define AGE		300000
#define TRACING		"/sys/kernel/tracing"

enum way {
	PLAIN,
	REGISTERED,
	IOCTL,
	SEPARATE,
	LINKED,
	UNLINKED,
	COMMITTED,
	LOOKUP,
	SQPOLL,
	AGED,
	NR_WAYS,
};

static const char * const way_name[NR_WAYS] = {
	"plain", "registered", "ioctl", "separate", "linked", "unlinked",
	"committed", "lookup", "sqpoll", "aged",
};

/* How the server submits, a sum of these */
#define DEFER	1	/* SINGLE_ISSUER and DEFER_TASKRUN */
#define FIXED	2	/* the ring and the device are registered */

static const char * const submit_name[] = {
	"simple", "defer", "fixed", "defer+fixed",
};

static struct ring_server *server;
static struct issuer issuer;
static struct files files;
static struct ids ids;

/* For the hooks, which run in the thread of the one queue */
static enum way way;
static bool fixed;
static struct ring_queue *queue;
static pid_t server_tid;

#define die(fmt, ...) do {						\
	fprintf(stderr, "cost: " fmt "\n", ##__VA_ARGS__);		\
	exit(1);							\
} while (0)

static void check(const char *what, long err)
{
	if (err < 0)
		die("%s: %s", what, strerror(-err));
}

/*
 * First in, first out for clients and server: who runs when depends on nothing
 * but who waits for whom. What the fair scheduler picks depends on the past,
 * and moves the counts by more than the ways differ.
 */
static void set_fifo(bool on)
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

static void opener_name(char *name, int i)
{
	sprintf(name, "f%d", i);
}

static int open_back(const char *name)
{
	int fd = openat(files.dir_fd, name, O_PATH | O_CLOEXEC);

	if (fd < 0)
		die("%s: %s", name, strerror(errno));
	return fd;
}

static void start(enum way w, int submit)
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

static void stop(void)
{
	issuer_exit(&issuer);
	check("stop", ring_server_stop(server));
	files_exit(&files);
}

static void register_id(int fd, int id)
{
	int ret = issue_open(&issuer, fd, id);

	check("BACKING_OPEN", ret);
	if (ret != id)
		die("BACKING_OPEN: %d instead of %d", ret, id);
}

/* Ids that are only there: @from to @to, all with one O_PATH fd */
static void ballast(int from, int to)
{
	int fd = open_back("f0");
	int id;

	for (id = from; id <= to; id++)
		register_id(fd, id);
	close(fd);
	ids.last = to;
}

/* For the way with files that are registered beforehand */
static void register_openers(bool on)
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

static pthread_barrier_t begin, end;
static int rounds_each;

static void *opener(void *arg)
{
	char name[16], path[32];
	int i, fd;

	opener_name(name, (intptr_t)arg);
	snprintf(path, sizeof(path), MNT "/%s", name);
	set_fifo(true);
	pthread_barrier_wait(&begin);
	for (i = 0; i < rounds_each; i++) {
		fd = open(path, O_RDONLY);
		if (fd < 0)
			die("%s: %s", path, strerror(errno));
		close(fd);
		/* nobody waits for RELEASE: have it served */
		sched_yield();
	}
	pthread_barrier_wait(&end);
	return NULL;
}

/* An empty function the plugin knows by its address */
static __attribute_noinline__ void profile_begin(void)
{
	__asm__ volatile ("" ::: "memory");
}

static __attribute_noinline__ void profile_end(void)
{
	__asm__ volatile ("nop" ::: "memory");
}

/* What one measurement counts; all but the instructions are differences */
struct counts {
	__u64 insns;
	/* instructions in the threads of this program */
	__u64 own;
	/* and in the SQPOLL thread */
	__u64 sq_thread;
	long cqes;
	long switches;
	/* of the thread that serves the queue */
	long wakeups;
	long syscalls;
};

static long file_number(const char *path, const char *key, int field)
{
	char line[1024];
	long n = -1;
	FILE *f = fopen(path, "r");

	if (!f)
		die("%s: %s", path, strerror(errno));
	while (n < 0 && fgets(line, sizeof(line), f)) {
		char *word = strtok(line, " \t\n");
		int i;

		if (!word || (key && strcmp(word, key)))
			continue;
		for (i = 0; i < field && word; i++)
			word = strtok(NULL, " \t\n");
		if (word)
			n = atol(word);
	}
	fclose(f);
	if (n < 0)
		die("%s: no %s", path, key ?: "number");
	return n;
}

static __u64 clock_ns(clockid_t clock)
{
	struct timespec ts;

	if (clock_gettime(clock, &ts))
		die("clock %d: %s", clock, strerror(errno));
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* CPU time of the SQPOLL thread, which is one of ours; 0 if there is none */
static __u64 sq_thread_ns(void)
{
	DIR *dir = opendir("/proc/self/task");
	char path[64], comm[32];
	struct dirent *d;
	__u64 ns = 0;

	while (dir && (d = readdir(dir))) {
		int tid = atoi(d->d_name);
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%d/comm", tid);
		f = tid ? fopen(path, "r") : NULL;
		if (!f)
			continue;
		/* the clock of a thread, see posix-timers.h in the kernel */
		if (fgets(comm, sizeof(comm), f) &&
		    !strncmp(comm, "iou-sqp", 7))
			ns += clock_ns((~(clockid_t)tid << 3) | 6);
		fclose(f);
	}
	closedir(dir);
	return ns;
}

static void snapshot(struct counts *c)
{
	char path[64];

	if (*queue->ring.cq.koverflow)
		die("%s: too many CQEs", way_name[way]);
	/* all that were taken */
	c->cqes = *queue->ring.cq.khead;
	c->switches = file_number("/proc/stat", "ctxt", 1);
	snprintf(path, sizeof(path), "/proc/self/task/%d/status", server_tid);
	c->wakeups = file_number(path, "voluntary_ctxt_switches:", 1);
	c->sq_thread = sq_thread_ns();
	c->own = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	c->insns = __rdtsc();
}

static int trace_syscalls(pid_t tid)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
		.config = file_number(TRACING
				      "/events/raw_syscalls/sys_enter/id",
				      NULL, 0),
	};
	int fd = syscall(SYS_perf_event_open, &attr, tid, -1, -1, 0);

	if (fd < 0)
		die("perf_event_open: %s", strerror(errno));
	return fd;
}

/*
 * So many openers open and close their file so often, together @rounds times.
 * With @traced the system calls of the server are counted, which takes
 * instructions of its own.
 */
static void run(int openers, int rounds, bool traced, struct counts *c)
{
	unsigned long released = ring_server_count(server, FUSE_RELEASE);
	pthread_t threads[MAX_OPENERS];
	struct counts before, after;
	__u64 insns;
	int fd = -1, i;

	rounds_each = rounds / openers;
	pthread_barrier_init(&begin, NULL, openers + 1);
	pthread_barrier_init(&end, NULL, openers + 1);
	for (i = 0; i < openers; i++)
		check("thread", -pthread_create(&threads[i], NULL, opener,
						(void *)(intptr_t)i));
	if (traced)
		fd = trace_syscalls(server_tid);

	/* let RCU free what was used before */
	usleep(100000);
	/* or the first opener would run before the others are woken up */
	set_fifo(true);
	snapshot(&before);
	profile_begin();
	pthread_barrier_wait(&begin);
	set_fifo(false);
	pthread_barrier_wait(&end);
	/* RELEASE has no answer that a client waits for; not idle meanwhile */
	while (ring_server_count(server, FUSE_RELEASE) < released + rounds)
		sched_yield();
	insns = __rdtsc();
	profile_end();
	snapshot(&after);

	c->insns = insns - before.insns;
	c->own = after.own - before.own;
	c->sq_thread = after.sq_thread - before.sq_thread;
	c->cqes = after.cqes - before.cqes;
	c->switches = after.switches - before.switches;
	c->wakeups = after.wakeups - before.wakeups;
	if (traced) {
		__u64 n;

		if (read(fd, &n, sizeof(n)) != sizeof(n))
			die("no count of system calls");
		c->syscalls = n;
		close(fd);
	}
	for (i = 0; i < openers; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&begin);
	pthread_barrier_destroy(&end);
}

static double per_round(double n)
{
	return n / ROUNDS;
}

static void measure(int submit, int openers, int nr_ids)
{
	struct counts c, traced;

	if (way == REGISTERED)
		register_openers(true);
	run(openers, WARM_UP, false, &c);
	run(openers, ROUNDS, false, &c);
	run(openers, TRACED, true, &traced);
	if (way == REGISTERED)
		register_openers(false);
	/* the rest is kernel threads, or idle, which has no instructions */
	if (c.own < c.insns - c.insns / 10)
		die("%s: the CPU was idle", way_name[way]);

	printf("round\t%s\t%s\t%d\t%d\t%.1f\t%.3f\t%.3f\t%.3f\t%.3f\t%.1f\t%.1f\n",
	       way_name[way], submit_name[submit], openers, nr_ids,
	       per_round(c.insns),
	       (double)traced.syscalls / TRACED, per_round(c.cqes),
	       per_round(c.wakeups), per_round(c.switches),
	       per_round(c.own), per_round(c.sq_thread));
	fflush(stdout);
}

static void age(void)
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

/* 1, 8, 32 */
static int next(int openers)
{
	return openers * (openers > 1 ? 4 : 8);
}

/*
 * With a server of its own. What an id costs that the kernel picks depends on
 * how many it has picked before.
 */
static void measure_fresh(enum way w, int submit, int openers, int nr_ids)
{
	start(w, submit);
	ballast(1, nr_ids);
	if (w == AGED)
		age();
	measure(submit, openers, nr_ids);
	stop();
}

/* The same, but one server for all openers: many ids take long to register */
static void measure_many(enum way w, int submit)
{
	static const int nr_ids[] = { 0, 100000, 1000000 };
	int openers, i;

	start(w, submit);
	for (i = 1; i < 3; i++) {
		ballast(nr_ids[i - 1] + 1, nr_ids[i]);
		for (openers = 1; openers <= 32; openers = next(openers))
			measure(submit, openers, nr_ids[i]);
	}
	stop();
}

static void do_rounds(int rotate)
{
	const int best = DEFER | FIXED;
	int submit, openers, w;

	for (w = 0; w < SQPOLL; w++) {
		for (submit = 0; submit < best; submit++)
			measure_fresh((w + rotate) % SQPOLL, submit, 1, 1);
	}
	for (w = 0; w < AGED; w++) {
		for (openers = 1; openers <= 32; openers = next(openers)) {
			measure_fresh((w + rotate) % AGED, best, openers, 1);
			measure_fresh((w + rotate) % AGED, best, openers, 1000);
		}
	}
	measure_fresh(AGED, best, 1, 1);
	for (w = 0; w < AGED; w++)
		measure_many((w + rotate) % AGED, best);
}

/* What a system call takes, of the TSC, the lowest of many */
static double getpid_cost(void)
{
	__u64 t, least = UINT64_MAX;
	int i, j;

	for (i = 0; i < 1000; i++) {
		t = __rdtsc();
		for (j = 0; j < 1000; j++)
			syscall(SYS_getpid);
		t = __rdtsc() - t;
		if (t < least)
			least = t;
	}
	return least / 1000.0;
}

static void do_syscall(void)
{
	__u64 ns = clock_ns(CLOCK_MONOTONIC), tsc = __rdtsc();
	double cost = getpid_cost();

	tsc = __rdtsc() - tsc;
	ns = clock_ns(CLOCK_MONOTONIC) - ns;
	printf("%.1f\t%.3f\n", cost * ns / tsc, (double)tsc / ns);
}

static long slab(void)
{
	/* let what RCU has to free be freed */
	sleep(2);
	return file_number("/proc/meminfo", "Slab:", 1) * 1024;
}

static void print_memory(const char *what, bool own, long before)
{
	printf("memory\t%s\t%s\t%.1f\n", what, own ? "own" : "shared",
	       (double)(slab() - before) / MEMORY_FILES);
}

/* Answers LOOKUP of anything with another regular file */
static int handle_lookup(struct ring_req *req)
{
	static __u64 nodeid = FUSE_ROOT_ID;
	struct fuse_entry_out *out = req->out;

	if (req->in.opcode != FUSE_LOOKUP)
		return files_handle(req);
	*out = (struct fuse_entry_out) {
		.nodeid = ++nodeid,
		.generation = 1,
		.entry_valid = 1000000,
		.attr_valid = 1000000,
		.attr = { .ino = nodeid, .mode = S_IFREG | 0644, .nlink = 1 },
	};
	return sizeof(*out);
}

static int memory_fd;

static bool reply_memory(struct ring_req *req)
{
	req->fd = req->in.opcode == FUSE_LOOKUP ? memory_fd : -1;
	return true;
}

/* The inodes of the directory, with a file that all share or one of their own */
static void do_inodes(const char *what, bool own)
{
	struct stat st;
	char path[32];
	long before;
	int i;

	start(PLAIN, DEFER | FIXED);
	server->cfg.handle = handle_lookup;
	server->cfg.hooks.reply = reply_memory;
	before = slab();
	memory_fd = strcmp(what, "inode") ? open_back("f0") : -1;
	for (i = 0; i < MEMORY_FILES; i++) {
		if (own && memory_fd >= 0) {
			close(memory_fd);
			memory_fd = open_back("f0");
		}
		snprintf(path, sizeof(path), MNT "/i%d", i);
		if (stat(path, &st))
			die("%s: %s", path, strerror(errno));
	}
	close(memory_fd);
	print_memory(what, own, before);
	stop();
}

static void do_memory(void)
{
	struct fuse_backing_map map;
	int command, own, i, fd;
	long before;

	for (command = 0; command <= 1; command++) {
		for (own = 0; own <= 1; own++) {
			start(PLAIN, DEFER | FIXED);
			before = slab();
			fd = open_back("f0");
			for (i = 1; i <= MEMORY_FILES; i++) {
				if (own) {
					close(fd);
					fd = open_back("f0");
				}
				map = (struct fuse_backing_map){ .fd = fd };
				if (command)
					register_id(fd, i);
				else if (ioctl(server->dev_fd,
					       FUSE_DEV_IOC_BACKING_OPEN,
					       &map) < 0)
					die("BACKING_OPEN: %s",
					    strerror(errno));
			}
			close(fd);
			print_memory(command ? "command" : "ioctl", own,
				     before);
			stop();
		}
	}
	do_inodes("inode", false);
	do_inodes("lookup", false);
	do_inodes("lookup", true);
}

static void do_profile(const char *name)
{
	struct counts c;
	int i;

	for (i = 0; i < NR_WAYS && strcmp(name, way_name[i]); i++)
		;
	if (i == NR_WAYS)
		die("no way %s", name);
	start(i, DEFER | FIXED);
	ballast(1, 1);
	if (way == REGISTERED)
		register_openers(true);
	run(1, WARM_UP, false, &c);
	/* the plugin takes the second time */
	run(1, ROUNDS, false, &c);
	printf("profile\t%s\t%d\t%.1f\n", name, ROUNDS, per_round(c.insns));
}

static void do_mount(const char *type, const char *dir)
{
	if (mount(type, dir, type, 0, NULL) && errno != EBUSY)
		die("mount %s: %s", type, strerror(errno));
}

static void reboot_at_exit(void)
{
	fflush(NULL);
	reboot(RB_AUTOBOOT);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	char path[32];
	int i, fd;

	if (!strcmp(mode, "syscall")) {
		do_syscall();
		return 0;
	}
	if (getpid() != 1)
		die("this is the init of a guest");

	atexit(reboot_at_exit);
	do_mount("proc", "/proc");
	do_mount("sysfs", "/sys");
	do_mount("devtmpfs", "/dev");
	do_mount("tmpfs", "/tmp");
	check("enable_uring", enable_uring(true));
	if (mkdir(BACK, 0755) || mkdir(MNT, 0755))
		die("/tmp: %s", strerror(errno));
	for (i = 0; i < MAX_OPENERS; i++) {
		snprintf(path, sizeof(path), BACK "/f%d", i);
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		if (fd < 0 || write(fd, path, sizeof(path)) < 0)
			die("%s: %s", path, strerror(errno));
		close(fd);
	}

	if (!strcmp(mode, "rounds") && argc == 3) {
		do_mount("tracefs", TRACING);
		do_rounds(atoi(argv[2]));
	} else if (!strcmp(mode, "memory")) {
		do_memory();
	} else if (!strcmp(mode, "profile") && argc == 3) {
		do_profile(argv[2]);
	} else {
		die("what?");
	}
	printf("getpid\t%.1f\ndone\n", getpid_cost());
	return 0;
}
