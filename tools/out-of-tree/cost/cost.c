// SPDX-License-Identifier: GPL-2.0
/*
 * What opens in passthrough mode cost, by each interface to pass a backing file.
 *
 * Runs as init of a guest with one CPU whose TSC counts instructions (QEMU,
 * -icount shift=0,sleep=off), so that server, clients and kernel are all there
 * is to count. What is measured goes to stdout, a line each, see README.
 *
 *   cost rounds ROTATE   all rows, the order turned by ROTATE
 *   cost some ROW...     these, with 1 id, by 1, 8 and 32 openers
 *   cost memory          bytes of kernel memory for a backing file
 *   cost profile ROW     one row, between profile_begin() and profile_end()
 *   cost scale ROW N     one row, with 1 to N open files
 *   cost locks           how often the locks are taken; with any number of CPUs,
 *                        without -icount
 *
 * Or on any machine:
 *
 *   cost syscall         how long a system call takes
 *   cost time [TURNS]    how long a round takes in all rows that the kernel has,
 *                        so often (100); as root. A table to be read goes to
 *                        stderr
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "cost.h"
#include "sys.h"

void check(const char *what, long err)
{
	if (err < 0)
		die("%s: %s", what, strerror(-err));
}

double getpid_cost(void)
{
	__u64 t, least = UINT64_MAX;
	int i, j;

	for (i = 0; i < 1000; i++) {
		t = __rdtsc();
		for (j = 0; j < 1000; j++)
			syscall(SYS_getpid);
		t = __rdtsc() - t;
		if (t < least)
			least = t;
	}
	return least / 1000.0;
}

static void do_syscall(void)
{
	__u64 ns = clock_ns(CLOCK_MONOTONIC), tsc = __rdtsc();
	double cost = getpid_cost();

	tsc = __rdtsc() - tsc;
	ns = clock_ns(CLOCK_MONOTONIC) - ns;
	printf("%.1f\t%.3f\n", cost * ns / tsc, (double)tsc / ns);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	const char *arg = argc > 2 ? argv[2] : NULL;
	static struct cost c = { .udp_socket = -1 };

	if (!strcmp(mode, "syscall")) {
		do_syscall();
		return 0;
	}
	if (getpid() == 1) {
		atexit(reboot_at_exit);
		do_mount("proc", "/proc");
		do_mount("sysfs", "/sys");
		do_mount("devtmpfs", "/dev");
	}
	if (!strcmp(mode, "time") && argc <= 3) {
		do_time(&c, arg);
	} else {
		if (getpid() != 1)
			die("syscall or time [TURNS]? The rest is for a guest");
		do_mount("tmpfs", "/tmp");
		check("enable_uring", enable_uring(true));
		make_files(MAX_OPENERS);

		if (!strcmp(mode, "rounds") && argc == 3) {
			do_mount("tracefs", TRACING);
			do_rounds(&c, atoi(arg));
		} else if (!strcmp(mode, "some")) {
			do_mount("tracefs", TRACING);
			do_some(&c, argv + 2);
		} else if (!strcmp(mode, "memory")) {
			do_memory(&c);
		} else if (!strcmp(mode, "profile") && argc == 3) {
			do_profile(&c, arg);
		} else if (!strcmp(mode, "scale") && argc == 4) {
			do_scale(&c, arg, atoi(argv[3]));
		} else if (!strcmp(mode, "locks")) {
			do_locks(&c);
		} else {
			die("what?");
		}
		printf("getpid\t%.1f\n", getpid_cost());
	}
	if (getpid() == 1)
		printf("done\n");
	return 0;
}
