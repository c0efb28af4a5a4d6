// SPDX-License-Identifier: GPL-2.0
/*
 * How long a round of open and close takes, in each row that the kernel has, and
 * in what stands in for those that it may not have
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <x86intrin.h>

#include "cost.h"
#include "sys.h"

#define TURNS		100
/* Of each opener in a turn, in all less than what a real-time thread may take */
#define ROUNDS		1000
#define WARM_UP		100
/* Each has three files: see measure() */
#define MAX_CPUS	(FILES_MAX / 3)
#define VULNERABILITIES	"/sys/devices/system/cpu/vulnerabilities"

static const int submits[] = { DEFER | FIXED, DEFER };
static int cpus[MAX_CPUS], nr_cpus;
static int rows[NR_ROWS], nr_rows;
static int turns = TURNS;
static double tsc_ghz;

/* A mean of the openers, by the TSC and the clock of the CPU, for a round */
struct sample {
	double tsc;
	double cycles;
};

/* By all CPUs or one, submits, row and turn */
static struct sample *samples[2][2][NR_ROWS];

static pid_t parent;

/* Of a client that waits for a server that has failed */
static void abort_connection(void)
{
	umount2(MNT, MNT_FORCE);
}

static void on_abort(int sig)
{
	(void)sig;
	abort_connection();
}

/*
 * Returns true in a child, which does the work, false if it has done it. Server
 * and clients are one process: if it is killed, nobody answers FLUSH of the files
 * that are open, and some kernels do not even end it with an abort. So who is
 * killed is the parent, and the child then stops in order.
 */
static bool in_child(void)
{
	int status;
	pid_t pid;

	parent = getpid();
	pid = fork();
	check("fork", pid < 0 ? -errno : 0);
	if (pid) {
		if (waitpid(pid, &status, 0) != pid || status)
			exit(1);
		return false;
	}
	/* Ctrl-C is for the parent */
	setsid();
	signal(SIGABRT, on_abort);
	atexit(abort_connection);
	return true;
}

static void own_tmp(void)
{
	if (unshare(CLONE_NEWNS) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("no mount namespace: %s", strerror(errno));
	if (mount("tmpfs", "/tmp", "tmpfs", 0, NULL))
		die("no tmpfs at /tmp: %s", strerror(errno));
}

/* What the kernel offers in FUSE_INIT */
static __u64 probe_fuse(void)
{
	const struct issue_how how = {
		.ring_flags = IORING_SETUP_SINGLE_ISSUER |
			      IORING_SETUP_DEFER_TASKRUN,
	};
	const struct ring_server_cfg cfg = { .no_queues = true };
	const char *missing = issue_missing(&how);
	struct ring_server *s;
	__u64 offered;
	int err;

	if (missing)
		die("%s", missing);
	err = ring_server_start(&s, MNT, &cfg);
	if (err)
		die("FUSE does not start: %s", strerror(-err));
	offered = s->offered;
	check("stop", ring_server_stop(s));
	if (!(offered & FUSE_OVER_IO_URING))
		die("this kernel has no FUSE over io_uring");
	if (!(offered & FUSE_PASSTHROUGH))
		die("this kernel has no FUSE passthrough");
	return offered;
}

/* A socket that STAND_IN_SQES can ask, or -1 */
static int probe_socket(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct issuer issuer;

	if (fd < 0)
		return -1;
	check("ring", issuer_init(&issuer, NULL, fd, 0));
	if (issue(&issuer, SOCKET_URING_OP_SIOCOUTQ, NULL)) {
		close(fd);
		fd = -1;
	}
	issuer_exit(&issuer);
	return fd;
}

/* What the kernel has to offer for a row */
static __u64 needs(enum row r)
{
	switch (r) {
	case COMMITTED:
	case AT_ONCE:
		return FUSE_HAS_COMMIT_BACKING;
	case SEPARATE:
	case HARDLINK:
	case UNLINKED:
		return FUSE_HAS_IO_URING_BACKING;
	case LOOKUP:
	case NO_OPEN:
		return FUSE_HAS_NO_OPEN_BACKING;
	default:
		return 0;
	}
}

static void find_rows(struct cost *c)
{
	__u64 offered = probe_fuse();
	int row;

	c->udp_socket = probe_socket();
	for (row = 0; row < NR_ROWS; row++) {
		if (row != AGED && !(needs(row) & ~offered) &&
		    (row != STAND_IN_SQES || c->udp_socket >= 0))
			rows[nr_rows++] = row;
	}
}

static void find_cpus(void)
{
	cpu_set_t set;
	int cpu;

	if (sched_getaffinity(0, sizeof(set), &set))
		die("the CPUs: %s", strerror(errno));
	for (cpu = 0; cpu < CPU_SETSIZE && nr_cpus < MAX_CPUS; cpu++) {
		if (CPU_ISSET(cpu, &set))
			cpus[nr_cpus++] = cpu;
	}
}

/* One opener on each of the last @n CPUs; the first gets most interrupts */
static struct sample measure(struct cost *c, int n)
{
	bool registered = c->row == REGISTERED || c->row >= STAND_IN_IOCTLS;
	struct openers all = { .cost = c, .n = n };
	struct sample s = { };
	/* LOOKUP passes a file once, so each such row has files of its own */
	int set = c->row == LOOKUP ? 1 : c->row == NO_OPEN ? 2 : 0;
	int i;

	if (registered)
		register_openers(c, true, nr_cpus);
	for (i = 0; i < n; i++)
		all.o[i] = (struct opener) {
			.file = set * nr_cpus + i,
			.cpu = cpus[nr_cpus - n + i],
			.warm_up = WARM_UP,
			.rounds = ROUNDS,
		};
	openers_start(&all);
	/* let RCU free what was used before, and others run */
	usleep(30000);
	set_fifo(true);
	openers_run(&all);
	openers_join(&all);
	if (registered)
		register_openers(c, false, nr_cpus);
	for (i = 0; i < n; i++) {
		s.tsc += all.o[i].tsc / (double)ROUNDS / n;
		s.cycles += all.o[i].cycles / (double)ROUNDS / n;
	}
	return s;
}

/* The rows take turns, each time in another order: what drifts hits all */
static void do_turn(struct cost *c, int turn)
{
	int submit, all, i;

	for (submit = 0; submit < 2; submit++) {
		start(c, PLAIN, submits[submit]);
		for (all = 0; all <= (nr_cpus > 1); all++) {
			for (i = 0; i < nr_rows; i++) {
				int n = (turn + i) % nr_rows;

				c->row = rows[turn & 1 ? nr_rows - 1 - n : n];
				samples[all][submit][c->row][turn] =
					measure(c, all ? nr_cpus : 1);
				if (getppid() != parent) {
					stop(c);
					exit(1);
				}
			}
		}
		stop(c);
	}
}

/* Without tabs and newlines; "-" if there is none */
static void read_line(const char *path, const char *key, char *line, int size)
{
	FILE *f = fopen(path, "r");
	bool found = false;
	char *p;

	while (f && !found && fgets(line, size, f))
		found = !strncmp(line, key, strlen(key));
	if (f)
		fclose(f);
	line[strcspn(line, "\n")] = 0;
	p = found && *key ? strchr(line, ':') : NULL;
	if (p)
		memmove(line, p + 2, strlen(p + 2) + 1);
	if (!found)
		snprintf(line, size, "-");
}

/* The name that the hypervisor gives itself */
static const char *hypervisor(void)
{
	static char name[3 * sizeof(unsigned int) + 1];
	unsigned int a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1U << 31))
		return "none";
	__cpuid(0x40000000, a, b, c, d);
	memcpy(name, (unsigned int []) { b, c, d }, sizeof(name) - 1);
	return *name ? name : "unknown";
}

static void print_machine(void)
{
	double getpid = getpid_cost();
	const char *name = hypervisor();
	struct utsname uts;
	char cpu[256];

	uname(&uts);
	read_line("/proc/cpuinfo", "model name", cpu, sizeof(cpu));
	printf("# machine\tkernel\tcpu\thypervisor\tcpus\t"
	       "tsc-GHz\tgetpid-ns\tgetpid-cycles\n"
	       "machine\t%s\t%s\t%s\t%d\t%.3f\t%.1f\t%.1f\n",
	       uts.release, cpu, name, nr_cpus, tsc_ghz, getpid / tsc_ghz,
	       getpid);
	fprintf(stderr,
		"Linux %s, %s, hypervisor: %s. getpid() takes %.0f ns.\n"
		"A cycle is one of the TSC, which counts %.3f in a ns.\n",
		uts.release, cpu, name, getpid / tsc_ghz, tsc_ghz);
}

static int not_hidden(const struct dirent *d)
{
	return *d->d_name != '.';
}

static void print_mitigations(void)
{
	struct dirent **found;
	char path[512], line[512];
	int i, n = scandir(VULNERABILITIES, &found, not_hidden, alphasort);

	printf("# mitigation\tvulnerability\tstate\n");
	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), VULNERABILITIES "/%s",
			 found[i]->d_name);
		read_line(path, "", line, sizeof(line));
		if (strcmp(line, "Not affected")) {
			printf("mitigation\t%s\t%s\n", found[i]->d_name, line);
			fprintf(stderr, "%s: %s\n", found[i]->d_name, line);
		}
		free(found[i]);
	}
	if (n >= 0)
		free(found);
	else
		fprintf(stderr, "The kernel does not tell its mitigations.\n");
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Least, lower quartile, median and upper quartile of what there is per turn */
static void quartiles(double *n, double q[4])
{
	int i;

	qsort(n, turns, sizeof(*n), compare);
	for (i = 0; i < 4; i++)
		q[i] = n[i * turns / 4];
}

static void print_row(int all, int submit, enum row r)
{
	const struct sample *s = samples[all][submit][r];
	const struct sample *floor = samples[all][submit][REGISTERED];
	double n[turns], tsc[4], cycles[4], over[4];
	int i;

	for (i = 0; i < turns; i++)
		n[i] = s[i].tsc;
	quartiles(n, tsc);
	for (i = 0; i < turns; i++)
		n[i] = s[i].cycles;
	quartiles(n, cycles);
	for (i = 0; i < turns; i++)
		n[i] = s[i].tsc - floor[i].tsc;
	quartiles(n, over);

	printf("time\t%s\t%s\t%d\t%d", row_name[r],
	       submit_name[submits[submit]], all ? nr_cpus : 1, turns);
	for (i = 0; i < 4; i++)
		printf("\t%.0f", tsc[i] / tsc_ghz);
	for (i = 0; i < 4; i++)
		printf("\t%.0f", tsc[i]);
	for (i = 1; i < 4; i++)
		printf("\t%.0f", over[i]);
	printf("\t%.0f\n", cycles[2]);
	fprintf(stderr, "%4d  %-12s%-16s%8.0f%8.0f%8.0f%8.0f%9.0f%8.0f%8.0f",
		all ? nr_cpus : 1, submit_name[submits[submit]], row_name[r],
		tsc[0] / tsc_ghz, tsc[1] / tsc_ghz, tsc[2] / tsc_ghz,
		tsc[3] / tsc_ghz, tsc[2], over[2] / tsc_ghz, over[2]);
	if (cycles[2])
		fprintf(stderr, "%9.0f", cycles[2]);
	fprintf(stderr, "\n");
}

static void print_all(void)
{
	int all, submit, i;

	print_machine();
	print_mitigations();
	printf("# time\trow\tsubmit\tcpus\tturns\t"
	       "ns-min\tns-q1\tns-median\tns-q3\t"
	       "cycles-min\tcycles-q1\tcycles-median\tcycles-q3\t"
	       "over-q1\tover-median\tover-q3\tclock-median\n");
	fprintf(stderr,
		"\nA round on each CPU, %d times; over a file that was registered before, in the\n"
		"median of the differences. The last column, if there is one: clock cycles.\n"
		"\ncpus  %-12s%-16s%8s%8s%8s%8s%9s%8s%8s\n", turns,
		"submit", "row", "ns min", "q1", "median", "q3", "cycles",
		"ns over", "cycles");
	for (all = 0; all <= (nr_cpus > 1); all++) {
		for (submit = 0; submit < 2; submit++) {
			for (i = 0; i < nr_rows; i++)
				print_row(all, submit, rows[i]);
			fprintf(stderr, "\n");
		}
	}
}

void do_time(struct cost *c, const char *arg)
{
	__u64 ns, tsc;
	int i, j;

	if (arg) {
		char *end;
		long n = strtol(arg, &end, 10);

		if (*end || n < 1 || n > 10000)
			die("how often? 1 to 10000 turns");
		turns = n;
	}
	if (geteuid())
		die("needs root");
	/* is it allowed? */
	set_fifo(true);
	set_fifo(false);
	if (!in_child())
		return;
	find_cpus();
	own_tmp();
	make_files(3 * nr_cpus);
	enable_uring_hold();
	find_rows(c);
	c->many_cpus = true;
	for (i = 0; i < 2; i++) {
		for (j = 0; j < NR_ROWS; j++) {
			samples[0][i][j] = calloc(turns, sizeof(struct sample));
			samples[1][i][j] = calloc(turns, sizeof(struct sample));
			if (!samples[0][i][j] || !samples[1][i][j])
				die("no memory");
		}
	}

	ns = clock_ns(CLOCK_MONOTONIC_RAW);
	tsc = __rdtsc();
	for (i = 0; i < turns; i++)
		do_turn(c, i);
	tsc = __rdtsc() - tsc;
	ns = clock_ns(CLOCK_MONOTONIC_RAW) - ns;
	tsc_ghz = (double)tsc / ns;
	print_all();
	if (fflush(stdout))
		die("stdout: %s", strerror(errno));
	exit(0);
}
