// SPDX-License-Identifier: GPL-2.0
/*
 * A QEMU plugin that counts how often each instruction is executed.
 *
 *   -plugin libinsns.so,begin=ADDRESS,end=ADDRESS,out=FILE
 *
 * From when the instruction at the one address is executed until that at the
 * other is. Then FILE has a line for each instruction, its address and its
 * number. If that happens again, FILE is overwritten. One CPU only.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is used of qemu-plugin.h, which Debian does not package */
typedef uint64_t qemu_plugin_id_t;
struct qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*vcpu_tb_trans_cb)(qemu_plugin_id_t id,
				 struct qemu_plugin_tb *tb);
typedef void (*vcpu_udata_cb)(unsigned int vcpu, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
					   vcpu_tb_trans_cb cb);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
					    vcpu_udata_cb cb, int flags,
					    void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *
qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t idx);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);

#define CB_NO_REGS	0
#define EXPORT		__attribute__((visibility("default")))

/* Nothing used here has changed since 1; QEMU 9 wants 2 at least */
EXPORT int qemu_plugin_version = PLUGIN_VERSION;

#define BUCKETS		(1 << 16)

struct insn {
	struct insn *next;
	uint64_t addr;
	uint64_t count;
};

static struct insn *buckets[BUCKETS];
static uint64_t begin, end;
static const char *out;
static bool on;

static struct insn *get_insn(uint64_t addr)
{
	struct insn **bucket = &buckets[(addr ^ addr >> 16) % BUCKETS], *insn;

	for (insn = *bucket; insn; insn = insn->next) {
		if (insn->addr == addr)
			return insn;
	}
	insn = calloc(1, sizeof(*insn));
	if (!insn)
		abort();
	insn->addr = addr;
	insn->next = *bucket;
	*bucket = insn;
	return insn;
}

static void start(void)
{
	struct insn *insn;
	int i;

	for (i = 0; i < BUCKETS; i++) {
		for (insn = buckets[i]; insn; insn = insn->next)
			insn->count = 0;
	}
	on = true;
}

static void stop(void)
{
	FILE *f = fopen(out, "w");
	struct insn *insn;
	int i;

	on = false;
	if (!f)
		abort();
	for (i = 0; i < BUCKETS; i++) {
		for (insn = buckets[i]; insn; insn = insn->next) {
			if (insn->count)
				fprintf(f, "%016" PRIx64 " %" PRIu64 "\n",
					insn->addr, insn->count);
		}
	}
	fclose(f);
}

static void executed(unsigned int vcpu, void *data)
{
	struct insn *insn = data;

	(void)vcpu;
	if (insn->addr == begin)
		start();
	else if (insn->addr == end && on)
		stop();
	else if (on)
		insn->count++;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t i, n = qemu_plugin_tb_n_insns(tb);

	(void)id;
	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

		qemu_plugin_register_vcpu_insn_exec_cb(insn, executed,
			CB_NO_REGS, get_insn(qemu_plugin_insn_vaddr(insn)));
	}
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id,
			       const struct qemu_info_t *info, int argc,
			       char **argv)
{
	int i;

	(void)info;
	for (i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "begin=", 6))
			begin = strtoull(argv[i] + 6, NULL, 16);
		else if (!strncmp(argv[i], "end=", 4))
			end = strtoull(argv[i] + 4, NULL, 16);
		else if (!strncmp(argv[i], "out=", 4))
			out = strdup(argv[i] + 4);
		else
			return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return begin && end && out ? 0 : -1;
}
