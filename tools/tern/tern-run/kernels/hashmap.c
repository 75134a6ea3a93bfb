// SPDX-License-Identifier: MIT OR Apache-2.0
#include "tern-kernel.h"

struct entry {
	struct entry *next;
	uint64_t key;
	uint64_t value;
	/* How often it was found. */
	uint64_t hits;
};

struct hashmap_args {
	/* As many as `64 - shift` bits can number. */
	struct entry *const *buckets;
	uint64_t shift;
	const uint64_t *keys;
	/* The value of each key, 0 where the map does not have it. */
	uint64_t *values;
	uint64_t count;
};

/* Multiplicative hashing: the upper bits depend on all bits of the key. */
static uint64_t bucket(const struct hashmap_args *args, uint64_t key)
{
	return key * 0x9e3779b97f4a7c15 >> args->shift;
}

static struct entry *find(const struct hashmap_args *args, uint64_t key)
{
	struct entry *entry = args->buckets[bucket(args, key)];

	while (entry && entry->key != key)
		entry = entry->next;
	return entry;
}

/* Looks keys up. */
TERN_KERNEL void hashmap(struct hashmap_args *args, unsigned long index, unsigned long threads)
{
	for (uint64_t i = index; i < args->count; i += threads) {
		struct entry *entry = find(args, args->keys[i]);

		args->values[i] = entry ? entry->value : 0;
		if (entry)
			tern_atomic_add(&entry->hits, 1);
	}
}
