// SPDX-License-Identifier: MIT OR Apache-2.0
#include "tern-kernel.h"

struct touch_args {
	uint64_t **words;
	uint64_t count;
};

/* Adds one to every word. */
TERN_KERNEL void touch(struct touch_args *args, unsigned long index, unsigned long threads)
{
	for (uint64_t i = index; i < args->count; i += threads)
		++*args->words[i];
}
