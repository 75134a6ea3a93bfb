// SPDX-License-Identifier: GPL-2.0
/* Memory that is moved before it is used: to the device, and back. */
#include <pthread.h>
#include <signal.h>

#include "kselftest_harness.h"
#include "tern_test.h"

FIXTURE(prefetch)
{
	struct tern t;
};

FIXTURE_SETUP(prefetch)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(prefetch)
{
	ASSERT_EQ(0, tern_end(&self->t));
}

static int prefetch(const struct tern *t, const void *p, size_t bytes, enum drm_tern_location to)
{
	struct drm_tern_prefetch args = tern_prefetch_args(t, p, bytes, to);
	int ret = tern_ioctl(t->fd, DRM_IOCTL_TERN_PREFETCH, &args);

	if (!ret && (args.size || args.address != (uintptr_t)p + bytes))
		return -EBADMSG;
	return ret;
}

static int to_device(const struct tern *t, const void *p, size_t bytes)
{
	return prefetch(t, p, bytes, DRM_TERN_LOCATION_DEVICE);
}

static int to_system(const struct tern *t, const void *p, size_t bytes)
{
	return prefetch(t, p, bytes, DRM_TERN_LOCATION_SYSTEM);
}

TEST_F(prefetch, huge_pages_there_and_back)
{
	enum { COUNT = 11 };
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, COUNT * HUGE_PAGE, MADV_HUGEPAGE);
	struct drm_tern_stats stats;

	ASSERT_NE(NULL, p);
	if (tern_anon_huge(p) != COUNT * HUGE_PAGE >> 10)
		SKIP(return, "the system has too few huge pages to give");
	ASSERT_EQ(0, to_device(t, p, COUNT * HUGE_PAGE));
	stats = tern_stats(t);
	EXPECT_EQ(COUNT, stats.to_device_huge);
	EXPECT_EQ(0, stats.to_device_small);
	EXPECT_EQ(COUNT * HUGE_PAGE, stats.bytes_to_device);
	EXPECT_EQ(COUNT * HUGE_PAGE, stats.resident_bytes);
	EXPECT_EQ(0, stats.faults);

	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, COUNT * HUGE_PAGE));
	EXPECT_EQ(COUNT, tern_stats(t).to_device_huge);

	ASSERT_EQ(0, to_system(t, p, COUNT * HUGE_PAGE));
	stats = tern_stats(t);
	EXPECT_EQ(COUNT, stats.to_system_huge);
	EXPECT_EQ(0, stats.to_system_small);
	EXPECT_EQ(0, stats.resident_bytes);
	EXPECT_EQ(COUNT * HUGE_PAGE >> 10, tern_anon_huge(p));
	EXPECT_EQ(-1, tern_check_pattern(p, COUNT * HUGE_PAGE, 1));
	EXPECT_EQ(0, tern_stats(t).cpu_faults);
}

/* Where memory was prefetched, the device does not fault, be it to write. */
TEST_F(prefetch, saves_faults)
{
	const int advices[] = { MADV_HUGEPAGE, MADV_NOHUGEPAGE };
	struct tern *t = &self->t;

	/* The code, its arguments and its stack. */
	ASSERT_NE(NULL, tern_resident(t, PAGE, MADV_NOHUGEPAGE));
	for (int i = 0; i < 2; i++) {
		unsigned long *p = tern_filled(t, 2 * HUGE_PAGE, advices[i]);
		__u64 faults = tern_stats(t).faults;

		ASSERT_NE(NULL, p);
		ASSERT_EQ(0, to_device(t, p, 2 * HUGE_PAGE));
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, 2 * HUGE_PAGE));
		EXPECT_EQ(faults, tern_stats(t).faults);
		EXPECT_EQ(-1, tern_check_pattern(p, 2 * HUGE_PAGE, 1));
	}
}

/* Once more finds nothing to do, and moves nothing. */
TEST_F(prefetch, again)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, HUGE_PAGE + 5 * PAGE, MADV_HUGEPAGE);
	struct drm_tern_stats first, second;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, to_system(t, p, HUGE_PAGE + 5 * PAGE));
	EXPECT_EQ(0, tern_stats(t).to_system_small);
	ASSERT_EQ(0, to_device(t, p, HUGE_PAGE + 5 * PAGE));
	first = tern_stats(t);
	EXPECT_EQ(HUGE_PAGE + 5 * PAGE, first.resident_bytes);
	ASSERT_EQ(0, to_device(t, p, HUGE_PAGE + 5 * PAGE));
	second = tern_stats(t);
	EXPECT_EQ(first.to_device_huge, second.to_device_huge);
	EXPECT_EQ(first.to_device_small, second.to_device_small);
	EXPECT_EQ(first.bytes_to_device, second.bytes_to_device);
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE + 5 * PAGE, 0));
}

/* Of single pages exactly those in the range come back. */
TEST_F(prefetch, part_of_single_pages_to_system)
{
	enum { PAGES = 600, FIRST = 500, COUNT = 50 };
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, PAGES * PAGE, MADV_NOHUGEPAGE);
	struct drm_tern_stats stats;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, to_device(t, p, PAGES * PAGE));
	stats = tern_stats(t);
	EXPECT_EQ(PAGES, stats.to_device_small);
	EXPECT_EQ(PAGES * PAGE, stats.resident_bytes);

	ASSERT_EQ(0, to_system(t, p + FIRST * WORDS(PAGE), COUNT * PAGE));
	stats = tern_stats(t);
	EXPECT_EQ(COUNT, stats.to_system_small);
	EXPECT_EQ(COUNT * PAGE, stats.bytes_to_system);
	EXPECT_EQ((PAGES - COUNT) * PAGE, stats.resident_bytes);
	for (unsigned long i = 0; i < COUNT * WORDS(PAGE); i++) {
		unsigned long word = FIRST * WORDS(PAGE) + i;

		ASSERT_EQ(tern_pattern(word), p[word]);
	}
	EXPECT_EQ(0, tern_stats(t).cpu_faults);
	EXPECT_EQ(-1, tern_check_pattern(p, PAGES * PAGE, 0));
}

/* A part of a huge page brings back all of it, and none of its neighbours. */
TEST_F(prefetch, part_of_huge_page_to_system)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, 3 * HUGE_PAGE, MADV_HUGEPAGE);
	struct drm_tern_stats stats;

	ASSERT_NE(NULL, p);
	if (tern_anon_huge(p) != 3 * HUGE_PAGE >> 10)
		SKIP(return, "the system has too few huge pages to give");
	ASSERT_EQ(0, to_device(t, p + WORDS(PAGE), 3 * HUGE_PAGE - 2 * PAGE));
	EXPECT_EQ(3, tern_stats(t).to_device_huge);
	ASSERT_EQ(0, to_system(t, p + WORDS(HUGE_PAGE + 7 * PAGE), PAGE));
	stats = tern_stats(t);
	EXPECT_EQ(1, stats.to_system_huge);
	EXPECT_EQ(0, stats.to_system_small);
	EXPECT_EQ(2 * HUGE_PAGE, stats.resident_bytes);
	EXPECT_EQ(-1, tern_check_pattern(p, 3 * HUGE_PAGE, 0));
	EXPECT_EQ(3, tern_stats(t).to_system_huge);
	EXPECT_EQ(3 * HUGE_PAGE >> 10, tern_anon_huge(p));
}

/* Memory that was never touched is made on the device, of zeros whatever was there before. */
TEST_F(prefetch, holes_are_zero)
{
	const int advices[] = { MADV_HUGEPAGE, MADV_NOHUGEPAGE };
	struct tern *t = &self->t;

	for (int i = 0; i < 2; i++) {
		unsigned long *dirty = tern_resident(t, 2 * HUGE_PAGE, advices[i]);
		unsigned long *p = tern_map(t, 2 * HUGE_PAGE, advices[i]);
		unsigned long *out = tern_keep(t, tern_shared(2 * HUGE_PAGE, NULL), 2 * HUGE_PAGE);
		struct kernel_args copy = { .p = p, .out = out, .count = WORDS(2 * HUGE_PAGE) };
		struct drm_tern_stats before;

		ASSERT_NE(NULL, dirty);
		ASSERT_NE(NULL, p);
		ASSERT_NE(NULL, out);
		ASSERT_EQ(0, madvise(dirty, 2 * HUGE_PAGE, MADV_DONTNEED));
		memset(out, 0xff, 2 * HUGE_PAGE);
		before = tern_stats(t);
		ASSERT_EQ(0, to_device(t, p, 2 * HUGE_PAGE));
		EXPECT_EQ(before.resident_bytes + 2 * HUGE_PAGE, tern_stats(t).resident_bytes);
		EXPECT_EQ(before.bytes_to_device, tern_stats(t).bytes_to_device);
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_COPY, copy));
		for (unsigned long word = 0; word < WORDS(2 * HUGE_PAGE); word++) {
			ASSERT_EQ(0, out[word]);
			ASSERT_EQ(0, p[word]);
		}
	}
}

/* What cannot move stays where it is, is reached there, and is no error. */
TEST_F(prefetch, what_cannot_move)
{
	struct tern *t = &self->t;
	unsigned long *shared = tern_keep(t, tern_shared(HUGE_PAGE, NULL), HUGE_PAGE);
	unsigned long *p = tern_filled(t, 3 * PAGE, MADV_NOHUGEPAGE);
	struct drm_tern_stats stats;

	ASSERT_NE(NULL, shared);
	ASSERT_NE(NULL, p);
	/* The code, its arguments and its stack. */
	ASSERT_EQ(DRM_TERN_RESULT_OK,
		  tern_run(t, KERNEL_ADD, (struct kernel_args){ .p = shared, .count = 1 }));
	tern_write_pattern(shared, HUGE_PAGE);
	stats = tern_stats(t);
	ASSERT_EQ(0, to_device(t, shared, HUGE_PAGE));
	EXPECT_EQ(0, tern_stats(t).resident_bytes);
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, shared, HUGE_PAGE));
	EXPECT_EQ(stats.faults, tern_stats(t).faults);
	EXPECT_EQ(-1, tern_check_pattern(shared, HUGE_PAGE, 1));
	ASSERT_EQ(0, to_system(t, shared, HUGE_PAGE));

	/* An area that cannot be read, in the midst of one that can. */
	ASSERT_EQ(0, mprotect(p + WORDS(PAGE), PAGE, PROT_NONE));
	ASSERT_EQ(0, to_device(t, p, 3 * PAGE));
	EXPECT_EQ(2 * PAGE, tern_stats(t).resident_bytes);
	ASSERT_EQ(0, to_system(t, p, 3 * PAGE));
	EXPECT_EQ(0, tern_stats(t).resident_bytes);
	ASSERT_EQ(0, mprotect(p + WORDS(PAGE), PAGE, PROT_READ));
	EXPECT_EQ(-1, tern_check_pattern(p, 3 * PAGE, 0));
}

/* The call ends where nothing is mapped, with all before that done. */
TEST_F(prefetch, nothing_mapped)
{
	enum { PAGES = 40, HOLE = 23 };
	const enum drm_tern_location locations[] = {
		DRM_TERN_LOCATION_DEVICE, DRM_TERN_LOCATION_SYSTEM,
	};
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, PAGES * PAGE, MADV_NOHUGEPAGE);

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, munmap(p + HOLE * WORDS(PAGE), PAGE));
	for (int i = 0; i < 2; i++) {
		struct drm_tern_prefetch args =
			tern_prefetch_args(t, p, PAGES * PAGE, locations[i]);
		const size_t done[] = { HOLE * PAGE, 0 };

		EXPECT_EQ(-EFAULT, tern_ioctl(t->fd, DRM_IOCTL_TERN_PREFETCH, &args));
		EXPECT_EQ((uintptr_t)p + HOLE * PAGE, args.address);
		EXPECT_EQ((PAGES - HOLE) * PAGE, args.size);
		EXPECT_EQ(done[i], tern_stats(t).resident_bytes);
	}
	EXPECT_EQ(-1, tern_check_pattern(p, HOLE * PAGE, 0));
}

/* When the device is full, the rest stays where it is. */
TEST_F(prefetch, more_than_device_memory)
{
	struct tern *t = &self->t;
	size_t bytes = t->info.vram_free / HUGE_PAGE * HUGE_PAGE + 4 * HUGE_PAGE;
	unsigned long *p = tern_map(t, bytes, MADV_HUGEPAGE);
	struct drm_tern_device_query info;

	ASSERT_NE(NULL, p);
	/* The last ones to come hold something; the others need no system memory. */
	tern_write_pattern(p + WORDS(bytes - 8 * HUGE_PAGE), 8 * HUGE_PAGE);
	ASSERT_EQ(0, to_device(t, p, bytes));
	ASSERT_EQ(0, tern_query(t->fd, &info));
	EXPECT_EQ(0, info.vram_free);
	EXPECT_EQ(t->info.vram_free, tern_stats(t).resident_bytes);
	EXPECT_EQ(-1, tern_check_pattern(p + WORDS(bytes - 8 * HUGE_PAGE), 8 * HUGE_PAGE, 0));
}

/* Where the system lacks a page now and then, the others come back: each call gets further. */
TEST_F(prefetch, short_of_memory)
{
	enum { TRIES = 100 };
	struct tern *t = &self->t;
	unsigned long *p = tern_resident(t, HUGE_PAGE, MADV_NOHUGEPAGE);
	struct drm_tern_prefetch args = tern_prefetch_args(t, p, HUGE_PAGE,
							   DRM_TERN_LOCATION_SYSTEM);
	struct drm_tern_stats before = tern_stats(t), after;
	int tries = 0, ret;

	ASSERT_NE(NULL, p);
	if (tern_put(TERN_FAIL_PAGE_ALLOC "interval", "10") || tern_refuse_folios(0))
		SKIP(return, "the kernel has no fail_page_alloc");
	do {
		ret = ioctl(t->fd, DRM_IOCTL_TERN_PREFETCH, &args);
	} while (ret && errno == ENOMEM && ++tries < TRIES);
	/* What this needs may be refused, but not twice in a row. */
	if (tern_put("/proc/self/make-it-fail", "0"))
		ASSERT_EQ(0, tern_put("/proc/self/make-it-fail", "0"));
	ASSERT_EQ(0, tern_put(TERN_FAIL_PAGE_ALLOC "interval", "1"));

	EXPECT_EQ(0, ret);
	EXPECT_LT(0, tries);
	EXPECT_EQ(0, args.size);
	after = tern_stats(t);
	EXPECT_EQ(HUGE_PAGE / PAGE, after.to_system_small - before.to_system_small);
	EXPECT_EQ(before.cpu_faults, after.cpu_faults);
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
}

/* While kernels read the memory, and after fork() has given it to a child. */
TEST_F(prefetch, while_in_use)
{
	const size_t bytes = 3 * HUGE_PAGE + 3 * PAGE;
	struct tern *t = &self->t;
	unsigned long *stop = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	unsigned long *p = tern_filled(t, bytes, MADV_HUGEPAGE);
	struct kernel_args watch = { .p = p, .out = stop, .count = WORDS(bytes) };
	pid_t child;

	ASSERT_NE(NULL, stop);
	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_WATCH, watch, TERN_THREADS, 600000));
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(0, to_device(t, p, bytes));
		ASSERT_EQ(0, to_system(t, p, bytes));
	}
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		for (int i = 0; i < 20; i++) {
			if (tern_check_pattern(p, bytes, 0) != -1)
				_exit(1);
		}
		tern_write_pattern(p, PAGE);
		_exit(to_device(t, p, bytes) == -EPERM ? 0 : 2);
	}
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(0, to_device(t, p, bytes));
		ASSERT_EQ(0, to_system(t, p, bytes));
	}
	EXPECT_TRUE(tern_child_ok(child));
	__atomic_store_n(stop, 1, __ATOMIC_RELEASE);
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
	EXPECT_EQ(-1, tern_check_pattern(p, bytes, 0));
}

static void on_signal(int signal)
{
	(void)signal;
}

struct sender {
	pthread_t target;
	int stop;
};

static void *send_signals(void *arg)
{
	struct sender *sender = arg;

	while (!__atomic_load_n(&sender->stop, __ATOMIC_ACQUIRE))
		pthread_kill(sender->target, SIGUSR1);
	return NULL;
}

/* A signal interrupts it, and the same call goes on where it was. */
TEST_F(prefetch, signals)
{
	enum { COUNT = 40 };
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, COUNT * HUGE_PAGE, MADV_HUGEPAGE);
	struct sigaction action = { .sa_handler = on_signal };
	struct sender sender = { .target = pthread_self() };
	struct drm_tern_prefetch args;
	unsigned int interrupted = 0;
	pthread_t thread;
	__u64 at;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, to_device(t, p, COUNT * HUGE_PAGE));
	ASSERT_EQ(COUNT * HUGE_PAGE, tern_stats(t).resident_bytes);
	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	ASSERT_EQ(0, pthread_create(&thread, NULL, send_signals, &sender));
	args = tern_prefetch_args(t, p, COUNT * HUGE_PAGE, DRM_TERN_LOCATION_SYSTEM);
	do {
		at = args.address;
		if (!ioctl(t->fd, DRM_IOCTL_TERN_PREFETCH, &args))
			break;
		ASSERT_EQ(EINTR, errno);
		/* Each call achieves something. */
		ASSERT_LT(at, args.address);
		ASSERT_EQ((uintptr_t)(p + WORDS(COUNT * HUGE_PAGE)), args.address + args.size);
		interrupted++;
	} while (args.size);
	__atomic_store_n(&sender.stop, 1, __ATOMIC_RELEASE);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, args.size);
	EXPECT_LT(0, interrupted);
	EXPECT_EQ(0, tern_stats(t).resident_bytes);
	EXPECT_EQ(-1, tern_check_pattern(p, COUNT * HUGE_PAGE, 0));
	EXPECT_EQ(0, tern_stats(t).cpu_faults);
}

/* An address space without a queue has its memory moved as well. */
TEST_F(prefetch, without_queue)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_filled(t, HUGE_PAGE, MADV_HUGEPAGE);
	struct tern own = *t;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, tern_vm_create(t->fd, &own.vm));
	ASSERT_EQ(0, to_device(&own, p, HUGE_PAGE));
	EXPECT_EQ(HUGE_PAGE, tern_stats(&own).resident_bytes);
	EXPECT_EQ(0, tern_stats(t).resident_bytes);
	/* Whoever moved it there, the other one finds it there. */
	ASSERT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	ASSERT_EQ(0, tern_vm_destroy(t->fd, own.vm));
	EXPECT_EQ(-ENOENT, to_system(&own, p, HUGE_PAGE));
	ASSERT_EQ(0, to_system(t, p, HUGE_PAGE));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
	EXPECT_EQ(0, tern_stats(t).cpu_faults);
}

TEST_HARNESS_MAIN
