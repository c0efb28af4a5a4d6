// SPDX-License-Identifier: GPL-2.0
/*
 * What FUSE_IO_URING_CMD_BACKING_OPEN and FUSE_IO_URING_CMD_BACKING_CLOSE have
 * and the ioctls have not: fields that must be 0, the order of the checks, the
 * state of the connection, the SQE that is shared with the server. A test of an
 * error has its name. What is as with the ioctls is in backing_parity_test.c.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "cap.h"
#include "env.h"
#include "issue.h"
#include "queue_pool.h"

#define OPEN	FUSE_IO_URING_CMD_BACKING_OPEN
#define CLOSE	FUSE_IO_URING_CMD_BACKING_CLOSE

static const struct issue_how how_inline;
static const struct issue_how how_ioctl = { .ioctl = true };

FIXTURE(cmd)
{
	struct env env;
	struct issuer issuer;
	/* "file" in the backing directory */
	int back;
};

FIXTURE_SETUP(cmd)
{
	const char *missing = env_setup(_metadata, &self->env,
					ENV_INIT | FUSE_HAS_IO_URING_BACKING);

	if (!missing)
		missing = issue_missing(&how_inline);
	if (missing)
		SKIP(return, "%s", missing);
	self->back = env_file(_metadata, &self->env, "file");
}

FIXTURE_TEARDOWN(cmd)
{
	close(self->back);
	issuer_exit(&self->issuer);
	env_teardown(_metadata, &self->env);
}

/* @cfg as for env_start() */
static void start(struct __test_metadata *_metadata, struct env *env,
		  struct issuer *issuer, const struct ring_server_cfg *cfg)
{
	env_start(_metadata, env, cfg);
	ASSERT_EQ(0, issuer_init(issuer, &how_inline, env->server->dev_fd));
}

/* The state of the connection is checked first */
static void expect_state(struct __test_metadata *_metadata, int err,
			 struct issuer *issuer, int back)
{
	const struct fuse_uring_cmd_req reserved = {
		.backing = { .id = 1, .reserved = 1 },
	};

	EXPECT_EQ(err, issue_open(issuer, back, 0));
	EXPECT_EQ(err, issue_close(issuer, 1));
	EXPECT_EQ(err, issue(issuer, CLOSE, &reserved));
}

TEST_F(cmd, eperm_not_mounted)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	ASSERT_EQ(0, issuer_init(&self->issuer, &how_inline, fd));
	expect_state(_metadata, -EPERM, &self->issuer, self->back);
	close(fd);
}

/* Mounts when the process is in io_uring_enter(); INIT is never answered */
static void mount_meanwhile(pid_t pid, int dev_fd)
{
	char path[64], text[16] = "";

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	while (atoi(text) != SYS_io_uring_enter) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
			_exit(1);
		close(fd);
	}
	ring_server_mount(ENV_MNT, dev_fd);
	_exit(1);
}

TEST_F(cmd, waits_for_the_mount_with_sync_init)
{
	int res, status, fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	pid_t pid, parent = getpid();

	ASSERT_EQ(0, ioctl(fd, FUSE_DEV_IOC_SYNC_INIT));
	ASSERT_EQ(0, issuer_init(&self->issuer, &how_inline, fd));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		mount_meanwhile(parent, fd);
	/* what io_uring does about a ring that was closed interrupts it, too */
	do {
		res = issue_close(&self->issuer, 1);
	} while (res == -EINTR);
	/* not -EPERM: it is mounted then */
	EXPECT_EQ(-EAGAIN, res);
	EXPECT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	/* not an exit for want of what it needs */
	EXPECT_EQ(SIGKILL, status);
	close(fd);
}

TEST_F(cmd, eagain_before_init)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	ASSERT_EQ(0, ring_server_mount(ENV_MNT, fd));
	ASSERT_EQ(0, issuer_init(&self->issuer, &how_inline, fd));
	expect_state(_metadata, -EAGAIN, &self->issuer, self->back);
	EXPECT_EQ(0, umount2(ENV_MNT, 0));
	close(fd);
}

static void abort_connection(struct __test_metadata *_metadata)
{
	char path[64];
	struct stat st;
	int fd;

	ASSERT_EQ(0, stat(ENV_MNT, &st));
	ASSERT_EQ(0, mkdir("/tmp/fusectl", 0755));
	ASSERT_EQ(0, mount("fusectl", "/tmp/fusectl", "fusectl", 0, NULL));
	snprintf(path, sizeof(path), "/tmp/fusectl/%u/abort",
		 minor(st.st_dev));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	EXPECT_EQ(1, write(fd, "1", 1));
	close(fd);
}

TEST_F(cmd, enotconn_after_abort)
{
	start(_metadata, &self->env, &self->issuer, NULL);
	ASSERT_EQ(1, issue_open(&self->issuer, self->back, 0));
	abort_connection(_metadata);
	expect_state(_metadata, -ENOTCONN, &self->issuer, self->back);
}

TEST_F(cmd, econnaborted_after_abort_with_abort_error)
{
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT | FUSE_ABORT_ERROR,
	};

	start(_metadata, &self->env, &self->issuer, &cfg);
	ASSERT_EQ(1, issue_open(&self->issuer, self->back, 0));
	abort_connection(_metadata);
	expect_state(_metadata, -ECONNABORTED, &self->issuer, self->back);
}

TEST_F(cmd, enotconn_after_umount)
{
	start(_metadata, &self->env, &self->issuer, NULL);
	ASSERT_EQ(1, issue_open(&self->issuer, self->back, 0));
	ASSERT_EQ(0, umount2(ENV_MNT, 0));
	expect_state(_metadata, -ENOTCONN, &self->issuer, self->back);
}

TEST_F(cmd, eopnotsupp_io_uring_not_negotiated)
{
	const struct ring_server_cfg cfg = { .init_flags = FUSE_PASSTHROUGH };

	start(_metadata, &self->env, &self->issuer, &cfg);
	expect_state(_metadata, -EOPNOTSUPP, &self->issuer, self->back);
}

/* A REGISTER that fails has the kernel go on without io_uring */
TEST_F(cmd, eopnotsupp_after_failed_register)
{
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.no_queues = true,
	};
	const struct fuse_uring_cmd_req req = { };

	start(_metadata, &self->env, &self->issuer, &cfg);
	ASSERT_EQ(1, issue_open(&self->issuer, self->back, 0));
	ASSERT_EQ(-EINVAL, issue(&self->issuer, FUSE_IO_URING_CMD_REGISTER,
				 &req));
	expect_state(_metadata, -EOPNOTSUPP, &self->issuer, self->back);
}

/* It has .uring_cmd of /dev/fuse, and there io_uring is never negotiated */
TEST_F(cmd, eopnotsupp_cuse)
{
	static const char name[] = "DEVNAME=backing_cmd_test";
	struct cuse_init_out init = { FUSE_KERNEL_VERSION,
				      FUSE_KERNEL_MINOR_VERSION };
	struct fuse_out_header oh = { };
	struct iovec iov[] = { { &oh, sizeof(oh) }, { &init, sizeof(init) },
			       { (void *)name, sizeof(name) } };
	char buf[FUSE_MIN_READ_BUFFER];
	size_t i;
	int fd;

	fd = open("/dev/cuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		SKIP(return, "no /dev/cuse");
	ASSERT_EQ(0, issuer_init(&self->issuer, &how_inline, fd));
	expect_state(_metadata, -EOPNOTSUPP, &self->issuer, self->back);
	ASSERT_LT(0, read(fd, buf, sizeof(buf)));
	oh.unique = ((struct fuse_in_header *)buf)->unique;
	for (i = 0; i < ARRAY_SIZE(iov); i++)
		oh.len += iov[i].iov_len;
	ASSERT_EQ(oh.len, writev(fd, iov, ARRAY_SIZE(iov)));
	expect_state(_metadata, -EOPNOTSUPP, &self->issuer, self->back);
	close(fd);
}

/* Nor do they need queues, where every request waits for one */
TEST_F(cmd, without_queues)
{
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.no_queues = true,
	};

	start(_metadata, &self->env, &self->issuer, &cfg);
	EXPECT_EQ(1, issue_open(&self->issuer, self->back, 0));
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
	EXPECT_EQ(-ENOENT, issue_close(&self->issuer, 1));
}

/* Bytes of the command area, as documented: not what the compiler has */
static const struct {
	const char *name;
	unsigned int from, to;
	__u32 op;
} reserved[] = {
	{ "flags", 0, 8, OPEN },
	{ "commit_id", 8, 16, OPEN },
	{ "qid and padding", 16, 24, OPEN },
	{ "backing.reserved", 44, 48, OPEN },
	{ "flags", 0, 8, CLOSE },
	{ "commit_id", 8, 16, CLOSE },
	{ "qid and padding", 16, 24, CLOSE },
	{ "backing.map", 24, 40, CLOSE },
	{ "backing.reserved", 44, 48, CLOSE },
};

static struct fuse_uring_cmd_req good_req(__u32 op, int back)
{
	struct fuse_uring_cmd_req req = { };

	if (op == OPEN)
		req.backing.map.fd = back;
	else
		req.backing.id = 1;
	return req;
}

/* One bit at a time, in a command that is good otherwise, and does nothing */
TEST_F(cmd, einval_reserved_fields)
{
	size_t i, bit;

	start(_metadata, &self->env, &self->issuer, NULL);
	ASSERT_EQ(1, issue_open(&self->issuer, self->back, 0));
	for (i = 0; i < ARRAY_SIZE(reserved); i++) {
		for (bit = 8 * reserved[i].from; bit < 8 * reserved[i].to; bit++) {
			struct fuse_uring_cmd_req req = good_req(reserved[i].op,
								 self->back);

			((__u8 *)&req)[bit / 8] ^= 1 << bit % 8;
			EXPECT_EQ(-EINVAL, issue(&self->issuer, reserved[i].op,
						 &req)) {
				TH_LOG("command %u, %s: bit %zu",
				       reserved[i].op, reserved[i].name, bit);
			}
		}
	}
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
	EXPECT_EQ(2, issue_open(&self->issuer, self->back, 0));
}

TEST_F(cmd, einval_uring_cmd_flags)
{
	struct fuse_uring_cmd_req req;
	__u32 op;

	start(_metadata, &self->env, &self->issuer, NULL);
	ASSERT_EQ(1, issue_open(&self->issuer, self->back, 0));
	for (op = OPEN; op <= CLOSE; op++) {
		req = good_req(op, self->back);
		issue_sqe(&self->issuer, op, &req)->uring_cmd_flags =
			IORING_URING_CMD_FIXED;
		EXPECT_EQ(-EINVAL, issue_wait(&self->issuer));
	}
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
	EXPECT_EQ(2, issue_open(&self->issuer, self->back, 0));
}

/* The 32 bytes behind the arguments are nobody's */
TEST_F(cmd, rest_of_the_command_area_is_ignored)
{
	struct fuse_uring_cmd_req req;
	__u32 op;

	start(_metadata, &self->env, &self->issuer, NULL);
	for (op = OPEN; op <= CLOSE; op++) {
		req = good_req(op, self->back);
		memset(fuse_cmd_req(issue_sqe(&self->issuer, op, &req)) + 1,
		       0xff, 80 - sizeof(req));
		EXPECT_EQ(op == OPEN, issue_wait(&self->issuer));
	}
}

/* Reserved fields, then what the ioctl checks */
TEST_F(cmd, order_of_checks)
{
	struct fuse_uring_cmd_req req = {
		.backing = { .map = { .fd = -1, .flags = 1 }, .reserved = 1 },
	};

	start(_metadata, &self->env, &self->issuer, NULL);
	ASSERT_EQ(0, capabilities_without(CAP_SYS_ADMIN));
	EXPECT_EQ(-EINVAL, issue(&self->issuer, OPEN, &req));
	EXPECT_EQ(-EINVAL, issue(&self->issuer, CLOSE, &req));
	req.backing.reserved = 0;
	EXPECT_EQ(-EPERM, issue(&self->issuer, OPEN, &req));
	EXPECT_EQ(-EINVAL, issue(&self->issuer, CLOSE, &req));
	EXPECT_EQ(-EPERM, issue_close(&self->issuer, 0));
	ASSERT_EQ(0, capabilities_without(CAP_NONE));
	EXPECT_EQ(-EINVAL, issue(&self->issuer, OPEN, &req));
	req.backing.map.flags = 0;
	EXPECT_EQ(-EBADF, issue(&self->issuer, OPEN, &req));
}

TEST_F(cmd, einval_unknown_command)
{
	const struct fuse_uring_cmd_req req = { };

	start(_metadata, &self->env, &self->issuer, NULL);
	EXPECT_EQ(-EINVAL, issue(&self->issuer, 0, &req));
	EXPECT_EQ(-EINVAL, issue(&self->issuer, ~0U, &req));
}

/* What is behind it would make a good command of it */
TEST_F(cmd, einval_64_byte_sqe)
{
	static const unsigned int flags[] = { 0, IORING_SETUP_SQE_MIXED };
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	size_t i;
	__u32 op;

	start(_metadata, &self->env, &self->issuer, NULL);
	ASSERT_EQ(1, issue_open(&self->issuer, self->back, 0));
	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		ASSERT_EQ(0, io_uring_queue_init(4, &ring, flags[i]));
		for (op = OPEN; op <= CLOSE; op++) {
			sqe = io_uring_get_sqe(&ring);
			ASSERT_NE(NULL, sqe);
			memset(sqe, 0, 2 * sizeof(*sqe));
			sqe->opcode = IORING_OP_URING_CMD;
			sqe->fd = self->env.server->dev_fd;
			sqe->cmd_op = op;
			*fuse_cmd_req(sqe) = good_req(op, self->back);
			ASSERT_EQ(1, io_uring_submit_and_wait(&ring, 1));
			ASSERT_EQ(0, io_uring_wait_cqe(&ring, &cqe));
			EXPECT_EQ(-EINVAL, cqe->res);
			io_uring_cqe_seen(&ring, cqe);
		}
		io_uring_queue_exit(&ring);
	}
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
	EXPECT_EQ(2, issue_open(&self->issuer, self->back, 0));
}

TEST_F(cmd, restricted_ring)
{
	const struct issue_how how = { .setup_flags = IORING_SETUP_R_DISABLED };
	struct io_uring_restriction cmds_only = {
		.opcode = IORING_RESTRICTION_SQE_OP,
		.sqe_op = IORING_OP_URING_CMD,
	};
	struct io_uring *ring = &self->issuer.ring;

	env_start(_metadata, &self->env, NULL);
	ASSERT_EQ(0, issuer_init(&self->issuer, &how, self->env.server->dev_fd));
	ASSERT_EQ(0, io_uring_register_restrictions(ring, &cmds_only, 1));
	ASSERT_EQ(0, io_uring_enable_rings(ring));
	EXPECT_EQ(1, issue_open(&self->issuer, self->back, 0));
	EXPECT_EQ(0, issue_close(&self->issuer, 1));
}

TEST_F(cmd, ids_are_of_one_connection)
{
	struct ring_node *node = files_node(&self->env.files, "file");
	struct ring_server_cfg cfg;
	struct ring_server *other;
	struct issuer on_other;
	int i, fd;

	start(_metadata, &self->env, &self->issuer, NULL);
	cfg = self->env.server->cfg;
	ASSERT_EQ(0, mkdir("/tmp/other", 0755));
	ASSERT_EQ(0, ring_server_start(&other, "/tmp/other", &cfg));
	ASSERT_EQ(0, issuer_init(&on_other, &how_inline, other->dev_fd));
	for (i = 1; i <= 3; i++)
		EXPECT_EQ(i, issue_open(&self->issuer, self->back, 0));
	EXPECT_EQ(1, issue_open(&on_other, self->back, 0));
	EXPECT_EQ(-ENOENT, issue_close(&on_other, 3));

	node->backing_id = 3;
	fd = env_open("file", O_RDONLY);
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	close(fd);
	EXPECT_EQ(-1, open("/tmp/other/file", O_RDONLY));
	EXPECT_EQ(EIO, errno);

	EXPECT_EQ(0, issue_close(&self->issuer, 1));
	EXPECT_EQ(0, issue_close(&on_other, 1));
	issuer_exit(&on_other);
	EXPECT_EQ(0, ring_server_stop(other));
}

/* What the hooks have seen: results with and without IORING_URING_CMD_FIXED */
static int fixed_res, plain_res;

static bool register_twice(struct ring_req *req)
{
	struct io_uring_sqe *sqe;

	if (req->in.opcode != FUSE_OPEN)
		return true;
	sqe = ring_queue_cmd(req->queue, OPEN, (uintptr_t)&fixed_res);
	fuse_cmd_req(sqe)->backing.map.fd = req->node->fd;
	sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
	sqe = ring_queue_cmd(req->queue, OPEN, (uintptr_t)req);
	fuse_cmd_req(sqe)->backing.map.fd = req->node->fd;
	/* the answer goes out with the id, from reply_with_id() */
	return false;
}

static void reply_with_id(struct ring_queue *queue, __u64 data, int res)
{
	struct ring_req *req = (void *)(uintptr_t)data;

	if (data == (uintptr_t)&fixed_res) {
		fixed_res = res;
	} else if (data) {
		plain_res = res;
		req->open->open_flags = FOPEN_PASSTHROUGH;
		req->open->backing_id = res;
		ring_req_commit(req);
	}
}

/* The ring of a queue whose REGISTER and COMMIT need IORING_URING_CMD_FIXED */
TEST_F(cmd, ring_of_a_queue_with_a_registered_pool)
{
	const struct ring_server_cfg cfg = {
		.init_flags = ENV_INIT,
		.hooks = {
			.setup = queue_pool_setup,
			.sqe = queue_pool_sqe,
			.reply = register_twice,
			.cqe = reply_with_id,
		},
	};
	int fd;

	start(_metadata, &self->env, &self->issuer, &cfg);
	fd = env_open("file", O_RDONLY);
	EXPECT_TRUE(env_is(fd, "file"));
	EXPECT_EQ(0, env_io_served(&self->env));
	EXPECT_EQ(-EINVAL, fixed_res);
	EXPECT_EQ(1, plain_res);
	close(fd);
}

/* Writes one value after the other to a word of an SQE */
struct rewriter {
	/* NULL: not now; and where it is at */
	__u32 *word, *at;
	__u32 value[2];
	bool stop;
};

static void *rewrite(void *arg)
{
	struct rewriter *r = arg;
	int i;

	while (!__atomic_load_n(&r->stop, __ATOMIC_SEQ_CST)) {
		__u32 *word = __atomic_load_n(&r->word, __ATOMIC_SEQ_CST);

		__atomic_store_n(&r->at, word, __ATOMIC_SEQ_CST);
		if (!word)
			sched_yield();
		for (i = 0; word && i < 64; i++)
			__atomic_store_n(word, r->value[i % 2], __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Returns when the rewriter is there */
static void rewrite_at(struct rewriter *r, __u32 *word)
{
	__atomic_store_n(&r->word, word, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&r->at, __ATOMIC_SEQ_CST) != word)
		sched_yield();
}

/*
 * Each field is read once: whatever the kernel gets to see, it is one command,
 * and what it answers is what it has done. All words of the command area have
 * their turn, with a value that is good and one that is an error.
 */
TEST_F(cmd, sqe_is_rewritten_meanwhile)
{
	const __u32 map_fd = 24 / 4, backing_id = 40 / 4;
	struct ring_node *node = files_node(&self->env.files, "file");
	struct rewriter r = { };
	struct issuer ioctl;
	pthread_t thread;
	bool ok = true;
	int i, fd, opened = 0;

	start(_metadata, &self->env, &self->issuer, NULL);
	ASSERT_EQ(0, issuer_init(&ioctl, &how_ioctl, self->env.server->dev_fd));
	ASSERT_EQ(0, pthread_create(&thread, NULL, rewrite, &r));
	env_pin(_metadata, 0);
	/* in each round id i is closed by the command, or opened by it */
	for (i = 1; ok && i <= 24 * 40; i++) {
		__u32 op = i % 2 ? OPEN : CLOSE, word = i / 2 % 12;
		struct fuse_uring_cmd_req req = { };
		int res, bad = -EINVAL;

		if (op == OPEN)
			req.backing.map.fd = self->back;
		else
			req.backing.id = issue_open(&ioctl, self->back, 0);
		r.value[0] = ((__u32 *)&req)[word];
		r.value[1] = word == backing_id ? -1 : 1;
		if (op == OPEN && word == map_fd) {
			r.value[1] = self->env.files.dir_fd;
			bad = -EISDIR;
		}
		rewrite_at(&r, (__u32 *)fuse_cmd_req(issue_sqe(&self->issuer, op,
							       &req)) + word);
		res = issue_wait(&self->issuer);
		rewrite_at(&r, NULL);

		ok = res == bad || res == (op == OPEN ? i : 0);
		if (op == OPEN && res == bad) {
			/* it has taken no id */
			ok = issue_open(&ioctl, self->back, 0) == i;
		} else if (op == OPEN && word == map_fd) {
			/* it has taken the file that it has looked at */
			node->backing_id = i;
			fd = env_open("file", O_RDONLY);
			ok = ok && env_is(fd, "file");
			close(fd);
			env_released(_metadata, &self->env, ++opened);
		}
		ok = ok && issue_close(&ioctl, i) ==
			   (op == CLOSE && !res ? -ENOENT : 0);
		EXPECT_TRUE(ok) {
			TH_LOG("command %u, word %u: %d", op, word, res);
		}
	}
	__atomic_store_n(&r.stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	issuer_exit(&ioctl);
}

int main(int argc, char **argv)
{
	enable_uring_hold();
	return test_harness_run(argc, argv);
}
