// SPDX-License-Identifier: MIT OR Apache-2.0
#include "tern-kernel.h"

struct increment_args {
	uint64_t *values;
	uint64_t count;
};

TERN_KERNEL void increment(struct increment_args *args, unsigned long index,
			   unsigned long threads)
{
	for (uint64_t i = index; i < args->count; i += threads)
		args->values[i]++;
}
