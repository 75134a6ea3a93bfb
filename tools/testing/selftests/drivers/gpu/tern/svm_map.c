// SPDX-License-Identifier: GPL-2.0
/* Memory of every other kind that a process can have, which the device uses where it is. */
#include <sys/sysinfo.h>
#include <sys/uio.h>

#include "kselftest_harness.h"
#include "tern_test.h"

#define BYTES (64 * PAGE)

FIXTURE(map)
{
	struct tern t;
};

FIXTURE_SETUP(map)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(map)
{
	ASSERT_EQ(0, tern_end(&self->t));
}

/* Folios and pages that moved to the device. */
static unsigned long moved(const struct tern *t)
{
	struct drm_tern_stats stats = tern_stats(t);

	return stats.to_device_huge + stats.to_device_mid + stats.to_device_small;
}

/* A new file without a name that holds the pattern; -1 on failure. */
static int pattern_file(void)
{
	char name[] = "/tmp/tern-XXXXXX";
	unsigned long *contents = malloc(BYTES);
	int fd = mkstemp(name);

	if (fd >= 0)
		unlink(name);
	if (contents)
		tern_write_pattern(contents, BYTES);
	if (!contents || fd < 0 || write(fd, contents, BYTES) != (ssize_t)BYTES) {
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	free(contents);
	return fd;
}

/* As tern_check_pattern(), for the contents of a file. */
static long check_file(int fd, unsigned long more)
{
	unsigned long *contents = malloc(BYTES);
	long ret = -2;

	if (contents && pread(fd, contents, BYTES, 0) == (ssize_t)BYTES)
		ret = tern_check_pattern(contents, BYTES, more);
	free(contents);
	return ret;
}

TEST_F(map, private_file)
{
	struct tern *t = &self->t;
	unsigned long *out = tern_keep(t, tern_shared(BYTES, NULL), BYTES);
	int fd = pattern_file();
	unsigned long *p;

	ASSERT_NE(NULL, out);
	ASSERT_LE(0, fd);
	p = tern_keep(t, mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), BYTES);
	ASSERT_NE(NULL, p);

	/* Pages of the file are read in place. */
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_COPY, (struct kernel_args){
		.p = p, .out = out, .count = WORDS(BYTES) }));
	EXPECT_EQ(-1, tern_check_pattern(out, BYTES, 0));
	EXPECT_EQ(0, moved(t));
	EXPECT_LE(BYTES / PAGE, tern_stats(t).mapped_pages);

	/* A write makes a copy that is the process's own. */
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, BYTES));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	EXPECT_EQ(-1, check_file(fd, 0));
	close(fd);
}

TEST_F(map, shared_file)
{
	struct tern *t = &self->t;
	int fd = pattern_file();
	void *p;

	ASSERT_LE(0, fd);
	p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		SKIP(return, "the file system of /tmp cannot map files shared");
	tern_keep(t, p, BYTES);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, BYTES));
	EXPECT_EQ(-1, tern_check_pattern(p, BYTES, 1));
	EXPECT_EQ(-1, check_file(fd, 1));
	EXPECT_EQ(0, moved(t));
	close(fd);
}

/* Two mappings of the same memory: the CPU sees by one what the device does by the other. */
TEST_F(map, memfd_twice)
{
	struct tern *t = &self->t;
	int fd;
	unsigned long *first = tern_keep(t, tern_shared(BYTES, &fd), BYTES);
	unsigned long *second;

	ASSERT_NE(NULL, first);
	second = tern_keep(t, mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), BYTES);
	close(fd);
	ASSERT_NE(NULL, second);
	tern_write_pattern(first, BYTES);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, second, BYTES));
	EXPECT_EQ(-1, tern_check_pattern(first, BYTES, 1));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, first, BYTES));
	EXPECT_EQ(-1, tern_check_pattern(second, BYTES, 2));
	EXPECT_EQ(0, moved(t));
}

/*
 * Shared memory that the CPU has only read is clean as far as its page tables tell. What the
 * device then writes there is not lost when the memory is reclaimed.
 */
TEST_F(map, written_shared_memory_is_not_dropped)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_keep(t, tern_shared(BYTES, NULL), BYTES);

	ASSERT_NE(NULL, p);
	for (unsigned long i = 0; i < WORDS(BYTES); i += WORDS(PAGE))
		ASSERT_EQ(0, p[i]);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_FILL, (struct kernel_args){
		.p = p, .count = WORDS(BYTES), .value = 5 }));
	EXPECT_EQ(0, moved(t));
	/* Without swap, too, this frees what is believed to be clean. */
	ASSERT_EQ(0, madvise(p, BYTES, MADV_PAGEOUT));
	EXPECT_EQ(-1, tern_check_count(p, BYTES, 5));
}

/* As above: lazily freed memory that is written again must stay, wherever it was written. */
TEST_F(map, written_lazily_freed_memory_is_not_dropped)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_map(t, BYTES, MADV_NOHUGEPAGE);

	ASSERT_NE(NULL, p);
	tern_write_pattern(p, BYTES);
	ASSERT_EQ(0, madvise(p, BYTES, MADV_FREE));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_FILL, (struct kernel_args){
		.p = p, .count = WORDS(BYTES), .value = 5 }));
	/* It comes back. */
	ASSERT_EQ(-1, tern_check_count(p, BYTES, 5));
	ASSERT_EQ(0, madvise(p, BYTES, MADV_PAGEOUT));
	EXPECT_EQ(-1, tern_check_count(p, BYTES, 5));
}

/* A page that the device reads first and writes later, where it is. */
TEST_F(map, read_then_written)
{
	struct tern *t = &self->t;
	unsigned long *out = tern_keep(t, tern_shared(BYTES, NULL), BYTES);
	int fd = pattern_file();
	void *p;

	ASSERT_NE(NULL, out);
	ASSERT_LE(0, fd);
	p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		SKIP(return, "the file system of /tmp cannot map files shared");
	tern_keep(t, p, BYTES);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_COPY, (struct kernel_args){
		.p = p, .out = out, .count = WORDS(BYTES) }));
	EXPECT_EQ(-1, tern_check_pattern(out, BYTES, 0));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, BYTES));
	EXPECT_EQ(-1, check_file(fd, 1));
	/* Cleaned, and written again. */
	ASSERT_EQ(0, msync(p, BYTES, MS_SYNC));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, BYTES));
	EXPECT_EQ(-1, check_file(fd, 2));
	close(fd);
}

/* Free memory of the system in bytes. */
static long free_memory(void)
{
	struct sysinfo system;

	return sysinfo(&system) ? 0 : (long)(system.freeram * system.mem_unit);
}

/*
 * Maps the same page to many places, each alone in its page tables, lets the device write there
 * and unmaps it. Returns by how much free memory shrank meanwhile, or -1 on failure.
 */
static long memory_lost(struct tern *t, char *start, size_t bytes, int fd)
{
	long before = free_memory();

	for (char *p = start; p < start + bytes; p += HUGE_PAGE) {
		struct kernel_args store = { .p = (void *)p, .value = (uintptr_t)p };

		if (mmap(p, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE,
			 fd, 0) != p)
			return -1;
		if (tern_run_threads(t, KERNEL_STORE, store, 1) != DRM_TERN_RESULT_OK ||
		    *(uintptr_t *)p != (uintptr_t)p || munmap(p, PAGE))
			return -1;
	}
	before -= free_memory();
	return before > 0 ? before : 0;
}

/*
 * The device's page tables go with the memory, even where it is unmapped in small pieces. A table
 * takes more than 8 KiB. Others need memory meanwhile, but hardly as much in each of some tries.
 */
TEST_F_TIMEOUT(map, page_tables_go_with_the_memory, 120)
{
	enum { PAGES = 512, TRIES = 4 };
	const long limit = PAGES * 2 * PAGE;
	size_t bytes = PAGES * HUGE_PAGE;
	struct tern *t = &self->t;
	long lost = limit;
	char *start;
	void *page;
	int fd;

	page = tern_keep(t, tern_shared(PAGE, &fd), PAGE);
	ASSERT_NE(NULL, page);
	/* Addresses that are free. */
	start = mmap(NULL, (TRIES + 1) * bytes, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)start);
	ASSERT_EQ(0, munmap(start, (TRIES + 1) * bytes));

	for (int try = 0; try < TRIES && lost >= limit; try++) {
		lost = memory_lost(t, start + try * bytes, bytes, fd);
		ASSERT_LE(0, lost);
	}
	EXPECT_GT(limit, lost);
	close(fd);
}

/* Sets the number of huge pages that are set aside; returns what it was, or -1. */
static long set_nr_hugepages(long number)
{
	FILE *file = fopen("/proc/sys/vm/nr_hugepages", "r+");
	long before = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%ld", &before) == 1) {
		rewind(file);
		fprintf(file, "%ld", number);
	}
	fclose(file);
	return before;
}

TEST_F(map, hugetlb)
{
	struct tern *t = &self->t;
	long before = set_nr_hugepages(4);
	unsigned long *p = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT),
				-1, 0);

	if (p != MAP_FAILED) {
		tern_write_pattern(p, HUGE_PAGE);
		EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
		EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
		EXPECT_EQ(0, moved(t));
		munmap(p, HUGE_PAGE);
	}
	if (before >= 0)
		set_nr_hugepages(before);
	if (p == MAP_FAILED)
		SKIP(return, "no hugetlb page can be had");
}

/* A page that a pipe holds cannot move; the device writes to it where it is. */
TEST_F(map, page_held_by_a_pipe)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_map(t, PAGE, MADV_NOHUGEPAGE);
	struct iovec part = { .iov_base = p, .iov_len = PAGE };
	unsigned long seen[WORDS(PAGE)];
	int pipe_fds[2];

	ASSERT_NE(NULL, p);
	tern_write_pattern(p, PAGE);
	ASSERT_EQ(0, pipe(pipe_fds));
	ASSERT_EQ(PAGE, vmsplice(pipe_fds[1], &part, 1, 0));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, PAGE));
	EXPECT_EQ(0, moved(t));
	EXPECT_EQ(-1, tern_check_pattern(p, PAGE, 1));
	/* The pipe has the very page, and so what the device wrote. */
	ASSERT_EQ(PAGE, read(pipe_fds[0], seen, PAGE));
	EXPECT_EQ(-1, tern_check_pattern(seen, PAGE, 1));
	close(pipe_fds[0]);
	close(pipe_fds[1]);

	/* Now nothing holds it, so it moves when the device asks for it again. */
	ASSERT_EQ(0, mprotect(p, PAGE, PROT_READ));
	ASSERT_EQ(0, mprotect(p, PAGE, PROT_READ | PROT_WRITE));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, PAGE));
	EXPECT_EQ(-1, tern_check_pattern(p, PAGE, 2));
	EXPECT_EQ(1, moved(t));
}

/* The stack of the thread that waits for the device. */
TEST_F(map, stack)
{
	unsigned long words[WORDS(4 * PAGE)];

	self->t.leaves_memory = 1;
	tern_write_pattern(words, sizeof(words));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, words, sizeof(words)));
	EXPECT_EQ(-1, tern_check_pattern(words, sizeof(words), 1));
}

static unsigned long zeroed_words[WORDS(4 * PAGE)];
static unsigned long static_words[WORDS(4 * PAGE)] = { 1 };

/* Variables of the program, and memory from malloc. */
TEST_F(map, data_and_heap)
{
	unsigned long *heap[] = { malloc(100), malloc(5 * PAGE), malloc(3 * HUGE_PAGE) };
	const size_t sizes[] = { 96, 5 * PAGE, 3 * HUGE_PAGE };

	self->t.leaves_memory = 1;
	for (int i = 0; i < 3; i++) {
		ASSERT_NE(NULL, heap[i]);
		tern_write_pattern(heap[i], sizes[i]);
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, heap[i], sizes[i]));
		EXPECT_EQ(-1, tern_check_pattern(heap[i], sizes[i], 1));
	}
	for (int i = 0; i < 3; i++)
		free(heap[i]);

	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, zeroed_words, sizeof(zeroed_words)));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&self->t, static_words, sizeof(static_words)));
	for (unsigned long i = 0; i < WORDS(sizeof(static_words)); i++) {
		ASSERT_EQ(1, zeroed_words[i]);
		ASSERT_EQ(i ? 1 : 2, static_words[i]);
	}
}

/* The device's own stacks in memory that moves, and a thread's private words on them. */
TEST_F(map, device_stacks)
{
	struct tern *t = &self->t;
	unsigned long *out = tern_map(t, BYTES, MADV_NOHUGEPAGE);
	void *stack = tern_map(t, t->queue.stack_bytes, MADV_HUGEPAGE);
	struct drm_tern_submit submit = tern_submission(t, &t->queue, KERNEL_STACK);

	ASSERT_NE(NULL, out);
	ASSERT_NE(NULL, stack);
	*t->queue.args = (struct kernel_args){ .out = out, .count = WORDS(BYTES) };
	submit.stack = (uintptr_t)stack;
	submit.threads = 1000;
	ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit));
	t->queue.seqno = submit.seqno;
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
	for (unsigned long i = 0; i < WORDS(BYTES); i++)
		ASSERT_EQ(TERN_STACK_SUM(i), out[i]);
}

/* Code in memory that moves. */
TEST_F(map, code_that_moves)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_map(t, BYTES, MADV_NOHUGEPAGE);
	char *code = tern_map(t, t->code_bytes, MADV_NOHUGEPAGE);
	struct drm_tern_submit submit = tern_submission(t, &t->queue, KERNEL_FILL);

	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, code);
	memcpy(code, t->code, t->code_bytes);
	ASSERT_EQ(0, mprotect(code, t->code_bytes, PROT_READ | PROT_EXEC));
	*t->queue.args = (struct kernel_args){ .p = p, .count = WORDS(BYTES), .value = 3 };
	submit.entry += (uintptr_t)code - (uintptr_t)t->code;
	ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit));
	t->queue.seqno = submit.seqno;
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
	EXPECT_EQ(-1, tern_check_count(p, BYTES, 3));
	EXPECT_EQ(0, memcmp(code, t->code, t->code_bytes));
}

TEST_HARNESS_MAIN
