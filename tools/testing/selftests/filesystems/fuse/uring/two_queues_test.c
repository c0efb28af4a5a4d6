// SPDX-License-Identifier: GPL-2.0
/*
 * Backing ids that the server picks, with two queues and the worst order of
 * what their threads do. The rules are those of ids.h.
 *
 * A hook holds the thread of one queue back until the other has done what the
 * test is about, so that the order is always the same.
 */
#define _GNU_SOURCE
#include "env.h"
#include "ids.h"
#include "wait.h"

/* An id that ids_get() does not get to */
#define ONE_ID		1000

/* What threads wait for each other for */
enum step {
	/* a thread has its SQEs queued, and is held before it submits them */
	HELD,
	/* it can go on */
	LET_GO,
	/* a BACKING_CLOSE has completed */
	CLOSED,
	NR_STEPS,
};

/* What the hooks do and see; every test is a process of its own */
static struct {
	sem_t step[NR_STEPS];
	struct ids ids;
	/* IOSQE_IO_LINK or 0: how BACKING_OPEN is in front of the reply */
	unsigned int link;
	/* against the rules: one id for all files, at any time */
	bool one_id;
	/* hold the next thread that queues this enum fuse_uring_cmd */
	__u32 hold;
	/* an open is answered when BACKING_OPEN and a held close are done */
	bool defer;
	/* BACKING_CLOSE has a CQE, as some step waits for it */
	bool cqe_of_close;
	/* failed BACKING_OPENs, BACKING_CLOSEs, and the last errors */
	int refused, refusal;
	int not_closed;
	/* what the last close said */
	int close_res;
	/* CQEs that waited while a request was served */
	unsigned int cq_ready;
} hook = { .ids.lock = PTHREAD_MUTEX_INITIALIZER };

/* Whose queues these are */
static unsigned int cpus[2];

/* This thread is to be held */
static __thread bool to_be_held;

static void step_done(enum step step)
{
	sem_post(&hook.step[step]);
}

static void step_wait(enum step step)
{
	if (wait_for(&hook.step[step])) {
		fprintf(stderr, "# step %d does not come\n", step);
		abort();
	}
}

static void queued(__u32 cmd)
{
	if (__atomic_compare_exchange_n(&hook.hold, &cmd, 0, false,
					__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		to_be_held = true;
}

static void queue_close(struct ring_queue *queue, int id)
{
	struct io_uring_sqe *sqe;

	sqe = ids_queue_close(queue, hook.one_id ? ONE_ID : id);
	if (hook.cqe_of_close)
		sqe->flags = 0;
	queued(FUSE_IO_URING_CMD_BACKING_CLOSE);
}

static bool reply(struct ring_req *req)
{
	const struct fuse_release_in *release = req->op;
	struct io_uring_sqe *sqe;
	unsigned int ready;
	int id;

	if (!req->queue)
		return true;
	ready = io_uring_cq_ready(&req->queue->ring);
	if (ready > __atomic_load_n(&hook.cq_ready, __ATOMIC_SEQ_CST))
		__atomic_store_n(&hook.cq_ready, ready, __ATOMIC_SEQ_CST);

	if (req->len > 0 && req->open) {
		id = ids_get(&hook.ids, req->node);
		sqe = ids_queue_open(req, hook.one_id ? ONE_ID : id);
		queued(FUSE_IO_URING_CMD_BACKING_OPEN);
		if (hook.defer) {
			sqe->flags = 0;
			return false;
		}
		sqe->flags = hook.link | IOSQE_CQE_SKIP_SUCCESS;
	} else if (req->in.opcode == FUSE_RELEASE && release->fh) {
		id = ids_put(&hook.ids, req->node);
		if (id)
			queue_close(req->queue, id);
	}
	return true;
}

static void submit(struct ring_queue *queue)
{
	if (!to_be_held)
		return;
	to_be_held = false;
	step_done(HELD);
	step_wait(LET_GO);
}

/* A linked registration has failed: answer without passthrough */
static void refused(struct ring_req *req, int err)
{
	int id = ids_put(&hook.ids, req->node);

	hook.refusal = err;
	__atomic_add_fetch(&hook.refused, 1, __ATOMIC_SEQ_CST);
	/* it can have been registered by another reply; but not by another file */
	if (id && !hook.one_id)
		queue_close(req->queue, id);
	req->open->open_flags = 0;
	req->open->backing_id = 0;
	req->open->fh = 0;
	ring_req_commit(req);
}

static void cqe(struct ring_queue *queue, __u64 data, int res)
{
	struct ring_req *req = (void *)(uintptr_t)data;

	if (!req) {
		hook.close_res = res;
		/* not at the unmount */
		if (res && res != -ENOTCONN && res != -ECONNABORTED)
			__atomic_add_fetch(&hook.not_closed, 1,
					   __ATOMIC_SEQ_CST);
		step_done(CLOSED);
	} else if (res > 0) {
		step_done(LET_GO);
		step_wait(CLOSED);
		ring_req_commit(req);
	} else if (hook.link) {
		refused(req, res);
	} else {
		hook.refusal = res;
		__atomic_add_fetch(&hook.refused, 1, __ATOMIC_SEQ_CST);
	}
}

FIXTURE(two_queues)
{
	struct env env;
};

FIXTURE_SETUP(two_queues)
{
	const char *missing = env_setup(_metadata, &self->env, ENV_INIT |
					FUSE_HAS_IO_URING_BACKING);
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.hooks = {
			.reply = reply,
			.submit = submit,
			.cqe = cqe,
		},
	};
	unsigned int cpu, nr = 0;
	cpu_set_t set;
	int i;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(set), &set));
	for (cpu = 0; cpu < CPU_SETSIZE && nr < 2; cpu++) {
		if (CPU_ISSET(cpu, &set))
			cpus[nr++] = cpu;
	}
	if (nr < 2)
		SKIP(return, "needs two CPUs");

	for (i = 0; i < NR_STEPS; i++)
		ASSERT_EQ(0, sem_init(&hook.step[i], 0, 0));
	hook.link = IOSQE_IO_LINK;
	close(env_file(_metadata, &self->env, "file"));
	close(env_file(_metadata, &self->env, "other"));
	env_start(_metadata, &self->env, &cfg);
}

FIXTURE_TEARDOWN(two_queues)
{
	env_teardown(_metadata, &self->env);
}

/* Open a file as a client on a CPU: its fd if it is that file, else an error */
static int open_on(struct __test_metadata *_metadata, unsigned int cpu,
		   const char *name)
{
	int fd;

	env_pin(_metadata, cpu);
	fd = env_open(name, O_RDONLY);
	if (fd >= 0)
		EXPECT_EQ(1, env_is(fd, name));
	return fd;
}

static void *open_file(void *fd)
{
	*(int *)fd = env_open("file", O_RDONLY);
	return NULL;
}

/*
 * The first reply with the id is written and not yet submitted, while the open
 * of another queue is answered with the same id.
 */
static void overtake(struct __test_metadata *_metadata, struct env *env)
{
	pthread_t client;
	int first, second;

	hook.hold = FUSE_IO_URING_CMD_BACKING_OPEN;
	/* it stays where it was started */
	env_pin(_metadata, cpus[0]);
	ASSERT_EQ(0, pthread_create(&client, NULL, open_file, &first));
	step_wait(HELD);
	second = open_on(_metadata, cpus[1], "file");
	EXPECT_LE(0, second);
	step_done(LET_GO);
	EXPECT_EQ(0, pthread_join(client, NULL));
	ASSERT_LE(0, first);
	EXPECT_EQ(1, env_is(first, "file"));
	EXPECT_EQ(0, env_io_served(env));
	/* one id, registered twice */
	EXPECT_EQ(1, hook.ids.last);
	EXPECT_EQ(0, hook.refused) {
		TH_LOG("refused with %d", hook.refusal);
	}
	close(first);
	close(second);
}

TEST_F(two_queues, overtaken)
{
	overtake(_metadata, &self->env);
}

TEST_F(two_queues, overtaken_not_linked)
{
	hook.link = 0;
	overtake(_metadata, &self->env);
}

/*
 * A server that gives the id of one file to another one before its close has
 * completed gets an error, and the client another file never.
 */
TEST_F(two_queues, id_of_another_file)
{
	struct env *env = &self->env;
	int fd, again;

	hook.one_id = true;
	hook.cqe_of_close = true;
	fd = open_on(_metadata, cpus[0], "file");
	ASSERT_LE(0, fd);
	again = open_on(_metadata, cpus[0], "file");
	ASSERT_LE(0, again);
	EXPECT_EQ(0, hook.refused);
	EXPECT_EQ(0, env_io_served(env));
	close(again);
	hook.hold = FUSE_IO_URING_CMD_BACKING_CLOSE;
	close(fd);
	step_wait(HELD);

	fd = open_on(_metadata, cpus[1], "other");
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, hook.refused);
	EXPECT_EQ(-EEXIST, hook.refusal);
	EXPECT_LT(0, env_io_served(env));
	close(fd);
	ASSERT_EQ(0, ring_server_wait(env->server, FUSE_RELEASE, 3));

	/* when it has completed the id is free */
	step_done(LET_GO);
	step_wait(CLOSED);
	EXPECT_EQ(0, hook.close_res);
	fd = open_on(_metadata, cpus[1], "other");
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, hook.refused);
	close(fd);
}

/*
 * The last open is released and the close of the id on its way, while another
 * queue answers a new open of the file: the close is behind the registration
 * and in front of the reply. Returns what the client gets.
 */
static int reopen(struct __test_metadata *_metadata, struct env *env)
{
	int fd;

	hook.cqe_of_close = true;
	fd = open_on(_metadata, cpus[1], "file");
	ASSERT_LE(0, fd);
	hook.hold = FUSE_IO_URING_CMD_BACKING_CLOSE;
	close(fd);
	step_wait(HELD);

	hook.defer = true;
	fd = open_on(_metadata, cpus[0], "file");
	EXPECT_EQ(0, hook.refused);
	return fd;
}

TEST_F(two_queues, reopened_with_another_id)
{
	int fd = reopen(_metadata, &self->env);

	ASSERT_LE(0, fd);
	EXPECT_EQ(0, hook.close_res);
	EXPECT_EQ(2, hook.ids.last);
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
}

/* Why the next open gets another id, even though the file is the same */
TEST_F(two_queues, reopened_with_the_same_id)
{
	hook.one_id = true;
	EXPECT_EQ(-EIO, reopen(_metadata, &self->env));
}

#define CLIENTS		8
#define FILES		3
#define ROUNDS		50

struct client {
	pthread_t thread;
	/* the first letter, see env_file() */
	char name[2];
	int failed, wrong;
};

static void *client_thread(void *arg)
{
	struct client *c = arg;
	int i, fd;

	for (i = 0; i < ROUNDS; i++) {
		fd = env_open(c->name, O_RDONLY);
		if (fd < 0) {
			c->failed = fd;
			continue;
		}
		if (!env_is(fd, c->name))
			c->wrong++;
		close(fd);
	}
	return NULL;
}

static void many_clients(struct __test_metadata *_metadata, struct env *env)
{
	struct client client[CLIENTS] = { };
	int i;

	for (i = 0; i < CLIENTS; i++) {
		struct client *c = &client[i];

		c->name[0] = 'a' + i % FILES;
		if (i < FILES)
			close(env_file(_metadata, env, c->name));
		env_pin(_metadata, cpus[i % 2]);
		ASSERT_EQ(0, pthread_create(&c->thread, NULL, client_thread,
					    c));
	}
	for (i = 0; i < CLIENTS; i++) {
		EXPECT_EQ(0, pthread_join(client[i].thread, NULL));
		EXPECT_EQ(0, client[i].failed);
		EXPECT_EQ(0, client[i].wrong);
	}
	EXPECT_EQ(0, ring_server_wait(env->server, FUSE_RELEASE,
				      CLIENTS * ROUNDS));
	EXPECT_EQ(0, env_io_served(env));
	/* a CQ ring has to have room for one CQE of each entry */
	EXPECT_GT(env->server->cfg.depth, hook.cq_ready);
	env_stop(_metadata, env);
	EXPECT_EQ(0, hook.refused);
	EXPECT_EQ(0, hook.not_closed);
}

TEST_F(two_queues, many_clients)
{
	many_clients(_metadata, &self->env);
}

TEST_F(two_queues, many_clients_not_linked)
{
	hook.link = 0;
	many_clients(_metadata, &self->env);
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
