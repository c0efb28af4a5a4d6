// SPDX-License-Identifier: GPL-2.0
/*
 * The end of a connection in the midst of commands.
 *
 *	storm [-r ROUNDS] [test harness options]
 *
 * Clients open files, with replies that pass the backing file or the id that is
 * registered in front, and without asking the server. Then the connection is
 * aborted (umount -f), the mount detached (umount -l), the server killed, or the
 * rings of its queues close, while each client has a file open. Nothing may hang,
 * no client may read anything but its file, and nothing may be left.
 */
#define _GNU_SOURCE
#include <glob.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "env.h"
#include "stress.h"

#define CLIENTS		2
/* Before what is there already is counted */
#define WARM_UP		5
/* Times that it is counted, to have nothing in it that RCU is yet to free */
#define SETTLE		15
/* Seconds after which something hangs; a debugging kernel is slow */
#define PATIENCE	120

enum kind { ABORT, DETACH, KILL, RING_EXIT };

/*
 * The reply to an open has a registration in front of it, a file with it, or uses
 * the one of LOOKUP; or there is no open
 */
enum manner { HARD_LINK, NOT_LINKED, COMMIT, BY_LOOKUP, NO_OPEN, NR_MANNERS };

/* Shared by the test and the server, a process of its own */
static struct storm {
	/* goes up with each event: a futex */
	__u32 events;
	__u32 ready;
	__u32 opens[NO_OPEN];
	/* commands that failed before the end */
	__u32 failed;
	/* the connection may be ending now, and queues' threads have to */
	__u32 ending, exit_rings;
	__u32 rings_exited;
} *storm;

static unsigned long rounds;

static __u32 load(__u32 *p)
{
	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static void count(__u32 *p)
{
	__atomic_add_fetch(p, 1, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&storm->events, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &storm->events, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

#define WAIT_FOR(condition) do {					\
	const struct timespec patience = { .tv_sec = PATIENCE };	\
	__u32 seen;							\
									\
	while (seen = load(&storm->events), !(condition))		\
		ASSERT_FALSE(syscall(SYS_futex, &storm->events,		\
				     FUTEX_WAIT, seen, &patience, NULL,	\
				     0) && errno == ETIMEDOUT)		\
			TH_LOG("%s does not come", #condition);		\
} while (0)

/* The server's process */

static unsigned int link_flags;
static int last_id;

static bool reply(struct ring_req *req)
{
	const struct fuse_release_in *release = req->op;
	const struct fuse_open_in *open = req->op;
	enum manner manner = rand() % NO_OPEN;
	struct io_uring_sqe *sqe;

	/* every other id is left for the end of the connection */
	if (req->in.opcode == FUSE_RELEASE && release->fh % 2) {
		sqe = ring_queue_cmd(req->queue,
				     FUSE_IO_URING_CMD_BACKING_CLOSE, 0);
		fuse_cmd_req(sqe)->backing.id = release->fh;
	}
	/* an open that passes none has this one */
	if (req->in.opcode == FUSE_LOOKUP && req->len > 0) {
		req->fd = req->node->fd;
		req->flags = FUSE_URING_BACKING_INODE |
			     (rand() % 2 ? FUSE_URING_BACKING_NO_OPEN : 0);
	}
	if (req->in.opcode != FUSE_OPEN)
		return true;
	/* the connection can have ended since LOOKUP */
	if (manner == BY_LOOKUP && !(open->open_flags & FUSE_OPEN_BACKING))
		manner = COMMIT;
	count(&storm->opens[manner]);
	req->open->open_flags = FOPEN_PASSTHROUGH;
	if (manner == COMMIT) {
		req->fd = req->node->fd;
	} else if (manner < COMMIT) {
		/* of this open alone, as is its file handle */
		req->open->fh = __atomic_add_fetch(&last_id, 1,
						   __ATOMIC_SEQ_CST);
		req->open->backing_id = req->open->fh;
		sqe = ring_queue_cmd(req->queue,
				     FUSE_IO_URING_CMD_BACKING_OPEN, 0);
		fuse_cmd_req(sqe)->backing.map.fd = req->node->fd;
		fuse_cmd_req(sqe)->backing.id = req->open->fh;
		if (manner == HARD_LINK)
			sqe->flags |= IOSQE_IO_HARDLINK | link_flags;
	}
	return true;
}

/* The reply to an open is the last that its thread submits */
static void sqe(struct ring_req *req, struct io_uring_sqe *sqe)
{
	if (!req->open || !load(&storm->exit_rings))
		return;
	io_uring_submit(&req->queue->issuer.ring);
	issuer_exit(&req->queue->issuer);
	count(&storm->rings_exited);
	pthread_exit(NULL);
}

static void cqe(struct ring_queue *queue, __u64 data, int res)
{
	if (res < 0 && !load(&storm->ending))
		count(&storm->failed);
}

/* Serves until the other end of @fd is closed */
static int serve(struct env *env, unsigned int round, int fd)
{
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.max_stack_depth = 1,
		.options = "default_permissions",
		.handle = files_handle,
		.hooks = { .reply = reply, .sqe = sqe, .cqe = cqe },
		.priv = env,
	};
	char c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	link_flags = round % 2 ? IOSQE_ASYNC : 0;
	if (ring_server_start(&env->server, ENV_MNT, &cfg))
		return 1;
	count(&storm->ready);
	if (read(fd, &c, 1))
		return 1;
	/* EBUSY is for whoever looks at the mount table */
	ring_server_stop(env->server);
	return 0;
}

/* The test's process, with the clients as its threads */

struct client {
	pthread_t thread;
	char name[2];
	int dir_fd;
	bool stop;
	__u32 opens, failed, wrong;
};

static void *run_client(void *arg)
{
	struct client *c = arg;
	int fd, last = -1;

	while (!__atomic_load_n(&c->stop, __ATOMIC_SEQ_CST)) {
		fd = openat(c->dir_fd, c->name, O_RDWR | O_CLOEXEC);
		if (fd < 0) {
			count(&c->failed);
			sched_yield();
			continue;
		}
		errno = 0;
		/* the same again, or an error */
		if (!env_is(fd, c->name) && !errno)
			count(&c->wrong);
		if (pwrite(fd, c->name, 1, ENV_FILE_SZ) < 0)
			count(&c->failed);
		/* there is always one that is open */
		close(last);
		last = fd;
		count(&c->opens);
	}
	errno = 0;
	if (!env_is(last, c->name) && !errno)
		count(&c->wrong);
	close(last);
	return NULL;
}

struct storm_test {
	struct env env;
	struct client clients[CLIENTS];
	unsigned long opens[NR_MANNERS];
};

FIXTURE(storm)
{
	struct storm_test t;
};

FIXTURE_VARIANT(storm)
{
	enum kind kind;
};

FIXTURE_VARIANT_ADD(storm, abort) { .kind = ABORT };
FIXTURE_VARIANT_ADD(storm, detach) { .kind = DETACH };
FIXTURE_VARIANT_ADD(storm, kill) { .kind = KILL };
FIXTURE_VARIANT_ADD(storm, ring_exit) { .kind = RING_EXIT };

FIXTURE_SETUP(storm)
{
	const char *missing = env_setup(_metadata, &self->t.env,
					ENV_NEED(BY_COMMAND) |
					FUSE_HAS_NO_OPEN_BACKING);
	int i;

	ASSERT_EQ(NULL, missing) {
		TH_LOG("%s", missing);
	}
	storm = mmap(NULL, sizeof(*storm), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, storm);
	for (i = 0; i < CLIENTS; i++) {
		self->t.clients[i].name[0] = '0' + i;
		close(env_file(_metadata, &self->t.env, self->t.clients[i].name));
	}
}

/* That nothing holds a backing file is seen here */
FIXTURE_TEARDOWN(storm)
{
	env_teardown(_metadata, &self->t.env);
}

static unsigned int client_opens(struct client *clients)
{
	unsigned int n = 0, i;

	for (i = 0; i < CLIENTS; i++)
		n += load(&clients[i].opens);
	return n;
}

static void one_round(struct __test_metadata *_metadata,
		      struct storm_test *t, enum kind kind, unsigned int round)
{
	struct client *c = t->clients;
	unsigned int opens, asked = 0, i;
	int to[2];
	pid_t pid;

	memset(storm, 0, sizeof(*storm));
	ASSERT_EQ(0, pipe2(to, O_CLOEXEC));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(to[1]);
		_exit(serve(&t->env, round, to[0]));
	}
	close(to[0]);
	WAIT_FOR(load(&storm->ready));
	for (i = 0; i < CLIENTS; i++) {
		c[i].stop = false;
		c[i].opens = 0;
		c[i].failed = 0;
		c[i].dir_fd = open(ENV_MNT, O_PATH | O_DIRECTORY | O_CLOEXEC);
		ASSERT_LE(0, c[i].dir_fd);
		ASSERT_EQ(0, pthread_create(&c[i].thread, NULL, run_client,
					    &c[i]));
	}
	WAIT_FOR(client_opens(c) > round % 8);
	/* not at an event, but anywhere */
	usleep(rand() % 500);
	/* but for DETACH, where it goes on while there are clients */
	storm->ending = kind != DETACH;

	switch (kind) {
	case ABORT:
		ASSERT_EQ(0, umount2(ENV_MNT, MNT_FORCE | MNT_DETACH));
		break;
	case DETACH:
		ASSERT_EQ(0, umount2(ENV_MNT, MNT_DETACH));
		opens = client_opens(c);
		WAIT_FOR(client_opens(c) > opens);
		storm->ending = true;
		break;
	case KILL:
		ASSERT_EQ(0, kill(pid, SIGKILL));
		break;
	case RING_EXIT:
		count(&storm->exit_rings);
		WAIT_FOR(load(&storm->rings_exited));
		/* before, while or after the kernel ends the ring */
		usleep(rand() % 5000);
		/* who waits now would wait for ever */
		ASSERT_EQ(0, umount2(ENV_MNT, MNT_FORCE | MNT_DETACH));
		break;
	}
	for (i = 0; i < CLIENTS; i++) {
		if (kind != DETACH)
			WAIT_FOR(load(&c[i].failed));
		__atomic_store_n(&c[i].stop, true, __ATOMIC_SEQ_CST);
		pthread_join(c[i].thread, NULL);
		ASSERT_EQ(0, c[i].wrong);
		close(c[i].dir_fd);
	}
	close(to[1]);
	ASSERT_EQ(kind == KILL ? SIGKILL : 0, wait_for(pid, PATIENCE));
	ASSERT_EQ(0, storm->failed);
	umount2(ENV_MNT, MNT_DETACH);
	for (i = 0; i < NO_OPEN; i++) {
		t->opens[i] += storm->opens[i];
		asked += storm->opens[i];
	}
	if (client_opens(c) > asked)
		t->opens[NO_OPEN] += client_opens(c) - asked;
}

/* Caches by name, as they can be merged */
#define SLABS	"/sys/kernel/slab/{kmalloc-*,fuse_*,cred*,filp,io_kiocb," \
		"mnt_cache,radix_tree_node,task_struct}/objects"
#define MAX_SLABS	128

struct slabs {
	glob_t paths;
	/* open all the time, as to open them takes objects, too */
	int drop_fd, objects_fd[MAX_SLABS], shrink_fd[MAX_SLABS];
};

static void slabs_open(struct __test_metadata *_metadata, struct slabs *s)
{
	char path[128];
	size_t i;

	s->drop_fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
	/* CONFIG_SLUB_DEBUG */
	ASSERT_EQ(0, glob(SLABS, GLOB_BRACE, NULL, &s->paths));
	ASSERT_GT(MAX_SLABS, s->paths.gl_pathc);
	for (i = 0; i < s->paths.gl_pathc; i++) {
		s->objects_fd[i] = open(s->paths.gl_pathv[i],
					O_RDONLY | O_CLOEXEC);
		snprintf(path, sizeof(path), "%.*sshrink",
			 (int)(strlen(s->paths.gl_pathv[i]) - strlen("objects")),
			 s->paths.gl_pathv[i]);
		s->shrink_fd[i] = open(path, O_WRONLY | O_CLOEXEC);
	}
}

/* The objects of each cache; if not @first, the least that was ever seen */
static void slabs_count(struct __test_metadata *_metadata, struct slabs *s,
			long *counts, bool first)
{
	char number[64] = "";
	size_t i;
	long n;

	ASSERT_EQ(1, pwrite(s->drop_fd, "3", 1, 0));
	for (i = 0; i < s->paths.gl_pathc; i++) {
		/*
		 * What is free but kept for a CPU counts: up to 60 objects for
		 * each (sheaf_capacity), as soon as it needs one
		 */
		ASSERT_EQ(1, pwrite(s->shrink_fd[i], "1", 1, 0));
		ASSERT_LT(0, pread(s->objects_fd[i], number,
				   sizeof(number) - 1, 0));
		n = atol(number);
		if (first || n < counts[i])
			counts[i] = n;
	}
}

TEST_F_TIMEOUT(storm, rounds, 36000)
{
	long was[MAX_SLABS], now[MAX_SLABS], limit = rounds / 4;
	unsigned int half, grown[MAX_SLABS] = {};
	struct slabs slabs;
	size_t i, round;
	time_t end;
	bool more;

	/* fewer would not tell */
	ASSERT_LE(20, rounds);
	slabs_open(_metadata, &slabs);
	for (i = 0; i < WARM_UP; i++)
		one_round(_metadata, &self->t, variant->kind, i);
	for (i = 0; i < SETTLE; i++) {
		/* the first one of an open file takes memory for it */
		slabs_count(_metadata, &slabs, was, i < 2);
		usleep(200000);
	}

	/*
	 * What each round leaves is there after both halves. What comes once,
	 * like the buffers of a console that is late, is not.
	 */
	for (half = round = 0; half < 2; half++) {
		for (; round < rounds * (half + 1) / 2; round++)
			one_round(_metadata, &self->t, variant->kind, round);

		/* RCU frees for a while */
		end = time(NULL) + PATIENCE;
		slabs_count(_metadata, &slabs, now, true);
		do {
			usleep(200000);
			slabs_count(_metadata, &slabs, now, false);
			for (i = 0, more = false; i < slabs.paths.gl_pathc; i++)
				more |= now[i] - was[i] >= limit;
		} while (more && time(NULL) < end);

		for (i = 0; i < slabs.paths.gl_pathc; i++) {
			grown[i] += now[i] - was[i] >= limit;
			was[i] = now[i];
		}
	}

	TH_LOG("%lu rounds, opens: %lu linked, %lu not, %lu with the file",
	       rounds, self->t.opens[HARD_LINK], self->t.opens[NOT_LINKED],
	       self->t.opens[COMMIT]);
	TH_LOG("%lu by LOOKUP, %lu that the server was not asked for",
	       self->t.opens[BY_LOOKUP], self->t.opens[NO_OPEN]);
	for (i = 0; i < NR_MANNERS; i++)
		EXPECT_LT(0, self->t.opens[i]);
	for (i = 0; i < slabs.paths.gl_pathc; i++) {
		EXPECT_GT(2, grown[i]) {
			TH_LOG("leak: %s", slabs.paths.gl_pathv[i]);
		}
		close(slabs.objects_fd[i]);
		close(slabs.shrink_fd[i]);
	}
	close(slabs.drop_fd);
	globfree(&slabs.paths);
}

int main(int argc, char **argv)
{
	rounds = take_option(&argc, argv, "-r", 25);
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
