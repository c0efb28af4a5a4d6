/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The effective capabilities of the calling thread.
 */
#ifndef CAP_H
#define CAP_H

#include <errno.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CAP_NONE	-1

/**
 * capabilities_without() - have all permitted capabilities but one in effect
 * @cap:	CAP_SYS_ADMIN and so on, or CAP_NONE: have all
 *
 * Return: 0 or a negative errno.
 */
static inline int capabilities_without(int cap)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &hdr, data))
		return -errno;
	data[0].effective = data[0].permitted;
	data[1].effective = data[1].permitted;
	if (cap != CAP_NONE)
		data[CAP_TO_INDEX(cap)].effective &= ~CAP_TO_MASK(cap);
	return syscall(SYS_capset, &hdr, data) ? -errno : 0;
}

#endif /* CAP_H */
