// SPDX-License-Identifier: GPL-2.0
/*
 * Random backing file commands, see backing_random.h.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <string.h>

#include "backing_random.h"

/* splitmix64: every seed is a good one, S and S + 1 too */
__u64 rnd64(__u64 *rng)
{
	__u64 z = (*rng += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

unsigned int rnd(__u64 *rng, unsigned int n)
{
	return (rnd64(rng) >> 32) * n >> 32;
}

bool one_in(__u64 *rng, unsigned int n)
{
	return !rnd(rng, n);
}

int random_wanted_id(__u64 *rng)
{
	if (one_in(rng, 8))
		return INT_MAX - rnd(rng, RANDOM_HIGH);
	return 1 + rnd(rng, one_in(rng, 2) ? RANDOM_LOW - 1 : 15);
}

int random_id(const struct backing_random *r, __u64 *rng)
{
	if (one_in(rng, 2))
		return r->first + rnd(rng, RANDOM_AHEAD);
	return random_wanted_id(rng);
}

static int bad_id(__u64 *rng)
{
	return rnd64(rng) | INT_MIN;
}

/* That of a request is even, so this is never one that somebody waits for */
static __u64 bad_commit_id(__u64 *rng)
{
	return rnd64(rng) >> rnd(rng, 64) | 1;
}

static __u32 random_cmd_op(const struct backing_random *r, __u64 *rng)
{
	__u32 cmd_op;

	if (rnd(rng, 8))
		cmd_op = one_in(rng, 2) ? FUSE_IO_URING_CMD_BACKING_OPEN :
					  FUSE_IO_URING_CMD_BACKING_CLOSE;
	else
		cmd_op = one_in(rng, 4) ? (__u32)rnd64(rng) : rnd(rng, 9);

	if (cmd_op == FUSE_IO_URING_CMD_REGISTER && !r->registers)
		return FUSE_IO_URING_CMD_INVALID;
	if (cmd_op == FUSE_IO_URING_CMD_BACKING_CLOSE && r->opens_only)
		return FUSE_IO_URING_CMD_BACKING_OPEN;
	return cmd_op;
}

static unsigned int random_flags(__u64 *rng, unsigned int allowed)
{
	unsigned int flags = IOSQE_FIXED_FILE;

	flags |= rnd64(rng) & rnd64(rng) & (IOSQE_IO_LINK | IOSQE_IO_HARDLINK);
	flags |= rnd64(rng) & IOSQE_CQE_SKIP_SUCCESS;
	flags |= one_in(rng, 32) ? IOSQE_ASYNC : 0;
	flags |= one_in(rng, 64) ? IOSQE_IO_DRAIN : 0;
	return flags & allowed;
}

/* One field that has to be 0 */
static void spoil_field(__u64 *rng, struct fuse_uring_cmd_req *req)
{
	unsigned int n = rnd(rng, 64);

	switch (rnd(rng, 7)) {
	case 0:
		req->flags = 1ULL << n;
		break;
	case 1:
		req->commit_id = bad_commit_id(rng);
		break;
	case 2:
		req->qid = 1 << n % 16;
		break;
	case 3:
		req->padding[n % sizeof(req->padding)] = 1 << n % 8;
		break;
	case 4:
		req->backing.reserved = 1U << n % 32;
		break;
	case 5:
		req->backing.map.flags = 1U << n % 32;
		break;
	case 6:
		req->backing.map.padding = 1ULL << n;
		break;
	}
}

/* All of it. Who repairs it by rewriting it gets no id that nobody asks for */
static void spoil_all(const struct backing_random *r, __u64 *rng,
		      struct fuse_uring_cmd_req *req)
{
	__u64 *word = (__u64 *)req;
	unsigned int i;

	for (i = 0; i < sizeof(*req) / sizeof(*word); i++)
		word[i] = one_in(rng, 2) ? rnd64(rng) : 0;
	req->commit_id = bad_commit_id(rng);
	req->backing.id = one_in(rng, 2) ? bad_id(rng) : random_id(r, rng);
}

/* What nobody looks at: of the first half of the SQE, and the end of it */
static void random_rest(__u64 *rng, struct io_uring_sqe *sqe,
			struct fuse_uring_cmd_req *req)
{
	__u8 *end = (__u8 *)(sqe + 2), *byte;

	sqe->addr = rnd64(rng);
	sqe->len = rnd64(rng);
	sqe->buf_index = rnd64(rng);
	for (byte = (__u8 *)(req + 1); byte < end; byte++)
		*byte = rnd64(rng);
}

/* Returns if it is as it should be */
static bool random_req(const struct backing_random *r, __u64 *rng,
		       struct random_cmd *cmd, struct fuse_uring_cmd_req *req)
{
	switch (cmd->cmd_op) {
	case FUSE_IO_URING_CMD_BACKING_OPEN:
		cmd->id = one_in(rng, 2) ? 0 : random_wanted_id(rng);
		req->backing.map.fd = r->files[rnd(rng, RANDOM_FILES)];
		break;
	case FUSE_IO_URING_CMD_BACKING_CLOSE:
		cmd->id = random_id(r, rng);
		break;
	default:
		req->qid = rnd(rng, 3);
		req->commit_id = one_in(rng, 2) ? 0 : bad_commit_id(rng);
		return false;
	}
	req->backing.id = cmd->id;

	switch (rnd(rng, 32)) {
	case 0:
	case 1:
		spoil_field(rng, req);
		return false;
	case 2:
		req->backing.id = bad_id(rng);
		return false;
	case 3:
	case 4:
		req->backing.map.fd = r->bad[rnd(rng, RANDOM_BAD)];
		return false;
	case 5:
		spoil_all(r, rng, req);
		return false;
	default:
		return true;
	}
}

/* Returns if io_uring takes the SQE */
static bool random_head(__u64 *rng, struct io_uring_sqe *sqe)
{
	switch (rnd(rng, 64)) {
	case 0:
		/* the second half would be an SQE of its own */
		if (sqe->opcode != IORING_OP_URING_CMD)
			return true;
		sqe->opcode = IORING_OP_LAST + rnd(rng, 8);
		return false;
	case 1:
		sqe->ioprio = 1 + rnd(rng, 0xffff);
		return false;
	case 2:
		sqe->personality = 1 + rnd(rng, 0xffff);
		return false;
	case 3:
		sqe->flags = one_in(rng, 2) ? 0x80 : IOSQE_BUFFER_SELECT;
		return false;
	case 4:
		sqe->uring_cmd_flags = 4U << rnd(rng, 29);
		return false;
	case 5:
		sqe->__pad1 = 1U << rnd(rng, 32);
		return false;
	default:
		return true;
	}
}

/* Fills in an SQE, with flags to be or'ed. Returns if io_uring takes it */
static bool random_sqe(const struct backing_random *r, __u64 *rng,
		       struct io_uring_sqe *sqe, __u8 opcode, bool big,
		       bool fixed, struct random_cmd *cmd)
{
	struct io_uring_sqe buf[2];
	struct fuse_uring_cmd_req *req;
	bool taken;

	cmd->id = 0;
	cmd->dev = rnd(rng, r->nr_devs + (one_in(rng, 8) ? RANDOM_BAD : 0));
	cmd->cmd_op = random_cmd_op(r, rng);
	req = backing_cmd_prep(buf, fixed ? (int)cmd->dev : r->devs[cmd->dev],
			       cmd->cmd_op);
	cmd->valid = random_req(r, rng, cmd, req);
	if (one_in(rng, 32)) {
		buf->uring_cmd_flags = IORING_URING_CMD_FIXED;
		cmd->valid = false;
	}
	if (one_in(rng, 16))
		random_rest(rng, buf, req);
	buf->opcode = opcode;
	taken = random_head(rng, buf);
	if (!taken || !big || cmd->dev >= r->nr_devs)
		cmd->valid = false;
	memcpy(sqe, buf, big ? sizeof(buf) : sizeof(*buf));
	return taken;
}

unsigned int random_fill(const struct backing_random *r, __u64 *rng,
			 struct io_uring *ring, unsigned int flags,
			 struct random_cmd *cmds, struct backing_op *ops)
{
	bool big = ring->flags & IORING_SETUP_SQE128;
	__u8 opcode = IORING_OP_URING_CMD;
	struct io_uring_sqe *sqe;
	unsigned int nr, left;

	for (nr = 0; (left = io_uring_sq_space_left(ring)); nr++) {
		struct backing_op *op = &ops[nr];

#ifdef IORING_SETUP_SQE_MIXED
		/* liburing would fill a gap at the end with a NOP */
		if (ring->flags & IORING_SETUP_SQE_MIXED) {
			big = left > 1 && !one_in(rng, 16);
			opcode = big ? IORING_OP_URING_CMD128 :
				       IORING_OP_URING_CMD;
		}
		sqe = big ? io_uring_get_sqe128(ring) : io_uring_get_sqe(ring);
		left -= opcode == IORING_OP_URING_CMD128;
#else
		sqe = io_uring_get_sqe(ring);
#endif
		op->malformed = !random_sqe(r, rng, sqe, opcode, big,
					    flags & IOSQE_FIXED_FILE,
					    &cmds[nr]);
		op->flags = random_flags(rng, flags);
		if (left == 1)
			op->flags &= ~BACKING_OPS_LINK;
		/* the kernel's id is only in the CQE */
		if (op->malformed || !cmds[nr].id ||
		    !(op->flags & BACKING_OPS_LINK))
			op->flags &= ~IOSQE_CQE_SKIP_SUCCESS;
		sqe->flags |= op->flags;
		sqe->user_data = nr;
	}
	return nr;
}

/* One store, which the compiler leaves alone */
#define STORE(field, value) \
	__atomic_store_n(&(field), value, __ATOMIC_RELAXED)

void random_rewrite(const struct backing_random *r, __u64 *rng,
		    struct io_uring *ring, unsigned int flags)
{
	bool big = ring->flags & IORING_SETUP_SQE128;
	unsigned int i = rnd(rng, ring->sq.ring_entries);
	struct io_uring_sqe *sqe = &ring->sq.sqes[i << big];
	struct fuse_uring_cmd_req *req = backing_cmd_req(sqe);
	/* what makes the command a wrong one, more often than not 0 */
	__u64 bad = one_in(rng, 4) ? rnd64(rng) : 0;
	unsigned int dev;

	/* the first half has all up to and with commit_id */
	switch (rnd(rng, big ? 16 : 7)) {
	case 0:
		if (r->opens_only)
			break;
		dev = rnd(rng, r->nr_devs + RANDOM_BAD);
		STORE(sqe->fd, flags & IOSQE_FIXED_FILE ? (int)dev :
							  r->devs[dev]);
		break;
	case 1:
		STORE(sqe->cmd_op, random_cmd_op(r, rng));
		break;
	case 2:
		STORE(sqe->flags, random_flags(rng, flags));
		break;
	case 3:
		STORE(sqe->uring_cmd_flags, bad % 8);
		break;
	case 4:
		STORE(sqe->personality, bad % 2);
		break;
	case 5:
		STORE(req->flags, bad);
		break;
	case 6:
		STORE(req->commit_id, bad ? bad_commit_id(rng) : 0);
		break;
	case 7:
		STORE(req->qid, bad % 4);
		break;
	case 8:
		STORE(req->padding[rnd(rng, sizeof(req->padding))], bad);
		break;
	case 9:
		STORE(req->backing.reserved, bad);
		break;
	case 10:
		STORE(req->backing.map.flags, bad);
		break;
	case 11:
		STORE(req->backing.map.padding, bad);
		break;
	case 12:
		/* 0 for BACKING_CLOSE */
		STORE(req->backing.map.fd, one_in(rng, 2) ? 0 :
				r->files[rnd(rng, RANDOM_FILES)]);
		break;
	default:
		STORE(req->backing.id, bad ? bad_id(rng) : random_id(r, rng));
		break;
	}
}
