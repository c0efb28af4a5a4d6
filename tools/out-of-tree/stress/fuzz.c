// SPDX-License-Identifier: GPL-2.0
/*
 * Random backing file commands, for as long as told.
 *
 *	fuzz [-t SECONDS] [-n SQES] [-s SEED] [test harness options]
 *
 * It runs in batches. A batch is some threads with a ring each that fill it with
 * random SQEs, for two connections, while clients open files and a connection
 * ends. A thread has ids of its own and issues the commands for them in an order,
 * so it knows what each has to answer and what is live in the end. Or it is a
 * wild one: it shares its ids with the others like it, and its SQEs are
 * rewritten while they are issued.
 *
 * The batches of one pair of connections run in a child, which can be killed.
 * After it the file system with the backing files has to go, and the kernel may
 * not have complained.
 *
 * Batch i of the seed S is batch 0 of the seed S + i: "-s SEED -n 1", which is
 * printed when a batch fails, runs that one alone. What repeats is the input of
 * each thread. How the threads run against each other does not.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "env.h"
#include "issue.h"
#include "stress.h"

#define CONNS		2
#define WORKERS		4
/* SQEs of a ring, how often it is filled at most, and how many are linked */
#define ENTRIES		128
#define ROUNDS		16
#define CHAIN		8
/* Seconds after which what does not come will not come */
#define PATIENCE	120

/* Ids that are wanted, in three places, and others that the kernel has picked */
#define LOW		4
#define WANTED		(3 * LOW)
#define SLOTS		32
/* Those in the replies to clients: one for each file */
#define CLIENT_ID	0x20000000
/* None of these */
#define NO_ID		0x30000000

/* What happens to a connection while a batch runs */
enum end { END_NONE, END_FORCE, END_DETACH, END_KILL, NR_END };
/* A batch in which something does comes so often */
#define ENDS_EVERY	8

/* Whose credentials: an SQE's personality is what is registered for it */
enum who { WHO_SELF, WHO_GROUP, WHO_NOBODY, NR_WHO };

/* What is left of a child that was killed */
static struct shared {
	/* of the batch that runs, or the next one */
	__u64 seed;
	/* a connection may be ending, and how */
	enum end end;
	/* for who goes on while the workers do */
	bool stop;
	unsigned long sqes, batches, ends[NR_END];
	/* by errno, and of those without */
	unsigned long results[256], opened, repeated;
	/* of clients, the registrations for them, those with a wrong fd */
	unsigned long opens, wrong, fronts, failed;
} *shared;

static unsigned long max_sqes, seconds, first_seed;

/* An id of a connection, and what should be registered under it */
struct slot {
	int id, path;
	enum who who;
	bool live;
	/* an SQE of this round is to have it picked */
	bool busy;
};

static struct conn {
	struct ring_server *server;
	struct files files;
	/* by ioctl and by ring, to see what is live */
	struct issuer issuers[2];
	struct slot slots[WORKERS][SLOTS];
	/* a reply had a registration in front */
	bool fronted[3];
} conns[CONNS];

/* Files to register, and what is none, with what the command answers */
#define FDS		6
#define ALL_FDS		9
static const struct {
	const char *name;
	int flags, path, err;
} files[] = {
	{ "0", O_RDWR, 0 }, { "0", O_RDONLY, 0 }, { "1", O_WRONLY, 1 },
	{ "1", O_PATH, 1 }, { "2", O_PATH, 2 },
	/* a hard link: another path to file 0 */
	{ "link", O_RDONLY, 3 },
	{ "none", O_RDONLY, 0, -EBADF }, { ".", O_DIRECTORY, 0, -EISDIR },
	{ "/dev/fuse", O_RDWR, 0, -EINVAL },
};

static int fds[ALL_FDS];

/* Devices of the connections and clones of them, and then what is none */
#define DEVS		(2 * CONNS)
static int devs[DEVS + 2];

struct cmd {
	struct conn *conn;
	/* NULL: of an id that is not there */
	struct slot *slot;
	bool open;
	int id, file;
	enum who who;
	/* what is wrong with it; 1: something, and any error will do */
	int err;
};

struct worker {
	pthread_t thread;
	unsigned int nr, rounds, ring_flags;
	/* IOSQE_* of all its SQEs */
	unsigned int flags;
	/* see above; linked SQEs, or many that are not; devices by index */
	bool wild, chains, fixed;
	__u64 rng;
	struct io_uring ring;
	int personality[NR_WHO];
	struct cmd cmds[ENTRIES];
	int res[ENTRIES];
	/* what is left of a wild one */
	int picked[ROUNDS * ENTRIES];
	unsigned int nr_picked;
};

static struct worker workers[WORKERS];
static unsigned int nr_workers;
static pthread_barrier_t barrier;

/* Ends the child; the parent says how to repeat it */
#define fail(fmt, ...) do {						\
	ksft_print_msg("batch %llu: " fmt "\n",				\
		       (unsigned long long)shared->seed, ##__VA_ARGS__);	\
	fflush(stdout);							\
	_exit(KSFT_FAIL);						\
} while (0)

#define check_zero(expression) do {					\
	int ret = (expression);						\
									\
	if (ret)							\
		fail("%s: %d", #expression, ret);			\
} while (0)

static void count(unsigned long *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
}

/* splitmix64: every seed is a good one, S and S + 1 too */
static __u64 rnd64(__u64 *rng)
{
	__u64 z = (*rng += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static unsigned int rnd(__u64 *rng, unsigned int n)
{
	return (rnd64(rng) >> 32) * n >> 32;
}

static bool one_in(__u64 *rng, unsigned int n)
{
	return !rnd(rng, n);
}

/* Those that the kernel does not pick, and one for each node of the id map */
static int wanted_id(const struct worker *w, unsigned int slot)
{
	int n = (w->wild ? WORKERS : w->nr) * LOW + slot % LOW;

	return slot < LOW ? 1 + n :
	       slot < 2 * LOW ? 0x40000000 + n * 0x1000 : INT_MAX - n;
}

/* One thing that is wrong with a command. Returns what it answers then */
static int spoil(struct worker *w, struct cmd *cmd, struct io_uring_sqe *sqe)
{
	/* words that have to be 0, at the end those of the map */
	static const __u8 reserved[] = { 0, 1, 2, 3, 4, 5, 11, 7, 8, 9 };
	struct fuse_uring_cmd_req *req = fuse_cmd_req(sqe);
	unsigned int n = rnd(&w->rng, ARRAY_SIZE(reserved));
	/* what is looked at only if the caller may register files */
	int late = cmd->who == WHO_NOBODY ? -EPERM : -EINVAL;

	switch (rnd(&w->rng, 10)) {
	case 0:
		sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
		return 1;
	case 1:
		/* io_uring itself refuses it */
		sqe->ioprio = 1;
		return 1;
	case 2:
		/* another command, but for REGISTER: the queues are needed */
		sqe->cmd_op = n < 6 ? 2 + n % 3 : 1000 * n;
		/* a request's is even: never one that somebody waits for */
		req->commit_id = n | 1;
		req->flags = n % 2 ? FUSE_URING_COMMIT_BACKING : 0;
		req->backing.map.fd = fds[rnd(&w->rng, ALL_FDS)];
		return 1;
	case 3:
		/* no device, or without a connection */
		sqe->fd = w->fixed ? DEVS + n % 2 : devs[DEVS + n % 2];
		return 1;
	case 4:
		req->backing.id = INT_MIN | n;
		return late;
	case 5:
	case 6:
		n = FDS + n % (ALL_FDS - FDS);
		req->backing.map.fd = fds[n];
		return cmd->open && late == -EINVAL ? files[n].err :
		       cmd->open ? late : -EINVAL;
	default:
		((__u32 *)req)[reserved[n]] |= 1U << rnd(&w->rng, 32);
		return cmd->open && n > 6 ? late : -EINVAL;
	}
}

static void fill(struct worker *w, struct cmd *cmd, struct io_uring_sqe *sqe)
{
	struct fuse_uring_cmd_req *req = fuse_cmd_req(sqe);
	unsigned int dev = rnd(&w->rng, DEVS), n = rnd(&w->rng, SLOTS);

	*cmd = (struct cmd) {
		.conn = &conns[dev / 2],
		.slot = &conns[dev / 2].slots[w->nr][n],
		.open = one_in(&w->rng, 2),
		.file = rnd(&w->rng, FDS),
		.who = one_in(&w->rng, 4) ? rnd(&w->rng, NR_WHO) : WHO_SELF,
	};
	cmd->id = cmd->slot->id;
	if (n >= WANTED && !cmd->slot->live) {
		/* to be picked, once a round: it has no number until then */
		cmd->open &= !cmd->slot->busy;
		cmd->id = cmd->open ? 0 : NO_ID;
		cmd->slot->busy |= cmd->open;
		if (!cmd->open)
			cmd->slot = NULL;
	}
	sqe->fd = w->fixed ? (int)dev : devs[dev];
	sqe->flags = w->flags;
	sqe->personality = w->personality[cmd->who];
	sqe->cmd_op = cmd->open ? FUSE_IO_URING_CMD_BACKING_OPEN :
				  FUSE_IO_URING_CMD_BACKING_CLOSE;
	req->backing.id = cmd->id;
	if (cmd->open)
		req->backing.map.fd = fds[cmd->file];
	/* what nobody looks at */
	sqe->addr = rnd64(&w->rng);
	memset(req + 1, rnd64(&w->rng), (char *)(sqe + 2) - (char *)(req + 1));
	if (one_in(&w->rng, 6))
		cmd->err = spoil(w, cmd, sqe);
	else if (cmd->who == WHO_NOBODY)
		cmd->err = -EPERM;
}

/* May a command have failed because its connection ends? */
static bool too_late(int res)
{
	return shared->end && (res == -ENOTCONN || res == -ECONNABORTED);
}

static void check_cmd(struct worker *w, struct cmd *cmd, int res)
{
	struct slot *slot = cmd->slot;
	bool live = slot && slot->live;
	int want;

	if (res <= 0)
		count(&shared->results[-res]);
	if (w->wild && res > 0)
		w->picked[w->nr_picked++] = res;
	if (w->wild || too_late(res) || (w->chains && res == -ECANCELED))
		return;
	if (cmd->err)
		want = cmd->err > 0 && res < 0 ? res : cmd->err;
	else if (!cmd->open)
		want = live ? 0 : -ENOENT;
	else if (!live)
		want = cmd->id ? cmd->id : res > 0 && res < CLIENT_ID ? res : 1;
	else
		want = slot->who == cmd->who &&
		       slot->path == files[cmd->file].path ? cmd->id : -EEXIST;
	if (res != want)
		fail("%s of id %d: %d, not %d", cmd->open ? "open" : "close",
		     cmd->id, res, want);
	if (cmd->open && res > 0) {
		count(live ? &shared->repeated : &shared->opened);
		*slot = (struct slot) { .id = res, .who = cmd->who, .live = true,
					.path = files[cmd->file].path };
	} else if (!cmd->open && !res) {
		slot->live = false;
	}
}

static void run_round(struct worker *w)
{
	struct __kernel_timespec patience = { .tv_sec = PATIENCE };
	unsigned int nr, max = w->chains ? 1 + rnd(&w->rng, CHAIN) : ENTRIES;
	struct io_uring_sqe *sqe, *last = NULL;
	struct io_uring_cqe *cqe;
	unsigned int i;
	int err;

	for (nr = 0; nr < max && (sqe = fuse_cmd_sqe(&w->ring, 0, 0)); nr++) {
		fill(w, &w->cmds[nr], sqe);
		sqe->user_data = nr;
		if (last && w->chains)
			last->flags |= one_in(&w->rng, 4) ? IOSQE_IO_LINK :
							    IOSQE_IO_HARDLINK;
		last = sqe;
	}
	do {
		/* it can stop at what is malformed */
		err = io_uring_submit(&w->ring);
	} while (err >= 0 && !(w->ring.flags & IORING_SETUP_SQPOLL) &&
		 io_uring_sq_ready(&w->ring));
	for (i = 0; err >= 0 && i < nr; i++) {
		do {
			err = io_uring_wait_cqe_timeout(&w->ring, &cqe,
							&patience);
		} while (err == -EINTR);
		if (err)
			break;
		w->res[cqe->user_data] = cqe->res;
		io_uring_cqe_seen(&w->ring, cqe);
	}
	if (err < 0)
		fail("SQE or CQE: %d", err);
	/* an SQPOLL thread posts CQEs before it gives the SQEs back */
	while (io_uring_sq_ready(&w->ring))
		sched_yield();
	for (i = 0; i < nr; i++)
		check_cmd(w, &w->cmds[i], w->res[i]);
	for (i = 0; i < nr; i++) {
		if (w->cmds[i].slot)
			w->cmds[i].slot->busy = false;
	}
	__atomic_add_fetch(&shared->sqes, nr, __ATOMIC_SEQ_CST);
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	struct io_uring_params p = { .flags = w->ring_flags,
				     .sq_thread_idle = 10 };
	unsigned int i;

	/* a ring can be its thread's alone */
	check_zero(io_uring_queue_init_params(ENTRIES, &w->ring, &p));
	if (w->fixed)
		check_zero(io_uring_register_files(&w->ring, devs,
						   ARRAY_SIZE(devs)));
	/* of this thread alone; the C library would change the process */
	check_zero(syscall(SYS_setfsgid, 1));
	w->personality[WHO_GROUP] = io_uring_register_personality(&w->ring);
	syscall(SYS_setfsgid, 0);
	check_zero(syscall(SYS_setresuid, -1, 1, -1));
	w->personality[WHO_NOBODY] = io_uring_register_personality(&w->ring);
	check_zero(syscall(SYS_setresuid, -1, 0, -1));
	pthread_barrier_wait(&barrier);
	for (i = 0; i < w->rounds; i++)
		run_round(w);
	return NULL;
}

/* Changes a word of a command on its way into the kernel, with one store */
static void *rewriter(void *arg)
{
	__u64 rng = ~shared->seed;
	unsigned int word, nr;
	__u32 *req, value;

	pthread_barrier_wait(&barrier);
	while (!__atomic_load_n(&shared->stop, __ATOMIC_SEQ_CST)) {
		struct worker *w = &workers[rnd(&rng, nr_workers)];

		/* there may be more threads than CPUs */
		if (!w->wild || one_in(&rng, 64)) {
			sched_yield();
			continue;
		}
		/* on a mixed ring each takes two places */
		nr = ENTRIES >> !!(w->ring_flags & IORING_SETUP_SQE_MIXED);
		req = (__u32 *)w->ring.sq.sqes[rnd(&rng, nr) * 2].cmd;
		word = rnd(&rng, sizeof(struct fuse_uring_cmd_req) / 4);
		/* with the lowest bit, which no request's commit_id has */
		value = one_in(&rng, 4) ? rnd64(&rng) | 1 : 0;
		if (word == 6)
			value = value ? fds[rnd(&rng, ALL_FDS)] : 0;
		else if (word == 10 && !value)
			value = wanted_id(w, rnd(&rng, WANTED));
		else if (word == 10)
			value = one_in(&rng, 2) ? 0 : value | INT_MIN;
		__atomic_store_n(&req[word], value, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* A process without the device: it goes when the server is killed */
static void __noreturn run_client(pid_t server)
{
	__u64 rng = shared->seed ^ 1;
	char name[] = "0";
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != server)
		_exit(0);
	syscall(SYS_close_range, 3, ~0U, 0);
	while (!__atomic_load_n(&shared->stop, __ATOMIC_SEQ_CST)) {
		name[0] = '0' + rnd(&rng, 3);
		fd = env_open(name, one_in(&rng, 2) ? O_RDONLY : O_RDWR);
		if (fd < 0)
			continue;
		errno = 0;
		/* the connection can end between the two */
		if (!env_is(fd, name) && !errno)
			count(&shared->wrong);
		close(fd);
		count(&shared->opens);
	}
	_exit(0);
}

/* The fd of a request with a right or wrong registration linked in front */
#define LINKED_GOOD	(-2)
#define LINKED_BAD	(-3)

/*
 * Answers a client of the first connection: with the id of the file, which every
 * reply registers, linked or not, with its fd, or with what LOOKUP has brought;
 * with a wrong fd or id now and then; or without passthrough.
 */
static bool reply(struct ring_req *req)
{
	static __u64 replies;
	__u64 rng = shared->seed +
		    __atomic_add_fetch(&replies, 1, __ATOMIC_SEQ_CST);
	bool commit = req->server->offered & FUSE_COMMIT_BACKING;
	unsigned int way = rnd(&rng, commit ? 12 : 8);
	bool bad = one_in(&rng, 4), link = way % 2;
	struct io_uring_sqe *sqe;
	int name;

	if (req->in.opcode == FUSE_LOOKUP && req->len > 0 && commit && way)
		req->fd = req->node->fd;
	/* the first ones can come over /dev/fuse */
	if (req->in.opcode != FUSE_OPEN || !way || !req->queue)
		return true;
	name = req->node->name[0] - '0';
	req->open->open_flags = FOPEN_PASSTHROUGH;
	/* by LOOKUP */
	if (way == 8)
		return true;
	if (way > 8) {
		/* there is no such fd */
		req->fd = bad ? INT_MAX : req->node->fd;
		count(bad ? &shared->failed : &shared->fronts);
		return true;
	}
	req->open->backing_id = way == 1 ? NO_ID : CLIENT_ID + name;
	if (way == 1)
		return true;
	sqe = ring_queue_cmd(req->queue, FUSE_IO_URING_CMD_BACKING_OPEN,
			     link ? (uintptr_t)req : (__u64)bad);
	if (link) {
		sqe->flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
		req->fd = bad ? LINKED_BAD : LINKED_GOOD;
	}
	fuse_cmd_req(sqe)->backing.map.fd = bad ? -1 : req->node->fd;
	fuse_cmd_req(sqe)->backing.id = CLIENT_ID + name;
	if (!bad)
		conns[0].fronted[name] = true;
	count(bad ? &shared->failed : &shared->fronts);
	return true;
}

static void refused(struct ring_req *req, int err)
{
	if (!req->open || (!too_late(err) && err != -EBADF))
		fail("reply to operation %u: %d", req->in.opcode, err);
	/* not with passthrough, then */
	req->fd = -1;
	req->open->open_flags = 0;
	req->open->backing_id = 0;
	ring_req_commit(req);
}

static void cqe(struct ring_queue *queue, __u64 data, int res)
{
	struct ring_req *req = data > 1 ? (void *)(uintptr_t)data : NULL;
	bool bad = req ? req->fd == LINKED_BAD : data;

	if (!too_late(res) && (bad ? res != -EBADF : res < CLIENT_ID))
		fail("registration in front: %d", res);
	/* the commit has not run */
	if (req)
		refused(req, bad ? -EBADF : res);
}

static void plan_batch(void)
{
	static const unsigned int ring_flags[] = {
		IORING_SETUP_SQE128,
		IORING_SETUP_SQE128 | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_SQE128 | IORING_SETUP_SQPOLL,
		IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER |
			IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_SQE128 | IORING_SETUP_CQE32 |
			IORING_SETUP_COOP_TASKRUN,
		IORING_SETUP_SQE_MIXED ? IORING_SETUP_SQE_MIXED :
					 IORING_SETUP_SQE128,
	};
	__u64 rng = shared->seed;
	bool wild = one_in(&rng, 3);
	unsigned int i, j;

	memset(workers, 0, sizeof(workers));
	nr_workers = 1 + rnd(&rng, WORKERS);
	for (i = 0; i < nr_workers; i++) {
		struct worker *w = &workers[i];

		w->nr = i;
		w->wild = wild && one_in(&rng, 2);
		w->rng = rnd64(&rng);
		w->ring_flags = ring_flags[rnd(&rng, ARRAY_SIZE(ring_flags))];
		w->rounds = 1 + rnd(&rng, ROUNDS);
		w->fixed = one_in(&rng, 4);
		w->flags = w->fixed ? IOSQE_FIXED_FILE : 0;
		w->chains = one_in(&rng, 3);
		/* it is the link that keeps the order then */
		if (w->chains && one_in(&rng, 2))
			w->flags |= IOSQE_ASYNC;
		for (j = 0; j < CONNS * SLOTS; j++)
			conns[j / SLOTS].slots[i][j % SLOTS] = (struct slot) {
				.id = wanted_id(w, j % SLOTS),
			};
	}
	for (i = 0; i < CONNS; i++)
		memset(conns[i].fronted, 0, sizeof(conns[i].fronted));
	shared->end = shared->seed % ENDS_EVERY ? END_NONE :
		      1 + shared->seed / ENDS_EVERY % (NR_END - 1);
}

/* Closes an id, by one way or the other */
static void check_id(struct conn *conn, int id, bool live, bool known)
{
	/* the ioctls outlive a connection */
	bool ring = !shared->end && shared->seed % 2;
	int err = issue_close(&conn->issuers[ring], id);

	if ((err && err != -ENOENT) || (known && live != !err))
		fail("id %d should be live: %d, close: %d", id, live, err);
}

static void check_ids(struct conn *conn)
{
	unsigned int i, j;

	for (i = 0; i < nr_workers; i++) {
		struct slot *slot = conn->slots[i];

		for (j = 0; j < SLOTS && !workers[i].wild; j++) {
			if (j < WANTED || slot[j].live)
				check_id(conn, slot[j].id, slot[j].live, true);
		}
	}
	for (i = 0; i < ARRAY_SIZE(conn->fronted); i++)
		check_id(conn, CLIENT_ID + i, conn->fronted[i], !shared->end);
	/* what is left of wild ones, of which nothing is known but these */
	for (i = 0; i < nr_workers; i++) {
		struct worker *w = &workers[i];

		for (j = 0; j < WANTED && w->wild; j++)
			check_id(conn, wanted_id(w, j), false, false);
		for (j = 0; j < w->nr_picked; j++)
			check_id(conn, w->picked[j], false, false);
	}
}

static const char * const mounts[CONNS] = { ENV_MNT, ENV_MNT "1" };

static void run_batch(void)
{
	__u64 rng = ~shared->seed;
	pid_t server = getpid(), pid;
	pthread_t thread;
	unsigned int i;

	plan_batch();
	shared->stop = false;
	pid = fork();
	if (!pid)
		run_client(server);
	check_zero(pthread_barrier_init(&barrier, NULL, nr_workers + 1));
	check_zero(pthread_create(&thread, NULL, rewriter, NULL));
	for (i = 0; i < nr_workers; i++)
		check_zero(pthread_create(&workers[i].thread, NULL,
					  worker_thread, &workers[i]));
	if (shared->end) {
		/* not at an event, but anywhere */
		usleep(rnd(&rng, 100000));
		if (shared->end == END_KILL)
			kill(server, SIGKILL);
		check_zero(umount2(mounts[rnd(&rng, CONNS)], MNT_DETACH |
				   (shared->end == END_FORCE ? MNT_FORCE : 0)));
	}
	for (i = 0; i < nr_workers; i++)
		pthread_join(workers[i].thread, NULL);
	__atomic_store_n(&shared->stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	if (wait_for(pid, PATIENCE))
		fail("the client is gone or hangs");
	if (shared->wrong)
		fail("a client has read another file");
	for (i = 0; i < nr_workers; i++)
		io_uring_queue_exit(&workers[i].ring);
	for (i = 0; i < CONNS; i++)
		check_ids(&conns[i]);
}

/* All that can happen has to, if it was not told how much */
static bool enough(void)
{
	return max_sqes ? shared->sqes >= max_sqes :
	       time(NULL) >= (time_t)seconds &&
	       shared->batches >= ENDS_EVERY * NR_END;
}

/* The child: batches up to one that ends a connection */
static void __noreturn serve(int dir_fd)
{
	static const struct issue_how hows[] = { { .ioctl = true },
						 { .clone = true } };
	struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT | FUSE_COMMIT_BACKING,
		.max_stack_depth = 1,
		.handle = files_handle,
		.hooks = { .reply = reply, .refused = refused, .cqe = cqe,
			   .sqe = commit_file },
	};
	struct stat st;
	int i, j, id;

	for (i = 0; i < ALL_FDS; i++)
		fds[i] = openat(dir_fd, files[i].name, files[i].flags | O_CLOEXEC);
	devs[DEVS] = fds[ALL_FDS - 1];
	devs[DEVS + 1] = fds[0];
	for (i = 0; i < CONNS; i++) {
		struct conn *conn = &conns[i];

		files_init(&conn->files, dup(dir_fd));
		cfg.priv = &conn->files;
		check_zero(ring_server_start(&conn->server, mounts[i], &cfg));
		/* until all queues are there, ADD_QUEUE can add one */
		check_zero(stat(mounts[i], &st));
		for (j = 0; j < 2; j++)
			check_zero(issuer_init(&conn->issuers[j], &hows[j],
					       conn->server->dev_fd));
		devs[2 * i] = conn->server->dev_fd;
		devs[2 * i + 1] = conn->issuers[1].dev_fd;
		/* the kernel does not pick the low ones any more */
		do {
			id = issue_open(&conn->issuers[0], fds[0], 0);
			check_zero(issue_close(&conn->issuers[0], id));
		} while (id < (WORKERS + 1) * LOW);
	}
	do {
		run_batch();
		count(&shared->ends[shared->end]);
		count(&shared->batches);
		shared->seed++;
	} while (!shared->end && !enough());
	for (i = 0; i < CONNS; i++) {
		issuer_exit(&conns[i].issuers[1]);
		check_zero(ring_server_stop(conns[i].server));
	}
	_exit(KSFT_PASS);
}

/* Reads what the kernel has said meanwhile, up to a complaint */
static bool complains(int kmsg)
{
	char line[8192];
	ssize_t n;

	while ((n = read(kmsg, line, sizeof(line) - 1)) > 0 || errno == EPIPE) {
		line[n < 0 ? 0 : n] = '\0';
		if (strstr(line, "WARNING: ") || strstr(line, "BUG: "))
			return true;
	}
	return false;
}

FIXTURE(fuzz)
{
	struct env env;
};

FIXTURE_SETUP(fuzz)
{
}

FIXTURE_TEARDOWN(fuzz)
{
}

TEST_F_TIMEOUT(fuzz, batches, 10000000)
{
	/* of results that have to come */
	static const int errs[] = { 0, EPERM, ENOENT, EBADF, EEXIST, EISDIR,
				    EINVAL, EOPNOTSUPP, ECANCELED, ENOTCONN };
	unsigned long sqes, seed;
	int status, kmsg;
	unsigned int i;
	pid_t pid;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, shared);
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ASSERT_LE(0, kmsg);
	lseek(kmsg, 0, SEEK_END);
	shared->seed = first_seed;
	seconds += time(NULL);
	do {
		const char *missing;

		seed = shared->seed;
		sqes = shared->sqes;
		memset(&self->env, 0, sizeof(self->env));
		missing = env_setup(_metadata, &self->env, ENV_INIT);
		ASSERT_EQ(NULL, missing)
			TH_LOG("%s", missing);
		ASSERT_EQ(0, mkdir(mounts[1], 0755));
		for (i = 0; i < FDS - 1; i++)
			close(env_file(_metadata, &self->env, files[i].name));
		ASSERT_EQ(0, linkat(self->env.files.dir_fd, "0",
				    self->env.files.dir_fd, "link", 0));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			serve(self->env.files.dir_fd);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		if (shared->end == END_KILL && status == SIGKILL) {
			count(&shared->ends[END_KILL]);
			count(&shared->batches);
			shared->seed++;
			status = 0;
		}
		EXPECT_EQ(0, status);
		/* if it was not the server that has unmounted them */
		umount2(mounts[0], MNT_DETACH);
		umount2(mounts[1], MNT_DETACH);
		env_teardown(_metadata, &self->env);
		EXPECT_EQ(0, umount2("/tmp", MNT_DETACH));
		EXPECT_FALSE(complains(kmsg));
	} while (__test_passed(_metadata) && !enough());

	if (!__test_passed(_metadata)) {
		TH_LOG("to repeat it: -s %llu -n 1, or -s %lu -n %lu",
		       shared->seed, seed, shared->sqes - sqes);
		return;
	}
	TH_LOG("%lu SQEs in %lu batches: %lu opened, %lu repeated",
	       shared->sqes, shared->batches, shared->opened, shared->repeated);
	TH_LOG("%lu opens by clients, %lu registered in front, %lu failed to",
	       shared->opens, shared->fronts, shared->failed);
	for (i = 0; i < ARRAY_SIZE(errs); i++)
		TH_LOG("%lu of %s", shared->results[errs[i]], strerror(errs[i]));
	if (max_sqes)
		return;
	for (i = 0; i < ARRAY_SIZE(errs); i++)
		EXPECT_LT(0, shared->results[errs[i]]);
	for (i = 0; i < NR_END; i++)
		EXPECT_LT(0, shared->ends[i]);
	EXPECT_TRUE(shared->opened && shared->repeated && shared->opens &&
		    shared->fronts && shared->failed);
}

int main(int argc, char **argv)
{
	seconds = take_option(&argc, argv, "-t", 20);
	max_sqes = take_option(&argc, argv, "-n", 0);
	first_seed = take_option(&argc, argv, "-s", 1);
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
