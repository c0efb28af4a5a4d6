#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What every script here begins with:  . "$(dirname "$0")/../common.sh"
#
#   ROOT   top of this repository
#   TOOLS  tools/out-of-tree in it
#   BUILD  what is made from it (build/, not committed)
#   CACHE  what is downloaded or slow to make, shared by all clones
#   TMP    a directory for small files, gone when the script ends

set -euo pipefail
shopt -s inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# shellcheck disable=SC2034  # for those who source this
TOOLS=$ROOT/tools/out-of-tree
BUILD=$ROOT/build
# Not everything that starts us, a CI for one, has a HOME; ~ is known anyhow.
export HOME=${HOME:-~}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/fuse-backing
export LC_ALL=C.UTF-8
unset LANGUAGE
# The variables of a git hook that calls us.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE

# Functions answer on stdout, so progress needs a channel that "$(...)" does
# not catch: the stdout of the first of our scripts, handed down.
if [ ! -e "/proc/$$/fd/${SAY_FD:-none}" ]; then
	exec {SAY_FD}>&1
	export SAY_FD
fi

say() { printf '%s\n' "$*" >&"$SAY_FD"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# at_exit COMMAND: run it when this script ends, however it ends; last first.
AT_EXIT=:
at_exit() { AT_EXIT="$1; $AT_EXIT"; }
trap 'eval "$AT_EXIT"' EXIT

# A mistake on the command line is found before anything is built. NUMBERS are the
# variables that the script which sources this takes as numbers.
for name in ${NUMBERS:-}; do
	[[ ${!name:-1} =~ ^[1-9][0-9]{0,8}$ || $name=${!name} = SEED=0 ]] ||
		die "$name=${!name}: not a number from 1 to 999999999"
done
[ -d "${KERNEL:-/}" ] || die "KERNEL=$KERNEL: no such directory"

mkdir -p "$BUILD" "$CACHE" 2>/dev/null || :
for dir in "$BUILD" "$CACHE"; do
	[ -w "$dir" ] || die "cannot write to $dir"
done
TMP=$(mktemp -d) || exit 1
at_exit "rm -rf '$TMP'"

# need COMMAND PACKAGE
need()
{
	command -v "$1" >/dev/null || die "$1 is missing: apt-get install $2"
}

# need_space DIR GIB: DIR (it need not exist yet) has GIB GiB free, or die.
need_space()
{
	local dir=$1 free

	while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
	free=$(df -Pk "$dir" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$free" -ge "$2" ] ||
		die "not enough disk space: $1 needs $2 GiB, $free GiB are free"
}

# lock FILE: one holder of FILE.lock at a time, until this (sub)shell ends. What
# works under a lock can use fixed temporary names and begin by removing them:
# what is there then is from a run that was interrupted.
lock()
{
	local fd

	exec {fd}>"$1.lock"
	flock -n "$fd" && return
	say "waiting for another run ($1.lock)"
	flock "$fd"
}
