// SPDX-License-Identifier: MIT OR Apache-2.0
#include "tern-kernel.h"

struct bfs_args {
	/* The neighbours of node n are edges[offsets[n]] to before edges[offsets[n + 1]]. */
	const uint64_t *offsets;
	const uint32_t *edges;
	/* Steps from the start to each node; where none was found yet, more than any. */
	uint32_t *levels;
	/* The nodes that the last launch reached, and those that this one reaches. */
	const uint32_t *frontier;
	uint32_t *next;
	uint64_t count;
	uint64_t next_count;
	/* Of the nodes that this launch reaches. */
	uint32_t level;
};

/* Many threads may come to a node: the one that lowers its level has reached it. */
static void reach(struct bfs_args *args, uint32_t node)
{
	if (tern_atomic_min(&args->levels[node], args->level) > args->level)
		args->next[tern_atomic_add(&args->next_count, 1)] = node;
}

/* One step of a breadth-first search. */
TERN_KERNEL void bfs(struct bfs_args *args, unsigned long index, unsigned long threads)
{
	for (uint64_t i = index; i < args->count; i += threads) {
		uint32_t node = args->frontier[i];

		for (uint64_t edge = args->offsets[node]; edge < args->offsets[node + 1]; edge++)
			reach(args, args->edges[edge]);
	}
}
