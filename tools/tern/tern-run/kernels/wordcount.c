// SPDX-License-Identifier: MIT OR Apache-2.0
#include "tern-kernel.h"

/* A part of a text: the bytes from @start to before @end. */
struct chunk {
	const unsigned char *text;
	uint64_t start;
	uint64_t end;
};

struct count {
	uint32_t words;
	uint32_t lines;
};

struct wordcount_args {
	const struct chunk *chunks;
	struct count *counts;
	uint64_t chunk_count;
	/* Sums over all chunks. */
	uint64_t words;
	uint64_t lines;
};

static int is_space(unsigned char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A word is counted where it starts, so that one across two chunks counts once. */
static struct count count_chunk(const struct chunk *chunk)
{
	struct count count = { 0, 0 };
	int space = chunk->start == 0 || is_space(chunk->text[chunk->start - 1]);

	for (uint64_t i = chunk->start; i < chunk->end; i++) {
		unsigned char c = chunk->text[i];
		int was_space = space;

		space = is_space(c);
		count.words += was_space && !space;
		count.lines += c == '\n';
	}
	return count;
}

TERN_KERNEL void wordcount(struct wordcount_args *args, unsigned long index,
			   unsigned long threads)
{
	uint64_t words = 0, lines = 0;

	for (uint64_t i = index; i < args->chunk_count; i += threads) {
		struct count count = count_chunk(&args->chunks[i]);

		args->counts[i] = count;
		words += count.words;
		lines += count.lines;
	}
	tern_atomic_add(&args->words, words);
	tern_atomic_add(&args->lines, lines);
}
