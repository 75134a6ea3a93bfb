// SPDX-License-Identifier: MIT OR Apache-2.0
/* What the tests of the library have the device do, for the device only. */
#include "tern-kernel.h"

#include "library.h"

#define UNUSED __attribute__((unused))
#define KERNEL(name) \
	TERN_KERNEL void name(UNUSED struct library_args *args, UNUSED unsigned long index, \
			      UNUSED unsigned long threads)

/* out[i] = value + i, in thread i */
KERNEL(store)
{
	args->out[index] = args->value + index;
}

/* out[i] = in[i], in thread i */
KERNEL(copy)
{
	args->out[index] = args->in[index];
}

/* Until *in is not 0; then *out = *in + value. */
KERNEL(await)
{
	uint64_t in;

	do
		in = __atomic_load_n(args->in, __ATOMIC_ACQUIRE);
	while (!in);
	*args->out = in + args->value;
}

/* Adds one to *out again and again until *in is not 0. */
KERNEL(count)
{
	while (!__atomic_load_n(args->in, __ATOMIC_ACQUIRE))
		tern_atomic_add(args->out, 1);
}

/* Without an end. */
KERNEL(forever)
{
	for (;;)
		__asm__ volatile("");
}

/* *out += value, atomically */
KERNEL(add)
{
	tern_atomic_add(args->out, args->value);
}

/* Calls in. */
KERNEL(jump)
{
	((void (*)(void))args->in)();
}

/* Its first instruction does not exist. */
__attribute__((naked)) KERNEL(illegal)
{
	__asm__(".4byte 0");
}

/* out[i] = sum of numbers kept in LIBRARY_STACK bytes of stack, in thread i */
KERNEL(deep)
{
	volatile uint64_t kept[LIBRARY_STACK / sizeof(uint64_t)];
	uint64_t sum = 0;

	for (uint64_t i = 0; i < LIBRARY_STACK / sizeof(uint64_t); i++)
		kept[i] = index + i;
	for (uint64_t i = 0; i < LIBRARY_STACK / sizeof(uint64_t); i++)
		sum += kept[i];
	args->out[index] = sum;
}
