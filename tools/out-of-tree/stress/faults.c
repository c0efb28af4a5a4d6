// SPDX-License-Identifier: GPL-2.0
/*
 * Without memory: every allocation that a command makes, or an open that does not
 * ask the server, is made to fail, one by one.
 *
 * /proc/PID/task/TID/fail-nth makes the nth allocation of a task fail; the task
 * is the one that issues, so with io-wq and SQPOLL a thread of io_uring. Each
 * test goes on with the next allocation until there was none to fail. What the
 * ring allocates for a request is cached by then: each step begins with a
 * command that fails, so that it is the command whose allocations fail.
 */
#define _GNU_SOURCE
#include <dirent.h>

#include "env.h"
#include "issue.h"

/* Not an id that any test uses, and no request's */
#define NO_ID		12345678
#define NO_REQUEST	(~0ULL)
/* An id that needs so many nodes in an empty id map */
#define FAR_ID		0x40000000
#define FAR_ID_NODES	6
/* More than a command allocates */
#define MAX_NTH		100
/* Seconds for a test; a debugging kernel is slow */
#define TIMEOUT		300

#define DEBUGFS		"/sys/kernel/debug"
#define FAILSLAB	DEBUGFS "/failslab/"
#define FAIL_PAGE	DEBUGFS "/fail_page_alloc/"
/* The nodes of the id map are of this cache */
#define NODES_FILTER	"/sys/kernel/slab/radix_tree_node/failslab"

/*
 * In the order in which they are set, and put back the other way round: there
 * is no probability as long as a filter is not there.
 */
static struct knob {
	const char *path, *value;
	char was[16];
} knobs[] = {
	{ FAILSLAB "probability", "0" },
	{ FAILSLAB "times", "-1" },
	{ FAILSLAB "task-filter", "Y" },
	{ FAILSLAB "cache-filter", "N" },
	{ NODES_FILTER, "0" },
	/* also of those that can wait, which all of the command's can */
	{ FAILSLAB "ignore-gfp-wait", "N" },
	{ FAIL_PAGE "ignore-gfp-wait", "N" },
	{ FAIL_PAGE "min-order", "0" },
	/* no stack trace for each */
	{ FAILSLAB "verbose", "0" },
	{ FAIL_PAGE "verbose", "0" },
};

#define NR_KNOBS	((int)ARRAY_SIZE(knobs))

static int keeper_pipe[2];
static pid_t keeper;

static int write_str(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : write(fd, value, strlen(value));

	close(fd);
	return n < 0 ? -1 : 0;
}

static int read_str(int dir_fd, const char *path, char *value, size_t size)
{
	int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, value, size - 1);

	close(fd);
	value[n < 0 ? 0 : n] = '\0';
	return n < 0 ? -1 : 0;
}

static int set_knobs(void)
{
	int i, err = 0;

	for (i = 0; i < NR_KNOBS; i++)
		err |= write_str(knobs[i].path, knobs[i].value);
	return err;
}

static void let_go(void)
{
	close(keeper_pipe[1]);
	waitpid(keeper, NULL, 0);
}

/* As enable_uring_hold(): however the program ends, they are put back */
static const char *hold_knobs(void)
{
	int i, err = 0;
	char end;

	if (unshare(CLONE_NEWNS) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    (mount("debugfs", DEBUGFS, "debugfs", 0, NULL) && errno != EBUSY))
		return "no debugfs";
	for (i = 0; i < NR_KNOBS; i++)
		err |= read_str(AT_FDCWD, knobs[i].path, knobs[i].was,
				sizeof(knobs[i].was));
	if (err || pipe2(keeper_pipe, O_CLOEXEC))
		return "needs FAILSLAB, FAIL_PAGE_ALLOC, FAULT_INJECTION_DEBUG_FS";
	keeper = fork();
	if (!keeper) {
		setsid();
		signal(SIGTERM, SIG_IGN);
		/* it would wait for us, and we for it */
		close(enable_uring_pipe[1]);
		close(keeper_pipe[1]);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		while (read(keeper_pipe[0], &end, 1) < 0 && errno == EINTR)
			;
		write_str(knobs[0].path, "0");
		for (i = NR_KNOBS; i--;)
			write_str(knobs[i].path, knobs[i].was);
		_exit(0);
	}
	atexit(let_go);
	return NULL;
}

/* Why nothing can be made to fail, or NULL */
static const char *no_faults;

struct fault {
	struct env env;
	struct issuer issuer;
	/* the file to register */
	int fd;
	/* allocations that were made to fail, and commands that did */
	unsigned int fired, failed;
};

FIXTURE(fault)
{
	struct fault f;
};

FIXTURE_VARIANT(fault)
{
	struct issue_how how;
};

FIXTURE_VARIANT_ADD(fault, inline) { };
FIXTURE_VARIANT_ADD(fault, iowq) { { .sqe_flags = IOSQE_ASYNC } };
FIXTURE_VARIANT_ADD(fault, sqpoll) { { IORING_SETUP_SQPOLL } };
FIXTURE_VARIANT_ADD(fault, defer) {
	{ IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN }
};

static void setup(struct __test_metadata *_metadata, struct env *env, __u64 need)
{
	const char *why = no_faults;

	if (!why)
		why = env_setup(_metadata, env, need);
	ASSERT_EQ(NULL, why) {
		TH_LOG("%s", why);
	}
}

FIXTURE_SETUP(fault)
{
	unsigned int one_worker[2] = { 1, 1 };

	setup(_metadata, &self->f.env, ENV_NEED(BY_COMMAND));
	env_start(_metadata, &self->f.env, NULL);
	self->f.fd = env_file(_metadata, &self->f.env, "file");
	ASSERT_EQ(0, issuer_init(&self->f.issuer, &variant->how,
				 self->f.env.server->dev_fd, 0));
	/* the next command of io-wq is issued by the thread that is there */
	ASSERT_EQ(0, io_uring_register_iowq_max_workers(&self->f.issuer.ring,
							one_worker));
	/* whatever the test before left */
	ASSERT_EQ(0, set_knobs());
}

FIXTURE_TEARDOWN(fault)
{
	issuer_exit(&self->f.issuer);
	close(self->f.fd);
	env_teardown(_metadata, &self->f.env);
}

/* Opens a file in /proc of the task that issues, once it has issued a command */
static int open_task(struct __test_metadata *_metadata, struct fault *f,
		     const char *what)
{
	const struct issue_how *how = &f->issuer.how;
	const char *name = how->sqe_flags & IOSQE_ASYNC ? "iou-wrk-" :
			   how->ring_flags & IORING_SETUP_SQPOLL ? "iou-sqp-" :
								    NULL;
	char path[80], comm[32];
	struct dirent *de;
	int fd = -1;
	DIR *tasks;

	ASSERT_EQ(-ENOENT, issue_close(&f->issuer, NO_ID));
	tasks = opendir(name ? "/proc/self/task" : "/proc/thread-self");
	while ((de = readdir(tasks))) {
		snprintf(path, sizeof(path), "%.20s/comm", de->d_name);
		if (name && (read_str(dirfd(tasks), path, comm, sizeof(comm)) ||
			     strncmp(comm, name, strlen(name))))
			continue;
		/* there is one of them */
		ASSERT_EQ(-1, fd);
		snprintf(path, sizeof(path), "%.20s/%s", name ? de->d_name : ".",
			 what);
		fd = openat(dirfd(tasks), path, O_RDWR | O_CLOEXEC);
		if (!name)
			break;
	}
	closedir(tasks);
	ASSERT_LE(0, fd);
	return fd;
}

/*
 * Issues a command whose nth allocation fails. Returns false if there is none.
 * With @id BACKING_OPEN picks that, and BACKING_CLOSE needs it.
 */
static bool issue_with_fault(struct __test_metadata *_metadata,
			     struct fault *f, unsigned int nth,
			     __u32 cmd_op, int id, int *res)
{
	const struct fuse_uring_cmd_req req = {
		.commit_id = cmd_op == FUSE_IO_URING_CMD_COMMIT_BACKING ?
			     NO_REQUEST : 0,
		.backing.map.fd = cmd_op == FUSE_IO_URING_CMD_BACKING_CLOSE ?
				  0 : f->fd,
		.backing.id = id,
	};
	int fd = open_task(_metadata, f, "fail-nth");
	char left[16] = "";
	bool fired;

	ASSERT_GE(MAX_NTH, nth);
	ASSERT_LT(0, dprintf(fd, "%u", nth));
	*res = issue(&f->issuer, cmd_op, &req);
	ASSERT_LT(0, pread(fd, left, sizeof(left) - 1, 0));
	ASSERT_LT(0, dprintf(fd, "0"));
	close(fd);
	fired = !atoi(left);
	f->fired += fired;
	if (*res == -ENOMEM) {
		f->failed++;
		ASSERT_TRUE(fired);
	}
	return fired;
}

/*
 * Registers a file again and again, with another allocation that fails: one is
 * the struct fuse_backing, without which the command fails.
 */
static void open_with_faults(struct __test_metadata *_metadata,
			     struct fault *f, int picked, unsigned int least)
{
	struct issuer *issuer = &f->issuer;
	int next = picked ? picked : 1, res;
	unsigned int nth = 1;
	bool fired;

	do {
		fired = issue_with_fault(_metadata, f, nth++,
					 FUSE_IO_URING_CMD_BACKING_OPEN, picked,
					 &res);
		if (res != -ENOMEM)
			ASSERT_EQ(picked ? 0 : next, res);
		/* if it failed no id is left, nor used up */
		ASSERT_EQ(res < 0 ? -ENOENT : 0, issue_close(issuer, next));
		ASSERT_EQ(-ENOENT, issue_close(issuer, next));
		next += res > 0;
	} while (fired);
	TH_LOG("%u allocations, %u failed the command", f->fired,
	       f->failed);
	EXPECT_EQ(1, f->failed);
	EXPECT_LE(least, f->fired);
}

/* A node of the id map is preloaded */
TEST_F_TIMEOUT(fault, open, TIMEOUT)
{
	open_with_faults(_metadata, &self->f, 0, 2);
}

TEST_F_TIMEOUT(fault, picked, TIMEOUT)
{
	open_with_faults(_metadata, &self->f, 1, 2);
}

/* An id of 31 bits needs a node of the map for every 6 of them */
TEST_F_TIMEOUT(fault, far_id, TIMEOUT)
{
	open_with_faults(_metadata, &self->f, FAR_ID, 1 + FAR_ID_NODES);
}

/* For a request that there is not, which is looked up when the file is taken */
TEST_F_TIMEOUT(fault, commit, TIMEOUT)
{
	unsigned int nth = 1;
	bool fired;
	int res;

	/* the server registers its queues when it has begun */
	ASSERT_EQ(-ENOENT, env_open("no such file", O_RDONLY));
	do {
		fired = issue_with_fault(_metadata, &self->f, nth++,
					 FUSE_IO_URING_CMD_COMMIT_BACKING, 0,
					 &res);
		if (res != -ENOMEM)
			ASSERT_EQ(-ENOENT, res);
	} while (fired);
	EXPECT_EQ(1, self->f.failed);
}

/* Needs no memory to succeed, whatever freeing by RCU may try to get */
TEST_F_TIMEOUT(fault, close, TIMEOUT)
{
	struct issuer *issuer = &self->f.issuer;
	unsigned int nth = 0;
	int id, res, fd;

	do {
		id = issue_open(issuer, self->f.fd);
		ASSERT_LT(0, id);
		issue_with_fault(_metadata, &self->f, ++nth,
				 FUSE_IO_URING_CMD_BACKING_CLOSE, id, &res);
		ASSERT_EQ(0, res);
		ASSERT_EQ(-ENOENT, issue_close(issuer, id));
	} while (self->f.fired == nth);
	TH_LOG("%u allocations", self->f.fired);
	/* it would have failed: what the next command asks for does */
	fd = open_task(_metadata, &self->f, "fail-nth");
	ASSERT_LT(0, dprintf(fd, "1"));
	EXPECT_EQ(-ENOENT, issue_close(issuer, NO_ID));
	EXPECT_EQ(-ENOMEM, issue_open(issuer, self->f.fd));
	close(fd);
}

/* BACKING_OPEN; 0 or the id. */
static int open_id(struct fault *f, int picked)
{
	const struct fuse_uring_cmd_req req = {
		.backing.map.fd = f->fd,
		.backing.id = picked,
	};

	return issue(&f->issuer, FUSE_IO_URING_CMD_BACKING_OPEN, &req);
}

/*
 * One fault does not make the id map fail: the nodes are preloaded, into a
 * reserve of each CPU. So have no node at all, until the reserve is used up.
 * With @step each id needs a node of its own; without, the kernel picks.
 */
static void out_of_nodes(struct __test_metadata *_metadata,
			 struct fault *f, int step)
{
	struct issuer *issuer = &f->issuer;
	int id, first = step ? step : 1, res;
	int fd = open_task(_metadata, f, "make-it-fail");

	ASSERT_LT(0, dprintf(fd, "1"));
	ASSERT_EQ(0, write_str(NODES_FILTER, "1"));
	ASSERT_EQ(0, write_str(FAILSLAB "cache-filter", "Y"));
	ASSERT_EQ(0, write_str(FAILSLAB "probability", "100"));
	for (id = first; id < 10000 * first; id += first) {
		res = open_id(f, step ? id : 0);
		if (res < 0)
			break;
		ASSERT_EQ(step ? 0 : id, res);
	}
	ASSERT_LT(0, dprintf(fd, "0"));
	close(fd);
	ASSERT_EQ(0, set_knobs());
	ASSERT_EQ(-ENOMEM, res);
	ASSERT_EQ(-ENOENT, issue_close(issuer, id));

	/* and as if nothing had been */
	EXPECT_EQ(step ? 0 : id, open_id(f, step ? id : 0));
	for (; id; id -= first)
		EXPECT_EQ(0, issue_close(issuer, id));
}

TEST_F_TIMEOUT(fault, out_of_nodes, TIMEOUT)
{
	out_of_nodes(_metadata, &self->f, 0);
}

TEST_F_TIMEOUT(fault, out_of_nodes_picked, TIMEOUT)
{
	out_of_nodes(_metadata, &self->f, 0x1000);
}

FIXTURE(no_open)
{
	struct env env;
};

static bool pass_with_lookup(struct ring_req *req)
{
	if (req->in.opcode == FUSE_LOOKUP && req->len > 0) {
		req->fd = req->node->fd;
		req->flags = FUSE_URING_BACKING_INODE |
			     FUSE_URING_BACKING_NO_OPEN;
	}
	/* whatever has no memory, the inode has its file */
	if (req->in.opcode == FUSE_OPEN)
		req->open->open_flags = FOPEN_PASSTHROUGH;
	return true;
}

FIXTURE_SETUP(no_open)
{
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.options = "default_permissions",
		.hooks.reply = pass_with_lookup,
	};

	setup(_metadata, &self->env,
	      ENV_NEED(BY_COMMIT) | FUSE_HAS_NO_OPEN_BACKING);
	close(env_file(_metadata, &self->env, "file"));
	self->env.files.cache_secs = 100000;
	env_start(_metadata, &self->env, &cfg);
	ASSERT_EQ(0, set_knobs());
}

FIXTURE_TEARDOWN(no_open)
{
	env_teardown(_metadata, &self->env);
}

/* What has no memory for that asks the server, which has another try */
TEST_F_TIMEOUT(no_open, asks_the_server, TIMEOUT)
{
	int nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	unsigned int nth = 0, failed = 0, asked;
	struct ring_server *server = self->env.server;
	char left[16] = "";
	int fd;

	ASSERT_LE(0, nth_fd);
	close(env_open("file", O_RDWR));
	asked = ring_server_count(server, FUSE_OPEN);
	ASSERT_EQ(0, asked);
	do {
		ASSERT_GE(MAX_NTH, ++nth);
		ASSERT_LT(0, dprintf(nth_fd, "%u", nth));
		fd = env_open("file", O_RDWR);
		ASSERT_LT(0, pread(nth_fd, left, sizeof(left) - 1, 0));
		ASSERT_LT(0, dprintf(nth_fd, "0"));
		if (fd >= 0) {
			EXPECT_TRUE(env_is(fd, "file"));
			close(fd);
		} else {
			/* of the VFS */
			EXPECT_EQ(-ENOMEM, fd);
			failed++;
		}
	} while (!atoi(left));
	close(nth_fd);
	asked = ring_server_count(server, FUSE_OPEN);
	TH_LOG("%u allocations, %u asked the server, %u failed the open",
	       nth - 1, asked, failed);
	/* for struct fuse_file and the backing file */
	EXPECT_LE(2, asked);
	EXPECT_EQ(0, env_io_served(&self->env));
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	no_faults = hold_knobs();
	return test_harness_run(argc, argv);
}
