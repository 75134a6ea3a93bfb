// SPDX-License-Identifier: MIT OR Apache-2.0
#include "tern-kernel.h"

struct gemm_args {
	float *c;
	const float *a;
	const float *b;
	uint64_t n;
	uint64_t rows;
};

/*
 * C = A * B, where B is n by n, and A and C are rows by n, row after row. A thread
 * computes whole elements of C.
 */
TERN_KERNEL void gemm(struct gemm_args *args, unsigned long index, unsigned long threads)
{
	uint64_t n = args->n, count = n * args->rows;

	for (uint64_t i = index; i < count; i += threads) {
		const float *a = args->a + i / n * n;
		const float *b = args->b + i % n;
		float sum = 0;

		for (uint64_t k = 0; k < n; k++, b += n)
			sum += a[k] * *b;
		args->c[i] = sum;
	}
}
