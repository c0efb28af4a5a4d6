// SPDX-License-Identifier: GPL-2.0
/*
 * An open for cached mode waits for parallel direct writes. If passthrough
 * begins meanwhile it fails, and does not go on waiting.
 */
#include "raw_server.h"
#include <poll.h>
#include "../../kselftest_harness.h"

#define TIMEOUT_MS	10000

static char state_of(pid_t pid)
{
	char path[40], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (f) {
		if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
			state = 0;
		fclose(f);
	}
	return state;
}

/* A process that opens @s->file, and closes @done when it has. */
static pid_t open_in_process(struct raw_server *s, int *done)
{
	pid_t pid;
	int p[2];

	if (pipe2(p, O_CLOEXEC))
		return -1;
	pid = fork();
	if (!pid)
		_exit(open(s->file, O_RDWR) < 0 ? errno : 0);
	close(p[1]);
	*done = p[0];
	return pid;
}

TEST(cached_open_fails)
{
	struct fuse_out_header oh = { .len = sizeof(oh), .error = -EINTR };
	struct pollfd pfd = {};
	struct raw_server *s;
	int direct, fd, status;
	pid_t writer, opener;

	if (geteuid())
		SKIP(return, "needs root to mount");
	ASSERT_EQ(0, raw_sandbox());
	s = raw_server_new();
	ASSERT_NE(NULL, s);
	s->content = open("/tmp/content", O_RDWR | O_CREAT, 0644);
	ASSERT_LE(0, s->content);
	ASSERT_EQ(0, ftruncate(s->content, 4096));
	s->init_flags = FUSE_PASSTHROUGH;
	ASSERT_EQ(0, raw_server_mount(s, "mnt"));

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
	opener = open_in_process(s, &pfd.fd);
	ASSERT_LE(0, opener);
	while (s->requests[FUSE_OPEN] < 2 || state_of(opener) != 'D')
		sched_yield();

	ASSERT_EQ(0, raw_server_backing(s, s->content));
	s->open_flags = FOPEN_PASSTHROUGH;
	fd = open(s->file, O_RDWR);
	EXPECT_LE(0, fd);
	EXPECT_EQ(1, poll(&pfd, 1, TIMEOUT_MS));

	oh.unique = s->held;
	EXPECT_EQ(sizeof(oh), write(s->dev, &oh, sizeof(oh)));
	close(fd);
	EXPECT_EQ(writer, waitpid(writer, NULL, 0));
	ASSERT_EQ(opener, waitpid(opener, &status, 0));
	EXPECT_EQ(EIO, WEXITSTATUS(status));
}

TEST_HARNESS_MAIN
