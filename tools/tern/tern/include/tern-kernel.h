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
 * For the device:
 *
 *	clang --target=riscv64 -march=rv64gc -mabi=lp64d -mcmodel=medany -mno-relax \
 *		-O2 -ffreestanding -fpie -fvisibility=hidden -ffp-contract=off \
 *		-nostdlib -fuse-ld=lld -Wl,-pie -Wl,-e,0 -Wl,-z,defs -o kernel.elf kernel.c
 *
 * -ffp-contract=off keeps a product and a sum apart, so that floating-point results
 * are equal on the CPU and on the device, bit for bit.
 */
#ifndef TERN_KERNEL_H
#define TERN_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* Keeps the function, under its own name, for the loader to find. */
#define TERN_KERNEL __attribute__((used, visibility("default")))

/* Adds @value to *@p, one indivisible step for all threads and the CPU. */
#define tern_atomic_add(p, value) __atomic_fetch_add((p), (value), __ATOMIC_RELAXED)

#endif /* TERN_KERNEL_H */
