// SPDX-License-Identifier: GPL-2.0
/* Code for the device. See kernels.h for what each function does. */
#include "kernels.h"

/* Comes first in the file, and so at the start of the text. In the order of enum kernel_id. */
__asm__(".text\n"
	".option push\n"
	".option norvc\n"
	"j kernel_null\n"
	"j kernel_fill\n"
	"j kernel_add\n"
	"j kernel_copy\n"
	"j kernel_atomic_add\n"
	"j kernel_wait\n"
	"j kernel_watch\n"
	"j kernel_load\n"
	"j kernel_store\n"
	"j kernel_atomic\n"
	"j kernel_jump\n"
	"j kernel_illegal\n"
	"j kernel_stack\n"
	"j kernel_work\n"
	"j kernel_or\n"
	"j kernel_steps\n"
	".option pop\n");

#define KERNEL(name) \
	void kernel_##name(struct kernel_args *args, unsigned long index, unsigned long threads)
#define UNUSED(x) ((void)(x))

KERNEL(null)
{
	UNUSED(args);
	UNUSED(index);
	UNUSED(threads);
}

KERNEL(fill)
{
	for (unsigned long i = index; i < args->count; i += threads)
		args->p[i] = args->value + i;
}

static void add(struct kernel_args *args, unsigned long index, unsigned long threads)
{
	unsigned long stride = args->stride ? args->stride : args->count;
	unsigned long part = args->stride ? args->part : args->count;

	for (unsigned long start = 0; start < args->count; start += stride) {
		for (unsigned long i = index; i < part; i += threads)
			args->p[start + i] += args->value;
	}
}

KERNEL(add)
{
	add(args, index, threads);
}

KERNEL(copy)
{
	for (unsigned long i = index; i < args->count; i += threads)
		args->out[i] = args->p[i];
}

KERNEL(atomic_add)
{
	UNUSED(index);
	UNUSED(threads);
	for (unsigned long i = 0; i < args->count; i++)
		__atomic_fetch_add(args->p, args->value, __ATOMIC_RELAXED);
}

KERNEL(wait)
{
	UNUSED(index);
	UNUSED(threads);
	while (__atomic_load_n(args->p, __ATOMIC_ACQUIRE) != args->value)
		;
	__atomic_store_n(args->out, args->value, __ATOMIC_RELEASE);
}

KERNEL(watch)
{
	while (!__atomic_load_n(args->out, __ATOMIC_ACQUIRE)) {
		for (unsigned long i = index; i < args->count; i += threads)
			__atomic_load_n(&args->p[i], __ATOMIC_RELAXED);
	}
}

KERNEL(load)
{
	UNUSED(index);
	UNUSED(threads);
	*args->out = __atomic_load_n(args->p, __ATOMIC_RELAXED);
}

KERNEL(store)
{
	UNUSED(index);
	UNUSED(threads);
	__atomic_store_n(args->p, args->value, __ATOMIC_RELAXED);
}

KERNEL(atomic)
{
	UNUSED(index);
	UNUSED(threads);
	/* In assembly, since the address may be misaligned on purpose. */
	__asm__ volatile("amoadd.d zero, %1, (%0)" : : "r"(args->p), "r"(args->value) : "memory");
}

KERNEL(jump)
{
	UNUSED(index);
	UNUSED(threads);
	((void (*)(void))args->p)();
}

KERNEL(illegal)
{
	UNUSED(args);
	UNUSED(index);
	UNUSED(threads);
	/* All zeros is defined to be no instruction. */
	__asm__ volatile(".2byte 0");
}

KERNEL(stack)
{
	unsigned long words[TERN_STACK_WORDS];

	for (unsigned long i = index; i < args->count; i += threads) {
		unsigned long sum = 0;

		for (unsigned long word = 0; word < TERN_STACK_WORDS; word++)
			words[word] = i + word;
		/* They are in memory here, as far as the compiler knows. */
		__asm__ volatile("" : : "r"(words) : "memory");
		for (unsigned long word = 0; word < TERN_STACK_WORDS; word++)
			sum += words[word];
		args->out[i] = sum;
	}
}

KERNEL(work)
{
	unsigned long *sweeps = &args->out[1 + index];

	while (!__atomic_load_n(args->out, __ATOMIC_ACQUIRE)) {
		add(args, index, threads);
		__atomic_store_n(sweeps, *sweeps + 1, __ATOMIC_RELEASE);
	}
}

KERNEL(or)
{
	unsigned long bits = 0;

	for (unsigned long i = index; i < args->count; i += threads)
		bits |= args->p[i];
	__atomic_fetch_or(args->out, bits, __ATOMIC_RELAXED);
}

KERNEL(steps)
{
	struct tern_steps *steps = (struct tern_steps *)args->out;
	unsigned int limit = 0;

	UNUSED(threads);
	for (unsigned long step = 0; step < args->count; step++) {
		unsigned int todo = steps->todo[step][index];
		unsigned long *own = args->p + (todo >> 1) * 512UL + index * TERN_STEP_WORDS;

		while (limit <= step)
			limit = __atomic_load_n(&steps->limit, __ATOMIC_ACQUIRE);
		/* Also without a wait, since an end is not to be waited for. */
		if (__atomic_load_n(&steps->limit, __ATOMIC_ACQUIRE) == TERN_STEPS_END)
			return;
		steps->saw[step][index].own = __atomic_load_n(own, __ATOMIC_RELAXED);
		steps->saw[step][index].other =
			__atomic_load_n(own + TERN_STEP_OTHER(step), __ATOMIC_RELAXED);
		if (todo & TERN_STEP_WRITES)
			__atomic_store_n(own, TERN_TAG(args->value, index, step), __ATOMIC_RELAXED);
		__atomic_store_n(&steps->done[index], step + 1, __ATOMIC_RELEASE);
		/* Who does not see that yet has written what the next step reads. */
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
	}
}
