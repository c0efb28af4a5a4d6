// SPDX-License-Identifier: GPL-2.0
/*
 * Random backing file commands, for as long as told.
 *
 *	backing_fuzz_test [-s seed] [-n sqes] [-t seconds]
 *
 * It runs in batches. A batch is some threads with a ring each that fill it
 * with random SQEs, for two connections, while others rewrite the SQEs, open
 * files through the mount or end a connection. Each CQE tells what became of
 * its SQE, so at the end of the batch the ids that should be live are known,
 * and every id that can be live is closed to see if it was.
 *
 * The batches of one pair of connections run in a child, which can be killed.
 * After it the file systems with the backing files have to unmount, and the
 * kernel may not have been tainted, by a WARN or by KASAN.
 *
 * Batch i of the seed S is batch 0 of the seed S + i: "-s SEED -n 1", which is
 * printed when a batch fails, runs that one alone. What repeats is the input of
 * each thread. How the threads run against each other does not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest.h"
#include "backing_env.h"
#include "backing_ids.h"
#include "backing_ops.h"

#define DEFAULT_SECONDS	30
#define PROGRESS_NS	5000000000LL
/* A CQE that has not come by then will not come */
#define CQE_TIMEOUT	120

/* The bit of /proc/sys/kernel/tainted for a WARN */
#define TAINT_WARN	9

#define NR_CONNS	2
#define MAX_THREADS	4
#define MAX_ROUNDS	16
#define MAX_ENTRIES	256

#if BACKING_IDS_PICKED < 2 * MAX_THREADS * MAX_ROUNDS * MAX_ENTRIES
#error a batch can use up the ids
#endif

enum rewrite {
	REWRITE_NONE,
	/* all but BACKING_CLOSE: which ids are live remains known */
	REWRITE_OPENS,
	/* to another command and connection: how many are live does */
	REWRITE_ALL,
};

/* What happens to a connection while a batch runs */
enum end {
	END_NONE,
	END_ABORT,
	END_UMOUNT,
	/* a REGISTER that fails: the kernel takes no more commands then */
	END_REGISTER,
	/* SIGKILL of the server, with all that it has in flight */
	END_KILL,
	NR_END,
};

/* Results of which some have to come if the fuzzer is to be of use */
static const struct {
	const char *name;
	int err;
} kinds[] = {
	{ "opened", 1 },
	{ "closed", 0 },
	{ "EPERM", -EPERM },
	{ "ENOENT", -ENOENT },
	{ "EBADF", -EBADF },
	{ "EEXIST", -EEXIST },
	{ "EISDIR", -EISDIR },
	{ "EINVAL", -EINVAL },
	{ "EOPNOTSUPP", -EOPNOTSUPP },
	{ "ECANCELED", -ECANCELED },
};

#define NR_KINDS	ARRAY_SIZE(kinds)
/* A run that has to see all of them, and in the end all else that it can do */
#define KINDS_SQES	5000
#define KINDS_BATCHES	8
/* One in so many batches ends a connection, in each of the ways in turn */
#define ENDS_EVERY	8

/* What is left of a child that was killed */
static struct shared {
	/* of the batch that runs, or the next one */
	__u64 seed;
	bool killed;
	/* for the threads that go on while the rings do, and the client */
	bool stop;
	unsigned long sqes;
	unsigned long batches;
	unsigned long ends[NR_END];
	/* those that a client got, and the linked registrations for them */
	unsigned long client_opens;
	unsigned long linked;
	unsigned long links_failed;
	unsigned long results[NR_KINDS + 1];
	long long progress_ns;
} *shared;

static unsigned long max_sqes;
static long long start_ns;
static long long deadline_ns;

struct conn {
	struct backing_env env;
	/* with a clone of the device; that of env is for the ioctls */
	struct backing_issuer clone;
	struct backing_ids ids;
};

static struct conn conns[NR_CONNS];

struct worker {
	pthread_t thread;
	__u64 rng;
	struct backing_how how;
	unsigned int rounds;
	/* which ones its SQEs can have; with IOSQE_FIXED_FILE all have it */
	unsigned int flags;
	struct backing_issuer issuer;
	struct random_cmd cmds[MAX_ENTRIES];
	struct backing_op ops[MAX_ENTRIES];
	unsigned long results[NR_KINDS + 1];
};

struct batch {
	__u64 seed;
	enum rewrite rewrite;
	enum end end;
	struct conn *end_conn;
	unsigned int end_usec;
	bool clients;
	unsigned int nr_workers;
	struct worker workers[MAX_THREADS];
	/* how many ids are live, of all connections */
	long live;
	pthread_barrier_t barrier;
};

static struct batch batch;
/* .first: where the kernel was with its ids when the batch began */
static struct backing_random input;

static long long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* Ends the child; the parent says how to repeat it */
static void __noreturn __printf(1, 2) fail(const char *fmt, ...)
{
	char buf[200];
	va_list args;

	va_start(args, fmt);
	vsnprintf(buf, sizeof(buf), fmt, args);
	va_end(args);
	ksft_print_msg("batch %llu: %s\n", batch.seed, buf);
	fflush(stdout);
	_exit(KSFT_FAIL);
}

static void check_zero(int err, const char *what)
{
	if (err)
		fail("%s: %s", what, strerror(err < 0 ? -err : err));
}

static void count(unsigned long *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static void count_id(struct conn *conn, int id, int n)
{
	__atomic_add_fetch(&batch.live, n, __ATOMIC_RELAXED);
	/* else it is not known which id, and of which connection */
	if (batch.rewrite != REWRITE_ALL && backing_ids_add(&conn->ids, id, n))
		fail("%d is nobody's id", id);
}

/* The ways to have a ring; what is not said is up to chance */
static const struct backing_how hows[] = {
	{ .setup_flags = IORING_SETUP_SQE128 },
	{ .setup_flags = IORING_SETUP_SQE128 | IORING_SETUP_SUBMIT_ALL },
	{ .setup_flags = IORING_SETUP_SQE128 | IORING_SETUP_SQPOLL },
	{ .setup_flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER |
			 IORING_SETUP_DEFER_TASKRUN },
	{ .setup_flags = IORING_SETUP_SQE128 | IORING_SETUP_CQE32 |
			 IORING_SETUP_COOP_TASKRUN },
#ifdef IORING_SETUP_SQE_MIXED
	{ .sqe_mixed = true },
	{ .sqe_mixed = true, .setup_flags = IORING_SETUP_SQPOLL },
#endif
	/* SQEs of 64 bytes, which are too short */
	{ .setup_flags = IORING_SETUP_SUBMIT_ALL },
};

static void count_result(struct worker *w, int res)
{
	unsigned int i;

	for (i = 0; i < NR_KINDS; i++) {
		if (kinds[i].err == res || (kinds[i].err > 0 && res > 0))
			break;
	}
	w->results[i]++;
}

static struct conn *conn_of(const struct random_cmd *cmd)
{
	return cmd->dev < input.nr_devs ? &conns[cmd->dev / 2] : NULL;
}

/* What the CQE alone tells, whatever the SQE was in the end */
static void count_rewritten(const struct random_cmd *cmd, int res)
{
	if (res < 0)
		return;
	if (batch.rewrite == REWRITE_OPENS && (!conn_of(cmd) || !res))
		fail("%d for a command that has to fail", res);
	count_id(conn_of(cmd), res, res ? 1 : -1);
}

static void count_cmd(const struct random_cmd *cmd, int res)
{
	bool open = cmd->cmd_op == FUSE_IO_URING_CMD_BACKING_OPEN;

	if (res < 0)
		return;
	if (!cmd->valid)
		fail("%d for a wrong command %u", res, cmd->cmd_op);
	if (open ? !res || (cmd->id && res != cmd->id) : res)
		fail("%d for command %u with id %d", res, cmd->cmd_op, cmd->id);
	count_id(conn_of(cmd), open ? res : cmd->id, open ? 1 : -1);
}

static void run_round(struct worker *w)
{
	struct io_uring *ring = &w->issuer.ring;
	unsigned int i, nr;

	nr = random_fill(&input, &w->rng, ring, w->flags, w->cmds, w->ops);
	check_zero(backing_ops_run(ring, w->ops, nr, batch.rewrite,
				   CQE_TIMEOUT), "SQEs and their CQEs");
	for (i = 0; i < nr; i++) {
		const struct random_cmd *cmd = &w->cmds[i];
		struct backing_op *op = &w->ops[i];

		/* IOSQE_CQE_SKIP_SUCCESS */
		if (op->reached && !op->done &&
		    cmd->cmd_op == FUSE_IO_URING_CMD_BACKING_OPEN)
			op->res = cmd->id;
		if (op->reached || op->done)
			count_result(w, op->res);
		if (batch.rewrite)
			count_rewritten(cmd, op->res);
		else if (op->reached)
			count_cmd(cmd, op->res);
	}
	__atomic_add_fetch(&shared->sqes, nr, __ATOMIC_RELAXED);
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	unsigned int i;

	/* a ring can be its thread's alone */
	check_zero(backing_issuer_init(&w->issuer, &w->how, -1), "ring");
	/* not for the client: the ring has the devices as its files */
	io_uring_ring_dontfork(&w->issuer.ring);
	if (w->flags & IOSQE_FIXED_FILE)
		check_zero(io_uring_register_files(&w->issuer.ring, input.devs,
						   RANDOM_FIXED(&input)),
			   "registered files");
	pthread_barrier_wait(&batch.barrier);
	for (i = 0; i < w->rounds; i++)
		run_round(w);
	return NULL;
}

static void *rewrite_thread(void *arg)
{
	__u64 rng = ~batch.seed;

	pthread_barrier_wait(&batch.barrier);
	while (!__atomic_load_n(&shared->stop, __ATOMIC_RELAXED)) {
		struct worker *w = &batch.workers[rnd(&rng, batch.nr_workers)];
		struct io_uring *ring = &w->issuer.ring;

		random_rewrite(&input, &rng, ring, w->flags);
		/* there may be more threads than CPUs */
		if (one_in(&rng, 64))
			sched_yield();
	}
	return NULL;
}

/*
 * A process of its own, without the device: a server that is killed is not gone
 * before its threads are, and the connection not before the server.
 */
static void run_client(pid_t server)
{
	__u64 rng = batch.seed ^ 1;
	char name[] = "f0", buf[100];
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != server)
		_exit(0);
	syscall(SYS_close_range, 3, ~0U, 0);
	while (!__atomic_load_n(&shared->stop, __ATOMIC_RELAXED)) {
		name[1] = '0' + rnd(&rng, RANDOM_FILES);
		fd = open_mnt(&conns[0].env, name,
			      one_in(&rng, 2) ? O_RDONLY : O_RDWR);
		if (fd < 0)
			continue;
		count(&shared->client_opens);
		/* fails if the file cannot be read or the connection ended */
		if (pread(fd, buf, sizeof(buf), rnd(&rng, 4096)) < 0)
			errno = 0;
		close(fd);
	}
	_exit(0);
}

/* Answers a client with any id, or with a registration in front */
static int answer_open(struct ring_req *req, struct ring_node *node,
		       struct fuse_open_out *out)
{
	static __u64 opens;
	__u64 rng = batch.seed +
		    __atomic_add_fetch(&opens, 1, __ATOMIC_RELAXED);

	if (one_in(&rng, 8))
		return 0;
	out->open_flags = FOPEN_PASSTHROUGH;
	out->backing_id = random_id(&input, &rng);
	/* when the connection ends nobody learns if the link was run */
	if (req->ent && batch.end == END_NONE && one_in(&rng, 2)) {
		out->backing_id = random_wanted_id(&rng);
		req->link_fd = input.files[rnd(&rng, RANDOM_FILES)];
		count_id(&conns[0], out->backing_id, 1);
		count(&shared->linked);
	}
	return 0;
}

static int answer_again(struct ring_req *req, struct ring_node *node,
			struct fuse_open_out *out, int err)
{
	count_id(&conns[0], out->backing_id, -1);
	count(&shared->links_failed);
	req->link_fd = -1;
	return 0;
}

static void end_connection(void)
{
	struct ring_server *server = batch.end_conn->env.server;
	int i, err = 0;

	usleep(batch.end_usec);
	switch (batch.end) {
	case END_ABORT:
		check_zero(ring_server_abort(server), "abort");
		break;
	case END_UMOUNT:
		/* busy while a client has a file open */
		for (i = 0; i < 20; i++) {
			err = ring_server_umount(server);
			if (err != -EBUSY)
				break;
			usleep(1000);
		}
		if (err == -EBUSY)
			err = umount2(batch.end_conn->env.mnt, MNT_DETACH) ?
			      -errno : 0;
		check_zero(err, "umount");
		break;
	case END_KILL:
		shared->killed = true;
		kill(getpid(), SIGKILL);
		break;
	default:
		break;
	}
}

static void plan_batch(__u64 seed)
{
	static const unsigned int entries[] = { 16, 128, MAX_ENTRIES };
	__u64 rng = seed;
	unsigned int i;

	memset(&batch, 0, sizeof(batch));
	batch.seed = seed;
	batch.rewrite = one_in(&rng, 3) ? 1 + rnd(&rng, 2) : REWRITE_NONE;
	input.opens_only = batch.rewrite == REWRITE_OPENS;
	batch.clients = one_in(&rng, 3);
	if (seed % ENDS_EVERY == 0)
		batch.end = 1 + seed / ENDS_EVERY % (NR_END - 1);
	input.registers = batch.end == END_REGISTER;
	batch.end_conn = &conns[rnd(&rng, NR_CONNS)];
	batch.end_usec = rnd(&rng, 100000);
	batch.nr_workers = 1 + rnd(&rng, MAX_THREADS);
	for (i = 0; i < batch.nr_workers; i++) {
		struct worker *w = &batch.workers[i];

		w->rng = rnd64(&rng);
		w->how = hows[rnd(&rng, ARRAY_SIZE(hows) - rnd(&rng, 2))];
		w->how.entries = entries[rnd(&rng, ARRAY_SIZE(entries))];
		w->rounds = 1 + rnd(&rng, MAX_ROUNDS);
		w->flags = rnd64(&rng) & BACKING_OPS_LINK;
		if (one_in(&rng, 4))
			w->flags |= IOSQE_FIXED_FILE;
		if (one_in(&rng, 4))
			w->flags |= IOSQE_ASYNC;
		/* a ring that has seen the one cannot do the other any more */
		if (one_in(&rng, 8))
			w->flags |= IOSQE_IO_DRAIN;
		else if (!batch.rewrite)
			w->flags |= IOSQE_CQE_SKIP_SUCCESS;
	}
}

/* Where the kernel is with its ids. The ioctls outlive a connection */
static int next_id(struct conn *conn)
{
	int id = backing_ids_next(&conn->env.issuer, input.files[0]);

	if (id < 0)
		fail("no ids any more: %s", strerror(-id));
	return id;
}

/* Are those ids live that should be? Closes all, through either interface */
static void check_batch(void)
{
	bool ring = batch.end == END_NONE && (batch.seed & 1);
	int i, id, wrong, end = 0;
	long ret, live = 0;

	for (i = 0; i < NR_CONNS; i++) {
		id = next_id(&conns[i]);
		end = id > end ? id : end;
	}
	for (i = 0; i < NR_CONNS; i++) {
		struct conn *conn = &conns[i];

		ret = backing_ids_close(&conn->ids, ring ? &conn->clone :
					&conn->env.issuer, end, &wrong);
		if (ret < 0)
			fail("close of all ids: %s", strerror(-ret));
		if (wrong && batch.rewrite != REWRITE_ALL)
			fail("connection %d: believed the contrary of id %d",
			     i, wrong);
		live += ret;
	}
	if (live != batch.live)
		fail("%ld ids are live, believed %ld", live, batch.live);
}

static void run_batch(__u64 seed)
{
	pthread_t rewriter;
	pid_t client = -1;
	unsigned int i, j;
	int id;

	plan_batch(seed);
	input.first = INT_MAX;
	for (i = 0; i < NR_CONNS; i++) {
		id = next_id(&conns[i]);
		if (id < input.first)
			input.first = id;
	}
	for (i = 0; i < NR_CONNS; i++) {
		memset(&conns[i].ids, 0, sizeof(conns[i].ids));
		conns[i].ids.first = input.first;
	}

	shared->stop = false;
	if (batch.clients) {
		pid_t server = getpid();

		client = fork();
		if (!client)
			run_client(server);
		if (client < 0)
			fail("fork: %s", strerror(errno));
	}
	pthread_barrier_init(&batch.barrier, NULL,
			     batch.nr_workers + !!batch.rewrite);
	for (i = 0; i < batch.nr_workers; i++)
		check_zero(pthread_create(&batch.workers[i].thread, NULL,
					  worker_thread, &batch.workers[i]),
			   "pthread_create");
	if (batch.rewrite)
		check_zero(pthread_create(&rewriter, NULL, rewrite_thread,
					  NULL), "pthread_create");
	if (batch.end)
		end_connection();

	for (i = 0; i < batch.nr_workers; i++)
		pthread_join(batch.workers[i].thread, NULL);
	__atomic_store_n(&shared->stop, true, __ATOMIC_RELAXED);
	/* nobody answers a client any more */
	if (batch.end == END_REGISTER)
		for (i = 0; i < NR_CONNS; i++)
			ring_server_abort(conns[i].env.server);
	if (batch.rewrite)
		pthread_join(rewriter, NULL);
	if (batch.clients && waitpid(client, NULL, 0) != client)
		fail("the client is gone");
	for (i = 0; i < batch.nr_workers; i++) {
		backing_issuer_exit(&batch.workers[i].issuer);
		for (j = 0; j <= NR_KINDS; j++)
			shared->results[j] += batch.workers[i].results[j];
	}
	pthread_barrier_destroy(&batch.barrier);
	check_batch();
}

static bool enough(void)
{
	return (max_sqes && shared->sqes >= max_sqes) ||
	       (deadline_ns && now_ns() >= deadline_ns);
}

static void print_progress(void)
{
	long long now = now_ns();

	if (now - shared->progress_ns < PROGRESS_NS)
		return;
	shared->progress_ns = now;
	ksft_print_msg("%lu SQEs in %lu batches, %.0f s, %.0f SQEs/s, now at seed %llu\n",
		       shared->sqes, shared->batches, (now - start_ns) / 1e9,
		       shared->sqes * 1e9 / (now - start_ns), shared->seed);
}

static void open_files(void)
{
	static const int modes[RANDOM_FILES] = { O_RDWR, O_RDONLY, O_WRONLY,
						 O_PATH };
	static const struct backing_how by_ioctl = { .ioctl = true };
	static const struct backing_how by_clone = {
		.setup_flags = IORING_SETUP_SQE128,
		.clone = true,
	};
	static const struct ring_server_cfg cfg = {
		.init_flags = BACKING_INIT,
		.open = answer_open,
		.link_failed = answer_again,
	};
	char name[] = "f0";
	int i, fd, pipes[2];

	for (i = 0; i < NR_CONNS; i++) {
		struct conn *conn = &conns[i];

		check_zero(backing_env_start(&conn->env, &by_ioctl, &cfg),
			   "server");
		fd = ring_server_dev_fd(conn->env.server);
		check_zero(backing_issuer_init(&conn->clone, &by_clone, fd),
			   "clone");
		io_uring_ring_dontfork(&conn->clone.ring);
		input.devs[input.nr_devs++] = fd;
		input.devs[input.nr_devs++] = conn->clone.dev_fd;
	}
	for (i = 0; i < RANDOM_FILES; i++) {
		name[1] = '0' + i;
		fd = backing_make_file(&conns[0].env, name, BACKING_FILE_SZ);
		input.files[i] = open_back(&conns[0].env, name, modes[i]);
		if (fd < 0 || input.files[i] < 0)
			fail("no backing file %s", name);
		close(fd);
	}
	check_zero(pipe(pipes), "pipe");
	input.bad[0] = -1;
	input.bad[1] = conns[0].env.dir_fd;
	input.bad[2] = pipes[0];
	/* without a connection */
	input.bad[3] = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	/* these two cannot be registered files; nobody opens so many */
	input.bad[4] = INT_MAX;
	input.bad[5] = 1000;
	memcpy(input.devs + input.nr_devs, input.bad, sizeof(input.bad));
}

/* The child: batches up to one that ends a connection */
static void serve(void)
{
	int i;

	open_files();
	do {
		run_batch(shared->seed);
		shared->ends[batch.end]++;
		shared->batches++;
		shared->seed++;
		print_progress();
	} while (batch.end == END_NONE && !enough());

	for (i = 0; i < NR_CONNS; i++) {
		backing_issuer_exit(&conns[i].clone);
		check_zero(backing_env_stop(&conns[i].env), "stop");
	}
	fflush(stdout);
	_exit(KSFT_PASS);
}

static unsigned long taint(void)
{
	unsigned long flags = 0;
	FILE *f = fopen("/proc/sys/kernel/tainted", "re");

	if (!f || fscanf(f, "%lu", &flags) != 1)
		ksft_exit_fail_perror("/proc/sys/kernel/tainted");
	fclose(f);
	return flags;
}

/* One pair of connections. Returns if all was as it should be */
static bool run_conns(void)
{
	__u64 seed = shared->seed;
	unsigned long sqes = shared->sqes;
	unsigned long was_tainted = taint();
	bool ok = true;
	int i, err, status;
	pid_t pid;

	shared->killed = false;
	memset(conns, 0, sizeof(conns));
	for (i = 0; i < NR_CONNS; i++) {
		err = backing_env_setup(&conns[i].env);
		if (err)
			ksft_exit_fail_msg("setup: %s\n", strerror(-err));
		conns[i].env.patience = CQE_TIMEOUT;
	}
	fflush(stdout);
	pid = fork();
	if (!pid)
		serve();
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		ksft_exit_fail_perror("fork");

	if (shared->killed && WIFSIGNALED(status) &&
	    WTERMSIG(status) == SIGKILL) {
		shared->ends[END_KILL]++;
		shared->batches++;
		shared->seed++;
	} else if (status) {
		ksft_print_msg("status %#x, to repeat it: -s %llu -n 1\n",
			       status, shared->seed);
		ok = false;
	}
	/* each connection can hold files of the other one */
	for (i = 0; i < NR_CONNS; i++)
		umount2(conns[i].env.mnt, MNT_DETACH);
	for (i = 0; i < NR_CONNS; i++) {
		err = backing_env_teardown(&conns[i].env);
		if (!err || !ok)
			continue;
		ksft_print_msg("backing files are held: %s, to repeat it: -s %llu -n %lu\n",
			       strerror(-err), seed, shared->sqes - sqes);
		ok = false;
	}
	if (taint() != was_tainted) {
		ksft_print_msg("the kernel complained, to repeat it: -s %llu -n %lu\n",
			       seed, shared->sqes - sqes);
		ok = false;
	}
	print_progress();
	return ok;
}

/* Returns if there were results of every kind */
static bool print_results(void)
{
	const unsigned long *ends = shared->ends;
	bool all = true;
	unsigned int i;

	ksft_print_msg("%lu SQEs in %lu batches, %.0f s\n", shared->sqes,
		       shared->batches, (now_ns() - start_ns) / 1e9);
	for (i = 0; i < NR_KINDS; i++) {
		ksft_print_msg("%s: %lu\n", kinds[i].name, shared->results[i]);
		all &= shared->results[i] > 0;
	}
	ksft_print_msg("others: %lu\n", shared->results[NR_KINDS]);
	ksft_print_msg("clients: %lu opens, %lu linked registrations, %lu failed\n",
		       shared->client_opens, shared->linked,
		       shared->links_failed);
	ksft_print_msg("connections: %lu aborted, %lu unmounted, %lu lost io_uring, %lu killed\n",
		       ends[END_ABORT], ends[END_UMOUNT], ends[END_REGISTER],
		       ends[END_KILL]);
	if (shared->batches >= ENDS_EVERY * NR_END) {
		for (i = END_NONE; i < NR_END; i++)
			all &= ends[i] > 0;
		all &= shared->client_opens > 0;
		all &= shared->links_failed > 0;
		all &= shared->linked > shared->links_failed;
	}
	return all;
}

static __u64 to_number(const char *arg)
{
	char *end;
	__u64 n;

	errno = 0;
	n = strtoull(arg, &end, 10);
	if (errno || !*arg || *end)
		ksft_exit_fail_msg("not a number: %s\n", arg);
	return n;
}

int main(int argc, char **argv)
{
	unsigned long seconds = 0;
	const char *missing;
	bool ok = true, all, few;
	int c;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED ||
	    getrandom(&shared->seed, sizeof(shared->seed), 0) < 0)
		ksft_exit_fail_perror("no memory or no seed");
	while ((c = getopt(argc, argv, "s:n:t:")) != -1) {
		switch (c) {
		case 's':
			shared->seed = to_number(optarg);
			break;
		case 'n':
			max_sqes = to_number(optarg);
			break;
		case 't':
			seconds = to_number(optarg);
			break;
		default:
			ksft_exit_fail_msg("backing_fuzz_test [-s seed] [-n sqes] [-t seconds]\n");
		}
	}
	if (!max_sqes && !seconds)
		seconds = DEFAULT_SECONDS;

	ksft_print_header();
	backing_env_main();
	missing = backing_env_missing(NULL);
	if (missing)
		ksft_exit_skip("%s\n", missing);
	ksft_print_msg("seed %llu\n", shared->seed);
	if (taint() & 1 << TAINT_WARN)
		ksft_print_msg("a WARN before this one: the next would not be seen\n");

	start_ns = now_ns();
	shared->progress_ns = start_ns;
	if (seconds)
		deadline_ns = start_ns + seconds * 1000000000LL;
	while (ok && !enough())
		ok = run_conns();

	all = print_results();
	few = shared->sqes < KINDS_SQES || shared->batches < KINDS_BATCHES;
	ksft_set_plan(2);
	ksft_test_result(ok, "live_ids_and_backing_files\n");
	if (few)
		ksft_test_result_skip("all_kinds_of_results: too few SQEs\n");
	else
		ksft_test_result(all, "all_kinds_of_results\n");
	ksft_finished();
}
