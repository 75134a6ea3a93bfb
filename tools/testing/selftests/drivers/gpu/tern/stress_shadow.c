// SPDX-License-Identifier: GPL-2.0
/*
 * The shadow copy: what each word of a region must hold.
 *
 * A region is changed by one thread of the CPU only, so that its words are known exactly. A word
 * of the device is written by one thread of the device, which tells how many steps it has done.
 * A step that had been done when an operation began comes before it, one that began when it had
 * ended comes after. Of those between, a page that the operation changes may have seen either
 * order. Their words then may hold more than one value, until they are written or looked at
 * again. All other words hold one.
 */
#include <sched.h>
#include <stdarg.h>

#include "stress.h"

/* What is as it has to be about a step. */
#define READS_WELL 1
#define WRITES_WELL 2
#define OWN_WELL 4
#define OTHER_WELL 8
/* It may have seen the words from before a change. Not what is as it has to be. */
#define MAYBE_BEFORE 16

/* A round may run for as long as it takes; the program's own limit ends it. */
#define JOB_TIMEOUT_MS 600000
/* Steps that each operation lets the device do. */
#define STEPS_GRANTED 12

static void fail_with(struct region *r, const char *text)
{
	struct report *report = &r->round->shared->report;
	const struct op *op = __atomic_load_n(&r->op, __ATOMIC_ACQUIRE);
	unsigned int none = 0;

	if (__atomic_compare_exchange_n(&report->failed, &none, 1, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE)) {
		snprintf(report->text, sizeof(report->text), "region %u, %s: %s", r->id,
			 op && op != &r->end ? op_types[op->kind].name : "end", text);
		__atomic_store_n(&report->failed, 2, __ATOMIC_RELEASE);
	}
	while (__atomic_load_n(&report->failed, __ATOMIC_ACQUIRE) != 2)
		sched_yield();
	_exit(1);
}

void fail_text(struct region *r, const char *format, ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fail_with(r, text);
	__builtin_unreachable();
}

void fail(struct region *r, unsigned int page, unsigned int word, unsigned long found,
	  unsigned long expected, const char *what)
{
	fail_text(r, "%s: %#lx (page %u, word %u): found %#lx, expected %#lx", what,
		  (unsigned long)(page_at(r, page) + word), page, word, found, expected);
}

/* Words ---------------------------------------------------------------------------------- */

static unsigned int own_word(unsigned int lane)
{
	return lane * TERN_STEP_WORDS;
}

static unsigned long base_of(const struct shadow *page, unsigned int word)
{
	return stamp_word(page->base, word);
}

static void add_doubt(struct region *r, unsigned int page, unsigned int lane, unsigned long value)
{
	if (r->nr_doubts == MAX_DOUBTS)
		fail_text(r, "this program has no room for more doubts");
	r->doubts[r->nr_doubts++] = (struct doubt){ page, lane, value };
	r->pages[page].doubted = true;
}

/* Forgets the doubts about pages of @span, of one lane or of all (LANES). */
static void drop_doubts(struct region *r, struct page_span span, unsigned int lane)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < r->nr_doubts; i++) {
		struct doubt doubt = r->doubts[i];

		if (!span_has(span, doubt.page) || (lane != LANES && lane != doubt.lane))
			r->doubts[kept++] = doubt;
	}
	r->nr_doubts = kept;
	if (lane != LANES)
		return;
	for (unsigned int i = 0; i < span.count; i++)
		r->pages[span.first + i].doubted = false;
}

static bool is_doubt(const struct region *r, unsigned int page, unsigned int lane,
		     unsigned long value)
{
	if (!r->pages[page].doubted)
		return false;
	for (unsigned int i = 0; i < r->nr_doubts; i++) {
		const struct doubt *doubt = &r->doubts[i];

		if (doubt->page == page && doubt->lane == lane && doubt->value == value)
			return true;
	}
	return false;
}

/* Whether the own word of @lane may hold @value. */
static bool own_may_be(const struct region *r, unsigned int page, unsigned int lane,
		       unsigned long value)
{
	const struct shadow *shadow = &r->pages[page];

	return value == shadow->own[lane] || is_doubt(r, page, lane, value) ||
	       (shadow->own_maybe_base >> lane & 1 && value == base_of(shadow, own_word(lane)));
}

static void set_own(struct region *r, unsigned int page, unsigned int lane, unsigned long value)
{
	struct shadow *shadow = &r->pages[page];

	shadow->own[lane] = value;
	shadow->own_maybe_base &= ~(1UL << lane);
	if (shadow->doubted)
		drop_doubts(r, (struct page_span){ page, 1 }, lane);
}

/* An own word was seen to hold @value, and nobody has written it since. */
static void observe_own(struct region *r, unsigned int page, unsigned int lane,
			unsigned long value)
{
	struct shadow *shadow = &r->pages[page];
	unsigned long maybe_base = shadow->own_maybe_base;

	set_own(r, page, lane, value);
	if (shadow->may_drop)
		shadow->own_maybe_base = maybe_base;
}

static bool other_may_be(const struct shadow *page, unsigned int word, unsigned long value)
{
	return value == stamp_word(page->stamp, word) ||
	       (page->maybe_base && value == base_of(page, word));
}

static unsigned char rights_refused(const struct shadow *page)
{
	return page->mapped ? ~page->protection & (PROT_READ | PROT_WRITE) :
			      PROT_READ | PROT_WRITE;
}

/* Steps ---------------------------------------------------------------------------------- */

struct gpu_step {
	unsigned int lane, index;
	unsigned int page;
	bool writes;
};

static struct gpu_step get_step(const struct region *r, unsigned int lane, unsigned int index)
{
	unsigned int todo = r->todo[index][lane];

	return (struct gpu_step){ lane, index, todo >> 1, todo & TERN_STEP_WRITES };
}

static unsigned int other_word(struct gpu_step step)
{
	return own_word(step.lane) + TERN_STEP_OTHER(step.index);
}

static unsigned long step_tag(const struct region *r, struct gpu_step step)
{
	return TERN_TAG(r->job, step.lane, step.index);
}

/* What of a step that was done fits the shadow as it is. */
static int judge(const struct region *r, struct gpu_step step)
{
	const struct shadow *page = &r->pages[step.page];
	unsigned long own = r->steps->saw[step.index][step.lane].own;
	unsigned long other = r->steps->saw[step.index][step.lane].other;
	int well = 0;

	if (readable(page))
		well |= READS_WELL;
	if (!step.writes || writable(page))
		well |= WRITES_WELL;
	if (page->mapped && own_may_be(r, step.page, step.lane, own))
		well |= OWN_WELL;
	if (page->mapped && other_may_be(page, other_word(step), other))
		well |= OTHER_WELL;
	return well;
}

static bool among(const unsigned long *values, unsigned int count, unsigned long value)
{
	for (unsigned int i = 0; i < count; i++) {
		if (values[i] == value)
			return true;
	}
	return false;
}

/* What fits of a step that was under way during changes: how it was before them is right too. */
static int judge_loose(const struct region *r, struct gpu_step step)
{
	const struct lane *lane = &r->lanes[step.lane];
	int well = 0;

	if (lane->protection & PROT_READ)
		well |= READS_WELL;
	if (lane->protection & PROT_WRITE)
		well |= WRITES_WELL;
	if (among(lane->own, lane->nr_own, r->steps->saw[step.index][step.lane].own))
		well |= OWN_WELL;
	if (among(lane->other, lane->nr_other, r->steps->saw[step.index][step.lane].other))
		well |= OTHER_WELL;
	return well;
}

/* Whether a step was under way when a change ended that the shadow has followed since. */
static bool is_loose(const struct region *r, struct gpu_step step)
{
	return r->lanes[step.lane].loose == step.index;
}

/* What of a step that was done fits the shadow as it is, or as it was when the step began. */
static int judge_all(const struct region *r, struct gpu_step step)
{
	return judge(r, step) | (is_loose(r, step) ? judge_loose(r, step) : 0);
}

/* Whether a step that was done may have gone to words that are no longer there. */
static bool may_be_before(const struct region *r, struct gpu_step step)
{
	return is_loose(r, step) && r->lanes[step.lane].loose_words;
}

static void require_well(struct region *r, struct gpu_step step, int well)
{
	const struct shadow *page = &r->pages[step.page];

	r->nr_steps++;
	if (!(well & READS_WELL))
		fail_text(r, "the device reads page %u, which it may not", step.page);
	if (!(well & WRITES_WELL))
		fail_text(r, "the device writes page %u, which it may not", step.page);
	if (!(well & OWN_WELL))
		fail(r, step.page, own_word(step.lane), r->steps->saw[step.index][step.lane].own,
		     page->own[step.lane], "read by the device that wrote it");
	if (!(well & OTHER_WELL))
		fail(r, step.page, other_word(step), r->steps->saw[step.index][step.lane].other,
		     stamp_word(page->stamp, other_word(step)), "read by the device");
}

/* A step may have written its own word, or may have written it to what was there before. */
static void doubt_write(struct region *r, struct gpu_step step)
{
	if (step.writes && writable(&r->pages[step.page]) &&
	    !is_doubt(r, step.page, step.lane, step_tag(r, step)))
		add_doubt(r, step.page, step.lane, step_tag(r, step));
}

/* A step that was done has left its own word as it is now, unless that may be another one. */
static void settle(struct region *r, struct gpu_step step, bool maybe_before)
{
	if (maybe_before)
		doubt_write(r, step);
	else if (step.writes)
		set_own(r, step.page, step.lane, step_tag(r, step));
	else
		observe_own(r, step.page, step.lane, r->steps->saw[step.index][step.lane].own);
}

/* Takes note of a step that no change ran into since it was done. */
static void account(struct region *r, struct gpu_step step)
{
	require_well(r, step, judge_all(r, step));
	settle(r, step, may_be_before(r, step));
}

static unsigned int steps_done(const struct region *r, unsigned int lane)
{
	return __atomic_load_n(&r->steps->done[lane], __ATOMIC_ACQUIRE);
}

static void account_done(struct region *r)
{
	for (unsigned int lane = 0; lane < LANES; lane++) {
		unsigned int done = steps_done(r, lane);

		while (r->lanes[lane].next < done) {
			account(r, get_step(r, lane, r->lanes[lane].next));
			r->lanes[lane].next++;
		}
	}
}

/* An operation begins: knows what the device has done before it, and lets it do more. */
void shadow_enter(struct region *r)
{
	if (!r->running)
		return;
	account_done(r);
	__atomic_store_n(&r->steps->limit, r->steps->limit + STEPS_GRANTED, __ATOMIC_RELEASE);
}

/* An operation has ended: notes which steps may have run during it. */
void shadow_leave(struct region *r)
{
	if (!r->running)
		return;
	/* Steps that are not noted see what the operation wrote. The device does the same. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (unsigned int lane = 0; lane < LANES; lane++)
		r->to[lane] = steps_done(r, lane);
}

/* Whether step @index, which is not done, may have begun. */
static bool may_be_under_way(const struct region *r, unsigned int index)
{
	return index < TERN_STEPS && index < r->steps->limit;
}

static void note_value(struct region *r, unsigned long *values, unsigned int *count,
		       unsigned long value)
{
	if (among(values, *count, value))
		return;
	if (*count == MAX_STALE)
		fail_text(r, "this program has no room for more values of a step");
	values[(*count)++] = value;
}

/* Notes what a step that is under way may find as long as a change has not been made. */
static void note_loose(struct region *r, struct gpu_step step, int changes)
{
	const struct shadow *page = &r->pages[step.page];
	struct lane *lane = &r->lanes[step.lane];

	if (lane->loose != step.index) {
		lane->loose = step.index;
		lane->loose_words = false;
		lane->protection = 0;
		lane->nr_own = 0;
		lane->nr_other = 0;
	}
	lane->loose_words |= changes & CHANGES_WORDS;
	if (!page->mapped)
		return;
	lane->protection |= page->protection;
	note_value(r, lane->other, &lane->nr_other, stamp_word(page->stamp, other_word(step)));
	if (page->maybe_base)
		note_value(r, lane->other, &lane->nr_other, base_of(page, other_word(step)));
	note_value(r, lane->own, &lane->nr_own, page->own[step.lane]);
	if (page->own_maybe_base >> step.lane & 1)
		note_value(r, lane->own, &lane->nr_own, base_of(page, own_word(step.lane)));
	for (unsigned int i = 0; page->doubted && i < r->nr_doubts; i++) {
		if (r->doubts[i].page == step.page && r->doubts[i].lane == step.lane)
			note_value(r, lane->own, &lane->nr_own, r->doubts[i].value);
	}
}

/*
 * Is called when an operation has ended but the shadow has not followed it yet. Of pages outside
 * of @span and @other the steps that ran meanwhile are as any.
 */
void shadow_begin_change(struct region *r, struct page_span span, struct page_span other,
			 int changes)
{
	for (unsigned int lane = 0; r->running && lane < LANES; lane++) {
		for (unsigned int i = r->lanes[lane].next; i <= r->to[lane]; i++) {
			struct gpu_step step;

			if (i == r->to[lane] && !may_be_under_way(r, i))
				break;
			step = get_step(r, lane, i);
			if (!span_has(span, step.page) && !span_has(other, step.page)) {
				if (i < r->to[lane])
					account(r, step);
				continue;
			}
			/* The last one is noted in place of one of those before it. */
			if (i == r->to[lane])
				note_loose(r, step, changes);
			else
				r->well[i][lane] = judge_all(r, step) |
					(may_be_before(r, step) ? MAYBE_BEFORE : 0);
			if (changes & CHANGES_WORDS)
				doubt_write(r, step);
		}
	}
}

/* Is called when the shadow has followed. */
void shadow_end_change(struct region *r, struct page_span span, struct page_span other,
		       int changes)
{
	for (unsigned int lane = 0; r->running && lane < LANES; lane++) {
		for (unsigned int i = r->lanes[lane].next; i < r->to[lane]; i++) {
			struct gpu_step step = get_step(r, lane, i);

			if (!span_has(span, step.page) && !span_has(other, step.page))
				continue;
			require_well(r, step, r->well[i][lane] | judge(r, step));
			if (changes & CHANGES_WORDS)
				doubt_write(r, step);
			else
				settle(r, step, r->well[i][lane] & MAYBE_BEFORE);
		}
		r->lanes[lane].next = r->to[lane];
	}
	for (unsigned int page = 0; page < r->nr_pages; page++) {
		if (span_has(span, page) || span_has(other, page))
			r->pages[page].refused |= rights_refused(&r->pages[page]);
	}
}

/* Pages were read during the operation, maybe before the steps that ran meanwhile, maybe after. */
void shadow_snapshot(struct region *r, struct page_span span)
{
	for (unsigned int lane = 0; r->running && lane < LANES; lane++) {
		for (unsigned int i = r->lanes[lane].next; i <= r->to[lane]; i++) {
			if (i == r->to[lane] && !may_be_under_way(r, i))
				break;
			if (span_has(span, r->todo[i][lane] >> 1))
				doubt_write(r, get_step(r, lane, i));
		}
	}
}

/* Changes -------------------------------------------------------------------------------- */

/* Whether the words of the CPU are all as if the page had @stamp. */
static long wrong_word(const unsigned long *copy, unsigned long stamp)
{
	for (unsigned int word = 0; word < PAGE_WORDS; word++) {
		if (word % TERN_STEP_WORDS && copy[word] != stamp_word(stamp, word))
			return word;
	}
	return -1;
}

static void check_cpu_words(struct region *r, unsigned int index, const unsigned long *copy)
{
	struct shadow *page = &r->pages[index];
	long wrong = wrong_word(copy, page->stamp);

	if (wrong < 0) {
		page->maybe_base &= page->may_drop;
		return;
	}
	if (!page->maybe_base || wrong_word(copy, page->base) >= 0)
		fail(r, index, wrong, copy[wrong], stamp_word(page->stamp, wrong),
		     "read by the CPU");
	page->stamp = page->base;
	page->maybe_base = false;
}

static void check_own_words(struct region *r, unsigned int index, const unsigned long *copy)
{
	for (unsigned int lane = 0; lane < LANES; lane++) {
		unsigned long value = copy[own_word(lane)];

		if (!own_may_be(r, index, lane, value))
			fail(r, index, own_word(lane), value, r->pages[index].own[lane],
			     "written by the device, read by the CPU");
		if (!r->running)
			observe_own(r, index, lane, value);
	}
}

/* Compares what was read of the pages of @span that can be read. */
void shadow_check(struct region *r, struct page_span span, const unsigned long *copy)
{
	for (unsigned int i = 0; i < span.count; i++) {
		if (!readable(&r->pages[span.first + i]))
			continue;
		check_cpu_words(r, span.first + i, copy + i * PAGE_WORDS);
		check_own_words(r, span.first + i, copy + i * PAGE_WORDS);
		if (!r->running)
			r->pages[span.first + i].doubted = false;
	}
}

static void set_words(struct shadow *page, unsigned long stamp)
{
	page->stamp = stamp;
	for (unsigned int lane = 0; lane < LANES; lane++)
		page->own[lane] = stamp_word(stamp, own_word(lane));
	page->own_maybe_base = 0;
	page->maybe_base = false;
	page->may_drop = false;
}

/* The pages lose what was written to them. */
void shadow_to_base(struct region *r, struct page_span span)
{
	drop_doubts(r, span, LANES);
	for (unsigned int i = 0; i < span.count; i++)
		set_words(&r->pages[span.first + i], r->pages[span.first + i].base);
}

/* New pages that can be read and written, with @base and what follows it, or 0. */
void shadow_map(struct region *r, struct page_span span, unsigned long base)
{
	for (unsigned int i = 0; i < span.count; i++) {
		struct shadow *page = &r->pages[span.first + i];

		page->mapped = true;
		page->protection = PROT_READ | PROT_WRITE;
		page->base = base ? base + i * STAMP_STEP : 0;
	}
	shadow_to_base(r, span);
}

void shadow_unmap(struct region *r, struct page_span span)
{
	drop_doubts(r, span, LANES);
	for (unsigned int i = 0; i < span.count; i++)
		r->pages[span.first + i].mapped = false;
}

/* What @from has is at @to; with @keep @from stays mapped, with nothing in it. */
void shadow_move(struct region *r, struct page_span from, unsigned int to, bool keep)
{
	drop_doubts(r, (struct page_span){ to, from.count }, LANES);
	for (unsigned int i = 0; i < from.count; i++) {
		unsigned char refused = r->pages[to + i].refused;

		r->pages[to + i] = r->pages[from.first + i];
		r->pages[to + i].refused = refused;
		r->pages[from.first + i].doubted = false;
	}
	for (unsigned int i = 0; i < r->nr_doubts; i++) {
		if (span_has(from, r->doubts[i].page))
			r->doubts[i].page += to - from.first;
	}
	if (keep)
		shadow_to_base(r, from);
	else
		shadow_unmap(r, from);
}

/* The CPU has written its words of a page, and with @all those of the device, with stamps. */
void shadow_written(struct region *r, unsigned int index, unsigned long stamp, bool all)
{
	struct shadow *page = &r->pages[index];

	if (all) {
		drop_doubts(r, (struct page_span){ index, 1 }, LANES);
		set_words(page, stamp);
	}
	page->stamp = stamp;
	page->maybe_base = false;
	page->may_drop = false;
}

/* The pages may at any time get their base again, until they are written. */
void shadow_free(struct region *r, struct page_span span)
{
	for (unsigned int i = 0; i < span.count; i++) {
		struct shadow *page = &r->pages[span.first + i];

		page->own_maybe_base = ~0UL;
		page->maybe_base = true;
		page->may_drop = true;
	}
}

/* Jobs ----------------------------------------------------------------------------------- */

/* How a job goes through its pages. */
enum job_order {
	/* Each thread its own way. */
	JOB_RANDOM,
	/* All threads the same page. */
	JOB_TOGETHER,
	/* All pages at once, one by one. */
	JOB_SPREAD,
	/* As random, but also where nothing is mapped. */
	JOB_BLIND,
	NR_JOB_ORDERS
};

static unsigned int job_page(enum job_order order, struct page_span span, unsigned int lane,
			     unsigned int index, unsigned long *random)
{
	switch (order) {
	case JOB_TOGETHER:
		return span.first + index % span.count;
	case JOB_SPREAD:
		return span.first + (lane * TERN_STEPS + index) % span.count;
	default:
		return span.first + below(random, span.count);
	}
}

/* A page near @page that the device may read; -1 if there is none. */
static long next_readable(const struct region *r, struct page_span span, unsigned int page)
{
	for (unsigned int i = 0; i < span.count; i++) {
		unsigned int next = span.first + (page - span.first + i) % span.count;

		if (readable(&r->pages[next]))
			return next;
	}
	return -1;
}

/* Says what the job has to do; returns whether there is anything. */
static bool job_plan(struct region *r, struct page_span span, unsigned long seed)
{
	unsigned long random = seed;
	enum job_order order = below(&random, NR_JOB_ORDERS);
	unsigned int mostly_reads = below(&random, 2);

	for (unsigned int index = 0; index < TERN_STEPS; index++) {
		for (unsigned int lane = 0; lane < LANES; lane++) {
			long page = job_page(order, span, lane, index, &random);
			bool writes = below(&random, 4) >= 1 + 2 * mostly_reads;

			if (order != JOB_BLIND)
				page = next_readable(r, span, page);
			if (page < 0)
				return false;
			if (order != JOB_BLIND && !writable(&r->pages[page]))
				writes = false;
			r->todo[index][lane] = page << 1 | (writes ? TERN_STEP_WRITES : 0);
		}
	}
	return true;
}

/* Has the device work on @span from now on. */
void job_start(struct region *r, struct page_span span, unsigned long seed)
{
	int ret;

	if (!job_plan(r, span, seed))
		return;
	memcpy(r->steps->todo, r->todo, sizeof(r->steps->todo));
	memset(r->steps->done, 0, sizeof(r->steps->done));
	r->steps->limit = 0;
	r->job++;
	for (unsigned int lane = 0; lane < LANES; lane++)
		r->lanes[lane] = (struct lane){ .loose = TERN_STEPS };
	for (unsigned int page = 0; page < r->nr_pages; page++)
		r->pages[page].refused = rights_refused(&r->pages[page]);
	ret = tern_start(&r->round->t, &r->queue, KERNEL_STEPS, (struct kernel_args){
		.p = (unsigned long *)r->base, .out = (unsigned long *)r->steps,
		.count = TERN_STEPS, .value = r->job,
	}, LANES, JOB_TIMEOUT_MS);
	if (ret)
		fail_text(r, "a job cannot be started: %s", strerror(-ret));
	r->running = true;
}

/* Whether a thread of the device was at the access that was refused, and it had to be. */
static void check_refusal(struct region *r)
{
	const struct drm_tern_result *result = &r->queue.result;
	unsigned long page = (result->address - (uintptr_t)r->base) / PAGE;
	bool write = result->access == DRM_TERN_ACCESS_WRITE;
	bool ours = false;

	for (unsigned int lane = 0; lane < LANES; lane++) {
		unsigned int index = r->lanes[lane].next;

		if (may_be_under_way(r, index)) {
			struct gpu_step step = get_step(r, lane, index);

			ours |= step.page == page && (step.writes || !write);
		}
	}
	if (!ours || result->access > DRM_TERN_ACCESS_WRITE)
		fail_text(r, "the device is refused access %u at %#llx, which it did not ask for",
			  result->access, (unsigned long long)result->address);
	if (!(r->pages[page].refused & (write ? PROT_WRITE : PROT_READ)))
		fail_text(r, "the device is refused a %s at %#llx (page %lu), which it may",
			  write ? "write" : "read", (unsigned long long)result->address, page);
	r->nr_refused++;
}

/* Has the pages that are in doubt looked at by the CPU. */
static void resolve_doubts(struct region *r)
{
	for (unsigned int page = 0; r->nr_doubts && page < r->nr_pages; page++) {
		if (r->pages[page].doubted)
			check_span(r, (struct page_span){ page, 1 });
	}
}

/* Ends the job, if there is one, and takes note of all it did. */
void job_end(struct region *r)
{
	unsigned int limit;
	int status;

	if (!r->running)
		return;
	limit = r->steps->limit;
	__atomic_store_n(&r->steps->limit, TERN_STEPS_END, __ATOMIC_RELEASE);
	status = tern_finish(&r->round->t, &r->queue);
	r->steps->limit = limit;
	account_done(r);
	if (status == DRM_TERN_RESULT_FAULT) {
		check_refusal(r);
		/* What was under way may have been done but for saying so. */
		shadow_leave(r);
		shadow_snapshot(r, (struct page_span){ 0, r->nr_pages });
	} else if (status != DRM_TERN_RESULT_OK) {
		fail_text(r, "a job ends with %d at %#llx", status,
			  (unsigned long long)r->queue.result.address);
	}
	r->running = false;
	resolve_doubts(r);
}

/* Ends the job if the device has ended it. */
void job_poll(struct region *r)
{
	int ret;

	if (!r->running)
		return;
	ret = tern_result(&r->round->t, &r->queue, r->queue.seqno);
	if (ret)
		fail_text(r, "a job cannot be looked at: %s", strerror(-ret));
	if (r->queue.result.status != DRM_TERN_RESULT_PENDING)
		job_end(r);
}
