// SPDX-License-Identifier: GPL-2.0
/*
 * The end of a connection in the midst of commands: clients open files whose
 * registration is linked to the reply, other rings register files too, and then
 * the connection is aborted, the mount detached, the server killed, or the
 * rings of its queues close. Nothing may hang, and nothing may be left.
 *
 * A round is one server, with some opens before the end and some after it. How
 * many rounds of each kind: BACKING_STORM_ROUNDS in the environment.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "backing_env.h"

#define DEFAULT_ROUNDS	25
/* Before what is there already is counted */
#define WARMUP_ROUNDS	5
#define CLIENTS		2
/* Opens of all clients before the end, at most */
#define MAX_OPENS	8
/* Seconds after which something hangs */
#define PATIENCE	60
/* What is freed later has been freed after so many seconds */
#define SETTLE		30
/* Objects of a kind that may be more: caches of CPUs, what others have open */
#define FEW		64

/* Above the ids that the kernel picks for the other rings */
#define FIRST_ID	0x100000

enum kind {
	ABORT,
	DETACH,
	KILL,
	RING_EXIT,
};

/* What the server's process has to do */
#define DO_ABORT	'a'
#define DO_STOP		's'

/* Shared by the test and the server's process; each member has one writer */
static struct storm {
	/* the queues' threads end instead of serving on */
	bool exit_rings;
	/* registrations linked to a reply, those that failed, and commands */
	unsigned long linked;
	unsigned long links_failed;
	unsigned long commands;
	/* queues that ended */
	unsigned long rings_exited;
} *storm;

static unsigned long load(unsigned long *counter)
{
	return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}

static void count(unsigned long *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
}

static bool is_set(bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_SEQ_CST);
}

static void set(bool *flag)
{
	__atomic_store_n(flag, true, __ATOMIC_SEQ_CST);
}

#define SLABS	"/sys/kernel/slab"

/* There by name, too, where caches are merged */
static const char * const slab_names[] = {
	"fuse_inode", "fuse_request", "io_kiocb", "filp", "cred", "mnt_cache",
	"radix_tree_node", "task_struct",
};

/* How many objects of a cache are in use, or -1 */
static long slab_objects(const char *name)
{
	char path[64];
	long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), SLABS "/%.31s/objects", name);
	f = fopen(path, "re");
	if (f && fscanf(f, "%ld", &n) != 1)
		n = -1;
	if (f)
		fclose(f);
	return n;
}

/* The server's process */

/* The ways that leave something to the end of the ring, in turn */
static const struct backing_how hows[] = {
	{ .setup_flags = IORING_SETUP_SQE128 },
	{ .setup_flags = IORING_SETUP_SQE128, .sqe_flags = IOSQE_ASYNC },
	{ .setup_flags = IORING_SETUP_SQE128 | IORING_SETUP_SQPOLL },
};

static int next_id = FIRST_ID;

static int hook_open(struct ring_req *req, struct ring_node *node,
		     struct fuse_open_out *out)
{
	out->open_flags = FOPEN_PASSTHROUGH;
	out->backing_id = __atomic_fetch_add(&next_id, 1, __ATOMIC_SEQ_CST);
	out->fh = out->backing_id;
	req->link_fd = node->fd;
	count(&storm->linked);
	if (is_set(&storm->exit_rings)) {
		ring_queue_exit(req->queue);
		count(&storm->rings_exited);
	}
	return 0;
}

static int hook_failed(struct ring_req *req, struct ring_node *node,
		       struct fuse_open_out *out, int err)
{
	(void)req;
	(void)node;
	(void)out;
	count(&storm->links_failed);
	return err;
}

static void hook_release(struct ring_req *req, struct ring_node *node)
{
	const struct fuse_release_in *in = req->op;

	(void)node;
	/* every other one is left for the end of the connection */
	if (in->fh % 2)
		ring_queue_close_id(req->queue, in->fh);
}

struct other_ring {
	pthread_t thread;
	const struct backing_how *how;
	int dev_fd;
	int fd;
	bool stop;
};

static void *other_ring(void *arg)
{
	struct fuse_uring_cmd_req req = { 0 };
	struct other_ring *o = arg;
	struct backing_issuer issuer;
	int i, id;

	req.backing.map.fd = o->fd;
	if (backing_issuer_init(&issuer, o->how, o->dev_fd))
		return NULL;
	while (!is_set(&o->stop)) {
		id = backing_issue_open(&issuer, o->fd);
		if (id < 0 || backing_issue_close(&issuer, id))
			break;
		count(&storm->commands);
		/* not to take the processor from the clients */
		usleep(100);
	}
	/* the ring ends with these on their way */
	for (i = 0; i < 4; i++)
		backing_issue_prep(&issuer, FUSE_IO_URING_CMD_BACKING_OPEN,
				   &req, 0);
	io_uring_submit(&issuer.ring);
	backing_issuer_exit(&issuer);
	return NULL;
}

static int serve(struct backing_env *env, unsigned int round, int from, int to)
{
	struct ring_server_cfg cfg = {
		.init_flags = BACKING_INIT,
		.open = hook_open,
		.link_failed = hook_failed,
		.release = hook_release,
		.link_flags = round % 2 ? IOSQE_ASYNC : 0,
	};
	const struct backing_how ioctl = { .ioctl = true };
	struct other_ring other = { .how = &hows[round % ARRAY_SIZE(hows)] };
	char what = DO_STOP;
	int err;

	err = backing_env_start(env, &ioctl, &cfg);
	if (err)
		return err;
	other.dev_fd = ring_server_dev_fd(env->server);
	other.fd = open_back(env, "0", O_RDONLY);
	if (other.fd < 0)
		return other.fd;
	err = -pthread_create(&other.thread, NULL, other_ring, &other);
	if (err)
		return err;
	if (write(to, "r", 1) != 1)
		return -errno;

	while (read(from, &what, 1) == 1 && what == DO_ABORT) {
		err = ring_server_abort(env->server);
		if (err)
			return err;
	}
	set(&other.stop);
	pthread_join(other.thread, NULL);
	/* the mount can be gone or busy, the test takes care of it */
	backing_env_stop(env);
	return 0;
}

/* The clients' and the test's process */

struct client {
	pthread_t thread;
	char name[2];
	int dir_fd;
	char want[64];
	bool stop;
	unsigned long opens;
	unsigned long failed;
	unsigned long wrong;
};

static void *client(void *arg)
{
	struct client *c = arg;
	char buf[sizeof(c->want)];
	ssize_t n;
	int fd;

	while (!is_set(&c->stop)) {
		fd = openat(c->dir_fd, c->name, O_RDWR | O_CLOEXEC);
		if (fd < 0) {
			count(&c->failed);
			usleep(100);
			continue;
		}
		n = pread(fd, buf, sizeof(buf), 100);
		if (n >= 0 && (n != sizeof(buf) ||
			       memcmp(buf, c->want, sizeof(buf))))
			count(&c->wrong);
		/* the same again */
		if (n == sizeof(buf) && pwrite(fd, buf, n, 100) < 0)
			count(&c->failed);
		close(fd);
		count(&c->opens);
	}
	return NULL;
}

struct storm_env {
	struct backing_env env;
	struct client clients[CLIENTS];
	pid_t pid;
	/* of all rounds */
	unsigned long opens;
	unsigned long linked;
	unsigned long commands;
};

FIXTURE(storm)
{
	struct storm_env s;
};

FIXTURE_VARIANT(storm)
{
	enum kind kind;
};

FIXTURE_VARIANT_ADD(storm, abort) {
	.kind = ABORT,
};

FIXTURE_VARIANT_ADD(storm, detach) {
	.kind = DETACH,
};

FIXTURE_VARIANT_ADD(storm, kill) {
	.kind = KILL,
};

FIXTURE_VARIANT_ADD(storm, ring_exit) {
	.kind = RING_EXIT,
};

FIXTURE_SETUP(storm)
{
	const char *missing = backing_env_missing(NULL);
	int i, fd;

	if (missing)
		SKIP(return, "%s", missing);
	for (i = 0; i < (int)ARRAY_SIZE(slab_names); i++) {
		if (slab_objects(slab_names[i]) < 0)
			SKIP(return, "no " SLABS "/%s/objects: CONFIG_SLUB_DEBUG",
			     slab_names[i]);
	}
	storm = mmap(NULL, sizeof(*storm), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, storm);
	ASSERT_EQ(0, backing_env_setup(&self->s.env));
	self->s.env.patience = PATIENCE;
	/* to count the connections */
	ASSERT_EQ(0, ring_server_fusectl());
	for (i = 0; i < CLIENTS; i++) {
		struct client *c = &self->s.clients[i];

		c->name[0] = '0' + i;
		fd = backing_make_file(&self->s.env, c->name, BACKING_FILE_SZ);
		ASSERT_GE(fd, 0);
		ASSERT_EQ(sizeof(c->want),
			  pread(fd, c->want, sizeof(c->want), 100));
		close(fd);
	}
}

FIXTURE_TEARDOWN(storm)
{
	if (self->s.pid > 0)
		kill(self->s.pid, SIGKILL);
	umount2(self->s.env.mnt, MNT_DETACH);
	/* no reference to a backing file is left: their file system unmounts */
	EXPECT_EQ(0, backing_env_teardown(&self->s.env));
}

static unsigned long client_opens(struct storm_env *s)
{
	unsigned long n = 0;
	int i;

	for (i = 0; i < CLIENTS; i++)
		n += load(&s->clients[i].opens);
	return n;
}

/* The last ones can be in an open that only the end of the server ends */
static int join_clients(struct storm_env *s)
{
	struct timespec until;
	int i;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE;
	for (i = 0; i < CLIENTS; i++)
		set(&s->clients[i].stop);
	for (i = 0; i < CLIENTS; i++) {
		struct client *c = &s->clients[i];

		if (pthread_timedjoin_np(c->thread, NULL, &until))
			return -ETIMEDOUT;
		close(c->dir_fd);
	}
	return 0;
}

/* Waits until the server's process ended */
static int reap(struct storm_env *s, int *status)
{
	time_t until = time(NULL) + PATIENCE;

	while (time(NULL) <= until) {
		if (waitpid(s->pid, status, WNOHANG) == s->pid) {
			s->pid = 0;
			return 0;
		}
		usleep(100);
	}
	return -ETIMEDOUT;
}

#define WAIT_FOR(condition) do {					\
	time_t _until = time(NULL) + PATIENCE;				\
	bool _met = false;						\
									\
	while (!_met && time(NULL) <= _until) {				\
		_met = (condition);					\
		if (!_met)						\
			usleep(100);					\
	}								\
	ASSERT_TRUE(_met);						\
} while (0)

static void one_round(struct __test_metadata *_metadata,
		      struct storm_env *s, enum kind kind, unsigned int round)
{
	unsigned long opens = 1 + rand() % MAX_OPENS;
	/* umount -l alone ends the connection when the clients are done */
	bool force = round % 2;
	int to[2], from[2], status, i;
	char c;

	memset(storm, 0, sizeof(*storm));
	ASSERT_EQ(0, pipe2(to, O_CLOEXEC));
	ASSERT_EQ(0, pipe2(from, O_CLOEXEC));
	s->pid = fork();
	ASSERT_GE(s->pid, 0);
	if (!s->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		close(from[0]);
		_exit(-serve(&s->env, round, to[0], from[1]));
	}
	close(to[0]);
	close(from[1]);
	ASSERT_EQ(1, read(from[0], &c, 1));

	for (i = 0; i < CLIENTS; i++) {
		struct client *cl = &s->clients[i];

		cl->stop = false;
		cl->opens = 0;
		cl->failed = 0;
		cl->dir_fd = open(s->env.mnt,
				  O_PATH | O_DIRECTORY | O_CLOEXEC);
		ASSERT_GE(cl->dir_fd, 0);
		ASSERT_EQ(0, pthread_create(&cl->thread, NULL, client, cl));
	}
	WAIT_FOR(client_opens(s) >= opens && load(&storm->commands));
	ASSERT_EQ(0, load(&storm->links_failed));
	usleep(rand() % 500);

	switch (kind) {
	case ABORT:
		ASSERT_EQ(1, write(to[1], &(char){ DO_ABORT }, 1));
		break;
	case DETACH:
		if (force) {
			ASSERT_EQ(0, umount2(s->env.mnt,
					     MNT_FORCE | MNT_DETACH));
			break;
		}
		ASSERT_EQ(0, umount2(s->env.mnt, MNT_DETACH));
		/* for who has the directory it goes on, and then it ends */
		opens = client_opens(s);
		WAIT_FOR(client_opens(s) > opens);
		break;
	case KILL:
		ASSERT_EQ(0, kill(s->pid, SIGKILL));
		break;
	case RING_EXIT:
		set(&storm->exit_rings);
		WAIT_FOR(load(&storm->rings_exited));
		/* before, while or after the kernel ends the ring */
		usleep(rand() % 5000);
		/* who waits now would wait for ever */
		ASSERT_EQ(1, write(to[1], &(char){ DO_ABORT }, 1));
		break;
	}
	if (kind != DETACH || force) {
		/* somebody gets to see it */
		for (i = 0; i < CLIENTS; i++)
			WAIT_FOR(load(&s->clients[i].failed));
	}
	ASSERT_EQ(0, join_clients(s));
	if (kind != KILL)
		ASSERT_EQ(1, write(to[1], &(char){ DO_STOP }, 1));
	ASSERT_EQ(0, reap(s, &status));
	ASSERT_EQ(kind == KILL ? SIGKILL : 0, status);
	for (i = 0; i < CLIENTS; i++)
		ASSERT_EQ(0, s->clients[i].wrong);
	s->opens += client_opens(s);
	s->linked += storm->linked;
	s->commands += storm->commands;
	umount2(s->env.mnt, MNT_DETACH);
	close(to[1]);
	close(from[0]);
}

/* What must not be more after the storm than before it */
struct counts {
	unsigned int nr;
	struct {
		char name[32];
		long n;
	} of[512];
};

static void add_count(struct counts *counts, const char *name, long n)
{
	if (counts->nr == ARRAY_SIZE(counts->of))
		abort();
	snprintf(counts->of[counts->nr].name, sizeof(counts->of[0].name),
		 "%.31s", name);
	counts->of[counts->nr++].n = n;
}

static void write_file(const char *path, const char *what)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	/* what does not work shows in the counts */
	if (fd >= 0 && write(fd, what, strlen(what)) < 0)
		perror(path);
	if (fd >= 0)
		close(fd);
}

/* What is free in the cache but kept for a CPU would count */
static void shrink_slab(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), SLABS "/%.31s/shrink", name);
	write_file(path, "1");
}

/* The slab caches that are of interest, with @shrink or to count */
static void slabs(struct counts *counts, bool shrink)
{
	char line[512], name[32];
	long active;
	size_t i;
	FILE *f;

	for (i = 0; i < ARRAY_SIZE(slab_names); i++) {
		if (shrink)
			shrink_slab(slab_names[i]);
		else
			add_count(counts, slab_names[i],
				  slab_objects(slab_names[i]));
	}
	/* one file, because each that is opened leaves something to RCU */
	f = fopen("/proc/slabinfo", "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%31s %ld", name, &active) != 2 ||
		    strncmp(name, "kmalloc-", 8))
			continue;
		if (shrink)
			shrink_slab(name);
		else
			add_count(counts, name, active);
	}
	if (f)
		fclose(f);
}

static void take_counts(struct counts *counts)
{
	char line[1024];
	long n = 0;
	FILE *f;
	DIR *dir;

	counts->nr = 0;
	write_file("/proc/sys/vm/drop_caches", "3");

	f = fopen("/proc/self/mountinfo", "re");
	while (f && fgets(line, sizeof(line), f))
		n++;
	if (f)
		fclose(f);
	add_count(counts, "mounts", n);

	/* of detached mounts, too */
	n = 0;
	dir = opendir("/sys/fs/fuse/connections");
	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	add_count(counts, "connections", n);

	n = 0;
	f = fopen("/proc/sys/fs/file-nr", "re");
	if (f && fscanf(f, "%ld", &n) != 1)
		n = 0;
	if (f)
		fclose(f);
	add_count(counts, "files", n);

	slabs(counts, true);
	slabs(counts, false);
}

static long before(const struct counts *counts, const char *name)
{
	unsigned int i;

	for (i = 0; i < counts->nr; i++) {
		if (!strcmp(counts->of[i].name, name))
			return counts->of[i].n;
	}
	return 0;
}

/* How many kinds of objects there are too many of; says so if told */
static int leaks(struct __test_metadata *_metadata, const struct counts *was,
		 const struct counts *now, long rounds)
{
	/* what everybody uses can grow with the time that it takes */
	long many = rounds / 2 + 10, few = many < FEW ? many : FEW;
	unsigned int i;
	int found = 0;

	for (i = 0; i < now->nr; i++) {
		const char *name = now->of[i].name;
		long n = now->of[i].n - before(was, name), limit = few;

		if (!strncmp(name, "kmalloc-", 8))
			limit = many;
		else if (!strcmp(name, "mounts") || !strcmp(name, "connections"))
			limit = 1;
		if (n < limit)
			continue;
		found++;
		if (_metadata)
			TH_LOG("%s: %ld more", name, n);
	}
	return found;
}

/* Returns true if there is nothing too many, at once or in a while */
static bool settle(const struct counts *was, struct counts *now, long rounds)
{
	unsigned int i;

	for (i = 0; i < SETTLE * 2; i++) {
		take_counts(now);
		if (!leaks(NULL, was, now, rounds))
			return true;
		usleep(500000);
	}
	return false;
}

TEST_F_TIMEOUT(storm, rounds, 3600)
{
	const char *env = getenv("BACKING_STORM_ROUNDS");
	unsigned int rounds = env ? atoi(env) : DEFAULT_ROUNDS, try, i;
	struct counts was, now;

	ASSERT_GT(rounds, 0);
	for (i = 0; i < WARMUP_ROUNDS; i++)
		one_round(_metadata, &self->s, variant->kind, i);
	sleep(1);
	take_counts(&was);
	/* What others do to the counts can look like a leak, but once only */
	for (try = 0; try < 2; try++) {
		for (i = 0; i < rounds; i++)
			one_round(_metadata, &self->s, variant->kind, i);
		TH_LOG("%u rounds, %lu opens, %lu linked, %lu other commands",
		       rounds, self->s.opens, self->s.linked,
		       self->s.commands);
		if (settle(&was, &now, rounds))
			return;
		leaks(_metadata, &was, &now, rounds);
		was = now;
	}
	ASSERT_TRUE(false) TH_LOG("something leaks");
}

int main(int argc, char **argv)
{
	backing_env_main();
	return test_harness_run(argc, argv);
}
