// SPDX-License-Identifier: GPL-2.0
/*
 * Whether the operations of a run came to something. The kernel may leave alone what it is asked
 * to swap out, merge or move, so an operation does not tell; what it does then is counted by the
 * kernel, by the driver or where the operation is made.
 */
#include "stress.h"

#define NODE_1 "/sys/devices/system/node/node1"

static bool has_swap(void)
{
	return tern_count("/proc/meminfo", "SwapTotal:");
}

static bool has_node(void)
{
	return !access(NODE_1, F_OK);
}

static bool has_ksm(void)
{
	return !access("/sys/kernel/mm/ksm/run", W_OK);
}

static bool has_cgroup(void)
{
	return system_cgroup();
}

static bool has_huge(void)
{
	return system_sizes() & 1 << TERN_MAX_ORDER;
}

static bool has_mid(void)
{
	return system_sizes() & ~(1 << TERN_MAX_ORDER);
}

static bool has_compaction(void)
{
	return !access("/proc/sys/vm/compact_memory", W_OK);
}

/* What operations need that a kernel or a machine may not have. */
struct feature {
	const char *name;
	bool (*is_there)(void);
};

static const struct feature swap = { "swap", has_swap };
static const struct feature node = { "a second node", has_node };
static const struct feature ksm = { "KSM", has_ksm };
static const struct feature cgroup = { "a memory cgroup", has_cgroup };
static const struct feature huge = { "huge pages", has_huge };
static const struct feature mid = { "folios of other sizes", has_mid };
static const struct feature compaction = { "compaction", has_compaction };
static const struct feature eviction = { "eviction (tern.dmirror=1, debugfs)", system_evicts };

static const struct feature *const features[] = {
	&swap, &node, &ksm, &cgroup, &huge, &mid, &compaction, &eviction,
};

#define BY_ROUND(_kind, _ops, _needs, _name) \
	{ .name = _name, .kind = _kind, .ops = _ops, .needs = _needs }
#define BY_DEVICE(_kind, _ops, _needs, _name) \
	{ .name = _name, .kind = _kind, .ops = _ops, .needs = _needs, .path = system_device_stats }
#define BY_VMSTAT(_kind, _ops, _needs, _name) \
	{ .name = _name, .kind = _kind, .ops = _ops, .needs = _needs, .path = "/proc/vmstat" }

/*
 * Effects, and the number of operations of a kind after which a run must have shown one. Those
 * with a path are counted by the system, under their name there.
 */
static const struct effect_type {
	const char *name;
	enum op_kind kind;
	unsigned int ops;
	const struct feature *needs;
	const char *path;
} types[NR_EFFECTS] = {
	[EFFECT_TO_DEVICE_HUGE] = BY_ROUND(OP_GPU, 600, &huge, "huge pages to the device"),
	[EFFECT_TO_DEVICE_MID] = BY_ROUND(OP_GPU, 600, &mid, "folios between to the device"),
	[EFFECT_TO_DEVICE_SMALL] = BY_ROUND(OP_GPU, 100, NULL, "pages to the device"),
	[EFFECT_TO_SYSTEM_HUGE] = BY_ROUND(OP_GPU, 600, &huge, "huge pages back"),
	[EFFECT_TO_SYSTEM_MID] = BY_ROUND(OP_GPU, 600, &mid, "folios between back"),
	[EFFECT_TO_SYSTEM_SMALL] = BY_ROUND(OP_GPU, 100, NULL, "pages back"),
	[EFFECT_EVICT_HUGE] = BY_DEVICE(OP_EVICT, 300, &huge, "evicted-2M:"),
	[EFFECT_EVICT_MID] = BY_DEVICE(OP_EVICT, 40, &mid, "evicted-mthp:"),
	[EFFECT_EVICT_SMALL] = BY_DEVICE(OP_EVICT, 5, &eviction, "evicted-4K:"),
	[EFFECT_MAPPED] = BY_ROUND(OP_GPU, 100, NULL, "pages used where they are"),
	[EFFECT_CPU_FAULT] = BY_ROUND(OP_CHECK, 50, NULL, "faults of the CPU"),
	[EFFECT_CANCEL] = BY_ROUND(OP_GPU, 100, NULL, "accesses refused to the device"),
	[EFFECT_LOOK] = BY_ROUND(OP_CHECK, 50, NULL, "looks"),
	[EFFECT_LOOK_REFUSED] = BY_ROUND(OP_PROTECT, 50, NULL, "looks refused"),
	[EFFECT_WP] = BY_ROUND(OP_WP, 50, NULL, "messages of userfaultfd"),
	[EFFECT_NODE] = BY_ROUND(OP_NODE, 50, &node, "pages to another node"),
	[EFFECT_NOHUGE] = BY_ROUND(OP_NOHUGE, 50, NULL, "advice against huge pages"),
	[EFFECT_HUGE] = BY_VMSTAT(OP_HUGE, 120, &huge, "thp_fault_alloc"),
	[EFFECT_COLLAPSE] = BY_VMSTAT(OP_COLLAPSE, 200, &huge, "thp_collapse_alloc"),
	[EFFECT_SWAP_OUT] = BY_VMSTAT(OP_PAGEOUT, 50, &swap, "pswpout"),
	[EFFECT_SWAP_IN] = BY_VMSTAT(OP_PAGEOUT, 50, &swap, "pswpin"),
	[EFFECT_SAME] = BY_VMSTAT(OP_SAME, 50, &ksm, "cow_ksm"),
	[EFFECT_COMPACT] = BY_VMSTAT(OP_COMPACT, 20, &compaction, "compact_isolated"),
	[EFFECT_LIMIT] = {
		.name = "high", .kind = OP_LIMIT, .ops = 30, .needs = &cgroup,
		.path = CGROUP "/memory.events",
	},
};

/* Of the rounds so far; and what the counters of the system were at the start. */
static unsigned long effects[NR_EFFECTS], first[NR_EFFECTS];
static unsigned long ops[NR_OPS];

void effects_begin(void)
{
	memset(effects, 0, sizeof(effects));
	memset(ops, 0, sizeof(ops));
	for (int i = 0; i < NR_EFFECTS; i++) {
		if (types[i].path)
			first[i] = tern_count(types[i].path, types[i].name);
	}
}

/* A round has ended well. */
void effects_add_round(const struct shared *shared)
{
	for (int i = 0; i < NR_EFFECTS; i++)
		effects[i] += shared->report.effects[i];
	for (unsigned int i = 0; i < shared->plan.nr_ops; i++)
		ops[shared->plan.ops[i].kind]++;
}

/* Prints what came of the rounds; returns whether all did that has to after so many. */
bool effects_end(void)
{
	bool well = true;

	for (int i = 0; i < NR_EFFECTS; i++) {
		const struct effect_type *type = &types[i];
		bool missed;

		if (type->needs && !type->needs->is_there())
			continue;
		if (type->kind == OP_EVICT && !system_evicts())
			continue;
		if (type->path)
			effects[i] = tern_count(type->path, type->name) - first[i];
		missed = !effects[i] && ops[type->kind] >= type->ops;
		ksft_print_msg("%lu %s%s (%lu x %s)\n", effects[i], type->name,
			       missed ? ", which is too few" : "", ops[type->kind],
			       op_types[type->kind].name);
		well &= !missed;
	}
	return well;
}

/* What the system does not have of what operations need, as a list. */
void effects_missing(char *text, size_t size)
{
	size_t used = 0;

	*text = 0;
	for (int i = 0; i < ARRAY_SIZE(features); i++) {
		if (!features[i]->is_there() && used < size)
			used += snprintf(text + used, size - used, "%s%s", used ? ", " : "",
					 features[i]->name);
	}
}
