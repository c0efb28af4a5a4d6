// SPDX-License-Identifier: GPL-2.0
/*
 * The server can write to an SQE while the kernel reads it, so the kernel reads
 * each field once.
 *
 * The SQEs are in a page of the test (IORING_SETUP_NO_MMAP), which the kernel
 * reads through its direct map. /proc tells the address there, and a hardware
 * watchpoint on a word, as a perf event, counts how often that is read.
 */
#define _GNU_SOURCE
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>

#include "env.h"

/* Of four bytes: an SQE, where its command area begins, and what is used */
#define WORDS		(128 / 4)
#define CMD		(48 / 4)
#define CMD_END		(CMD + sizeof(struct fuse_uring_cmd_req) / 4)

FIXTURE(read_once)
{
	struct env env;
	struct issuer issuer;
	/* the kernel's address of the SQEs */
	__u64 sqes;
	int back;
};

FIXTURE_VARIANT(read_once)
{
	__u32 op;
};

FIXTURE_VARIANT_ADD(read_once, open) { FUSE_IO_URING_CMD_BACKING_OPEN };
FIXTURE_VARIANT_ADD(read_once, close) { FUSE_IO_URING_CMD_BACKING_CLOSE };
FIXTURE_VARIANT_ADD(read_once, commit) { FUSE_IO_URING_CMD_COMMIT_BACKING };

/* Of a core file, 64 bits */
struct core_header {
	char ident[32];
	__u64 phoff;
	char rest[16];
	__u16 phnum;
};

struct core_segment {
	__u32 type, flags;
	__u64 offset, vaddr, paddr, filesz, memsz, align;
};

/* Returns the kernel's address of populated memory, 0 if /proc has it not */
static __u64 kernel_address(const void *mem)
{
	const __u64 page = sysconf(_SC_PAGESIZE), va = (uintptr_t)mem;
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int kcore = open("/proc/kcore", O_RDONLY | O_CLOEXEC);
	struct core_header head;
	struct core_segment seg;
	__u64 entry = 0, pa, ret = 0;
	int i;

	if (pread(pagemap, &entry, 8, va / page * 8) != 8 ||
	    pread(kcore, &head, sizeof(head), 0) != sizeof(head))
		head.phnum = 0;
	/* bits 0 to 54 are the number of the page */
	pa = (entry & ((1ULL << 55) - 1)) * page + va % page;
	for (i = 0; i < head.phnum; i++) {
		if (pread(kcore, &seg, sizeof(seg), head.phoff +
			  i * sizeof(seg)) != sizeof(seg) ||
		    seg.paddr == ~0ULL || pa - seg.paddr >= seg.memsz)
			continue;
		/* once freed, init memory is in the kernel's image as well */
		if (!ret || ret > pa - seg.paddr + seg.vaddr)
			ret = pa - seg.paddr + seg.vaddr;
	}
	close(pagemap);
	close(kcore);
	return ret;
}

static int watch(__u64 address)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_BREAKPOINT,
		.size = sizeof(attr),
		.bp_type = HW_BREAKPOINT_RW,
		.bp_addr = address,
		.bp_len = HW_BREAKPOINT_LEN_4,
		.exclude_user = 1,
	};

	return syscall(SYS_perf_event_open, &attr, 0, -1, -1,
		       PERF_FLAG_FD_CLOEXEC);
}

FIXTURE_SETUP(read_once)
{
	const char *missing = env_setup(_metadata, &self->env,
					ENV_NEED(BY_COMMAND));
	struct io_uring_params p = {
		.flags = IORING_SETUP_SQE128 | IORING_SETUP_NO_SQARRAY,
	};
	const size_t len = 16 * sysconf(_SC_PAGESIZE);
	struct stat st;
	char *mem;

	if (missing)
		SKIP(return, "%s", missing);
	self->back = env_file(_metadata, &self->env, "file");
	env_start(_metadata, &self->env, NULL);
	/* a request waits for all queues */
	ASSERT_EQ(0, stat(ENV_MNT, &st));
	mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		   MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	ASSERT_LT(0, io_uring_queue_init_mem(4, &self->issuer.ring, &p, mem,
					     len));
	self->issuer.dev_fd = self->env.server->dev_fd;
	self->issuer.clone_fd = -1;
	self->sqes = kernel_address(self->issuer.ring.sq.sqes);
	if (!self->sqes)
		SKIP(return, "no address in /proc/kcore or /proc/self/pagemap");
}

FIXTURE_TEARDOWN(read_once)
{
	issuer_exit(&self->issuer);
	close(self->back);
	env_teardown(_metadata, &self->env);
}

/* A command that succeeds; a commit only of a file, as there is no request */
static int good_req(struct fuse_uring_cmd_req *req, struct issuer *ioctl,
		    int back, __u32 op)
{
	static int last_id;

	*req = (struct fuse_uring_cmd_req) { };
	ioctl->by = BY_IOCTL;
	if (op == FUSE_IO_URING_CMD_BACKING_CLOSE) {
		req->backing.id = issue_open(ioctl, back);
		return 0;
	}
	req->backing.map.fd = back;
	if (op == FUSE_IO_URING_CMD_BACKING_OPEN)
		return ++last_id;
	req->commit_id = ~0ULL;
	return -ENOENT;
}

TEST_F(read_once, each_word)
{
	struct issuer *issuer = &self->issuer;
	struct fuse_uring_cmd_req req;
	struct io_uring_sqe *sqe;
	unsigned int word;
	int fd, res;
	__u64 nr;

	for (word = 0; word < WORDS; word = word ? word + 1 : CMD) {
		res = good_req(&req, issuer, self->back, variant->op);
		sqe = issue_sqe(issuer, variant->op, &req);
		ASSERT_NE(NULL, sqe);
		fd = watch(self->sqes + 4 * word + (uintptr_t)sqe -
			   (uintptr_t)issuer->ring.sq.sqes);
		if (fd < 0 && !word)
			SKIP(return, "no hardware watchpoints");
		ASSERT_LE(0, fd);
		EXPECT_EQ(res, issue_wait(issuer));
		ASSERT_EQ(sizeof(nr), read(fd, &nr, sizeof(nr)));
		close(fd);
		/* that is io_uring's: the watchpoint has to see it */
		if (!word) {
			ASSERT_LT(0, nr);
			continue;
		}
		EXPECT_EQ(word < CMD_END, nr) {
			TH_LOG("byte %u", 4 * (word - CMD));
		}
	}
}

ENV_MAIN
