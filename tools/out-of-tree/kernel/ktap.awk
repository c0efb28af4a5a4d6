# SPDX-License-Identifier: GPL-2.0
#
# The output of run_kselftest.sh as one line for each test case:
#
#   ok|fail|skip <tab> program <tab> case <tab> why
#
# The program has its collection in front, COLLECTION:PROGRAM. One that gives no results of its own is one case. What a plan promised
# and did not come is a failure. With kselftest_harness.h, why a case failed is
# the first expectation that did not hold, with the fuzzer the batch.

function result(status, name, why)
{
	printf "%s\t%s\t%s\t%s\n", status, program, name, why
}

# "ok 3 name # SKIP why" without what is before the name
function parse(line)
{
	status = line ~ /^not / ? "fail" : "ok"
	sub(/^(not )?ok [0-9]+ (- )?/, "", line)
	why = ""
	if (match(line, / *# */)) {
		why = substr(line, RSTART + RLENGTH)
		line = substr(line, 1, RSTART - 1)
	}
	if (status == "ok" && why ~ /^SKIP/)
		status = "skip"
	# Nobody expects a failure here.
	if (why ~ /^XFAIL/)
		status = "fail"
	sub(/^SKIP */, "", why)
	name = line
}

# The program is done, or never will be.
function finish(exit_status, exit_why)
{
	if (planned > cases)
		result("fail", "(plan)", planned - cases " of " planned \
		       " cases did not report " exit_why)
	else if (exit_status == "fail" && !failed)
		result("fail", "(exit)", exit_why)
	else if (!cases)
		result(exit_status, "(program)", skip_all ? skip_all : exit_why)
	program = ""
}

/^1\.\.[0-9]+/ {
	programs = substr($1, 4) + 0
}

/^# selftests: / {
	if (program)
		finish("fail", "no result")
	program = $3 $NF
	cases = planned = failed = 0
	skip_all = unexpected = ""
	next
}

program && /^# 1\.\.[0-9]+/ {
	planned = substr($2, 4) + 0
	skip_all = $0
	if (!sub(/.*# SKIP */, "", skip_all))
		skip_all = ""
}

program && !unexpected && /^# # ([^ ]+:[0-9]+:[^ ]+:Expected |batch [0-9]+: )/ {
	unexpected = substr($0, 5)
}

program && /^# (not )?ok [0-9]+/ {
	parse(substr($0, 3))
	cases++
	failed += status == "fail"
	result(status, name, why ? why : unexpected)
	unexpected = ""
}

program && /^(not )?ok [0-9]+ selftests: / {
	done++
	parse($0)
	finish(status, why)
}

END {
	if (program)
		finish("fail", "the run ended here")
	program = "run_kselftest.sh"
	if (!programs)
		result("fail", "(run)", "did not start")
	else if (done < programs)
		result("fail", "(run)", programs - done " of " programs \
		       " programs did not end")
}
