// SPDX-License-Identifier: GPL-2.0
/*
 * load open FILE MS	open and close it for so long: opens per second
 * load read FILE MS	read it whole, again and again: MiB per second
 *
 * It is the best of slices of 50 ms, so that what else runs matters less.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/*
 * Small: QEMU without KVM copies ten times slower while the pages copied from and
 * to have the same place in its table, as whole files can be beside a large buffer
 */
static char buf[16 << 10];

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int open_file(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		err(1, "open %s", path);
	return fd;
}

/* Returns how much there was, in MiB */
static double read_file(int fd)
{
	double sum = 0;
	ssize_t n;

	while ((n = pread(fd, buf, sizeof(buf), sum)) > 0)
		sum += n;
	if (n < 0)
		err(1, "read");
	return sum / (1 << 20);
}

int main(int argc, char **argv)
{
	double end, begin, now, n, best = 0;
	int fd, reads;

	if (argc != 4)
		errx(2, "load open|read FILE MS");
	reads = !strcmp(argv[1], "read");
	fd = open_file(argv[2]);
	end = seconds() + atoi(argv[3]) / 1e3;
	do {
		n = 0;
		begin = seconds();
		do {
			if (reads) {
				n += read_file(fd);
			} else {
				close(open_file(argv[2]));
				n++;
			}
			now = seconds();
		} while (now - begin < 0.05);
		if (n / (now - begin) > best)
			best = n / (now - begin);
	} while (now < end);
	printf("%.0f\n", best);
	return 0;
}
