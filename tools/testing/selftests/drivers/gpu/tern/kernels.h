/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests and the code that they run on the device agree on. */
#ifndef TERN_TEST_KERNELS_H
#define TERN_TEST_KERNELS_H

/*
 * The kernels, in the order of the jumps at the start of kernels.bin. Every thread of a
 * dispatch runs one, and shares the words of an array with the others.
 */
enum kernel_id {
	/* Does nothing. */
	KERNEL_NULL,
	/* p[i] = value + i */
	KERNEL_FILL,
	/* p[i] += value */
	KERNEL_ADD,
	/* out[i] = p[i] */
	KERNEL_COPY,
	/* *p += value, count times by each thread, atomically */
	KERNEL_ATOMIC_ADD,
	/* Until *p is value; then *out = value. */
	KERNEL_WAIT,
	/* Reads all of p again and again until *out is not 0. */
	KERNEL_WATCH,
	/* *out = *p */
	KERNEL_LOAD,
	/* *p = value */
	KERNEL_STORE,
	/* *p += value, once, atomically */
	KERNEL_ATOMIC,
	/* Calls p. */
	KERNEL_JUMP,
	/* An instruction that does not exist. */
	KERNEL_ILLEGAL,
	/* out[i] = sum of numbers that were kept on the stack */
	KERNEL_STACK,
	/*
	 * p[i] += value for all of p, again and again until *out is not 0; thread n counts in
	 * out[1 + n] how often it has done all of its words
	 */
	KERNEL_WORK,
	/* *out |= p[0] | p[1] | ... */
	KERNEL_OR,
};

/* Bytes of a jump. */
#define TERN_KERNEL_STRIDE 4

/* Arguments of every kernel; each uses what it needs. */
struct kernel_args {
	unsigned long *p;
	unsigned long *out;
	unsigned long count;
	unsigned long value;
};

/* The sum that kernel "stack" computes in thread @index. */
#define TERN_STACK_WORDS 64UL
#define TERN_STACK_SUM(index) \
	(TERN_STACK_WORDS * (index) + TERN_STACK_WORDS * (TERN_STACK_WORDS - 1) / 2)

#endif /* TERN_TEST_KERNELS_H */
