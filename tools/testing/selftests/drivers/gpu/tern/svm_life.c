// SPDX-License-Identifier: GPL-2.0
/*
 * The address space changes, is copied, or ends, while its memory is on the device or the
 * device works on it.
 */
#include <sched.h>
#include <signal.h>

#include "kselftest_harness.h"
#include "tern_test.h"

FIXTURE(life)
{
	struct tern t;
};

FIXTURE_SETUP(life)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(life)
{
	ASSERT_EQ(0, tern_end(&self->t));
}

/* A huge page and single pages. */
static const int advices[] = { MADV_HUGEPAGE, MADV_NOHUGEPAGE };

/* What fork() shares as a huge page comes back in halves, to each process its own. */
TEST_F_TIMEOUT(life, fork_without_huge_pages, 120)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_resident(t, HUGE_PAGE, MADV_HUGEPAGE);
	struct drm_tern_stats before;
	pid_t pids[3];

	ASSERT_NE(NULL, p);
	before = tern_stats(t);
	if (tern_refuse_folios(9))
		SKIP(return, "the kernel has no fail_page_alloc");
	for (int i = 0; i < 3; i++) {
		pids[i] = fork();
		ASSERT_LE(0, pids[i]);
		if (!pids[i]) {
			int bad = tern_check_pattern(p, HUGE_PAGE, 1) != -1;

			memset(p, 0x55 + i, HUGE_PAGE);
			_exit(bad);
		}
	}
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
	for (int i = 0; i < 3; i++)
		EXPECT_TRUE(tern_child_ok(pids[i]));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
	EXPECT_EQ(before.to_system_huge, tern_stats(t).to_system_huge);
	EXPECT_EQ(2, tern_stats(t).to_system_mid - before.to_system_mid);
	EXPECT_EQ(before.to_system_small, tern_stats(t).to_system_small);
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 2));
}

/* The parent goes away from what a child still has. */
TEST_F(life, fork_outlives_the_mapping)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_resident(t, HUGE_PAGE, MADV_HUGEPAGE);
	int ready[2];
	pid_t pid;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		char c;

		close(ready[1]);
		if (read(ready[0], &c, 1) != 1)
			_exit(2);
		_exit(tern_check_pattern(p, HUGE_PAGE, 1) != -1);
	}
	close(ready[0]);
	EXPECT_EQ(0, munmap(p, HUGE_PAGE));
	EXPECT_EQ(1, write(ready[1], "", 1));
	close(ready[1]);
	EXPECT_TRUE(tern_child_ok(pid));
	EXPECT_EQ(0, tern_stats(t).resident_bytes);
}

/* A child with a device of its own works on memory that it has from its parent. */
TEST_F_TIMEOUT(life, child_with_its_own_device, 120)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_resident(t, HUGE_PAGE, MADV_HUGEPAGE);
	pid_t pid;

	ASSERT_NE(NULL, p);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct tern child;

		if (tern_begin(&child))
			_exit(2);
		if (tern_add_one(&child, p, HUGE_PAGE) != DRM_TERN_RESULT_OK)
			_exit(3);
		_exit(tern_check_pattern(p, HUGE_PAGE, 2) != -1);
	}
	EXPECT_TRUE(tern_child_ok(pid));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
}

/* Memory is taken away from under a kernel that reads it. */
TEST_F(life, munmap_while_running)
{
	struct tern *t = &self->t;
	size_t half = 4 * HUGE_PAGE;

	for (int i = 0; i < 2; i++) {
		unsigned long *p = tern_resident(t, 2 * half, advices[i]);
		unsigned long *stop = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
		struct kernel_args args = { .p = p, .out = stop, .count = WORDS(2 * half) };
		uintptr_t gone;

		ASSERT_NE(NULL, p);
		ASSERT_NE(NULL, stop);
		gone = (uintptr_t)p + half;
		ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_WATCH, args, TERN_THREADS, 0));
		ASSERT_EQ(0, munmap((void *)gone, half));
		EXPECT_EQ(DRM_TERN_RESULT_FAULT, tern_finish(t, &t->queue));
		EXPECT_EQ(DRM_TERN_ACCESS_READ, t->queue.result.access);
		EXPECT_LE(gone, t->queue.result.address);
		EXPECT_GT(gone + half, t->queue.result.address);
		EXPECT_EQ(-1, tern_check_pattern(p, half, 1));
	}
}

/* The CPU throws memory away, and touches it, while a kernel reads it all the time. */
TEST_F(life, invalidations_while_running)
{
	struct tern *t = &self->t;
	size_t bytes = 2 * HUGE_PAGE;

	for (int i = 0; i < 2; i++) {
		unsigned long *p = tern_resident(t, bytes, advices[i]);
		unsigned long *stop = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
		struct kernel_args args = { .p = p, .out = stop, .count = WORDS(bytes) };

		ASSERT_NE(NULL, p);
		ASSERT_NE(NULL, stop);
		ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_WATCH, args, TERN_THREADS, 0));
		for (unsigned long round = 0; round < 30; round++) {
			unsigned long word = round * 977 % WORDS(bytes);

			ASSERT_EQ(0, madvise(p + WORDS(PAGE) * round, 3 * PAGE, MADV_DONTNEED));
			p[word] = round;
			ASSERT_EQ(round, p[word]);
			ASSERT_EQ(0, mprotect(p, bytes, PROT_READ));
			ASSERT_EQ(0, mprotect(p, bytes, PROT_READ | PROT_WRITE));
		}
		__atomic_store_n(stop, 1, __ATOMIC_RELEASE);
		EXPECT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
	}
}

/* Two queues work on two halves of the same pages. */
TEST_F(life, two_queues_share_memory)
{
	struct tern *t = &self->t;
	size_t bytes = 2 * HUGE_PAGE;
	unsigned long *p = tern_map(t, bytes, MADV_HUGEPAGE);
	struct kernel_args low = { .p = p, .count = WORDS(bytes) / 2, .value = 1 };
	struct kernel_args high = { .count = WORDS(bytes) / 2, .value = 1 };
	struct tern_queue second;

	ASSERT_NE(NULL, p);
	high.p = p + WORDS(bytes) / 2;
	tern_write_pattern(p, bytes);
	ASSERT_EQ(0, tern_queue_init(t, &second, 0));
	for (int round = 1; round <= 10; round++) {
		ASSERT_EQ(0, tern_start(t, &t->queue, KERNEL_ADD, low, TERN_THREADS, 0));
		ASSERT_EQ(0, tern_start(t, &second, KERNEL_ADD, high, TERN_THREADS, 0));
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &t->queue));
		ASSERT_EQ(DRM_TERN_RESULT_OK, tern_finish(t, &second));
		ASSERT_EQ(-1, tern_check_pattern(p, bytes, round));
	}
	tern_queue_free(t, &second);
}

/* Two address spaces over the same memory, of which one goes away. */
TEST_F(life, two_address_spaces)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_resident(t, HUGE_PAGE, MADV_HUGEPAGE);
	struct tern second;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, tern_begin(&second));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&second, p, HUGE_PAGE));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	EXPECT_EQ(0, tern_close(&second));
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(t, p, HUGE_PAGE));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 4));
}

/* Memory on the device outlives the address space that moved it there. */
TEST_F(life, memory_outlives_the_address_space)
{
	struct tern *t = &self->t;
	unsigned long *p = tern_map(t, HUGE_PAGE, MADV_HUGEPAGE);
	struct tern second;

	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, tern_begin(&second));
	tern_write_pattern(p, HUGE_PAGE);
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_add_one(&second, p, HUGE_PAGE));
	EXPECT_EQ(0, tern_close(&second));
	EXPECT_EQ(-1, tern_check_pattern(p, HUGE_PAGE, 1));
}

/* A queue that is destroyed ends what it runs and what waits in it. */
TEST_F(life, queue_destroyed_in_flight)
{
	struct tern *t = &self->t;
	unsigned long *flag = tern_keep(t, tern_shared(PAGE, NULL), PAGE);
	struct kernel_args args = { .p = flag, .out = flag + 1, .value = 1 };
	struct tern_queue second;

	ASSERT_NE(NULL, flag);
	ASSERT_EQ(0, tern_queue_init(t, &second, 0));
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(0, tern_start(t, &second, KERNEL_WAIT, args, TERN_THREADS, 0));
	ASSERT_EQ(0, tern_queue_destroy(t->fd, second.handle));
	/* Its last fence signals. */
	EXPECT_EQ(0, tern_wait_fence(t, &second));
	EXPECT_EQ(-ENOENT, tern_result(t, &second, 1));
	second.handle = 0;
	tern_queue_free(t, &second);

	/* Nothing of it runs any more. */
	*flag = 1;
	EXPECT_EQ(DRM_TERN_RESULT_OK, tern_run(t, KERNEL_NULL, (struct kernel_args){}));
	EXPECT_EQ(0, flag[1]);
}

/* How a process ends while the device works for it. */
enum end {
	END_EXIT,
	END_CLOSE,
	END_EXEC,
	END_EXEC_OPEN,
	END_SIGNAL,
};

FIXTURE(end)
{
	struct tern t;
	struct tern_orders old;
};

FIXTURE_VARIANT(end)
{
	int advice;
	/* Of the folios that the system makes, if that is not left to it. */
	int order;
};

FIXTURE_VARIANT_ADD(end, huge)
{
	.advice = MADV_HUGEPAGE,
};

FIXTURE_VARIANT_ADD(end, mthp)
{
	.advice = MADV_NORMAL,
	.order = 4,
};

FIXTURE_VARIANT_ADD(end, single)
{
	.advice = MADV_NOHUGEPAGE,
};

FIXTURE_SETUP(end)
{
	int ret = tern_begin(&self->t);

	if (ret == -ENODEV)
		SKIP(return, "no Tern device in /dev/dri");
	ASSERT_EQ(0, ret);
	if (variant->order && tern_choose_order(&self->old, variant->order))
		SKIP(return, "needs root, and a kernel with mTHP");
}

FIXTURE_TEARDOWN(end)
{
	EXPECT_EQ(0, tern_restore_orders(&self->old));
	ASSERT_EQ(0, tern_end(&self->t));
}

#define AFTER_EXEC "after-exec"

/* Goes on as another program, with the file of the device if it is @open. */
static void exec_self(struct tern *t, int open)
{
	char fd[16], vm[16];

	if (open)
		fcntl(t->fd, F_SETFD, 0);
	snprintf(fd, sizeof(fd), "%d", t->fd);
	snprintf(vm, sizeof(vm), "%u", t->vm);
	execl("/proc/self/exe", "svm_life", AFTER_EXEC, fd, vm, NULL);
}

/* In that program: the file, if it is there, does not reach what memory it had. */
static int after_exec(int fd, __u32 vm)
{
	struct drm_tern_queue_create create = { .vm = vm };

	return tern_is_tern(fd) && tern_ioctl(fd, DRM_IOCTL_TERN_QUEUE_CREATE, &create) != -EPERM;
}

/*
 * Whether the threads of the device, which have added to all of @p again and again until they were
 * ended, have left what they counted in @sweeps, and what they had done of the sweep after that.
 */
static int holds_sweeps(const unsigned long *p, size_t bytes, const unsigned long *sweeps)
{
	unsigned long last[TERN_THREADS];

	for (unsigned long thread = 0; thread < TERN_THREADS; thread++)
		last[thread] = 1;
	for (unsigned long i = 0; i < WORDS(bytes); i++) {
		unsigned long thread = i % TERN_THREADS;
		unsigned long over = p[i] - tern_pattern(i) - 1 - sweeps[thread];

		if (over > last[thread])
			return 0;
		last[thread] = over;
	}
	return 1;
}

/* Ends in the midst of the work on @p, as @end says. Returns the exit status, if it returns. */
static int end_by(enum end end, struct tern *t, const unsigned long *p, size_t bytes,
		  const unsigned long *sweeps)
{
	switch (end) {
	case END_EXIT:
		return 0;
	case END_CLOSE:
		close(t->fd);
		/* The memory is the process's as before. */
		return !holds_sweeps(p, bytes, sweeps);
	case END_EXEC:
	case END_EXEC_OPEN:
		exec_self(t, end == END_EXEC_OPEN);
		break;
	case END_SIGNAL:
		raise(SIGKILL);
	}
	return 6;
}

/* In a child: starts work that does not end by itself, and ends in its midst. */
static int child_main(enum end end, const struct _fixture_variant_end *variant)
{
	size_t bytes = 2 * HUGE_PAGE;
	struct kernel_args args = { .count = WORDS(bytes), .value = 1 };
	struct drm_tern_stats stats;
	struct tern t;

	if (tern_begin(&t))
		return 2;
	args.p = tern_resident(&t, bytes, variant->advice);
	args.out = tern_shared(PAGE, NULL);
	if (!args.p || !args.out)
		return 3;
	stats = tern_stats(&t);
	if (stats.resident_bytes != bytes ||
	    stats.to_device_huge != (variant->advice == MADV_HUGEPAGE ? 2 : 0) ||
	    stats.to_device_mid != (variant->order ? bytes / PAGE >> variant->order : 0))
		return 4;
	if (tern_start(&t, &t.queue, KERNEL_WORK, args, TERN_THREADS, 0))
		return 5;
	for (unsigned long thread = 0; thread < TERN_THREADS; thread++) {
		while (!__atomic_load_n(&args.out[1 + thread], __ATOMIC_ACQUIRE))
			sched_yield();
	}
	return end_by(end, &t, args.p, bytes, args.out + 1);
}

static void end_in_flight(struct __test_metadata *_metadata, struct _test_data_end *self,
			  const struct _fixture_variant_end *variant, enum end end)
{
	struct tern *t = &self->t;
	struct drm_tern_device_query before, after;

	ASSERT_EQ(0, tern_query(t->fd, &before));
	for (int round = 0; round < 3; round++) {
		int status;
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid)
			_exit(child_main(end, variant));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		/* Either the signal, or the exit status 0. */
		ASSERT_EQ(end == END_SIGNAL ? SIGKILL : 0, status & ~0x80);
	}
	/* All of the children's memory is free again, and the device works. */
	ASSERT_EQ(0, tern_query(t->fd, &after));
	EXPECT_EQ(before.vram_free, after.vram_free);
	ASSERT_NE(NULL, tern_resident(t, HUGE_PAGE, variant->advice));
}

TEST_F(end, by_exit)
{
	end_in_flight(_metadata, self, variant, END_EXIT);
}

TEST_F(end, by_close)
{
	end_in_flight(_metadata, self, variant, END_CLOSE);
}

TEST_F(end, by_exec)
{
	end_in_flight(_metadata, self, variant, END_EXEC);
}

TEST_F(end, by_exec_with_the_file)
{
	end_in_flight(_metadata, self, variant, END_EXEC_OPEN);
}

TEST_F(end, by_signal)
{
	end_in_flight(_metadata, self, variant, END_SIGNAL);
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], AFTER_EXEC))
		return after_exec(atoi(argv[2]), atoi(argv[3]));
	return test_harness_run(argc, argv);
}
