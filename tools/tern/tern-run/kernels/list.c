// SPDX-License-Identifier: MIT OR Apache-2.0
#include "tern-kernel.h"

struct node {
	struct node *next;
	uint64_t value;
	/* How many nodes of its list come before it. */
	uint64_t position;
};

struct list {
	struct node *head;
	/* Over all its nodes. */
	uint64_t nodes;
	uint64_t sum;
};

struct list_args {
	struct list *lists;
	uint64_t count;
};

static void walk(struct list *list)
{
	uint64_t nodes = 0, sum = 0;

	for (struct node *node = list->head; node; node = node->next) {
		node->position = nodes++;
		sum += node->value;
	}
	list->nodes = nodes;
	list->sum = sum;
}

/* Numbers the nodes of lists, and sums them up. A thread walks whole lists. */
TERN_KERNEL void list(struct list_args *args, unsigned long index, unsigned long threads)
{
	for (uint64_t i = index; i < args->count; i += threads)
		walk(&args->lists[i]);
}
