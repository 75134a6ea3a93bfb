/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A stress test of shared virtual memory: threads of the device read and write memory while
 * threads of the CPU change how it is mapped, and a shadow copy says what it must hold.
 *
 * stress.c         the program: options, rounds in child processes, what is reported
 * stress_shrink.c  makes the trace of a failure small
 * stress_plan.c    the operations of a round: made from a seed, printed, read
 * stress_system.c  settings of the kernel and the memory cgroup
 * stress_round.c   runs a plan in the process that calls it
 * stress_ops.c     the operations
 * stress_shadow.c  the shadow copy
 * stress_reader.c  threads that look at what the operations are at
 * stress_effect.c  whether the operations of a run came to something
 */
#ifndef STRESS_H
#define STRESS_H

#include <pthread.h>
#include <stdbool.h>

#include "kselftest.h"
#include "tern_test.h"

#define LANES TERN_STEP_THREADS
#define PAGE_WORDS WORDS(PAGE)
#define HUGE_PAGES (HUGE_PAGE / PAGE)

#define MAX_REGIONS 16
#define MAX_PAGES 8192U
#define MAX_OPS 16384
#define MAX_DOUBTS 16384
#define MAX_CHILDREN 2

/* Plan ---------------------------------------------------------------------------------- */

enum op_kind {
	OP_MAP, OP_UNMAP, OP_MOVE, OP_MOVE_MANY, OP_GROW, OP_SHRINK, OP_PROTECT,
	OP_DONTNEED, OP_FREE, OP_HUGE, OP_NOHUGE, OP_COLLAPSE, OP_PAGEOUT, OP_SAME,
	OP_FORK, OP_REAP, OP_WP, OP_UNWP, OP_COMPACT, OP_NODE, OP_LIMIT, OP_PREFETCH, OP_EVICT,
	OP_WRITE, OP_CHECK, OP_GPU,
	/* Only to test this program: a word is spoiled, the process crashes, or hangs. */
	OP_SPOIL, OP_CRASH, OP_HANG,
	NR_OPS
};

enum op_state { OP_AHEAD, OP_BEGUN, OP_DONE };

/* Pages are counted from the start of a region. What @to and @arg are depends on the kind. */
struct op {
	unsigned char region;
	unsigned char kind;
	unsigned char state;
	unsigned int first;
	unsigned int count;
	unsigned int to;
	unsigned int arg;
};

/* What a round does: all of it follows from the seed and the numbers here. */
struct plan {
	unsigned long seed;
	unsigned int regions;
	/* Pages of a region. */
	unsigned int pages;
	/* Sizes of huge pages that regions may get; bit n: 4 KiB << n. */
	unsigned int sizes;
	unsigned int nr_ops;
	struct op ops[MAX_OPS];
};

/* What a run of many operations must bring about. */
enum effect {
	EFFECT_TO_DEVICE_HUGE, EFFECT_TO_DEVICE_MID, EFFECT_TO_DEVICE_SMALL,
	EFFECT_TO_SYSTEM_HUGE, EFFECT_TO_SYSTEM_MID, EFFECT_TO_SYSTEM_SMALL,
	EFFECT_EVICT_HUGE, EFFECT_EVICT_MID, EFFECT_EVICT_SMALL,
	EFFECT_MAPPED, EFFECT_CPU_FAULT, EFFECT_CANCEL, EFFECT_LOOK, EFFECT_LOOK_REFUSED,
	EFFECT_WP, EFFECT_NODE, EFFECT_NOHUGE, EFFECT_HUGE, EFFECT_COLLAPSE,
	EFFECT_SWAP_OUT, EFFECT_SWAP_IN, EFFECT_SAME, EFFECT_COMPACT, EFFECT_LIMIT,
	NR_EFFECTS
};

/* How a round went, in memory that it shares with all that watch it. */
struct report {
	/* Goes up with each operation; what stands still is taken to hang. */
	unsigned long beats;
	unsigned int failed;
	char text[512];
	/* Totals of a round that went well. */
	unsigned long steps, refused, to_device, to_system;
	unsigned long effects[NR_EFFECTS];
};

struct shared {
	struct report report;
	struct plan plan;
};

static inline unsigned long next_random(unsigned long *state)
{
	unsigned long x = *state += 0x9e3779b97f4a7c15UL;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9UL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebUL;
	return x ^ x >> 31;
}

static inline unsigned int below(unsigned long *state, unsigned int limit)
{
	return (next_random(state) >> 32) * limit >> 32;
}

void plan_make(struct plan *plan, unsigned int ops_per_region);
void plan_print(FILE *out, const struct plan *plan, const char *indent, bool with_state);
int plan_read(FILE *in, struct plan *plan);
void plan_drop(struct plan *plan, unsigned int first, unsigned int count);

/* Shadow -------------------------------------------------------------------------------- */

/*
 * A page's words are numbered through from a stamp, and scrambled. The CPU writes a page with a
 * stamp of its own, the device single words with tags. The base is what a page holds that nobody
 * has written: zeros, which is stamp 0, or a page of a file.
 */
#define STAMP_STEP 1024UL
#define STAMP_FILE 0x4000000000000000UL
#define STAMP_REGION(id) (((id) + 1UL) << 48)

#define STAMP_FACTOR 0xd6e8feb86659fd93UL

static inline unsigned long stamp_word(unsigned long stamp, unsigned int word)
{
	return stamp ? (stamp + word) * STAMP_FACTOR : 0;
}

struct shadow {
	unsigned long stamp;
	unsigned long base;
	/* What the device's words hold: see TERN_STEP_WORDS. */
	unsigned long own[LANES];
	/* Of those, which may hold the base, and whether the CPU's words may. */
	unsigned long own_maybe_base;
	bool maybe_base;
	/* MADV_FREE: the kernel may give it its base again until it is written. */
	bool may_drop;
	bool mapped;
	/* There is a struct doubt. */
	bool doubted;
	unsigned char protection;
	/* Accesses that were refused at some time since the job began, as PROT_ flags. */
	unsigned char refused;
};

/* Another value that a word of the device may hold. */
struct doubt {
	unsigned int page;
	unsigned int lane;
	unsigned long value;
};

/* What a step may have found before a change that it ran into. */
#define MAX_STALE 12

struct lane {
	/* The first step that the shadow does not know yet. */
	unsigned int next;
	/* A step that was under way during a change; TERN_STEPS: none. */
	unsigned int loose;
	bool loose_words;
	unsigned char protection;
	unsigned int nr_own, nr_other;
	unsigned long own[MAX_STALE], other[MAX_STALE];
};

/* What an operation changes of the pages that it names. */
#define CHANGES_RIGHTS 1
#define CHANGES_CPU_WORDS 2
#define CHANGES_WORDS 4

struct page_span {
	unsigned int first, count;
};

struct child {
	pid_t pid;
	/* Shared with the child: what it may do, and which steps ran during fork(). */
	struct child_control {
		unsigned int go;
		unsigned int to[LANES];
	} *control;
};

struct round;

struct region {
	struct round *round;
	unsigned int id, nr_pages;
	char *base;
	struct shadow *pages;
	struct doubt *doubts;
	unsigned int nr_doubts;
	unsigned long last_stamp;
	unsigned long *copy;
	struct child children[MAX_CHILDREN];
	struct op *op;
	/* The last one, which is no part of the plan. */
	struct op end;

	/* The job: a dispatch of kernel "steps". */
	struct tern_queue queue;
	struct tern_steps *steps;
	/* A copy of what it has to do, for children. */
	unsigned int (*todo)[LANES];
	unsigned long job;
	bool running;
	struct lane lanes[LANES];
	/* Steps that may have run during the operation: from lane.next up to and with these. */
	unsigned int to[LANES];
	/* How these fitted the shadow before a change. */
	unsigned char (*well)[LANES];
	unsigned long nr_steps, nr_refused;
};

struct round {
	struct tern t;
	struct shared *shared;
	int file, uffd, maps;
	unsigned int nodes;
	const char *cgroup;
	struct region regions[MAX_REGIONS];
	pthread_t uffd_thread;
};

/* Whether @page is one of @span. */
static inline bool span_has(struct page_span span, unsigned int page)
{
	return page - span.first < span.count;
}

static inline unsigned long *page_at(const struct region *r, unsigned int page)
{
	return (unsigned long *)(r->base + page * PAGE);
}

static inline bool readable(const struct shadow *page)
{
	return page->mapped && page->protection & PROT_READ;
}

static inline bool writable(const struct shadow *page)
{
	return page->mapped && page->protection & PROT_WRITE;
}

void shadow_enter(struct region *r);
void shadow_leave(struct region *r);
void shadow_begin_change(struct region *r, struct page_span span, struct page_span other,
			 int changes);
void shadow_end_change(struct region *r, struct page_span span, struct page_span other,
		       int changes);
void shadow_snapshot(struct region *r, struct page_span span);
void shadow_check(struct region *r, struct page_span span, const unsigned long *copy);

void shadow_map(struct region *r, struct page_span span, unsigned long base);
void shadow_unmap(struct region *r, struct page_span span);
void shadow_to_base(struct region *r, struct page_span span);
void shadow_move(struct region *r, struct page_span from, unsigned int to, bool keep);
void shadow_written(struct region *r, unsigned int page, unsigned long stamp, bool all);
void shadow_free(struct region *r, struct page_span span);

void job_start(struct region *r, struct page_span span, unsigned long seed);
void job_poll(struct region *r);
void job_end(struct region *r);

/* Reports what was found in place of what was expected at a word, and ends the process. */
void __noreturn fail(struct region *r, unsigned int page, unsigned int word, unsigned long found,
		     unsigned long expected, const char *what);
/* The same for what is not about a word. */
void __noreturn __printf(2, 3) fail_text(struct region *r, const char *format, ...);

/* Operations, rounds, settings ------------------------------------------------------------ */

struct op_type {
	const char *name;
	/* How often it is chosen. */
	unsigned int weight;
};

extern const struct op_type op_types[NR_OPS];

void op_run(struct region *r, struct op *op);
void check_span(struct region *r, struct page_span span);

void __noreturn round_run(struct shared *shared, const char *cgroup);

void readers_start(struct round *round);
void readers_grant(void);
void readers_end(struct report *report);

static inline void count_effect(struct region *r, enum effect which, unsigned long count)
{
	__atomic_fetch_add(&r->round->shared->report.effects[which], count, __ATOMIC_RELAXED);
}

#define CGROUP TERN_CGROUPS "/tern-stress"

void system_prepare(void);
void system_restore(void);
const char *system_cgroup(void);
unsigned int system_sizes(void);
void system_set_sizes(unsigned int sizes);
bool system_write(const char *path, const char *value);
bool system_enter_cgroup(void);
unsigned long system_left_bytes(void);
bool system_remove_cgroup(void);
bool system_evicts(void);
int system_evict(void);
extern char system_device_stats[];

void effects_begin(void);
void effects_add_round(const struct shared *shared);
bool effects_end(void);
void effects_missing(char *text, size_t size);

/* A failure's trace with as few operations as can be found within @seconds. */
unsigned int shrink(struct plan *plan, bool (*fails)(const struct plan *plan), time_t seconds);

#endif /* STRESS_H */
