// SPDX-License-Identifier: MIT OR Apache-2.0
#include "tern-kernel.h"

struct triad_args {
	double *a;
	const double *b;
	const double *c;
	double s;
	uint64_t count;
};

/* a = b + s * c. Neighbouring threads take neighbouring elements. */
TERN_KERNEL void triad(struct triad_args *args, unsigned long index, unsigned long threads)
{
	double *a = args->a;
	const double *b = args->b;
	const double *c = args->c;
	double s = args->s;
	uint64_t count = args->count;

	for (uint64_t i = index; i < count; i += threads)
		a[i] = b[i] + s * c[i];
}
