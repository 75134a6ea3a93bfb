// SPDX-License-Identifier: MIT OR Apache-2.0
#include "tern-kernel.h"

/*
 * A pass of a radix sort, from one array to the other: three kernels, one after
 * another. The records are cut into as many blocks of equal length as there are
 * blocks; one thread counts a block and later moves its records in their order, so
 * that records with the same digit stay in order.
 */

#define DIGITS 256

struct radix_args {
	const uint64_t *from;
	uint64_t *to;
	uint64_t count;
	/* The digit of a record is its bits from here. */
	uint64_t shift;
	uint64_t blocks;
	/*
	 * places[digit * blocks + block]: how many records of the block have the digit,
	 * then where the next of them goes.
	 */
	uint64_t *places;
	/* How many records have each digit; 0 at first. */
	uint64_t *totals;
};

static uint64_t digit(const struct radix_args *args, uint64_t record)
{
	return record >> args->shift & (DIGITS - 1);
}

static uint64_t start_of(const struct radix_args *args, uint64_t block)
{
	uint64_t length = (args->count + args->blocks - 1) / args->blocks;
	uint64_t start = block * length;

	return start < args->count ? start : args->count;
}

static void count_block(struct radix_args *args, uint64_t block)
{
	uint64_t *places = args->places + block;
	uint64_t end = start_of(args, block + 1);

	for (uint64_t d = 0; d < DIGITS; d++)
		places[d * args->blocks] = 0;
	for (uint64_t i = start_of(args, block); i < end; i++)
		places[digit(args, args->from[i]) * args->blocks]++;
	for (uint64_t d = 0; d < DIGITS; d++)
		tern_atomic_add(&args->totals[d], places[d * args->blocks]);
}

/* Counts the digits of each block. */
TERN_KERNEL void radix_count(struct radix_args *args, unsigned long index,
			     unsigned long threads)
{
	for (uint64_t block = index; block < args->blocks; block += threads)
		count_block(args, block);
}

/* Turns the counts of each digit into places. */
TERN_KERNEL void radix_place(struct radix_args *args, unsigned long index,
			     unsigned long threads)
{
	for (uint64_t d = index; d < DIGITS; d += threads) {
		uint64_t *places = args->places + d * args->blocks, place = 0;

		for (uint64_t before = 0; before < d; before++)
			place += args->totals[before];
		for (uint64_t block = 0; block < args->blocks; block++) {
			uint64_t count = places[block];

			places[block] = place;
			place += count;
		}
	}
}

/* Moves each record to its place. */
TERN_KERNEL void radix_move(struct radix_args *args, unsigned long index,
			    unsigned long threads)
{
	for (uint64_t block = index; block < args->blocks; block += threads) {
		uint64_t *places = args->places + block;
		uint64_t end = start_of(args, block + 1);

		for (uint64_t i = start_of(args, block); i < end; i++) {
			uint64_t record = args->from[i];

			args->to[places[digit(args, record) * args->blocks]++] = record;
		}
	}
}
