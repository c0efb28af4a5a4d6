// SPDX-License-Identifier: GPL-2.0
/*
 * Replies to opens that bring their backing files: these pass through, however
 * the commit is issued, and each open of an inode does its I/O on the file that
 * it came with.
 */
#define _GNU_SOURCE
#include <semaphore.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "caps.h"
#include "commit_file.h"
#include "env.h"
#include "queue_variants.h"

/* Open at a time */
#define OPENS		100

/* What an open brings */
enum bring {
	/* hook.fd, which stays open */
	FD,
	/* an O_PATH fd of its own, closed with the next request of the entry */
	O_PATH_UNTIL_CQE,
	/* a duplicate, closed as soon as the command has run */
	DUP_UNTIL_RUN,
	/* one that is the file handle, closed by RELEASE */
	DUP_UNTIL_RELEASE,
	NOTHING,
};

/* An fd of O_PATH_UNTIL_CQE */
struct brought {
	struct ring_ent *ent;
	int fd;
};

/* What the hooks do; every test is a process of its own */
static struct {
	enum bring bring;
	int fd;
	/* more flags of the reply */
	__u32 open_flags;
	/* a capability that is missing when the commit is issued, or 0 */
	__u64 without;
	/* hold the next thread that commits this enum fuse_opcode */
	__u32 hold;
	sem_t held, let_go;
	/* see way_sqe() */
	struct queue_how how;
	int clone_fd;
	/* what the last open has brought */
	int last_fd;
	unsigned int refused;
} hook;

/* For the thread's next submission */
static __thread int close_after;
static __thread bool to_be_held;
static __thread struct brought brought[2];

static void wait_for(sem_t *sem)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += RING_PATIENCE;
	if (sem_timedwait(sem, &end)) {
		perror("# sem_timedwait");
		abort();
	}
}

/* An O_PATH fd of a file that may have no name */
static int open_path(int fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_PATH | O_CLOEXEC);
}

