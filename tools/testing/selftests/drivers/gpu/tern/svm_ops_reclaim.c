// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel itself handles memory that was or is on the device: it collapses it to huge pages,
 * swaps it out, merges what is equal, and keeps in memory what is locked.
 */
#include "svm_ops.h"

/* What is on the device becomes a huge page, or is one. */
TEST_F_TIMEOUT(ops, collapse, 120)
{
	ASSERT_EQ(0, madvise(self->p, OPS_BYTES, MADV_HUGEPAGE));
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	for (int round = 0; round < 3; round++) {
		/* Pages that are used may be under way just then, or gone again. */
		int ret = tern_collapse(self->p, OPS_BYTES);

		ASSERT_TRUE(!ret || (variant->in_use && errno != EFAULT));
		if (!variant->in_use)
			ASSERT_EQ(HUGE_PAGE >> 10, tern_anon_huge(self->p));
		ASSERT_EQ(0, ops_sweeps(self, 1));
	}
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* Pages that were taken apart on the device become whole again. */
TEST_F_TIMEOUT(ops, collapse_what_was_split, 120)
{
	ASSERT_EQ(0, madvise(self->p, OPS_BYTES, MADV_HUGEPAGE));
	ASSERT_EQ(0, ops_use_runs(self, variant, 200, 300));
	for (unsigned long page = 200 + OPS_RUN; page < 500; page += 2 * OPS_RUN) {
		ASSERT_EQ(0, mprotect(ops_page(self, page), PAGE, PROT_READ));
		ASSERT_EQ(0, mprotect(ops_page(self, page), PAGE, PROT_READ | PROT_WRITE));
	}
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	ASSERT_EQ(0, tern_collapse(self->p, OPS_BYTES));
	EXPECT_EQ(HUGE_PAGE >> 10, tern_anon_huge(self->p));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* What is on the device is no memory that could be reclaimed. */
TEST_F_TIMEOUT(ops, pageout_on_device, 120)
{
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	ASSERT_EQ(0, madvise(self->p, OPS_BYTES, MADV_COLD));
	ASSERT_EQ(0, madvise(self->p, OPS_BYTES, MADV_PAGEOUT));
	EXPECT_EQ(OPS_BYTES, tern_stats(&self->t).resident_bytes);
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* Has each page brought back, and says to swap all of it out. */
static int page_out(const struct _test_data_ops *o)
{
	for (unsigned long page = 0; page < OPS_PAGES; page++)
		__atomic_load_n(ops_page(o, page), __ATOMIC_RELAXED);
	return madvise(o->p, OPS_BYTES, MADV_PAGEOUT);
}

/* Memory goes from the device to swap and back. */
TEST_F_TIMEOUT(ops, swapped_out, 120)
{
	if (!tern_has_swap())
		SKIP(return, "the system has no swap");
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	for (int round = 0; round < 2; round++) {
		ASSERT_EQ(0, page_out(self));
		if (!variant->in_use) {
			EXPECT_LE(OPS_BYTES >> 11, tern_smaps(self->p, "Swap"));
			EXPECT_EQ(0, tern_stats(&self->t).resident_bytes);
			EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
		}
		ASSERT_EQ(0, ops_sweeps(self, 1));
	}
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* A child has on swap what its parent has on the device. */
TEST_F_TIMEOUT(ops, swapped_out_by_a_child, 120)
{
	pid_t pid;

	if (!tern_has_swap())
		SKIP(return, "the system has no swap");
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		for (int round = 0; round < 2; round++) {
			if (page_out(self) || tern_check_pattern(self->p, OPS_BYTES, 1) != -1)
				_exit(1);
		}
		_exit(0);
	}
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	EXPECT_TRUE(tern_child_ok(pid));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* Locked memory comes back, goes again when the device wants it, and is freed at once. */
TEST_F_TIMEOUT(ops, mlock, 120)
{
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES / 2));
	ASSERT_EQ(0, mlock(self->p, OPS_BYTES));
	if (!variant->in_use)
		EXPECT_EQ(0, tern_stats(&self->t).resident_bytes);
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_COPY, (struct kernel_args){
		.p = self->p, .out = self->seen, .count = WORDS(OPS_BYTES) }));
	/* While it is used some of it may have been mapped where it was. */
	if (!variant->in_use)
		EXPECT_EQ(OPS_BYTES, tern_stats(&self->t).resident_bytes);
	EXPECT_EQ(OPS_BYTES >> 10, tern_smaps(self->p, "Locked"));

	ASSERT_EQ(0, munlock(self->p, 16 * PAGE));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	ASSERT_EQ(0, munmap(self->p, OPS_BYTES));
	EXPECT_EQ(0, tern_stats(&self->t).resident_bytes);
}

#define KSM "/sys/kernel/mm/ksm/"

static long ksm_get(const char *name)
{
	char path[64];
	long value = -1;
	FILE *file;

	snprintf(path, sizeof(path), KSM "%s", name);
	file = fopen(path, "r");
	if (file) {
		if (fscanf(file, "%ld", &value) != 1)
			value = -1;
		fclose(file);
	}
	return value;
}

/* Waits until memory that was there before is merged and compared with all that is. */
static int ksm_scans(void)
{
	long start = ksm_get("full_scans");

	/* A page is merged if its contents are the same as at the scan before. */
	while (start >= 0 && ksm_get("full_scans") < start + 4)
		sched_yield();
	return start < 0 ? -ENOENT : 0;
}

/* Memory with contents that it shares with others of the same @advice, to be merged. */
static unsigned long *mergeable(struct tern *t, size_t bytes, int advice)
{
	unsigned long *p = tern_map(t, bytes, advice);

	if (p) {
		tern_write_pattern(p, bytes);
		if (madvise(p, bytes, MADV_MERGEABLE))
			p = NULL;
	}
	return p;
}

/* Has KSM compare all that it may. */
static int ksm_start(void)
{
	return tern_put(KSM "pages_to_scan", "10000") || tern_put(KSM "sleep_millisecs", "1") ||
	       tern_put(KSM "smart_scan", "0") || tern_put(KSM "run", "1");
}

/*
 * Equal pages are merged, which the device reads; more such pages come while it does. What it
 * then writes is the writer's own. What is on the device when it is made mergeable stays right.
 */
TEST_F_TIMEOUT(ops, ksm, 120)
{
	enum { COUNT = 3 };
	size_t bytes = HUGE_PAGE / 8;
	struct kernel_args args = { .out = self->seen, .count = WORDS(bytes), .value = 1 };
	unsigned long *same[COUNT];

	if (ksm_start())
		SKIP(return, "the kernel has no KSM, or this is not root");
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	ASSERT_EQ(0, madvise(self->p, OPS_BYTES, MADV_MERGEABLE));
	for (int i = 0; i < COUNT; i++) {
		same[i] = mergeable(&self->t, bytes, variant->advice);
		ASSERT_NE(NULL, same[i]);
		if (!i)
			continue;
		ASSERT_EQ(0, ksm_scans());
		EXPECT_LE(i * bytes / PAGE, ksm_get("pages_sharing"));
		for (int j = 0; j <= i; j++) {
			args.p = same[j];
			ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_COPY, args));
			EXPECT_EQ(-1, tern_check_pattern(self->seen, bytes, 0));
		}
	}
	args.p = same[0];
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_ADD, args));
	ASSERT_EQ(0, madvise(same[1], bytes, MADV_UNMERGEABLE));
	ASSERT_EQ(0, ksm_scans());
	for (int i = 0; i < COUNT; i++)
		EXPECT_EQ(-1, tern_check_pattern(same[i], bytes, !i));

	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	ASSERT_EQ(0, tern_put(KSM "run", "2"));
	for (int i = 0; i < COUNT; i++)
		EXPECT_EQ(-1, tern_check_pattern(same[i], bytes, !i));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	ASSERT_EQ(0, tern_put(KSM "run", "0"));
}

/* Equal pages on the device are let be, and are merged when they are back. */
TEST_F_TIMEOUT(ops, ksm_on_device, 120)
{
	size_t bytes = variant->advice == MADV_HUGEPAGE ? HUGE_PAGE : HUGE_PAGE / 8;
	unsigned long *same[2];

	if (ksm_start())
		SKIP(return, "the kernel has no KSM, or this is not root");
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	ASSERT_EQ(0, madvise(self->p, OPS_BYTES, MADV_MERGEABLE));
	for (int i = 0; i < 2; i++) {
		same[i] = tern_resident(&self->t, bytes, variant->advice);
		ASSERT_NE(NULL, same[i]);
		ASSERT_EQ(0, madvise(same[i], bytes, MADV_MERGEABLE));
	}
	ASSERT_EQ(OPS_BYTES + 2 * bytes, tern_stats(&self->t).resident_bytes);
	ASSERT_EQ(0, ksm_scans());
	EXPECT_EQ(OPS_BYTES + 2 * bytes, tern_stats(&self->t).resident_bytes);
	EXPECT_EQ(0, ksm_get("pages_sharing"));

	for (int i = 0; i < 2; i++)
		EXPECT_EQ(-1, tern_check_pattern(same[i], bytes, 1));
	ASSERT_EQ(0, ksm_scans());
	EXPECT_EQ(bytes / PAGE, ksm_get("pages_sharing"));
	/* What the device writes is its own then, page by page. */
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, same[0], bytes));
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(-1, tern_check_pattern(same[i], bytes, 2 - i));
	ASSERT_EQ(0, ksm_scans());
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	ASSERT_EQ(0, tern_put(KSM "run", "2"));
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(-1, tern_check_pattern(same[i], bytes, 2 - i));
	ASSERT_EQ(0, tern_put(KSM "run", "0"));
}

TEST_HARNESS_MAIN
