// SPDX-License-Identifier: GPL-2.0
/*
 * An open for cached mode waits for parallel direct writes. If passthrough
 * begins meanwhile it fails, and does not go on waiting.
 */
#include "raw_server.h"

TEST(cached_open_fails)
{
	struct fuse_out_header oh = { .len = sizeof(oh), .error = -EINTR };
	int direct, fd, status, opened;
	pid_t writer, opener;
	struct raw_server *s;

	raw_sandbox(_metadata);
	s = raw_server_start(_metadata, "mnt", FUSE_PASSTHROUGH,
			     memfd_create("content", 0));
	ASSERT_EQ(0, ftruncate(s->content, 4096));

	/* A parallel write that lasts. */
	s->open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
	s->hold = FUSE_WRITE;
	direct = open(s->file, O_RDWR);
	ASSERT_LE(0, direct);
	writer = fork();
	ASSERT_LE(0, writer);
	if (!writer)
		_exit(pwrite(direct, "1", 1, 0) == 1);
	while (!__atomic_load_n(&s->held, __ATOMIC_ACQUIRE))
		sched_yield();

	s->open_flags = 0;
	opener = raw_fork(&opened);
	ASSERT_LE(0, opener);
	if (!opener)
		_exit(open(s->file, O_RDWR) < 0 ? errno : 0);
	while (__atomic_load_n(&s->requests[FUSE_OPEN], __ATOMIC_ACQUIRE) < 2)
		sched_yield();
	raw_wait_state(opener, 'D');

	s->open_flags = FOPEN_PASSTHROUGH;
	fd = open(s->file, O_RDWR);
	EXPECT_LE(0, fd);
	EXPECT_EQ(1, raw_poll(opened));

	oh.unique = s->held;
	EXPECT_EQ(sizeof(oh), write(s->dev, &oh, sizeof(oh)));
	close(fd);
	EXPECT_EQ(writer, waitpid(writer, NULL, 0));
	ASSERT_EQ(opener, waitpid(opener, &status, 0));
	EXPECT_EQ(EIO, WEXITSTATUS(status));
}

TEST_HARNESS_MAIN
