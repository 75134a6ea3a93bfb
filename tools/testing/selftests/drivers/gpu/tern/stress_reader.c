// SPDX-License-Identifier: GPL-2.0
/*
 * Threads that only look at memory, wherever operations are at, so that faults of the CPU run
 * into what the owners of the regions do. They change no word, and tell by what a word holds
 * alone whether it may be there: it names the region, its place in the page and who wrote it.
 */
#include <semaphore.h>
#include <setjmp.h>

#include "stress.h"

#define MAX_READERS 2U
/* Looks that each operation lets each thread take. */
#define LOOKS_GRANTED 32

struct reader {
	struct round *round;
	pthread_t thread;
	unsigned long random, looks, refused;
};

static struct reader readers[MAX_READERS];
static unsigned int nr_readers;
static sem_t granted;
static bool ended;

/* Where this thread looks, and goes on if it may not. */
static __thread unsigned long *looks_at;
static __thread sigjmp_buf refusal;

static void handle_segv(int signal, siginfo_t *info, void *context)
{
	struct sigaction action = { .sa_handler = SIG_DFL };

	(void)context;
	if (looks_at && info->si_addr == looks_at)
		siglongjmp(refusal, 1);
	/* The access is made again, and ends the process. */
	sigaction(signal, &action, NULL);
}

/*
 * Whether the word at @p can be read; with @write, what is there is written again, as far as the
 * memory is concerned: it is compared with what is written in its place, which always needs
 * write access on x86.
 */
static bool read_word(unsigned long *p, bool write, unsigned long *value)
{
	if (sigsetjmp(refusal, 0)) {
		looks_at = NULL;
		return false;
	}
	looks_at = p;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	*value = 0;
	if (write)
		__atomic_compare_exchange_n(p, value, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	else
		*value = __atomic_load_n(p, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	looks_at = NULL;
	return true;
}

/* What @odd has to be multiplied with for 1. */
static unsigned long inverse(unsigned long odd)
{
	unsigned long x = odd;

	for (int i = 0; i < 5; i++)
		x *= 2 - odd * x;
	return x;
}

/* Whether somebody may have written @value to @word with a stamp. */
static bool has_stamp(const struct region *r, unsigned int word, unsigned long value)
{
	unsigned long stamp = value * inverse(STAMP_FACTOR) - word;

	if (!value)
		return true;
	if (stamp % STAMP_STEP)
		return false;
	if (stamp >= STAMP_FILE)
		return (stamp - STAMP_FILE) / STAMP_STEP < 2 * r->nr_pages;
	return stamp > STAMP_REGION(r->id) &&
	       stamp <= __atomic_load_n(&r->last_stamp, __ATOMIC_RELAXED);
}

/* Whether the device may have written @value to @word. */
static bool has_tag(const struct region *r, unsigned int word, unsigned long value)
{
	unsigned long tag = (value - 1) * inverse(TERN_TAG(0, 0, 1) - 1);

	return word % TERN_STEP_WORDS == 0 && (tag >> 8) % 256 == word / TERN_STEP_WORDS &&
	       tag >> 16 > (unsigned long)r->id << 32 &&
	       tag >> 16 <= __atomic_load_n(&r->job, __ATOMIC_RELAXED);
}

/* A page of the region that an operation is under way at, or comes to. */
static unsigned int choose_page(struct reader *reader, const struct region *r)
{
	const struct op *op = __atomic_load_n(&r->op, __ATOMIC_ACQUIRE);
	unsigned int page;

	if (!op)
		return below(&reader->random, r->nr_pages);
	page = below(&reader->random, 4) ? op->first : op->to;
	page += below(&reader->random, op->count);
	return page % r->nr_pages;
}

static void look(struct reader *reader)
{
	struct round *round = reader->round;
	struct region *r = &round->regions[below(&reader->random, round->shared->plan.regions)];
	unsigned int page = choose_page(reader, r);
	unsigned int word = below(&reader->random, PAGE_WORDS);
	/* Words of the device are its own to write. */
	bool write = word % TERN_STEP_WORDS && !below(&reader->random, 4);
	unsigned long value;

	reader->looks++;
	if (!read_word(page_at(r, page) + word, write, &value))
		reader->refused++;
	else if (!has_stamp(r, word, value) && !has_tag(r, word, value))
		fail_text(r, "%#lx (page %u, word %u) has %#lx, which nobody has written there",
			  (unsigned long)(page_at(r, page) + word), page, word, value);
}

static void *reader_run(void *arg)
{
	struct reader *reader = arg;

	for (;;) {
		while (sem_wait(&granted))
			;
		if (__atomic_load_n(&ended, __ATOMIC_ACQUIRE))
			return NULL;
		for (int i = 0; i < LOOKS_GRANTED; i++)
			look(reader);
	}
}

/* Starts none, one or two of them. */
void readers_start(struct round *round)
{
	struct sigaction action = {
		.sa_sigaction = handle_segv, .sa_flags = SA_SIGINFO | SA_NODEFER,
	};

	sem_init(&granted, 0, 0);
	sigaction(SIGSEGV, &action, NULL);
	nr_readers = round->shared->plan.seed % (MAX_READERS + 1);
	for (unsigned int i = 0; i < nr_readers; i++) {
		readers[i] = (struct reader){ .round = round, .random = i };
		if (pthread_create(&readers[i].thread, NULL, reader_run, &readers[i]))
			fail_text(&round->regions[0], "no thread: %m");
	}
}

/* An operation begins. */
void readers_grant(void)
{
	for (unsigned int i = 0; i < nr_readers; i++)
		sem_post(&granted);
}

void readers_end(struct report *report)
{
	__atomic_store_n(&ended, true, __ATOMIC_RELEASE);
	readers_grant();
	for (unsigned int i = 0; i < nr_readers; i++) {
		pthread_join(readers[i].thread, NULL);
		report->effects[EFFECT_LOOK] += readers[i].looks;
		report->effects[EFFECT_LOOK_REFUSED] += readers[i].refused;
	}
}
