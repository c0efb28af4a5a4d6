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
AT(backing.map, 24);
AT(backing.id, 40);
AT(backing.reserved, 44);
static_assert(sizeof(struct fuse_uring_cmd_req) == 48, "size");
static_assert(FUSE_IO_URING_CMD_BACKING_OPEN == 5, "open");
static_assert(FUSE_IO_URING_CMD_BACKING_CLOSE == 6, "close");
static_assert(FUSE_HAS_IO_URING_BACKING == 1ULL << 44, "INIT flag");
static_assert(FUSE_COMMIT_BACKING == 1ULL << 45, "INIT flag of the commit");
static_assert(FUSE_URING_COMMIT_BACKING == 1 << 0, "flag of the commit");
static_assert(FUSE_KERNEL_MINOR_VERSION >= 47, "minor version");
