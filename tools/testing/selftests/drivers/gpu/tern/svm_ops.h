/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A fixture for tests of what a process does to memory that is on the device: with huge pages,
 * with folios of 64 KiB and with single pages, at rest and while threads of the device add to it.
 *
 * What they add is counted. So it is known of each word what it has to be at the end, and any
 * store that is lost, done twice, or goes elsewhere, shows.
 */
#ifndef SVM_OPS_H
#define SVM_OPS_H

#include <sched.h>

#include "kselftest_harness.h"
#include "tern_test.h"

/* A huge page and some single ones behind it, or folios of 64 KiB. */
#define OPS_PAGES (HUGE_PAGE / PAGE + 64)
#define OPS_BYTES (OPS_PAGES * PAGE)
#define OPS_MTHP_ORDER 4
#define OPS_TIMEOUT_MS (TERN_WAIT_SECONDS * 1000)

FIXTURE(ops)
{
	struct tern t;
	/* OPS_BYTES at a huge page's alignment: tern_pattern() + 1 and what was added. */
	unsigned long *p;
	/*
	 * A queue of threads of the device, and the words that they add to: the first @part of
	 * every @stride of @count; none at rest.
	 */
	struct tern_queue users;
	unsigned long first, count, part, stride;
	/* A flag that ends the threads, and how often each has done all of its words. */
	unsigned long *sweeps;
	/* They ended in the midst of a sweep. */
	int interrupted;
	/* What the device has seen, in shared memory. */
	unsigned long *seen;
	struct tern_orders old;
};

FIXTURE_VARIANT(ops)
{
	int advice;
	/* Of the folios that the system makes, if that is not left to it. */
	int order;
	int in_use;
};

FIXTURE_VARIANT_ADD(ops, huge)
{
	.advice = MADV_HUGEPAGE,
};

FIXTURE_VARIANT_ADD(ops, huge_in_use)
{
	.advice = MADV_HUGEPAGE,
	.in_use = 1,
};

FIXTURE_VARIANT_ADD(ops, mthp)
{
	.advice = MADV_NORMAL,
	.order = OPS_MTHP_ORDER,
};

FIXTURE_VARIANT_ADD(ops, mthp_in_use)
{
	.advice = MADV_NORMAL,
	.order = OPS_MTHP_ORDER,
	.in_use = 1,
};

FIXTURE_VARIANT_ADD(ops, single)
{
	.advice = MADV_NOHUGEPAGE,
};

FIXTURE_VARIANT_ADD(ops, single_in_use)
{
	.advice = MADV_NOHUGEPAGE,
	.in_use = 1,
};

FIXTURE_SETUP(ops)
{
	int ret = tern_begin(&self->t);
	struct drm_tern_stats stats;

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
	if (variant->order && tern_choose_order(&self->old, variant->order))
		SKIP(return, "needs root, and a kernel with mTHP");
	ASSERT_EQ(0, tern_queue_init(&self->t, &self->users, 0));
	self->sweeps = tern_keep(&self->t, tern_shared(PAGE, NULL), PAGE);
	self->seen = tern_keep(&self->t, tern_shared(OPS_BYTES, NULL), OPS_BYTES);
	self->p = tern_resident(&self->t, OPS_BYTES, variant->advice);
	ASSERT_NE(NULL, self->sweeps);
	ASSERT_NE(NULL, self->seen);
	ASSERT_NE(NULL, self->p);
	stats = tern_stats(&self->t);
	ASSERT_EQ(OPS_BYTES, stats.resident_bytes);
	ASSERT_EQ(variant->advice == MADV_HUGEPAGE, stats.to_device_huge);
	ASSERT_EQ(variant->order ? OPS_PAGES >> variant->order : 0, stats.to_device_mid);
}

FIXTURE_TEARDOWN(ops)
{
	EXPECT_EQ(0, tern_restore_orders(&self->old));
	tern_queue_free(&self->t, &self->users);
	ASSERT_EQ(0, tern_end(&self->t));
}

/* Page @page of the memory, where it was at first. */
static inline char *ops_page(const struct _test_data_ops *o, unsigned long page)
{
	return (char *)o->p + page * PAGE;
}

/* Waits until all threads, if there are any, have done all of their words @times more. */
static inline int ops_sweeps(struct _test_data_ops *o, unsigned long times)
{
	for (unsigned long thread = 0; o->count && thread < TERN_THREADS; thread++) {
		unsigned long *sweeps = &o->sweeps[1 + thread];
		unsigned long start = __atomic_load_n(sweeps, __ATOMIC_ACQUIRE);

		while (__atomic_load_n(sweeps, __ATOMIC_ACQUIRE) - start < times) {
			int ret = tern_result(&o->t, &o->users, o->users.seqno);

			if (ret || o->users.result.status != DRM_TERN_RESULT_PENDING)
				return ret ? ret : -ECHILD;
			sched_yield();
		}
	}
	return 0;
}

/*
 * In a test of memory in use, has the device use some words of @pages pages from @page on, from
 * now on: the first @part of every @stride.
 */
static inline int ops_use_parts(struct _test_data_ops *o,
				const struct _fixture_variant_ops *variant, unsigned long page,
				unsigned long pages, unsigned long part, unsigned long stride)
{
	int ret;

	if (!variant->in_use)
		return 0;
	o->first = page * WORDS(PAGE);
	o->count = pages * WORDS(PAGE);
	o->part = part;
	o->stride = stride;
	ret = tern_start(&o->t, &o->users, KERNEL_WORK, (struct kernel_args){
		.p = o->p + o->first, .out = o->sweeps, .count = o->count, .value = 1,
		.part = part, .stride = stride,
	}, TERN_THREADS, OPS_TIMEOUT_MS);
	return ret ? ret : ops_sweeps(o, 1);
}

/* All of these pages. */
static inline int ops_use(struct _test_data_ops *o, const struct _fixture_variant_ops *variant,
			  unsigned long page, unsigned long pages)
{
	return ops_use_parts(o, variant, page, pages, WORDS(PAGE), WORDS(PAGE));
}

/* Of every eight of these pages the first four: a folio of 64 KiB has both kinds. */
#define OPS_RUN 4UL
static inline int ops_use_runs(struct _test_data_ops *o,
			       const struct _fixture_variant_ops *variant, unsigned long page,
			       unsigned long pages)
{
	return ops_use_parts(o, variant, page, pages, OPS_RUN * WORDS(PAGE),
			     2 * OPS_RUN * WORDS(PAGE));
}

/* All pages, but not the last sector of each, which a test may write meanwhile. */
#define OPS_SECTOR 512UL
#define OPS_QUIET_WORD WORDS(PAGE - OPS_SECTOR)
static inline int ops_use_most(struct _test_data_ops *o,
			       const struct _fixture_variant_ops *variant)
{
	return ops_use_parts(o, variant, 0, OPS_PAGES, OPS_QUIET_WORD, WORDS(PAGE));
}

/* Whether the device uses word @i of the memory. */
static inline int ops_uses(const struct _test_data_ops *o, unsigned long i)
{
	return i - o->first < o->count && (i - o->first) % o->stride < o->part;
}

/*
 * Ends the use, after two sweeps more unless it ended by itself. Returns how, as
 * drm_tern_result_status or a negative errno; that there was none is well.
 */
static inline int ops_stop(struct _test_data_ops *o)
{
	int ret = 0;

	if (!o->count)
		return DRM_TERN_RESULT_OK;
	ret = ops_sweeps(o, 2);
	__atomic_store_n(o->sweeps, 1, __ATOMIC_RELEASE);
	if (ret && ret != -ECHILD)
		return ret;
	ret = tern_finish(&o->t, &o->users);
	o->interrupted = ret == DRM_TERN_RESULT_FAULT;
	return ret;
}

/* How much was added to word @i of the memory by whole sweeps. */
static inline unsigned long ops_added(const struct _test_data_ops *o, unsigned long i)
{
	if (!ops_uses(o, i))
		return 0;
	return __atomic_load_n(&o->sweeps[1 + i % TERN_THREADS], __ATOMIC_ACQUIRE);
}

/* Whole sweeps of each thread up to now. */
struct ops_count {
	unsigned long sweeps[TERN_THREADS];
};

static inline struct ops_count ops_count(const struct _test_data_ops *o)
{
	struct ops_count now;

	for (unsigned long thread = 0; thread < TERN_THREADS; thread++)
		now.sweeps[thread] = __atomic_load_n(&o->sweeps[1 + thread], __ATOMIC_ACQUIRE);
	return now;
}

/*
 * As ops_check(), of what was read since @before: of each word that is in use any state since
 * then.
 */
static inline long ops_check_since(const struct _test_data_ops *o, const unsigned long *p,
				   unsigned long page, size_t bytes, const struct ops_count *before)
{
	struct ops_count now = ops_count(o);
	unsigned long start = page * WORDS(PAGE);

	for (unsigned long i = 0; i < WORDS(bytes); i++) {
		unsigned long added = p[i] - tern_pattern(start + i) - 1;
		unsigned long thread = i % TERN_THREADS;
		int used = ops_uses(o, start + i);
		unsigned long least = used ? before->sweeps[thread] : 0;
		unsigned long most = used ? now.sweeps[thread] + 1 : 0;

		if (added < least || added > most) {
			fprintf(stderr, "page %lu, word %lu: %ld added, not %lu to %lu\n",
				page + i / WORDS(PAGE), i % WORDS(PAGE), (long)added, least, most);
			return i;
		}
	}
	return -1;
}

/*
 * Index of the first word of @p that is wrong; -1 if there is none. @p has the contents of
 * @bytes from page @page on, and @more was added to each.
 */
static inline long ops_check(const struct _test_data_ops *o, const unsigned long *p,
			     unsigned long page, size_t bytes, unsigned long more)
{
	unsigned long start = page * WORDS(PAGE);

	for (unsigned long i = 0; i < WORDS(bytes); i++) {
		unsigned long over = p[i] - tern_pattern(start + i) - 1 - more -
				     ops_added(o, start + i);

		if (over > (o->interrupted && ops_uses(o, start + i))) {
			fprintf(stderr, "page %lu, word %lu: %#lx, which is %ld too much\n",
				page + i / WORDS(PAGE), i % WORDS(PAGE), p[i], (long)over);
			return i;
		}
	}
	return -1;
}

/*
 * Whether the device finds the contents of @pages pages from @page on at @at, and the CPU finds
 * what the device makes of them.
 */
static inline int ops_holds(struct _test_data_ops *o, void *at, unsigned long page,
			    unsigned long pages)
{
	size_t bytes = pages * PAGE;
	struct kernel_args args = { .p = at, .out = o->seen, .count = WORDS(bytes), .value = 1 };
	unsigned long *p = at;

	if (tern_run(&o->t, KERNEL_COPY, args) != DRM_TERN_RESULT_OK ||
	    ops_check(o, o->seen, page, bytes, 0) != -1 ||
	    tern_run(&o->t, KERNEL_ADD, args) != DRM_TERN_RESULT_OK ||
	    ops_check(o, p, page, bytes, 1) != -1)
		return 0;
	for (unsigned long i = 0; i < WORDS(bytes); i++)
		p[i]--;
	return 1;
}

/* Whether the device and the CPU find nothing but zeros. */
static inline int ops_is_zero(struct _test_data_ops *o, void *at, unsigned long pages)
{
	size_t bytes = pages * PAGE;
	struct kernel_args args = { .p = at, .out = o->seen, .count = WORDS(bytes) };
	const unsigned long *p = at;

	memset(o->seen, 0xff, bytes);
	if (tern_run(&o->t, KERNEL_COPY, args) != DRM_TERN_RESULT_OK)
		return 0;
	for (unsigned long i = 0; i < WORDS(bytes); i++) {
		if (p[i] || o->seen[i])
			return 0;
	}
	return 1;
}

/* How the device fares that reads or writes the word at @at. */
static inline int ops_try(struct _test_data_ops *o, enum kernel_id kernel, void *at)
{
	struct kernel_args args = { .p = at, .out = o->seen };

	return tern_run_threads(&o->t, kernel, args, 1);
}

#endif /* SVM_OPS_H */
