/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What a Tern kernel includes.
 *
 * A kernel is a plain C function that every thread of a dispatch runs:
 *
 *	TERN_KERNEL void name(struct name_args *args, unsigned long index,
 *			      unsigned long threads)
 *
 * @args is the pointer given to the launch, @index the number of the thread, from
 * 0 to @threads - 1. All pointers are those of the process that launches it. The
 * same source compiles for the CPU, where a caller runs the threads in a loop.
 *
 * For the device, where kernel.cfg is the file beside the directory of this one:
 *
 *	clang --config=PATH/kernel.cfg -o kernel.elf kernel.c
 */
#ifndef TERN_KERNEL_H
#define TERN_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* Keeps the function, under its own name, for the loader to find. */
#define TERN_KERNEL __attribute__((used, visibility("default")))

/* Adds @value to *@p, one indivisible step for all threads and the CPU, and gives what it was. */
#define tern_atomic_add(p, value) __atomic_fetch_add((p), (value), __ATOMIC_RELAXED)

/* Sets *@p to the lesser of itself and @value, in the same way, and gives what it was. */
#define tern_atomic_min(p, value) __atomic_fetch_min((p), (value), __ATOMIC_RELAXED)

#endif /* TERN_KERNEL_H */
