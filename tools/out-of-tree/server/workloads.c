// SPDX-License-Identifier: GPL-2.0
/*
 * What programs on passthrough_hp cost, by each interface for backing files.
 *
 * Runs as init of a guest with one CPU whose TSC counts instructions, see
 * ../cost/guest. What is measured goes to stdout, a line each, see README.
 *
 *   workloads insns ROTATE   instructions, the order of the interfaces turned
 *   workloads calls          system calls of the server and requests to it
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#define PROGRAM	"workloads"
#include "init.h"

#define SRC		"/src"
#define MNT		"/mnt"
#define SERVER_LOG	"/tmp/server.log"
#define DISK		"/dev/ram0"
#define TRACING		"/sys/kernel/tracing"
#define SYSCALLS	TRACING "/events/raw_syscalls/sys_enter/"
#define REQUESTS	TRACING "/events/fuse/fuse_request_sent/"
#define BY_CALL		"hist:keys=common_pid,id:size=16384"
#define BY_OPCODE	"hist:keys=opcode"

#define MAX_NR		512
#define DIRS		10
#define FILES_EACH	1000

#define NR_INTERFACES	8

/* without option there is no server */
static const struct interface {
	const char *name;
	const char *option;
} interfaces[NR_INTERFACES] = {
	{ "none", "--nopassthrough" },
	{ "id", "--backing=id" },
	{ "inode-id", "--backing=inode-id" },
	{ "kept", "--backing=kept" },
	{ "open", "--backing=open" },
	{ "inode", "--backing=inode" },
	{ "no-open", "--no-open" },
	{ "native", NULL },
};

static const char * const file_systems[] = { "ext4", "tmpfs" };

static const char *interface, *file_system;
static bool counting;
static pid_t server, spinner;

static void check(const char *what, int ret)
{
	if (ret < 0)
		die("%s: %s", what, strerror(errno));
}

static void set_policy(int policy)
{
	const struct sched_param param = {
		.sched_priority = policy == SCHED_FIFO,
	};

	check("sched_setscheduler", sched_setscheduler(0, policy, &param));
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	check(path, fd);
	check(path, write(fd, text, strlen(text)));
	close(fd);
}

/* Runs when all others wait, so that the TSC never skips idle time */
static void start_spinner(void)
{
	spinner = fork();
	check("fork", spinner);
	if (spinner)
		return;
	set_policy(SCHED_IDLE);
	for (;;)
		;
}

static uint64_t spinner_ns(void)
{
	clockid_t clock;

	if (clock_getcpuclockid(spinner, &clock))
		die("no clock of process %d", spinner);
	return clock_ns(clock);
}

/*
 * Everything that can run does, until it waits: RELEASE, which nobody waits for,
 * is served. Then RCU frees what was used: what that takes must not be counted
 * with what comes next.
 */
static void settle(void)
{
	int i;

	for (i = 0; i < 4; i++)
		sched_yield();
	usleep(100000);
}

static void open_all(void)
{
	char path[64];
	int dir, i, fd;

	for (dir = 0; dir < DIRS; dir++) {
		for (i = 0; i < FILES_EACH; i++) {
			sprintf(path, MNT "/many/%d/%d", dir, i);
			fd = open(path, O_RDONLY | O_CLOEXEC);
			check(path, fd);
			close(fd);
		}
	}
}

static void forget(void)
{
	write_file("/proc/sys/vm/drop_caches", "2");
}

static void run(char *const argv[])
{
	int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

	dup2(fd, STDOUT_FILENO);
	execvp(argv[0], argv);
	die("%s: %s", argv[0], strerror(errno));
}

#define RUN(...) run((char *const[]){ __VA_ARGS__, NULL })

static void tar_tree(void)
{
	RUN("tar", "xf", "/tree.tar", "-C", SRC);
}

static void tar_in(void)
{
	RUN("tar", "xf", "/files.tar", "-C", MNT);
}

static void tar_out(void)
{
	RUN("tar", "cf", "/tmp/out.tar", "-C", MNT, "files");
}

static void git_status(void)
{
	RUN("git", "-C", MNT "/repo", "status", "--short");
}

static void git_checkout(void)
{
	RUN("git", "-C", MNT "/repo", "checkout", "-q", "other");
}

static void compile(void)
{
	RUN("make", "-s", "-C", MNT "/program");
}

static void clear_counts(void)
{
	write_file(SYSCALLS "trigger", BY_CALL ":clear");
	write_file(REQUESTS "trigger", BY_OPCODE ":clear");
}

static bool is_server(int tid)
{
	char path[64];

	sprintf(path, "/proc/%d/task/%d", server, tid);
	return !access(path, F_OK);
}

static void print_counts(const char *kind, const char *workload,
			 const long *counts)
{
	int i;

	for (i = 0; i < MAX_NR; i++) {
		if (counts[i])
			printf("%s\t%s\t%s\t%s\t%d\t%ld\n", kind, interface,
			       file_system, workload, i, counts[i]);
	}
}

/* The first so many keys of an entry are numbers: "{ a: 1, b: 2 } hitcount: 3" */
static void read_hist(const char *path, bool by_task, long *counts)
{
	char line[256];
	long n, dropped = file_number(path, "Dropped:", 1);
	FILE *f = fopen(path, "r");
	int tid, nr;

	if (!f || dropped)
		die("%s: %ld dropped", path, dropped);
	memset(counts, 0, MAX_NR * sizeof(*counts));
	while (fgets(line, sizeof(line), f)) {
		if (by_task) {
			if (sscanf(line, "{ common_pid: %d, id: %d } hitcount: %ld",
				   &tid, &nr, &n) != 3 || !is_server(tid))
				continue;
		} else if (sscanf(line, "{ opcode: %d } hitcount: %ld", &nr,
				  &n) != 2) {
			continue;
		}
		if (nr < 0 || nr >= MAX_NR)
			die("%s: %s", path, line);
		counts[nr] += n;
	}
	fclose(f);
}

/* Returns the status that it ends with */
static int in_child(void (*func)(void))
{
	int status;
	pid_t pid = fork();

	check("fork", pid);
	if (!pid) {
		func();
		_exit(0);
	}
	check("wait", waitpid(pid, &status, 0));
	return status;
}

static void measure(const char *workload, void (*func)(void))
{
	long calls[MAX_NR], requests[MAX_NR];
	uint64_t insns, idle;
	int status;

	if (counting)
		clear_counts();
	idle = spinner_ns();
	insns = __rdtsc();
	status = in_child(func);
	settle();
	insns = __rdtsc() - insns;
	idle = spinner_ns() - idle;
	if (status)
		die("%s, %s, %s: status %#x", interface, file_system, workload,
		    status);

	if (counting) {
		read_hist(SYSCALLS "hist", true, calls);
		read_hist(REQUESTS "hist", false, requests);
		print_counts("call", workload, calls);
		print_counts("request", workload, requests);
	} else {
		printf("insns\t%s\t%s\t%s\t%llu\t%llu\n", interface, file_system,
		       workload, (unsigned long long)(insns - idle),
		       (unsigned long long)idle);
	}
	fflush(stdout);
}

static void copy(const char *from, const char *to)
{
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	check(from, in);
	check(to, out);
	do {
		n = sendfile(out, in, NULL, 1 << 30);
		check("sendfile", n);
	} while (n);
	close(in);
	close(out);
}

static void mount_source(void)
{
	if (!strcmp(file_system, "ext4")) {
		copy("/tree.ext4", DISK);
		check("ext4", mount(DISK, SRC, "ext4", 0, "commit=3600,noinit_itable"));
		return;
	}
	check("tmpfs", mount("tmpfs", SRC, "tmpfs", 0, NULL));
	if (in_child(tar_tree))
		die("tar failed");
}

static void start_server(const struct interface *chosen)
{
	struct stat before, st;
	int i, log;

	interface = chosen->name;
	if (!chosen->option) {
		check(MNT, mount(SRC, MNT, NULL, MS_BIND, NULL));
		return;
	}
	check(MNT, stat(MNT, &before));
	server = fork();
	check("fork", server);
	if (!server) {
		log = open(SERVER_LOG, O_WRONLY | O_CREAT | O_TRUNC, 0644);
		check(SERVER_LOG, log);
		dup2(log, STDERR_FILENO);
		execlp("passthrough_hp", "passthrough_hp", "--foreground",
		       chosen->option, "-o", "io_uring", SRC, MNT, NULL);
		die("passthrough_hp: %s", strerror(errno));
	}
	for (i = 0; i < 1000; i++) {
		check(MNT, stat(MNT, &st));
		if (st.st_dev != before.st_dev)
			return;
		usleep(10000);
	}
	copy(SERVER_LOG, "/dev/console");
	die("%s: no mount", interface);
}

/*
 * The files of ids that were not closed are released with the connection, by a
 * kernel thread: the file system below is busy until then.
 */
static void unmount(const char *dir)
{
	int i;

	for (i = 0; i < 1000; i++) {
		if (!umount2(dir, 0))
			return;
		if (errno != EBUSY)
			break;
		usleep(10000);
	}
	die("%s, umount %s: %s", interface, dir, strerror(errno));
}

static void stop_server(const struct interface *chosen)
{
	int status;

	unmount(MNT);
	if (chosen->option) {
		check("wait", waitpid(server, &status, 0));
		if (status) {
			copy(SERVER_LOG, "/dev/console");
			die("%s: the server ended with %#x", interface, status);
		}
		server = 0;
	}
	unmount(SRC);
}

static void measure_interface(const struct interface *chosen)
{
	mount_source();
	/* of a server before this one files can be left to be freed */
	forget();
	sleep(1);
	start_server(chosen);
	settle();
	measure("open-first", open_all);
	measure("open", open_all);
	measure("forget", forget);
	measure("tar-in", tar_in);
	forget();
	settle();
	measure("tar-out", tar_out);
	measure("status-first", git_status);
	measure("status", git_status);
	measure("checkout", git_checkout);
	measure("compile", compile);
	stop_server(chosen);
}

static void setup(void)
{
	const struct rlimit files = { 1 << 20, 1 << 20 };

	do_mount("proc", "/proc");
	do_mount("sysfs", "/sys");
	do_mount("devtmpfs", "/dev");
	do_mount("tmpfs", "/tmp");
	do_mount("tracefs", TRACING);
	check("setenv", setenv("PATH", "/usr/bin:/bin", 1));
	check("RLIMIT_NOFILE", setrlimit(RLIMIT_NOFILE, &files));
	write_file("/sys/module/fuse/parameters/enable_uring", "Y");
	/* nothing is written back while it is measured */
	write_file("/proc/sys/vm/dirty_writeback_centisecs", "0");
	write_file("/proc/sys/vm/dirty_background_ratio", "90");
	write_file("/proc/sys/vm/dirty_ratio", "95");
	start_spinner();
	set_policy(SCHED_FIFO);
	if (counting) {
		write_file(SYSCALLS "trigger", BY_CALL);
		write_file(REQUESTS "trigger", BY_OPCODE);
	}
}

int main(int argc, char **argv)
{
	int rotate = argc == 3 ? atoi(argv[2]) : 0;
	int fs, i;

	if (getpid() != 1)
		die("this is the init of a guest");
	atexit(reboot_at_exit);
	if (argc < 2)
		die("what?");
	counting = !strcmp(argv[1], "calls");
	setup();
	for (fs = 0; fs < 2; fs++) {
		file_system = file_systems[(fs + rotate) % 2];
		for (i = 0; i < NR_INTERFACES; i++)
			measure_interface(&interfaces[(i + 2 * rotate) % NR_INTERFACES]);
	}
	printf("done\n");
	return 0;
}
