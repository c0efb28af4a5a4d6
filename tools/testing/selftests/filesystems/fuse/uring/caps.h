/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The effective capabilities of the calling thread.
 */
#ifndef CAPS_H
#define CAPS_H

#include <errno.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

/**
 * capabilities_without() - have all permitted capabilities but some in effect
 * @without:	a bit for each, e.g. 1ULL << CAP_SYS_ADMIN; 0: have all
 *
 * Return: 0 or a negative errno.
 */
static inline int capabilities_without(__u64 without)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &hdr, data))
		return -errno;
	data[0].effective = data[0].permitted & ~without;
	data[1].effective = data[1].permitted & ~(without >> 32);
	return syscall(SYS_capset, &hdr, data) ? -errno : 0;
}

#endif /* CAPS_H */
