/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What every test of backing files begins and ends with: a backing directory on
 * a tmpfs of its own, a mount point, a ring server, and a way to issue the
 * commands.
 *
 * Functions that return int return 0 (or what is said) or a negative errno.
 */
#ifndef BACKING_ENV_H
#define BACKING_ENV_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "backing_issue.h"
#include "ring_server.h"

/* Largest file of backing_make_file(), in bytes; not a multiple of a page */
#define BACKING_FILE_SZ	(3 * 4096 + 100)

/* What a server of backing files negotiates */
#define BACKING_INIT	(FUSE_OVER_IO_URING | FUSE_PASSTHROUGH)

/* What FUSE_INIT offers with enable_uring on, and the error of asking for it */
extern __u64 backing_init_flags;
extern __u32 backing_init_minor;
extern int backing_init_err;

struct backing_env {
	char base[sizeof("/tmp/backing.XXXXXX")];
	char mnt[sizeof("/tmp/backing.XXXXXX/mnt")];
	char back[sizeof("/tmp/backing.XXXXXX/back")];
	/* the backing directory */
	int dir_fd;
	struct ring_server *server;
	struct backing_issuer issuer;
	/*
	 * seconds that teardown waits for the last fput(), 0: 15, less than the
	 * 30 that a test has
	 */
	unsigned int patience;
	/* for the hooks of a test, which get the env by ring_server_priv() */
	int hook_id;
	int hook_fd;
};

/**
 * backing_env_main() - to be called first in main()
 *
 * Switches enable_uring on until the program ends, and asks the kernel what it
 * offers.
 */
void backing_env_main(void);

/**
 * backing_env_missing() - why a test cannot run here
 * @how:	the way it issues commands, or NULL for any
 *
 * Return: the reason to SKIP with, or NULL if there is none.
 */
const char *backing_env_missing(const struct backing_how *how);

/**
 * backing_env_setup() - make the directories
 * @env:	zeroed; to be filled in
 *
 * The caller gets a mount namespace of its own, so that no mount is left
 * behind however it ends.
 */
int backing_env_setup(struct backing_env *env);

/**
 * backing_env_start() - mount, serve and make the issuer
 * @env:	set up
 * @how:	the way to issue commands
 * @cfg:	as for ring_server_start(), with a max_stack_depth of 1 for 0
 *		and priv set to @env; NULL for one with just BACKING_INIT
 */
int backing_env_start(struct backing_env *env, const struct backing_how *how,
		      const struct ring_server_cfg *cfg);

/**
 * backing_env_stop() - end the server and the issuer
 * @env:	set up; can be started again afterwards
 */
int backing_env_stop(struct backing_env *env);

/**
 * backing_env_teardown() - undo all of it
 * @env:	set up or zeroed
 *
 * Return: 0, or an error if the mount was busy, or if something still holds a
 * backing file: then the backing tmpfs does not unmount.
 */
int backing_env_teardown(struct backing_env *env);

/**
 * backing_make_file() - make or overwrite a backing file
 * @env:	set up
 * @name:	its name; the contents depend on the first letter
 * @size:	in bytes, at most BACKING_FILE_SZ
 *
 * Return: a file descriptor, O_RDWR.
 */
int backing_make_file(struct backing_env *env, const char *name, size_t size);

/**
 * backing_register_file() - make a file whose next opens pass through
 * @env:	started
 * @name:	the name, in the backing directory as in the mount
 *
 * Return: the backing id (> 0).
 */
int backing_register_file(struct backing_env *env, const char *name);

/**
 * open_mnt() - open a file as a client
 * @env:	started
 * @name:	in the mount
 * @flags:	for open(2)
 *
 * Return: a file descriptor.
 */
int open_mnt(struct backing_env *env, const char *name, int flags);

/**
 * open_back() - open a file in the backing directory
 * @env:	set up
 * @name:	in the backing directory
 * @flags:	for open(2)
 *
 * Return: a file descriptor.
 */
int open_back(struct backing_env *env, const char *name, int flags);

/**
 * cmp_back() - compare with what is in a backing file
 * @env:	set up
 * @name:	in the backing directory
 * @want:	the bytes that have to be there
 * @len:	how many
 * @off:	and where
 *
 * Return: 0 if they are, 1 if not.
 */
int cmp_back(struct backing_env *env, const char *name, const void *want,
	     size_t len, off_t off);

/**
 * served() - what did not pass through
 * @env:	started
 *
 * Return: how many READs and WRITEs have reached the server.
 */
int served(struct backing_env *env);

/**
 * set_capability() - have a capability in the effective set or not
 * @cap:	CAP_SYS_ADMIN and so on, has to be in the permitted set
 * @on:		have it
 *
 * For the calling thread.
 */
int set_capability(int cap, bool on);

/**
 * drop_sys_admin() - give up CAP_SYS_ADMIN, in the effective set
 */
int drop_sys_admin(void);

/**
 * in_child() - run something in a forked child
 * @fn:		what; has to return 0 or a small negative number
 * @env:	for @fn
 * @how:	for @fn
 *
 * Return: what @fn returned.
 */
int in_child(int (*fn)(struct backing_env *env, const struct backing_how *how),
	     struct backing_env *env, const struct backing_how *how);

#endif /* BACKING_ENV_H */
