// SPDX-License-Identifier: GPL-2.0
/*
 * What a kernel must not do ends its dispatch with the reason, and nothing else: the process
 * and other dispatches go on. What it may do at the same time as the CPU stays consistent.
 */
#include <pthread.h>

#include "kselftest_harness.h"
#include "tern_test.h"

/* Offset of the access into its page, to see that the address is exact. */
#define OFFSET 24

FIXTURE(fault)
{
	struct tern t;
};

FIXTURE_SETUP(fault)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(fault)
{
	ASSERT_EQ(0, tern_end(&self->t));
}

/* Whether the device still does what it is told. */
static int works(struct tern *t)
{
	unsigned long *p = tern_map(t, 4 * PAGE, MADV_NOHUGEPAGE);
	struct kernel_args args = { .p = p, .count = WORDS(4 * PAGE), .value = 11 };

	return p && tern_run(t, KERNEL_FILL, args) == DRM_TERN_RESULT_OK &&
	       tern_check_count(p, 4 * PAGE, 11) == -1;
}

/* Where the forbidden access goes. */
enum where {
	PLACE_NONE,		/* memory with PROT_NONE */
	PLACE_READ_ONLY,	/* anonymous memory with PROT_READ, with contents */
	PLACE_READ_ONLY_HUGE,	/* the same, a huge page */
	PLACE_READ_ONLY_FILE,	/* a shared mapping of a file opened for reading */
	PLACE_UNMAPPED,		/* nothing */
	PLACE_BEYOND_FILE,	/* a mapping longer than its file */
	PLACE_NULL,
	PLACE_KERNEL,
	PLACE_NOT_CANONICAL,
};

/* Memory with contents and @protection; NULL on failure. */
static char *protected(struct tern *t, size_t bytes, int advice, int protection)
{
	char *p = tern_map(t, bytes, advice);

	if (!p)
		return NULL;
	tern_write_pattern((unsigned long *)p, bytes);
	return mprotect(p, bytes, protection) ? NULL : p;
}

/* A file of one page, which may only be read, mapped as two. */
static char *file_page(struct tern *t)
{
	int writer, reader;
	char *p = tern_shared(PAGE, &writer);
	char path[32];

	if (!p)
		return NULL;
	munmap(p, PAGE);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", writer);
	reader = open(path, O_RDONLY | O_CLOEXEC);
	p = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, reader, 0);
	close(writer);
	close(reader);
	return tern_keep(t, p, 2 * PAGE);
}

static char *unmapped(struct tern *t)
{
	/* The middle of the range stays free, since it is undone as a whole. */
	char *p = tern_map(t, 3 * PAGE, MADV_NOHUGEPAGE);

	if (!p || munmap(p + PAGE, PAGE))
		return NULL;
	return p + PAGE;
}

static char *find_place(struct tern *t, enum where where)
{
	char *p;

	switch (where) {
	case PLACE_NONE:
		return protected(t, PAGE, MADV_NOHUGEPAGE, PROT_NONE);
	case PLACE_READ_ONLY:
		return protected(t, PAGE, MADV_NOHUGEPAGE, PROT_READ);
	case PLACE_READ_ONLY_HUGE:
		return protected(t, HUGE_PAGE, MADV_HUGEPAGE, PROT_READ);
	case PLACE_READ_ONLY_FILE:
		return file_page(t);
	case PLACE_UNMAPPED:
		return unmapped(t);
	case PLACE_BEYOND_FILE:
		p = file_page(t);
		return p ? p + PAGE : NULL;
	case PLACE_NULL:
		return NULL;
	case PLACE_KERNEL:
		return (char *)0xffff888000000000UL;
	case PLACE_NOT_CANONICAL:
		return (char *)0x123456789abcd000UL;
	}
	return NULL;
}

/* Runs @kernel on @address; whether it ends with exactly this fault and all else goes on. */
static int faults(struct tern *t, enum kernel_id kernel, char *address, __u32 access)
{
	unsigned long *out = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	struct kernel_args args = { .p = (void *)address, .out = out, .value = 1 };
	const struct drm_tern_result *result = &t->queue.result;
	__u64 cancels = tern_stats(t).cancels;

	return out && tern_run(t, kernel, args) == DRM_TERN_RESULT_FAULT &&
	       result->address == (uintptr_t)address && result->access == access &&
	       tern_stats(t).cancels > cancels && !*out && works(t);
}

TEST_F(fault, forbidden_accesses)
{
	static const struct {
		enum where where;
		enum kernel_id kernel;
		__u32 access;
	} cases[] = {
		{ PLACE_NONE, KERNEL_LOAD, DRM_TERN_ACCESS_READ },
		{ PLACE_NONE, KERNEL_STORE, DRM_TERN_ACCESS_WRITE },
		{ PLACE_NONE, KERNEL_ATOMIC, DRM_TERN_ACCESS_ATOMIC },
		{ PLACE_READ_ONLY, KERNEL_STORE, DRM_TERN_ACCESS_WRITE },
		{ PLACE_READ_ONLY, KERNEL_ATOMIC, DRM_TERN_ACCESS_ATOMIC },
		{ PLACE_READ_ONLY_HUGE, KERNEL_STORE, DRM_TERN_ACCESS_WRITE },
		{ PLACE_READ_ONLY_FILE, KERNEL_STORE, DRM_TERN_ACCESS_WRITE },
		{ PLACE_UNMAPPED, KERNEL_LOAD, DRM_TERN_ACCESS_READ },
		{ PLACE_UNMAPPED, KERNEL_STORE, DRM_TERN_ACCESS_WRITE },
		{ PLACE_UNMAPPED, KERNEL_JUMP, DRM_TERN_ACCESS_FETCH },
		{ PLACE_BEYOND_FILE, KERNEL_LOAD, DRM_TERN_ACCESS_READ },
		{ PLACE_NULL, KERNEL_LOAD, DRM_TERN_ACCESS_READ },
		{ PLACE_NULL, KERNEL_STORE, DRM_TERN_ACCESS_WRITE },
		{ PLACE_KERNEL, KERNEL_LOAD, DRM_TERN_ACCESS_READ },
		{ PLACE_KERNEL, KERNEL_STORE, DRM_TERN_ACCESS_WRITE },
		{ PLACE_NOT_CANONICAL, KERNEL_LOAD, DRM_TERN_ACCESS_READ },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct tern *t = &self->t;
		enum where where = cases[i].where;
		char *place = find_place(t, where);

		ASSERT_TRUE(place || where == PLACE_NULL);
		/* Twice, since the first try may have changed how the memory is mapped. */
		for (int round = 0; round < 2; round++) {
			EXPECT_TRUE(faults(t, cases[i].kernel, place + OFFSET, cases[i].access))
				TH_LOG("case %u.%d: status %u, access %u, address %llx, not %p",
				       i, round, t->queue.result.status, t->queue.result.access,
				       t->queue.result.address, place + OFFSET);
		}
		if (where == PLACE_READ_ONLY)
			EXPECT_EQ(-1, tern_check_pattern((void *)place, PAGE, 0));
		if (where == PLACE_READ_ONLY_HUGE)
			EXPECT_EQ(-1, tern_check_pattern((void *)place, HUGE_PAGE, 0));
		tern_unmap_all(t);
	}
}

/* Memory that may only be read can be read. */
TEST_F(fault, read_only_memory_is_read)
{
	struct tern *t = &self->t;
	unsigned long *out = tern_map(t, HUGE_PAGE, MADV_HUGEPAGE);
	const int advices[] = { MADV_HUGEPAGE, MADV_NOHUGEPAGE };

	ASSERT_NE(NULL, out);
	for (int i = 0; i < 2; i++) {
		void *p = protected(t, HUGE_PAGE, advices[i], PROT_READ);

		ASSERT_NE(NULL, p);
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_COPY, (struct kernel_args){
			.p = p, .out = out, .count = WORDS(HUGE_PAGE) }));
		EXPECT_EQ(-1, tern_check_pattern(out, HUGE_PAGE, 0));
		EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 0));
	}
}

/*
 * A dispatch that may not write to a page is ended, and not another one that only reads it, even
 * if the driver hears of both at the same time. A third one keeps it busy meanwhile.
 */
TEST_F_TIMEOUT(fault, a_reader_survives_a_writer, 120)
{
	enum { ROUNDS = 20 };
	struct tern *t = &self->t;
	size_t bytes = 16 * PAGE, busy_bytes = 4 * HUGE_PAGE;
	unsigned long *out = tern_keep(t, tern_shared(bytes, NULL), bytes);
	unsigned long *p = tern_keep(t, tern_shared(bytes, NULL), bytes);
	unsigned long *work = tern_map(t, busy_bytes, MADV_NOHUGEPAGE);
	struct kernel_args read = { .p = p, .out = out, .count = WORDS(bytes) };
	struct kernel_args write = { .p = p, .count = WORDS(bytes), .value = 1 };
	struct kernel_args fill = { .p = work, .count = WORDS(busy_bytes), .value = 1 };
	struct tern_queue busy, writer;

	ASSERT_NE(NULL, out);
	ASSERT_NE(NULL, p);
	ASSERT_NE(NULL, work);
	ASSERT_EQ(0, tern_queue_init(t, &busy, 0));
	ASSERT_EQ(0, tern_queue_init(t, &writer, 0));
	tern_write_pattern(p, bytes);
	for (int round = 0; round < ROUNDS; round++) {
		/* Takes the pages away from the device. */
		ASSERT_EQ(0, madvise(work, busy_bytes, MADV_DONTNEED));
		ASSERT_EQ(0, mprotect(p, bytes, PROT_NONE));
		ASSERT_EQ(0, mprotect(p, bytes, PROT_READ));
		memset(out, 0, bytes);
		ASSERT_EQ(0, tern_start(t, &busy, KERNEL_FILL, fill, TERN_THREADS, 0));
		ASSERT_EQ(0, tern_start(t, &writer, KERNEL_FILL, write, TERN_THREADS, 0));
		ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_COPY, read, TERN_THREADS, 0));
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
		ASSERT_EQ(-1, tern_check_pattern(out, bytes, 0));
		ASSERT_EQ(DRM_TERN_RESULT_FAULT, tern_finish(t, &writer));
		ASSERT_EQ(DRM_TERN_ACCESS_WRITE, writer.result.access);
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &busy));
	}
	tern_queue_free(t, &writer);
	tern_queue_free(t, &busy);
}

/* Many threads write to many pages that none of them may write to; it still ends once. */
TEST_F(fault, many_threads_at_once)
{
	struct tern *t = &self->t;
	size_t bytes = 256 * PAGE;
	char *p = protected(t, bytes, MADV_NOHUGEPAGE, PROT_READ);
	struct kernel_args args = { .p = (void *)p, .count = WORDS(bytes), .value = 1 };

	ASSERT_NE(NULL, p);
	ASSERT_EQ(DRM_TERN_RESULT_FAULT, tern_run_threads(t, KERNEL_ADD, args, 1000));
	EXPECT_EQ(DRM_TERN_ACCESS_WRITE, t->queue.result.access);
	EXPECT_LE((uintptr_t)p, t->queue.result.address);
	EXPECT_GT((uintptr_t)p + bytes, t->queue.result.address);
	EXPECT_EQ(-1, tern_check_pattern((unsigned long *)p, bytes, 0));
	EXPECT_TRUE(works(t));
}

/* What stands before the fault in the same memory was done, and the next in the queue runs. */
TEST_F(fault, the_queue_goes_on)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_map(t, PAGE, MADV_NOHUGEPAGE);
	struct kernel_args fill = { .p = p, .count = WORDS(PAGE), .value = 1 };
	__u64 first;

	ASSERT_NE(NULL, p);
	/* The arguments are shared by all three: only what each uses matters. */
	ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_FILL, fill, 1, 0));
	first = t->queue.seqno;
	ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_ILLEGAL, fill, 1, 0));
	ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_ADD, fill, 1, 0));
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
	ASSERT_EQ(0, tern_result(t, &t->queue, first));
	EXPECT_EQ(DRM_TERN_RESULT_OK, t->queue.result.status);
	ASSERT_EQ(0, tern_result(t, &t->queue, first + 1));
	EXPECT_EQ(DRM_TERN_RESULT_ILLEGAL, t->queue.result.status);
	EXPECT_EQ(-1, tern_check_count(p, PAGE, 2));
}

TEST_F(fault, illegal_instruction)
{
	struct tern *t = &self->t;

	ASSERT_EQ(DRM_TERN_RESULT_ILLEGAL,
		  tern_run(t, KERNEL_ILLEGAL, (struct kernel_args){}));
	EXPECT_LE((uintptr_t)t->code, t->queue.result.address);
	EXPECT_GT((uintptr_t)t->code + t->code_bytes, t->queue.result.address);
	EXPECT_TRUE(works(t));
}

TEST_F(fault, misaligned_atomic)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_map(t, PAGE, MADV_NOHUGEPAGE);
	char *address;

	ASSERT_NE(NULL, p);
	tern_write_pattern(p, PAGE);
	address = (char *)p + 4;
	ASSERT_EQ(DRM_TERN_RESULT_MISALIGNED, tern_run(t, KERNEL_ATOMIC, (struct kernel_args){
		.p = (void *)address, .value = 1 }));
	EXPECT_EQ((uintptr_t)address, t->queue.result.address);
	EXPECT_EQ(-1, tern_check_pattern(p, PAGE, 0));
	EXPECT_TRUE(works(t));
}

/* An entry or arguments that the process does not have. */
TEST_F(fault, bad_entry_and_arguments)
{
	struct tern *t = &self->t;
	struct drm_tern_submit submit = tern_submission(t, &t->queue, KERNEL_LOAD);
	char *nothing = unmapped(t);

	ASSERT_NE(NULL, nothing);
	submit.args = (uintptr_t)nothing;
	ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit));
	t->queue.seqno = submit.seqno;
	EXPECT_EQ(DRM_TERN_RESULT_FAULT, tern_finish(t, &t->queue));
	EXPECT_EQ(DRM_TERN_ACCESS_READ, t->queue.result.access);

	submit = tern_submission(t, &t->queue, KERNEL_NULL);
	submit.entry = (uintptr_t)nothing;
	ASSERT_EQ(0, tern_ioctl(t->fd, DRM_IOCTL_TERN_SUBMIT, &submit));
	t->queue.seqno = submit.seqno;
	EXPECT_EQ(DRM_TERN_RESULT_FAULT, tern_finish(t, &t->queue));
	EXPECT_EQ(DRM_TERN_ACCESS_FETCH, t->queue.result.access);
	EXPECT_EQ((uintptr_t)nothing, t->queue.result.address);
	EXPECT_TRUE(works(t));
}

/* A loop without an end is ended after its time; another queue goes on meanwhile. */
TEST_F(fault, endless_loop)
{
	struct tern *t = &self->t;
	unsigned long *flag = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	struct kernel_args args = { .p = flag, .out = flag + 1, .value = 1 };
	struct tern_queue second;
	struct timespec start, end;

	ASSERT_NE(NULL, flag);
	ASSERT_EQ(0, tern_queue_init(t, &second, 0));
	clock_gettime(CLOCK_MONOTONIC, &start);
	ASSERT_EQ(0, tern_start(t, &second, KERNEL_WAIT, args, TERN_THREADS, 5000));
	for (int i = 0; i < 10; i++)
		ASSERT_TRUE(works(t));
	clock_gettime(CLOCK_MONOTONIC, &end);
	ASSERT_EQ(0, tern_result(t, &second, second.seqno));
	/* A machine so slow that the time was up already proves nothing. */
	if (end.tv_sec - start.tv_sec < 4)
		EXPECT_EQ(DRM_TERN_RESULT_PENDING, second.result.status);

	EXPECT_EQ(DRM_TERN_RESULT_TIMEOUT, tern_finish(t, &second));
	EXPECT_EQ(0, flag[1]);
	/* The queue is as good as before. */
	*flag = 1;
	ASSERT_EQ(0, tern_start(t, &second, KERNEL_WAIT, args, TERN_THREADS, 0));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &second));
	EXPECT_EQ(1, flag[1]);
	tern_queue_free(t, &second);
}

/* CPU and device see each other's stores while both run. */
TEST_F(fault, handshake)
{
	struct tern *t = &self->t;
	unsigned long *flag = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	struct kernel_args args = { .p = flag, .out = flag + 8 };
	struct timespec now, limit;

	ASSERT_NE(NULL, flag);
	clock_gettime(CLOCK_MONOTONIC, &limit);
	limit.tv_sec += TERN_WAIT_SECONDS;
	for (unsigned long value = 1; value <= 50; value++) {
		args.value = value;
		ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_WAIT, args, 1, 0));
		__atomic_store_n(flag, value, __ATOMIC_RELEASE);
		while (__atomic_load_n(flag + 8, __ATOMIC_ACQUIRE) != value) {
			clock_gettime(CLOCK_MONOTONIC, &now);
			ASSERT_LT(now.tv_sec, limit.tv_sec);
		}
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
	}
}

struct adder {
	unsigned long *p;
	unsigned long count;
};

static void *cpu_adds(void *data)
{
	struct adder *adder = data;

	for (unsigned long i = 0; i < adder->count; i++)
		__atomic_fetch_add(adder->p, 1UL << 32, __ATOMIC_RELAXED);
	return NULL;
}

/* Atomics of the CPU and of the device on one word: none is lost, wherever the word is. */
TEST_F_TIMEOUT(fault, atomics, 120)
{
	enum { THREADS = 64, EACH = 200, CPU = 2000 };
	struct tern *t = &self->t;
	unsigned long *places[] = {
		tern_keep(t, tern_shared(PAGE, NULL), PAGE),
		tern_map(t, PAGE, MADV_NOHUGEPAGE),
		tern_map(t, HUGE_PAGE, MADV_HUGEPAGE),
	};

	for (int i = 0; i < 3; i++) {
		struct adder adder = { .p = places[i], .count = CPU };
		struct kernel_args args = { .p = places[i], .count = EACH, .value = 1 };
		pthread_t thread;

		ASSERT_NE(NULL, places[i]);
		ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_ATOMIC_ADD, args, THREADS, 0));
		ASSERT_EQ(0, pthread_create(&thread, NULL, cpu_adds, &adder));
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
		ASSERT_EQ(0, pthread_join(thread, NULL));
		EXPECT_EQ(((unsigned long)CPU << 32) + THREADS * EACH, *places[i]);
	}
}

TEST_HARNESS_MAIN
