// SPDX-License-Identifier: MIT OR Apache-2.0
#include "tern-kernel.h"

struct pingpong_args {
	uint64_t *values;
	uint64_t count;
	uint64_t step;
};

/* Adds the step to every value. */
TERN_KERNEL void pingpong(struct pingpong_args *args, unsigned long index, unsigned long threads)
{
	uint64_t *values = args->values;
	uint64_t count = args->count, step = args->step;

	for (uint64_t i = index; i < count; i += threads)
		values[i] += step;
}
