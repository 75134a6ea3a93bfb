// SPDX-License-Identifier: GPL-2.0
/* Anonymous memory moves to the device and back: whole as huge pages, else page by page. */
#include <stdbool.h>
#include <sys/sysinfo.h>

#include "kselftest_harness.h"
#include "tern_test.h"

FIXTURE(move)
{
	struct tern t;
};

FIXTURE_SETUP(move)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(move)
{
	ASSERT_EQ(0, tern_end(&self->t));
}

TEST_F(move, huge_page_whole_there_and_back)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, HUGE_PAGE, MADV_HUGEPAGE);
	struct drm_tern_stats stats;

	ASSERT_NE(NULL, p);
	if (tern_anon_huge(p) != HUGE_PAGE >> 10)
		SKIP(return, "the system has no huge page to give");

	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	stats = tern_stats(t);
	EXPECT_EQ(1, stats.to_device_huge);
	EXPECT_EQ(0, stats.to_device_mid);
	EXPECT_EQ(0, stats.to_device_small);
	EXPECT_EQ(HUGE_PAGE, stats.bytes_to_device);
	EXPECT_EQ(HUGE_PAGE, stats.resident_bytes);
	EXPECT_EQ(0, stats.cpu_faults);
	EXPECT_LE(1, stats.faults);

	/* One access brings all of it back. */
	EXPECT_EQ(tern_pattern(1000) + 1, p[1000]);
	stats = tern_stats(t);
	EXPECT_EQ(1, stats.cpu_faults);
	EXPECT_EQ(1, stats.to_system_huge);
	EXPECT_EQ(0, stats.to_system_mid);
	EXPECT_EQ(0, stats.to_system_small);
	EXPECT_EQ(HUGE_PAGE, stats.bytes_to_system);
	EXPECT_EQ(0, stats.resident_bytes);
	EXPECT_EQ(HUGE_PAGE >> 10, tern_anon_huge(p));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
	EXPECT_EQ(1, tern_stats(t).cpu_faults);
}

#define AROUND	(16 * PAGE)	/* what a CPU fault on a single page brings back */

/*
 * The CPU faults of reading @p in the order of @place, after the device has
 * added one to it for the @round-th time; none if something else is read.
 */
static __u64 faults_of_reading(struct tern *t, unsigned long *p, unsigned long round,
			       unsigned long (*place)(unsigned long i))
{
	const unsigned long groups = HUGE_PAGE / AROUND;
	__u64 before;

	if (tern_add_one(t, p, HUGE_PAGE) != DRM_TERN_RESULT_OK)
		return 0;
	before = tern_stats(t).cpu_faults;
	for (unsigned long i = 0; i < groups; i++) {
		unsigned long at = place(i) * WORDS(AROUND);

		if (p[at] != tern_pattern(at) + round)
			return 0;
	}
	return tern_stats(t).resident_bytes ? 0 : tern_stats(t).cpu_faults - before;
}

static unsigned long upwards(unsigned long i)
{
	return i;
}

static unsigned long downwards(unsigned long i)
{
	return HUGE_PAGE / AROUND - 1 - i;
}

/* Two halves by turns, each upwards. */
static unsigned long by_turns(unsigned long i)
{
	return i / 2 + (i % 2) * (HUGE_PAGE / AROUND / 2);
}

/* What is read in order comes back with few faults, all else as it is asked for. */
TEST_F(move, single_pages_read_in_order)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, HUGE_PAGE, MADV_NOHUGEPAGE);

	ASSERT_NE(NULL, p);
	EXPECT_EQ(3, faults_of_reading(t, p, 1, upwards));
	EXPECT_EQ(HUGE_PAGE / AROUND, faults_of_reading(t, p, 2, downwards));
	/* The third fault of the lower half brings the upper one, too. */
	EXPECT_EQ(5, faults_of_reading(t, p, 3, by_turns));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 3));
}

/* What counts is that it is a huge page, not whether the area would have got one by itself. */
TEST_F(move, huge_page_by_collapse)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, HUGE_PAGE, MADV_NORMAL);
	struct drm_tern_stats stats;

	ASSERT_NE(NULL, p);
	if (tern_collapse(p, HUGE_PAGE))
		SKIP(return, "the system has no huge page to give");
	ASSERT_EQ(HUGE_PAGE >> 10, tern_anon_huge(p));

	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	EXPECT_EQ(1, tern_stats(t).to_device_huge);
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
	stats = tern_stats(t);
	EXPECT_EQ(1, stats.to_system_huge);
	EXPECT_EQ(1, stats.cpu_faults);
}

/* The device has memory for a part of the huge page: to split it for that would help nobody. */
TEST_F(move, huge_page_without_room)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, HUGE_PAGE, MADV_HUGEPAGE);
	struct drm_tern_device_query info;
	struct drm_tern_gem_create gem;

	ASSERT_NE(NULL, p);
	if (tern_anon_huge(p) != HUGE_PAGE >> 10)
		SKIP(return, "the system has no huge page to give");
	/* The code, its arguments and its stack get their place first. */
	ASSERT_NE(NULL, tern_resident(t, PAGE, MADV_NOHUGEPAGE));
	ASSERT_EQ(0, tern_query(t->fd, &info));
	ASSERT_EQ(0, tern_gem_create(t, info.vram_free - HUGE_PAGE / 2, 0, &gem));

	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	EXPECT_EQ(0, tern_stats(t).to_device_huge);
	EXPECT_EQ(HUGE_PAGE >> 10, tern_anon_huge(p));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
	EXPECT_EQ(0, tern_gem_close(t, gem.handle));
}

TEST_F(move, many_huge_pages)
{
	enum { COUNT = 12 };
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, COUNT * HUGE_PAGE, MADV_HUGEPAGE);
	struct drm_tern_stats stats;

	ASSERT_NE(NULL, p);
	if (tern_anon_huge(p) != COUNT * HUGE_PAGE >> 10)
		SKIP(return, "the system has too few huge pages to give");
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, COUNT * HUGE_PAGE));
	EXPECT_EQ(-1, tern_check_pattern(p, COUNT * HUGE_PAGE, 1));
	stats = tern_stats(t);
	EXPECT_EQ(COUNT, stats.to_device_huge);
	EXPECT_EQ(0, stats.to_device_small);
	EXPECT_EQ(COUNT, stats.to_system_huge);
	EXPECT_EQ(0, stats.to_system_small);
	EXPECT_EQ(COUNT * HUGE_PAGE, stats.bytes_to_device);
	EXPECT_EQ(COUNT * HUGE_PAGE, stats.bytes_to_system);
}

/* Memory that was never touched becomes a huge page on the device, with nothing to copy. */
TEST_F(move, hole_is_written_as_huge_page)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_map(t, HUGE_PAGE, MADV_HUGEPAGE);
	struct kernel_args args = { .p = p, .count = WORDS(HUGE_PAGE), .value = 7 };
	struct drm_tern_stats stats;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_FILL, args));
	stats = tern_stats(t);
	EXPECT_EQ(1, stats.to_device_huge);
	EXPECT_EQ(0, stats.to_device_mid);
	EXPECT_EQ(0, stats.to_device_small);
	EXPECT_EQ(0, stats.bytes_to_device);
	EXPECT_EQ(HUGE_PAGE, stats.resident_bytes);
	EXPECT_EQ(-1, tern_check_count(p, HUGE_PAGE, 7));
	EXPECT_EQ(1, tern_stats(t).to_system_huge);
	EXPECT_EQ(HUGE_PAGE >> 10, tern_anon_huge(p));
}

/* What the device reads of memory that was never touched is zero, whatever VRAM held before. */
TEST_F(move, hole_is_read_as_zero)
{
	struct tern *t = &self->t;
	unsigned long *dirty = tern_map(t, HUGE_PAGE, MADV_HUGEPAGE);
	unsigned long *out = tern_keep(t, tern_shared(HUGE_PAGE, NULL), HUGE_PAGE);
	const int advices[] = { MADV_HUGEPAGE, MADV_NOHUGEPAGE };

	ASSERT_NE(NULL, dirty);
	ASSERT_NE(NULL, out);
	for (int i = 0; i < 2; i++) {
		struct kernel_args fill = { .p = dirty, .count = WORDS(HUGE_PAGE), .value = 1 };
		unsigned long *p = tern_map(t, HUGE_PAGE, advices[i]);
		struct kernel_args copy = { .p = p, .out = out, .count = WORDS(HUGE_PAGE) };

		ASSERT_NE(NULL, p);
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_FILL, fill));
		ASSERT_EQ(0, madvise(dirty, HUGE_PAGE, MADV_DONTNEED));
		memset(out, 0xff, HUGE_PAGE);
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_COPY, copy));
		for (unsigned long word = 0; word < WORDS(HUGE_PAGE); word++) {
			ASSERT_EQ(0, out[word]);
			ASSERT_EQ(0, p[word]);
		}
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
		for (unsigned long word = 0; word < WORDS(HUGE_PAGE); word++)
			ASSERT_EQ(1, p[word]);
	}
}

TEST_F(move, single_pages)
{
	enum { PAGES = 64 };
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, PAGES * PAGE, MADV_NOHUGEPAGE);
	struct drm_tern_stats stats;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, PAGES * PAGE));
	stats = tern_stats(t);
	EXPECT_EQ(0, stats.to_device_huge);
	EXPECT_EQ(PAGES, stats.to_device_small);
	EXPECT_EQ(PAGES * PAGE, stats.bytes_to_device);
	EXPECT_EQ(PAGES * PAGE, stats.resident_bytes);
	EXPECT_EQ(-1, tern_check_pattern(p, PAGES * PAGE, 1));
	stats = tern_stats(t);
	EXPECT_EQ(0, stats.to_system_huge);
	EXPECT_EQ(PAGES, stats.to_system_small);
	EXPECT_EQ(PAGES * PAGE, stats.bytes_to_system);
	EXPECT_EQ(0, stats.resident_bytes);
}

/* Nothing but the pages of the range itself, which ends in the middle of a huge page's place. */
TEST_F(move, range_that_is_not_aligned)
{
	struct tern *t = &self->t;
	size_t bytes = 3 * HUGE_PAGE + 5 * PAGE;
	unsigned long *p = tern_filled(t, bytes, MADV_HUGEPAGE);
	unsigned long *part;
	size_t part_bytes;

	ASSERT_NE(NULL, p);
	part = p + WORDS(HUGE_PAGE) - 3;
	part_bytes = HUGE_PAGE + 2 * PAGE + 8;
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, part, part_bytes));
	for (unsigned long i = 0; i < WORDS(bytes); i++) {
		int inside = p + i >= part && p + i < part + WORDS(part_bytes);

		ASSERT_EQ(tern_pattern(i) + inside, p[i]);
	}
}

/* Pages that are there, between others that never were. */
TEST_F(move, pages_and_holes)
{
	struct tern *t = &self->t;
	size_t bytes = 2 * HUGE_PAGE;
	unsigned long *p = tern_map(t, bytes, MADV_NOHUGEPAGE);

	ASSERT_NE(NULL, p);
	for (unsigned long i = 0; i < WORDS(bytes); i += 3 * WORDS(PAGE))
		p[i] = tern_pattern(i);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, bytes));
	for (unsigned long i = 0; i < WORDS(bytes); i++) {
		unsigned long before = i % (3 * WORDS(PAGE)) ? 0 : tern_pattern(i);

		ASSERT_EQ(before + 1, p[i]);
	}
}

/* Ways to map a huge page by PTEs. Each returns where the huge page is afterwards, or NULL. */
static void *split_by_mprotect(struct tern *t, char *p)
{
	(void)t;
	if (mprotect(p + 100 * PAGE, PAGE, PROT_READ) ||
	    mprotect(p + 100 * PAGE, PAGE, PROT_READ | PROT_WRITE))
		return NULL;
	return p;
}

static void *split_by_mremap(struct tern *t, char *p)
{
	char *target = tern_map(t, 2 * HUGE_PAGE, MADV_HUGEPAGE);

	if (!target)
		return NULL;
	p = mremap(p, HUGE_PAGE, HUGE_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target + PAGE);
	return p == MAP_FAILED ? NULL : p;
}

FIXTURE(pte)
{
	struct tern t;
};

FIXTURE_VARIANT(pte)
{
	void *(*split)(struct tern *t, char *p);
	/* One page table maps it. */
	bool aligned;
};

FIXTURE_VARIANT_ADD(pte, mprotect)
{
	.split = split_by_mprotect,
	.aligned = true,
};

FIXTURE_VARIANT_ADD(pte, mremap)
{
	.split = split_by_mremap,
};

FIXTURE_SETUP(pte)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(pte)
{
	ASSERT_EQ(0, tern_end(&self->t));
}

TEST_F(pte, huge_page_mapped_by_ptes)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, HUGE_PAGE, MADV_HUGEPAGE);
	struct drm_tern_stats stats;

	ASSERT_NE(NULL, p);
	if (tern_anon_huge(p) != HUGE_PAGE >> 10)
		SKIP(return, "the system has no huge page to give");
	/* khugepaged may just have made it whole again. */
	for (int i = 0; i < 3 && tern_anon_huge(p); i++) {
		p = variant->split(t, (char *)p);
		ASSERT_NE(NULL, p);
	}
	ASSERT_EQ(0, tern_anon_huge(p));

	for (int round = 1; round <= 2; round++) {
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
		stats = tern_stats(t);
		EXPECT_EQ(round * HUGE_PAGE, stats.bytes_to_device);
		EXPECT_EQ(HUGE_PAGE, stats.resident_bytes);
		EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, round));
		if (!variant->aligned)
			continue;
		/* It is whole, there and back. */
		stats = tern_stats(t);
		EXPECT_EQ(round, stats.to_device_huge);
		EXPECT_EQ(0, stats.to_device_mid + stats.to_device_small);
		EXPECT_EQ(round, stats.to_system_huge);
		EXPECT_EQ(0, stats.to_system_mid + stats.to_system_small);
		EXPECT_EQ(round, stats.cpu_faults);
	}
}

/* A page is taken out of the middle of a huge page, before or after it moved. */
TEST_F(move, huge_page_with_a_page_unmapped)
{
	struct tern *t = &self->t;

	for (int resident = 0; resident < 2; resident++) {
		unsigned long *p = tern_filled(t, HUGE_PAGE, MADV_HUGEPAGE);
		unsigned long *upper;
		unsigned long more = resident;

		ASSERT_NE(NULL, p);
		if (resident)
			ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
		upper = p + WORDS(51 * PAGE);
		ASSERT_EQ(0, munmap(p + WORDS(50 * PAGE), PAGE));
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, 50 * PAGE));
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, upper, HUGE_PAGE - 51 * PAGE));
		ASSERT_EQ(-1, tern_check_pattern(p, 50 * PAGE, more + 1));
		for (unsigned long i = WORDS(51 * PAGE); i < WORDS(HUGE_PAGE); i++)
			ASSERT_EQ(tern_pattern(i) + more + 1, p[i]);
	}
}

/* The CPU and the device add by turns; each finds all that the other did. */
TEST_F(move, ping_pong)
{
	struct tern *t = &self->t;
	const int advices[] = { MADV_HUGEPAGE, MADV_NOHUGEPAGE };
	size_t bytes = 3 * HUGE_PAGE;

	for (int i = 0; i < 2; i++) {
		unsigned long *p = tern_filled(t, bytes, advices[i]);

		ASSERT_NE(NULL, p);
		for (unsigned long round = 0; round < 6; round++) {
			ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, bytes));
			ASSERT_EQ(-1, tern_check_pattern(p, bytes, 2 * round + 1));
			for (unsigned long word = 0; word < WORDS(bytes); word++)
				p[word]++;
		}
	}
}

/* Memory that is thrown away while it is on the device is zero afterwards. */
TEST_F(move, dontneed)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, HUGE_PAGE, MADV_HUGEPAGE);

	ASSERT_NE(NULL, p);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	ASSERT_EQ(0, madvise(p, HUGE_PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, tern_stats(t).resident_bytes);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	for (unsigned long i = 0; i < WORDS(HUGE_PAGE); i++)
		ASSERT_EQ(1, p[i]);
}

/* What the process does not have does not come into being when the CPU touches its neighbour. */
TEST_F(move, holes_beside_a_page_stay_holes)
{
	enum { PAGES = 16 };
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, PAGES * PAGE, MADV_NOHUGEPAGE);
	unsigned char present[PAGES];

	ASSERT_NE(NULL, p);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, PAGES * PAGE));
	ASSERT_EQ(PAGES * PAGE, tern_stats(t).resident_bytes);
	ASSERT_EQ(0, madvise(p + WORDS(PAGE), (PAGES - 1) * PAGE, MADV_DONTNEED));
	EXPECT_EQ(-1, tern_check_pattern(p, PAGE, 1));
	EXPECT_EQ(1, tern_stats(t).to_system_small);
	ASSERT_EQ(0, mincore(p, PAGES * PAGE, present));
	EXPECT_EQ(1, present[0] & 1);
	for (int i = 1; i < PAGES; i++)
		EXPECT_EQ(0, present[i] & 1);
}

/* A huge page that finds no room on the device is used where it is, and not split. */
TEST_F_TIMEOUT(move, huge_page_stays_whole_when_the_device_is_full, 120)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, HUGE_PAGE, MADV_HUGEPAGE);
	size_t bytes = t->info.vram_free / HUGE_PAGE * HUGE_PAGE;
	struct drm_tern_device_query now;
	struct drm_tern_stats stats;
	char *rest;

	ASSERT_NE(NULL, p);
	if (tern_anon_huge(p) != HUGE_PAGE >> 10)
		SKIP(return, "the system has no huge page to give");
	rest = tern_map(t, bytes, MADV_HUGEPAGE);
	ASSERT_NE(NULL, rest);
	for (size_t at = 0; at < bytes; at += HUGE_PAGE) {
		struct kernel_args store = { .p = (void *)(rest + at), .value = 1 };

		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run_threads(t, KERNEL_STORE, store, 1));
	}
	ASSERT_EQ(0, tern_query(t->fd, &now));
	if (now.vram_free)
		SKIP(return, "something else uses the device's memory");

	stats = tern_stats(t);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	EXPECT_EQ(stats.resident_bytes, tern_stats(t).resident_bytes);
	EXPECT_EQ(HUGE_PAGE >> 10, tern_anon_huge(p));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
}

/* What does not fit into the device's memory is used where it is, or takes turns. */
TEST_F_TIMEOUT(move, more_than_device_memory, 300)
{
	struct tern *t = &self->t;
	size_t bytes = t->info.vram_size + t->info.vram_size / 8;
	struct kernel_args args = { .count = WORDS(bytes), .value = 5 };
	struct drm_tern_stats stats;
	struct sysinfo system;

	ASSERT_EQ(0, sysinfo(&system));
	if (system.freeram * system.mem_unit < bytes + bytes / 4)
		SKIP(return, "device memory is too large for this system's memory");
	args.p = tern_map(t, bytes, MADV_HUGEPAGE);
	ASSERT_NE(NULL, args.p);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run_threads(t, KERNEL_FILL, args, 256));
	stats = tern_stats(t);
	EXPECT_LE(stats.resident_bytes, t->info.vram_size);
	EXPECT_LT(0, stats.resident_bytes);
	ASSERT_EQ(-1, tern_check_count(args.p, bytes, 5));
	EXPECT_EQ(0, tern_stats(t).cancels);
}

TEST_HARNESS_MAIN
