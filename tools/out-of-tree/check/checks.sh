#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks, one line for each as it ends, its output in build/log, and at the end
# "N passed, N failed, N skipped". Sourced instead of kernel.sh.

# shellcheck source=tools/out-of-tree/kernel/kernel.sh
. "$(dirname "${BASH_SOURCE[0]}")/../kernel/kernel.sh"

passed=0 failed=0 skipped=0
declare -A FAILED=()

# check NAME COMMAND...
check()
{
	local name=$1 log=$LOG/check-$1.log

	if attempt "check-$name" "${@:2}"; then
		say "$(printf 'ok   %4ds  %s' "$TOOK" "$name")"
		((++passed))
	else
		say "$(printf 'FAIL %4ds  %s' "$TOOK" "$name")"
		say "$(tail -n 12 "$log" | sed 's/^/           /')"
		say "           see $log"
		FAILED[$name]=1
		((++failed))
	fi
}

# after OTHER check|check_boot NAME ARG...: which makes no sense if OTHER failed.
# After several: after OTHER after ANOTHER check ...
after()
{
	local other=$1

	shift
	if [ ! "${FAILED[$other]:-}" ]; then
		"$@"
		return
	fi
	while [ "$1" = after ]; do shift 2; done
	say "$(printf 'skip %4ds  %s: %s failed' 0 "$2" "$other")"
	FAILED[$2]=1
	((++skipped))
}

# check_boot NAME ARG...: boot (see there); its test cases count, not itself.
check_boot()
{
	local results=$LOG/$1.results

	rm -f "$results"
	check "$1" "$TOOLS/kernel/boot" "$@"
	[ -e "$results" ] || return 0
	say "             $(tail -n 1 "$LOG/check-$1.log")"
	count() { grep -c "^$1" "$results" || :; }
	if [ ! "${FAILED[$1]:-}" ]; then
		((passed--)) || :
	elif [ "$(count fail)" -gt 0 ]; then
		((failed--)) || :
	fi
	((passed += $(count ok))) || :
	((failed += $(count fail))) || :
	((skipped += $(count skip))) || :
}

# finish TARGET
finish()
{
	local closing="$passed passed, $failed failed, $skipped skipped"

	say "$closing"
	"$TOOLS/kernel/ran" "$1" "$closing, $((SECONDS / 60)) minutes"
	exit $((failed > 0))
}
