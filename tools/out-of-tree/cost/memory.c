// SPDX-License-Identifier: GPL-2.0
/* Bytes of kernel memory for a registered file */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cost.h"

#define MEMORY_FILES	100000

long slab(void)
{
	/* let what RCU has to free be freed */
	sleep(2);
	return file_number("/proc/meminfo", "Slab:", 1) * 1024;
}

static void print_memory(const char *what, bool own, long before)
{
	printf("memory\t%s\t%s\t%.1f\n", what, own ? "own" : "shared",
	       (double)(slab() - before) / MEMORY_FILES);
}

static int memory_fd;

static bool reply_memory(struct ring_req *req)
{
	req->fd = req->in.opcode == FUSE_LOOKUP ? memory_fd : -1;
	return true;
}

/* The inodes of the directory, with a file that all share or one of their own */
static void do_inodes(const char *what, bool own)
{
	struct stat st;
	char path[32];
	long before;
	int i;

	start(PLAIN, DEFER | FIXED);
	server->cfg.handle = handle_many;
	server->cfg.hooks.reply = reply_memory;
	before = slab();
	memory_fd = strcmp(what, "inode") ? open_back("f0") : -1;
	for (i = 0; i < MEMORY_FILES; i++) {
		if (own && memory_fd >= 0) {
			close(memory_fd);
			memory_fd = open_back("f0");
		}
		snprintf(path, sizeof(path), MNT "/i%d", i);
		if (stat(path, &st))
			die("%s: %s", path, strerror(errno));
	}
	close(memory_fd);
	print_memory(what, own, before);
	stop();
}

void do_memory(void)
{
	struct fuse_backing_map map;
	int command, own, i, fd;
	long before;

	for (command = 0; command <= 1; command++) {
		for (own = 0; own <= 1; own++) {
			start(PLAIN, DEFER | FIXED);
			before = slab();
			fd = open_back("f0");
			for (i = 1; i <= MEMORY_FILES; i++) {
				if (own) {
					close(fd);
					fd = open_back("f0");
				}
				map = (struct fuse_backing_map){ .fd = fd };
				if (command)
					register_id(fd, i);
				else if (ioctl(server->dev_fd,
					       FUSE_DEV_IOC_BACKING_OPEN,
					       &map) < 0)
					die("BACKING_OPEN: %s",
					    strerror(errno));
			}
			close(fd);
			print_memory(command ? "command" : "ioctl", own,
				     before);
			stop();
		}
	}
	do_inodes("inode", false);
	do_inodes("lookup", false);
	do_inodes("lookup", true);
}
