/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of the inode's backing file have in common: a server that
 * passes it with the answers that a test wants, and uses it for opens that say
 * that the inode has one.
 *
 * There are the backing files "old" and "new", which are passed, and "file",
 * which the server reads and writes itself when an open does not pass through.
 * "sub/file" is one more, on a file system of its own.
 */
#ifndef INODE_FILE_H
#define INODE_FILE_H

#include "env.h"

#define FILE_	ENV_MNT "/file"
#define SUB	ENV_BACK "/sub"
#define BIT(op)	(1ULL << (op))

/* What the hook does; every test is a process */
static struct {
	/* answers that pass @fd with @flags, by BIT() of their opcode */
	__u64 pass;
	int fd;
	__u64 flags;
	/* of the last OPEN: had it FUSE_OPEN_BACKING? Then it is used */
	bool told;
	/* the request is a LOOKUP of the name "go" */
	bool go;
	/* then this one; returns whether to commit now */
	bool (*reply)(struct ring_req *req);
} hook;

/* "link" is another name of "file" */
static __maybe_unused int inode_file_handle(struct ring_req *req)
{
	hook.go = req->in.opcode == FUSE_LOOKUP && !strcmp(req->data, "go");
	if (req->in.opcode == FUSE_LOOKUP && !strcmp(req->data, "link"))
		req->data = "file";
	return files_handle(req);
}

static bool inode_file_reply(struct ring_req *req)
{
	const struct fuse_open_in *in = req->op;

	if (req->in.opcode == FUSE_OPEN) {
		hook.told = in->open_flags & FUSE_OPEN_BACKING;
		if (hook.told)
			req->open->open_flags = FOPEN_PASSTHROUGH;
	}
	if (hook.pass & BIT(req->in.opcode)) {
		req->fd = hook.fd;
		req->flags = hook.flags;
	}
	return !hook.reply || hook.reply(req);
}

/* Make the files; why the test cannot run here, or NULL */
static const char *begin(struct __test_metadata *_metadata, struct env *env)
{
	const char *missing = env_setup(_metadata, env, ENV_NEED(BY_COMMIT) |
					FUSE_HAS_NO_OPEN_BACKING);

	if (missing)
		return missing;
	hook.flags = FUSE_URING_BACKING_INODE;
	close(env_file(_metadata, env, "file"));
	close(env_file(_metadata, env, "old"));
	close(env_file(_metadata, env, "new"));
	ASSERT_EQ(0, mkdir(SUB, 0755));
	ASSERT_EQ(0, mount("sub", SUB, "tmpfs", 0, NULL));
	close(env_file(_metadata, env, "sub/file"));
	env_pin(_metadata, env, 0);
	return NULL;
}

static void end(struct __test_metadata *_metadata, struct env *env)
{
	env_stop(_metadata, env);
	EXPECT_EQ(0, env->files.refusal);
	umount(SUB);
	env_teardown(_metadata, env);
}

/* Let the kernel forget the inode, which nobody has open */
static void evict(struct __test_metadata *_metadata, struct env *env)
{
	env_prune(_metadata, env, files_node(&env->files, "file")->nodeid, 1);
}

/* These answers pass a backing file; NULL: they drop that of the inode */
static void pass(struct __test_metadata *_metadata, __u64 opcodes,
		 const char *back)
{
	char path[64];

	hook.fd = -1;
	if (back) {
		snprintf(path, sizeof(path), ENV_BACK "/%s", back);
		/* if the kernel held it, that would be a writer */
		hook.fd = open(path, O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, hook.fd);
	}
	hook.pass = opcodes;
}

/* And no longer; the server has closed its fd */
static void pass_none(void)
{
	hook.pass = 0;
	if (hook.fd >= 0)
		close(hook.fd);
}

/* Set, replace or drop the file of the inode by LOOKUP */
static void set(struct __test_metadata *_metadata, const char *back)
{
	int fd;

	pass(_metadata, BIT(FUSE_LOOKUP), back);
	fd = open(FILE_, O_PATH | O_CLOEXEC);
	EXPECT_LE(0, fd);
	close(fd);
	pass_none();
}

/* Open with the inode's file, which has to be @back; NULL: there is none */
static int open_path(struct __test_metadata *_metadata, struct env *env,
		     const char *path, const char *back)
{
	unsigned long served = env_io_served(env);
	int fd = open(path, O_RDWR | O_CLOEXEC);

	EXPECT_LE(0, fd);
	EXPECT_EQ(!!back, hook.told);
	EXPECT_TRUE(env_is(fd, back ? back : "file"));
	EXPECT_EQ(!back, env_io_served(env) > served);
	return fd;
}

static void check(struct __test_metadata *_metadata, struct env *env,
		  const char *path, const char *back)
{
	env_close(_metadata, env, open_path(_metadata, env, path, back));
}

#endif /* INODE_FILE_H */
