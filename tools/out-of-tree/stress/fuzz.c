// SPDX-License-Identifier: GPL-2.0
/*
 * Random commands that have to do with backing files, for as long as told.
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

/* Ids that we pick, in three places, and others that the kernel picks */
#define LOW		4
#define PICKED		(3 * LOW)
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
	unsigned long results[256], opened;
	/* of clients, wrong ones, OPENs, files passed for them, those with no fd */
	unsigned long opens, wrong, asked, passed, failed;
} *shared;

static unsigned long max_sqes, seconds, first_seed;

#define NEED	(ENV_NEED(BY_COMMAND) | FUSE_HAS_NO_OPEN_BACKING)

/* An id of a connection, and whether a file should be registered under it */
struct slot {
	int id;
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
	int flags, err;
} files[] = {
	{ "0", O_RDWR }, { "0", O_RDONLY }, { "1", O_WRONLY }, { "1", O_PATH },
	{ "2", O_PATH },
	/* a hard link: another path to file 0 */
	{ "link", O_RDONLY },
	/* the fd of what is not there is -1 */
	{ "none", O_RDONLY, -EBADF }, { ".", O_DIRECTORY, -EISDIR },
	{ "/dev/fuse", O_RDWR, -EINVAL },
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
	unsigned int nr, rounds;
	/* see above; linked SQEs, or many that are not */
	bool wild, chains;
	__u64 rng;
	struct issue_how how;
	struct issuer issuer;
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
static int picked_id(const struct worker *w, unsigned int slot)
{
	int n = (w->wild ? WORKERS : w->nr) * LOW + slot % LOW;

	return slot < LOW ? 1 + n :
	       slot < 2 * LOW ? 0x40000000 + n * 0x1000 : INT_MAX - n;
}

/* A COMMIT_BACKING, for no request. Returns what it answers */
static int commit(struct worker *w, struct cmd *cmd, struct io_uring_sqe *sqe)
{
	struct fuse_uring_cmd_req *req = fuse_cmd_req(sqe);
	unsigned int file = rnd(&w->rng, ALL_FDS);

	sqe->cmd_op = FUSE_IO_URING_CMD_COMMIT_BACKING;
	memset(req, 0, sizeof(*req));
	/* one with a flag of none, and one that does not go alone */
	req->flags = rnd(&w->rng, 2 * FUSE_URING_BACKING_NO_OPEN + 1);
	/* a request's is even: never one that somebody waits for */
	req->commit_id = rnd64(&w->rng) | 1;
	req->backing.map.fd = fds[file];
	if (req->flags > (FUSE_URING_BACKING_INODE | FUSE_URING_BACKING_NO_OPEN) ||
	    req->flags == FUSE_URING_BACKING_NO_OPEN)
		return -EINVAL;
	if (cmd->who == WHO_NOBODY)
		return -EPERM;
	/* -1 is to drop a file */
	return files[file].err == -EBADF && req->flags ? -ENOENT :
	       files[file].err ? files[file].err : -ENOENT;
}

/* One thing that is wrong with a command. Returns what it answers then */
static int spoil(struct worker *w, struct cmd *cmd, struct io_uring_sqe *sqe)
{
	/* words that have to be 0, at the end those of the map */
	static const __u8 reserved[] = { 0, 1, 2, 3, 4, 5, 7, 8, 9 };
	struct fuse_uring_cmd_req *req = fuse_cmd_req(sqe);
	unsigned int n = rnd(&w->rng, ARRAY_SIZE(reserved));

	switch (rnd(&w->rng, 10)) {
	case 0:
		sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
		return -EINVAL;
	case 1:
		/* io_uring itself refuses it */
		sqe->ioprio = 1;
		return 1;
	case 2:
		/* another command, but for REGISTER: the queues are needed */
		sqe->cmd_op = n < 6 ? 2 + n % 3 : 1000 * n;
		req->commit_id = n | 1;
		req->backing.map.fd = fds[rnd(&w->rng, ALL_FDS)];
		return 1;
	case 3:
		/* no device, or without a connection */
		sqe->fd = w->how.fixed ? DEVS + n % 2 : devs[DEVS + n % 2];
		return 1;
	case 4:
		/* of which no bit is lost */
		req->backing.id |= 1ULL << (31 + rnd(&w->rng, 33));
		return cmd->open ? -EINVAL : -ENOENT;
	case 5:
	case 6:
		n = FDS + n % (ALL_FDS - FDS);
		req->backing.map.fd = fds[n];
		return !cmd->open ? -EINVAL :
		       cmd->who == WHO_NOBODY ? -EPERM : files[n].err;
	default:
		((__u32 *)req)[reserved[n]] |= 1U << rnd(&w->rng, 32);
		return -EINVAL;
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
	if (n >= PICKED && !cmd->slot->live) {
		/* to be picked, once a round: it has no number until then */
		cmd->open &= !cmd->slot->busy;
		cmd->id = cmd->open ? 0 : NO_ID;
		cmd->slot->busy |= cmd->open;
		if (!cmd->open)
			cmd->slot = NULL;
	}
	sqe->fd = w->how.fixed ? (int)dev : devs[dev];
	sqe->personality = w->personality[cmd->who];
	sqe->cmd_op = cmd->open ? FUSE_IO_URING_CMD_BACKING_OPEN :
				  FUSE_IO_URING_CMD_BACKING_CLOSE;
	req->backing.id = cmd->id;
	if (cmd->open)
		req->backing.map.fd = fds[cmd->file];
	/* what nobody looks at */
	sqe->addr = rnd64(&w->rng);
	memset(req + 1, rnd64(&w->rng), (char *)(sqe + 2) - (char *)(req + 1));
	if (one_in(&w->rng, 8))
		cmd->err = commit(w, cmd, sqe);
	else if (one_in(&w->rng, 6))
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
	else if (cmd->id)
		want = live ? -EEXIST : 0;
	else
		want = res > 0 && res < CLIENT_ID ? res : 1;
	if (res != want)
		fail("%s of id %d: %d, not %d", cmd->open ? "open" : "close",
		     cmd->id, res, want);
	if (cmd->open && res >= 0) {
		count(&shared->opened);
		slot->id = cmd->id ? cmd->id : res;
		slot->live = true;
	} else if (!cmd->open && !res) {
		slot->live = false;
	}
}

static void run_round(struct worker *w)
{
	struct __kernel_timespec patience = { .tv_sec = PATIENCE };
	unsigned int nr, max = w->chains ? 1 + rnd(&w->rng, CHAIN) : ENTRIES;
	struct io_uring *ring = &w->issuer.ring;
	struct io_uring_sqe *sqe, *last = NULL;
	struct io_uring_cqe *cqe;
	unsigned int i;
	int err;

	for (nr = 0; nr < max && (sqe = issue_sqe(&w->issuer, 0, NULL)); nr++) {
		fill(w, &w->cmds[nr], sqe);
		sqe->user_data = nr;
		if (last && w->chains)
			last->flags |= one_in(&w->rng, 4) ? IOSQE_IO_LINK :
							    IOSQE_IO_HARDLINK;
		last = sqe;
	}
	do {
		/* it can stop at what is malformed */
		err = io_uring_submit(ring);
	} while (err >= 0 && !(ring->flags & IORING_SETUP_SQPOLL) &&
		 io_uring_sq_ready(ring));
	for (i = 0; err >= 0 && i < nr; i++) {
		do {
			err = io_uring_wait_cqe_timeout(ring, &cqe, &patience);
		} while (err == -EINTR);
		if (err)
			break;
		w->res[cqe->user_data] = cqe->res;
		io_uring_cqe_seen(ring, cqe);
	}
	if (err < 0)
		fail("SQE or CQE: %d", err);
	/* an SQPOLL thread posts CQEs before it gives the SQEs back */
	while (io_uring_sq_ready(ring))
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
	struct issue_how how = w->how;
	struct io_uring *ring;
	unsigned int i;

	/* it knows of one device only */
	how.fixed = false;
	/* a ring can be its thread's alone */
	check_zero(issuer_init(&w->issuer, &how, devs[0], ENTRIES));
	ring = &w->issuer.ring;
	if (w->how.fixed) {
		check_zero(io_uring_register_files(ring, devs,
						   ARRAY_SIZE(devs)));
		w->issuer.how.fixed = true;
	}
	/* of this thread alone; the C library would change the process */
	check_zero(syscall(SYS_setfsgid, 1));
	w->personality[WHO_GROUP] = io_uring_register_personality(ring);
	syscall(SYS_setfsgid, 0);
	check_zero(syscall(SYS_setresuid, -1, 1, -1));
	w->personality[WHO_NOBODY] = io_uring_register_personality(ring);
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
		nr = ENTRIES >> w->how.mixed;
		req = (__u32 *)w->issuer.ring.sq.sqes[rnd(&rng, nr) * 2].cmd;
		word = rnd(&rng, sizeof(struct fuse_uring_cmd_req) / 4);
		/* with the lowest bit, which no request's commit_id has */
		value = one_in(&rng, 4) ? rnd64(&rng) | 1 : 0;
		if (word == 6)
			value = value ? fds[rnd(&rng, ALL_FDS)] : 0;
		else if (word == 10 && !value)
			value = picked_id(w, rnd(&rng, PICKED));
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

/* What a reply of the first connection passes */
enum manner {
	NOTHING,
	/* the id of the file, registered in front of every reply, or none */
	HARD_LINK, NOT_LINKED, NO_SUCH_ID,
	/* a file, maybe as the inode's, and the latter with LOOKUP */
	COMMIT, BY_LOOKUP,
	NR_MANNERS
};

/* A wrong fd now and then. LOOKUP can drop the inode's file, or have no OPEN */
static bool reply(struct ring_req *req)
{
	static __u64 replies;
	__u64 rng = shared->seed +
		    __atomic_add_fetch(&replies, 1, __ATOMIC_SEQ_CST);
	enum manner manner = rnd(&rng, NR_MANNERS);
	const struct fuse_open_in *in = req->op;
	bool bad = one_in(&rng, 4);
	struct io_uring_sqe *sqe;
	int name;

	if (req->in.opcode == FUSE_LOOKUP && req->len > 0 && manner) {
		req->fd = bad ? -1 : req->node->fd;
		req->flags = FUSE_URING_BACKING_INODE |
			     (one_in(&rng, 2) ? FUSE_URING_BACKING_NO_OPEN : 0);
	}
	if (req->in.opcode != FUSE_OPEN)
		return true;
	count(&shared->asked);
	if (manner == NOTHING)
		return true;
	if (manner != BY_LOOKUP && manner != NO_SUCH_ID)
		count(bad ? &shared->failed : &shared->passed);
	if (manner == COMMIT) {
		/* there is no such fd */
		req->fd = bad ? INT_MAX : req->node->fd;
		req->flags = one_in(&rng, 2) ? FUSE_URING_BACKING_INODE : 0;
		return true;
	}
	if (manner == BY_LOOKUP && !(in->open_flags & FUSE_OPEN_BACKING))
		return true;
	req->open->open_flags = FOPEN_PASSTHROUGH;
	if (manner == BY_LOOKUP)
		return true;
	name = req->node->name[0] - '0';
	req->open->backing_id = manner == NO_SUCH_ID ? NO_ID : CLIENT_ID + name;
	if (manner == NO_SUCH_ID)
		return true;
	sqe = ring_queue_cmd(req->queue, FUSE_IO_URING_CMD_BACKING_OPEN, bad);
	if (manner == HARD_LINK)
		sqe->flags |= IOSQE_IO_HARDLINK;
	fuse_cmd_req(sqe)->backing.map.fd = bad ? -1 : req->node->fd;
	fuse_cmd_req(sqe)->backing.id = CLIENT_ID + name;
	if (!bad)
		conns[0].fronted[name] = true;
	return true;
}

static void refused(struct ring_req *req, int err)
{
	if (!req->open || (!too_late(err) && err != -EBADF))
		fail("reply to operation %u: %d", req->in.opcode, err);
	req->flags = 0;
	ring_req_no_file(req);
	ring_req_commit(req);
}

static void cqe(struct ring_queue *queue, __u64 bad, int res)
{
	if (!too_late(res) && (bad ? res != -EBADF : res && res != -EEXIST))
		fail("registration in front: %d", res);
}

static void plan_batch(void)
{
	static const struct issue_how hows[] = {
		{ },
		{ .ring_flags = IORING_SETUP_SUBMIT_ALL },
		{ .ring_flags = IORING_SETUP_SQPOLL },
		{ .ring_flags = IORING_SETUP_SINGLE_ISSUER |
				IORING_SETUP_DEFER_TASKRUN },
		{ .ring_flags = IORING_SETUP_CQE32 |
				IORING_SETUP_COOP_TASKRUN },
		{ .mixed = !!IORING_SETUP_SQE_MIXED },
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
		w->how = hows[rnd(&rng, ARRAY_SIZE(hows))];
		w->rounds = 1 + rnd(&rng, ROUNDS);
		w->how.fixed = one_in(&rng, 4);
		w->chains = one_in(&rng, 3);
		/* it is the link that keeps the order then */
		if (w->chains && one_in(&rng, 2))
			w->how.sqe_flags = IOSQE_ASYNC;
		for (j = 0; j < CONNS * SLOTS; j++)
			conns[j / SLOTS].slots[i][j % SLOTS] = (struct slot) {
				.id = picked_id(w, j % SLOTS),
			};
	}
	for (i = 0; i < CONNS; i++)
		memset(conns[i].fronted, 0, sizeof(conns[i].fronted));
	shared->end = shared->seed % ENDS_EVERY ? END_NONE :
		      1 + shared->seed / ENDS_EVERY % (NR_END - 1);
}

/* Closes an id, by the ioctl or a command */
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
			if (j < PICKED || slot[j].live)
				check_id(conn, slot[j].id, slot[j].live, true);
		}
	}
	for (i = 0; i < ARRAY_SIZE(conn->fronted); i++)
		check_id(conn, CLIENT_ID + i, conn->fronted[i], !shared->end);
	/* what is left of wild ones, of which nothing is known but these */
	for (i = 0; i < nr_workers; i++) {
		struct worker *w = &workers[i];

		for (j = 0; j < PICKED && w->wild; j++)
			check_id(conn, picked_id(w, j), false, false);
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
		issuer_exit(&workers[i].issuer);
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
	static const struct issue_how clone = { .clone = true };
	struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.max_stack_depth = 1,
		.options = "default_permissions",
		.handle = files_handle,
		.hooks = { .reply = reply, .refused = refused, .cqe = cqe },
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
			check_zero(issuer_init(&conn->issuers[j],
					       j ? &clone : NULL,
					       conn->server->dev_fd, 0));
		conn->issuers[0].by = BY_IOCTL;
		devs[2 * i] = conn->server->dev_fd;
		devs[2 * i + 1] = conn->issuers[1].dev_fd;
		/* the kernel does not pick the low ones any more */
		do {
			id = issue_open(&conn->issuers[0], fds[0]);
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
		for (j = 0; j < 2; j++)
			issuer_exit(&conns[i].issuers[j]);
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

/*
 * A child that makes the directories, has another one serve, and sees that nothing
 * is left: what env_setup() makes goes with the process.
 */
static pid_t start_pair(struct __test_metadata *_metadata)
{
	struct env env = { };
	pid_t pid = sys_fork();
	const char *missing;
	unsigned int i;
	int status;

	if (pid)
		return pid;
	missing = env_setup(_metadata, &env, NEED);
	ASSERT_EQ(NULL, missing) {
		TH_LOG("%s", missing);
	}
	ASSERT_EQ(0, mkdir(mounts[1], 0755));
	for (i = 0; i < FDS - 1; i++)
		close(env_file(_metadata, &env, files[i].name));
	ASSERT_EQ(0, linkat(env.files.dir_fd, "0", env.files.dir_fd, "link", 0));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		serve(env.files.dir_fd);
	status = sys_wait(pid);
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
	env_teardown(_metadata, &env);
	_exit(_metadata->exit_code);
}

FIXTURE(fuzz)
{
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
	unsigned int i;
	int kmsg;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, shared);
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ASSERT_LE(0, kmsg);
	lseek(kmsg, 0, SEEK_END);
	shared->seed = first_seed;
	seconds += time(NULL);
	do {
		seed = shared->seed;
		sqes = shared->sqes;
		EXPECT_EQ(0, sys_wait(start_pair(_metadata)));
		EXPECT_FALSE(complains(kmsg));
	} while (__test_passed(_metadata) && !enough());

	if (!__test_passed(_metadata)) {
		TH_LOG("to repeat it: -s %llu -n 1, or -s %lu -n %lu",
		       shared->seed, seed, shared->sqes - sqes);
		return;
	}
	TH_LOG("%lu SQEs in %lu batches: %lu opened", shared->sqes,
	       shared->batches, shared->opened);
	TH_LOG("%lu opens by clients, %lu asked for, %lu files passed, %lu refused",
	       shared->opens, shared->asked, shared->passed, shared->failed);
	for (i = 0; i < ARRAY_SIZE(errs); i++)
		TH_LOG("%lu of %s", shared->results[errs[i]], strerror(errs[i]));
	if (max_sqes)
		return;
	for (i = 0; i < ARRAY_SIZE(errs); i++)
		EXPECT_LT(0, shared->results[errs[i]]);
	for (i = 0; i < NR_END; i++)
		EXPECT_LT(0, shared->ends[i]);
	EXPECT_TRUE(shared->opened && shared->asked && shared->passed &&
		    shared->failed);
	/* the others needed no OPEN */
	EXPECT_LT(shared->asked, shared->opens);
}

int main(int argc, char **argv)
{
	seconds = take_option(&argc, argv, "-t", 20);
	max_sqes = take_option(&argc, argv, "-n", 0);
	first_seed = take_option(&argc, argv, "-s", 1);
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
