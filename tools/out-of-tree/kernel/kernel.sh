#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What all scripts share that build or boot a kernel. Sourced instead of
# common.sh.

# shellcheck source=tools/out-of-tree/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

# The kernel's make would say so, but only after all the downloads.
[[ $ROOT != *[[:space:]:]* ]] ||
	die "$ROOT: a kernel cannot be built in a path with a space or a colon"

CHECK=$BUILD/check
# The collection of tests that the series adds, its programs in results, and how
# the guest runs it and the one that is there already.
URING=filesystems/fuse/uring
# shellcheck disable=SC2034
OURS=^$URING:
# shellcheck disable=SC2034
RUNNER=(./run_kselftest.sh -c filesystems/fuse -c "$URING")
# The one case that needs a kernel without passthrough: see check/without.
export ELSEWHERE=eopnotsupp_without_passthrough
LOG=$BUILD/log
mkdir -p "$LOG"

# One at a time in build/, with all that it starts.
if [ ! -e "/proc/$$/fd/${BUILD_LOCK:-none}" ]; then
	exec {BUILD_LOCK}>"$BUILD/lock"
	flock -n "$BUILD_LOCK" || die "already running in this directory ($BUILD/lock)"
	export BUILD_LOCK
fi

# Debian's tools before others of the same name: the packages that deps
# installs (python3 modules above all) belong to those.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH

# Nothing of the caller's own kernel builds, nor of the make that called us.
unset ARCH CROSS_COMPILE KBUILD_OUTPUT LLVM CC CFLAGS LDFLAGS KCFLAGS
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL GNUMAKEFLAGS

# What one clone compiled, another takes from the cache. ccache makes the
# paths below ROOT relative, but knows nothing of the prefix map, which has the
# path of the tree in it; with relative paths it changes nothing.
export CCACHE_DIR=$CACHE/ccache CCACHE_BASEDIR=$ROOT CCACHE_NOHASHDIR=1
# Not in depend mode, which does not see .incbin: a bzImage would get the vmlinux
# of another one whose size is the same.
export CCACHE_IGNOREOPTIONS='-fmacro-prefix-map=*'
unset CCACHE_DEPEND
export CCACHE_NODEPEND=1
export CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-2G}
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970'
export KBUILD_BUILD_USER=bench KBUILD_BUILD_HOST=bench

JOBS=$(nproc)

# kmake TREE OUT ARG...: the kernel's make. Objects below build/ beside the
# tree (../linux seen from OUT), so that ccache sees the same command line
# whichever tree of ours it is. A relative OUT is not below TREE.
kmake()
{
	make -C "$1" O="$(realpath -ms "$2")" -j"$JOBS" LOCALVERSION= \
		CC="ccache gcc" HOSTCC="ccache gcc" "${@:3}"
}

# The prefixes of Debian's cross compilers, by the kernel's ARCH.
declare -A TRIPLET=([arm64]=aarch64-linux-gnu [i386]=i686-linux-gnu
	[s390]=s390x-linux-gnu)

# cross ARCH: sets CROSS to the arguments for kmake to build for ARCH.
cross()
{
	local prefix=${TRIPLET[$1]}-

	# shellcheck disable=SC2034  # for those who source this
	CROSS=(ARCH="$1" CC="ccache ${prefix}gcc" CROSS_COMPILE="$prefix")
}

# configure TREE OUT ARG... <LINES: OUT/.config with exactly what the LINES ask
# for and everything else off. Dies if one of them does not hold in the end.
configure()
{
	local tree=$1 out=$2 missing

	mkdir -p "$out"
	grep -E '^(# )?CONFIG_' | sort -u >"$TMP/lines"
	# Kconfig leaves a .config alone that does not change.
	kmake "$tree" "$out" "${@:3}" -s allnoconfig \
		KCONFIG_ALLCONFIG="$TMP/lines" >"$LOG/configure.log" 2>&1 ||
		die "cannot configure the kernel, see $LOG/configure.log"
	missing=$(grep -vxFf "$out/.config" "$TMP/lines") || true
	[ ! "$missing" ] ||
		die "kernel configuration: ${missing%%$'\n'*} does not hold here"
}

# build_all OUT [KIND [HEADERS]]: the series, a kernel with it (see build) in OUT, and
# the selftests for it. Its headers are in HEADERS if the KIND has none.
build_all()
{
	"$TOOLS/kernel/deps" run
	"$TOOLS/series/make-tree"
	"$TOOLS/kernel/build" "$BUILD/linux" "$1" "${2:-}"
	[ ! "${3:-}" ] || "$TOOLS/kernel/build" "$BUILD/linux" "$3" headers
	"$TOOLS/kernel/selftests" "$BUILD/linux" "${3:-$1}"
}

# kvm_works IMAGE: that /dev/kvm opens says little: boot the kernel with it. It
# panics for want of a root, which ends QEMU. Without KVM that may abort, and the
# shell would say so.
kvm_works()
{
	[ -w /dev/kvm ] || return
	timeout 30 qemu-system-x86_64 -accel kvm -cpu host -m 512 -nodefaults \
		-display none -serial stdio -no-reboot -kernel "$1" \
		-append "console=ttyS0 panic=-1" </dev/null >"$TMP/kvm" 2>&1 ||
		return
	grep -q 'Linux version' "$TMP/kvm"
} 2>/dev/null

# check_tree COMMIT: the work tree of the checks.
check_tree() { "$TOOLS/kernel/work-tree" "$CHECK/linux" "$1"; }

# is_tty: is somebody watching the progress?
is_tty() { [ -t "$SAY_FD" ]; }

# ticker NAME LOG: says every now and then where it is.
ticker()
{
	local i last pause=15

	! is_tty || pause=1
	for ((i = pause; ; i += pause)); do
		# This may outlive us, with nothing of ours in its hands.
		sleep "$pause" >/dev/null 2>&1 {SAY_FD}>&-
		# A script that was killed did not stop us.
		kill -0 $$ 2>/dev/null || return 0
		last=$(tail -n 1 "$2" | tr -s '[:space:]' ' ' | cut -c -60)
		if is_tty; then
			printf '\r  %s: %d s:%s\e[K' "$1" "$i" " ${last# }"
		else
			printf '  %s: %d s:%s\n' "$1" "$i" " ${last# }"
		fi >&"$SAY_FD"
	done
}

TICKER=
kill_ticker() { [ ! "$TICKER" ] || kill "$TICKER" 2>/dev/null || :; }
at_exit kill_ticker

# start_ticker NAME LOG, stop_ticker
start_ticker()
{
	ticker "$@" </dev/null {BUILD_LOCK}>&- &
	TICKER=$!
}

stop_ticker()
{
	{ kill "$TICKER" && wait "$TICKER"; } 2>/dev/null || :
	TICKER=
	! is_tty || printf '\r\e[K' >&"$SAY_FD"
}

# attempt NAME COMMAND...: run a script with all that it says in
# build/log/NAME.log. Returns its status and sets TOOK, in seconds.
attempt()
{
	local log=$LOG/$1.log start=$SECONDS status=0

	: >"$log"
	! is_tty || start_ticker "$1" "$log"
	(
		exec >"$log" 2>&1 </dev/null
		exec {SAY_FD}>&1
		"${@:2}"
	) || status=$?
	! is_tty || stop_ticker
	# shellcheck disable=SC2034  # for those who source this
	TOOK=$((SECONDS - start))
	return "$status"
}

# logged NAME COMMAND...: run it with its output in build/log/NAME.log and
# signs of life on the terminal. If it fails, die with what it said last.
logged()
{
	local name=$1 log=$LOG/$1.log start=$SECONDS status

	: >"$log"
	start_ticker "$name" "$log"
	# Not "|| status=$?": that would switch off -e in a function.
	set +e
	(set -e; "${@:2}") >"$log" 2>&1 </dev/null
	status=$?
	set -e
	stop_ticker
	if [ "$status" != 0 ]; then
		{ grep -E 'error:|\*\*\* |undefined reference|^E: ' "$log" ||
			tail -n 10 "$log"; } | head -n 10 >&2
		die "$name failed, see $log"
	fi
	say "  $name: $((SECONDS - start)) s"
}
