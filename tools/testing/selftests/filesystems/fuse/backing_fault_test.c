// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE_IO_URING_CMD_BACKING_OPEN and FUSE_IO_URING_CMD_BACKING_CLOSE without
 * memory: every allocation that a command makes is made to fail, one by one.
 *
 * /proc/PID/task/TID/fail-nth makes the nth allocation of a task fail; the task
 * is the one that issues, so with io-wq and SQPOLL a thread of io_uring. Each
 * test goes on with the next allocation until there was none to fail. What the
 * rings allocate for a request is cached by then: each step begins with a
 * command that fails, so that it is the command whose allocations fail.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "backing_env.h"

/* Not an id that any test uses */
#define NO_ID		12345678
/* An id that needs so many nodes in an empty id map */
#define FAR_ID		0x40000000
#define FAR_ID_NODES	6
/* More than a command allocates */
#define MAX_NTH		100
#define MAX_TASKS	8

#define DEBUGFS		"/sys/kernel/debug"
/* The nodes of the id map; the filter is for failslab/cache-filter */
#define NODES_FILTER	"/sys/kernel/slab/radix_tree_node/failslab"

static struct knob {
	const char *path;
	const char *value;
	char was[32];
} knobs[] = {
	/* also of those that can wait, which all of the command's can */
	{ DEBUGFS "/failslab/ignore-gfp-wait", "N" },
	{ DEBUGFS "/fail_page_alloc/ignore-gfp-wait", "N" },
	{ DEBUGFS "/fail_page_alloc/min-order", "0" },
	/* no stack trace for each */
	{ DEBUGFS "/failslab/verbose", "0" },
	{ DEBUGFS "/fail_page_alloc/verbose", "0" },
	/* for out_of_nodes(), which are given back here in any case */
	{ DEBUGFS "/failslab/task-filter", "Y" },
	{ DEBUGFS "/failslab/cache-filter", "N" },
	{ DEBUGFS "/failslab/times", "-1" },
	{ DEBUGFS "/failslab/probability", "0" },
	{ NODES_FILTER, "0" },
};

/* Why nothing can be made to fail, or NULL */
static const char *no_faults;

static int write_str(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, value, strlen(value)) < 0)
		err = -errno;
	close(fd);
	return err;
}

static int read_str(const char *path, char *value, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, value, size - 1);
	close(fd);
	if (n < 0)
		return -EIO;
	value[n] = '\0';
	return 0;
}

static void give_back_knobs(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(knobs); i++) {
		if (knobs[i].was[0])
			write_str(knobs[i].path, knobs[i].was);
	}
}

static const char *set_knobs(void)
{
	size_t i;

	if (geteuid())
		return "needs root";
	if (access("/proc/self/fail-nth", W_OK))
		return "no /proc/self/fail-nth: CONFIG_FAULT_INJECTION";
	if (access(DEBUGFS "/failslab", F_OK) &&
	    (unshare(CLONE_NEWNS) ||
	     mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	     mount("debugfs", DEBUGFS, "debugfs", 0, NULL)))
		return "no debugfs";

	atexit(give_back_knobs);
	for (i = 0; i < ARRAY_SIZE(knobs); i++) {
		struct knob *knob = &knobs[i];

		if (read_str(knob->path, knob->was, sizeof(knob->was)) ||
		    write_str(knob->path, knob->value))
			return "needs FAILSLAB, FAIL_PAGE_ALLOC, FAULT_INJECTION_DEBUG_FS";
	}
	return NULL;
}

static const char *missing(const struct backing_how *how)
{
	const char *why = backing_env_missing(how);

	return why ? why : no_faults;
}

/* The tasks that issue the commands */
struct faults {
	char dir[MAX_TASKS][sizeof("/proc/self/task/") + 16];
	int fd[MAX_TASKS];
	unsigned int nr;
};

static void faults_add(struct faults *f, const char *dir)
{
	char path[sizeof(f->dir[0]) + sizeof("/fail-nth")];

	if (f->nr == MAX_TASKS)
		return;
	snprintf(f->dir[f->nr], sizeof(f->dir[0]), "%s", dir);
	snprintf(path, sizeof(path), "%s/fail-nth", dir);
	f->fd[f->nr] = open(path, O_RDWR | O_CLOEXEC);
	if (f->fd[f->nr] >= 0)
		f->nr++;
}

static void faults_add_workers(struct faults *f)
{
	char dir[sizeof(f->dir[0])], path[sizeof(dir) + sizeof("/comm")];
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *de;
	char comm[32];

	while (tasks && (de = readdir(tasks))) {
		snprintf(dir, sizeof(dir), "/proc/self/task/%.15s", de->d_name);
		snprintf(path, sizeof(path), "%s/comm", dir);
		if (!read_str(path, comm, sizeof(comm)) &&
		    !strncmp(comm, "iou-wrk-", 8))
			faults_add(f, dir);
	}
	if (tasks)
		closedir(tasks);
}

/* Returns how many tasks it found */
static int faults_find(struct faults *f, const struct backing_issuer *issuer)
{
	char dir[sizeof(f->dir[0])];

	f->nr = 0;
	if (issuer->how.sqe_flags & IOSQE_ASYNC) {
		faults_add_workers(f);
	} else if (issuer->how.setup_flags & IORING_SETUP_SQPOLL) {
		snprintf(dir, sizeof(dir), "/proc/self/task/%d",
			 backing_issuer_sq_thread(issuer));
		faults_add(f, dir);
	} else {
		faults_add(f, "/proc/thread-self");
	}
	return f->nr;
}

static void faults_put(struct faults *f)
{
	while (f->nr)
		close(f->fd[--f->nr]);
}

static int faults_arm(struct faults *f, unsigned int nth)
{
	char value[16];
	int len = snprintf(value, sizeof(value), "%u", nth);
	unsigned int i;

	for (i = 0; i < f->nr; i++) {
		if (pwrite(f->fd[i], value, len, 0) != len)
			return -errno;
	}
	return 0;
}

/* Returns true if the nth allocation came and failed */
static bool faults_disarm(struct faults *f)
{
	bool fired = false;
	unsigned int i;
	char value[16];

	for (i = 0; i < f->nr; i++) {
		ssize_t n = pread(f->fd[i], value, sizeof(value) - 1, 0);

		if (n > 0) {
			value[n] = '\0';
			fired |= !atoi(value);
		}
		pwrite(f->fd[i], "0", 1, 0);
	}
	return fired;
}

struct fault_env {
	struct backing_env env;
	struct faults faults;
	/* the file to register */
	int fd;
	/* allocations that were made to fail, and commands that did */
	unsigned int fired;
	unsigned int failed;
};

static void setup(struct __test_metadata *_metadata, struct fault_env *f,
		  const struct backing_how *how)
{
	struct backing_issuer *issuer = &f->env.issuer;
	const char *why = missing(how);
	unsigned int one_worker[2] = { 1, 1 };

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, backing_env_setup(&f->env));
	ASSERT_EQ(0, backing_env_start(&f->env, how, NULL));
	/* the next command of io-wq is issued by the thread that is there */
	if (issuer->ring_up) {
		ASSERT_EQ(0, io_uring_register_iowq_max_workers(&issuer->ring,
								one_worker));
	}
	f->fd = backing_make_file(&f->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(f->fd, 0);
}

static void teardown(struct __test_metadata *_metadata, struct fault_env *f)
{
	faults_put(&f->faults);
	close(f->fd);
	/* no reference is left: the backing file system unmounts */
	EXPECT_EQ(0, backing_env_teardown(&f->env));
}

/* Issues a command whose nth allocation fails; the result of the command */
static int issue_with_fault(struct __test_metadata *_metadata,
			    struct fault_env *f, unsigned int nth, __u32 cmd_op,
			    const struct fuse_uring_cmd_req *req, bool *fired)
{
	struct backing_issuer *issuer = &f->env.issuer;
	int res;

	ASSERT_GE(MAX_NTH, nth);
	/* wakes up or makes the threads, and fills the caches of the ring */
	ASSERT_EQ(-ENOENT, backing_issue_close(issuer, NO_ID));
	ASSERT_GT(faults_find(&f->faults, issuer), 0);
	ASSERT_EQ(0, faults_arm(&f->faults, nth));
	res = backing_issue(issuer, cmd_op, req, 0);
	*fired = faults_disarm(&f->faults);
	faults_put(&f->faults);
	f->fired += *fired;
	f->failed += res < 0;
	return res;
}

/* Registers a file again and again, with another allocation that fails */
static void open_with_faults(struct __test_metadata *_metadata,
			     struct fault_env *f, int wanted)
{
	struct fuse_uring_cmd_req req = {
		.backing.map.fd = f->fd,
		.backing.id = wanted,
	};
	struct backing_issuer *issuer = &f->env.issuer;
	int next = wanted ? wanted : 1;
	unsigned int nth;
	bool fired;
	int res;

	for (nth = 1, fired = true; fired; nth++) {
		res = issue_with_fault(_metadata, f, nth,
				       FUSE_IO_URING_CMD_BACKING_OPEN, &req,
				       &fired);
		if (res < 0) {
			ASSERT_EQ(-ENOMEM, res);
			ASSERT_TRUE(fired);
			/* no id is left, nor used up */
			ASSERT_EQ(-ENOENT, backing_issue_close(issuer, next));
			continue;
		}
		/* as without the fault */
		ASSERT_EQ(next, res);
		ASSERT_EQ(0, backing_issue_close(issuer, res));
		ASSERT_EQ(-ENOENT, backing_issue_close(issuer, res));
		next += !wanted;
	}
	TH_LOG("%u allocations, %u failed the command", f->fired, f->failed);
}

static int set_out_of_nodes(struct faults *f, bool on)
{
	char path[sizeof(f->dir[0]) + sizeof("/make-it-fail")];
	unsigned int i;
	int err;

	for (i = 0; i < f->nr; i++) {
		snprintf(path, sizeof(path), "%s/make-it-fail", f->dir[i]);
		err = write_str(path, on ? "1" : "0");
		if (err)
			return err;
	}
	err = write_str(NODES_FILTER, on ? "1" : "0");
	if (!err)
		err = write_str(DEBUGFS "/failslab/cache-filter",
				on ? "Y" : "N");
	if (!err)
		err = write_str(DEBUGFS "/failslab/probability",
				on ? "100" : "0");
	return err;
}

FIXTURE(fault)
{
	struct fault_env f;
};

FIXTURE_VARIANT(fault)
{
	struct backing_how how;
};

FIXTURE_VARIANT_ADD(fault, ioctl) {
	.how = { .ioctl = true },
};

#define BACKING_FIXTURE fault
#include "backing_variants.h"

FIXTURE_SETUP(fault)
{
	setup(_metadata, &self->f, &variant->how);
}

FIXTURE_TEARDOWN(fault)
{
	teardown(_metadata, &self->f);
}

/* The struct fuse_backing has to be there; a node of the map is preloaded */
TEST_F(fault, open)
{
	open_with_faults(_metadata, &self->f, 0);
	EXPECT_GE(self->f.failed, 1);
	EXPECT_GE(self->f.fired, 2);
}

/* Needs no memory to succeed, whatever freeing by RCU may try to get */
TEST_F(fault, close)
{
	struct backing_issuer *issuer = &self->f.env.issuer;
	struct fuse_uring_cmd_req req = { 0 };
	unsigned int nth;
	bool fired;

	for (nth = 1, fired = true; fired; nth++) {
		req.backing.id = backing_issue_open(issuer, self->f.fd);
		ASSERT_GT(req.backing.id, 0);
		ASSERT_EQ(0, issue_with_fault(_metadata, &self->f, nth,
					      FUSE_IO_URING_CMD_BACKING_CLOSE,
					      &req, &fired));
		ASSERT_EQ(-ENOENT, backing_issue_close(issuer, req.backing.id));
	}
	TH_LOG("%u allocations", self->f.fired);
}

/*
 * One fault does not make the id map fail: the nodes are preloaded, into a
 * reserve of each CPU. So have no node at all, until the reserve is used up.
 */
TEST_F(fault, out_of_nodes)
{
	struct backing_issuer *issuer = &self->f.env.issuer;
	int first, id, res = 0;

	/* the kernel picks one after the other */
	first = backing_issue_open(issuer, self->f.fd);
	ASSERT_GT(first, 0);
	ASSERT_GT(faults_find(&self->f.faults, issuer), 0);
	ASSERT_EQ(0, set_out_of_nodes(&self->f.faults, true));
	for (id = first + 1; id < first + 10000; id++) {
		res = backing_issue_open(issuer, self->f.fd);
		if (res != id)
			break;
	}
	EXPECT_EQ(0, set_out_of_nodes(&self->f.faults, false));
	ASSERT_EQ(-ENOMEM, res);
	ASSERT_EQ(-ENOENT, backing_issue_close(issuer, id));

	/* and as if nothing had been */
	EXPECT_EQ(id, backing_issue_open(issuer, self->f.fd));
	for (; id >= first; id--)
		EXPECT_EQ(0, backing_issue_close(issuer, id));
}

/* The ioctl cannot say which id it wants */
FIXTURE(fault_wanted)
{
	struct fault_env f;
};

FIXTURE_VARIANT(fault_wanted)
{
	struct backing_how how;
};

#define BACKING_FIXTURE fault_wanted
#include "backing_variants.h"

FIXTURE_SETUP(fault_wanted)
{
	setup(_metadata, &self->f, &variant->how);
}

FIXTURE_TEARDOWN(fault_wanted)
{
	teardown(_metadata, &self->f);
}

TEST_F(fault_wanted, near_id)
{
	open_with_faults(_metadata, &self->f, 1);
	EXPECT_GE(self->f.failed, 1);
	EXPECT_GE(self->f.fired, 2);
}

/* An id of 31 bits needs a node of the map for every 6 of them */
TEST_F(fault_wanted, far_id)
{
	open_with_faults(_metadata, &self->f, FAR_ID);
	EXPECT_GE(self->f.failed, 1);
	EXPECT_GE(self->f.fired, 1 + FAR_ID_NODES);
}

/* As fault.out_of_nodes */
TEST_F(fault_wanted, out_of_nodes)
{
	struct backing_issuer *issuer = &self->f.env.issuer;
	/* each needs a node of its own */
	const int step = 0x1000;
	int id, res;

	ASSERT_EQ(-ENOENT, backing_issue_close(issuer, NO_ID));
	ASSERT_GT(faults_find(&self->f.faults, issuer), 0);
	ASSERT_EQ(0, set_out_of_nodes(&self->f.faults, true));
	for (id = step; id < 10000 * step; id += step) {
		res = backing_issue_open_id(issuer, self->f.fd, id);
		if (res != id)
			break;
	}
	EXPECT_EQ(0, set_out_of_nodes(&self->f.faults, false));
	ASSERT_EQ(-ENOMEM, res);
	ASSERT_EQ(-ENOENT, backing_issue_close(issuer, id));

	/* and as if nothing had been */
	EXPECT_EQ(id, backing_issue_open_id(issuer, self->f.fd, id));
	for (; id; id -= step)
		EXPECT_EQ(0, backing_issue_close(issuer, id));
}

/* What the hooks do and see; every test is a process of its own */
static struct {
	/* the file to register */
	int fd;
	/* of the thread that answers */
	struct faults faults;
	unsigned int nth;
	int failed;
	int reason;
} hook;

FIXTURE(linked)
{
	struct backing_env env;
};

FIXTURE_SETUP(linked)
{
	const char *why = missing(NULL);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, backing_env_setup(&self->env));
}

FIXTURE_TEARDOWN(linked)
{
	EXPECT_EQ(0, backing_env_teardown(&self->env));
}

static int hook_open(struct ring_req *req, struct ring_node *node,
		     struct fuse_open_out *out)
{
	(void)node;
	out->open_flags = FOPEN_PASSTHROUGH;
	out->backing_id = FAR_ID;
	req->link_fd = hook.fd;
	if (hook.nth) {
		faults_add(&hook.faults, "/proc/thread-self");
		faults_arm(&hook.faults, hook.nth);
	}
	return 0;
}

static int hook_failed(struct ring_req *req, struct ring_node *node,
		       struct fuse_open_out *out, int err)
{
	(void)req;
	(void)node;
	(void)out;
	hook.failed++;
	hook.reason = err;
	/* once more, and now there is memory */
	return 0;
}

/* Opens as a client; true if the nth allocation of the server failed */
static bool open_linked(struct __test_metadata *_metadata,
			struct backing_env *env, unsigned int nth)
{
	char buf[64];
	bool fired;
	int fd;

	hook.nth = nth;
	fd = open_mnt(env, "file", O_RDONLY);
	fired = faults_disarm(&hook.faults);
	faults_put(&hook.faults);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(sizeof(buf), pread(fd, buf, sizeof(buf), 100));
	EXPECT_EQ(0, cmp_back(env, "file", buf, sizeof(buf), 100));
	close(fd);
	/* there is the one id, once */
	ASSERT_EQ(0, backing_issue_close(&env->issuer, FAR_ID));
	ASSERT_EQ(-ENOENT, backing_issue_close(&env->issuer, FAR_ID));
	return fired;
}

/* The reply waits for a registration, which fails, and then for another */
TEST_F(linked, open)
{
	struct ring_server_cfg cfg = {
		.init_flags = BACKING_INIT,
		.open = hook_open,
		.link_failed = hook_failed,
	};
	const struct backing_how ioctl = { .ioctl = true };
	unsigned int i, nth;

	ASSERT_EQ(0, backing_env_start(&self->env, &ioctl, &cfg));
	hook.fd = backing_make_file(&self->env, "file", BACKING_FILE_SZ);
	ASSERT_GE(hook.fd, 0);

	/* fills the caches of the queue's ring */
	for (i = 0; i < 16; i++)
		open_linked(_metadata, &self->env, 0);
	for (nth = 1; open_linked(_metadata, &self->env, nth); nth++)
		ASSERT_GE(MAX_NTH, nth);

	TH_LOG("%u allocations, %d failed the registration", nth - 1,
	       hook.failed);
	EXPECT_EQ(0, served(&self->env));
	EXPECT_GE(nth - 1, 1 + FAR_ID_NODES);
	EXPECT_GE(hook.failed, 1);
	EXPECT_EQ(-ENOMEM, hook.reason);
	close(hook.fd);
}

int main(int argc, char **argv)
{
	backing_env_main();
	no_faults = set_knobs();
	return test_harness_run(argc, argv);
}
