/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For programs that are the init of a guest and measure in it, here and in
 * ../server. PROGRAM, to be defined before, is the name that ../cost/guest looks
 * for in front of an error. What fails ends the program.
 */
#ifndef INIT_H
#define INIT_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define die(fmt, ...) do {						\
	fprintf(stderr, PROGRAM ": " fmt "\n", ##__VA_ARGS__);		\
	exit(1);							\
} while (0)

/**
 * file_number() - a number from a file, as /proc has them
 * @path:	the file
 * @key:	the word that its line begins with, NULL: the first line
 * @field:	which word of the line, from 0
 */
static inline long file_number(const char *path, const char *key, int field)
{
	char line[1024];
	long n = -1;
	FILE *f = fopen(path, "r");

	if (!f)
		die("%s: %s", path, strerror(errno));
	while (n < 0 && fgets(line, sizeof(line), f)) {
		char *word = strtok(line, " \t\n");
		int i;

		if (!word || (key && strcmp(word, key)))
			continue;
		for (i = 0; i < field && word; i++)
			word = strtok(NULL, " \t\n");
		if (word)
			n = atol(word);
	}
	fclose(f);
	if (n < 0)
		die("%s: no %s", path, key ?: "number");
	return n;
}

/**
 * clock_ns() - the time
 * @clock:	as clock_gettime() takes it
 *
 * Return: nanoseconds.
 */
static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	if (clock_gettime(clock, &ts))
		die("clock %d: %s", clock, strerror(errno));
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/**
 * do_mount() - mount a file system, if nothing is mounted there
 * @type:	its type
 * @dir:	an existing directory
 */
static inline void do_mount(const char *type, const char *dir)
{
	if (mount(type, dir, type, 0, NULL) && errno != EBUSY)
		die("mount %s: %s", type, strerror(errno));
}

/** reboot_at_exit() - end the guest, for atexit() */
static inline void reboot_at_exit(void)
{
	fflush(NULL);
	if (getpid() != 1)
		return;
	/* or other CPUs reboot while the console still prints */
	tcdrain(STDOUT_FILENO);
	reboot(RB_AUTOBOOT);
}

#endif /* INIT_H */
