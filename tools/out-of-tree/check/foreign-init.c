// SPDX-License-Identifier: GPL-2.0
/*
 * The init of a guest that is not of the host's architecture, and so has no
 * userspace of the host's: it runs the programs in /tests one after another and
 * writes what kselftest's runner would.
 */
#include <dirent.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void mount_at(const char *dir, const char *type)
{
	mkdir(dir, 0755);
	if (mount(type, dir, type, 0, NULL))
		warn("mount %s", dir);
}

static int run(const char *name)
{
	char *line = NULL;
	size_t size = 0;
	int fds[2], status;
	FILE *out;
	pid_t pid;

	if (pipe(fds))
		err(1, "pipe");
	out = fdopen(fds[0], "r");
	if (!out)
		err(1, "fdopen");
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		dup2(fds[1], 1);
		dup2(fds[1], 2);
		close(fds[0]);
		close(fds[1]);
		execl(name, name, NULL);
		err(127, "%s", name);
	}
	close(fds[1]);
	while (getline(&line, &size, out) > 0)
		printf("# %s", line);
	free(line);
	fclose(out);
	/* what the test left behind is our child, too */
	while (wait(&status) != pid)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static int is_test(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

int main(void)
{
	struct dirent **tests;
	int n, i, status;

	mount_at("/dev", "devtmpfs");
	mount_at("/proc", "proc");
	mount_at("/sys", "sysfs");
	mount_at("/sys/fs/fuse/connections", "fusectl");
	mount_at("/tmp", "tmpfs");
	if (!freopen("/dev/hvc0", "w", stdout))
		err(1, "/dev/hvc0");
	setvbuf(stdout, NULL, _IOLBF, 0);

	n = chdir("/tests") ? -1 : scandir(".", &tests, is_test, alphasort);
	if (n < 0)
		err(1, "/tests");
	printf("TAP version 13\n1..%d\n", n);
	for (i = 0; i < n; i++) {
		const char *name = tests[i]->d_name;

		printf("# selftests: filesystems/fuse/uring: %s\n", name);
		status = run(name);
		printf("%sok %d selftests: filesystems/fuse/uring: %s%s\n",
		       status && status != 4 ? "not " : "", i + 1, name,
		       status == 4 ? " # SKIP" : "");
	}
	printf("# in-guest: exit status 0\n");
	fclose(stdout);
	reboot(RB_POWER_OFF);
	return 0;
}
