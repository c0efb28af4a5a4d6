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
#include <stdarg.h>
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

#include "backing_env.h"

#define MAX_OPENERS	32
/* In all of a measurement, by however many openers */
#define ROUNDS		2048
#define WARM_UP		512
/* and when system calls are traced */
#define TRACED		256
#define MEMORY_IDS	100000
/* Ids that were opened and closed before: three levels of the id map */
#define AGE		300000
#define TRACING		"/sys/kernel/tracing"

enum way {
	PLAIN,
	REGISTERED,
	IOCTL,
	SEPARATE,
	LINKED,
	SQPOLL,
	AGED,
	NR_WAYS,
};

static const char * const way_name[NR_WAYS] = {
	"plain", "registered", "ioctl", "separate", "linked", "sqpoll",
	"aged",
};

/* How the server submits, a sum of these */
#define DEFER	1	/* SINGLE_ISSUER and DEFER_TASKRUN */
#define FIXED	2	/* the ring and the device are registered */

static const char * const submit_name[] = {
	"simple", "defer", "fixed", "defer+fixed",
};

static struct backing_env env;

/* For the hooks, which run in the thread of the one queue */
static enum way way;
static pid_t server_tid;
/* the ids that are not in use: those of the openers, behind the ballast */
static int free_ids[2 * MAX_OPENERS];
static int nr_free;

static __attribute__((noreturn, format(printf, 1, 2))) void
die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "cost: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	exit(1);
}

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

static void prep_open(struct io_uring_sqe *sqe, int dev_fd, void *arg)
{
	backing_cmd_prep_open(sqe, dev_fd, *(int *)arg);
}

static int hook_open(struct ring_req *req, struct ring_node *node,
		     struct fuse_open_out *out)
{
	struct fuse_backing_map map = { .fd = node->fd };
	int id = 0;

	if (!server_tid) {
		server_tid = gettid();
		set_fifo(true);
	}
	out->fh = 0;

	switch (way) {
	case IOCTL:
	case AGED:
		id = ioctl(ring_server_dev_fd(req->server),
			   FUSE_DEV_IOC_BACKING_OPEN, &map);
		if (id < 0)
			return -errno;
		break;
	case SEPARATE:
		id = ring_queue_cmd(req->queue, prep_open, &node->fd);
		if (id < 0)
			return id;
		break;
	case LINKED:
	case SQPOLL:
		if (!nr_free)
			return -ENFILE;
		id = free_ids[--nr_free];
		req->link_fd = node->fd;
		break;
	default:
		return 0;
	}
	out->open_flags = FOPEN_PASSTHROUGH;
	out->backing_id = id;
	out->fh = id;
	return 0;
}

static void hook_release(struct ring_req *req, struct ring_node *node)
{
	const struct fuse_release_in *in = req->op;
	__u32 id = in->fh;

	(void)node;
	switch (id ? way : PLAIN) {
	case IOCTL:
	case AGED:
		check("FUSE_DEV_IOC_BACKING_CLOSE",
		      ioctl(ring_server_dev_fd(req->server),
			    FUSE_DEV_IOC_BACKING_CLOSE, &id) ? -errno : 0);
		break;
	case SEPARATE:
		ring_queue_close_id(req->queue, id);
		break;
	case LINKED:
	case SQPOLL:
		/* what opens next is submitted behind it */
		ring_queue_close_id(req->queue, id);
		free_ids[nr_free++] = id;
		break;
	default:
		break;
	}
}

static void opener_name(char *name, int i)
{
	sprintf(name, "f%d", i);
}

static void start(bool sqpoll, int submit)
{
	const struct backing_how how = { .setup_flags = IORING_SETUP_SQE128 };
	const struct ring_server_cfg cfg = {
		.init_flags = BACKING_INIT,
		.depth = MAX_OPENERS,
		.ring_flags = sqpoll ? IORING_SETUP_SQPOLL :
			      submit & DEFER ? IORING_SETUP_SINGLE_ISSUER |
					       IORING_SETUP_DEFER_TASKRUN : 0,
		.fixed = submit & FIXED,
		.cache_secs = 1000000,
		.open = hook_open,
		.release = hook_release,
	};

	/* of a server before this one a million ids can be left to be freed */
	sleep(2);
	way = PLAIN;
	server_tid = 0;
	check("server", backing_env_start(&env, &how, &cfg));
	if (ring_server_nr_queues(env.server) != 1)
		die("there is more than one CPU");
}

static void register_id(int fd, int id)
{
	int ret = backing_issue_open_id(&env.issuer, fd, id);

	check("BACKING_OPEN", ret);
	if (ret != id)
		die("BACKING_OPEN: %d instead of %d", ret, id);
}

/* Ids that are only there: 1 to @to, all with one O_PATH fd */
static void ballast(int from, int to)
{
	int fd = open_back(&env, "f0", O_PATH);
	int id;

	check("f0", fd);
	for (id = from; id <= to; id++)
		register_id(fd, id);
	close(fd);

	/* as the lowest fd is taken: the ids in use stay dense */
	for (nr_free = 0; nr_free < 2 * MAX_OPENERS; nr_free++)
		free_ids[nr_free] = to + 2 * MAX_OPENERS - nr_free;
}

/* For the way with files that are registered beforehand */
static void register_openers(bool on)
{
	static int ids[MAX_OPENERS];
	char name[16];
	int i, fd;

	for (i = 0; i < MAX_OPENERS; i++) {
		opener_name(name, i);
		if (on) {
			fd = open_back(&env, name, O_PATH);
			check(name, fd);
			ids[i] = backing_issue_open(&env.issuer, fd);
			check("BACKING_OPEN", ids[i]);
			close(fd);
		} else {
			check("BACKING_CLOSE",
			      backing_issue_close(&env.issuer, ids[i]));
		}
		check(name, ring_server_set_backing(env.server, name,
						    on ? ids[i] : 0));
	}
}

static pthread_barrier_t begin, end;
static int rounds_each;

static void *opener(void *arg)
{
	char name[16], path[PATH_MAX];
	int i, fd;

	opener_name(name, (intptr_t)arg);
	snprintf(path, sizeof(path), "%s/%s", env.mnt, name);
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
static __attribute__((noinline)) void profile_begin(void)
{
	__asm__ volatile ("" ::: "memory");
}

static __attribute__((noinline)) void profile_end(void)
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
	struct ring_server_stats stats;
	char path[64];

	ring_server_stats(env.server, &stats);
	if (stats.links_failed || stats.closes_failed || stats.overflows)
		die("%s: %lu links and %lu closes failed, %lu CQEs too many",
		    way_name[way], stats.links_failed, stats.closes_failed,
		    stats.overflows);
	c->cqes = stats.cqes;
	c->switches = file_number("/proc/stat", "ctxt", 1);
	c->wakeups = 0;
	if (server_tid) {
		snprintf(path, sizeof(path), "/proc/self/task/%d/status",
			 server_tid);
		c->wakeups = file_number(path, "voluntary_ctxt_switches:", 1);
	}
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
	unsigned long released = ring_server_count(env.server, FUSE_RELEASE);
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
	while (ring_server_count(env.server, FUSE_RELEASE) < released + rounds)
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

static void measure(enum way w, int submit, int openers, int ids)
{
	struct counts c, traced;

	way = w;
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
	       way_name[way], submit_name[submit], openers, ids,
	       per_round(c.insns),
	       (double)traced.syscalls / TRACED, per_round(c.cqes),
	       per_round(c.wakeups), per_round(c.switches),
	       per_round(c.own), per_round(c.sq_thread));
	fflush(stdout);
}

static void age(void)
{
	int dev_fd = ring_server_dev_fd(env.server), fd, i;
	struct fuse_backing_map map;
	__u32 id;

	fd = open_back(&env, "f0", O_PATH);
	check("f0", fd);
	for (i = 0; i < AGE; i++) {
		map = (struct fuse_backing_map){ .fd = fd };
		id = ioctl(dev_fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
		if (ioctl(dev_fd, FUSE_DEV_IOC_BACKING_CLOSE, &id))
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
static void measure_fresh(enum way w, int submit, int openers, int ids)
{
	start(w == SQPOLL, submit);
	ballast(1, ids);
	if (w == AGED)
		age();
	measure(w, submit, openers, ids);
	check("stop", backing_env_stop(&env));
}

/* The same, but one server for all openers: many ids take long to register */
static void measure_many(enum way w, int submit)
{
	static const int ids[] = { 0, 100000, 1000000 };
	int openers, i;

	start(w == SQPOLL, submit);
	for (i = 1; i < 3; i++) {
		ballast(ids[i - 1] + 1, ids[i]);
		for (openers = 1; openers <= 32; openers = next(openers))
			measure(w, submit, openers, ids[i]);
	}
	check("stop", backing_env_stop(&env));
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

static void do_memory(void)
{
	struct fuse_backing_map map;
	int command, own, i, fd;
	long before;

	for (command = 0; command <= 1; command++) {
		for (own = 0; own <= 1; own++) {
			start(false, DEFER | FIXED);
			before = slab();
			fd = open_back(&env, "f0", O_PATH);
			for (i = 1; i <= MEMORY_IDS; i++) {
				if (own) {
					close(fd);
					fd = open_back(&env, "f0", O_PATH);
				}
				map = (struct fuse_backing_map){ .fd = fd };
				if (command)
					register_id(fd, i);
				else if (ioctl(ring_server_dev_fd(env.server),
					       FUSE_DEV_IOC_BACKING_OPEN,
					       &map) < 0)
					die("BACKING_OPEN: %s",
					    strerror(errno));
			}
			close(fd);
			printf("memory\t%s\t%s\t%.1f\n",
			       command ? "command" : "ioctl",
			       own ? "own" : "shared",
			       (double)(slab() - before) / MEMORY_IDS);
			check("stop", backing_env_stop(&env));
		}
	}
}

static void do_profile(const char *name)
{
	struct counts c;
	int i;

	for (i = 0; i < NR_WAYS && strcmp(name, way_name[i]); i++)
		;
	if (i == NR_WAYS)
		die("no way %s", name);
	start(i == SQPOLL, DEFER | FIXED);
	ballast(1, 1);
	way = i;
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
	const char *missing, *mode = argc > 1 ? argv[1] : "";
	char name[16];
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
	backing_env_main();
	missing = backing_env_missing(NULL);
	if (missing)
		die("%s", missing);
	check("setup", backing_env_setup(&env));
	for (i = 0; i < MAX_OPENERS; i++) {
		opener_name(name, i);
		fd = backing_make_file(&env, name, BACKING_FILE_SZ);
		check(name, fd);
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
