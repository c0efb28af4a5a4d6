# SPDX-License-Identifier: GPL-2.0

TOOLS := tools/out-of-tree

help:
	@echo  'Main targets:'
	@echo  '  run     - build Linux with the series, boot it in QEMU, run the selftests'
	@echo  '  check   - the complete test: source, builds, documentation, and the'
	@echo  '            selftests on the patched and on the unpatched kernel'
	@echo  '  demo    - what passthrough_hp saves by each interface: a table, a picture'
	@echo  ''
	@echo  'Tests that take longer:'
	@echo  '  check-debug - the selftests on kernels with KASAN, kmemleak, lockdep'
	@echo  '            and more, and with KCSAN; as 64-bit and 32-bit programs'
	@echo  '  check-arm64 - the selftests in an emulated arm64 machine'
	@echo  '  check-libfuse - libfuse with its patches, its complete test suite'
	@echo  '  check-xfstests - xfstests on passthrough_hp, each interface compared with'
	@echo  '            the ioctls: XFSTESTS= a checkout that is built. TESTS= only these'
	@echo  '  fuzz    - random backing file commands: TIME= seconds (60), or SQES='
	@echo  '            commands, from SEED= on; on kernel-debug if it was built'
	@echo  '  storm   - 10,000 connections that end in the midst of opens'
	@echo  '  faults  - allocations that fail; on kernel-debug if it was built'
	@echo  '  stress  - fuzz, storm and faults, short'
	@echo  '  mutants - can the tests fail? They have to notice each mistake of a'
	@echo  '            collection, made in the kernel. MUTANT=NAME: that one'
	@echo  ''
	@echo  '  bench   - count what each interface for a backing file costs'
	@echo  '  bench-scale - the same with many open files, and which locks they take:'
	@echo  '            FILES= how many, 1000000'
	@echo  '  bench-program - the program that does it, to measure time on any machine:'
	@echo  '            build/bench/cost time, as root'
	@echo  '  bench-server - the same for programs on a server of libfuse'
	@echo  ''
	@echo  'The series:'
	@echo  '  tree    - the kernel with the series as a git branch in build/linux'
	@echo  '  refresh - write that branch, as it was edited, back to the patches'
	@echo  '  mail    - cover letter and patches, ready to send, in build/mail'
	@echo  '  libfuse - libfuse with and without its patches, in build/libfuse'
	@echo  '  libfuse-mail - its patches, ready to send, in build/mail/libfuse'
	@echo  ''
	@echo  'The kernel:'
	@echo  '  kernel  - build it; build/kernel/arch/x86/boot/bzImage'
	@echo  '  shell   - a root shell in it'
	@echo  '  example - the example server; build/example/server'
	@echo  ''
	@echo  '  clean   - remove build/'
	@echo  ''
	@echo  'BOOTS= is how often bench and bench-server measure, V= the version of the'
	@echo  'mails. KERNEL=DIR is the kernel to apply the series to, 7.3 or later, a git'
	@echo  'tree or a plain one, instead of the source package of Debian.'
	@echo  'Tests, benchmarks and the demo add how they ended to build/runs, with versions.'

export KERNEL MUTANT BOOTS TIME SQES SEED FILES XFSTESTS TESTS

run shell:
	@$(TOOLS)/kernel/$@

check:
	@$(TOOLS)/check/run

check-debug check-arm64:
	@$(TOOLS)/check/$(@:check-%=%)

check-libfuse:
	@$(TOOLS)/libfuse/check

check-xfstests:
	@$(TOOLS)/xfstests/run

demo:
	@$(TOOLS)/demo/run

fuzz storm faults stress:
	@$(TOOLS)/stress/run $@

mutants:
	@$(TOOLS)/mutants/run

bench:
	@$(TOOLS)/cost/bench

bench-scale:
	@$(TOOLS)/cost/bench-scale

bench-program:
	@$(TOOLS)/cost/program

bench-server:
	@$(TOOLS)/server/bench

tree:
	@$(TOOLS)/series/make-tree

refresh mail:
	@$(TOOLS)/series/$@

libfuse:
	@$(TOOLS)/libfuse/build

libfuse-mail:
	@$(TOOLS)/libfuse/mail

kernel:
	@$(TOOLS)/kernel/deps run
	@$(TOOLS)/series/make-tree
	@$(TOOLS)/kernel/build

example: kernel
	@$(TOOLS)/example/build

clean:
	@$(TOOLS)/series/clean

PHONY := help run check demo check-debug check-arm64 check-libfuse check-xfstests
PHONY += mutants shell
PHONY += fuzz storm faults stress bench bench-scale bench-program bench-server
PHONY += tree refresh mail kernel example clean libfuse libfuse-mail
.PHONY: $(PHONY)
