// SPDX-License-Identifier: GPL-2.0
/*
 * The operations of a round. All that an operation needs is in the plan, and one that makes no
 * sense where it stands, such as to move what is not mapped, does nothing; so any part of a plan
 * is a plan.
 */
#include "stress.h"

const struct op_type op_types[NR_OPS] = {
	[OP_MAP] = { "map", 5 },
	[OP_UNMAP] = { "unmap", 3 },
	[OP_MOVE] = { "move", 10 },
	[OP_MOVE_MANY] = { "move-many", 5 },
	[OP_GROW] = { "grow", 3 },
	[OP_SHRINK] = { "shrink", 2 },
	[OP_PROTECT] = { "protect", 4 },
	[OP_DONTNEED] = { "dontneed", 3 },
	[OP_FREE] = { "free", 3 },
	[OP_HUGE] = { "huge", 4 },
	[OP_NOHUGE] = { "nohuge", 1 },
	[OP_COLLAPSE] = { "collapse", 3 },
	[OP_PAGEOUT] = { "pageout", 4 },
	[OP_SAME] = { "same", 2 },
	[OP_FORK] = { "fork", 2 },
	[OP_REAP] = { "reap", 1 },
	[OP_WP] = { "wp", 2 },
	[OP_UNWP] = { "unwp", 1 },
	[OP_COMPACT] = { "compact", 1 },
	[OP_NODE] = { "node", 3 },
	[OP_LIMIT] = { "limit", 1 },
	[OP_PREFETCH] = { "prefetch", 5 },
	[OP_EVICT] = { "evict", 2 },
	[OP_WRITE] = { "write", 8 },
	[OP_CHECK] = { "check", 6 },
	[OP_GPU] = { "gpu", 22 },
	[OP_SPOIL] = { "spoil", 0 },
	[OP_CRASH] = { "crash", 0 },
	[OP_HANG] = { "hang", 0 },
};

static enum op_kind random_kind(unsigned long *random)
{
	unsigned int total = 0, chosen;

	for (int kind = 0; kind < NR_OPS; kind++)
		total += op_types[kind].weight;
	chosen = below(random, total);
	for (int kind = 0;; kind++) {
		if (chosen < op_types[kind].weight)
			return kind;
		chosen -= op_types[kind].weight;
	}
}

/* Whole huge pages, aligned parts of one, a few pages, or anything. */
static struct page_span random_span(unsigned long *random, unsigned int pages)
{
	struct page_span span = { 0, 1 };

	switch (below(random, 4)) {
	case 0:
		span.first = below(random, pages) / HUGE_PAGES * HUGE_PAGES;
		span.count = HUGE_PAGES;
		break;
	case 1:
		span.count = 16U << below(random, 5);
		span.first = below(random, pages) / span.count * span.count;
		break;
	case 2:
		span.first = below(random, pages);
		span.count += below(random, 8);
		break;
	default:
		span.first = below(random, pages);
		span.count += below(random, 600);
	}
	if (span.count > pages - span.first)
		span.count = pages - span.first;
	return span;
}

static void add(struct plan *plan, struct op op)
{
	if (plan->nr_ops < MAX_OPS)
		plan->ops[plan->nr_ops++] = op;
}

/* What regions are like at first: huge pages, parts of them, single pages, holes, a file. */
static void start_region(struct plan *plan, unsigned int region)
{
	unsigned int all = plan->pages, kind = region % 5;

	/* Mappings that no huge page fits into get smaller ones, if there are any. */
	for (unsigned int first = 0; first < all; first += kind == 1 ? HUGE_PAGES / 2 : all) {
		add(plan, (struct op){
			.region = region, .kind = OP_MAP, .first = first, .arg = kind == 4,
			.count = kind == 1 ? HUGE_PAGES / 2 - 1 : all,
		});
	}
	add(plan, (struct op){
		.region = region, .kind = kind == 2 ? OP_NOHUGE : OP_HUGE, .count = all,
	});
	if (kind != 3)
		add(plan, (struct op){ .region = region, .kind = OP_WRITE, .count = all });
	add(plan, (struct op){ .region = region, .kind = OP_GPU, .count = all, .arg = plan->seed });
}

/* The plan that follows from the seed, the regions and their pages. */
void plan_make(struct plan *plan, unsigned int ops_per_region)
{
	unsigned long random = plan->seed;

	plan->sizes = next_random(&random) & system_sizes();
	plan->nr_ops = 0;
	for (unsigned int region = 0; region < plan->regions; region++)
		start_region(plan, region);
	for (unsigned int i = 0; i < ops_per_region * plan->regions; i++) {
		struct page_span span = random_span(&random, plan->pages);
		struct op op = {
			.region = i % plan->regions,
			.kind = random_kind(&random),
			.first = span.first,
			.count = span.count,
			.to = below(&random, plan->pages),
			.arg = next_random(&random),
		};

		/* Half of what moves keeps its place in a huge page. */
		if (op.arg & 1)
			op.to = (op.to / HUGE_PAGES * HUGE_PAGES + op.first % HUGE_PAGES) %
				plan->pages;
		add(plan, op);
	}
}

/* Prints a plan so that plan_read() can read it; with @with_state, what has begun of it. */
void plan_print(FILE *out, const struct plan *plan, const char *indent, bool with_state)
{
	fprintf(out, "%sround %lu %u %u %#x\n", indent, plan->seed, plan->regions, plan->pages,
		plan->sizes);
	for (unsigned int i = 0; i < plan->nr_ops; i++) {
		const struct op *op = &plan->ops[i];

		if (with_state && op->state == OP_AHEAD)
			continue;
		fprintf(out, "%s%u %s %u %u %u %#x%s\n", indent, op->region,
			op_types[op->kind].name, op->first, op->count, op->to, op->arg,
			with_state && op->state == OP_BEGUN ? " # under way" : "");
	}
}

static int find_kind(const char *name)
{
	for (int kind = 0; kind < NR_OPS; kind++) {
		if (!strcmp(name, op_types[kind].name))
			return kind;
	}
	return -1;
}

/* Whether @line is an operation of the plan, which it then becomes. */
static bool read_op(struct plan *plan, const char *line)
{
	struct op op = {};
	unsigned int region;
	char name[16];
	int kind;

	if (sscanf(line, "%u %15s %u %u %u %i", &region, name, &op.first, &op.count, &op.to,
		   (int *)&op.arg) != 6)
		return false;
	kind = find_kind(name);
	if (kind < 0 || region >= plan->regions || op.first >= plan->pages || !op.count ||
	    op.count > plan->pages - op.first || op.to >= plan->pages || plan->nr_ops == MAX_OPS)
		return false;
	op.region = region;
	op.kind = kind;
	plan->ops[plan->nr_ops++] = op;
	return true;
}

/* Reads what plan_print() has printed, also as lines of TAP. Number of a bad line, or 0. */
int plan_read(FILE *in, struct plan *plan)
{
	bool started = false;
	char text[256];
	int number = 0;

	plan->nr_ops = 0;
	while (fgets(text, sizeof(text), in)) {
		char *line = text + strspn(text, "# \t\n");

		number++;
		if (!*line)
			continue;
		if (!started) {
			started = sscanf(line, "round %lu %u %u %i", &plan->seed, &plan->regions,
					 &plan->pages, (int *)&plan->sizes) == 4;
			if (!started || !plan->regions || plan->regions > MAX_REGIONS ||
			    !plan->pages || plan->pages > MAX_PAGES)
				return number;
		} else if (!read_op(plan, line)) {
			return number;
		}
	}
	return started ? 0 : number + 1;
}

void plan_drop(struct plan *plan, unsigned int first, unsigned int count)
{
	memmove(plan->ops + first, plan->ops + first + count,
		(plan->nr_ops - first - count) * sizeof(plan->ops[0]));
	plan->nr_ops -= count;
}
