// SPDX-License-Identifier: GPL-2.0
/*
 * The address space changes around memory that is on the device: munmap(), mprotect(),
 * mremap(), fork() and what madvise() gives away.
 */
#include "svm_ops.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

/* Pages at the edges of huge pages and of folios of 64 KiB, and in the midst of them. */
static const struct part {
	unsigned long page, pages;
} cuts[] = {
	{ 0, 1 },
	{ 100, 16 },
	{ 303, OPS_RUN },
	{ 407, OPS_RUN },
	{ 511, OPS_RUN },
	{}
};

/* What is left between them. */
static const struct part rests[] = {
	{ 1, 99 },
	{ 116, 187 },
	{ 307, 100 },
	{ 411, 100 },
	{ 515, OPS_PAGES - 515 },
	{}
};

/* What the device uses meanwhile by ops_use_runs(): up to the cuts, and from there on. */
#define USED 203
#define USED_PAGES 368

/* Bytes that @cuts take away. */
static size_t cut_bytes(void)
{
	size_t bytes = 0;

	for (const struct part *cut = cuts; cut->pages; cut++)
		bytes += cut->pages * PAGE;
	return bytes;
}

TEST_F_TIMEOUT(ops, munmap_parts, 120)
{
	size_t left = OPS_BYTES - cut_bytes();

	ASSERT_EQ(0, ops_use_runs(self, variant, USED, USED_PAGES));
	for (const struct part *cut = cuts; cut->pages; cut++)
		ASSERT_EQ(0, munmap(ops_page(self, cut->page), cut->pages * PAGE));
	/* A folio that is mapped in part keeps its device memory until it comes back. */
	if (!variant->in_use)
		EXPECT_LE(left, tern_stats(&self->t).resident_bytes);
	if (!variant->in_use && variant->advice == MADV_NOHUGEPAGE)
		EXPECT_EQ(left, tern_stats(&self->t).resident_bytes);
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));

	for (const struct part *rest = rests; rest->pages; rest++)
		EXPECT_TRUE(ops_holds(self, ops_page(self, rest->page), rest->page, rest->pages));
	for (const struct part *cut = cuts; cut->pages; cut++) {
		char *gone = ops_page(self, cut->page);

		EXPECT_EQ(DRM_TERN_RESULT_FAULT, ops_try(self, KERNEL_LOAD, gone));
		EXPECT_EQ((uintptr_t)gone, self->t.queue.result.address);
	}
	/* All of the rest is with the CPU, and none of what is gone is left on the device. */
	EXPECT_EQ(0, tern_stats(&self->t).resident_bytes);
}

/* Rights of some pages change, and with them those of the device there, but nowhere else. */
TEST_F_TIMEOUT(ops, mprotect_parts, 120)
{
	ASSERT_EQ(0, ops_use_runs(self, variant, USED, USED_PAGES));
	/* Rights that do not matter to the device, to what it uses. */
	ASSERT_EQ(0, mprotect(self->p, OPS_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC));
	ASSERT_EQ(0, ops_sweeps(self, 1));
	ASSERT_EQ(0, mprotect(self->p, OPS_BYTES, PROT_READ | PROT_WRITE));
	for (const struct part *cut = cuts; cut->pages; cut++)
		ASSERT_EQ(0, mprotect(ops_page(self, cut->page), cut->pages * PAGE, PROT_READ));
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	for (const struct part *cut = cuts; cut->pages; cut++) {
		char *p = ops_page(self, cut->page);

		EXPECT_EQ(DRM_TERN_RESULT_OK, ops_try(self, KERNEL_LOAD, p));
		EXPECT_EQ(DRM_TERN_RESULT_FAULT, ops_try(self, KERNEL_STORE, p));
		EXPECT_EQ(DRM_TERN_ACCESS_WRITE, self->t.queue.result.access);
		ASSERT_EQ(0, mprotect(p, cut->pages * PAGE, PROT_NONE));
		EXPECT_EQ(DRM_TERN_RESULT_FAULT, ops_try(self, KERNEL_LOAD, p));
		EXPECT_EQ(DRM_TERN_ACCESS_READ, self->t.queue.result.access);
	}
	for (const struct part *rest = rests; rest->pages; rest++)
		EXPECT_TRUE(ops_holds(self, ops_page(self, rest->page), rest->page, rest->pages));
	for (const struct part *cut = cuts; cut->pages; cut++)
		ASSERT_EQ(0, mprotect(ops_page(self, cut->page), cut->pages * PAGE,
				      PROT_READ | PROT_WRITE));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/*
 * From now on in use if it is to be, the memory is mapped elsewhere by mremap() with @flags and a
 * size of @bytes: at @to if that is not NULL, or else where the kernel likes to. Returns where.
 */
static char *map_elsewhere(struct __test_metadata *_metadata, struct _test_data_ops *self,
			   const struct _fixture_variant_ops *variant, char *to, size_t bytes,
			   int flags)
{
	char *moved;

	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	moved = mremap(self->p, OPS_BYTES, bytes,
		       MREMAP_MAYMOVE | flags | (to ? MREMAP_FIXED : 0), to);
	ASSERT_NE(MAP_FAILED, moved);
	ASSERT_NE((char *)self->p, moved);
	if (to)
		ASSERT_EQ(to, moved);
	if (!to)
		ASSERT_NE(NULL, tern_keep(&self->t, moved, bytes));
	return moved;
}

/*
 * Memory moves away from who uses it: to @to if that is not NULL, or else where the kernel likes
 * to, since it grows by @more pages, for which there is no room.
 */
static void move_to(struct __test_metadata *_metadata, struct _test_data_ops *self,
		    const struct _fixture_variant_ops *variant, char *to, unsigned long more)
{
	uintptr_t old = (uintptr_t)self->p;
	char *moved = map_elsewhere(_metadata, self, variant, to, OPS_BYTES + more * PAGE, 0);

	ASSERT_EQ(variant->in_use ? DRM_TERN_RESULT_FAULT : DRM_TERN_RESULT_OK, ops_stop(self));
	if (variant->in_use) {
		EXPECT_LE(old, self->users.result.address);
		EXPECT_GT(old + OPS_BYTES, self->users.result.address);
	} else {
		EXPECT_EQ(OPS_BYTES, tern_stats(&self->t).resident_bytes);
	}
	EXPECT_EQ(DRM_TERN_RESULT_FAULT, ops_try(self, KERNEL_STORE, self->p));
	EXPECT_TRUE(ops_holds(self, moved, 0, OPS_PAGES));
	EXPECT_TRUE(ops_is_zero(self, moved + OPS_BYTES, more));
}

TEST_F_TIMEOUT(ops, mremap_aligned, 120)
{
	char *target = tern_map(&self->t, OPS_BYTES + HUGE_PAGE, variant->advice);

	ASSERT_NE(NULL, target);
	move_to(_metadata, self, variant, target + HUGE_PAGE, 0);
}

TEST_F_TIMEOUT(ops, mremap_unaligned, 120)
{
	char *target = tern_map(&self->t, OPS_BYTES + HUGE_PAGE, variant->advice);

	ASSERT_NE(NULL, target);
	move_to(_metadata, self, variant, target + PAGE, 0);
}

/* As realloc() does. */
TEST_F_TIMEOUT(ops, mremap_grows_elsewhere, 120)
{
	move_to(_metadata, self, variant, NULL, 3);
}

/* Of private memory, nothing cannot be moved: there would be two of it. */
TEST_F_TIMEOUT(ops, mremap_nothing, 120)
{
	char *target = tern_map(&self->t, OPS_BYTES, variant->advice);

	ASSERT_NE(NULL, target);
	memset(target, 0x55, PAGE);
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	for (unsigned long page = 100; page < OPS_PAGES; page += 411) {
		char *p = ops_page(self, page);

		EXPECT_EQ(MAP_FAILED, mremap(p, 0, PAGE, MREMAP_MAYMOVE));
		EXPECT_EQ(EINVAL, errno);
		errno = 0;
		EXPECT_EQ(MAP_FAILED, mremap(p, 0, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target));
		EXPECT_EQ(EINVAL, errno);
	}
	if (!variant->in_use)
		EXPECT_EQ(OPS_BYTES, tern_stats(&self->t).resident_bytes);
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	for (size_t i = 0; i < PAGE; i++)
		ASSERT_EQ(0x55, target[i]);
}

/* Some pages move out of the midst of what is used. */
TEST_F_TIMEOUT(ops, mremap_parts, 120)
{
	char *target = tern_map(&self->t, OPS_BYTES, variant->advice);

	ASSERT_NE(NULL, target);
	ASSERT_EQ(0, ops_use_runs(self, variant, USED, USED_PAGES));
	for (const struct part *cut = cuts; cut->pages; cut++) {
		char *to = target + (cut->page + 7) * PAGE;

		ASSERT_EQ(to, mremap(ops_page(self, cut->page), cut->pages * PAGE,
				     cut->pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	}
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	for (const struct part *cut = cuts; cut->pages; cut++)
		EXPECT_TRUE(ops_holds(self, target + (cut->page + 7) * PAGE, cut->page,
				      cut->pages));
	for (const struct part *rest = rests; rest->pages; rest++)
		EXPECT_TRUE(ops_holds(self, ops_page(self, rest->page), rest->page, rest->pages));
}

/* The memory grows where it is, shrinks, and grows where it moves to. */
TEST_F_TIMEOUT(ops, mremap_resize, 120)
{
	char *target = tern_map(&self->t, OPS_BYTES + HUGE_PAGE, variant->advice);
	size_t small = OPS_BYTES - 5 * PAGE, large = OPS_BYTES + 3 * PAGE;

	ASSERT_NE(NULL, target);
	ASSERT_EQ(0, ops_use_runs(self, variant, USED, USED_PAGES));
	/* Nothing is in the way. */
	ASSERT_EQ(0, munmap(ops_page(self, OPS_PAGES), HUGE_PAGE));
	ASSERT_EQ(self->p, mremap(self->p, OPS_BYTES, large, 0));
	ASSERT_EQ(0, ops_sweeps(self, 1));
	ASSERT_TRUE(ops_is_zero(self, ops_page(self, OPS_PAGES), 3));
	ASSERT_EQ(self->p, mremap(self->p, large, small, 0));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_EQ(DRM_TERN_RESULT_FAULT, ops_try(self, KERNEL_LOAD, (char *)self->p + small));
	EXPECT_TRUE(ops_holds(self, self->p, 0, small / PAGE));

	ASSERT_EQ(target, mremap(self->p, small, large, MREMAP_MAYMOVE | MREMAP_FIXED, target));
	EXPECT_TRUE(ops_holds(self, target, 0, small / PAGE));
	EXPECT_TRUE(ops_is_zero(self, target + small, (large - small) / PAGE));
}

/*
 * Whether @o->p and @target, where it was moved from and to, have all that was added in sum. A
 * thread that has read a word before the move may write it after that.
 */
static int is_shared_out(const struct _test_data_ops *o, const unsigned long *target)
{
	int late[TERN_THREADS] = {};

	for (unsigned long i = 0; i < WORDS(OPS_BYTES); i++) {
		unsigned long all = tern_pattern(i) + 1 + ops_added(o, i);

		if (o->p[i] == all)
			late[i % TERN_THREADS]++;
		else if (o->p[i] + target[i] != all)
			return 0;
		if (all - target[i] > ops_added(o, i) || late[i % TERN_THREADS] > 1)
			return 0;
	}
	return 1;
}

/*
 * What stays mapped in the old place is empty; whoever uses that goes on with zeros. @to is as for
 * move_to().
 */
static void leave_behind(struct __test_metadata *_metadata, struct _test_data_ops *self,
			 const struct _fixture_variant_ops *variant, char *to)
{
	char *moved = map_elsewhere(_metadata, self, variant, to, OPS_BYTES, MREMAP_DONTUNMAP);

	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	if (variant->in_use) {
		EXPECT_TRUE(is_shared_out(self, (void *)moved));
	} else {
		EXPECT_TRUE(ops_is_zero(self, self->p, OPS_PAGES));
		EXPECT_TRUE(ops_holds(self, moved, 0, OPS_PAGES));
	}
}

TEST_F_TIMEOUT(ops, mremap_dontunmap, 120)
{
	char *target = tern_map(&self->t, OPS_BYTES, variant->advice);

	ASSERT_NE(NULL, target);
	leave_behind(_metadata, self, variant, target);
}

TEST_F_TIMEOUT(ops, mremap_dontunmap_anywhere, 120)
{
	leave_behind(_metadata, self, variant, NULL);
}

/* Memory moves over other memory, which is gone. */
TEST_F_TIMEOUT(ops, mremap_over, 120)
{
	unsigned long *other = tern_resident(&self->t, OPS_BYTES, variant->advice);

	ASSERT_NE(NULL, other);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_FILL, (struct kernel_args){
		.p = self->p, .count = WORDS(OPS_BYTES), .value = 5 }));
	ASSERT_EQ(2 * OPS_BYTES, tern_stats(&self->t).resident_bytes);
	ASSERT_EQ(self->p, mremap(other, OPS_BYTES, OPS_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
				  self->p));
	EXPECT_EQ(OPS_BYTES, tern_stats(&self->t).resident_bytes);
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* Whether memory is what it was at one moment while the device added to it. */
static int is_snapshot(const struct _test_data_ops *o, const unsigned long *p)
{
	unsigned long first[TERN_THREADS], last[TERN_THREADS];

	for (unsigned long i = 0; i < WORDS(OPS_BYTES); i++) {
		unsigned long added = p[i] - tern_pattern(i) - 1;
		unsigned long thread = i % TERN_THREADS;

		if (i < TERN_THREADS) {
			if (added > o->sweeps[1 + thread] + !!o->count)
				return 0;
			first[thread] = added;
		} else if (added > last[thread] || first[thread] - added > 1) {
			/* A thread has yet to come to the words behind that where it is. */
			return 0;
		}
		last[thread] = added;
	}
	return 1;
}

/* A child has what was there at fork(); what it writes is its own, and the parent's is not. */
TEST_F_TIMEOUT(ops, fork, 120)
{
	pid_t pid;

	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		unsigned long *copy = malloc(OPS_BYTES);

		if (!copy || !is_snapshot(self, self->p))
			_exit(1);
		memcpy(copy, self->p, OPS_BYTES);
		/* While the parent's changes. */
		if (memcmp(copy, self->p, OPS_BYTES))
			_exit(2);
		memset(self->p, 0x55, OPS_BYTES);
		_exit(0);
	}
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	EXPECT_TRUE(tern_child_ok(pid));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* Whether every word of @p is that of @seed plus @more. */
static int is_plus(const unsigned long *p, const unsigned long *seed, unsigned long more)
{
	for (unsigned long i = 0; i < WORDS(OPS_BYTES); i++) {
		if (p[i] != seed[i] + more)
			return 0;
	}
	return 1;
}

/* Each of @left generations adds to its own, and finds that nobody else's adding shows. */
static int generation(unsigned long *p, const unsigned long *seed, int left)
{
	pid_t pid;

	if (!left)
		return 0;
	pid = fork();
	if (pid < 0)
		return 1;
	if (!pid) {
		if (!is_plus(p, seed, 0))
			_exit(2);
		_exit(generation(p, seed, left - 1));
	}
	for (unsigned long i = 0; i < WORDS(OPS_BYTES); i++)
		p[i] += left;
	return !tern_child_ok(pid) || !is_plus(p, seed, left);
}

TEST_F_TIMEOUT(ops, fork_three_generations, 120)
{
	unsigned long *seed = malloc(OPS_BYTES);
	pid_t pid;

	ASSERT_NE(NULL, seed);
	for (unsigned long i = 0; i < WORDS(OPS_BYTES); i++)
		seed[i] = tern_pattern(i) + 1;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(generation(self->p, seed, 3));
	free(seed);
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	EXPECT_TRUE(tern_child_ok(pid));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* The child of a process that put memory on the device, and has ended with its device's file. */
static int orphan(int ended, unsigned long *p)
{
	struct kernel_args args = { .p = p, .count = WORDS(OPS_BYTES), .value = 1 };
	struct tern t;
	char c;

	/* The end of the file is the end of the parent. */
	if (read(ended, &c, 1) || tern_begin(&t))
		return 1;
	if (tern_run(&t, KERNEL_ADD, args) != DRM_TERN_RESULT_OK)
		return 2;
	if (tern_check_pattern(p, OPS_BYTES, 2) != -1)
		return 3;
	memset(p, 0x55, OPS_BYTES);
	return 0;
}

TEST_F_TIMEOUT(ops, fork_parent_exits_first, 120)
{
	int ended[2], report[2];
	char result = -1;
	pid_t pid;

	ASSERT_EQ(0, pipe(ended));
	ASSERT_EQ(0, pipe(report));
	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct tern t;
		unsigned long *p;

		if (tern_begin(&t))
			_exit(1);
		p = tern_resident(&t, OPS_BYTES, variant->advice);
		if (!p || tern_stats(&t).resident_bytes != OPS_BYTES)
			_exit(2);
		pid = fork();
		if (!pid) {
			close(ended[1]);
			close(t.fd);
			result = orphan(ended[0], p);
			_exit(write(report[1], &result, 1) != 1);
		}
		_exit(pid < 0);
	}
	close(ended[1]);
	close(report[1]);
	EXPECT_TRUE(tern_child_ok(pid));
	EXPECT_EQ(1, read(report[0], &result, 1));
	EXPECT_EQ(0, result);
	/* It says so before it ends, and with it its memory. */
	EXPECT_EQ(0, read(report[0], &result, 1));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* What the parent still uses is mapped elsewhere, in part and not at all by its child. */
TEST_F_TIMEOUT(ops, fork_child_rearranges, 120)
{
	int go[2];
	pid_t pid;

	ASSERT_EQ(0, pipe(go));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		char *target = tern_map(&self->t, OPS_BYTES, variant->advice), c;
		char *to = target + 7 * PAGE;

		close(go[1]);
		if (!target || munmap(ops_page(self, 500), 20 * PAGE) ||
		    mremap(ops_page(self, 100), 16 * PAGE, 16 * PAGE,
			   MREMAP_MAYMOVE | MREMAP_FIXED, to) != to ||
		    madvise(ops_page(self, 540), 10 * PAGE, MADV_DONTNEED))
			_exit(1);
		/* The parent has written to all of it by then. */
		if (read(go[0], &c, 1) != 1)
			_exit(2);
		if (ops_check(self, (void *)to, 100, 16 * PAGE, 0) != -1 ||
		    ops_check(self, self->p, 0, 100 * PAGE, 0) != -1 ||
		    ops_check(self, (void *)ops_page(self, 116), 116, 384 * PAGE, 0) != -1 ||
		    ops_check(self, (void *)ops_page(self, 550), 550,
			      (OPS_PAGES - 550) * PAGE, 0) != -1)
			_exit(3);
		for (char *p = ops_page(self, 540); p < ops_page(self, 550); p++) {
			if (*p)
				_exit(4);
		}
		_exit(0);
	}
	close(go[0]);
	ASSERT_EQ(0, ops_use(self, variant, 90, 60));
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	EXPECT_EQ(1, write(go[1], "", 1));
	close(go[1]);
	EXPECT_TRUE(tern_child_ok(pid));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

/* What is thrown away is zero for the device and for the CPU, and the rest is as it was. */
TEST_F_TIMEOUT(ops, dontneed_parts, 120)
{
	ASSERT_EQ(0, ops_use_runs(self, variant, USED, USED_PAGES));
	for (const struct part *cut = cuts; cut->pages; cut++)
		ASSERT_EQ(0, madvise(ops_page(self, cut->page), cut->pages * PAGE, MADV_DONTNEED));
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	for (const struct part *cut = cuts; cut->pages; cut++)
		EXPECT_TRUE(ops_is_zero(self, ops_page(self, cut->page), cut->pages));
	for (const struct part *rest = rests; rest->pages; rest++)
		EXPECT_TRUE(ops_holds(self, ops_page(self, rest->page), rest->page, rest->pages));
}

/* Guard pages keep the device away as they keep the CPU away, and are empty without the guard. */
TEST_F_TIMEOUT(ops, guard_parts, 120)
{
	int status;
	pid_t pid;

	ASSERT_EQ(0, ops_use_runs(self, variant, USED, USED_PAGES));
	for (const struct part *cut = cuts; cut->pages; cut++) {
		int ret = madvise(ops_page(self, cut->page), cut->pages * PAGE, MADV_GUARD_INSTALL);

		if (ret && errno == EINVAL)
			SKIP(return, "the kernel has no guard pages");
		ASSERT_EQ(0, ret);
	}
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	/* A child has them, too. */
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		__atomic_load_n(ops_page(self, cuts->page), __ATOMIC_RELAXED);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(SIGSEGV, WTERMSIG(status));
	for (const struct part *cut = cuts; cut->pages; cut++) {
		char *p = ops_page(self, cut->page);

		EXPECT_EQ(DRM_TERN_RESULT_FAULT, ops_try(self, KERNEL_LOAD, p));
		EXPECT_EQ(DRM_TERN_RESULT_FAULT, ops_try(self, KERNEL_STORE, p));
		ASSERT_EQ(0, madvise(p, cut->pages * PAGE, MADV_GUARD_REMOVE));
		EXPECT_TRUE(ops_is_zero(self, p, cut->pages));
	}
	for (const struct part *rest = rests; rest->pages; rest++)
		EXPECT_TRUE(ops_holds(self, ops_page(self, rest->page), rest->page, rest->pages));
}

/* Whether a page is as it was, or empty. */
static int is_old_or_zero(const struct _test_data_ops *o, unsigned long page)
{
	const unsigned long *p = (void *)ops_page(o, page);

	for (unsigned long i = 0; i < WORDS(PAGE); i++) {
		if (p[i] && p[i] != tern_pattern(page * WORDS(PAGE) + i) + 1)
			return 0;
		if (!p[i] != !p[0])
			return 0;
	}
	return 1;
}

/* What is freed lazily is there or is zero, page by page; what is written then stays. */
TEST_F_TIMEOUT(ops, free_parts, 120)
{
	ASSERT_EQ(0, ops_use_runs(self, variant, USED, USED_PAGES));
	for (const struct part *cut = cuts; cut->pages; cut++) {
		size_t bytes = cut->pages * PAGE;
		char *p = ops_page(self, cut->page);
		struct kernel_args fill = { .p = (void *)p, .count = WORDS(bytes) };

		/* On the device first, and where the check has left it. */
		for (int round = 0; round < 2; round++) {
			ASSERT_EQ(0, madvise(p, bytes, MADV_FREE));
			ASSERT_EQ(0, madvise(p, bytes, MADV_PAGEOUT));
			for (unsigned long page = 0; page < cut->pages; page++)
				ASSERT_TRUE(is_old_or_zero(self, cut->page + page));
		}
		for (fill.value = 1; fill.value <= 2; fill.value++) {
			ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(&self->t, KERNEL_FILL, fill));
			ASSERT_EQ(0, fill.value == 1 && madvise(p, bytes, MADV_FREE));
		}
		ASSERT_EQ(0, madvise(p, bytes, MADV_PAGEOUT));
		EXPECT_EQ(-1, tern_check_count(fill.p, bytes, 2));
	}
	EXPECT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	for (const struct part *rest = rests; rest->pages; rest++)
		EXPECT_TRUE(ops_holds(self, ops_page(self, rest->page), rest->page, rest->pages));
}

/* Huge pages are allowed, or not any more, for what is on the device. */
TEST_F_TIMEOUT(ops, hugepage_and_nohugepage, 120)
{
	const int other = variant->advice == MADV_HUGEPAGE ? MADV_NOHUGEPAGE : MADV_HUGEPAGE;

	ASSERT_EQ(0, ops_use(self, variant, 0, OPS_PAGES));
	ASSERT_EQ(0, madvise(self->p, OPS_BYTES, other));
	ASSERT_EQ(0, madvise(ops_page(self, 100), 16 * PAGE, variant->advice));
	ASSERT_EQ(DRM_TERN_RESULT_OK, ops_stop(self));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
	ASSERT_EQ(0, madvise(self->p, OPS_BYTES, variant->advice));
	EXPECT_TRUE(ops_holds(self, self->p, 0, OPS_PAGES));
}

TEST_HARNESS_MAIN
