#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the scripts of this directory share. Sourced instead of kernel.sh.
#
# build/libfuse has the patched source as a git repository, and for each
# VARIANT of the library a build directory, and below guest/ what runs in the
# guest.

# shellcheck source=tools/out-of-tree/kernel/kernel.sh
. "$(dirname "${BASH_SOURCE[0]}")/../kernel/kernel.sh"
# shellcheck source=tools/out-of-tree/apt.sh
. "$TOOLS/apt.sh"

PATCHES=$TOOLS/libfuse
LIBFUSE=$BUILD/libfuse
SOURCE=$LIBFUSE/source
mkdir -p "$LIBFUSE"
DEBIAN=$(apt_source forky fuse3) || exit
lock "$LIBFUSE/source"

# git_in DIR ARG...: the user's git configuration has no say.
git_in()
{
	GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 git -C "$1" \
		-c user.name=libfuse -c user.email=libfuse@localhost "${@:2}"
}

source_git() { git_in "$SOURCE" "$@"; }

# source_changed: has SOURCE anything that the patches do not?
source_changed()
{
	[ "$(source_git rev-parse HEAD)" != "$(source_git rev-parse made)" ] ||
		[ "$(source_git status --porcelain)" ]
}

# source_key: what SOURCE is made of
source_key()
{
	cat "$PATCHES"/*.patch - <<<"$DEBIAN" | sha256sum
}

# make_source: Debian's source with a commit for each patch, tags base and made.
make_source()
{
	local tmp=$SOURCE.tmp patch

	if [ -d "$SOURCE" ]; then
		[ "$(cat "$SOURCE/.git/key")" != "$(source_key)" ] || return 0
		! source_changed ||
			die "${SOURCE#"$ROOT"/} has changes that are not in the patches: tools/out-of-tree/libfuse/refresh writes them back"
	fi

	rm -rf "$tmp"
	cp -a "$DEBIAN" "$tmp"
	rm -rf "$tmp/.pc"
	git_in "$tmp" init -q --template= -b main
	git_in "$tmp" add -A -f
	git_in "$tmp" commit -q -m "${DEBIAN##*/}"
	git_in "$tmp" tag base
	for patch in "$PATCHES"/*.patch; do
		{ echo "From: libfuse <libfuse@localhost>"; cat "$patch"; } |
			git_in "$tmp" am -q ||
			die "${patch##*/} does not apply to ${DEBIAN##*/}"
	done
	git_in "$tmp" tag made
	source_key >"$tmp/.git/key"
	rm -rf "$SOURCE"
	mv "$tmp" "$SOURCE"
}

# build_variant NAME SOURCE MESON_ARG...: with the library in the programs, because
# the guest does not see liburing in the cache.
build_variant()
{
	local name=$1 source=$2 out=$LIBFUSE/$1
	local -x PKG_CONFIG_PATH

	PKG_CONFIG_PATH=$("$TOOLS/kernel/libs") || exit
	[ -e "$out/build.ninja" ] ||
		CC="ccache gcc" CXX="ccache g++" meson setup "$out" "$source" \
			-Ddefault_library=static -Duseroot=false "${@:3}"
	# It leaves io_uring out without a word if it misses something.
	grep -q 'define HAVE_URING' "$out/fuse_config.h"
	ninja -C "$out" -j"$JOBS"

	mkdir -p "$LIBFUSE/guest/$name/build"
	rsync -a --delete "$source"/{test,tsan_suppressions.txt} \
		"$LIBFUSE/guest/$name"
	rsync -a --delete --prune-empty-dirs --exclude='*.p/' --include='*/' \
		--include='example/*' --include='test/*' --include='util/*' \
		--include=fuse_config.h --exclude='*' \
		"$out/" "$LIBFUSE/guest/$name/build"
}
