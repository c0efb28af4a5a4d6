/* SPDX-License-Identifier: GPL-2.0 */
/*
 * CAP_SYS_ADMIN, which registering backing files takes.
 */
#ifndef CAP_H
#define CAP_H

#include <linux/capability.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

/**
 * cap_sys_admin() - make CAP_SYS_ADMIN effective, or not
 * @on:		whether it is to be; it stays permitted
 *
 * That is the calling thread's, and what it creates from then on.
 *
 * Return: whether that worked.
 */
static inline bool cap_sys_admin(bool on)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &hdr, data))
		return false;
	data[0].effective &= ~(1U << CAP_SYS_ADMIN);
	data[0].effective |= (unsigned int)on << CAP_SYS_ADMIN;
	return !syscall(SYS_capset, &hdr, data);
}

#endif /* CAP_H */
