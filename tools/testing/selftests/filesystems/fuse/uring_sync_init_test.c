// SPDX-License-Identifier: GPL-2.0
/*
 * After FUSE_DEV_IOC_SYNC_INIT a command to /dev/fuse waits for the mount. The
 * others of the same ring do not.
 */
#include "raw_server.h"
#include "raw_ring.h"
#include <pthread.h>

static void *submit_one(void *arg)
{
	raw_ring_enter(arg, 1, 0);
	/* The end of a thread ends what waits for it in io_uring */
	pause();
	return NULL;
}

/* Two threads submit one each. */
TEST(ring_can_be_used_before_the_mount)
{
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	pthread_t thread[2];
	struct raw_ring r;
	int dev;

	dev = open("/dev/fuse", O_RDWR);
	ASSERT_LE(0, dev);
	ASSERT_EQ(0, ioctl(dev, FUSE_DEV_IOC_SYNC_INIT));
	ASSERT_EQ(0, raw_ring_setup(&r, 2));
	sqe = raw_ring_sqe(&r);
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = dev;
	sqe->cmd_op = FUSE_IO_URING_CMD_ADD_QUEUE;
	sqe->user_data = 1;
	ASSERT_EQ(0, pthread_create(&thread[0], NULL, submit_one, &r));

	sqe = raw_ring_sqe(&r);
	sqe->opcode = IORING_OP_NOP;
	sqe->user_data = 2;
	ASSERT_EQ(0, pthread_create(&thread[1], NULL, submit_one, &r));

	ASSERT_EQ(1, raw_poll(r.fd));
	ASSERT_TRUE(raw_ring_cqe(&r, &cqe));
	EXPECT_EQ(2, cqe.user_data);
	EXPECT_EQ(0, cqe.res);
	ASSERT_FALSE(raw_ring_cqe(&r, &cqe));
}

TEST_HARNESS_MAIN
