// SPDX-License-Identifier: GPL-2.0
/*
 * The inode's backing file: what sets, replaces and drops it, which opens use
 * it, and what is held. See Documentation/filesystems/fuse/fuse-passthrough.rst.
 */
#define _GNU_SOURCE
#include <dirent.h>

#include "inode_file.h"

#define MNT2	"/tmp/mnt2"
#define COMMIT	FUSE_IO_URING_CMD_COMMIT_BACKING

/* of the entry in an answer, if not 0 */
static __u64 generation;

static int handle(struct ring_req *req)
{
	struct fuse_direntplus *plus = req->out;
	const struct fuse_read_in *in = req->op;
	int len = inode_file_handle(req);

	switch (req->in.opcode) {
	case FUSE_LOOKUP:
		if (generation && len > 0)
			plus->entry_out.generation = generation;
		return len;
	case FUSE_OPENDIR:
		return -ENOSYS;
	case FUSE_READDIRPLUS:
		break;
	default:
		return len;
	}
	if (in->offset)
		return 0;
	req->in.opcode = FUSE_LOOKUP;
	req->data = "file";
	files_handle(req);
	req->in.opcode = FUSE_READDIRPLUS;
	plus->dirent = (struct fuse_dirent) {
		.ino = req->node->nodeid,
		.off = 1,
		.namelen = 4,
		.type = DT_REG,
	};
	memcpy(plus->dirent.name, "file", 4);
	return FUSE_DIRENTPLUS_SIZE(plus);
}

static const struct ring_server_cfg cfg = {
	.init_flags = ENV_INIT | FUSE_DO_READDIRPLUS,
	.handle = handle,
	.hooks = { .reply = inode_file_reply, .refused = files_refused },
};

FIXTURE(inode_file)
{
	struct env env;
};

FIXTURE_SETUP(inode_file)
{
	const char *missing = begin(_metadata, &self->env);

	if (missing)
		SKIP(return, "%s", missing);
	env_start(_metadata, &self->env, &cfg);
}

FIXTURE_TEARDOWN(inode_file)
{
	end(_metadata, &self->env);
}

/* What can set it; there are no other requests that answer with an inode */
static const struct {
	__u32 opcode;
	const char *path;
	int flags;
} setters[] = {
	{ FUSE_LOOKUP, ENV_MNT "/link", O_PATH },
	/* revalidated */
	{ FUSE_LOOKUP, FILE_, O_PATH },
	{ FUSE_OPEN, FILE_, O_RDWR },
	{ FUSE_CREATE, ENV_MNT "/created", O_RDWR | O_CREAT | O_EXCL },
	{ FUSE_TMPFILE, ENV_MNT, O_RDWR | O_TMPFILE },
};

TEST_F(inode_file, is_set)
{
	struct env *env = &self->env;
	char path[64];
	size_t i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(setters); i++) {
		check(_metadata, env, FILE_, NULL);
		pass(_metadata, BIT(setters[i].opcode), "old");
		fd = open(setters[i].path, setters[i].flags, 0644);
		ASSERT_LE(0, fd) {
			TH_LOG("row %zu", i);
		}
		pass_none();
		if (setters[i].flags != O_PATH) {
			/* it is also that of this open */
			EXPECT_TRUE(env_is(fd, "old"));
			EXPECT_FALSE(hook.told);
		}
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		check(_metadata, env, path, "old");
		/* and again, when the server has closed all of its files */
		check(_metadata, env, path, "old");
		close(fd);
		/* of this inode alone */
		set(_metadata, NULL);
	}
}

TEST_F(inode_file, is_replaced_and_dropped)
{
	struct env *env = &self->env;
	int fd;

	set(_metadata, "old");
	check(_metadata, env, FILE_, "old");
	set(_metadata, "new");
	check(_metadata, env, FILE_, "new");
	/* it is the inode's, whatever its name */
	check(_metadata, env, ENV_MNT "/link", "new");
	pass(_metadata, BIT(FUSE_OPEN), "old");
	fd = env_open("file", O_RDWR);
	pass_none();
	EXPECT_TRUE(hook.told);
	EXPECT_TRUE(env_is(fd, "old"));
	env_close(_metadata, env, fd);
	check(_metadata, env, FILE_, "old");
	set(_metadata, NULL);
	check(_metadata, env, FILE_, NULL);
	/* there is nothing to drop */
	set(_metadata, NULL);
	check(_metadata, env, FILE_, NULL);
	set(_metadata, "new");
	check(_metadata, env, FILE_, "new");
}

TEST_F(inode_file, goes_with_the_inode)
{
	struct env *env = &self->env;

	set(_metadata, "old");
	evict(_metadata, env);
	check(_metadata, env, FILE_, NULL);
	set(_metadata, "old");
	/* the number is that of another file */
	generation = 2;
	check(_metadata, env, FILE_, NULL);
	set(_metadata, "new");
	check(_metadata, env, FILE_, "new");
}

static void read_dir(struct __test_metadata *_metadata)
{
	DIR *dir = opendir(ENV_MNT);

	ASSERT_NE(NULL, dir);
	EXPECT_STREQ("file", readdir(dir)->d_name);
	closedir(dir);
}

/* READDIRPLUS can return the inode and passes no file */
TEST_F(inode_file, readdirplus)
{
	struct env *env = &self->env;

	env->files.cache_secs = 1000;
	set(_metadata, "old");
	read_dir(_metadata);
	check(_metadata, env, FILE_, "old");
	evict(_metadata, env);
	read_dir(_metadata);
	check(_metadata, env, FILE_, NULL);
	EXPECT_EQ(2, ring_server_count(env->server, FUSE_READDIRPLUS));
}

/* Replies to OPEN: the flags, a backing id, and a file for this open alone */
static const struct {
	bool told;
	__u32 flags;
	enum { NO_ID, ID_OF_NEW, WRONG_ID } id;
	bool pass;
	/* the file that is open, or that it fails */
	const char *back;
} replies[] = {
	{ true, FOPEN_PASSTHROUGH, NO_ID, false, "old" },
	{ true, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NO_ID, false, "old" },
	{ true, FOPEN_PASSTHROUGH | FOPEN_KEEP_CACHE, NO_ID, false, NULL },
	{ true, FOPEN_PASSTHROUGH, ID_OF_NEW, false, "new" },
	{ true, FOPEN_PASSTHROUGH, WRONG_ID, false, NULL },
	{ true, FOPEN_PASSTHROUGH, NO_ID, true, "new" },
	{ true, 0, NO_ID, true, "new" },
	{ true, 0, ID_OF_NEW, true, NULL },
	{ true, 0, NO_ID, false, "file" },
	{ true, FOPEN_DIRECT_IO, NO_ID, false, "file" },
	{ false, FOPEN_PASSTHROUGH, NO_ID, false, NULL },
	{ false, FOPEN_PASSTHROUGH, ID_OF_NEW, false, "new" },
	{ false, 0, NO_ID, false, "file" },
};

static struct fuse_open_out open_out;

static bool reply_open(struct ring_req *req)
{
	if (req->open)
		*req->open = open_out;
	return true;
}

TEST_F(inode_file, replies)
{
	struct env *env = &self->env;
	struct issuer issuer;
	int id, fd;
	size_t i;

	pass(_metadata, 0, "new");
	ASSERT_EQ(0, issuer_init(&issuer, NULL, env->server->dev_fd, 0));
	id = issue_open(&issuer, hook.fd);
	ASSERT_LT(0, id);
	pass_none();
	for (i = 0; i < ARRAY_SIZE(replies); i++) {
		set(_metadata, replies[i].told ? "old" : NULL);
		open_out.open_flags = replies[i].flags;
		open_out.backing_id = replies[i].id == NO_ID ? 0 :
				  replies[i].id == ID_OF_NEW ? id : id + 1;
		hook.reply = reply_open;
		pass(_metadata, replies[i].pass ? BIT(FUSE_OPEN) : 0, "new");
		hook.flags = 0;
		if (replies[i].back) {
			fd = env_open("file", O_RDWR);
			EXPECT_TRUE(env_is(fd, replies[i].back)) {
				TH_LOG("row %zu", i);
			}
			env_close(_metadata, env, fd);
		} else {
			env_open_fails(_metadata, env, "file", O_RDWR);
		}
		EXPECT_EQ(replies[i].told, hook.told);
		pass_none();
		hook.flags = FUSE_URING_BACKING_INODE;
		hook.reply = NULL;
		check(_metadata, env, FILE_, replies[i].told ? "old" : NULL);
	}
	/* a file that is created has none yet */
	open_out.open_flags = FOPEN_PASSTHROUGH;
	open_out.backing_id = 0;
	hook.reply = reply_open;
	env_open_fails(_metadata, env, "created", O_RDWR | O_CREAT);
	issuer_exit(&issuer);
}

/* LOOKUPs after which there is no inode that could have the file */
static const struct unused {
	/* of the answer: length or error, no nodeid, the mode */
	int len;
	bool negative;
	__u32 mode;
	/* and what the client gets */
	int err;
} unused[] = {
	{ .len = -ENOENT, .err = -ENOENT },
	{ .negative = true, .err = -ENOENT },
	/* cannot be copied */
	{ .len = 4, .err = -EINVAL },
	{ .mode = S_IFDIR | 0755 },
	{ .mode = S_IFLNK | 0777 },
	{ .mode = S_IFIFO | 0644 },
}, *now;

static bool reply_unused(struct ring_req *req)
{
	struct fuse_entry_out *entry = req->out;

	if (now->len)
		req->len = now->len;
	if (now->negative)
		entry->nodeid = 0;
	if (now->mode)
		entry->attr.mode = now->mode;
	return true;
}

/* New and revalidated; nothing may be left, which umount() sees */
TEST_F(inode_file, is_dropped_if_not_used)
{
	struct env *env = &self->env;
	size_t i;
	int fd;

	for (i = 0; i < 2 * ARRAY_SIZE(unused); i++) {
		evict(_metadata, env);
		if (i % 2)
			close(env_open("file", O_PATH));
		now = &unused[i / 2];
		hook.reply = reply_unused;
		pass(_metadata, BIT(FUSE_LOOKUP), "sub/file");
		fd = env_open("file", O_PATH | O_NOFOLLOW);
		EXPECT_EQ(now->err, fd < 0 ? fd : 0) {
			TH_LOG("row %zu", i / 2);
		}
		close(fd);
		pass_none();
		hook.reply = NULL;
		/* the server is done with the one before */
		env_open("no such file", O_RDONLY);
		EXPECT_EQ(0, umount(SUB)) {
			TH_LOG("row %zu", i / 2);
		}
		ASSERT_EQ(0, mount("sub", SUB, "tmpfs", 0, NULL));
		close(env_file(_metadata, env, "sub/file"));
	}
	evict(_metadata, env);
	check(_metadata, env, FILE_, NULL);
}

/* What a commit is refused for; nothing has happened then */
#define INODE	FUSE_URING_BACKING_INODE
#define NO_OPEN	FUSE_URING_BACKING_NO_OPEN
#define OPENS	(BIT(FUSE_OPEN) | BIT(FUSE_CREATE) | BIT(FUSE_TMPFILE))

enum { GOOD = -4, DIR_, MINUS_2, MINUS_1 };

static const struct {
	__u64 opcodes, flags;
	int fd, err;
	bool incapable;
} refusals[] = {
	{ BIT(FUSE_LOOKUP) | OPENS, NO_OPEN, GOOD, -EINVAL },
	{ BIT(FUSE_LOOKUP) | OPENS, NO_OPEN, MINUS_1, -EINVAL },
	{ BIT(FUSE_LOOKUP), 0, GOOD, -EOPNOTSUPP },
	{ BIT(FUSE_LOOKUP), 0, MINUS_1, -EBADF },
	{ BIT(FUSE_LOOKUP), INODE, MINUS_2, -EBADF },
	{ BIT(FUSE_LOOKUP) | OPENS, INODE, DIR_, -EISDIR },
	{ BIT(FUSE_LOOKUP) | OPENS, INODE, GOOD, -EPERM, true },
	{ BIT(FUSE_LOOKUP) | OPENS, INODE, MINUS_1, -EPERM, true },
	{ OPENS, 0, MINUS_1, -EBADF },
	{ OPENS, INODE, MINUS_1, -EBADF },
	{ OPENS, INODE | NO_OPEN, MINUS_1, -EBADF },
	{ BIT(FUSE_GETATTR), INODE, GOOD, -EOPNOTSUPP },
	{ BIT(FUSE_GETATTR), INODE, MINUS_1, -EOPNOTSUPP },
};

static struct {
	struct __test_metadata *_metadata;
	struct issuer issuer;
} try;

/* Try commits from another ring, of which nothing may change by that */
static bool reply_refusals(struct ring_req *req)
{
	const struct env *env = req->server->cfg.priv;
	struct __test_metadata *_metadata = try._metadata;
	struct fuse_uring_req_header hdr = *req->hdr;
	struct fuse_uring_cmd_req cmd = {
		.commit_id = hdr.ring_ent_in_out.commit_id,
		.qid = req->queue->qid,
	};
	char payload[RING_PAGE];
	unsigned int i, bit;

	memcpy(payload, req->out, sizeof(payload));

	for (i = 0; i < ARRAY_SIZE(refusals); i++) {
		if (!(refusals[i].opcodes & BIT(req->in.opcode)))
			continue;
		cmd.flags = refusals[i].flags;
		cmd.backing.map.fd = refusals[i].fd == GOOD ? hook.fd :
				     refusals[i].fd == DIR_ ? env->files.dir_fd :
				     refusals[i].fd == MINUS_2 ? -2 : -1;
		if (refusals[i].incapable)
			capabilities_without(CAP_SYS_ADMIN);
		EXPECT_EQ(refusals[i].err, issue(&try.issuer, COMMIT, &cmd)) {
			TH_LOG("opcode %u, row %u", req->in.opcode, i);
		}
		capabilities_without(CAP_NONE);
	}
	cmd.backing.map.fd = hook.fd;
	for (bit = 2; bit < 64; bit++) {
		cmd.flags = INODE | 1ULL << bit;
		EXPECT_EQ(-EINVAL, issue(&try.issuer, COMMIT, &cmd)) {
			TH_LOG("bit %u", bit);
		}
	}
	EXPECT_EQ(0, memcmp(&hdr, req->hdr, sizeof(hdr)));
	EXPECT_EQ(0, memcmp(payload, req->out, sizeof(payload)));
	return true;
}

TEST_F(inode_file, refused)
{
	struct env *env = &self->env;
	struct stat st;
	int fd;

	ASSERT_EQ(0, issuer_init(&try.issuer, NULL, env->server->dev_fd, 0));
	set(_metadata, "old");
	pass(_metadata, 0, "new");
	try._metadata = _metadata;
	hook.reply = reply_refusals;
	check(_metadata, env, FILE_, "old");
	EXPECT_EQ(0, stat(FILE_, &st));
	fd = env_open("created", O_RDWR | O_CREAT);
	EXPECT_LE(0, fd);
	close(fd);
	fd = env_open(".", O_RDWR | O_TMPFILE);
	EXPECT_LE(0, fd);
	close(fd);
	check(_metadata, env, FILE_, "old");
	hook.reply = NULL;
	pass_none();
	issuer_exit(&try.issuer);
}

/* Of a file that nobody has open only the path is held */
TEST_F(inode_file, is_not_open)
{
	struct env *env = &self->env;
	int fd;

	set(_metadata, "sub/file");
	check(_metadata, env, FILE_, "sub/file");
	fd = open(SUB "/file", O_RDONLY | O_CLOEXEC);
	/* no writer and nobody else: each of these fails if there is one */
	EXPECT_EQ(0, fcntl(fd, F_SETLEASE, F_WRLCK));
	EXPECT_EQ(0, fcntl(fd, F_SETLEASE, F_UNLCK));
	EXPECT_EQ(0, fchmod(fd, 0755));
	close(fd);
	/* what is in it is no program, else ETXTBSY comes first */
	EXPECT_EQ(-1, execl(SUB "/file", "file", NULL));
	EXPECT_EQ(ENOEXEC, errno);
	EXPECT_EQ(0, mount(NULL, SUB, NULL, MS_REMOUNT | MS_RDONLY, NULL));
	fd = env_open("file", O_RDONLY);
	EXPECT_TRUE(env_is(fd, "sub/file"));
	env_close(_metadata, env, fd);
}

/* Put when the inode is evicted and not some time later */
TEST_F(inode_file, is_put_in_time)
{
	struct env *env = &self->env;
	int fd;

	set(_metadata, "sub/file");
	EXPECT_EQ(-1, umount(SUB));
	EXPECT_EQ(EBUSY, errno);
	evict(_metadata, env);
	EXPECT_EQ(0, umount(SUB));
	ASSERT_EQ(0, mount("sub", SUB, "tmpfs", 0, NULL));
	close(env_file(_metadata, env, "sub/file"));
	set(_metadata, "sub/file");
	/* not used for this open: it has nothing of it */
	hook.reply = reply_open;
	fd = env_open("file", O_RDWR);
	EXPECT_TRUE(hook.told);
	hook.reply = NULL;
	set(_metadata, NULL);
	EXPECT_EQ(0, umount(SUB));
	EXPECT_TRUE(env_is(fd, "file"));
	env_close(_metadata, env, fd);
	ASSERT_EQ(0, mount("sub", SUB, "tmpfs", 0, NULL));
	close(env_file(_metadata, env, "sub/file"));
	set(_metadata, "sub/file");
	env_stop(_metadata, env);
	EXPECT_EQ(0, umount(SUB));
}

/* The inode is the connection's: a bind mount has the same, a mount has not */
TEST_F(inode_file, of_two_mounts)
{
	struct env *env = &self->env;
	struct ring_server_cfg cfg2 = cfg;
	struct ring_server *second;

	ASSERT_EQ(0, mkdir(MNT2, 0755));
	set(_metadata, "old");
	ASSERT_EQ(0, mount(ENV_MNT, MNT2, NULL, MS_BIND, NULL));
	check(_metadata, env, MNT2 "/file", "old");
	ASSERT_EQ(0, umount(MNT2));

	cfg2.priv = env;
	cfg2.max_stack_depth = 1;
	ASSERT_EQ(0, ring_server_start(&second, MNT2, &cfg2));
	close(open(MNT2 "/file", O_RDWR));
	EXPECT_FALSE(hook.told);
	EXPECT_EQ(0, ring_server_stop(second));
	check(_metadata, env, FILE_, "old");
}

/* Whoever opens it, the I/O is with the credentials of the server */
TEST_F(inode_file, in_a_user_namespace)
{
	struct env *env = &self->env;
	pid_t pid;

	if (access("/proc/self/ns/user", F_OK))
		SKIP(return, "no user namespaces");
	ASSERT_EQ(0, chmod(ENV_BACK "/old", 0));
	ASSERT_EQ(0, chown(ENV_BACK "/old", 1, 1));
	ASSERT_EQ(0, chmod(ENV_BACK "/file", 0666));
	set(_metadata, "old");
	pid = sys_fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd;

		EXPECT_EQ(0, user_ns_enter());
		fd = env_open("file", O_RDWR);
		EXPECT_TRUE(env_is(fd, "old"));
		EXPECT_EQ(4, pwrite(fd, "data", 4, 100));
		_exit(_metadata->exit_code);
	}
	EXPECT_EQ(0, sys_wait(pid));
	EXPECT_TRUE(hook.told);
	EXPECT_EQ(0, env_io_served(env));
}

/* As many inodes as are looked up in a second; half of them have each file */
#define MANY	10000
#define MANY_ID	1000000ULL

static int fds[2];

static int handle_many(struct ring_req *req)
{
	struct env *env = req->server->cfg.priv;
	struct fuse_entry_out *entry = req->out;
	unsigned int nr;
	int len;

	if (req->in.opcode != FUSE_LOOKUP || *req->data != '#') {
		if (req->in.nodeid >= MANY_ID)
			req->in.nodeid = files_node(&env->files, "file")->nodeid;
		return handle(req);
	}
	nr = atoi(req->data + 1);
	req->data = "file";
	len = handle(req);
	entry->nodeid = MANY_ID + nr;
	hook.fd = fds[nr % 2];
	return len;
}

TEST_F_TIMEOUT(inode_file, many, 300)
{
	static const char * const back[] = { "old", "new" };
	struct ring_server_cfg many = cfg;
	struct env *env = &self->env;
	struct stat st;
	char path[64];
	unsigned int i;

	many.handle = handle_many;
	env_stop(_metadata, env);
	env->files.cache_secs = 1000;
	env_start(_metadata, env, &many);
	for (i = 0; i < 2; i++) {
		pass(_metadata, BIT(FUSE_LOOKUP), back[i]);
		fds[i] = hook.fd;
	}
	for (i = 0; i < MANY; i++) {
		snprintf(path, sizeof(path), ENV_MNT "/#%u", i);
		ASSERT_EQ(0, stat(path, &st));
	}
	hook.pass = 0;
	for (i = 0; i < MANY; i += 111) {
		snprintf(path, sizeof(path), ENV_MNT "/#%u", i);
		check(_metadata, env, path, back[i % 2]);
	}
	for (i = 0; i < MANY; i += 1000)
		env_prune(_metadata, env, MANY_ID + i, 1000);
	for (i = 0; i < MANY; i += 111) {
		snprintf(path, sizeof(path), ENV_MNT "/#%u", i);
		check(_metadata, env, path, NULL);
	}
	close(fds[0]);
	close(fds[1]);
}

ENV_MAIN
