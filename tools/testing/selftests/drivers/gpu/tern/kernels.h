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
	/* p[i] += value, for i in a part of each stride */
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
	 * KERNEL_ADD again and again until *out is not 0; thread n counts in out[1 + n] how often
	 * it has done all of its words
	 */
	KERNEL_WORK,
	/* *out |= p[0] | p[1] | ... */
	KERNEL_OR,
	/* Goes through pages of p as out, a struct tern_steps, says; value is TERN_TAG()'s job. */
	KERNEL_STEPS,
};

/* Bytes of a jump. */
#define TERN_KERNEL_STRIDE 4

/* Arguments of every kernel; each uses what it needs. */
struct kernel_args {
	unsigned long *p;
	unsigned long *out;
	unsigned long count;
	unsigned long value;
	/*
	 * The first @part of every @stride words are meant, both multiples of the number of
	 * threads; all words if @stride is 0.
	 */
	unsigned long part;
	unsigned long stride;
};

/* The sum that kernel "stack" computes in thread @index. */
#define TERN_STACK_WORDS 64UL
#define TERN_STACK_SUM(index) \
	(TERN_STACK_WORDS * (index) + TERN_STACK_WORDS * (TERN_STACK_WORDS - 1) / 2)

/*
 * What kernel "steps" does, and did. Every thread goes through a list of pages. In each it reads
 * its own word, which no other thread uses, and one of those behind it, and may then write its
 * own. What it reads is noted.
 */
#define TERN_STEP_THREADS 64U
#define TERN_STEPS 256U
/* A thread's own word and those behind it, of the words of a page. */
#define TERN_STEP_WORDS (512 / TERN_STEP_THREADS)
/* In place of a limit: do no further step. */
#define TERN_STEPS_END 0xffffffffU
#define TERN_STEP_WRITES 1U

struct tern_steps {
	/* How many steps a thread may do by now. */
	unsigned int limit;
	/* How many each has done. */
	unsigned int done[TERN_STEP_THREADS];
	/* Page times two, with TERN_STEP_WRITES. */
	unsigned int todo[TERN_STEPS][TERN_STEP_THREADS];
	struct {
		unsigned long own;
		unsigned long other;
	} saw[TERN_STEPS][TERN_STEP_THREADS];
};

/* What a step writes: to be told from what any other writes. */
#define TERN_TAG(job, thread, step) \
	(((unsigned long)(job) << 16 | (thread) << 8 | (step)) * 0x9e3779b97f4a7c15UL + 1)
/* Which word behind its own a step reads. */
#define TERN_STEP_OTHER(step) (1 + (step) % (TERN_STEP_WORDS - 1))

#endif /* TERN_TEST_KERNELS_H */
