// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Runs every kernel on the same input and writes all results to standard output. Built for the
 * machine that runs the tests and for RISC-V, where there is no C library.
 */
#include "../kernels/bfs.c"
#include "../kernels/gemm.c"
#include "../kernels/hashmap.c"
#include "../kernels/list.c"
#include "../kernels/pingpong.c"
#include "../kernels/radix.c"
#include "../kernels/triad.c"
#include "../kernels/wordcount.c"

#define COUNT 1000
#define N 19
#define CHUNKS 37
#define THREADS 7
#define LISTS 5
#define BUCKETS_SHIFT 59
#define BLOCKS 9

static struct {
	double triad[COUNT];
	float gemm[N * N];
	struct count counts[CHUNKS];
	uint64_t words, lines;
	uint64_t pingpong[COUNT];
	uint32_t levels[COUNT];
	uint64_t reached;
	uint64_t records[COUNT];
	uint64_t positions[COUNT];
	uint64_t sums[LISTS];
	uint64_t found[COUNT];
	uint64_t hits[COUNT];
} results;

static double b[COUNT], c[COUNT];
static float left[N * N], right[N * N];
static unsigned char text[CHUNKS * 100];
static struct chunk chunks[CHUNKS];
static uint64_t offsets[COUNT + 1];
static uint32_t edges[4 * COUNT], frontiers[2][COUNT];
static uint64_t unsorted[COUNT], places[DIGITS * BLOCKS], totals[DIGITS];
static struct node nodes[COUNT];
static struct list lists[LISTS];
static struct entry entries[COUNT], *buckets[1 << (64 - BUCKETS_SHIFT)];
static uint64_t keys[COUNT];

/* A generator of numbers that are the same on every machine. */
static uint32_t next(void)
{
	static uint64_t state = 1;

	state = state * 6364136223846793005u + 1442695040888963407u;
	return state >> 33;
}

static void fill(void)
{
	for (int i = 0; i < COUNT; i++) {
		b[i] = next() / 3.0;
		c[i] = (int32_t)next() / 7.0;
		results.pingpong[i] = next();
	}
	for (int i = 0; i < N * N; i++) {
		left[i] = next() / 1e9f;
		right[i] = next() / 1e9f - 1;
	}
	for (int i = 0; i < COUNT; i++)
		unsorted[i] = (uint64_t)next() << 32 | next();
	for (unsigned int i = 0; i < sizeof(text); i++)
		text[i] = "abc \n\tx"[next() % 7];
	for (uint64_t i = 0; i < CHUNKS; i++)
		chunks[i] = (struct chunk){ text, i * 100, i * 100 + 100 };
}

/* Nodes with up to four edges each; the first one is the start. */
static void fill_graph(void)
{
	for (int i = 0; i < COUNT; i++) {
		offsets[i + 1] = offsets[i] + (i ? next() % 4 : 4);
		for (uint64_t edge = offsets[i]; edge < offsets[i + 1]; edge++)
			edges[edge] = next() % COUNT;
		results.levels[i] = i ? UINT32_MAX : 0;
	}
}

/* The nodes go to the lists by turns, the entries to the buckets where they belong. */
static void fill_chains(const struct hashmap_args *map)
{
	for (int i = 0; i < COUNT; i++) {
		struct list *list = &lists[i % LISTS];
		struct entry **first;

		nodes[i] = (struct node){ list->head, next(), 0 };
		list->head = &nodes[i];
		keys[i] = next() % COUNT;
		entries[i] = (struct entry){ NULL, next() % COUNT, next(), 0 };
		first = &buckets[bucket(map, entries[i].key)];
		entries[i].next = *first;
		*first = &entries[i];
	}
}

static void search(void)
{
	struct bfs_args args = { offsets, edges, results.levels, NULL, NULL, 1, 0, 1 };

	for (; args.count; args.level++) {
		args.frontier = frontiers[args.level % 2];
		args.next = frontiers[(args.level + 1) % 2];
		args.next_count = 0;
		for (unsigned long i = 0; i < THREADS; i++)
			bfs(&args, i, THREADS);
		results.reached += args.next_count;
		args.count = args.next_count;
	}
}

static void sort(void)
{
	struct radix_args args = { unsorted, results.records, COUNT, 16, BLOCKS, places, totals };

	for (unsigned long i = 0; i < THREADS; i++)
		radix_count(&args, i, THREADS);
	for (unsigned long i = 0; i < THREADS; i++)
		radix_place(&args, i, THREADS);
	for (unsigned long i = 0; i < THREADS; i++)
		radix_move(&args, i, THREADS);
}

static void follow(void)
{
	struct hashmap_args map = { buckets, BUCKETS_SHIFT, keys, results.found, COUNT };
	struct list_args args = { lists, LISTS };

	fill_chains(&map);
	for (unsigned long i = 0; i < THREADS; i++) {
		hashmap(&map, i, THREADS);
		list(&args, i, THREADS);
	}
	for (int i = 0; i < COUNT; i++) {
		results.positions[i] = nodes[i].position;
		results.hits[i] = entries[i].hits;
	}
	for (int i = 0; i < LISTS; i++)
		results.sums[i] = lists[i].sum + lists[i].nodes;
}

static void run(void)
{
	struct triad_args triad_args = { results.triad, b, c, 1.1, COUNT };
	struct gemm_args gemm_args = { results.gemm, left, right, N, N };
	struct wordcount_args wordcount_args = { chunks, results.counts, CHUNKS, 0, 0 };
	struct pingpong_args pingpong_args = { results.pingpong, COUNT, 0x123456789 };

	fill();
	for (unsigned long i = 0; i < THREADS; i++) {
		triad(&triad_args, i, THREADS);
		gemm(&gemm_args, i, THREADS);
		wordcount(&wordcount_args, i, THREADS);
		pingpong(&pingpong_args, i, THREADS);
	}
	results.words = wordcount_args.words;
	results.lines = wordcount_args.lines;
	fill_graph();
	search();
	sort();
	follow();
}

#ifdef __riscv
static long call(long number, long x, const void *y, long z)
{
	register long a7 asm("a7") = number;
	register long a0 asm("a0") = x;
	register long a1 asm("a1") = (long)y;
	register long a2 asm("a2") = z;

	asm volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2) : "memory");
	return a0;
}

__attribute__((used)) void start(void)
{
	run();
	/* write(1, ...), exit(...) */
	call(93, call(64, 1, &results, sizeof(results)) != sizeof(results), 0, 0);
}

asm(".globl _start\n_start:\n\tandi sp, sp, -16\n\tcall start\n");
#else
#include <unistd.h>

int main(void)
{
	run();
	return write(1, &results, sizeof(results)) != sizeof(results);
}
#endif
