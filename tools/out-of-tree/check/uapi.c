/* SPDX-License-Identifier: GPL-2.0 */
/* The uapi header alone, in C and C++: see uapi. */

#include <linux/fuse.h>
#include <stddef.h>

#ifndef __cplusplus
#define static_assert _Static_assert
#endif

#define AT(field, offset) \
	static_assert(offsetof(struct fuse_uring_cmd_req, field) == (offset), \
		      #field)

AT(flags, 0);
AT(commit_id, 8);
AT(qid, 16);
AT(backing.map.fd, 24);
AT(backing.map.flags, 28);
AT(backing.map.padding, 32);
AT(backing.id, 40);
static_assert(sizeof(((struct fuse_uring_cmd_req *)0)->backing.id) == 8, "id");
static_assert(sizeof(struct fuse_uring_cmd_req) == 48, "size");
static_assert(FUSE_IO_URING_CMD_BACKING_OPEN == 5, "open");
static_assert(FUSE_IO_URING_CMD_BACKING_CLOSE == 6, "close");
static_assert(FUSE_IO_URING_CMD_COMMIT_BACKING == 7, "commit");
static_assert(FUSE_HAS_COMMIT_BACKING == 1ULL << 60, "INIT flag, commit");
static_assert(FUSE_HAS_IO_URING_BACKING == 1ULL << 61, "INIT flag, commands");
static_assert(FUSE_HAS_NO_OPEN_BACKING == 1ULL << 62, "INIT flag, no open");
static_assert(FUSE_URING_BACKING_INODE == 1 << 0, "flags of the commit");
static_assert(FUSE_URING_BACKING_NO_OPEN == 1 << 1, "flags of the commit");
static_assert(FUSE_OPEN_BACKING == 1 << 1, "flag of OPEN");
static_assert(FUSE_KERNEL_MINOR_VERSION >= 47, "minor version");
